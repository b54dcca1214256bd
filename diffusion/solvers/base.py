"""The base class of all solvers, and the solution and report that they return."""

from __future__ import annotations

import os
import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ..errors import ConvergenceWarning, DiffusionError
from ..graph.graph import Graph
from ..kernels.matrix import Matrix, Nodes, Observations, read_only
from ..storage.contents import COMPUTED, Arrays, Contents, Layout
from ..transfer import RegularizedLaplacian, Transfer


@dataclass(frozen=True)
class Report:
    """Diagnostics of a solve, with one value per observation.

    Attributes
    ----------
    residual : ndarray, shape (m,), float64
        Relative residual, as defined in the documentation of each solver.
    iterations : ndarray, shape (m,), int64
        Number of iterations in which the solution still changed; 0 for direct methods.
    converged : ndarray, shape (m,), bool
        Whether the residual is within the solver's tolerance.
    work : ndarray, shape (m,), int64
        Number of multiplications by a stored value: an edge weight, or an entry of a basis or
        of a stored column.
    certified : ndarray, shape (m,), bool
        Whether the highest-ranked items are proven to be those of the exact solution; False for
        solvers that do not attempt the proof.
    observed : ndarray, shape (m,), int64
        Number of items with a weight in the observation. If it is 0, diffusion has nothing to
        start from: x is 0, and a ranking is that of the first stage.
    """

    residual: NDArray[np.float64]
    iterations: NDArray[np.int64]
    converged: NDArray[np.bool_]
    work: NDArray[np.int64]
    certified: NDArray[np.bool_]
    observed: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64), kw_only=True)

    @classmethod
    def concatenate(cls, reports: list[Report]) -> Report:
        """Concatenate the reports of several batches of observations."""
        names = [f.name for f in fields(cls)]
        return cls(**{n: np.concatenate([getattr(r, n) for r in reports]) for n in names})

    def warn(self, advice: str, stacklevel: int) -> None:
        """Issue a `ConvergenceWarning` if an observation has not converged."""
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
    """Diffused scores, with the report of the solve.

    Attributes
    ----------
    x : ndarray or csr_array, shape (m, n), float32
        h(W) y for each observation y, with nodes in the user's order. Nodes that diffusion did
        not reach have the score 0. Solvers whose solutions are sparse return a CSR array with
        sorted indices.
    report : Report
    """

    x: NDArray[np.float32] | sparse.csr_array
    report: Report


class Solver(ABC):
    """Base class of the algorithms that apply a transfer function h(W) to observations.

    W is the normalised adjacency matrix of a graph, and an observation y assigns a value to each
    of its nodes. A new solver holds numerical settings only, which are its dataclass fields;
    `prepare` or `restore` gives it a graph and a transfer function.

    This class checks arguments and issues warnings. A subclass implements `_solve`; it also
    implements `_precompute` if it has offline work to do, `_layout` to say what the resulting
    arrays must be, and `_attach` if it has to set up attributes from them.
    """

    name: ClassVar[str]

    #: Whether the solver applies any transfer function; if False, only the regularised Laplacian.
    any_transfer: ClassVar[bool] = False

    #: Number of first-stage candidates per query that the solver uses besides the observation.
    shortlist: int = 0

    #: Name of the setting that can end a solve before the tolerance is reached, None if none can.
    limit: ClassVar[str | None] = None

    _graph: Graph
    _matrix: Matrix  # W, in storage order
    _nodes: Nodes
    _transfer: Transfer
    _alpha: float  # set if the transfer function is the regularised Laplacian
    _arrays: dict[str, NDArray[Any]]
    _contents: Contents

    def prepare(
        self,
        graph: Graph,
        transfer: Transfer,
        *,
        progress: bool = False,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Do the offline work for a graph and a transfer function.

        Parameters
        ----------
        graph : Graph
        transfer : Transfer
        progress : bool, default False
            Whether to show progress bars on standard error.
        checkpoint : path-like, optional
            Directory in which solvers with long offline work store their progress. If the process
            is interrupted, a later call with the same graph and settings resumes from it. The
            caller deletes the directory.

        Returns
        -------
        Solver
            The solver itself, ready to solve.

        Raises
        ------
        DiffusionError
            If the solver cannot apply the transfer function.

        Warns
        -----
        ConvergenceWarning
            If the offline work does not reach its tolerance.
        """
        graph.check()
        self._take(graph, transfer)
        self._arrays, self._contents = self._precompute(progress, checkpoint), COMPUTED
        self._attach()
        return self

    def restore(
        self,
        graph: Graph,
        transfer: Transfer,
        arrays: dict[str, NDArray[Any]],
        source: str = "arrays",
    ) -> Self:
        """Set the solver up from the arrays of an earlier `prepare`, in place of a new one.

        The arrays may be memory-mapped; they are not read. Their content is checked on first use.

        Parameters
        ----------
        graph : Graph
            The graph that the solver was prepared for.
        transfer : Transfer
            The transfer function that the solver was prepared for.
        arrays : dict of str to ndarray
            The return value of `arrays`.
        source : str, default "arrays"
            What errors call the state that the arrays belong to.

        Returns
        -------
        Solver
            The solver itself, ready to solve.

        Raises
        ------
        DiffusionError
            If the solver cannot apply the transfer function.
        KeyError, ValueError
            If an array is missing, or has another type or shape than it must.
        """
        self._take(graph, transfer)
        self._arrays, self._contents = arrays, Contents(arrays, self._layout(arrays), source)
        self._attach()
        return self

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the results of the offline work by name, as an index stores them."""
        return self._arrays

    def solve(self, observations: Any, *, candidates: NDArray[np.int64] | None = None) -> Solution:
        """Apply h(W) to each observation.

        Parameters
        ----------
        observations : sparse array or array_like, shape (m, n) or (n,)
            One observation per row, with nodes in the user's order.
        candidates : ndarray, shape (m, c), int, optional
            Item ids returned by the first stage for each observation, best first, padded with -1.
            Solvers whose `shortlist` is 0 ignore them.

        Returns
        -------
        Solution
            The scores x, shape (m, n), float32, and a report with one value per observation.

        Raises
        ------
        DiffusionError
            If an argument does not have the described shape or values.

        Warns
        -----
        ConvergenceWarning
            If the solver does not reach its tolerance for an observation.
        """
        self.check()
        y = as_observations(observations, self._graph.n_nodes)
        if candidates is not None:
            candidates = as_candidates(candidates, *y.shape) if self.shortlist else None
        solution = self._solve(y, candidates)
        if self.limit is not None:
            advice = f"raise {type(self).__name__}'s {self.limit} or tol, or lower alpha"
            solution.report.warn(advice, stacklevel=2)
        y.eliminate_zeros()
        return replace(solution, report=replace(solution.report, observed=np.diff(y.indptr)))

    def check(self) -> None:
        """Check the arrays of the graph and of the solver if they were read from a file.

        Raises
        ------
        DiffusionError
            If they are not what they must be.
        """
        self._graph.check()
        self._contents.check()

    def _layout(self, arrays: Arrays) -> Layout:
        """Return what stored arrays must be, for the graph that is set."""
        return {}

    def _precompute(
        self, progress: bool, checkpoint: str | os.PathLike[str] | None
    ) -> dict[str, NDArray[Any]]:
        """Do the offline work; return its results by name."""
        return {}

    def _attach(self) -> None:  # noqa: B027
        """Set attributes from `_arrays`, which may be memory-mapped and are not to be read here."""

    @abstractmethod
    def _solve(self, y: sparse.csr_array, candidates: NDArray[np.int64] | None) -> Solution:
        """Solve for observations y (m, n), which are valid and have no duplicate entries."""

    def _stored(self, y: sparse.csr_array) -> Observations:
        """Return observations in the form that kernels take."""
        return Observations(y.indptr.astype(np.int64), self._graph.position[y.indices], y.data)

    def _take(self, graph: Graph, transfer: Transfer) -> None:
        """Set the graph and the transfer function; raise if the latter cannot be applied."""
        if isinstance(transfer, RegularizedLaplacian):
            self._alpha = float(transfer.alpha)
        elif not self.any_transfer:
            raise DiffusionError(
                f"transfer: solver {self.name!r} expected a RegularizedLaplacian, got "
                f"{transfer!r}; solvers 'spectral' and 'chebyshev' apply any function"
            )
        self._graph, self._transfer = graph, transfer
        self._matrix = Matrix(*map(read_only, (graph.indptr, graph.indices, graph.weights)))
        self._nodes = Nodes(*map(read_only, (graph.order, graph.position, graph.degrees)))


def as_observations(observations: Any, n: int) -> sparse.csr_array:
    """Validate observations; return them as a CSR array (m, n), float64, without duplicates.

    Raises
    ------
    DiffusionError
        If the shape is neither (m, n) nor (n,), or if a value is not finite.
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
    """Validate the candidates of m observations; return them as an array (m, c), int64.

    Raises
    ------
    DiffusionError
        If the shape is not (m, c), or if a value is not an integer in [-1, n).
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
