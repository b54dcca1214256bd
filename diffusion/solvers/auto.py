"""The default solver: the fastest one for the graph."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..kernels.matrix import SparseRows
from ..transfer import RegularizedLaplacian
from ..validation import check_real
from .base import Report, Solution, Solver
from .cg import CG
from .chebyshev import Chebyshev
from .local import Local
from .truncated import Truncated

# A query may take as many multiplications on its neighbourhood as this number of products by W.
# Conjugate gradient takes about half of them.
_PRODUCTS = 40

# The most that `Local` takes, about two seconds.
_MOST = 2**31 - 1

# Entries of W up to which a component is solved whole, in less than a millisecond.
_SMALL = 10_000

# Iterations of conjugate gradient, which suffice for α = 0.9999.
_MAX_ITER = 1000


def choose(entries: int) -> str:
    """Return the name of the fastest solver for the regularised Laplacian.

    The number of observations does not enter: measured on two cores, conjugate gradient on blocks
    of 64 observations takes 0.7 to 0.8 times the time of `Local` on 500 nodes, and more from 2,000
    nodes on. An observation is thus answered alike alone and among others. ``python -m bench
    speed`` prints the times.

    Parameters
    ----------
    entries : int
        Number of entries of W.
    """
    return "truncated" if entries <= _SMALL else "local"


@dataclass
class Auto(Solver):
    """The fastest solver for the graph, to the accuracy that a ranking needs.

    For the regularised Laplacian, an observation is solved on a neighbourhood of it by
    ``Local(certify=0)``, in a time that does not grow with the graph. On a small graph, its whole
    component is solved by `Truncated`. Both agree with ``CG(tol=1e-6)`` on 99 % of the best
    hundred items, or of as many as a ranking has if these are more. If the neighbourhood of an
    observation grows so far that conjugate gradient takes less time, it is solved by `CG`. Other
    transfer functions are applied by `Chebyshev`.

    Parameters
    ----------
    tol : float > 0, optional
        The `tol` of the solver that is used. By default, results are as accurate as their ranking
        needs.

    Notes
    -----
    `report.solver` names the solver that was used, two of them as "local, cg". The other entries
    of the report are as these solvers define them. The offline work is that of `Local`.

    Memory: that of `Local`; that of the other solvers while they solve.

    Examples
    --------
    >>> import numpy as np, diffusion
    >>> angle = np.linspace(0, np.pi, 60)
    >>> X = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    >>> ranker = diffusion.Reranker(k=4).fit(X)
    >>> scores, ids = ranker.search(X[0], k=5)
    >>> ranker.report_.solver
    'truncated'
    """

    tol: float | None = None

    name: ClassVar[str] = "auto"
    any_transfer: ClassVar[bool] = True
    advice: ClassVar[str] = "lower alpha, or use solver=CG(max_iter=...)"

    def __post_init__(self) -> None:
        if self.tol is not None:
            check_real(self.tol, "tol", low=0.0, strict=True)

    def for_depth(self, depth: int) -> Solver:
        """Return a solver that is as accurate as a ranking of that many items needs."""
        solvers = {name: solver.for_depth(depth) for name, solver in self._solvers.items()}
        if solvers == self._solvers:
            return self
        deeper = copy.copy(self)
        deeper._solvers = solvers
        return deeper

    def check(self) -> None:
        """Check nothing: the solvers that are used check what they read."""

    def _precompute(
        self, progress: bool, checkpoint: str | os.PathLike[str] | None
    ) -> dict[str, NDArray[Any]]:
        if not isinstance(self._transfer, RegularizedLaplacian):
            return {}
        return Local().prepare(self._graph, self._transfer).arrays()

    def _attach(self) -> None:
        """Set up the solvers to choose from; only `Local` has arrays of its own."""
        graph, transfer = self._graph, self._transfer
        if not isinstance(transfer, RegularizedLaplacian):
            self._solvers: dict[str, Solver] = {"chebyshev": self.fallback(any_transfer=True)}
        else:
            work = min(max(1, _PRODUCTS * len(graph.indices)), _MOST)
            self._solvers = {
                "truncated": Truncated(graph.n_nodes, max_iter=_MAX_ITER, **self._settings()),
                "cg": self.fallback(any_transfer=False),
                "local": Local(certify=0, max_work=work, **self._settings()),
            }
        for name, solver in self._solvers.items():
            solver.restore(graph, transfer, self._arrays if name == "local" else {}, self._source)

    def fallback(self, *, any_transfer: bool) -> CG | Chebyshev:
        """Return the solver of blocks for what `Local` does not solve, not prepared."""
        if any_transfer:
            return Chebyshev(**self._settings())
        return CG(max_iter=_MAX_ITER, **self._settings(tol=1e-4))

    def _settings(self, **default: float) -> dict[str, Any]:
        return default if self.tol is None else {"tol": self.tol}

    def _solve(self, y: SparseRows, candidates: NDArray[np.int64] | None) -> Solution:
        if "chebyshev" in self._solvers:
            return self._solvers["chebyshev"].apply(y)
        solution = self._solvers[choose(len(self._graph.indices))].apply(y)
        x, report, roots = solution.values, solution.report, solution.roots
        # Reports of several batches are joined, whichever solvers they are of.
        report = Report(**{f.name: getattr(report, f.name) for f in fields(Report)})
        late = np.flatnonzero(~report.converged)
        if len(late) and isinstance(x, SparseRows):
            again = self._solvers["cg"].apply(y.part(late))
            assert isinstance(again.values, np.ndarray)
            x, roots = x.replaced(late, again.values), None
            report = report.replaced(late, again.report)
        return Solution(x, report, roots=roots)
