"""A small collection that is served, and clients of its application, without a socket."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
from fastapi import FastAPI
from fastapi.testclient import TestClient

import diffusion
from diffusion.serve import answers
from diffusion.serve.app import create_app
from diffusion.serve.collection import Collection
from diffusion.serve.security import Settings

N, DIMENSION = 90, 8
ADDRESS = "http://127.0.0.1:8000"
JSON = {"content-type": "application/json"}


def vectors(n: int = N, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(7).standard_normal((5, DIMENSION))
    return (centres[rng.integers(0, 5, n)] + 0.6 * rng.standard_normal((n, DIMENSION))).astype("f4")


def names(n: int = N) -> list[str]:
    return [f"Item {i}/Ärger" for i in range(n)]


def saved(folder: Path, ids: Any = None, X: np.ndarray | None = None, **parameters: Any) -> Path:
    """Save an index, by default one of `vectors` with `names`."""
    X = vectors() if X is None else X
    ranker = diffusion.Reranker(k=8, **parameters)
    ranker.fit(X, ids=names(len(X)) if ids is None else ids).save(folder / "index")
    return folder / "index"


def app_of(path: Path, read_only: bool = False, photos: Any = None, **settings: Any) -> FastAPI:
    collection = Collection(path, read_only=read_only)
    return create_app(collection, settings=Settings(**settings), photos=photos)


@contextlib.contextmanager
def client_of(path: Path, **settings: Any) -> Iterator[TestClient]:
    with TestClient(app_of(path, **settings), base_url=ADDRESS) as client:
        yield client


@contextlib.asynccontextmanager
async def asking(app: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    """Run an application and give a client that can ask several things at once."""
    async with app.router.lifespan_context(app), asyncio.timeout(120):
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url=ADDRESS) as client:
            yield client


async def waiting(client: httpx2.AsyncClient, count: int, queue: str = "queries") -> None:
    """Wait until a queue has a length."""
    while await figure(client, f'diffusion_queue_length{{queue="{queue}"}}') != count:
        await asyncio.sleep(0)


async def figure(client: httpx2.AsyncClient, name: str) -> float | None:
    return figure_in((await client.get("/metrics")).text, name)


def figure_in(text: str, name: str) -> float | None:
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return None if found is None else float(found[1])


class Gate:
    """Lets batches of queries through only when it is open, and keeps what they were."""

    def __init__(self, monkeypatch: Any) -> None:
        self.open, self.batches = threading.Event(), []
        answer: Callable[[list[Any]], Any] = answers.answer

        def gated(asked: list[Any]) -> Any:
            self.batches.append(asked)
            assert self.open.wait(120)
            return answer(asked)

        monkeypatch.setattr(answers, "answer", gated)

    async def entered(self, count: int = 1) -> None:
        """Wait until so many batches have come."""
        while len(self.batches) < count:
            await asyncio.sleep(0)
