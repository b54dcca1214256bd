"""Conjugate gradient for many right-hand sides at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ..kernels.blocks import (
    Entries,
    columns_to_rows,
    direction_block,
    laplacian_block,
    residual_block,
    step_block,
)
from ..kernels.threads import chunks
from ..validation import check_integer, check_real
from .base import Report, Solution, Solver
from .linalg.blocks import in_blocks, padded

# A residual kept by recurrence in float32 is trusted over three orders of magnitude, then it is
# computed afresh from x in float64.
_TRUSTED_DROP = 1e-3

# Work memory of a solve, in bytes a node and right-hand side.
_BYTES = 24


class BlockCG(Solver):
    """The loop of conjugate gradient, for solvers that hold its three settings."""

    tol: float
    max_iter: int
    block_size: int

    limit: ClassVar[str | None] = "max_iter"

    def __post_init__(self) -> None:
        check_real(self.tol, "tol", low=0.0, strict=True)
        check_integer(self.max_iter, "max_iter", low=1)
        check_integer(self.block_size, "block_size", low=1)

    def _solve(self, y: sparse.csr_array, candidates: NDArray[np.int64] | None) -> Solution:
        m, n = y.shape
        x = np.empty((m, n), np.float32)
        reports = in_blocks(
            lambda part: self._solve_block(y[part], x[part]), m, self.block_size, n, _BYTES * n
        )
        return Solution(x, Report.concatenate(reports))

    def _correct(
        self, x: NDArray[np.float64], r: NDArray[np.float32], columns: NDArray[np.bool_]
    ) -> int:
        """Add to these columns of x (n, b) what is known of L^-1 r, for residuals r (n, b).

        Called at the start and wherever the true residual is computed, which follows. Returns the
        multiplications a column; 0 for no change.
        """
        return 0

    def _solve_block(self, y: sparse.csr_array, out: NDArray[np.float32]) -> Report:
        """Solve for the rows of y (b, n) together and write the solutions to out (b, n)."""
        m = y.shape[0]
        b = padded(m)
        B, largest, norms = self._unit_columns(y, b)
        norm_b = (norms > 0).astype(np.float64)
        x, rho, iterations, corrections = self._iterate(B, norm_b)
        columns_to_rows(x, self._nodes.position, (1.0 - self._alpha) * largest * norms, out)
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
        """Return the rows of y as columns of norm 1 of a block (n, b), and what they are times.

        What is computed in float32 then never leaves its range. A row of y is its column times
        two numbers, its largest magnitude and the norm after division by it; 0 where y is 0.
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
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64], int]:
        """Solve (I - α W) x = B, whose columns have the norms `norm_b` (b,), 1 or 0.

        Returns x (n, b), the squared norms of the true residuals, the iterations of each column
        and the multiplications that corrections took.
        """
        matrix, n, b = self._matrix, self._graph.n_nodes, len(norm_b)
        alpha = np.float32(self._alpha)
        sums = np.empty((chunks(n), b), np.float64)
        x = np.zeros((n, b), np.float64)
        r = np.zeros((n, b), np.float32)
        r[B.rows, B.columns] = B.values
        q = np.empty_like(r)
        rho = norm_b.copy()  # ||r||², as CG knows it
        anchor = rho  # ||r||² when r was last the true residual
        iterations = np.zeros(b, np.int64)
        frozen = norm_b == 0  # stopped by the recurrence, or for good
        corrections = self._correct(x, r, ~frozen)
        if corrections:
            residual_block(matrix, self._alpha, x, B, q, sums)
            r, q = q, r
            rho = anchor = sums.sum(axis=0)
            frozen |= rho <= (self.tol * norm_b) ** 2
        done = frozen.copy()  # stopped for good
        p = r.copy()
        while not done.all():
            active = ~frozen
            laplacian_block(matrix, alpha, p, q, sums)
            curvature = sums.sum(axis=0)
            step = np.divide(rho, curvature, out=np.zeros(b), where=active & (curvature > 0))
            step_block(step, x, r, p, q, sums)
            rho_new = sums.sum(axis=0)
            iterations += active
            exhausted = iterations >= self.max_iter
            # A little below the target: the true residual is not quite the recurrence's.
            frozen |= exhausted | (rho_new <= (0.9 * self.tol * norm_b) ** 2)
            restart = frozen
            if frozen.all() or (active & (rho_new <= _TRUSTED_DROP**2 * anchor)).any():
                extra = self._correct(x, r, ~done)
                residual_block(matrix, self._alpha, x, B, q, sums)
                r, q = q, r
                recurred, rho_new = rho_new, sums.sum(axis=0)
                # Where the recurrence fell far and the true residual did not, float32 has given
                # what it can; where the two have parted otherwise, the direction is worthless.
                done |= (recurred < 0.01 * anchor) & (rho_new > 0.25 * anchor)
                restart = frozen | (rho_new > 4 * recurred)
                anchor = rho_new
                frozen |= done
                if frozen.all():
                    done = done | exhausted | (rho_new <= (self.tol * norm_b) ** 2)
                    frozen = done.copy()
                if extra:  # x left the span of the search directions
                    corrections += extra
                    restart = np.ones(b, bool)
            beta = np.divide(rho_new, rho, out=np.zeros(b), where=~restart & (rho > 0))
            direction_block(beta, r, p)
            rho = rho_new
        return x, rho, iterations, corrections


@dataclass
class CG(BlockCG):
    """Conjugate gradient on (I - α W) x = (1 - α) y, a block of observations at a time.

    W has its eigenvalues in [-1, 1], so that I - α W is positive definite with a condition number
    of at most κ = (1 + α) / (1 - α): the error falls as ((√κ - 1) / (√κ + 1))^iterations or
    faster, 0.87 an iteration at α = 0.99, whatever the number of nodes.

    The vectors that CG multiplies are float32 and x is float64. The residual that CG updates by
    recurrence is replaced by the true one whenever it has fallen by three orders of magnitude
    ("reliable updates"), and no column counts as converged before its true residual says so.

    Parameters
    ----------
    tol : float > 0, default 1e-6
        A column is converged when ||b - L x|| <= tol ||b||, computed in float64 before x is
        rounded to float32; it then stops changing. Down to about 1e-12; a column that gets no
        further stops too, with a `ConvergenceWarning`.
    max_iter : int >= 1, default 200
        Columns that are not converged by then are returned as they are, with a
        `ConvergenceWarning`. The papers stop at 20.
    block_size : int >= 1, default 32
        Observations solved together. Work memory is 24 bytes times nodes times block_size; as
        many blocks as there are cores are solved side by side while that stays below 1 GiB.

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

    name: ClassVar[str] = "cg"
