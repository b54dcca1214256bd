"""Compilation of the package's loops before they are needed."""

from __future__ import annotations

import warnings

import numpy as np

from .errors import ConvergenceWarning
from .neighbors import IVF
from .reranker import Reranker
from .solvers import Local, Solver, make_solver

# A few items in two dimensions: compiled loops do not depend on the sizes of their arguments.
_ITEMS = 24

# Groups of items of a collection that changes.
_GROUPS = 40


def warm_up(*solvers: str) -> None:
    """Compile the loops that a first fit, search, re-ranking or update would compile.

    Loops are compiled when they are first used, which takes about twenty seconds, and are kept in a
    cache on disk: beside the package's source files if that directory is writable, otherwise in
    the user's cache directory, or in the directory that the environment variable NUMBA_CACHE_DIR
    names. Later processes of the same machine type load them. Call this function when a container
    image is built, or when a service starts, so that no query waits. If no cache directory is
    writable, as on a read-only file system, each process compiles again.

    Parameters
    ----------
    *solvers : str
        Names of the solvers to compile: "cg", "spectral", "hybrid", "columns", "truncated",
        "local" or "chebyshev". By default, those that "auto", the default of ``Reranker()``,
        chooses from for the regularised Laplacian.

    Raises
    ------
    DiffusionError
        If a name is unknown; nothing is compiled then.

    Examples
    --------
    >>> import diffusion
    >>> diffusion.warm_up("cg")
    """
    names = solvers or ("truncated", "local", "cg")
    chosen: list[Solver] = [make_solver(name) for name in names]
    if not solvers:
        chosen.append(Local(certify=0))  # as "auto" uses it, which compiles another loop
    angle = np.linspace(0, 3, _ITEMS)
    X = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        # Cells are what "auto" finds neighbours with in large collections.
        for affinity, neighbors in (("context", "exact"), ("cosine", IVF(nlist=2))):
            for solver in chosen:
                ranker = Reranker(k=3, affinity=affinity, solver=solver, neighbors=neighbors).fit(X)
                # One query and several: blocks of both widths are compiled.
                ranker.search(X[0], k=3)
                ranker.rerank(*ranker.search(X, k=3))
                if affinity == "context":
                    ranker.set_params(cautious=True).search(X[0])
            _update(Reranker(k=3, affinity=affinity, solver=names[0], neighbors=neighbors))


def _update(ranker: Reranker) -> None:
    """Change a collection, of which the greatest part stays as it is, and ask about it."""
    angle = np.repeat(np.arange(_GROUPS), 6) + 0.01 * np.tile(np.arange(6), _GROUPS)
    X = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    ranker.fit(X[:-2]).add(X[-2:]).remove(np.arange(2))  # the other items of two groups change
    ranker.search(X[-1], k=9, allow=ranker.ids_[:12])
    ranker.explain(X[-1], int(ranker.ids_[0]))
