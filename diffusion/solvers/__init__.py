"""Ways to apply a transfer function h(W) to an observation, one file each."""

from __future__ import annotations

import copy

from ..errors import DiffusionError
from .base import Report, Solution, Solver, as_observations
from .cg import CG

__all__ = ["CG", "SOLVERS", "Report", "Solution", "Solver", "as_observations", "make_solver"]

SOLVERS: dict[str, type[Solver]] = {kind.name: kind for kind in (CG,)}


def make_solver(solver: object) -> Solver:
    """Return a fresh, unprepared solver from a name or an object with settings."""
    if isinstance(solver, str) and solver in SOLVERS:
        return SOLVERS[solver]()
    if isinstance(solver, Solver):
        return copy.copy(solver)
    names = ", ".join(repr(name) for name in SOLVERS)
    raise DiffusionError(
        f"solver: expected one of {names} or an object such as CG(), got {solver!r}"
    )
