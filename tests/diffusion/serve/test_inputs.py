"""Bodies that are not as described, at every door: a clear 4xx that does not say them back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.serving import ADDRESS, JSON, client_of, names, saved, vectors

DOORS = ("/search", "/rerank", "/explain", "/items")
VALID: dict[str, dict[str, Any]] = {
    "/search": {"vectors": vectors(1).tolist()},
    "/rerank": {"hits": [{"ids": names()[:2], "scores": [0.9, 0.8]}]},
    "/explain": {"vector": vectors(1)[0].tolist(), "id": names()[0]},
    "/items": {"remove": names()[:1]},
}
SECRET = "s3cret-5up3r"


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    path = saved(tmp_path_factory.mktemp("inputs"))
    with client_of(path, read_only=True, max_body=1 << 20) as client:
        yield client


def refused(reply: Any, *statuses: int) -> str:
    """Return the text of an error, which is as errors are described."""
    assert reply.status_code in (statuses or (422,)), f"{reply.status_code}: {reply.text[:300]}"
    assert reply.headers["content-type"] == "application/json"
    detail = reply.json()["detail"]
    assert reply.json().keys() == {"detail"}
    if isinstance(detail, list):
        assert 1 <= len(detail) <= 5
        for one in detail:
            assert one.keys() == {"loc", "msg"}
            assert one["loc"][0] == "body"
            assert one["msg"]
    else:
        assert detail
    assert len(reply.content) < 4000
    assert "Traceback" not in reply.text
    assert SECRET not in reply.text
    return reply.text


@pytest.mark.parametrize("door", DOORS)
def test_what_is_valid_is_not_refused(client, door):
    expected = 403 if door == "/items" else 200
    assert client.post(door, json=VALID[door]).status_code == expected


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    ("body", "statuses"),
    [
        (b"", (422,)),
        (b"{", (422,)),
        (b"{}}", (422,)),
        (b"\xff\xfe", (422,)),
        (b"\x00", (422,)),
        (b"null", (422,)),
        (b"[]", (422,)),
        (b'"s3cret-5up3r"', (422,)),
        (b"NaN", (422,)),
        (b"[" * 100_000, (422,)),
        (b'{"a":' * 50_000, (422,)),
        (b'{"vectors":' + b"[" * 100_000, (422,)),
        (b'{"k":' + b"9" * 5000 + b"}", (422,)),
        (b'{"s3cret-5up3r', (422,)),
        (b'{"\\ud800": 1}', (422,)),
        (b" " * (1 << 20) + b"{}", (413,)),
        (b'{"vectors": [[' + b"1," * (1 << 19) + b"1]]}", (413,)),
    ],
)
def test_bodies_that_are_no_request(client, door, body, statuses):
    refused(client.post(door, content=body, headers=JSON), *statuses)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    "kind",
    [
        None,
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/octet-stream",
        "application/json2",
        "",
    ],
)
def test_bodies_that_are_not_said_to_be_json(client, door, kind):
    headers = {} if kind is None else {"content-type": kind}
    content = json.dumps(VALID[door]).encode()
    refused(client.post(door, content=content, headers=headers), 415)


@pytest.mark.parametrize("door", DOORS)
def test_json_may_be_said_otherwise(client, door):
    content = json.dumps(VALID[door]).encode()
    for kind in ("Application/JSON; charset=utf-8", "application/json ; x"):
        reply = client.post(door, content=content, headers={"content-type": kind})
        assert reply.status_code in (200, 403)


LONG = "x" * 5000
_IDS = ([True], [None], [1.5], [[1]], [{}], [""], [LONG], [1 << 63], [-(1 << 63) - 1], "abc", 1, {})
_VECTORS = ([], [1], [[]], "abc", [["1"] * 8], [[True] * 8], [[None] * 8], [[[1]] * 8], {}, 1,
            [[1e39] * 7], [[1] * 8] * 65, [[1.0] * (1 << 16) + [1.0]])  # fmt: skip
_NUMBERS = ("1", True, 1.5, [1], {}, 0, -1, 1 << 40, 1 << 70)
_HITS = (
    [], {}, [1], [{}], [{"ids": [1]}], [{"ids": ["a"], "scores": [1], "distances": [1]}],
    [{"ids": ["a"], "scores": ["1"]}], [{"ids": ["a"], "scores": [None]}],
    [{"ids": ["a"], "scores": [1, 2]}], [{"ids": ["a", "a"], "scores": [1, 2]}],
    [{"ids": ["a"], "scores": [1e39]}], [{"ids": [7], "scores": [1]}],
    [{"ids": ["a"], "scores": [1], "other": 1}],
    [{"ids": ["a"], "distances": [-1]}], [{"ids": ["a"], "distances": [3]}],
    [{"ids": ["a"], "scores": [1]}, {"ids": ["a"], "distances": [1]}],
    [{"ids": [], "scores": []}] * 65,
    [{"ids": [f"{i}" for i in range(10_001)], "scores": [0.0] * 10_001}],
)  # fmt: skip
FIELDS: dict[str, dict[str, tuple[Any, ...]]] = {
    "/search": {
        "vectors": _VECTORS,
        "items": (*_IDS, [], ["unknown"], [7], names()[:65]),
        "k": (*_NUMBERS, 1001, None),
        "allow": (*_IDS, [7], [1, "a"], ["a"] * 100_001),
        "containing": (1, True, [], LONG),
        "query_k": (*_NUMBERS, 1001),
        "weight": ("1", True, [1], -1, -0.5),
        "cautious": ("true", 1, 0, []),
        "first": ("true", 1, None, []),
        "vector": ([1.0] * 8,),
        "__proto__": ({},),
    },
    "/rerank": {
        "hits": _HITS,
        "squared": ("true", 1, True),
        "k": (*_NUMBERS, 1001),
        "allow": (*_IDS, [7]),
        "restrict_to_candidates": (None, 1, "true"),
        "weight": ("1", -1),
        "first": (True,),
    },
    "/explain": {
        "vector": (*_VECTORS, [1.0] * 3, None),
        "item": (*_IDS, names()[0], "unknown"),
        "hits": (*_HITS, {"ids": ["a"], "scores": [1]}),
        "id": (*_IDS, "unknown", 7, None),
        "k": (*_NUMBERS, 1001),
        "n_chains": (*_NUMBERS, 101),
        "squared": ("true", 1),
        "query_k": _NUMBERS,
    },
    "/items": {
        "ids": tuple(one for one in _IDS if one != [LONG]),
        "vectors": tuple(one for one in _VECTORS if one != [[1] * 8] * 65),
        "remove": (*_IDS, []),
        "version": (1,),
    },
}


@pytest.mark.parametrize(("door", "field"), [(d, f) for d in DOORS for f in FIELDS[d]])
def test_values_that_are_not_as_described(client, door, field):
    for value in FIELDS[door][field]:
        reply = client.post(door, json={**VALID[door], field: value})
        # Of a service that is read-only, some are not looked at.
        refused(reply, 422, *((403,) if door == "/items" else ()), *((413,) if value else ()))


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 5000])
def test_numbers_that_are_none(client, door, number):
    for vector in ("vectors", "vector", "weight", "hits"):
        text = {"vectors": f"[[{number}]]", "vector": f"[{number}]", "weight": number}.get(
            vector, f'[{{"ids": ["a"], "scores": [{number}]}}]'
        )
        refused(client.post(door, content=f'{{"{vector}": {text}}}'.encode(), headers=JSON))


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("id", [r"\ud800", r"a\udfff", r"\ud800\ud800"])
def test_halves_of_characters(client, door, id):
    for field in ("items", "allow", "ids", "remove", "id", "item", "containing"):
        for text in (f'"{id}"', f'["{id}"]'):
            body = f'{{"{field}": {text}}}'.encode()
            refused(client.post(door, content=body, headers=JSON))


@pytest.mark.parametrize(
    "body",
    [
        {"password": SECRET},
        {"vectors": SECRET},
        {"vectors": [[SECRET] * 8]},
        {"vectors": vectors(1).tolist(), "k": SECRET},
        {"vectors": vectors(1).tolist(), "allow": [{"a": SECRET}]},
        {"vectors": vectors(1).tolist(), "allow": SECRET},
        {"vectors": vectors(1).tolist(), "containing": [SECRET]},
        {"items": [[SECRET]]},
    ],
)
def test_what_was_sent_is_not_said_back(client, body, caplog, capfd):
    refused(client.post("/search", json=body))
    refused(client.post("/search", json={**body, "filler": SECRET * 10_000}))
    assert SECRET not in caplog.text + "".join(capfd.readouterr())


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_other_methods(client, method):
    for door in DOORS:
        refused(client.request(method, door), 405)
    refused(client.request("POST", "/info"), 405)


@pytest.mark.parametrize(
    "path", ["/search/", "//search", "/docs", "/redoc", "/..%2f..%2fetc/passwd", "/a%0d%0ab", "/é"]
)
def test_other_paths(client, path):
    reply = client.get(ADDRESS + path, follow_redirects=False)
    refused(reply, 404)
    assert "passwd" not in reply.text


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 65), 1 << 65)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([*names()[:4], "unknown", "", "\0", "1"])
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["ids", "scores", "distances", "a"]), inner, max_size=3)
        | st.just(vectors(2).tolist())
        | st.just(vectors(1)[0].tolist())
        | st.just(names()[:3])
    ),
    max_leaves=8,
)


@pytest.mark.parametrize("door", DOORS)
@given(data=st.data())
def test_no_body_is_an_error_of_the_service(client, door, data):
    fields = st.sampled_from(sorted({*FIELDS[door], "hits", "vectors", "ids"}))
    changes = data.draw(st.dictionaries(fields, VALUES, max_size=4))
    kept = data.draw(st.booleans())
    reply = client.post(door, json={**(VALID[door] if kept else {}), **changes})
    assert reply.status_code < 500, reply.text
    if reply.status_code != 200:
        refused(reply, 403, 422)


@pytest.mark.parametrize("door", [*DOORS, "/info", "/picture", "/"])
@given(body=st.binary(max_size=60), kind=st.sampled_from([*JSON.values(), "text/plain"]))
def test_no_bytes_are_an_error_of_the_service(client, door, body, kind):
    reply = client.post(door, content=body, headers={"content-type": kind})
    refused(reply, 404, 405, 415, 422)
