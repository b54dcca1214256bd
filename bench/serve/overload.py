"""More clients than the service has places for: what is refused, how fast, and what follows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from ..table import Table
from .client import ask, for_seconds
from .load import percentiles
from .service import Service, running


def measure(index: Path, requests: Sequence[bytes], *, clients: int, seconds: float) -> Table:
    """Measure a service that more clients ask than it has places for waiting queries."""
    table = Table(
        f"**Overload**: {clients} clients at a time",
        (
            "a client that is refused",
            "answers a second",
            "refused, %",
            "answered, 50th percentile, ms",
            "99th, ms",
            "refused, 50th percentile, ms",
            "99th, ms",
            "failed",
            "first answer afterwards, ms",
            "its status",
            "next 100, 50th percentile, ms",
        ),
        notes=[
            f"Over {seconds:g} seconds. answers a second: without refusals. failed: neither "
            "answered nor refused (503). Afterwards one client asks, one query after the other."
        ],
    )
    kinds = {"waits for a second": True, "asks again at once": False}
    with running(index) as service:
        asyncio.run(ask(service.address, for_seconds(seconds / 10, requests), 64))
        for kind, patient in tqdm(kinds.items(), desc="overload", leave=False):
            table.rows.append([kind, *overloaded(service, requests, clients, seconds, patient)])
    return table


def overloaded(
    service: Service, requests: Sequence[bytes], clients: int, seconds: float, patient: bool
) -> list[float]:
    """Return the figures of a row."""
    start = time.perf_counter()
    load = ask(service.address, for_seconds(seconds, requests), clients, patient=patient)
    answers = asyncio.run(load)
    passed = time.perf_counter() - start
    after = asyncio.run(ask(service.address, iter(requests[:101]), 1))
    served = [answer for answer in answers if answer.status == 200]
    refused = [answer for answer in answers if answer.status == 503]
    return [
        len(served) / passed,
        100 * len(refused) / len(answers),
        *percentiles(served),
        *percentiles(refused),
        len(answers) - len(served) - len(refused),
        1000 * after[0].seconds,
        after[0].status,
        percentiles(after[1:])[0],
    ]
