"""Speed of the offline columns beside a parallel loop of scipy's CG."""

from __future__ import annotations

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray
from scipy.sparse.linalg import cg as scipy_cg

import diffusion
from diffusion import RegularizedLaplacian
from diffusion.graph import Graph
from diffusion.solvers.columns import Columns

from ..measure import seconds_each, seconds_of, timed
from ..table import Table
from .problems import ALPHA, internal_adjacency, observed_graph, system

QUERIES = 60


def measure(n: int, size: int, sampled: int) -> Table:
    """Time the columns of n nodes beside a joblib loop, which is extrapolated from a sample."""
    graph, y = observed_graph(n, QUERIES)
    sample = np.random.default_rng(2).choice(n, sampled, replace=False)
    loop = _by_joblib(graph, sample, size) * n / sampled
    transfer = RegularizedLaplacian(ALPHA)
    points = np.random.default_rng(0).random((100, 4))
    warm = diffusion.Reranker(k=5, affinity="cosine").fit(points).graph_
    Columns(size=20).prepare(warm, transfer)
    solver, ours = timed(lambda: Columns(size=size).prepare(graph, transfer))
    solver.solve(y[[0]])
    online = seconds_each(lambda row: solver.solve(y[[row]]), range(QUERIES))
    return Table(
        f"**Columns, offline**: {n:,} nodes, L = {size}",
        ("solver", "seconds", "speed", "online, ms/query"),
        [
            ["joblib over scipy.sparse.linalg.cg, given the neighbourhoods", loop, 1.0, None],
            [f"Columns(size={size})", ours, loop / ours, 1000 * float(np.median(online))],
        ],
        [f"The joblib loop is extrapolated from {sampled} nodes."],
    )


def _by_joblib(graph: Graph, sample: NDArray[np.int64], size: int) -> float:
    """Return the seconds that scipy's CG takes for the columns of some nodes, on all cores."""
    L = system(internal_adjacency(graph))

    def column(T: NDArray[np.int64]) -> NDArray[np.float32]:
        b = np.zeros(len(T), np.float32)
        b[0] = 1 - ALPHA
        return scipy_cg(L[T][:, T], b, rtol=1e-6, maxiter=1000)[0]

    given = [_neighborhood(graph, int(i), size) for i in sample]
    return seconds_of(
        lambda: Parallel(n_jobs=-1, prefer="threads")(delayed(column)(T) for T in given)
    )


def _neighborhood(graph: Graph, i: int, size: int) -> NDArray[np.int64]:
    """Return the first nodes found breadth-first from i; this is not part of the timed loop."""
    seen = [i]
    known = {i}
    for p in seen:
        if len(seen) >= size:
            break
        for j in graph.indices[graph.starts[p] : graph.stops[p]].tolist():
            if j not in known:
                known.add(j)
                seen.append(j)
    return np.array(seen[:size])
