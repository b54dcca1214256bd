"""Compiled loops of the local solver: growth of the support, and relaxation within it.

A *support* is a set of nodes whose rows of W are copied to contiguous memory, so that a sweep over
the support accesses no other memory. The *touched* nodes are the nodes of the support and their
neighbours. They are numbered in the order in which they are found ("touched numbers"). x is 0
outside the support.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .matrix import LARGEST_WEIGHT, Matrix
from .threads import contracting

# A round of growth adds the nodes whose scaled residual exceeds this fraction of the largest one.
_SHARE = 0.1

# A row is added only if the remaining work allows this many products with the support: sweeps,
# and the computation of the residual.
_RESERVE = 3


# Why a solve has halted: the workspace has no room for the next row, or the row is not one of W.
FULL, DAMAGED = 1, 2


class LocalGraph(NamedTuple):
    """The graph as the local solver reads it, in storage order."""

    matrix: Matrix
    order: Any  # (n,) int32, the user's ids
    roots: Any  # (n,) float32, √d_i
    largest_root: float


class Touched(NamedTuple):
    """Data of the touched nodes; the arrays have spare capacity."""

    node: Any  # int32, position in storage order
    root: Any  # float64, √d_i
    right: Any  # float64, b
    x: Any  # float64
    residual: Any  # float64, b - L x
    chi: Any  # float64, √d_i (1 - φ_i)
    row: Any  # int32, row in the support or -1


class Rows(NamedTuple):
    """The rows of W that belong to the support, in CSR form with touched numbers."""

    own: Any  # int32, touched number of each row
    start: Any  # int64
    columns: Any  # int32
    weights: Any  # float32


class Workspace(NamedTuple):
    """Memory of one thread."""

    number: Any  # (n,) int32, touched number of each node, or -1
    touched: Touched
    rows: Rows


class State(NamedTuple):
    """Progress of a solve."""

    touched: int
    rows: int
    inside: float  # largest |r_i| / √d_i in the support
    beside: float  # largest |r_i| / √d_i at the neighbours of the support
    work: int
    sweeps: int
    halt: int  # 0, FULL or DAMAGED


def empty_workspace(number: NDArray[np.int32], nodes: int, edges: int) -> Workspace:
    """Allocate memory for the given numbers of touched nodes and edges.

    `number` (n,) is -1 everywhere.
    """
    root, right, x, residual, chi = np.empty((5, nodes), np.float64)
    touched = Touched(
        np.empty(nodes, np.int32), root, right, x, residual, chi, np.empty(nodes, np.int32)
    )
    rows = Rows(
        np.empty(nodes, np.int32),
        np.empty(nodes + 1, np.int64),
        np.empty(edges, np.int32),
        np.empty(edges, np.float32),
    )
    return Workspace(number, touched, rows)


@contracting
def touch(T: Touched, t: int, place: int, root: float, right: float) -> None:
    """Set the data of a node with touched number t, outside the support."""
    T.node[t] = place
    T.root[t] = root
    T.right[t] = right
    T.residual[t] = right
    T.x[t] = 0.0
    T.chi[t] = 0.0
    T.row[t] = -1


@contracting
def _take_in(
    graph: LocalGraph,
    work: Workspace,
    state: State,
    threshold: float,
    max_rows: int,
    max_work: int,
) -> State:
    """Add to the support the touched nodes with |r_i| / √d_i above the threshold."""
    indptr, indices, weights = graph.matrix
    number, T, R = work
    touched, rows, n = state.touched, state.rows, number.shape[0]
    halt = 0
    for t in range(state.touched):
        if T.row[t] >= 0 or abs(T.residual[t]) <= threshold * T.root[t] or rows >= max_rows:
            continue
        begin, end = indptr[T.node[t]], indptr[T.node[t] + 1]
        size = end - begin
        e = R.start[rows]
        if state.work + _RESERVE * (e + size) > max_work:
            break
        if touched + size > T.node.shape[0] or e + size > R.columns.shape[0]:
            halt = FULL
            break
        T.row[t] = rows
        R.own[rows] = t
        for a in range(begin, end):
            place = indices[a]
            # Edges are checked here instead of all at once, since a solve reads so few of them.
            if place < 0 or place >= n or not 0 <= weights[a] <= LARGEST_WEIGHT:
                halt = DAMAGED
                break
            j = number[place]
            if j < 0:
                j = touched
                number[place] = j
                touch(T, j, np.int64(place), np.float64(graph.roots[place]), 0.0)
                touched += 1
            R.columns[e] = j
            R.weights[e] = weights[a]
            e += 1
        if halt != 0:
            break
        rows += 1
        R.start[rows] = e
    return State(touched, rows, state.inside, state.beside, state.work, state.sweeps, halt)


@contracting
def sweep(T: Touched, R: Rows, rows: int, alpha: float, omega: float, x: Any, right: Any) -> float:
    """Relax each row once: x_i += ω (b - L x)_i; return the largest |(b - L x)_i| / √d_i."""
    largest = 0.0
    for s in range(rows):
        e, end = R.start[s], R.start[s + 1]
        t0, t1, t2, t3 = 0.0, 0.0, 0.0, 0.0
        while e + 4 <= end:
            t0 += R.weights[e] * x[np.uintp(R.columns[e])]
            t1 += R.weights[e + 1] * x[np.uintp(R.columns[e + 1])]
            t2 += R.weights[e + 2] * x[np.uintp(R.columns[e + 2])]
            t3 += R.weights[e + 3] * x[np.uintp(R.columns[e + 3])]
            e += 4
        while e < end:
            t0 += R.weights[e] * x[np.uintp(R.columns[e])]
            e += 1
        i = np.uintp(R.own[s])
        change = right[i] + alpha * ((t0 + t1) + (t2 + t3)) - x[i]
        x[i] += omega * change
        largest = max(largest, abs(change) / T.root[i])
    return largest


@contracting
def _residual(T: Touched, R: Rows, state: State, alpha: float, x: Any, right: Any) -> State:
    """Compute T.residual = right - L x at all touched nodes; it is 0 at all others."""
    r = T.residual
    for t in range(state.touched):
        r[t] = right[t] - x[t]
    for s in range(state.rows):
        flow = alpha * x[R.own[s]]
        if flow != 0:
            for e in range(R.start[s], R.start[s + 1]):
                r[np.uintp(R.columns[e])] += R.weights[e] * flow
    inside = beside = 0.0
    for t in range(state.touched):
        scaled = abs(r[t]) / T.root[t]
        if T.row[t] >= 0:
            inside = max(inside, scaled)
        else:
            beside = max(beside, scaled)
    work = state.work + R.start[state.rows]
    return State(state.touched, state.rows, inside, beside, work, state.sweeps, 0)


@contracting
def relax(
    T: Touched, R: Rows, state: State, alpha: float, omega: float, goal: float, max_work: int
) -> State:
    """Sweep until the residual in the support is at most `goal` or the work is exhausted."""
    edges = R.start[state.rows]
    work, sweeps = state.work, state.sweeps
    while work + 2 * edges <= max_work:
        met = np.inf
        while met > goal and work + 2 * edges <= max_work:
            met = sweep(T, R, state.rows, alpha, omega, T.x, T.right)
            work += edges
            sweeps += 1
        swept = State(state.touched, state.rows, 0.0, 0.0, work, sweeps, 0)
        state = _residual(T, R, swept, alpha, T.x, T.right)
        work = state.work
        if state.inside <= goal:
            break
    return state


@contracting
def grow(
    graph: LocalGraph,
    work: Workspace,
    state: State,
    alpha: float,
    omega: float,
    goal: float,
    max_rows: int,
    max_work: int,
) -> State:
    """Add nodes in rounds, each with a sweep, until the residual outside is at most `goal`.

    It ends early if it has to halt.
    """
    _, T, R = work
    while state.beside > goal and state.rows < max_rows:
        before = state.rows
        # Half the goal: with the goal itself, the last nodes would be added one by one.
        threshold = max(_SHARE * state.beside, 0.5 * goal)
        state = _take_in(graph, work, state, threshold, max_rows, max_work)
        if state.halt != 0 or state.rows == before:
            break
        # Relaxed less than later, as the support is still incomplete.
        sweep(T, R, state.rows, alpha, 0.5 * (1.0 + omega), T.x, T.right)
        spent = state.work + R.start[state.rows]
        swept = State(state.touched, state.rows, 0.0, 0.0, spent, state.sweeps + 1, 0)
        state = _residual(T, R, swept, alpha, T.x, T.right)
    return state
