"""Queries a second and their times, beside those of the library without a service."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

import diffusion

from ..table import Table
from .client import Answer, ask, for_seconds, post
from .service import Service, running

# Results of a search.
K = 10


def searches(queries: NDArray[np.float32]) -> list[bytes]:
    """Return a request for each query."""
    return [post("/search", {"vectors": [query], "k": K}) for query in queries.tolist()]


def failed(answers: Sequence[Answer]) -> int:
    """Return how many answers are none, or errors."""
    return sum(answer.status != 200 for answer in answers)


def percentiles(answers: Sequence[Answer]) -> list[float]:
    """Return the 50th and the 99th percentile of the times, in milliseconds."""
    if not answers:
        return [float("nan")] * 2
    return [float(p) for p in np.percentile([1000 * a.seconds for a in answers], [50, 99])]


def ranges(values: Sequence[Sequence[float]]) -> list[str]:
    """Return the lowest and the highest value of each figure of some runs."""
    columns = np.array(values).T
    return [f"{_short(min(column))} to {_short(max(column))}" for column in columns]


def _short(value: float) -> str:
    return f"{value:.2g}" if value < 10 else f"{value:.0f}"


def measure(
    index: Path,
    queries: NDArray[np.float32],
    *,
    counts: Sequence[int],
    workers: Sequence[int],
    seconds: float,
    runs: int,
) -> Table:
    """Measure the library and the service, each asked by `counts` queries at a time."""
    table = Table(
        "**Load**",
        (
            "who answers",
            "at a time",
            "queries a second",
            "50th percentile, ms",
            "99th percentile, ms",
            "processor, ms a query",
            "clients, ms a query",
            "failed",
        ),
        notes=[
            f"The lowest and the highest value of {runs} runs of {seconds:g} seconds. at a time: "
            "queries of one call of the library; clients of the service, each of which sends one "
            "query and waits for its answer. processor: processor time of the library, or of all "
            "processes of the service. clients: that of the clients, on the same machine."
        ],
    )
    ranker = diffusion.load(index)
    for count in tqdm(counts, desc="library", leave=False):
        library_run(ranker, queries, count, seconds / 10)
        values = [library_run(ranker, queries, count, seconds) for _ in range(runs)]
        table.rows.append(["library", count, *ranges(values), None, None])
    requests = searches(queries)
    for number in workers:
        name = "service" if number == 1 else f"service, {number} workers"
        with running(index, number) as service:
            service_run(service, requests, max(counts), seconds / 10)
            for count in tqdm(counts, desc=name, leave=False):
                done = [service_run(service, requests, count, seconds) for _ in range(runs)]
                errors = sum(wrong for _, wrong in done)
                table.rows.append([name, count, *ranges([values for values, _ in done]), errors])
    return table


def library_run(
    ranker: diffusion.Reranker, queries: NDArray[np.float32], count: int, seconds: float
) -> list[float]:
    """Ask the library; return queries a second, percentiles of calls and processor time."""
    calls: list[Answer] = []
    processor, start = time.process_time(), time.perf_counter()
    while not calls or time.perf_counter() - start < seconds:
        rows = (len(calls) * count + np.arange(count)) % len(queries)
        before = time.perf_counter()
        ranker.search(queries[rows], K)
        calls.append(Answer(len(calls), 200, time.perf_counter() - before, b""))
    passed, taken = time.perf_counter() - start, time.process_time() - processor
    n = len(calls) * count
    return [n / passed, *percentiles(calls), 1000 * taken / n]


def service_run(
    service: Service, requests: Sequence[bytes], clients: int, seconds: float
) -> tuple[list[float], int]:
    """Ask the service; return the same figures and those of the clients, and the failures."""
    processor, own, start = service.processor_seconds(), time.process_time(), time.perf_counter()
    answers = asyncio.run(ask(service.address, for_seconds(seconds, requests), clients))
    passed = time.perf_counter() - start
    taken, spent = service.processor_seconds() - processor, time.process_time() - own
    n = len(answers)
    figures = [n / passed, *percentiles(answers), 1000 * taken / n, 1000 * spent / n]
    return figures, failed(answers)
