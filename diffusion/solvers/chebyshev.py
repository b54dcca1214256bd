"""Chebyshev polynomials of W, which approximate any smooth transfer function at full rank."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ..devices import RUN_TIME, blocks_on, check_device
from ..kernels.blocks import Entries
from ..kernels.matrix import SparseRows
from ..transfer import chebyshev_coefficients
from ..validation import check_integer, check_real
from .base import Report, Solution, Solver
from .linalg.blocks import in_blocks, padded

# Down to this tolerance, the rounding error of float32 is below the truncation error.
_FLOAT32_TOL = 3e-6


@dataclass
class Chebyshev(Solver):
    """Chebyshev expansion x = Σ_s c_s T_s(W) y, with the coefficients c of h on [-1, 1].

    This solver applies, at full rank, every transfer function h that a polynomial of degree 4096
    approximates to the tolerance. The function need not be increasing. The sum is evaluated by
    Clenshaw's recurrence on blocks of observations:

        b_s = c_s y + 2 W b_{s+1} - b_{s+2},    x = c_0 y + W b_1 - b_2.

    For the regularised Laplacian, `CG` reaches the same accuracy with fewer products by W: its
    number of iterations depends on the observation, whereas the degree of the polynomial has to
    suffice for every observation.

    Parameters
    ----------
    tol : float > 0, default 1e-6
        Bound on ``||x - h(W) y|| / (||y|| max |h|)``, without rounding errors: the sum of the
        magnitudes of the omitted coefficients, relative to ``max |h|``. Vectors are stored in
        float32 for tolerances above 3e-6, and in float64 otherwise. Tolerances down to about 1e-12
        can be reached.
    block_size : int >= 1, default 32
        Number of observations solved together. A block takes 16 bytes of working memory per node
        and observation, or 8 bytes in float32. As many blocks are solved concurrently as there
        are cores, within a total of 1 GiB. A GPU takes wider blocks, one at a time.
    device : {"cpu", "cuda", "cuda:N"}, default "cpu"
        Where to compute, as for `CG`.

    Raises
    ------
    DiffusionError
        By `prepare`, if the transfer function is not smooth enough.

    Notes
    -----
    `report.residual` is the bound `tol`, and `report.iterations` is the degree of the polynomial.
    There is no offline work, and an update redoes nothing.

    References
    ----------
    Clenshaw. A Note on the Summation of Chebyshev Series. 1955.
    Shuman, Vandergheynst, Frossard. Chebyshev Polynomial Approximation for Distributed Signal
    Processing. DCOSS 2011.

    Examples
    --------
    >>> import numpy as np, diffusion
    >>> graph = diffusion.Reranker(k=2).fit([[9, 1], [9, 2], [1, 9], [2, 9]]).graph_
    >>> solver = Chebyshev().prepare(graph, diffusion.RegularizedLaplacian(0.5))
    >>> bool(solver.solve(np.eye(4)[0]).report.iterations[0] > 5)
    True
    """

    tol: float = 1e-6
    block_size: int = 32
    device: str = field(default="cpu", metadata=RUN_TIME)

    name: ClassVar[str] = "chebyshev"
    any_transfer: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_real(self.tol, "tol", low=0.0, strict=True)
        check_integer(self.block_size, "block_size", low=1)
        check_device(self.device)

    def _attach(self) -> None:
        self._coefficients = chebyshev_coefficients(self._transfer, self.tol)
        self._blocks = blocks_on(self.device, self._matrix, self._nodes)

    def _solve(self, rows: SparseRows, candidates: NDArray[np.int64] | None) -> Solution:
        m, n = len(rows.counts), self._graph.n_nodes
        y = rows.csr(n)
        x = np.empty((m, n), np.float32)
        kind = np.float32 if self.tol > _FLOAT32_TOL else np.float64
        in_blocks(
            lambda part: self._solve_block(y[part], x[part], kind),
            m,
            self._blocks.width(self.block_size),
            n,
            2 * np.dtype(kind).itemsize * n,
            concurrent=self._blocks.concurrent,
        )
        degree = len(self._coefficients) - 1
        report = Report(
            np.full(m, self.tol),
            np.full(m, degree, np.int64),
            np.ones(m, bool),
            np.full(m, degree * len(self._matrix.indices), np.int64),
            np.zeros(m, bool),
        )
        return Solution(x, report)

    def _solve_block(self, y: sparse.csr_array, out: NDArray[np.float32], kind: Any) -> None:
        """Solve for the rows of y (m, n) together; write the solutions to `out` (m, n)."""
        m, entry, blocks = y.shape[0], y.tocoo(), self._blocks
        rows = self._graph.position[entry.col].astype(np.int64)
        B = blocks.entries(Entries(rows, entry.row.astype(np.int64), entry.data))
        P, Q = (blocks.zeros(padded(m), kind) for _ in range(2))
        for s in range(len(self._coefficients) - 1, -1, -1):
            if s < len(self._coefficients) - 1:
                blocks.recurrence(2 if s else 1, P, Q)
            blocks.add(float(self._coefficients[s]), B, Q)
            P, Q = Q, P
        blocks.rows(P, np.ones(m), out)
