"""The residual of an iterative solver while it iterates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ..errors import DiffusionError
from ..fitted import Fitted
from ..reranker import Reranker
from ..solvers import CG, Hybrid, Local, Report, Solver, Truncated, make_solver
from ..solvers.local import LocalReport
from ..transfer import RegularizedLaplacian
from ..validation import check_integer
from .figures import BLUE, GREEN, NEUTRAL, ORANGE, check_axes, legend, new_figure, tidy
from .queries import first_stage_for, fitted_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NAMES = {
    "cg": "Conjugate gradient",
    "hybrid": "Conjugate gradient from a spectral start",
    "truncated": "Conjugate gradient on a shortlist",
    "local": "Relaxation on a growing neighbourhood",
}


def plot_convergence(
    ranker: Reranker,
    q: ArrayLike | None = None,
    *,
    item: Any = None,
    hits: tuple[ArrayLike, ArrayLike] | None = None,
    solver: str | Solver | None = None,
    n_points: int = 40,
    ax: Axes | None = None,
) -> Axes:
    """Draw how the residual of a query falls while it is solved.

    For conjugate gradient, the true relative residual after each iteration, the tolerance, and the
    bound ``2 √κ ((√κ - 1) / (√κ + 1))^t`` with ``κ = (1 + α) / (1 - α)``, which holds for every
    graph and every query. For `Local`, the residual and, if it certifies, its bound on the error by
    the number of multiplications, and the point from which the best items are certified.

    Parameters
    ----------
    ranker : Reranker
        Fitted, with the regularised Laplacian.
    q : array_like, shape (d,), optional
        The query, as `Reranker.search` takes it.
    item : int or str, optional
        An item of the collection, whose vector is the query, in place of `q`.
    hits : tuple of array_like, shape (m,), optional
        First-stage scores and ids of the query, as `Reranker.rerank` takes them, in place of `q`.
    solver : {"cg", "hybrid", "truncated", "local"} or solver object, optional
        What to draw, on the graph of the Reranker. By default the solver of the Reranker if it is
        one of these, and `CG` otherwise.
    n_points : int in [2, 200], default 40
        Number of points of a curve at most, evenly spaced; for `Local`, on a logarithmic axis.
    ax : matplotlib Axes, optional
        By default, those of a new figure of pyplot.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    DiffusionError
        If an argument is not as described, or Matplotlib is not installed.

    Notes
    -----
    A report has the residual at the end. Each point is therefore that of a solve which ends there
    (`max_iter` or `max_work`). For conjugate gradient, all of them begin alike. `Local` plans by
    `max_work`, so that its points show what each amount of work leads to. This takes the time of
    n_points / 2 solves. Another solver than that of the Reranker does its offline work first.

    The bound follows from that of the error in the energy norm, whose square is between 1 / (1 + α)
    and 1 / (1 - α) times that of the residual.

    References
    ----------
    Saad. Iterative Methods for Sparse Linear Systems. 2003, equation 6.128.

    Examples
    --------
    >>> import numpy as np, diffusion
    >>> from diffusion.plot import plot_convergence
    >>> angle = np.linspace(0, np.pi, 60)
    >>> X = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    >>> ranker = diffusion.Reranker(k=4).fit(X)
    >>> ax = plot_convergence(ranker, X[0], solver="cg")  # doctest: +SKIP
    """
    check_axes(ax)
    fitted = fitted_of(ranker)
    if check_integer(n_points, "n_points", low=2) > 200:
        raise DiffusionError(f"n_points: expected at most 200, got {n_points}")
    stored = fitted.parameters["transfer"]
    if stored is None or stored["name"] != RegularizedLaplacian.name:
        raise DiffusionError(
            "ranker: expected one with the regularised Laplacian, which is what iterative solvers "
            f"solve for, got transfer={ranker.transfer!r}"
        )
    alpha = float(stored["alpha"])
    transfer = RegularizedLaplacian(alpha)
    prepared = _prepared(fitted, solver, transfer)
    first = first_stage_for(ranker, q, item, hits, max(prepared.shortlist, 1))
    y = fitted.affinity.observe(*first.observed, int(ranker.query_k)).y
    if not y.counts[0]:
        raise DiffusionError("q: expected a query with neighbours, got one without an observation")

    def ending(name: str, limit: int) -> Report:
        setting: dict[str, Any] = {name: limit}
        other = replace(prepared, **setting)
        other.restore(fitted.graph, transfer, prepared.arrays())
        return other.apply(y, first.candidates).report

    reports = _reports(ending, prepared.apply(y, first.candidates).report, n_points)

    ax = ax if ax is not None else new_figure(6.4, 4.2).add_subplot()
    if isinstance(prepared, Local):
        _draw_work(ax, prepared, reports)
    else:
        _draw_iterations(ax, prepared, reports, alpha)
    ax.set_yscale("log")
    ax.set_title(_NAMES[prepared.name])
    ax.grid(True, color=NEUTRAL, alpha=0.25, lw=0.6)
    tidy(ax)
    legend(ax)
    return ax


def _prepared(
    fitted: Fitted, solver: str | Solver | None, transfer: RegularizedLaplacian
) -> CG | Hybrid | Truncated | Local:
    """Return a solver whose residual can be drawn, prepared for the graph."""
    kinds = CG, Hybrid, Truncated, Local
    if solver is None:
        if isinstance(fitted.solver, kinds):
            return fitted.solver
        return CG(max_iter=1000).prepare(fitted.graph, transfer)
    own = make_solver(solver)
    if not isinstance(own, kinds):
        raise DiffusionError(
            f"solver: expected one of 'cg', 'hybrid', 'truncated' and 'local', got {solver!r:.60}"
        )
    return replace(own).prepare(fitted.graph, transfer)  # the argument is left as it is


def _reports(ending: Callable[[str, int], Report], last: Report, n_points: int) -> list[Report]:
    """Return the reports of solves that end ever later, the last one where the solver ends."""
    if isinstance(last, LocalReport):
        name, end = "max_work", max(1, int(last.work[0]))
        limits = np.geomspace(max(1.0, end / 1000), end, n_points)
    else:
        name, end = "max_iter", max(1, int(last.iterations[0]))
        limits = np.linspace(1, end, n_points)
    steps = np.unique(limits.round().astype(int))
    return [*(ending(name, limit) for limit in steps[steps < end].tolist()), last]


def _draw_iterations(
    ax: Axes, solver: CG | Hybrid | Truncated, reports: list[Report], alpha: float
) -> None:
    from matplotlib.ticker import MaxNLocator

    iterations = np.array([report.iterations[0] for report in reports])
    residuals = np.array([report.residual[0] for report in reports])
    ax.plot(
        iterations,
        np.where(residuals > 0, residuals, np.nan),
        "o-",
        color=BLUE,
        ms=3.5,
        gid="residual",
        label="true relative residual",
    )
    if solver.name == "cg":
        root = np.sqrt((1 + alpha) / (1 - alpha))
        steps = np.arange(1, iterations[-1] + 1)
        bound = 2 * root * ((root - 1) / (root + 1)) ** steps
        ax.plot(steps, bound, "--", color=NEUTRAL, gid="bound", label=f"bound for α = {alpha:g}")
    ax.axhline(solver.tol, color=ORANGE, lw=1, ls=":", gid="tolerance", label="tolerance")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("iteration (one product by W)")
    ax.set_ylabel("residual ‖b - Lx‖ / ‖b‖ (no unit)")


def _draw_work(ax: Axes, solver: Local, reports: list[Report]) -> None:
    own = [report for report in reports if isinstance(report, LocalReport)]
    own.sort(key=lambda report: int(report.work[0]))  # not all of a limit is always used
    work = np.array([report.work[0] for report in own])
    curves = [(BLUE, "o-", "residual", "true relative residual ‖b - Lx‖ / ‖b‖")]
    if solver.certify:
        curves.append((GREEN, "s-", "bound", "bound on the error |x - x*| / √d"))
    for colour, style, name, label in curves:
        values = np.array([getattr(report, name)[0] for report in own])
        values = np.where(np.isfinite(values) & (values > 0), values, np.nan)
        ax.plot(work, values, style, color=colour, ms=3.5, gid=name, label=label)
    certified = [report for report in own if report.certified[0]]
    if certified:
        text = f"best {solver.certify} certified"
        ax.axvline(certified[0].work[0], color=ORANGE, lw=1, ls=":", gid="certified", label=text)
    ax.set_xscale("log")
    ax.set_xlabel("work (multiplications by an edge weight)")
    ax.set_ylabel("residual and bound (no unit)" if solver.certify else "residual (no unit)")
