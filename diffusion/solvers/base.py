"""What every solver takes and returns."""

from __future__ import annotations

import os
import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ..errors import ConvergenceWarning, DiffusionError
from ..graph.graph import Graph
from ..transfer import RegularizedLaplacian, Transfer


@dataclass(frozen=True)
class Report:
    """How a solve went, a value for each observation.

    Attributes
    ----------
    residual : ndarray, shape (m,), float64
        Relative residual of what was solved, as the solver's documentation defines it.
    iterations : ndarray, shape (m,), int64
        Iterations in which the answer still changed; 0 for a direct method.
    converged : ndarray, shape (m,), bool
        Whether the residual is within the solver's tolerance.
    work : ndarray, shape (m,), int64
        Multiplications of a stored value (an edge, a basis or a column entry) by a number.
    certified : ndarray, shape (m,), bool
        Whether the best items are provably those of the exact answer; False where a solver does
        not ask.
    """

    residual: NDArray[np.float64]
    iterations: NDArray[np.int64]
    converged: NDArray[np.bool_]
    work: NDArray[np.int64]
    certified: NDArray[np.bool_]

    @classmethod
    def concatenate(cls, reports: list[Report]) -> Report:
        """Join the reports of batches."""
        return cls(*(np.concatenate([getattr(r, f.name) for r in reports]) for f in fields(cls)))

    def warn(self, advice: str, stacklevel: int) -> None:
        """Issue a `ConvergenceWarning` if a column has not converged."""
        if not self.converged.all():
            open_columns = np.flatnonzero(~self.converged)
            warnings.warn(
                f"{len(open_columns)} of {len(self.converged)} observations have not converged "
                f"after {self.iterations.max()} iterations (first: {open_columns[0]}, largest "
                f"relative residual {self.residual.max():.1e}); {advice}",
                ConvergenceWarning,
                stacklevel=stacklevel + 1,
            )


@dataclass(frozen=True)
class Solution:
    """The diffused scores and how they were reached.

    Attributes
    ----------
    x : ndarray or csr_array, shape (m, n), float32
        h(W) y for each observation, nodes in the user's order; 0 where diffusion did not reach.
        A CSR array, indices ascending in a row, from solvers whose answers are sparse.
    report : Report
    """

    x: NDArray[np.float32] | sparse.csr_array
    report: Report


class Solver(ABC):
    """A way to apply a transfer function to observations.

    An object of this kind holds numerical settings alone, its dataclass fields, until `prepare`
    gives it a graph.
    """

    name: ClassVar[str]

    #: First-stage candidates a query that the solver makes use of beside the observation.
    shortlist: int = 0

    @abstractmethod
    def prepare(
        self,
        graph: Graph,
        transfer: Transfer,
        *,
        progress: bool = False,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Do the offline work; return the solver, ready to solve.

        `progress` shows bars on standard error. `checkpoint` is a directory in which offline work
        that can go on after a kill keeps what it has; the caller discards it.

        Raises
        ------
        DiffusionError
            If the solver cannot apply that transfer function.
        """

    @abstractmethod
    def solve(self, observations: Any, *, candidates: NDArray[np.int64] | None = None) -> Solution:
        """Apply h(W) to each row of `observations` (m, n).

        `candidates` (m, c), the first stage's ids, best first and -1 padded, are for solvers that
        look at a shortlist alone.
        """

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what `prepare` made, for the index on disk; names without the solver's."""
        return {}

    def restore(self, graph: Graph, transfer: Transfer, arrays: dict[str, NDArray[Any]]) -> Self:
        """Take what `arrays` returned, memory-mapped, in place of `prepare`; read nothing."""
        return self.prepare(graph, transfer)


def require_regularized_laplacian(name: str, transfer: Transfer) -> float:
    """Return the α of a solver's system I - α W, or raise."""
    if not isinstance(transfer, RegularizedLaplacian):
        raise DiffusionError(
            f"transfer: solver {name!r} solves with I - α W and expected a RegularizedLaplacian, "
            f"got {transfer!r}; 'spectral' and 'chebyshev' apply any function"
        )
    return float(transfer.alpha)


def as_observations(observations: Any, n: int) -> sparse.csr_array:
    """Check observations and return them as a CSR array (m, n), float64, without duplicates.

    Raises
    ------
    DiffusionError
        If the shape is not (m, n) or (n,), or a value is not finite.
    """
    if sparse.issparse(observations):
        y = sparse.csr_array(observations, dtype=np.float64, copy=True)
    else:
        y = sparse.csr_array(np.atleast_2d(np.asarray(observations, dtype=np.float64)))
    if y.shape[1] != n or y.ndim != 2:
        raise DiffusionError(
            f"observations: expected shape (m, {n}) or ({n},), got {np.shape(observations)}"
        )
    if not np.isfinite(y.data).all():
        raise DiffusionError("observations: expected finite values, got NaN or infinity")
    y.sum_duplicates()
    return y
