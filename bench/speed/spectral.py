"""Speed of the leading eigenpairs beside scipy's eigsh."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, eigsh

import diffusion
from diffusion.solvers.linalg.eigen import leading_eigenpairs

from ..data.collections import manifold
from ..measure import timed
from ..table import Table
from .problems import DIMENSION, graph_of, internal_adjacency, manifold_lists

THEIRS = "scipy.sparse.linalg.eigsh, tol 1e-3"


class _TooLong(Exception):  # noqa: N818
    pass


def measure(n: int, rank: int, limit: float | None = None, tol: float = 1e-4) -> Table:
    """Time the leading eigenpairs beside scipy's eigsh, which is stopped at a limit of seconds."""
    graph = graph_of(*manifold_lists(n, 2 * int(n**0.5)))
    W = internal_adjacency(graph)
    warm = diffusion.Reranker(k=10, affinity="cosine").fit(manifold(3000, DIMENSION)).graph_
    leading_eigenpairs(warm, np.arange(3000, dtype=np.int32), 50)
    nodes = np.arange(n, dtype=np.int32)
    pairs, ours = timed(lambda: leading_eigenpairs(graph, nodes, rank, tol=tol))
    found, theirs, products = _by_scipy(W, rank, limit)
    table = Table(
        f"**Spectral, offline**: the {rank} largest eigenpairs of {n:,} nodes",
        ("eigensolver", "seconds", "speed", "largest residual"),
    )
    if found is None:
        table.rows.append([f"{THEIRS}, stopped", theirs, 1.0, None])
        table.notes.append(
            f"eigsh was stopped before its end, after {products} products with W, so its time is a "
            f"lower bound. At rank 200 on 20,000 nodes it needs about 960 products, in proportion "
            f"{960 * rank // 200} here, and each product costs more as the basis grows."
        )
    else:
        table.rows.append([THEIRS, theirs, 1.0, _residual(W, *found)])
    residual = _residual(W, pairs.values, pairs.vectors)
    table.rows.append([f"leading_eigenpairs, tol {tol:g}", ours, theirs / ours, residual])
    return table


def _by_scipy(
    W: sparse.csr_array, rank: int, limit: float | None
) -> tuple[tuple[NDArray[Any], NDArray[Any]] | None, float, int]:
    """Return scipy's eigenpairs, None if stopped; the seconds; and the products with W."""
    products = 0
    start = time.perf_counter()

    def matvec(v: NDArray[Any]) -> NDArray[Any]:
        nonlocal products
        products += 1
        if limit is not None and time.perf_counter() - start > limit:
            raise _TooLong
        return W @ v.astype(np.float32)

    operator = LinearOperator(W.shape, matvec=matvec, dtype=np.float32)
    try:
        found = eigsh(operator, k=rank, which="LA", tol=1e-3)
    except _TooLong:
        found = None
    return found, time.perf_counter() - start, products


def _residual(W: sparse.csr_array, values: NDArray[Any], vectors: NDArray[Any]) -> float:
    """Return the largest norm of W u - λ u, in float64, 50 vectors at a time."""
    worst = 0.0
    for first in range(0, len(values), 50):
        U = vectors[:, first : first + 50].astype(np.float64)
        error = W @ U - U * values[first : first + 50]
        worst = max(worst, float(np.linalg.norm(error, axis=0).max()))
    return worst
