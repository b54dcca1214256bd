"""The default solver: the fastest one for the graph and the number of observations."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..kernels.matrix import SparseRows
from ..transfer import RegularizedLaplacian
from .base import Report, Solution, Solver
from .cg import CG
from .chebyshev import Chebyshev
from .local import Local

# A query may take as many multiplications on its neighbourhood as this number of products by W.
# Conjugate gradient takes about half of them.
_PRODUCTS = 40

# Relative residual of conjugate gradient. Further iterations do not change the best hundred.
_TOL = 1e-4


def solves_blocks(entries: int, observations: int) -> bool:
    """Return whether conjugate gradient solves observations together faster than `Local` each.

    The crossings are measured; ``python -m bench speed`` prints the times on both sides.

    Parameters
    ----------
    entries : int
        Number of entries of W.
    observations : int
    """
    return observations >= 16 and entries <= 400_000


@dataclass
class Auto(Solver):
    """The fastest solver for the graph and the number of observations.

    For the regularised Laplacian, each observation is solved on a neighbourhood of it by
    ``Local(certify=0)``, in a time that does not grow with the graph. Many observations on a small
    graph are solved together by ``CG(tol=1e-4)``. Both agree with ``CG(tol=1e-6)`` on 99 % of the
    best hundred items. If the neighbourhood of an observation grows so far that conjugate gradient
    takes less time, it is solved by the latter. Other transfer functions are applied by
    ``Chebyshev()``.

    Notes
    -----
    `report.solver` names the solver that was used, two of them as "local, cg". The other entries
    of the report are as these solvers define them.

    Memory: that of `Local`; that of `CG` or `Chebyshev` while they solve.

    Examples
    --------
    >>> import numpy as np, diffusion
    >>> angle = np.linspace(0, np.pi, 60)
    >>> X = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    >>> ranker = diffusion.Reranker(k=4).fit(X)
    >>> scores, ids = ranker.search(X[0], k=5)
    >>> ranker.report_.solver
    'local'
    """

    name: ClassVar[str] = "auto"
    any_transfer: ClassVar[bool] = True
    advice: ClassVar[str] = "lower alpha, or use solver=CG(max_iter=...)"

    def check(self) -> None:
        """Check nothing: the solvers that are used check what they read."""

    def _precompute(
        self, progress: bool, checkpoint: str | os.PathLike[str] | None
    ) -> dict[str, NDArray[Any]]:
        if not isinstance(self._transfer, RegularizedLaplacian):
            return {}
        return self._few().prepare(self._graph, self._transfer).arrays()

    def _attach(self) -> None:
        self._local: Local | None = None
        self._block: Solver = Chebyshev()
        if isinstance(self._transfer, RegularizedLaplacian):
            self._local = self._few().restore(
                self._graph, self._transfer, self._arrays, self._source
            )
            self._block = CG(tol=_TOL)
        self._block.restore(self._graph, self._transfer, {})

    def _few(self) -> Local:
        return Local(certify=0, max_work=max(1, _PRODUCTS * len(self._graph.indices)))

    def _solve(self, y: SparseRows, candidates: NDArray[np.int64] | None) -> Solution:
        if self._local is None or solves_blocks(len(self._matrix.indices), len(y.counts)):
            return self._block.apply(y)
        solution = self._local.apply(y)
        x, report = solution.values, solution.report
        assert isinstance(x, SparseRows)
        report = Report(**{f.name: getattr(report, f.name) for f in fields(Report)})
        late = np.flatnonzero(~report.converged)
        if len(late):
            again = self._block.apply(y.part(late))
            assert isinstance(again.values, np.ndarray)
            x = x.replaced(late, again.values)
            report = report.replaced(late, again.report)
        return Solution(x, report)
