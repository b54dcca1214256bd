"""Diffusion on the graph cut to each query's shortlist."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ..errors import DiffusionError
from ..graph.graph import Graph
from ..kernels import subgraph as kernels
from ..transfer import Transfer
from ..validation import check_choice, check_integer, check_real
from .base import Report, Solution, Solver, as_observations, require_regularized_laplacian

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

    def __post_init__(self) -> None:
        self.shortlist = check_integer(self.size, "size", low=1)
        check_choice(self.truncation, "truncation", ("late", "early"))
        check_real(self.tol, "tol", low=0.0, strict=True)
        check_integer(self.max_iter, "max_iter", low=1)

    def prepare(
        self,
        graph: Graph,
        transfer: Transfer,
        *,
        progress: bool = False,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Take the graph and the transfer function; there is nothing else to do offline.

        Raises
        ------
        DiffusionError
            If the transfer function is not the regularised Laplacian.
        """
        self._alpha = require_regularized_laplacian(self.name, transfer)
        self._graph = graph
        return self

    def solve(self, observations: Any, *, candidates: NDArray[np.int64] | None = None) -> Solution:
        """Diffuse observations.

        Parameters
        ----------
        observations : sparse array or array_like, shape (m, n) or (n,)
            One a row, nodes in the user's order.
        candidates : ndarray, shape (m, c), int, optional
            The first stage's ids, best first and -1 padded; the first `size` are used. None: the
            shortlist grows from the observation.

        Returns
        -------
        Solution
            x (m, n), a CSR array that holds the nodes of each query's truncated graph.

        Warns
        -----
        ConvergenceWarning
            If a query has not reached `tol` within `max_iter` iterations.
        """
        graph = self._graph
        n = graph.n_nodes
        y = as_observations(observations, n)
        m = y.shape[0]
        if candidates is None:
            grown = min(self.size, n)
            listed = np.empty((m, 0), np.int64)
        else:
            grown = 0
            listed = np.ascontiguousarray(_check_candidates(candidates, m, n)[:, : self.size])
        nodes, indptr = graph.position[y.indices], y.indptr.astype(np.int64)
        room = np.minimum(np.maximum(np.diff(indptr) + listed.shape[1], grown), n)
        starts = np.concatenate([[0], np.cumsum(room, dtype=np.int64)])
        out_ids = np.empty(starts[-1], np.int32)
        out_values = np.empty(starts[-1], np.float32)
        counts, iterations, work = np.zeros((3, m), np.int64)
        residual = np.zeros(m)

        def solve(start: int) -> None:
            part = slice(start, min(m, start + _BATCH_QUERIES))
            kernels.truncated(
                graph.indptr,
                graph.indices,
                graph.weights,
                graph.order,
                graph.position,
                graph.degrees,
                self._alpha,
                self.tol,
                self.max_iter,
                self.truncation == "early",
                grown,
                indptr[part.start : part.stop + 1],
                nodes,
                y.data,
                listed[part],
                starts[part],
                # From NumPy, whose zeros are pages that the system provides when touched: the
                # compiled np.zeros writes them all.
                np.zeros(n, np.int32),
                out_ids,
                out_values,
                counts[part],
                iterations[part],
                residual[part],
                work[part],
            )

        kernels.in_threads(solve, range(0, m, _BATCH_QUERIES))
        x = kernels.compressed(out_ids, out_values, starts, counts, n)
        report = Report(residual, iterations, residual <= self.tol, work, np.zeros(m, bool))
        report.warn("raise Truncated's max_iter or tol, or lower alpha", stacklevel=2)
        return Solution(x, report)


def _check_candidates(candidates: Any, m: int, n: int) -> NDArray[np.int64]:
    ids = np.asarray(candidates)
    if ids.ndim != 2 or len(ids) != m or ids.dtype.kind not in "iu":
        raise DiffusionError(
            f"candidates: expected integers of shape ({m}, c), got shape {ids.shape}, "
            f"dtype {ids.dtype}"
        )
    if ((ids < -1) | (ids >= n)).any():
        raise DiffusionError(f"candidates: expected ids in [-1, {n})")
    return ids.astype(np.int64, copy=False)
