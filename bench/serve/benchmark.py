"""The benchmark `serve`: an index over HTTP, under load, beyond capacity and while it changes.

The service runs as a process of its own on the loopback address, the clients in this process. Both
share the cores of the machine.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from diffusion import Reranker
from diffusion.kernels.threads import cores

from ..data.collections import objects
from ..measure import processor
from ..table import Table, show
from . import load, overload, soak, updates


@dataclass(frozen=True)
class Sizes:
    """How much is measured; the defaults are those of the printed tables.

    Attributes
    ----------
    items, dimension : int
        Of the index.
    queries : int
        Distinct ones.
    counts, workers : tuple of int
        Queries at a time, and processes that answer.
    seconds : float
        Of a run.
    runs : int
    crowd : int
        Clients that are more than the service has places for.
    requests, long, warm : int
        Requests of the soak, with `--long`, and before memory is first read.
    updates, changed : int
        Updates, and the items that an update brings.
    """

    items: int = 100_000
    dimension: int = 128
    queries: int = 1000
    counts: tuple[int, ...] = (1, 8, 64)
    workers: tuple[int, ...] = (1, 2)
    seconds: float = 5.0
    runs: int = 3
    crowd: int = 800
    requests: int = 5000
    long: int = 100_000
    warm: int = 1000
    updates: int = 20
    changed: int = 100


DEFAULT = Sizes()


def run(*, long: bool = False, sizes: Sizes = DEFAULT) -> list[Table]:
    """Measure load, overload, a soak and updates beside searches.

    `long` makes the soak one of 100,000 requests.
    """
    if long:
        sizes = replace(sizes, requests=sizes.long)
    print(f"{processor()}, {cores()} threads; {sizes.items:,} items, d = {sizes.dimension}\n")
    with tempfile.TemporaryDirectory() as folder:
        index = Path(folder) / "index"
        queries = built(index, sizes)
        jobs: list[Callable[[], Table]] = [
            partial(
                load.measure,
                index,
                queries,
                counts=sizes.counts,
                workers=sizes.workers,
                seconds=sizes.seconds,
                runs=sizes.runs,
            ),
            partial(
                overload.measure,
                index,
                load.searches(queries),
                clients=sizes.crowd,
                seconds=sizes.seconds,
            ),
            partial(soak.measure, index, queries, requests=sizes.requests, warm=sizes.warm),
            partial(
                updates.measure,
                index,
                queries[: sizes.changed],
                workers=sizes.workers,
                updates=sizes.updates,
            ),
        ]
        return [show(job()) for job in tqdm(jobs, desc="serve", unit="table")]


def built(index: Path, sizes: Sizes) -> NDArray[np.float32]:
    """Save an index of views of objects, and return queries, which are other views."""
    X = objects(sizes.items, sizes.dimension)
    Reranker().fit(X, ids=np.arange(len(X))).save(index)
    rng = np.random.default_rng(1)
    views = X[rng.choice(len(X), sizes.queries)]
    return views + 0.02 * rng.standard_normal(views.shape).astype(np.float32)
