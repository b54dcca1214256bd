"""Speed of a whole call, from first-stage scores and ids to the ranked list, beside others.

The others re-rank the same shortlist of the same first stage, or diffuse on the same graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import cg as scipy_cg

import diffusion
from diffusion import reciprocal
from diffusion.graph import Graph

from ..data.collections import manifold
from ..measure import seconds_each
from ..rivals import gnn
from ..table import Table
from .problems import (
    ALPHA,
    DIMENSION,
    K,
    cells,
    internal_adjacency,
    manifold_lists,
    observations,
    system,
)

SHORTLISTS = (100, 1000)
RANKED = 100  # length of the lists that are returned

# Above this many items, only the default solver is fitted, and the columns are not prepared.
_SMALL = 20_000

_ITERATIONS = 20  # of scipy's CG


@dataclass(frozen=True)
class Problem:
    """Vectors, queries, the first stage of each query, and the default `Reranker`."""

    X: NDArray[np.float32]
    Q: NDArray[np.float32]
    scores: NDArray[np.float32]
    ids: NDArray[np.int64]
    index: Any  # faiss
    ranker: diffusion.Reranker
    lists: tuple[NDArray[np.float32], NDArray[np.int32]]


def measure(sizes: Sequence[int], queries: int) -> Table:
    """Time the calls for one query at a time."""
    table = Table(
        f"**Whole call**, one query at a time, from {max(SHORTLISTS)} first-stage scores and ids "
        f"to {RANKED} results, k = {K}, α = {ALPHA}",
        ("items", "call", "ms/query", "99 %, ms", "times Reranker()"),
    )
    for n in sizes:
        problem = _problem(n, queries)
        calls = _calls(problem)
        calls["Reranker().rerank"](0)
        solver = getattr(problem.ranker.report_, "solver", problem.ranker.solver)
        table.notes.append(f"{n:,} items: {problem.ranker.graph_}, solver {solver!r}")
        reference = 0.0
        for name, call in calls.items():
            call(0)  # compiles, and reads what is memory-mapped
            seconds = np.array(seconds_each(call, range(queries)))
            median = float(np.median(seconds))
            reference = reference or median
            tail = float(np.quantile(seconds, 0.99))
            table.rows.append([f"{n:,}", name, 1000 * median, 1000 * tail, median / reference])
    table.notes.append(
        "The columns of the decoupled approach are combined online; computing them offline takes "
        f"about a millisecond per item, and they are not prepared above {_SMALL:,} items. faiss "
        "searches for the shortlist; the other calls begin with its results."
    )
    return table


def _problem(n: int, queries: int) -> Problem:
    """Return a manifold of n items, and queries beside some of them."""
    X = manifold(n, DIMENSION)
    rng = np.random.default_rng(3)
    noise = rng.standard_normal((queries, DIMENSION), np.float32) * np.float32(0.02)
    Q = X[rng.choice(n, queries, replace=False)] + noise
    Q /= np.linalg.norm(Q, axis=1, keepdims=True)
    kind = "Flat" if n <= _SMALL else f"IVF{cells(n)},Flat"
    index = faiss.index_factory(DIMENSION, kind, faiss.METRIC_INNER_PRODUCT)
    index.train(X[: 64 * cells(n)])
    index.add(X)
    if n > _SMALL:
        index.nprobe = 12  # type: ignore[attr-defined]
    scores, ids = index.search(Q, min(n, max(SHORTLISTS)))
    lists = manifold_lists(n, cells(n))
    ranker = diffusion.Reranker(k=K, alpha=ALPHA).fit_neighbors(*lists)
    return Problem(X, Q, scores, ids, index, ranker, lists)


def _calls(problem: Problem) -> dict[str, Callable[[int], Any]]:
    """Return the calls by name; each takes the number of a query."""
    p = problem
    rankers = {"Reranker()": p.ranker}
    if len(p.X) <= _SMALL:
        for name in ("local", "cg", "columns"):
            other = diffusion.Reranker(k=K, alpha=ALPHA, solver=name).fit_neighbors(*p.lists)
            rankers[f"Reranker(solver={name!r})"] = other
    calls: dict[str, Callable[[int], Any]] = {}
    for name, ranker in rankers.items():
        calls[f"{name}.rerank"] = partial(_reranked, ranker, p)
    calls[f"scipy.sparse.linalg.cg, {_ITERATIONS} iterations"] = _by_scipy(p, p.ranker.graph_)
    for size in SHORTLISTS:
        calls[f"k-reciprocal re-ranking of {size}"] = partial(_by_reciprocal, p, size)
        calls[f"GNN re-ranking of {size}"] = partial(_by_gnn, p, size)
    calls["faiss, the search itself"] = lambda q: p.index.search(p.Q[q : q + 1], p.ids.shape[1])
    return calls


def _reranked(ranker: diffusion.Reranker, p: Problem, q: int) -> Any:
    return ranker.rerank(p.scores[q], p.ids[q], RANKED)


def _by_reciprocal(p: Problem, size: int, q: int) -> Any:
    return reciprocal.search(p.Q[q : q + 1], p.X[p.ids[q, :size]], RANKED)


def _by_gnn(p: Problem, size: int, q: int) -> Any:
    return gnn.rank(p.X[p.ids[q, :size]], p.Q[q : q + 1])


def _by_scipy(p: Problem, graph: Graph) -> Callable[[int], NDArray[Any]]:
    """Return a function that diffuses a query of ten observed nodes and ranks all items."""
    L = system(internal_adjacency(graph))
    n = graph.n_nodes

    def search(q: int) -> NDArray[Any]:
        y = observations(p.scores[q : q + 1, :10], p.ids[q : q + 1, :10], n)
        b = np.zeros(n, np.float32)
        b[graph.position[y.indices]] = (1 - ALPHA) * y.data
        x = scipy_cg(L, b, rtol=1e-12, maxiter=_ITERATIONS)[0]
        best = np.argpartition(-x, min(RANKED, n) - 1)[:RANKED]
        return graph.order[best[np.argsort(-x[best])]]

    return search
