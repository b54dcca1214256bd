"""What every solver takes and returns."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ..errors import ConvergenceWarning, DiffusionError
from ..graph import Graph
from ..transfer import RegularizedLaplacian


@dataclass(frozen=True)
class Report:
    """How a solve went, a value for each observation.

    Attributes
    ----------
    residual : ndarray, shape (m,), float64
        ||b - L x|| / ||b|| of the linear system solved, computed from x itself in float64.
    iterations : ndarray, shape (m,), int64
        Iterations in which the column still changed.
    converged : ndarray, shape (m,), bool
        Whether the residual is within the solver's tolerance.
    """

    residual: NDArray[np.float64]
    iterations: NDArray[np.int64]
    converged: NDArray[np.bool_]

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
    x : ndarray, shape (m, n), float32
        h(W) y for each observation, nodes in the user's order; 0 where diffusion did not reach.
    report : Report
    """

    x: NDArray[np.float32]
    report: Report


class Solver(Protocol):
    """A way to apply a transfer function to observations.

    An object of this kind holds numerical settings alone, until `prepare` gives it a graph.
    """

    name: ClassVar[str]

    def prepare(self, graph: Graph, transfer: RegularizedLaplacian) -> Self:
        """Do the offline work; return the solver, ready to solve."""

    def solve(self, observations: Any) -> Solution:
        """Apply h(W) to each row of `observations` (m, n)."""


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
