"""How good the rankings are: diffusion beside plain search and plain query expansion."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

import diffusion
from diffusion import expansion, metrics
from diffusion.solvers import Solver

from .datasets import Collection, digits, grocery
from .table import Table

Ids = NDArray[np.int64]


def run(*, long: bool = False) -> list[Table]:
    """Measure every collection at hand, method by method and then solver by solver."""
    found = (digits(), grocery(packages_only=True), grocery(packages_only=False))
    collections = [collection for collection in found if collection is not None]
    if len(collections) < len(found):
        print("grocery: skipped, its descriptors are not in DIFFUSION_DATA\n")
    tables = []
    for collection in collections:
        tables.append(measure(collection))
        print(tables[-1], end="\n\n", flush=True)
    tables.append(solvers(collections))
    print(tables[-1], end="\n\n", flush=True)
    return tables


def solvers(collections: Sequence[Collection]) -> Table:
    """Rank every collection by each solver, as far as it reaches."""
    table = Table(
        "**Solvers**, k = 50, α = 0.99, query_k = 10",
        (
            "solver",
            *(f"{collection.name}: mAP" for collection in collections),
            "ms/query",
            "offline, s",
            "index, MB",
        ),
        notes=[
            "ms/query, offline and index are those of the last collection, "
            f"{len(collections[-1].gallery)} items; online time is of the first 100 results, the "
            "index holds vectors, graph and what the solver prepared."
        ],
    )
    for solver in (
        diffusion.CG(),
        diffusion.Spectral(rank=100),
        diffusion.Spectral(rank=400),
        diffusion.Hybrid(rank=100),
        diffusion.Columns(),
        diffusion.Truncated(size=300),
        diffusion.Truncated(size=1000),
        diffusion.Local(),
        diffusion.Local(certify=0),
        diffusion.Chebyshev(),
    ):
        figures = []
        for collection in collections:
            X, Q = (
                expansion.normalize(collection.gallery),
                expansion.normalize(collection.queries),
            )
            ranker = diffusion.Reranker(affinity="cosine", solver=solver)
            ranker.fit(X[:200]).search(Q[:40], 100)  # compiles
            start = time.perf_counter()
            ranker.fit(X)
            offline = time.perf_counter() - start
            start = time.perf_counter()
            ranker.search(Q, 100)
            online = 1000 * (time.perf_counter() - start) / len(Q)
            hits = metrics.hits_from_labels(
                ranker.search(Q, len(X))[1], collection.gallery_labels, collection.query_labels
            )
            figures.append(round(100 * float(np.nanmean(metrics.average_precision(*hits))), 1))
        with tempfile.TemporaryDirectory() as folder:
            ranker.save(f"{folder}/index")
            size = sum(file.stat().st_size for file in Path(folder).rglob("*.npy")) / 1e6
        table.rows.append([_short(solver), *figures, online, offline, size])
    return table


def _short(solver: Solver) -> str:
    """Name a solver with the settings that are not its defaults."""
    settings, default = asdict(cast(Any, solver)), asdict(cast(Any, type(solver)()))
    changed = (f"{name}={value}" for name, value in settings.items() if value != default[name])
    return f"{type(solver).__name__}({', '.join(changed)})"


def measure(collection: Collection) -> Table:
    """Rank a collection's queries by each method."""
    n, classes = len(collection.gallery), len(np.unique(collection.gallery_labels))
    table = Table(
        f"**{collection.name}**: {len(collection.queries)} queries, {n} items, {classes} classes",
        ("method", "mAP", "mP@10", "worse than cosine", "queries in graph", "ms/query"),
        notes=[
            "worse than cosine: share of queries that lose more than one point of AP. ms/query: "
            "online work, first-stage search included."
        ],
    )
    plain = None
    for name, ids, seconds in _rankings(collection):
        hits, relevant = metrics.hits_from_labels(
            ids, collection.gallery_labels, collection.query_labels
        )
        precision = metrics.average_precision(hits, relevant)
        plain = precision if plain is None else plain
        table.rows.append(
            [
                name,
                round(100 * float(np.nanmean(precision)), 1),
                round(100 * float(np.nanmean(metrics.precision_at(hits, relevant, 10))), 1),
                f"{100 * np.mean(precision < plain - 0.01):.0f} %",
                "no",
                1000 * seconds / len(ids),
            ]
        )
    return table


def _rankings(collection: Collection) -> Iterator[tuple[str, Ids, float]]:
    """Yield (method, ids of the full ranking, seconds online) for each method."""
    X, Q = expansion.normalize(collection.gallery), expansion.normalize(collection.queries)
    n = len(X)

    def expand(Q: NDArray[np.float32], X: NDArray[np.float32], k: int, alpha: float) -> Ids:
        first = expansion.search(Q, X, k)
        return expansion.search(expansion.average(Q, X, *first, alpha=alpha), X, n)[1]

    def learn() -> Ids:
        normals = expansion.discriminative(Q, X, expansion.search(Q, X, n)[1])
        return expansion.search(normals, X, n)[1]

    augmented = expansion.augment_database(X, 10, alpha=3.0)
    ranker = diffusion.Reranker(affinity="cosine").fit(X)
    methods: dict[str, Callable[[], Ids]] = {
        "cosine": lambda: expansion.search(Q, X, n)[1],
        "AQE (n = 10)": lambda: expand(Q, X, 10, 0.0),
        "α-QE (α = 3, n = 50)": lambda: expand(Q, X, 50, 3.0),
        "DQE (5 up, 200 down)": learn,
        "DBA (k = 10) + α-QE": lambda: expand(Q, augmented, 50, 3.0),
        "diffusion, CG (k = 50, α = 0.99)": lambda: ranker.search(Q, n)[1],
    }
    for name, rank in methods.items():
        rank()  # compiles kernels, fills caches
        start = time.perf_counter()
        ids = rank()
        yield name, ids, time.perf_counter() - start
