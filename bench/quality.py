"""How good the rankings are: diffusion beside plain search and plain query expansion."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

import diffusion
from diffusion import expansion, metrics

from .datasets import Collection, digits, grocery
from .table import Table

Ids = NDArray[np.int64]


def run() -> list[Table]:
    """Measure every collection at hand."""
    tables = []
    for collection in (digits(), grocery(packages_only=True), grocery(packages_only=False)):
        if collection is None:
            print("grocery: skipped, its descriptors are not in DIFFUSION_DATA\n")
            continue
        tables.append(measure(collection))
        print(tables[-1], end="\n\n", flush=True)
    return tables


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
    ranker = diffusion.Reranker(k=50, gamma=3.0, alpha=0.99, query_k=10).fit(X)
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
