"""The answers of the service, against the library called directly."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import diffusion
from diffusion import DiffusionError
from diffusion.serve import description
from tests.support.serving import DIMENSION, N, client_of, names, saved, vectors

JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """The second item has a copy, whose id is the last."""
    X = vectors()
    X[N - 1] = X[1]
    return saved(tmp_path_factory.mktemp("app"), X=X)


@pytest.fixture(scope="module", name="X")
def served_vectors():
    X = vectors()
    X[N - 1] = X[1]
    return X


@pytest.fixture(scope="module")
def ranker(path):
    return diffusion.load(path)


@pytest.fixture(scope="module")
def client(path):
    with client_of(path, read_only=True) as client:
        yield client


@pytest.fixture(scope="module")
def document(client):
    return client.get("/openapi.json").json()


# --- does an answer fit its description? ----------------------------------------------------------


def misfits(value: Any, schema: Any, document: Any, place: str = "$") -> list[str]:
    """Return where a value does not fit a JSON schema, of what the description uses of them."""
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        found = [misfits(value, one, document, place) for one in schema["anyOf"]]
        return [] if [] in found else found[0]
    kinds = {
        "object": dict, "array": list, "string": str, "null": type(None), "boolean": bool,
        "integer": int, "number": (int, float),
    }  # fmt: skip
    kind = schema.get("type")
    if kind is not None and (
        not isinstance(value, kinds[kind]) or (isinstance(value, bool) and kind != "boolean")
    ):
        return [f"{place}: {value!r:.40} is no {kind}"]
    out: list[str] = []
    if kind == "array":
        for number, part in enumerate(value):
            out += misfits(part, schema.get("items", {}), document, f"{place}[{number}]")
    if kind == "object":
        known, others = schema.get("properties", {}), schema.get("additionalProperties", True)
        out += [f"{place}: no {name}" for name in schema.get("required", []) if name not in value]
        for name, part in value.items():
            if name in known:
                out += misfits(part, known[name], document, f"{place}.{name}")
            elif isinstance(others, dict):
                out += misfits(part, others, document, f"{place}.{name}")
            elif not others or (known and "additionalProperties" not in schema):
                out.append(f"{place}: {name} is not described")
    return out


def described(document: Any, method: str, path: str, reply: Any) -> list[str]:
    responses = document["paths"][path][method]["responses"]
    assert str(reply.status_code) in responses, f"{path}: {reply.status_code}"
    schema = responses[str(reply.status_code)]["content"]["application/json"]["schema"]
    return misfits(reply.json(), schema, document)


def posted(client, document, path: str, body: Any) -> Any:
    """Post a request; return the answer, which fits its description, and so does the request."""
    schema = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert not misfits(body, schema, document)
    reply = client.post(path, json=body)
    assert not described(document, "post", path, reply)
    return reply


def found(client, document, path: str, body: Any) -> Any:
    reply = posted(client, document, path, body)
    assert reply.status_code == 200, reply.text
    return reply.json()


def assert_results(results: Any, scores: np.ndarray, ids: np.ndarray) -> None:
    kept = scores > -np.inf
    assert [one["id"] for one in results] == ids[kept].tolist()
    assert [one["score"] for one in results] == pytest.approx(scores[kept].tolist(), abs=1e-5)


def test_misfits_are_found():
    document = {"components": {"schemas": {"A": {
        "type": "object", "required": ["x"], "properties": {"x": {"anyOf": [
            {"type": "integer"}, {"type": "null"}]}}}}}}  # fmt: skip
    a = {"type": "array", "items": {"$ref": "#/components/schemas/A"}}
    assert misfits([{"x": 1}, {"x": None}], a, document) == []
    for wrong in ({}, [{}], [{"x": "1"}], [{"x": True}], [{"x": 1, "y": 1}]):
        assert misfits(wrong, a, document)


# --- search ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "parameters"),
    [
        ({}, {}),
        ({"k": 1}, {}),
        ({"k": 1000}, {}),
        ({"query_k": 3}, {"query_k": 3}),
        ({"weight": 0.0}, {"score": diffusion.Fusion(weight=0.0)}),
        ({"cautious": True}, {"cautious": True}),
        ({"allow": names()[::4]}, {}),
        ({"allow": [*names()[3:5], "unknown"]}, {}),
        ({"allow": []}, {}),
        ({"allow": names()[:9], "query_k": 2, "weight": 2.0, "cautious": True, "k": 20},
         {"query_k": 2, "score": diffusion.Fusion(weight=2.0), "cautious": True}),
    ],
)  # fmt: skip
def test_search_answers_as_the_reranker(client, document, path, body, parameters):
    ranker = diffusion.load(path).with_parameters(None, **parameters)
    Q = vectors(3, seed=5)
    answer = found(client, document, "/search", {"vectors": Q.tolist(), **body})
    expected = ranker.search(Q, body.get("k", 10), allow=body.get("allow"))
    assert answer["version"] == 1
    assert len(answer["queries"]) == 3
    report = ranker.report_
    for query, *lists, confidence, relevant in zip(
        answer["queries"], *expected, report.confidence, report.relevant, strict=True
    ):
        assert_results(query["results"], *lists)
        assert query["confidence"] == pytest.approx(confidence, abs=1e-5)
        assert query["relevant"] == relevant
        assert "first" not in query
        assert all(one.keys() == {"id", "score"} for one in query["results"])


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("/ärgER", lambda id: True),
        ("item 1", lambda id: id.startswith("Item 1")),
        ("m 8", lambda id: id.startswith("Item 8")),
        ("no such", lambda id: False),
        ("", lambda id: True),
        ("Ärger" + "Item", lambda id: False),  # in the names one after the other, but in none
    ],
)
def test_search_of_names_that_contain_a_text(client, document, ranker, text, fits):
    q = vectors(1, seed=6)
    mask = np.array([fits(id) for id in names()])
    body = {"vectors": q.tolist(), "containing": text, "k": 8}
    answer = found(client, document, "/search", body)
    assert_results(
        answer["queries"][0]["results"], *(p[0] for p in ranker.search(q, 8, allow=mask))
    )
    few = names()[:40]
    answer = found(client, document, "/search", {**body, "allow": few})
    mask[40:] = False
    assert_results(
        answer["queries"][0]["results"], *(p[0] for p in ranker.search(q, 8, allow=mask))
    )


def ranked(X: np.ndarray, q: np.ndarray, kept: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Return the ids of some items by descending cosine, and the cosines."""
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    cosines = unit @ (q / np.linalg.norm(q))
    order = np.argsort(-cosines, kind="stable")
    order = order[kept[order]]
    return [names()[i] for i in order], cosines[order]


@pytest.mark.parametrize("share", [1, 2, 30])
def test_the_first_stage_is_the_order_of_the_cosines(client, document, X, share):
    Q, kept = vectors(3, seed=7), np.arange(N) % share == 0
    allow = None if share == 1 else [names()[i] for i in np.flatnonzero(kept)]
    body = {"vectors": Q.tolist(), "k": 12, "first": True, "allow": allow}
    for q, query in zip(Q, found(client, document, "/search", body)["queries"], strict=True):
        ids, cosines = ranked(X, q, kept)
        assert [one["id"] for one in query["first"]] == ids[:12]
        assert [one["score"] for one in query["first"]] == pytest.approx(cosines[:12], abs=1e-5)
        for result in query["results"]:
            assert result["first_rank"] == ids.index(result["id"]) + 1


def test_the_first_stage_where_a_filter_allows_items_far_down(tmp_path):
    # The lists of the first stage have 500 items; those of one query that a filter allows are all
    # behind them.
    X = vectors(700)
    Q = np.stack([X[5], -X[5]])
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    order = np.argsort(-(unit @ X[5]), kind="stable")
    allow = order[-12:].tolist()
    body = {"vectors": Q.tolist(), "k": 9, "first": True, "allow": allow}
    with client_of(saved(tmp_path, ids=list(range(700)), X=X)) as client:
        far, near = client.post("/search", json=body).json()["queries"]
    assert [one["id"] for one in far["first"]] == allow[:9]
    assert [one["id"] for one in near["first"]] == allow[:2:-1]
    for query, ranks in ((far, allow[:9]), (near, allow[::-1])):
        for result in query["results"]:
            place = ranks.index(result["id"]) + 1 if result["id"] in ranks else None
            assert result["first_rank"] == place


@pytest.mark.parametrize("row", [1, 20, N - 1])
def test_items_are_queries_and_left_out_of_their_own_results(client, document, ranker, X, row):
    own = names()[row]
    body = {"items": [own], "k": 7, "first": True}
    query = found(client, document, "/search", body)["queries"][0]
    scores, ids = ranker.search(X[row], 8)
    assert own in ids
    assert_results(query["results"], scores[ids != own], ids[ids != own])
    if row in (1, N - 1):  # only the item itself
        assert query["results"][0]["id"] == names()[N - row]
    order, _ = ranked(X, X[row], np.arange(N) != row)
    assert [one["id"] for one in query["first"]] == order[:7]
    for result in query["results"]:
        assert result["first_rank"] == order.index(result["id"]) + 1
    judged = int(ranker.report_.relevant[0])
    assert query["relevant"] == judged - (own in ids[: min(judged, 8)])


def test_items_that_a_filter_leaves_out_cost_no_result(client, document, ranker, X):
    allow = [names()[i] for i in range(10, 16)]
    body = {"items": [names()[2], names()[12]], "k": 5, "allow": allow, "first": True}
    one, other = found(client, document, "/search", body)["queries"]
    expected = ranker.search(X[[2, 12]], 6, allow=allow)
    assert_results(one["results"], expected[0][0, :5], expected[1][0, :5])
    assert {result["id"] for result in other["results"]} == set(allow) - {names()[12]}
    assert {result["id"] for result in other["first"]} == set(allow) - {names()[12]}


# --- hits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [None, 1, 15])
@pytest.mark.parametrize("restrict", [False, True])
@pytest.mark.parametrize("allow", [None, [*names()[::2], "unknown"]])
def test_rerank_answers_as_the_reranker(client, document, ranker, X, k, restrict, allow):
    ids, cosines = ranked(X, vectors(1, seed=8)[0], np.ones(N, bool))
    ids, cosines = [*ids[:6], "unknown", *ids[6:9]], np.r_[cosines[:6], cosines[5], cosines[6:9]]
    expected = ranker.rerank(cosines, ids, k, restrict_to_candidates=restrict, allow=allow)
    for hits in (
        {"ids": ids, "scores": cosines.tolist()},
        {"ids": ids, "distances": (1 - cosines).tolist()},
    ):
        body = {"hits": [hits], "k": k, "restrict_to_candidates": restrict, "allow": allow}
        query = found(client, document, "/rerank", body)["queries"][0]
        assert_results(query["results"], *expected)
        assert [one["new"] for one in query["results"]] == [
            one["id"] not in ids for one in query["results"]
        ]


def test_rerank_of_several_lists(client, document, ranker):
    lists = [
        {"ids": [], "scores": []},
        {"ids": names()[3:5], "scores": [0.5, 0.9]},
        {"ids": names()[7:8], "scores": [1]},
    ]
    queries = found(client, document, "/rerank", {"hits": lists, "k": 4})["queries"]
    for hits, query in zip(lists, queries, strict=True):
        assert_results(query["results"], *ranker.rerank(hits["scores"], hits["ids"], 4))


def test_rerank_of_euclidean_distances(tmp_path):
    X = vectors()
    path = saved(tmp_path, ids=list(range(1 << 60, (1 << 60) + N)), metric="euclidean")
    squares = ((X - vectors(1, seed=9)) ** 2).sum(axis=1)
    order = np.argsort(squares)[:9]
    ids = (order + (1 << 60)).tolist()
    expected = diffusion.load(path).rerank(-squares[order], ids, 9)
    with client_of(path) as client:
        for squared, distances in ((True, squares[order]), (False, np.sqrt(squares[order]))):
            hits = [{"ids": ids, "distances": distances.tolist()}]
            reply = client.post("/rerank", json={"hits": hits, "squared": squared})
            assert_results(reply.json()["queries"][0]["results"], *expected)
        explained = [
            client.post("/explain", json={"id": ids[3], "hits": hits, **more}).json()
            for hits, more in (
                ({"ids": ids, "distances": squares[order].tolist()}, {"squared": True}),
                ({"ids": ids, "scores": (-squares[order]).tolist()}, {}),
            )
        ]
        assert explained[0] == explained[1]
        # The vectors of items are those that were given, not those that are stored.
        alike, found = (
            client.post("/search", json=body).json()["queries"][0]["results"]
            for body in (
                {"items": [ids[0]], "k": 3},
                {"vectors": [X[order[0]].tolist()], "k": 4},
            )
        )
        assert [one["id"] for one in alike] == [one["id"] for one in found if one["id"] != ids[0]]


# --- explanations ---------------------------------------------------------------------------------


def plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


@pytest.mark.parametrize("parameters", [{}, {"query_k": 4}, {"cautious": True}])
def test_explain_answers_as_the_reranker(client, document, path, X, parameters):
    ranker = diffusion.load(path).set_params(**parameters)
    q = vectors(1, seed=3)[0]
    ids, cosines = ranked(X, q, np.ones(N, bool))
    hits = {"ids": ids[:9], "scores": cosines[:9].tolist()}
    last = ids[40]
    for given, expected in (
        ({"vector": q.tolist()}, ranker.explain(q.astype(float), last, k=50, n_chains=2)),
        ({"hits": hits}, ranker.explain(None, last, hits=(cosines[:9], ids[:9]), k=50, n_chains=2)),
    ):
        body = {**given, "id": last, "k": 50, "n_chains": 2, **parameters}
        answer = found(client, document, "/explain", body)
        assert answer["explanation"].keys() == plain(expected.as_dict()).keys()
        for name in ("id", "rank", "first_rank", "copies", "n_items", "depth", "reached"):
            assert answer["explanation"][name] == getattr(expected, name)
        assert answer["explanation"]["score"] == pytest.approx(expected.score, abs=1e-5)
        chains = [chain["ids"] for chain in answer["explanation"]["chains"]]
        assert chains == [list(chain.ids) for chain in expected.chains]
        assert answer["text"].startswith(f"Item {last}, of {N}")


@pytest.mark.parametrize("row", [1, 3, N - 1])
@pytest.mark.parametrize("cautious", [False, True])
def test_an_item_as_the_query_has_the_ranks_of_a_search(client, document, ranker, X, row, cautious):
    own = names()[row]
    body = {"items": [own], "k": N, "first": True, "cautious": cautious}
    query = found(client, document, "/search", body)["queries"][0]
    ids = [one["id"] for one in query["results"]]
    for rank in (1, 2, 9, 60, len(ids)):
        result = query["results"][rank - 1]
        asked = {"item": own, "id": result["id"], "k": 20, "cautious": cautious}
        answer = found(client, document, "/explain", asked)
        assert answer["explanation"]["rank"] == rank
        assert answer["explanation"]["first_rank"] == result["first_rank"]
        assert answer["explanation"]["score"] == pytest.approx(result["score"], abs=1e-5)
        assert f"After diffusion: rank {rank} with" in answer["text"]
    # Of itself, the explanation is that of the library.
    itself = found(client, document, "/explain", {"item": own, "id": own, "k": 20})["explanation"]
    assert itself["rank"] == ranker.explain(X[row], own, k=20).rank


# --- the collection -------------------------------------------------------------------------------


def test_items_are_added_and_removed(tmp_path):
    path = saved(tmp_path)
    new = vectors(3, seed=11)
    expected = diffusion.load(path).remove([names()[4]]).add(new, ids=["a", "b", "<c>"])
    with client_of(path) as client:
        document = client.get("/openapi.json").json()
        body = {"ids": ["a", "b", "<c>"], "vectors": new.tolist(), "remove": [names()[4]]}
        assert found(client, document, "/items", body) == {"version": 2, "items": N + 2}
        answer = found(client, document, "/search", {"vectors": new.tolist()})
        assert answer["version"] == 2
        for query, *lists in zip(answer["queries"], *expected.search(new, 10), strict=True):
            assert_results(query["results"], *lists)
        removed = found(client, document, "/items", {"remove": ["a"]})
        assert removed == {"version": 3, "items": N + 1}
        assert client.get("/info").json()["items"] == N + 1
        assert posted(client, document, "/search", {"items": ["a"]}).status_code == 422
    # It was saved.
    assert set(diffusion.load(path).ids_) == {*names(), "b", "<c>"} - {names()[4]}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"remove": ["unknown"]}, "expected ids of the collection"),
        ({"remove": [names()[0], names()[0]]}, "expected each id once"),
        ({"vectors": [[1.0] * DIMENSION]}, "expected 1 ids of str"),
        ({"vectors": [[1.0] * DIMENSION], "ids": [names()[0]]}, "expected each id once"),
        ({"vectors": [[1.0] * DIMENSION], "ids": [7]}, "expected str ids"),
        ({"vectors": [[1.0] * 3], "ids": ["a"]}, "dimension 8"),
        ({"vectors": [[1.0] * 8, [1.0]], "ids": ["a", "b"]}, "of one dimension, got 1 and 8"),
        ({"ids": ["a"]}, "expected vectors"),
        ({}, "expected vectors"),
    ],
)  # fmt: skip
def test_a_change_that_is_refused_changes_nothing(tmp_path_factory, path, body, message):
    copy = saved(tmp_path_factory.mktemp("refused"))
    with client_of(copy) as client:
        document = client.get("/openapi.json").json()
        reply = posted(client, document, "/items", body)
        assert reply.status_code == 422
        assert message in reply.json()["detail"]
        assert client.get("/info").json()["version"] == 1


def test_a_service_that_may_not_change_says_so(client, document):
    reply = posted(client, document, "/items", {"remove": [names()[0]]})
    assert reply.status_code == 403
    assert "read-only" in reply.json()["detail"]


def test_an_index_without_vectors(tmp_path, ranker):
    scores, ids = ranker.search(vectors(), 9)
    lists = diffusion.Reranker(k=8).fit_neighbors(scores, ids, item_ids=names())
    lists.save(tmp_path / "lists")
    with client_of(tmp_path / "lists") as client:
        document = client.get("/openapi.json").json()
        reply = posted(client, document, "/items", {"remove": [names()[0]]})
        assert reply.status_code == 409
        for body in ({"vectors": [[1.0] * 8]}, {"items": [names()[0]]}):
            reply = posted(client, document, "/search", body)
            assert reply.status_code == 422
            assert "no vectors" in reply.json()["detail"]
        hits = {"ids": names()[:3], "scores": [0.9, 0.8, 0.7]}
        results = found(client, document, "/rerank", {"hits": [hits]})["queries"][0]["results"]
        assert_results(results, *lists.rerank(hits["scores"], hits["ids"], 3))


def test_what_another_process_saves_is_taken_up(tmp_path):
    path = saved(tmp_path)
    with client_of(path, refresh_seconds=0.001) as client:
        diffusion.load(path).remove([names()[0]]).save(path)
        while client.get("/healthz").json()["version"] == 1:
            pass
        assert client.get("/info").json()["items"] == N - 1


def test_info_and_health(client, document, ranker):
    info = client.get("/info")
    assert not described(document, "get", "/info", info)
    assert info.json()["items"] == N
    assert info.json()["dimension"] == DIMENSION
    assert info.json()["read_only"] is True
    assert info.json()["upload"] is False
    assert info.json()["limits"]["queries"] == 64
    health = client.get("/healthz")
    assert not described(document, "get", "/healthz", health)
    assert health.json() == {"status": "ok", "version": 1}


def test_ids_that_are_hostile_come_back_as_they_are(tmp_path):
    ids = ["<script>alert(1)</script>", "\ud800", "a\nb\0c", "../../etc/passwd", "１\u202e", "-1"]
    ids += [str(i) for i in range(100, 124)]
    path = saved(tmp_path, ids=ids, X=vectors(30))
    with client_of(path) as client:
        answer = client.post("/search", json={"vectors": vectors(1).tolist(), "k": 30})
        assert answer.headers["content-type"] == "application/json"
        results = answer.json()["queries"][0]["results"]
        assert sorted(one["id"] for one in results) == sorted(ids)
        for id in set(ids) - {"\ud800"}:
            reply = client.post("/explain", json={"vector": vectors(1)[0].tolist(), "id": id})
            assert reply.json()["explanation"]["id"] == id
        contained = {"vectors": vectors(1).tolist(), "containing": "<SCRIPT", "k": 30}
        results = client.post("/search", json=contained).json()["queries"][0]["results"]
        assert [one["id"] for one in results] == ids[:1]


# --- the description ------------------------------------------------------------------------------


def test_every_route_is_described(document):
    assert document["openapi"].startswith("3.")
    routes = set(description._ROUTES) - {"/photos", "/picture"}
    assert set(document["paths"]) == routes
    text = json.dumps(document)
    for place in text.split('"$ref": "#/components/schemas/')[1:]:
        assert place.partition('"')[0] in document["components"]["schemas"]
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert operation["summary"]
            assert operation["description"]
            assert ("401" in operation["responses"]) == (path not in ("/", "/healthz"))


# --- photos ---------------------------------------------------------------------------------------


class Drawings:
    """Photos whose content is their vector in JSON."""

    def describe(self, files):
        try:
            return np.array([json.loads(file) for file in files], np.float32)
        except ValueError:
            raise DiffusionError("photo: expected a photo that can be read") from None

    def picture(self, id):
        return f"picture of {id}".encode() if id in names()[:3] else None

    def name(self, id):
        return f"photos/{id}.JPG"


@pytest.fixture(scope="module")
def album(path):
    with client_of(path, photos=Drawings()) as client:
        yield client


def uploaded(client, content: bytes, **more: Any) -> Any:
    return client.post("/photos", files={"photo": ("../../etc/<b>.png", content)}, **more)


def test_an_uploaded_photo_is_searched_for(album, ranker):
    document = album.get("/openapi.json").json()
    q = vectors(1, seed=2)[0]
    options = {"k": 5, "first": True, "allow": names()[::2], "query_k": 4}
    reply = uploaded(album, json.dumps(q.tolist()).encode(), data={"options": json.dumps(options)})
    assert reply.status_code == 200, reply.text
    assert not described(document, "post", "/photos", reply)
    answer = reply.json()
    assert answer.pop("vectors") == [q.tolist()]
    assert answer == album.post("/search", json={"vectors": [q.tolist()], **options}).json()
    shown = {one["id"] for part in ("results", "first") for one in answer["queries"][0][part]}
    assert answer["names"] == {id: f"photos/{id}.JPG" for id in shown}
    assert uploaded(album, json.dumps(q.tolist()).encode()).status_code == 200


def test_names_of_photos_are_searched_and_explained(album, ranker):
    q = vectors(1, seed=2)
    body = {"vectors": q.tolist(), "containing": "photos/item 1/", "k": 5}
    results = album.post("/search", json=body).json()["queries"][0]["results"]
    assert [one["id"] for one in results] == [names()[1]]
    answer = album.post("/explain", json={"vector": q[0].tolist(), "id": names()[1]}).json()
    chained = {id for chain in answer["explanation"]["chains"] for id in chain["ids"]}
    assert chained | {names()[1]} <= answer["names"].keys()


def test_pictures(album):
    reply = album.get("/picture", params={"id": names()[1]})
    assert reply.content == f"picture of {names()[1]}".encode()
    assert reply.headers["content-type"] == "image/jpeg"
    assert reply.headers["x-content-type-options"] == "nosniff"
    for params in ({"id": names()[5]}, {"id": "../../etc/passwd"}, {}, {"id": ["a", names()[1]]}):
        assert album.get("/picture", params=params).status_code == 404


@pytest.mark.parametrize(
    ("form", "status"),
    [
        ({"files": {"photo": ("a", b"no photo")}}, 422),
        ({"files": {"photo": ("a", b"[1, 2]")}}, 422),
        ({"files": {"photo": ("a", b"[NaN,1,1,1,1,1,1,1]")}}, 422),
        ({"files": {"other": ("a", b"[1]")}}, 422),
        ({"files": [("photo", ("a", b"[1]")), ("photo", ("b", b"[1]"))]}, 400),
        ({"data": {"photo": "[1]"}}, 422),
        ({"data": {"options": "{}"}}, 422),
        ({"files": {"photo": ("a", b"[1]")}, "data": {"options": '{"k": "1"}'}}, 422),
        ({"files": {"photo": ("a", b"[1]")}, "data": {"options": "{"}}, 422),
        ({"files": {"photo": ("a", b"[1]")}, "data": {"options": '{"vectors": [[1]]}'}}, 422),
        ({"files": {"photo": ("a", b"[1]")}, "data": {"else": "1"}}, 422),
        ({"json": {}}, 422),
        ({}, 422),
        ({"content": b"--x\r\nbad", "headers": {"content-type": "multipart/form-data"}}, 400),
        ({"content": b"--x\r\nbad",
          "headers": {"content-type": "multipart/form-data; boundary=x"}}, 422),
        ({"content": b"xyz", "headers": {"content-type": "multipart/form-data; boundary=x"}}, 400),
        ({"content": b"--x\r\nContent-Disposition: form-data\r\n\r\n1\r\n--x--\r\n",
          "headers": {"content-type": "multipart/form-data; boundary=x"}}, 400),
        ({"files": {"photo": ("a", b"[1]" * 4000)}}, 413),
    ],
)  # fmt: skip
def test_forms_that_are_not_as_described(path, album, form, status):
    with client_of(path, photos=Drawings(), max_photo=10_000) as client:
        reply = client.post("/photos", **form)
    assert reply.status_code == status, reply.text
    assert reply.json().keys() == {"detail"}


def test_without_photos_there_are_no_routes_for_them(client):
    assert uploaded(client, b"[1]").status_code == 404
    assert client.get("/picture", params={"id": names()[1]}).status_code == 404
