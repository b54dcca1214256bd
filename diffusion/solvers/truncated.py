"""Diffusion on the subgraph of each query's shortlist."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ..kernels import subgraph as kernels
from ..kernels import threads
from ..kernels.matrix import SparseRows, System
from ..validation import check_choice, check_integer, check_real
from .base import Report, Solution, Solver
from .linalg.blocks import parts

# Observations solved in one call. Few load the threads evenly; many amortise a workspace.
_BATCH_QUERIES = 16


@dataclass
class Truncated(Solver):
    """Conjugate gradient on the subgraph of a query's shortlist, with one query per thread.

    The subgraph has the nodes T: the first `size` candidates of the first stage and the nodes of
    the observation. If no candidates are given, T is grown from the observation to `size` nodes.
    It then holds the nodes that residuals of the observation, pushed along the edges, reach
    first, in descending order of the residual. The solution is 0 outside T.

    With `truncation="late"`, the normalised graph is restricted to W[T, T]. Flow out of T is
    lost; for a non-negative observation every entry of the solution is at most the exact value,
    to which it converges as T grows. With `"early"`, the adjacency matrix A is restricted to
    A[T, T] and then normalised, so that nodes on the border of T send all flow back into T. Late
    truncation is the default because it ranks better in the paper that named it, and in our own
    measurements (mAP with T grown to 300 nodes: digits 83.9 against 79.1, grocery 47.0 against
    32.7).

    Parameters
    ----------
    size : int >= 1, default 1000
        Number of nodes of the shortlist. It is also the attribute `shortlist`, the number of
        candidates that the `Reranker` fetches from the first stage. If it is at least the number
        of nodes of the graph, nothing is truncated.
    truncation : {"late", "early"}, default "late"
        Whether the graph is restricted to T after normalisation (late) or before it (early).
    tol : float > 0, default 1e-6
        A query is converged when ||b - L x|| <= tol ||b|| in its own truncated system, computed
        in float64, with L = I - α W[T, T] and b = (1 - α) y.
    max_iter : int >= 1, default 200
        Maximum number of iterations. Queries that have not converged by then are returned as they
        are, with a `ConvergenceWarning`.

    Notes
    -----
    The solution x is a CSR array whose entries are the nodes T of each query. `report.residual`
    is the relative residual ||b - L x|| / ||b|| in the truncated system. There is no offline work,
    and an update redoes nothing.

    Memory: for a graph of n nodes, 4 n + 80 size bytes and 8 bytes per entry of W[T, T] for each
    thread, and 8 size bytes per query.

    References
    ----------
    Iscen, Tolias, Avrithis, Furon, Chum. Efficient Diffusion on Region Manifolds. CVPR 2017
    (early truncation, of 10,000 nodes).
    Yang, Hinami, Matsui, Ly, Satoh. Efficient Image Retrieval via Decoupling Diffusion into Online
    and Offline Processing. AAAI 2019 (late truncation).
    """

    size: int = 1000
    truncation: str = "late"
    tol: float = 1e-6
    max_iter: int = 200

    name: ClassVar[str] = "truncated"
    limit: ClassVar[str | None] = "max_iter"

    def __post_init__(self) -> None:
        self.shortlist = check_integer(self.size, "size", low=1)
        check_choice(self.truncation, "truncation", ("late", "early"))
        check_real(self.tol, "tol", low=0.0, strict=True)
        check_integer(self.max_iter, "max_iter", low=1)

    def _solve(self, y: SparseRows, candidates: NDArray[np.int64] | None) -> Solution:
        m, n = len(y.counts), self._graph.n_nodes
        listed = np.empty((m, 0), np.int64) if candidates is None else candidates[:, : self.size]
        listed = np.ascontiguousarray(listed)
        grown = min(self.size, n) if candidates is None else 0
        stored = self._stored(y)
        system = System(self._alpha, float(self.tol), self.max_iter)
        entries = np.maximum(np.diff(stored.indptr) + listed.shape[1], grown)
        out = SparseRows.of_at_most(np.minimum(entries, n))
        iterations, work = np.zeros((2, m), np.int64)
        residual = np.zeros(m)

        def solve(part: slice) -> None:
            kernels.truncated(
                self._matrix,
                self._nodes,
                system,
                stored.part(part),
                kernels.Shortlists(listed[part], grown, self.truncation == "early"),
                # Allocated by NumPy, which leaves it to the operating system to provide zero pages
                # on first access. The compiled np.zeros would write to all of them.
                np.zeros(n, np.int32),
                out.part(part),
                kernels.Outcome(iterations[part], residual[part], work[part]),
            )

        threads.side_by_side(solve, parts(m, _BATCH_QUERIES))
        report = Report(residual, iterations, residual <= self.tol, work, np.zeros(m, bool))
        return Solution(out, report)
