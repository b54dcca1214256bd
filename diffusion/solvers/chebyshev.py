"""Any smooth transfer function at full rank, as a Chebyshev polynomial of W."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numba
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ..graph.graph import Graph
from ..kernels import threads
from ..kernels.blocks import columns_to_rows, recurrence_block
from ..transfer import Transfer, chebyshev_coefficients
from ..validation import check_integer, check_real
from .base import Report, Solution, Solver, as_observations

# Below this many nodes a kernel is over before it pays to share it among cores.
_SHARED_NODES = 20_000

# How much the blocks of a solve may take together.
_WORK_BYTES = 1 << 30

# Down to this tolerance rounding in float32 stays below the truncation.
_FLOAT32_TOL = 3e-6

# float32 values in the widest vector register.
_LANES = 16


@dataclass
class Chebyshev(Solver):
    """x = Σ_s c_s T_s(W) y with the Chebyshev coefficients c of h on [-1, 1].

    Every transfer function that is smooth enough for a polynomial of degree 4096, increasing or
    not, at full rank. The sum is taken by Clenshaw's recurrence,

        b_s = c_s y + 2 W b_{s+1} - b_{s+2},    x = c_0 y + W b_1 - b_2,

    a block of observations at a time. For the regularised Laplacian CG reaches the same in fewer
    products with W; the degree is what the worst observation would need.

    Parameters
    ----------
    tol : float > 0, default 1e-6
        Bound on ||x - h(W) y|| / (||y|| max |h|), the sum of the coefficients left out, without
        rounding. Above 3e-6 the vectors are float32, else float64. Down to about 1e-12.
    block_size : int >= 1, default 32
        Observations solved together. Work memory is 16 bytes (8 in float32) times nodes times
        block_size; as many blocks as there are cores are solved side by side while that stays
        below 1 GiB.

    Notes
    -----
    The report's residual is `tol`, the bound kept; iterations is the degree.

    References
    ----------
    Clenshaw. A Note on the Summation of Chebyshev Series. 1955.
    Shuman, Vandergheynst, Frossard. Chebyshev Polynomial Approximation for Distributed Signal
    Processing. DCOSS 2011.

    Examples
    --------
    >>> import numpy as np, diffusion
    >>> graph = diffusion.Reranker(k=2).fit(np.eye(4)[[0, 0, 1, 1]] + 0.1).graph_
    >>> solver = Chebyshev().prepare(graph, diffusion.RegularizedLaplacian(0.5))
    >>> bool(solver.solve(np.eye(4)[0]).report.iterations[0] > 5)
    True
    """

    tol: float = 1e-6
    block_size: int = 32

    name: ClassVar[str] = "chebyshev"

    def __post_init__(self) -> None:
        check_real(self.tol, "tol", low=0.0, strict=True)
        check_integer(self.block_size, "block_size", low=1)

    def prepare(
        self,
        graph: Graph,
        transfer: Transfer,
        *,
        progress: bool = False,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Compute the coefficients.

        Raises
        ------
        DiffusionError
            If the transfer function is not smooth enough.
        """
        self._coefficients = chebyshev_coefficients(transfer, self.tol)
        self._graph = graph
        return self

    def solve(self, observations: Any, *, candidates: NDArray[np.int64] | None = None) -> Solution:
        """Diffuse observations.

        Parameters
        ----------
        observations : sparse array or array_like, shape (m, n) or (n,)
            One a row, nodes in the user's order.
        candidates : ndarray, optional
            Not used.

        Returns
        -------
        Solution
            x (m, n) float32, and the report.
        """
        n = self._graph.n_nodes
        y = as_observations(observations, n)
        m = y.shape[0]
        x = np.empty((m, n), np.float32)
        starts = range(0, m, self.block_size)
        kind = np.float32 if self.tol > _FLOAT32_TOL else np.float64
        cores = numba.get_num_threads()
        affordable = max(1, _WORK_BYTES // (2 * np.dtype(kind).itemsize * n * self.block_size))
        workers = min(cores, len(starts), affordable) if threads.concurrent() else 1
        cores = cores // workers if n >= _SHARED_NODES else 1

        def solve(start: int) -> None:
            part = slice(start, min(m, start + self.block_size))
            with threads.using_cores(cores):
                self._solve_block(y[part], x[part], kind)

        if workers > 1:
            with ThreadPoolExecutor(workers) as pool:
                list(pool.map(solve, starts))
        else:
            for start in starts:
                solve(start)
        degree = len(self._coefficients) - 1
        report = Report(
            np.full(m, self.tol),
            np.full(m, degree, np.int64),
            np.ones(m, bool),
            np.full(m, degree * len(self._graph.indices), np.int64),
            np.zeros(m, bool),
        )
        return Solution(x, report)

    def _solve_block(self, y: sparse.csr_array, out: NDArray[np.float32], kind: Any) -> None:
        """Solve for the rows of y (b, n) together and write the answers to out (b, n)."""
        graph = self._graph
        m = y.shape[0]
        b = 1 if m == 1 else -(-m // _LANES) * _LANES
        entry = y.tocoo()
        where = (graph.position[entry.col], entry.row)
        matrix = (graph.indptr, graph.indices, graph.weights)
        P = np.zeros((graph.n_nodes, b), kind)
        Q = np.zeros((graph.n_nodes, b), kind)
        for s in range(len(self._coefficients) - 1, -1, -1):
            if s < len(self._coefficients) - 1:
                recurrence_block(*matrix, kind(2 if s else 1), kind(0), P, Q)
            Q[where] += (self._coefficients[s] * entry.data).astype(kind)
            P, Q = Q, P
        columns_to_rows(P, graph.position, np.ones(m), out)
