"""Many requests of several kinds: errors, and the memory that the service holds."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import diffusion

from ..table import Table
from .client import ask, post
from .load import K, percentiles, searches
from .service import Service, running

_CLIENTS = 8


def measure(index: Path, queries: NDArray[np.float32], *, requests: int, warm: int) -> Table:
    """Send requests of every kind that reads, and compare the memory of the service."""
    with running(index) as service:
        row = soaked(service, every_kind(index, queries), requests, warm)
    return Table(
        f"**Soak**: {requests:,} requests by {_CLIENTS} clients",
        (
            "errors",
            "50th percentile, ms",
            "99th percentile, ms",
            f"MB after {warm:,}",
            "MB in the middle",
            "MB at the end",
        ),
        [row],
        [
            "Of eleven requests, eight are searches by a vector, and one each is a search by an "
            "item with its first stage, a re-ranking of 100 hits, and a query of a wrong "
            "dimension, which has to be refused with 422. MB: resident memory of all processes of "
            "the service, with what is mapped of the index."
        ],
    )


def soaked(
    service: Service, kinds: list[tuple[bytes, int]], requests: int, warm: int
) -> list[float]:
    """Return the errors, the percentiles and the memory in MB."""
    memory: list[float] = []
    asked = _watched(service, kinds, requests, warm, memory)
    answers = asyncio.run(ask(service.address, asked, _CLIENTS))
    memory.append(service.resident())
    errors = sum(answer.status != kinds[answer.number % len(kinds)][1] for answer in answers)
    return [errors, *percentiles(answers), *memory]


def every_kind(index: Path, queries: NDArray[np.float32]) -> list[tuple[bytes, int]]:
    """Return requests, and the status that the answer to each must have."""
    ids = diffusion.load(index).search(queries[:1], 100)[1][0].tolist()
    scores = np.linspace(0.9, 0.1, len(ids)).tolist()
    others = [
        (post("/search", {"items": ids[:1], "k": K, "first": True}), 200),
        (post("/rerank", {"hits": [{"ids": ids, "scores": scores}], "k": K}), 200),
        (post("/search", {"vectors": [[0.5]]}), 422),
    ]
    plain = [(request, 200) for request in searches(queries)]
    return [
        kind for start in range(0, len(plain) - 7, 8) for kind in plain[start : start + 8] + others
    ]


def _watched(
    service: Service,
    kinds: list[tuple[bytes, int]],
    count: int,
    warm: int,
    memory: list[float],
) -> Iterator[bytes]:
    """Yield `count` requests; note the memory after the first ones and in the middle."""
    for number, (request, _) in zip(range(count), cycle(kinds), strict=False):
        if number in (warm, (warm + count) // 2):
            memory.append(service.resident())
        yield request
