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
from ..kernels.matrix import Matrix, Nodes, Observations, read_only
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
    gives it a graph. A subclass computes in `_solve`, does its offline work in `_precompute`, and
    opens what that made in `_attach`; checks, warnings and documentation are here.
    """

    name: ClassVar[str]

    #: Whether the solver applies any transfer function, or the regularised Laplacian alone.
    any_transfer: ClassVar[bool] = False

    #: First-stage candidates a query that the solver makes use of beside the observation.
    shortlist: int = 0

    #: The setting that may end a solve before its tolerance is reached, None without such.
    limit: ClassVar[str | None] = None

    _graph: Graph
    _matrix: Matrix  # W, in storage order
    _nodes: Nodes
    _transfer: Transfer
    _alpha: float  # of the regularised Laplacian, where the solver applies nothing else
    _arrays: dict[str, NDArray[Any]]

    def prepare(
        self,
        graph: Graph,
        transfer: Transfer,
        *,
        progress: bool = False,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Do the offline work; return the solver, ready to solve.

        Parameters
        ----------
        graph : Graph
        transfer : Transfer
        progress : bool, default False
            Show bars on standard error.
        checkpoint : path-like, optional
            A directory in which offline work that can go on after a kill keeps what it has. A
            later call with the same graph and settings goes on from it; the caller discards it.

        Raises
        ------
        DiffusionError
            If the solver cannot apply that transfer function.

        Warns
        -----
        ConvergenceWarning
            If the offline work has not reached its tolerance.
        """
        self._take(graph, transfer)
        self._arrays = self._precompute(progress, checkpoint)
        self._attach()
        return self

    def restore(self, graph: Graph, transfer: Transfer, arrays: dict[str, NDArray[Any]]) -> Self:
        """Take what `arrays` returned, memory-mapped, in place of `prepare`; read nothing."""
        self._take(graph, transfer)
        self._arrays = arrays
        self._attach()
        return self

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what `prepare` made, for the index on disk; names without the solver's."""
        return self._arrays

    def solve(self, observations: Any, *, candidates: NDArray[np.int64] | None = None) -> Solution:
        """Apply h(W) to each observation.

        Parameters
        ----------
        observations : sparse array or array_like, shape (m, n) or (n,)
            One a row, nodes in the user's order.
        candidates : ndarray, shape (m, c), int, optional
            The first stage's ids, best first and -1 padded. Solvers whose `shortlist` is 0 make
            no use of them.

        Returns
        -------
        Solution
            x (m, n), float32, and the report on each of the m observations.

        Raises
        ------
        DiffusionError
            If an argument is not as described.

        Warns
        -----
        ConvergenceWarning
            If an observation has not reached the solver's tolerance within its limit.
        """
        y = as_observations(observations, self._graph.n_nodes)
        if candidates is not None:
            candidates = as_candidates(candidates, *y.shape) if self.shortlist else None
        solution = self._solve(y, candidates)
        if self.limit is not None:
            advice = f"raise {type(self).__name__}'s {self.limit} or tol, or lower alpha"
            solution.report.warn(advice, stacklevel=2)
        return solution

    def _precompute(
        self, progress: bool, checkpoint: str | os.PathLike[str] | None
    ) -> dict[str, NDArray[Any]]:
        """Return the arrays that the offline work makes, which are stored in an index."""
        return {}

    def _attach(self) -> None:  # noqa: B027
        """Take up `_arrays`, which may be memory-mapped, without reading them."""

    @abstractmethod
    def _solve(self, y: sparse.csr_array, candidates: NDArray[np.int64] | None) -> Solution:
        """Solve for observations y (m, n) that are checked and free of duplicates."""

    def _stored(self, y: sparse.csr_array) -> Observations:
        """Return observations as kernels take them."""
        return Observations(y.indptr.astype(np.int64), self._graph.position[y.indices], y.data)

    def _take(self, graph: Graph, transfer: Transfer) -> None:
        """Set the graph and the transfer function, or raise where it cannot be applied."""
        if isinstance(transfer, RegularizedLaplacian):
            self._alpha = float(transfer.alpha)
        elif not self.any_transfer:
            raise DiffusionError(
                f"transfer: solver {self.name!r} solves with I - α W and expected a "
                f"RegularizedLaplacian, got {transfer!r}; 'spectral' and 'chebyshev' apply any "
                "function"
            )
        self._graph, self._transfer = graph, transfer
        self._matrix = Matrix(*map(read_only, (graph.indptr, graph.indices, graph.weights)))
        self._nodes = Nodes(*map(read_only, (graph.order, graph.position, graph.degrees)))


def as_observations(observations: Any, n: int) -> sparse.csr_array:
    """Check observations and return them as a CSR array (m, n), float64, without duplicates.

    Raises
    ------
    DiffusionError
        If the shape is not (m, n) or (n,), or a value is not finite.
    """
    try:
        if sparse.issparse(observations):
            y = sparse.csr_array(observations, dtype=np.float64, copy=True)
        else:
            y = sparse.csr_array(np.atleast_2d(np.asarray(observations, dtype=np.float64)))
    except (TypeError, ValueError):
        raise DiffusionError(
            f"observations: expected numbers of shape (m, {n}) or ({n},), got {observations!r:.60}"
        ) from None
    if y.ndim != 2 or y.shape[1] != n:
        raise DiffusionError(
            f"observations: expected shape (m, {n}) or ({n},), got {np.shape(observations)}"
        )
    if not np.isfinite(y.data).all():
        raise DiffusionError("observations: expected finite values, got NaN or infinity")
    y.sum_duplicates()
    return y


def as_candidates(candidates: Any, m: int, n: int) -> NDArray[np.int64]:
    """Check the candidates of m observations and return them as an array (m, c), int64.

    Raises
    ------
    DiffusionError
        If the shape is not (m, c), or a value is not an integer in [-1, n).
    """
    ids = np.asarray(candidates)
    if ids.ndim != 2 or len(ids) != m or ids.dtype.kind not in "iu":
        raise DiffusionError(
            f"candidates: expected integers of shape ({m}, c), got shape {ids.shape}, "
            f"dtype {ids.dtype}"
        )
    if ((ids < -1) | (ids >= n)).any():
        raise DiffusionError(f"candidates: expected ids in [-1, {n})")
    return ids.astype(np.int64, copy=False)
