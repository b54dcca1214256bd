"""How good the rankings are: diffusion beside plain search, query expansion and its rivals."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

import diffusion
from diffusion import metrics
from diffusion.baselines import expansion, reciprocal
from diffusion.solvers import Solver

from .. import rivals
from ..data.collections import Collection, digits, grocery
from ..table import Table
from .survey import survey

Vectors = NDArray[np.float32]
Ids = NDArray[np.int64]

SOLVERS = (
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
)


def run(*, long: bool = False) -> list[Table]:
    """Measure every collection at hand, method by method and then solver by solver."""
    found = (digits(), grocery(packages_only=True), grocery(packages_only=False))
    collections = [collection for collection in found if collection is not None]
    if len(collections) < len(found):
        print("grocery: skipped, its descriptors are not in DIFFUSION_DATA\n")
    tables = []
    for collection in collections:
        tables.append(measure(collection, METHODS))
        print(tables[-1], end="\n\n", flush=True)
    for affinity in ("context", "cosine"):
        tables.append(solvers(collections, affinity))
        print(tables[-1], end="\n\n", flush=True)
    tables.append(survey())
    print(tables[-1], end="\n\n", flush=True)
    return tables


def solvers(collections: Sequence[Collection], affinity: str) -> Table:
    """Rank every collection by each solver, as far as it reaches."""
    table = Table(
        f"**Solvers**, affinity {affinity!r}, k = 50, α = 0.99, query_k = 10",
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
    for solver in SOLVERS:
        figures = []
        for collection in collections:
            X, Q = (
                expansion.normalize(collection.gallery),
                expansion.normalize(collection.queries),
            )
            ranker = diffusion.Reranker(affinity=affinity, solver=solver)
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


@dataclass(frozen=True)
class Method:
    """A row of the table: `prepare` sees the gallery and returns what ranks queries in full."""

    name: str
    prepare: Callable[[Vectors], Callable[[Vectors], Ids]]
    queries_in_graph: bool = False


def _cosine(X: Vectors) -> Callable[[Vectors], Ids]:
    return lambda Q: expansion.search(Q, X, len(X))[1]


def _expansion(k: int, alpha: float, dba: int = 0) -> Callable[[Vectors], Callable[[Vectors], Ids]]:
    def prepare(X: Vectors) -> Callable[[Vectors], Ids]:
        X = expansion.augment_database(X, dba, alpha=3.0) if dba else X
        search = _cosine(X)
        return lambda Q: search(expansion.average(Q, X, *expansion.search(Q, X, k), alpha=alpha))

    return prepare


def _discriminative(X: Vectors) -> Callable[[Vectors], Ids]:
    search = _cosine(X)
    return lambda Q: search(expansion.discriminative(Q, X, search(Q)))


def _reciprocal(X: Vectors) -> Callable[[Vectors], Ids]:
    return lambda Q: reciprocal.search(Q, X, len(X))[1]


def _diffusion(**parameters: Any) -> Callable[[Vectors], Callable[[Vectors], Ids]]:
    def prepare(X: Vectors) -> Callable[[Vectors], Ids]:
        ranker = diffusion.Reranker(**parameters).fit(X)
        return lambda Q: ranker.search(Q, len(X))[1]

    return prepare


def _rival(name: str, module: ModuleType) -> Method:
    return Method(name, partial(partial, module.rank), module.QUERIES_IN_GRAPH)


METHODS = (
    Method("cosine", _cosine),
    Method("AQE (n = 10)", _expansion(10, 0.0)),
    Method("α-QE (α = 3, n = 50)", _expansion(50, 3.0)),
    Method("DQE (5 up, 200 down)", _discriminative),
    Method("DBA (k = 10) + α-QE", _expansion(50, 3.0, dba=10)),
    _rival("SuperGlobal (M = 400, K = 9)", rivals.superglobal),
    Method("k-reciprocal (k1 = 20, k2 = 6)", _reciprocal, queries_in_graph=True),
    _rival("RDP (k = 30)", rivals.rdp),
    _rival("GNN (k1 = 26, k2 = 7)", rivals.gnn),
    _rival("CAS (k1 = 6, k2 = 60)", rivals.cas),
    Method("diffusion, cosine affinity (k = 50, α = 0.99)", _diffusion(affinity="cosine")),
    Method("diffusion, as by default", _diffusion()),
    Method("diffusion, Fusion(weight=1)", _diffusion(score=diffusion.Fusion(1.0))),
)


def measure(collection: Collection, methods: Sequence[Method]) -> Table:
    """Rank a collection's queries by each method, plain search first."""
    n, classes = len(collection.gallery), len(np.unique(collection.gallery_labels))
    table = Table(
        f"**{collection.name}**: {len(collection.queries)} queries, {n} items, {classes} classes",
        ("method", "mAP", "mP@10", "worse than cosine", "queries in graph", "ms/query"),
        notes=[
            "worse than cosine: share of queries that lose more than one point of AP. Queries in "
            "graph: they are ranked all at once, in one graph with the items and with each other, "
            "so that they help one another and a query alone would cost as much as all. ms/query: "
            "online work, first-stage search included, and that graph where queries are in it."
        ],
    )
    plain = None
    for method, ids, seconds in _rankings(collection, methods):
        hits, relevant = metrics.hits_from_labels(
            ids, collection.gallery_labels, collection.query_labels
        )
        precision = metrics.average_precision(hits, relevant)
        plain = precision if plain is None else plain
        table.rows.append(
            [
                method.name,
                round(100 * float(np.nanmean(precision)), 1),
                round(100 * float(np.nanmean(metrics.precision_at(hits, relevant, 10))), 1),
                f"{100 * np.mean(precision < plain - 0.01):.0f} %",
                "yes" if method.queries_in_graph else "no",
                1000 * seconds / len(ids),
            ]
        )
    return table


def _rankings(
    collection: Collection, methods: Sequence[Method]
) -> Iterator[tuple[Method, Ids, float]]:
    """Yield each method, the ids of its full rankings, and its seconds online."""
    X, Q = expansion.normalize(collection.gallery), expansion.normalize(collection.queries)
    for method in methods:
        method.prepare(X[:200])(Q[:20])  # compiles kernels, loads libraries
        rank = method.prepare(X)
        start = time.perf_counter()
        ids = rank(Q)
        yield method, ids, time.perf_counter() - start
