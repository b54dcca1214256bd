"""Solvers: algorithms that apply a transfer function h(W) to observations, one module each."""

from __future__ import annotations

import copy
import inspect
from dataclasses import replace

from ..devices import check_device, require
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
    "on_device",
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


def on_device(solver: object, device: str, *, any_transfer: bool) -> Solver:
    """Return a new, unprepared solver that computes on a device.

    `Auto` is replaced by the solver of blocks that it falls back on; `any_transfer` says whether
    the transfer function is another one than the regularised Laplacian.

    Raises
    ------
    DiffusionError
        If the solver computes on the CPU only, or the device is not present.
    """
    made = make_solver(solver)
    if isinstance(made, Auto):
        made = made.fallback(any_transfer=any_transfer)
    able = [kind for kind in SOLVERS.values() if "device" in inspect.signature(kind).parameters]
    if type(made) not in able:
        names = " and ".join(repr(kind.name) for kind in able)
        raise DiffusionError(
            f"device: expected 'cpu' for solver {made.name!r}, got {device!r}; only {names} "
            "compute on a GPU"
        )
    require(check_device(device))
    return replace(made, device=device)  # type: ignore[type-var]
