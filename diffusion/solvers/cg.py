"""Conjugate gradient on blocks of right-hand sides."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ..devices import RUN_TIME, Blocks, blocks_on, check_device
from ..kernels.blocks import Entries
from ..kernels.matrix import SparseRows
from ..validation import check_integer, check_real
from .base import Report, Solution, Solver
from .linalg.blocks import in_blocks, padded

# A residual updated by recurrence in float32 is trusted until it has fallen by three orders of
# magnitude. It is then recomputed from x in float64.
_TRUSTED_DROP = 1e-3

# Working memory, in bytes per node and right-hand side.
_BYTES = 24


class BlockCG(Solver):
    """Base class of the solvers that run conjugate gradient on blocks of observations."""

    tol: float
    max_iter: int
    block_size: int
    device: str = "cpu"

    limit: ClassVar[str | None] = "max_iter"

    _blocks: Blocks

    def __post_init__(self) -> None:
        check_real(self.tol, "tol", low=0.0, strict=True)
        check_integer(self.max_iter, "max_iter", low=1)
        check_integer(self.block_size, "block_size", low=1)
        check_device(self.device)

    def _attach(self) -> None:
        self._blocks = blocks_on(self.device, self._matrix, self._nodes)

    def _solve(self, rows: SparseRows, candidates: NDArray[np.int64] | None) -> Solution:
        m, n = len(rows.counts), self._graph.n_nodes
        y = rows.csr(n)
        x = np.empty((m, n), np.float32)
        reports = in_blocks(
            lambda part: self._solve_block(y[part], x[part]),
            m,
            self._blocks.width(self.block_size),
            n,
            _BYTES * n,
            concurrent=self._blocks.concurrent,
        )
        return Solution(x, Report.concatenate(reports))

    def _correct(
        self, x: NDArray[np.float64], r: NDArray[np.float32], columns: NDArray[np.bool_]
    ) -> int:
        """Add an approximation of L^-1 r to the given columns of x (n, b), for residuals r (n, b).

        Called at the start, and before each computation of the true residual. Returns the number
        of multiplications per column, 0 if x has not changed.
        """
        return 0

    def _solve_block(self, y: sparse.csr_array, out: NDArray[np.float32]) -> Report:
        """Solve for the rows of y (m, n) together; write the solutions to `out` (m, n)."""
        m = y.shape[0]
        b = padded(m)
        B, largest, norms = self._unit_columns(y, b)
        norm_b = (norms > 0).astype(np.float64)
        x, rho, iterations, corrections = self._iterate(B, norm_b)
        self._blocks.rows(x, (1.0 - self._alpha) * largest * norms, out)
        residual = np.divide(np.sqrt(rho), norm_b, out=np.zeros(b), where=norm_b > 0)[:m]
        return Report(
            residual,
            iterations[:m],
            residual <= self.tol,
            iterations[:m] * len(self._matrix.indices) + corrections,
            np.zeros(m, bool),
        )

    def _unit_columns(
        self, y: sparse.csr_array, b: int
    ) -> tuple[Entries, NDArray[np.float64], NDArray[np.float64]]:
        """Return the rows of y as the unit columns of a block (n, b), with their two scales.

        Unit columns keep computations in float32 within its range. A row of y is its unit column
        times its largest magnitude (first scale) times the norm of the row after division by that
        magnitude (second scale). Both scales are 0 for a row of zeros.
        """
        block = y.tocoo()
        rows = self._graph.position[block.col]
        by_row = np.argsort(rows, kind="stable")
        rows = rows[by_row].astype(np.int64)
        columns = block.row[by_row].astype(np.int64)
        largest = np.zeros(b)
        np.maximum.at(largest, columns, np.abs(block.data[by_row]))
        values = block.data[by_row] / np.where(largest > 0, largest, 1)[columns]
        norms = np.sqrt(np.bincount(columns, weights=values**2, minlength=b))
        values /= np.where(norms > 0, norms, 1)[columns]
        return Entries(rows, columns, values), largest, norms

    def _iterate(
        self, B: Entries, norm_b: NDArray[np.float64]
    ) -> tuple[Any, NDArray[np.float64], NDArray[np.int64], int]:
        """Solve (I - α W) x = B for a block B whose columns have the norms `norm_b` (b,), 1 or 0.

        Returns x (n, b) on the device, the squared norms of the true residuals, the number of
        iterations for each column, and the number of multiplications per column spent on
        corrections.
        """
        blocks, alpha, b = self._blocks, self._alpha, len(norm_b)
        B = blocks.entries(B)
        x = blocks.zeros(b, np.float64)
        r, p, q = (blocks.zeros(b) for _ in range(3))
        blocks.add(1.0, B, r)
        rho = norm_b.copy()  # ||r||², by recurrence or from the true residual
        anchor = rho  # ||r||² when the true residual was last computed
        iterations = np.zeros(b, np.int64)
        frozen = norm_b == 0  # stopped, possibly to be resumed
        corrections = self._correct(x, r, ~frozen)
        if corrections:
            rho = anchor = blocks.residual(alpha, x, B, r)
            frozen |= rho <= (self.tol * norm_b) ** 2
        done = frozen.copy()  # stopped permanently
        blocks.direction(np.zeros(b), np.zeros(b), x, r, p)
        while not done.all():
            active = ~frozen
            curvature = blocks.laplacian(alpha, p, q)
            step = np.divide(rho, curvature, out=np.zeros(b), where=active & (curvature > 0))
            rho_new = blocks.step(step, r, q)
            iterations += active
            exhausted = iterations >= self.max_iter
            # The target is lowered slightly, for the true residual differs from the recurrence.
            frozen |= exhausted | (rho_new <= (0.9 * self.tol * norm_b) ** 2)
            restart = frozen
            if frozen.all() or (active & (rho_new <= _TRUSTED_DROP**2 * anchor)).any():
                blocks.advance(step, x, p)
                step = np.zeros(b)
                extra = self._correct(x, r, ~done)
                recurred, rho_new = rho_new, blocks.residual(alpha, x, B, r)
                # If the recurrence has fallen far and the true residual has not, the precision of
                # float32 is exhausted. If the two differ otherwise, the search direction is
                # inaccurate and is restarted.
                done |= (recurred < 0.01 * anchor) & (rho_new > 0.25 * anchor)
                restart = frozen | (rho_new > 4 * recurred)
                anchor = rho_new
                frozen |= done
                if frozen.all():
                    done = done | exhausted | (rho_new <= (self.tol * norm_b) ** 2)
                    frozen = done.copy()
                if extra:  # x has left the span of the search directions
                    corrections += extra
                    restart = np.ones(b, bool)
            beta = np.divide(rho_new, rho, out=np.zeros(b), where=~restart & (rho > 0))
            blocks.direction(step, beta, x, r, p)
            rho = rho_new
        return x, rho, iterations, corrections


@dataclass
class CG(BlockCG):
    """Conjugate gradient (CG) on L x = (1 - α) y, L = I - α W, for blocks of observations.

    The eigenvalues of W lie in [-1, 1]. L is therefore positive definite, with a condition number
    of at most κ = (1 + α) / (1 - α). The error decreases at least as fast as
    ((√κ - 1) / (√κ + 1))^iterations, whatever the number of nodes: by a factor of 0.87 per
    iteration at α = 0.99.

    The vectors that CG multiplies are stored in float32, and x in float64. The residual that CG
    updates by recurrence is replaced by the true residual whenever it has fallen by three orders
    of magnitude ("reliable updates"). An observation counts as converged only if its true
    residual is within the tolerance.

    Parameters
    ----------
    tol : float > 0, default 1e-6
        An observation is converged when ||b - L x|| <= tol ||b||, with b = (1 - α) y, computed in
        float64 before x is rounded to float32. Its solution then no longer changes. Tolerances
        down to about 1e-12 can be reached; an observation whose residual stagnates above the
        tolerance is stopped with a `ConvergenceWarning`.
    max_iter : int >= 1, default 200
        Maximum number of iterations. Observations that have not converged by then are returned
        as they are, with a `ConvergenceWarning`. The papers stop after 20 iterations.
    block_size : int >= 1, default 32
        Number of observations solved together. A block takes 24 bytes of working memory per node
        and observation. As many blocks are solved concurrently as there are cores, within a
        total of 1 GiB. A GPU takes wider blocks, one at a time.
    device : {"cpu", "cuda", "cuda:N"}, default "cpu"
        Where to compute; a GPU needs torch, the extra `gpu`. It holds 16 bytes per stored weight
        of the graph, and up to 2 GiB for a block, or more if 32 columns take more: 32 bytes per
        node and observation. Sums are computed in another order, so that the last digits differ.
        An index does not store the device; see `diffusion.load`.

    Notes
    -----
    `report.residual` is the true relative residual ||b - L x|| / ||b||. There is no offline work,
    and an update redoes nothing.

    References
    ----------
    Hestenes and Stiefel. Methods of Conjugate Gradients for Solving Linear Systems. 1952.
    Iscen, Tolias, Avrithis, Furon, Chum. Efficient Diffusion on Region Manifolds. CVPR 2017.
    Van der Vorst and Ye. Residual Replacement Strategies for Krylov Subspace Iterative Methods
    for the Convergence of True Residuals. SIAM J. Sci. Comput. 2000.
    Clark, Babich, Barros, Brower, Rebbi. Solving Lattice QCD Systems of Equations Using Mixed
    Precision Solvers on GPUs. Computer Physics Communications 2010.

    Examples
    --------
    >>> import numpy as np, diffusion
    >>> X = np.eye(4)[[0, 0, 1, 1]] + 0.1
    >>> ranker = diffusion.Reranker(k=2, solver=diffusion.CG(tol=1e-8)).fit(X)
    >>> scores, ids = ranker.search(X[0], k=2)
    >>> bool(ranker.report_.converged.all())
    True
    """

    tol: float = 1e-6
    max_iter: int = 200
    block_size: int = 32
    device: str = field(default="cpu", metadata=RUN_TIME)

    name: ClassVar[str] = "cg"
