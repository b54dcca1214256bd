"""Clients of HTTP/1.1 over plain connections, which take little of the machine they share."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

# Seconds that a client waits when it is told to come back later.
_LATER = 1.0

_END = b"\r\n\r\n"


class Answer(NamedTuple):
    """An answer to a request.

    Attributes
    ----------
    number : int
        Of the request, from 0.
    status : int
        0 if the connection ended without an answer.
    seconds : float
    body : bytes
        Empty unless bodies are kept.
    """

    number: int
    status: int
    seconds: float
    body: bytes


def post(path: str, values: dict[str, Any]) -> bytes:
    """Return a whole request with a body of JSON."""
    body = json.dumps(values).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def get(path: str) -> bytes:
    """Return a whole request without a body."""
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


class Client:
    """A client, which keeps its connection until the service closes it.

    Parameters
    ----------
    address : str
        Such as ``"http://127.0.0.1:8000"``.
    """

    def __init__(self, address: str) -> None:
        url = urlsplit(address)
        self._host, self._port = url.hostname, url.port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def open(self) -> None:
        """Connect."""
        self._streams = await asyncio.open_connection(self._host, self._port)

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Return the status and the body of the answer, 0 and nothing if there is none."""
        try:
            if self._streams is None:
                await self.open()
            assert self._streams is not None
            reader, writer = self._streams
            writer.write(request)
            head = (await reader.readuntil(_END)).lower()
            body = await reader.readexactly(int(_header(head, b"content-length") or 0))
        except (OSError, EOFError):
            self.close()
            return 0, b""
        if _header(head, b"connection") == b"close":
            self.close()
        return int(head[9:12]), body

    def close(self) -> None:
        """Close the connection."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


def _header(head: bytes, name: bytes) -> bytes:
    return head.partition(b"\r\n" + name + b": ")[2].partition(b"\r\n")[0]


async def ask(
    address: str,
    requests: Iterator[bytes],
    clients: int,
    *,
    bodies: bool = False,
    patient: bool = True,
) -> list[Answer]:
    """Ask by several clients at a time, each of which waits for its answer before it asks again.

    Parameters
    ----------
    address : str
    requests : iterator of bytes
        The clients share it. They end when it does.
    clients : int
    bodies : bool, default False
        Keep the bodies of the answers.
    patient : bool, default True
        A client whose request is refused for the load waits before it asks again.

    Returns
    -------
    list of Answer
        In the order in which they came.
    """
    numbered = enumerate(requests)
    answers: list[Answer] = []

    async def one(client: Client) -> None:
        for number, request in numbered:
            start = time.perf_counter()
            status, body = await client.ask(request)
            seconds = time.perf_counter() - start
            answers.append(Answer(number, status, seconds, body if bodies else b""))
            if status == 503 and patient:
                await asyncio.sleep(_LATER)

    everyone = [Client(address) for _ in range(clients)]
    try:
        for client in everyone:
            await client.open()
        await asyncio.gather(*(one(client) for client in everyone))
    finally:
        for client in everyone:
            client.close()
    return answers


def for_seconds(seconds: float, requests: Sequence[bytes]) -> Iterator[bytes]:
    """Yield requests, again and again, until the seconds from the first one are over."""
    start = time.perf_counter()
    for request in itertools.cycle(requests):
        if time.perf_counter() - start > seconds:
            return
        yield request
