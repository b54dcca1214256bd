"""Solvers: algorithms that apply a transfer function h(W) to observations, one module each."""

from __future__ import annotations

import copy

from ..errors import DiffusionError
from .auto import Auto
from .base import Report, Solution, Solver
from .cg import CG
from .chebyshev import Chebyshev
from .columns import Columns
from .hybrid import Hybrid
from .local import Local
from .spectral import Spectral
from .truncated import Truncated

__all__ = [
    "CG",
    "SOLVERS",
    "Auto",
    "Chebyshev",
    "Columns",
    "Hybrid",
    "Local",
    "Report",
    "Solution",
    "Solver",
    "Spectral",
    "Truncated",
    "make_solver",
]

SOLVERS: dict[str, type[Solver]] = {
    kind.name: kind for kind in (Auto, CG, Spectral, Hybrid, Columns, Truncated, Local, Chebyshev)
}


def make_solver(solver: object) -> Solver:
    """Return a new, unprepared solver, given its name or an object that holds its settings."""
    if isinstance(solver, str) and solver in SOLVERS:
        return SOLVERS[solver]()
    if isinstance(solver, Solver):
        return copy.copy(solver)
    names = ", ".join(repr(name) for name in SOLVERS)
    raise DiffusionError(
        f"solver: expected one of {names} or an object such as CG(), got {solver!r}"
    )
