"""Compiled loops of the local solver: the solve to its tolerance and then to its certificate."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .bounds import INSIDE, ROW_SUM_SLACK, Bounds, bounds, certificate, shield
from .support import (
    DAMAGED,
    EXHAUSTED,
    FULL,
    LocalGraph,
    Rows,
    State,
    Touched,
    Workspace,
    forget,
    grow,
    push,
    relax,
    renew,
    slot_of,
    touch,
)
from .threads import borrowing, contracting, serial

# The levels that the solution is worked down to: each is this fraction of the one before. Values
# below the last one, relative to the largest of b, are not resolved.
_FALL = 0.5
_LOWEST = 1e-6

# Weight of ω in the pushes: with ω itself, a growing support is overrun.
_CAUTION = 0.8

# Flow over an edge from the support to the outside, in units of √(1 - α): that of a long path is
# 1 to √2, depending on the side from which it is seen; 2 is measured on neighbour graphs.
_OUTFLOW = 2.0

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
    top: int
    certify: int
    max_work: int


class Answer(NamedTuple):
    """The result of a solve, except for x, which is in the workspace."""

    state: State
    bounds: Bounds
    certified: bool
    squares: float  # ||r||²
    rested: bool  # whether the first goal, of `tol` and `top`, has been reached


@contracting
def solve(
    graph: LocalGraph, settings: Settings, work: Workspace, places: Any, values: Any
) -> Answer:
    """Solve (I - α W) x = b for one sparse b, with b[places] = values in storage order.

    `settings.certify` is ignored; see `solve_certified`. `work.numbers` is empty before and after
    the call. If `state.halt` is FULL in the result, the workspace is too small, and the
    caller calls again with a larger one; if it is DAMAGED, a row is not one of W.
    """
    alpha = settings.alpha
    _, T, R = work
    state, rested, _ = _rest(graph, settings, work, places, values)
    B = Bounds(0.0, 0.0, 0.0, 0.0, 0.0)
    if state.halt == 0:
        _finish(T, R, state, alpha, places.shape[0])
        spent = state.work + R.start[state.rows]
        done = State(state.touched, state.rows, 0.0, 0.0, spent, state.sweeps, 0)
        state = renew(T, R, done, alpha, T.x, T.right)
        B = bounds(T, R, state, alpha)
    return Answer(state, B, False, _leave(work, state), rested)


@contracting
def solve_certified(
    graph: LocalGraph, settings: Settings, work: Workspace, places: Any, values: Any
) -> Answer:
    """Do what `solve` does, until the best `settings.certify` items are certified.

    A function of its own, as it takes as long to compile as all others together.
    """
    _, T, R = work
    state, rested, scale = _rest(graph, settings, work, places, values)
    B = Bounds(0.0, 0.0, 0.0, 0.0, 0.0)
    certified = False
    if state.halt == 0:
        state = renew(T, R, state, settings.alpha, T.x, T.right)
        omega = _relaxation(settings.alpha)
        state, B, certified = _to_certificate(graph, settings, omega, work, state, scale)
    return Answer(state, B, certified, _leave(work, state), rested)


@contracting
def _relaxation(alpha: float) -> float:
    """Return the ω of successive over-relaxation."""
    return 2.0 / (1.0 + np.sqrt(1.0 - alpha * alpha))


@contracting
def _rest(
    graph: LocalGraph, settings: Settings, work: Workspace, places: Any, values: Any
) -> tuple[State, bool, float]:
    """Solve to the first goal; return whether it is reached, and the scale of b."""
    state = _begin(graph, work, places, values)
    scale = state.beside
    if state.halt != 0:
        return state, False, scale
    state, rested = _to_rest(graph, settings, _relaxation(settings.alpha), work, state)
    return state, rested, scale


@contracting
def _leave(work: Workspace, state: State) -> float:
    """Clean the workspace; return ||r||²."""
    T, squares = work.touched, 0.0
    for t in range(state.touched):
        squares += T.residual[t] ** 2
    forget(work.numbers, T.node, state.touched)
    return squares


@contracting
def _begin(graph: LocalGraph, work: Workspace, places: Any, values: Any) -> State:
    """Touch the nodes of b, with an empty support."""
    numbers, T, R = work
    if places.shape[0] > T.node.shape[0]:
        return State(0, 0, 0.0, 0.0, 0, 0, FULL)
    touched = 0
    for a in range(places.shape[0]):
        if values[a] != 0:
            slot = slot_of(numbers, places[a])
            numbers[slot, 0], numbers[slot, 1] = places[a], touched
            T.node[touched] = places[a]
            T.piece[touched] = touched
            touched += 1
    fine = touch(T, graph, 0, touched)
    scale = 0.0
    t = 0
    for a in range(places.shape[0]):
        if values[a] != 0:
            T.right[t] = T.residual[t] = values[a]
            scale = max(scale, abs(values[a]) / T.root[t])
            t += 1
    R.start[0] = 0
    return State(touched, 0, 0.0, scale, 0, 0, 0 if fine else DAMAGED)


@contracting
def _to_rest(
    graph: LocalGraph, settings: Settings, omega: float, work: Workspace, state: State
) -> tuple[State, bool]:
    """Push until the residual is small beside the values of the best items.

    The k-th largest |x_i| / √d_i is not known before the end. The solution is therefore worked
    down to decreasing levels, the residual to a fraction of each, until k values are above it.
    """
    alpha, tol, top, _, max_work = settings
    T = work.touched
    cautious = 1.0 + _CAUTION * (omega - 1.0)
    share = tol * np.sqrt(1.0 - alpha)
    lowest = _LOWEST * state.beside
    level = state.beside
    while level > lowest:
        level *= _FALL
        state = push(graph, work, state, alpha, cautious, share * level, max_work)
        if state.halt != 0:
            break
        above = 0
        for t in range(state.touched):
            if abs(T.x[t]) >= level * T.root[t]:
                above += 1
        if above >= min(top, state.touched):
            return state, True
    if state.halt == EXHAUSTED:
        return State(state.touched, state.rows, 0.0, 0.0, state.work, state.sweeps, 0), False
    return state, state.halt == 0


@contracting
def _finish(T: Touched, R: Rows, state: State, alpha: float, pieces: int) -> None:
    """Add to x what the residual says about it: a step of relaxation, and a constant.

    What pushes leave of the error, in units of √d_i, is almost the same at all nodes of a
    connected piece S of the support: it is the part of the mass that has not been spread, or that
    returns from outside. Its size c follows from the balance of that mass,

        c ((1 - α) vol S + β √(1 - α) cut S) = Σ r_i √d_i,

    where vol S is the sum of the degrees, cut S the weight of the edges that leave S, and the sum
    is over S and its neighbours. On a whole component, with no such edges, c is exact.
    """
    parent = np.arange(pieces)
    mass, loss = np.zeros((2, pieces), np.float64)
    left = pieces
    outflow = _OUTFLOW * np.sqrt(1.0 - alpha)
    for t in range(state.touched):
        T.chi[t] = T.root[t] if T.row[t] >= 0 else 0.0
    for s in range(state.rows):
        t = R.own[s]
        begin, end = R.start[s], R.start[s + 1]
        inner = 0.0
        e = np.uintp(begin)
        while e < np.uintp(end):
            inner += R.weights[e] * T.chi[np.uintp(R.columns[e])]
            e += np.uintp(1)
        p = T.piece[t]
        cut = T.root[t] * (T.root[t] - inner) if end > begin else 0.0
        loss[p] += (1.0 - alpha) * T.root[t] ** 2 + outflow * cut
        if left > 1:
            for a in range(begin, end):
                q = T.piece[R.columns[a]]
                if q != p:
                    left -= _join(parent, p, q)
    for t in range(state.touched):
        mass[T.piece[t]] += T.residual[t] * T.root[t] * (alpha if T.row[t] >= 0 else 1.0)
        T.chi[t] = 0.0
    for p in range(pieces):
        whole = _find(parent, p)
        if whole != p:
            mass[whole] += mass[p]
            loss[whole] += loss[p]
    for s in range(state.rows):
        t = R.own[s]
        whole = _find(parent, T.piece[t])
        c = mass[whole] / loss[whole] if loss[whole] > 0 else 0.0
        T.x[t] += T.residual[t] + c * T.root[t]


@contracting
def _find(parent: Any, p: int) -> int:
    """Return the number of the whole that a piece belongs to."""
    while parent[p] != p:
        p = parent[p]
    return p


@contracting
def _join(parent: Any, p: int, q: int) -> int:
    """Make two pieces parts of one whole; return whether they were not, as 0 or 1."""
    a, b = _find(parent, p), _find(parent, q)
    parent[max(a, b)] = min(a, b)
    return 1 if a != b else 0


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
    alpha, _, _, certify, max_work = settings
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
def take(order: Any, work: Workspace, rows: int, ids: Any, x: Any, roots: Any) -> float:
    """Copy the solution from a workspace: the user's ids, x and √d; return max |x_i| / √d_i."""
    _, T, R = work
    largest = 0.0
    for s in range(rows):
        t = np.uintp(R.own[s])
        ids[s] = order[T.node[t]]
        x[s] = T.x[t]
        roots[s] = T.root[t]
        largest = max(largest, abs(T.x[t]) / T.root[t])
    return largest


@serial
def different(ids: Any, n: int) -> bool:
    """Return whether ids (m,) are different ones from 0 to n - 1."""
    size = 16
    while size < 4 * ids.shape[0]:
        size *= 2
    slots = np.empty(size, np.int32)
    slots[:] = -1
    for item in ids:  # noqa: SIM110
        if not 0 <= item < n or not _enter(slots, item):
            return False
    return True


@borrowing
def _enter(slots: Any, item: Any) -> bool:
    """Enter an id in a hash table; return whether it is not in it."""
    mask = np.uint32(slots.shape[0] - 1)
    slot = ((np.uint32(item) * np.uint32(2654435761)) >> np.uint32(7)) & mask
    while slots[slot] >= 0:
        if slots[slot] == item:
            return False
        slot = (slot + np.uint32(1)) & mask
    slots[slot] = item
    return True
