"""Quality of the rankings of diffusion, plain search, query expansion and published rivals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

import diffusion
from diffusion import metrics
from diffusion.baselines import expansion, reciprocal

from .. import rivals
from ..data.collections import Collection
from ..measure import percent, precision_of, timed
from ..table import Table
from .survey import Preparation, cosine, diffused

Vectors = NDArray[np.float32]
Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Method:
    """A row of the table of methods.

    Attributes
    ----------
    name : str
    prepare : callable
        Takes the gallery (n, d) and returns a function that takes queries (nq, d) and returns the
        ids (nq, n) of their full rankings.
    queries_in_graph : bool
        Whether the ranking of a query depends on the other queries.
    """

    name: str
    prepare: Preparation
    queries_in_graph: bool = False


def expanded(k: int, alpha: float, dba: int = 0) -> Preparation:
    """Return search by α-QE of the k nearest items, optionally after DBA of `dba` neighbours."""

    def prepare(X: Vectors) -> Callable[[Vectors], Ids]:
        X = expansion.augment_database(X, dba, alpha=3.0) if dba else X
        search = cosine(X)
        return lambda Q: search(expansion.average(Q, X, *expansion.search(Q, X, k), alpha=alpha))

    return prepare


def _discriminative(X: Vectors) -> Callable[[Vectors], Ids]:
    search = cosine(X)
    return lambda Q: search(expansion.discriminative(Q, X, search(Q)))


def _reciprocal(X: Vectors) -> Callable[[Vectors], Ids]:
    return lambda Q: reciprocal.search(Q, X, len(X))[1]


def _rival(name: str, module: ModuleType) -> Method:
    return Method(name, partial(partial, module.rank), module.QUERIES_IN_GRAPH)


METHODS = (
    Method("cosine", cosine),
    Method("AQE (n = 10)", expanded(10, 0.0)),
    Method("α-QE (α = 3, n = 50)", expanded(50, 3.0)),
    Method("DQE (5 up, 200 down)", _discriminative),
    Method("DBA (k = 10) + α-QE", expanded(50, 3.0, dba=10)),
    _rival("SuperGlobal (M = 400, K = 9)", rivals.superglobal),
    Method("k-reciprocal (k1 = 20, k2 = 6)", _reciprocal, queries_in_graph=True),
    _rival("RDP (k = 30)", rivals.rdp),
    _rival("GNN (k1 = 26, k2 = 7)", rivals.gnn),
    _rival("CAS (k1 = 6, k2 = 60)", rivals.cas),
    _rival("Cheb-GR (λ = 2.5, β = 0.1, 2 rounds)", rivals.cheb_gr),
    _rival("C-CRF (β = 0.1) + diffusion", rivals.c_crf),
    _rival("LPMT (k = 10, k1 = 60)", rivals.lpmt),
    Method("diffusion, cosine affinity (k = 50, α = 0.99)", partial(diffused, affinity="cosine")),
    Method("diffusion, as by default", diffused),
    Method("diffusion, Fusion(weight=1)", partial(diffused, score=diffusion.Fusion(1.0))),
)


def measure(collection: Collection, methods: Sequence[Method]) -> Table:
    """Rank a collection's queries by each method, the first of which is plain search."""
    n, classes = len(collection.gallery), len(np.unique(collection.gallery_labels))
    table = Table(
        f"**{collection.name}**: {len(collection.queries)} queries, {n} items, {classes} classes",
        ("method", "mAP", "mP@10", "worse than cosine", "queries in graph", "ms/query"),
        notes=[
            "worse than cosine: share of the queries that lose more than one point of AP. Queries "
            "in graph: all queries are ranked at once in one graph with the items, so each query "
            "profits from the others, and one query alone would cost as much as all of them. "
            "ms/query: online work, including first-stage search and, with queries in the graph, "
            "that graph."
        ],
    )
    plain = None
    for method, ids, seconds in _rankings(collection, methods):
        labels = collection.gallery_labels, collection.query_labels
        precision = precision_of(ids, *labels)
        first = metrics.precision_at(*metrics.hits_from_labels(ids, *labels), 10)
        plain = precision if plain is None else plain
        table.rows.append(
            [
                method.name,
                percent(precision),
                percent(first),
                f"{100 * np.mean(precision < plain - 0.01):.0f} %",
                "yes" if method.queries_in_graph else "no",
                1000 * seconds / len(ids),
            ]
        )
    return table


def _rankings(
    collection: Collection, methods: Sequence[Method]
) -> Iterator[tuple[Method, Ids, float]]:
    """Yield each method, the ids of its full rankings, and the seconds of its online work."""
    X, Q = expansion.normalize(collection.gallery), expansion.normalize(collection.queries)
    for method in methods:
        method.prepare(X[:200])(Q[:20])  # compiles the kernels and loads the libraries
        rank = method.prepare(X)
        yield method, *timed(partial(rank, Q))
