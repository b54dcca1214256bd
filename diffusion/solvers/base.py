"""The base class of all solvers, and the solution and report that they return."""

from __future__ import annotations

import os
import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ..change import Change
from ..errors import ConvergenceWarning, DiffusionError
from ..graph.graph import Graph
from ..kernels.matrix import Matrix, Nodes, Observations, SparseRows, read_only
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
    unknown : ndarray, shape (m,), int64
        Number of first-stage hits that are not in the collection; they follow by their first-stage
        score.
    confidence : ndarray, shape (m,), float32, or None
        Estimated probability, in [0, 1], that re-ranking does not lose more than one point of
        average precision against the first stage (`diffusion.confidence`). None unless a
        `Reranker` with the contextual affinity and the fusion has made the report.
    relevant : ndarray, shape (m,), int64, or None
        Estimated number of items that belong to the query's own manifold, the first of its results:
        those in the upper class of the fused scores (`diffusion.confidence.relevant_of`). With a
        filter or `restrict_to_candidates`, those of them that may be results; items with the same
        vector count together. None as for `confidence`.
    solver : str
        Name of the solver, which "auto" has chosen.
    """

    residual: NDArray[np.float64]
    iterations: NDArray[np.int64]
    converged: NDArray[np.bool_]
    work: NDArray[np.int64]
    certified: NDArray[np.bool_]
    observed: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64), kw_only=True)
    unknown: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64), kw_only=True)
    confidence: NDArray[np.float32] | None = field(default=None, kw_only=True)
    relevant: NDArray[np.int64] | None = field(default=None, kw_only=True)
    solver: str = field(default="", kw_only=True)

    @classmethod
    def concatenate(cls, reports: list[Report]) -> Report:
        """Concatenate the reports of several batches of observations."""
        if len(reports) == 1:
            return reports[0]
        joined = {n: np.concatenate([getattr(r, n) for r in reports]) for n in reports[0]._known()}
        solvers = dict.fromkeys(name for r in reports for name in r.solver.split(", "))
        return cls(**joined, solver=", ".join(solvers))

    def replaced(self, rows: NDArray[np.int64], report: Report) -> Report:
        """Return this report with the values of some observations from another report."""
        own = {name: getattr(self, name).copy() for name in self._known()}
        for name, values in own.items():
            values[rows] = getattr(report, name)
        names = dict.fromkeys([*self.solver.split(", "), *report.solver.split(", ")])
        return type(self)(**own, solver=", ".join(names))

    def _known(self) -> list[str]:
        """Return the names of the attributes that have a value per observation."""
        names = [f.name for f in fields(self) if f.name != "solver"]
        return [name for name in names if getattr(self, name) is not None]

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
    values : ndarray, shape (m, n), float32, or SparseRows
        h(W) y for each observation y, with nodes in the user's order. Nodes that diffusion did
        not reach have the score 0.
    report : Report
    n_nodes : int
    roots : ndarray, float32, or None
        √d_i, the square root of the degree, of each entry of sparse values, and 1 for an isolated
        node, if the solver has read it; None otherwise.
    """

    values: NDArray[np.float32] | SparseRows
    report: Report
    n_nodes: int = 0
    roots: NDArray[np.float32] | None = None

    @cached_property
    def x(self) -> NDArray[np.float32] | sparse.csr_array:
        """The values as an array; sparse ones as a CSR array (m, n) with sorted indices."""
        if isinstance(self.values, SparseRows):
            return self.values.csr(self.n_nodes)
        return self.values


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

    @property
    def advice(self) -> str | None:
        """What to do about an observation that has not converged, None if that cannot happen."""
        if self.limit is None:
            return None
        return f"raise {type(self).__name__}'s {self.limit} or tol, or lower alpha"

    _graph: Graph
    _matrix: Matrix  # W, in storage order
    _nodes: Nodes
    _transfer: Transfer
    _alpha: float  # set if the transfer function is the regularised Laplacian
    _arrays: dict[str, NDArray[Any]]
    _contents: Contents
    _source: str  # what errors call the state that the arrays belong to

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
        self._source = "arrays"
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
        self._source = source
        self._arrays, self._contents = arrays, Contents(arrays, self._layout(arrays), source)
        self._attach()
        return self

    def changed(
        self,
        graph: Graph,
        change: Change,
        touched: NDArray[np.bool_],
        *,
        progress: bool = False,
    ) -> Self:
        """Return a solver with the same settings for the graph after items came or went.

        This solver remains as it is. The Notes of each solver say what an update computes anew.

        Parameters
        ----------
        graph : Graph
            The graph after the change.
        change : Change
            How the nodes moved.
        touched : ndarray, shape (after,), bool
            The nodes, after the change, whose rows of W have other values or other columns than
            before, apart from the new numbers of nodes. They include the added nodes.
        progress : bool, default False
            Whether to show progress bars on standard error.

        Returns
        -------
        Solver
            A new solver, ready to solve. It is as accurate as one that is prepared for the graph.

        Warns
        -----
        ConvergenceWarning
            If the offline work does not reach its tolerance.
        """
        graph.check()
        new = replace(self)  # type: ignore[type-var]
        new._take(graph, self._transfer)
        new._source = "arrays"
        new._arrays = new._update(self, change, np.asarray(touched, bool), progress)
        new._contents = COMPUTED
        new._attach()
        return new

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the results of the offline work by name, as an index stores them."""
        return self._arrays

    def solve(self, observations: Any, *, candidates: NDArray[np.int64] | None = None) -> Solution:
        """Apply h(W) to each observation.

        Parameters
        ----------
        observations : sparse array, array_like of shape (m, n) or (n,), or SparseRows
            One observation per row, with nodes in the user's order. `SparseRows` are those of
            `Affinity.observe`; they are not checked.
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
        n = self._graph.n_nodes
        y = as_observations(observations, n)
        if candidates is not None:
            candidates = as_candidates(candidates, len(y.counts), n) if self.shortlist else None
        solution = self.apply(y, candidates)
        if self.advice is not None:
            solution.report.warn(self.advice, stacklevel=2)
        return solution

    def apply(self, y: SparseRows, candidates: NDArray[np.int64] | None = None) -> Solution:
        """Do what `solve` does for valid arguments, without warnings.

        Observations have neither duplicate entries nor zeros.
        """
        self.check()
        solution = self._solve(y, candidates)
        report = solution.report
        known = np.zeros(len(y.counts), np.int64)
        name = report.solver or self.name
        report = replace(report, observed=y.counts, unknown=known, solver=name)
        return replace(solution, report=report, n_nodes=self._graph.n_nodes)

    def for_depth(self, depth: int) -> Solver:
        """Return a prepared solver for rankings of that many items: this one, or a copy.

        A solver whose accuracy follows the items that are ranked returns a copy that shares its
        arrays and its memory.
        """
        return self

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

    def _update(
        self, old: Self, change: Change, touched: NDArray[np.bool_], progress: bool
    ) -> dict[str, NDArray[Any]]:
        """Do the offline work for the graph that is set, from that of the graph before a change."""
        return self._precompute(progress, None)

    def _positions(
        self, old: Solver, change: Change
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Return how the storage order follows a change, -1 for a node that is on one side only.

        Returns
        -------
        before : ndarray, shape (after,), int32
            Where the node that is stored at a position was stored before.
        after : ndarray, shape (before,), int32
            Where the node that was stored at a position is stored now.
        """
        source, target = change.source[self._nodes.order], change.target[old._nodes.order]
        before = np.where(source < 0, np.int32(-1), old._nodes.position[source])
        after = np.where(target < 0, np.int32(-1), self._nodes.position[target])
        return before, after

    def _attach(self) -> None:  # noqa: B027
        """Set attributes from `_arrays`, which may be memory-mapped and are not to be read here."""

    @abstractmethod
    def _solve(self, y: SparseRows, candidates: NDArray[np.int64] | None) -> Solution:
        """Solve for valid observations y, which have neither duplicate entries nor zeros."""

    def _stored(self, y: SparseRows) -> Observations:
        """Return observations in the form that kernels take."""
        indptr, ids, values = y.packed()
        return Observations(indptr, self._graph.position[ids], values)

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
        self._matrix = Matrix(*map(read_only, graph.matrix))
        self._nodes = Nodes(*map(read_only, (graph.order, graph.position, graph.degrees)))


def as_observations(observations: Any, n: int) -> SparseRows:
    """Validate observations; return them as rows of float64, without duplicates and zeros.

    Raises
    ------
    DiffusionError
        If the shape is neither (m, n) nor (n,), or if a value is not finite.
    """
    if isinstance(observations, SparseRows):
        return observations
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
    y.eliminate_zeros()
    return SparseRows.of_csr(y)


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
