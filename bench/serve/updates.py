"""Updates beside searches: whether one fails, and whether every answer is of one state."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

import diffusion

from ..table import Table
from .client import Answer, Client, ask, get, post
from .load import K, failed, percentiles, ranges, searches
from .service import running

_CLIENTS = 8

# Standard deviation of each component between a query and an item that an update brings for it.
_NEAR = 0.01

# Ids of new items are above this one.
_IDS = 1 << 40


def measure(
    index: Path, queries: NDArray[np.float32], *, workers: Sequence[int], updates: int
) -> Table:
    """Update the index again and again while clients search, and check every answer."""
    table = Table(
        f"**Updates beside searches**: {_CLIENTS} clients, {updates} updates of "
        f"{len(queries)} items",
        (
            "workers",
            "an update, s",
            "searches",
            "failed",
            "states seen",
            "wrong answers",
            "50th percentile, ms",
            "99th percentile, ms",
        ),
        notes=[
            "An update removes what the last one has brought, and brings an item close to each "
            "query. an update: until it is on disk and answered, the quickest and the slowest. "
            "wrong answers: those whose results are not the ones of the library, bit by bit, with "
            "the saved state whose version they carry."
        ],
    )
    for number in tqdm(workers, desc="updates", leave=False):
        with running(index, number) as service:
            figures = asyncio.run(beside(service.address, index, queries, updates))
            table.rows.append([number, *figures])
    return table


async def beside(
    address: str, index: Path, queries: NDArray[np.float32], updates: int
) -> list[float | str]:
    """Search and update at the same time; return the figures of a row."""
    done = asyncio.Event()
    searching = asyncio.create_task(
        ask(address, _until(done, searches(queries)), _CLIENTS, bodies=True)
    )
    try:
        states, times = await _updated(address, index, queries, updates)
    finally:
        done.set()
    answers = await searching
    good = [answer for answer in answers if answer.status == 200]
    versions, wrong = checked(good, states, queries)
    return [
        ranges([[seconds] for seconds in times])[0],
        len(answers),
        failed(answers),
        versions,
        wrong,
        *percentiles(good),
    ]


def _until(done: asyncio.Event, requests: Sequence[bytes]) -> Iterator[bytes]:
    for request in cycle(requests):
        if done.is_set():
            return
        yield request


async def _updated(
    address: str, index: Path, queries: NDArray[np.float32], updates: int
) -> tuple[dict[int, diffusion.Reranker], list[float]]:
    """Return the library's view of every state, by version, and the seconds of the updates."""
    rng = np.random.default_rng(2)
    client = Client(address)
    states: dict[int, diffusion.Reranker] = {}
    times = []
    _, body = await client.ask(get("/info"))
    version = json.loads(body)["version"]
    states[version] = diffusion.load(index)
    old: list[int] = []
    for _ in tqdm(range(updates), desc="updates", leave=False):
        items = (queries + _NEAR * rng.standard_normal(queries.shape)).tolist()
        new = [_IDS + version * len(items) + row for row in range(len(items))]
        change = {"ids": new, "vectors": items, **({"remove": old} if old else {})}
        start = time.perf_counter()
        status, body = await client.ask(post("/items", change))
        times.append(time.perf_counter() - start)
        if status != 200:
            raise RuntimeError(f"an update was answered with {status}: {body[:200]!r}")
        # Nobody else changes the index, so what is on disk is the state of this answer.
        version = json.loads(body)["version"]
        states[version] = await asyncio.to_thread(diffusion.load, index)
        old = new
    client.close()
    return states, times


def checked(
    answers: Sequence[Answer], states: dict[int, diffusion.Reranker], queries: NDArray[np.float32]
) -> tuple[int, int]:
    """Return how many states answers are of, and how many answers are not those of the library."""
    expected: dict[tuple[int, int], list[tuple[int, float]]] = {}
    wrong, versions = 0, set()
    for answer in answers:
        found = json.loads(answer.body)
        version, row = found["version"], answer.number % len(queries)
        versions.add(version)
        if version not in states:
            wrong += 1
            continue
        if (version, row) not in expected:
            scores, ids = states[version].search(queries[row], K)
            expected[version, row] = list(zip(ids.tolist(), scores.tolist(), strict=True))
        results = [(result["id"], result["score"]) for result in found["queries"][0]["results"]]
        wrong += results != expected[version, row]
    return len(versions), wrong
