"""Compiled loops of the local solver: the solve to its tolerance and then to its certificate."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .bounds import INSIDE, ROW_SUM_SLACK, Bounds, bounds, certificate, shield
from .support import FULL, LocalGraph, State, Workspace, grow, relax, touch
from .threads import contracting

# A support that is too small affects the ranking more than too few sweeps. The residual outside the
# support is therefore reduced to this fraction of the tolerance.
_BESIDE = 1.0 / 3.0

# Bounds decrease approximately as support^(-1 / _GROWTH).
_GROWTH = 0.68

# Approximate number of sweeps of a stage, over the support at its end, and the largest factor by
# which a stage grows the support.
_STAGE = 60
_LEAP = 32.0


class Settings(NamedTuple):
    """The parameters of a solve, as in `diffusion.Local`."""

    alpha: float
    tol: float
    certify: int
    max_work: int


class Answer(NamedTuple):
    """The result of a solve, except for x, which is in the workspace."""

    state: State
    bounds: Bounds
    certified: bool
    squares: float  # ||r||²


@contracting
def solve(
    graph: LocalGraph, settings: Settings, work: Workspace, places: Any, values: Any
) -> Answer:
    """Solve (I - α W) x = b for one sparse b, with b[places] = values in storage order.

    `work.number` is -1 everywhere before and after the call. If `state.halt` is FULL
    in the result, the workspace is too small, and the caller calls again with a larger one; if it
    is DAMAGED, an edge is not one of W.
    """
    alpha = settings.alpha
    omega = 2.0 / (1.0 + np.sqrt(1.0 - alpha * alpha))
    state = _begin(graph, work, places, values)
    scale = state.beside
    if state.halt == 0:
        state = _to_tolerance(graph, settings, omega, work, state, settings.tol * scale)
    B = Bounds(0.0, 0.0, 0.0, 0.0, 0.0)
    certified = False
    if state.halt == 0 and settings.certify > 0:
        state, B, certified = _to_certificate(graph, settings, omega, work, state, scale)
    elif state.halt == 0:
        B = bounds(work.touched, work.rows, state, alpha)
    T = work.touched
    squares = 0.0
    for t in range(state.touched):
        squares += T.residual[t] ** 2
        work.number[T.node[t]] = -1
    return Answer(state, B, certified, squares)


@contracting
def _begin(graph: LocalGraph, work: Workspace, places: Any, values: Any) -> State:
    """Touch the nodes of b, with an empty support."""
    number, T, R = work
    if places.shape[0] > T.node.shape[0]:
        return State(0, 0, 0.0, 0.0, 0, 0, FULL)
    scale = 0.0
    touched = 0
    for a in range(places.shape[0]):
        place = places[a]
        if values[a] != 0:
            number[place] = touched
            touch(T, np.int64(touched), place, np.float64(graph.roots[place]), values[a])
            scale = max(scale, abs(values[a]) / graph.roots[place])
            touched += 1
    R.start[0] = 0
    return State(touched, 0, 0.0, scale, 0, 0, 0)


@contracting
def _to_tolerance(
    graph: LocalGraph,
    settings: Settings,
    omega: float,
    work: Workspace,
    state: State,
    goal: float,
) -> State:
    """Grow the support and relax, until the scaled residual is at most `goal`."""
    alpha, max_work, n = settings.alpha, settings.max_work, len(graph.order)
    _, T, R = work
    beside = _BESIDE * goal
    while state.beside > beside or state.inside > goal:
        before = state.work
        state = grow(graph, work, state, alpha, omega, beside, n, max_work)
        if state.halt != 0:
            break
        state = relax(T, R, state, alpha, omega, goal, max_work)
        if state.work == before or state.work + 2 * R.start[state.rows] > max_work:
            break
    return state


@contracting
def _to_certificate(
    graph: LocalGraph,
    settings: Settings,
    omega: float,
    work: Workspace,
    state: State,
    scale: float,
) -> tuple[State, Bounds, bool]:
    """Solve on growing supports, until the best items are certified or the work is exhausted.

    The system of each support is solved until the residual outside the support dominates.
    """
    alpha, _, certify, max_work = settings
    n = len(graph.order)
    floor = 1.0 - alpha * (1.0 + ROW_SUM_SLACK)
    finest = 1e-15 * scale / (1.0 - alpha)
    inner = state.inside
    _, T, R = work
    while True:
        edges = R.start[state.rows]
        closed = state.touched == state.rows
        inner = max(finest, 1e-2 * inner if closed else INSIDE * state.beside)
        if state.inside > inner:
            state = relax(T, R, state, alpha, omega, inner, max_work - 2 * edges)
        if not closed and floor > 0:
            state = shield(T, R, state, alpha, omega, floor, max_work)
        B = bounds(T, R, state, alpha)
        certified, ratio = certificate(T, state, graph.order, certify, n, graph.largest_root, B)
        if certified or not floor > 0 or (closed and inner <= finest):
            break
        if closed:
            if state.work + 2 * edges > max_work:
                break
            continue
        # Grow to the estimated support whose bounds fit in the gap between the scores.
        factor = max(1.5, ratio**_GROWTH) if ratio < np.inf else 4.0
        factor = min(_LEAP, factor, (max_work - state.work) / (_STAGE * edges + 1))
        if factor < 1.2:
            break
        rows = state.rows
        max_rows = int(factor * rows) + 16
        state = grow(graph, work, state, alpha, omega, 0.0, max_rows, max_work)
        if state.halt != 0 or state.rows == rows:
            break
    return state, B, certified


@contracting
def take(order: Any, work: Workspace, rows: int, ids: Any, x: Any) -> float:
    """Copy the solution from a workspace, with the user's ids; return the largest |x_i| / √d_i."""
    _, T, R = work
    largest = 0.0
    for s in range(rows):
        t = np.uintp(R.own[s])
        ids[s] = order[T.node[t]]
        x[s] = T.x[t]
        largest = max(largest, abs(T.x[t]) / T.root[t])
    return largest
