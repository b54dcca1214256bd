"""Who may ask: token, names of the host, other pages; and how much may be sent."""

from __future__ import annotations

import asyncio
import logging
import re
from typing import Any

import pytest

from diffusion import DiffusionError
from diffusion.serve import answers
from diffusion.serve.security import Settings
from tests.support.serving import (
    ADDRESS,
    JSON,
    Gate,
    app_of,
    asking,
    client_of,
    names,
    saved,
    vectors,
    waiting,
)

TOKEN = "A-token/of=this~test"
BODY = {"vectors": vectors(1).tolist()}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("security"))


@pytest.fixture(scope="module")
def guarded(path):
    with client_of(path, token=TOKEN) as client:
        yield client


@pytest.fixture(scope="module")
def client(path):
    with client_of(path, max_body=10_000) as client:
        yield client


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


# --- the token ------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_with_the_token(guarded, scheme):
    headers = {"authorization": f"{scheme} {TOKEN}"}
    assert guarded.post("/search", json=BODY, headers=headers).status_code == 200
    assert guarded.get("/info", headers=headers).status_code == 200


WRONG = [
    {},
    bearer(""),
    bearer(TOKEN[:-1]),
    bearer(TOKEN + "x"),
    bearer(TOKEN.lower()),
    {"authorization": TOKEN},
    {"authorization": f"Basic {TOKEN}"},
    {"authorization": "Bearer"},
    {"authorization": f"Bearer {TOKEN}, Bearer {TOKEN}"},
    {"x-token": TOKEN},
    {"cookie": f"token={TOKEN}"},
]


DOORS = [
    ("POST", "/search"),
    ("POST", "/rerank"),
    ("POST", "/explain"),
    ("POST", "/items"),
    ("POST", "/photos"),
    ("GET", "/info"),
    ("GET", "/metrics"),
    ("GET", "/picture?id=1"),
    ("GET", "/openapi.json"),
    ("GET", "/nothing"),
    ("GET", "//healthz"),
    ("GET", "/healthz/"),
    ("GET", "/healthz%2f..%2finfo"),
]


@pytest.mark.parametrize(("method", "door"), DOORS)
def test_without_the_token(guarded, method, door):
    for headers in WRONG:
        reply = guarded.request(method, ADDRESS + door, headers=headers)
        assert reply.status_code == 401
        assert reply.headers["www-authenticate"] == "Bearer"
        assert reply.json().keys() == {"detail"}
        assert TOKEN not in reply.text


def test_a_token_that_is_no_text(guarded):
    for token in (b"\xff\xfe", "Ä".encode(), b"\x80" * 3000):
        reply = guarded.get("/info", headers={"authorization": b"Bearer " + token})
        assert reply.status_code == 401


def test_two_tokens(guarded):
    headers = [("authorization", f"Bearer {TOKEN}"), ("authorization", f"Bearer {TOKEN}")]
    assert guarded.get("/info", headers=headers).status_code == 401


def test_a_token_in_the_address_is_none(guarded):
    assert guarded.get("/info", params={"token": TOKEN, "access_token": TOKEN}).status_code == 401


@pytest.mark.parametrize("content", [b"{", b"x" * (20 << 20), b""])
def test_without_the_token_the_body_is_not_looked_at(guarded, content):
    assert guarded.post("/search", content=content, headers=JSON).status_code == 401


def test_health_needs_no_token(guarded):
    assert guarded.get("/healthz").status_code == 200


@pytest.mark.parametrize("token", ["", " ", "a b", "Ä", "a\n", "\0"])
def test_tokens_that_no_header_holds(token):
    with pytest.raises(DiffusionError, match="token: expected"):
        Settings(token=token)


def test_the_token_is_not_shown():
    assert TOKEN not in repr(Settings(token=TOKEN))


@pytest.mark.parametrize("name", ["batch", "waiting", "max_body"])
def test_settings_that_allow_nothing(name):
    with pytest.raises(DiffusionError, match=f"{name}: expected an integer"):
        Settings(**{name: 0})


# --- names and pages ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1:8000", "[::1]:80", "LOCALHOST:1", "[::1]"]
)
def test_names_of_this_machine(client, host):
    assert client.get("/info", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8000",
        "127.0.0.1.evil.example",
        "localhost:1:2",
        "",
        "127.0.0.2",
        "localhost@evil.example",
        "evil.example#localhost",
        "\xe4",
    ],
)
def test_other_names_are_refused(client, host):
    for path in ("/info", "/", "/healthz"):
        reply = client.get(path, headers={"host": host.encode("latin-1")})
        assert reply.status_code == 421
        assert "evil" not in reply.text


def test_names_are_not_checked_where_others_may_ask(path):
    with client_of(path, hosts=None) as client:
        headers = {"host": "any.example", "origin": "https://other.example"}
        assert client.get("/info", headers=headers).status_code == 200
    with client_of(path, hosts=("index.example",)) as client:
        assert client.get("/info", headers={"host": "index.example"}).status_code == 200
        assert client.get("/info").status_code == 421


@pytest.mark.parametrize("origin", ["http://127.0.0.1:8000", "http://localhost", "https://[::1]:9"])
def test_the_own_page_may_ask(client, origin):
    assert client.post("/search", json=BODY, headers={"origin": origin}).status_code == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "", "http://localhost.evil"])
def test_other_pages_may_not(client, origin):
    reply = client.post("/search", json=BODY, headers={"origin": origin})
    assert reply.status_code == 403
    assert "access-control-allow-origin" not in reply.headers


def test_browsers_are_told_what_answers_may_do(client, guarded):
    for reply in (
        client.get("/info"),
        client.get("/nothing"),
        client.post("/search", json={}),
        client.post("/search", content=b"x" * 20_000),
        guarded.get("/info"),
    ):
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["content-security-policy"].startswith("default-src 'none'")
        assert reply.headers["referrer-policy"] == "no-referrer"
        assert reply.headers["cache-control"] == "no-store"
        assert reply.headers["cross-origin-resource-policy"] == "same-origin"


# --- sizes ----------------------------------------------------------------------------------------


def run(path: Any, test: Any, **settings: Any) -> None:
    async def whole() -> None:
        app = app_of(path, **settings)
        async with app.router.lifespan_context(app), asyncio.timeout(60):
            await test(app)

    asyncio.run(whole())


def scope_of(path: str = "/search", **headers: str) -> dict[str, Any]:
    named = {"host": "localhost", "content-type": "application/json", **headers}
    return {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(k.replace("_", "-").encode(), v.encode()) for k, v in named.items()],
    }


class Line:
    """One request, message by message."""

    def __init__(self, app: Any, scope: Any) -> None:
        self.received: asyncio.Queue[Any] = asyncio.Queue()
        self.sent: list[Any] = []
        self.reads = 0
        self.task = asyncio.create_task(app(scope, self.receive, self.send))

    async def receive(self) -> Any:
        self.reads += 1
        return await self.received.get()

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    def part(self, body: bytes, more: bool = True) -> None:
        self.received.put_nowait({"type": "http.request", "body": body, "more_body": more})

    async def status(self) -> int:
        await self.task
        return self.sent[0]["status"]


def test_a_length_that_is_announced_is_refused_before_it_is_read(path):
    async def test(app):
        for length, status in (("100000000", 413), ("10001", 413), ("x", 400), ("9" * 30, 400)):
            line = Line(app, scope_of(content_length=length))
            assert await line.status() == status
            assert line.reads == 0

    run(path, test, max_body=10_000)


def test_a_body_in_parts_is_refused_when_it_is_too_large(path):
    async def test(app):
        line = Line(app, scope_of())
        for _ in range(4):
            line.part(b"x" * 3000)
        assert await line.status() == 413
        assert line.reads == 4

    run(path, test, max_body=10_000)


def test_a_body_that_is_not_sent_in_time(path):
    async def test(app):
        line = Line(app, scope_of())
        line.part(b"{")
        assert await line.status() == 408

    run(path, test, receive_seconds=0.05)


def test_a_client_that_goes_while_it_sends(path):
    async def test(app):
        line = Line(app, scope_of())
        line.part(b"{")
        line.received.put_nowait({"type": "http.disconnect"})
        await line.task
        assert line.sent == []

    run(path, test)


def test_bodies_together_are_bounded(path):
    async def test(app):
        first, second = Line(app, scope_of()), Line(app, scope_of())
        first.part(b" " * 900)
        while first.reads < 2:
            await asyncio.sleep(0)
        second.part(b" " * 900)
        assert await second.status() == 503
        assert (b"retry-after", b"1") in second.sent[0]["headers"]
        first.part(b"{}", more=False)
        assert await first.status() == 422
        third = Line(app, scope_of())
        third.part(b" " * 900 + b"{}", more=False)
        assert await third.status() == 422

    run(path, test, max_received=1000)


def test_uploads_have_a_limit_of_their_own(path):
    class Photos:
        def name(self, id):
            return str(id)

        def picture(self, id):
            return None

        def describe(self, files):
            raise DiffusionError("photo: expected a photo")

    with client_of(path, max_body=1000, max_photo=5000, photos=Photos()) as client:
        files = {"photo": ("a.png", b"x" * 3000)}
        assert client.post("/photos", files=files).status_code == 422
        assert client.post("/photos", files={"photo": ("a.png", b"x" * 5000)}).status_code == 413
        assert client.post("/search", content=b"x" * 3000, headers=JSON).status_code == 413


# --- errors that nobody expected ------------------------------------------------------------------


def test_an_unexpected_error_says_nothing(path, monkeypatch, caplog):
    def broken(asked):
        raise RuntimeError(f"secret of {asked}")

    monkeypatch.setattr(answers, "answer", broken)
    with client_of(path) as client, caplog.at_level(logging.ERROR):
        reply = client.post("/search", json=BODY)
        assert reply.status_code == 500
        assert reply.json() == {"detail": "internal error"}
        assert client.get("/healthz").status_code == 200
    assert "unexpected RuntimeError" in caplog.text
    assert "in broken" in caplog.text
    assert "secret of [" not in caplog.text


def test_a_request_that_ends_with_the_service_is_answered(path):
    """The server cancels what has not ended in time, here one whose body does not come."""

    async def test():
        reading, sent = asyncio.Event(), []

        async def receive():
            reading.set()
            await asyncio.Event().wait()

        async def send(message):
            sent.append(message)

        headers = [(b"host", b"localhost")]
        scope = {"type": "http", "method": "POST", "path": "/search", "headers": headers}
        answering = asyncio.create_task(app_of(path)(scope, receive, send))
        await reading.wait()
        answering.cancel()
        await answering
        return sent

    start, body = asyncio.run(test())
    assert start["status"] == 503
    assert (b"retry-after", b"1") in start["headers"]
    assert b"ends" in body["body"]


def test_queues_end_with_the_service(path, monkeypatch):
    gate = Gate(monkeypatch)

    async def test():
        async with asking(app_of(path)) as client:
            tasks = [asyncio.create_task(client.post("/search", json=BODY)) for _ in range(2)]
            await gate.entered()
            other = {"items": names()[:1]}
            tasks.append(asyncio.create_task(client.post("/search", json=other)))
            await waiting(client, 3)
            gate.open.set()
        return [(await task).status_code for task in tasks]

    assert set(asyncio.run(test())) <= {200, 503}


# --- the page -------------------------------------------------------------------------------------


def test_the_page_needs_no_token_and_loads_nothing_from_elsewhere(path):
    with client_of(path, token=TOKEN, title="<b>&\ud800") as client:
        reply = client.get("/")
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    assert reply.headers["content-security-policy"] == "frame-ancestors 'none'"
    assert "script-src 'sha256-" in reply.text  # the rest of the policy is in the page
    outside = r"(src|href)\s*=(?!\s*\"data:)|//[a-z]+\.[a-z]|@import"
    assert not re.search(outside, reply.text.split("<script")[0])
    assert "<b>" not in reply.text.split("</title>")[0]
    assert TOKEN not in reply.text
