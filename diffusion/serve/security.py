"""What stands before the service: who may ask, from where, and how much a request may hold."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import re
import traceback
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import DiffusionError
from ..validation import check_integer

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

# The names of this machine for itself.
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")

# What every answer says to browsers, unless it says something else itself.
_HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
    b"cache-control": b"no-store",
}

# What is said where as much as may wait is waiting.
BUSY = "too many requests wait"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """How an index is served.

    Attributes
    ----------
    token : str or None, default None
        If it is given, requests need the header `Authorization: Bearer TOKEN`, except those of the
        page and of `/healthz`. Visible ASCII characters.
    hosts : tuple of str or None, default ("localhost", "127.0.0.1", "[::1]")
        The names, without a port, by which clients may address the service: its `Host` header, and
        the `Origin` header of browsers. None allows every name. Without this check, any page in a
        browser could read what a service on the loopback address answers: its author lets the name
        of the page point to 127.0.0.1 (DNS rebinding).
    batch : int >= 1, default 64
        Most queries that are solved at once.
    waiting : int >= 1, default 512
        Most queries that may wait or be solved at a time. What comes then gets 503 at once.
    max_body : int >= 1, default 8 MiB
        Largest body of a request, in bytes.
    max_photo : int >= 1, default 32 MiB
        Largest body of an upload.
    max_received : int >= 1, default 256 MiB
        Largest size of all bodies that are held at a time. What exceeds it gets 503.
    receive_seconds : float > 0, default 120
        Time that a client has to send the body of a request.
    refresh_seconds : float > 0, default 1
        Time between two looks at the directory of the index, for what another process has saved.
    title : str, default "diffusion"
        What the page is called.

    Raises
    ------
    DiffusionError
        If the token is empty or holds other characters, or a number is not as described.
    """

    token: str | None = field(default=None, repr=False)
    hosts: tuple[str, ...] | None = LOOPBACK
    batch: int = 64
    waiting: int = 512
    max_body: int = 8 << 20
    max_photo: int = 32 << 20
    max_received: int = 256 << 20
    receive_seconds: float = 120.0
    refresh_seconds: float = 1.0
    title: str = "diffusion"

    def __post_init__(self) -> None:
        for name in ("batch", "waiting", "max_body", "max_photo", "max_received"):
            check_integer(getattr(self, name), name, low=1)
        if self.token is not None and not re.fullmatch(r"[!-~]+", self.token):
            raise DiffusionError(
                "token: expected at least one character, all of them visible ASCII characters"
            )


class RefusedError(Exception):
    """A request that is answered at the door.

    Parameters
    ----------
    status : int
    detail : str
    headers : dict, optional
    """

    def __init__(self, status: int, detail: str, headers: Mapping[bytes, bytes] = {}) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, headers


class Door:
    """Middleware that refuses requests before their bodies are read, and bounds the bodies.

    It also adds the headers that browsers need, and answers errors that nobody expected with 500
    and no further word; the log then has the stack, without the message of the error, which may
    contain what a client has sent.

    Parameters
    ----------
    app : ASGI application
    settings : Settings
    public : collection of str
        Paths that need no token.
    uploads : collection of str
        Paths to which `max_photo` applies.
    full : callable
        Takes a path and returns whether a request to it would be refused for the load. It is asked
        before anything of the body is looked at, so that a refusal costs little.
    """

    def __init__(
        self,
        app: Application,
        settings: Settings,
        public: frozenset[str],
        uploads: frozenset[str],
        full: Callable[[str], bool],
    ) -> None:
        self._app, self._settings, self._full = app, settings, full
        self._public, self._uploads = public, uploads
        self._held = 0  # bytes of bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        outgoing = _Outgoing(send)
        taken = _Taken()
        try:
            headers = list(scope["headers"])
            self._check_host(headers)
            if scope["path"] not in self._public:
                self._check_token(headers)
            most = self._settings.max_photo if scope["path"] in self._uploads else None
            body = await self._body(headers, receive, most or self._settings.max_body, taken)
            if body is None:
                return
            if self._full(scope["path"]):
                # The body has been read, so the connection can be kept.
                raise RefusedError(503, BUSY, {b"retry-after": b"1", b"connection": b"keep-alive"})
            await self._app(scope, _given(body, receive), outgoing)
        except RefusedError as refusal:
            await outgoing.refuse(refusal)
        except asyncio.CancelledError:
            # The service ends, and has waited for this as long as it may.
            await outgoing.refuse(RefusedError(503, "the service ends", {b"retry-after": b"1"}))
        except Exception as error:
            stack = "".join(traceback.format_tb(error.__traceback__))
            _logger.error("unexpected %s:\n%s", type(error).__name__, stack)
            await outgoing.refuse(RefusedError(500, "internal error"))
        finally:
            self._held -= taken.size

    def _check_host(self, headers: list[tuple[bytes, bytes]]) -> None:
        allowed = self._settings.hosts
        if allowed is None:
            return
        hosts = _values(headers, b"host")
        if len(hosts) != 1 or _without_port(hosts[0]) not in allowed:
            raise RefusedError(421, f"Host: expected one of {', '.join(allowed)}")
        for origin in _values(headers, b"origin"):
            if _without_port(origin.partition(b"://")[2]) not in allowed:
                raise RefusedError(403, "Origin: expected that of the page of this service")

    def _check_token(self, headers: list[tuple[bytes, bytes]]) -> None:
        token = self._settings.token
        if token is None:
            return
        given = _values(headers, b"authorization")
        scheme, _, value = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
        right = hmac.compare_digest(value.strip(), token.encode())
        if scheme.lower() != b"bearer" or not right:
            raise RefusedError(
                401, "expected the header Authorization: Bearer, with the token of this service",
                {b"www-authenticate": b"Bearer"},
            )  # fmt: skip

    async def _body(
        self, headers: list[tuple[bytes, bytes]], receive: Receive, most: int, taken: _Taken
    ) -> bytes | None:
        """Return the body of a request, None if the client has gone."""
        too_large = RefusedError(413, f"body: expected at most {most} bytes")
        for length in _values(headers, b"content-length"):
            if not re.fullmatch(rb"[0-9]{1,20}", length):
                raise RefusedError(400, "Content-Length: expected a number")
            if int(length) > most:
                raise too_large
        parts: list[bytes] = []
        try:
            async with asyncio.timeout(self._settings.receive_seconds):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    part = message.get("body", b"")
                    parts.append(part)
                    taken.size += len(part)
                    self._held += len(part)
                    if taken.size > most:
                        raise too_large
                    if self._held > self._settings.max_received:
                        raise RefusedError(503, "too many large requests", {b"retry-after": b"1"})
                    more = message.get("more_body", False)
        except TimeoutError:
            raise RefusedError(408, "body: the client took too long to send it") from None
        return b"".join(parts)


class _Taken:
    """The size of what has been read of one body."""

    size = 0


class _Outgoing:
    """The `send` of an answer, with the headers of all answers."""

    def __init__(self, send: Send) -> None:
        self._send, self._begun = send, False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._begun = True
            own = list(message.get("headers", []))
            names = {name.lower() for name, _ in own}
            more = [(name, value) for name, value in _HEADERS.items() if name not in names]
            message = {**message, "headers": own + more}
        await self._send(message)

    async def refuse(self, refusal: RefusedError) -> None:
        """Answer with an error, unless an answer has begun."""
        if self._begun:
            return
        body = json.dumps({"detail": refusal.detail}).encode()
        headers = {
            b"content-type": b"application/json",
            b"content-length": str(len(body)).encode(),
            b"connection": b"close",  # the body of the request may not have been read
            **refusal.headers,
        }
        start = {"type": "http.response.start", "status": refusal.status}
        await self({**start, "headers": list(headers.items())})
        await self({"type": "http.response.body", "body": body})


def _given(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` of a body that has been read."""
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def again() -> Message:
        return next(messages, None) or await receive()

    return again


def _values(headers: list[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    return [value for key, value in headers if key.lower() == name]


def _without_port(host: bytes) -> str:
    return re.sub(r":[0-9]*$", "", host.decode("latin-1").strip().lower())
