"""Diffusion on the graph cut to each query's shortlist."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ..kernels import subgraph as kernels
from ..kernels.matrix import SparseRows, System
from ..validation import check_choice, check_integer, check_real
from .base import Report, Solution, Solver
from .linalg.blocks import parts, side_by_side

# Observations solved in one call: an even share among threads against workspaces allocated.
_BATCH_QUERIES = 16


@dataclass
class Truncated(Solver):
    """Conjugate gradient on the graph cut to a query's shortlist, a query a thread.

    The nodes T that are left are the first `size` candidates of the first stage and the nodes of
    the observation. Without candidates, T grows from the observation to `size` nodes: those that
    its residuals, pushed along the edges, reach first, the largest first. The answer is 0
    outside T.

    `truncation="late"` cuts the normalised graph, W[T, T]: what would flow out of T is lost, and
    every entry is at most the exact one and approaches it as T grows. `"early"` cuts A and
    normalises what is left: the nodes at the border of T send everything back into it. Late
    truncation is the default: it is the better in the paper that named it and in our own
    measurements (mAP with 300 grown nodes: digits 83.9 against 79.1, grocery 47.0 against 32.7).

    Memory online: 4 n + 80 size + 8 entries of W[T, T] bytes a thread, and 8 size bytes a query.

    Parameters
    ----------
    size : int >= 1, default 1000
        Nodes of the shortlist; the solver's `shortlist`, which the Reranker fetches from the
        first stage. From the number of nodes on nothing is cut.
    truncation : {"late", "early"}, default "late"
        Whether the graph is cut after it is normalised or before.
    tol : float > 0, default 1e-6
        A query is converged when ||b - L x|| <= tol ||b|| in its own truncated system, computed
        in float64.
    max_iter : int >= 1, default 200
        Queries that are not converged by then are returned as they are, with a
        `ConvergenceWarning`.

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

    def _solve(self, y: sparse.csr_array, candidates: NDArray[np.int64] | None) -> Solution:
        m, n = y.shape
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
                # From NumPy, whose zeros are pages that the system provides when touched: the
                # compiled np.zeros writes them all.
                np.zeros(n, np.int32),
                out.part(part),
                kernels.Outcome(iterations[part], residual[part], work[part]),
            )

        side_by_side(solve, parts(m, _BATCH_QUERIES))
        report = Report(residual, iterations, residual <= self.tol, work, np.zeros(m, bool))
        return Solution(kernels.compressed(out, n), report)
