"""Compiled loops of the local solver: growth of the support, and relaxation within it.

A *support* is a set of nodes whose rows of W are copied to contiguous memory, so that a sweep over
the support accesses no other memory. The *touched* nodes are the nodes of the support and their
neighbours. They are numbered in the order in which they are found ("touched numbers"). x is 0
outside the support.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .matrix import LARGEST_WEIGHT, Matrix
from .threads import borrowing, contracting, serial

# A round of growth adds the nodes whose scaled residual exceeds this fraction of the largest one.
_SHARE = 0.1

# A row is added only if the remaining work allows this many products with the support: sweeps,
# and what `solve` does at its end.
_RESERVE = 3


# Slots of the table of touched nodes for each that there is room for.
_SLOTS = 4

# The least √d_i.
_LEAST_ROOT = np.finfo(np.float32).tiny

# Why a solve has halted: the workspace has no room for the next row, the row is not one of W, or
# the work is exhausted.
FULL, DAMAGED, EXHAUSTED = 1, 2, 3


class LocalGraph(NamedTuple):
    """The graph as the local solver reads it, in storage order."""

    matrix: Matrix
    order: Any  # (n,) int32, the user's ids
    roots: Any  # (n,) float32, √d_i
    largest_root: float
    slack: float  # relative error of Σ_j W_ij √d_j = √d_i that a row may have


class Touched(NamedTuple):
    """Data of the touched nodes; the arrays have spare capacity."""

    node: Any  # int32, position in storage order
    root: Any  # float64, √d_i
    right: Any  # float64, b
    x: Any  # float64
    residual: Any  # float64, b - L x
    chi: Any  # float64, √d_i (1 - φ_i)
    row: Any  # int32, row in the support or -1
    piece: Any  # int32, number of an observed node that the node was reached from


class Rows(NamedTuple):
    """The rows of W that belong to the support, in CSR form with touched numbers."""

    own: Any  # int32, touched number of each row
    start: Any  # int64
    columns: Any  # int32
    weights: Any  # float32


class Workspace(NamedTuple):
    """Memory of one thread."""

    numbers: Any  # (slots, 2) int32, the hash table of the touched nodes, see `_slot_of`
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
    halt: int  # 0, FULL, DAMAGED or EXHAUSTED


def empty_workspace(nodes: int, edges: int) -> Workspace:
    """Allocate memory for the given numbers of touched nodes, a power of two, and edges."""
    numbers = np.full((_SLOTS * nodes, 2), -1, np.int32)
    root, right, x, residual, chi = np.empty((5, nodes), np.float64)
    node, row, piece = np.empty((3, nodes), np.int32)
    touched = Touched(node, root, right, x, residual, chi, row, piece)
    rows = Rows(
        np.empty(nodes, np.int32),
        np.empty(nodes + 1, np.int64),
        np.empty(edges, np.int32),
        np.empty(edges, np.float32),
    )
    return Workspace(numbers, touched, rows)


# --- touched numbers ------------------------------------------------------------------------------


@borrowing
def slot_of(numbers: Any, node: Any) -> Any:
    """Return the slot of a node in the table of touched nodes, or the empty one where it belongs.

    A slot has a node and its touched number, or -1 twice. Nodes of a group of eight, which are
    often touched together, have their slots side by side, on one line of the cache.
    """
    mask = np.uint32(numbers.shape[0] - 1)
    # Knuth's multiplicative hashing of groups, in 32 bits.
    group = ((np.uint32(node) >> np.uint32(3)) * np.uint32(2654435761)) >> np.uint32(7)
    slot = np.uintp(((group << np.uint32(3)) | (np.uint32(node) & np.uint32(7))) & mask)
    while numbers[slot, 0] >= 0 and numbers[slot, 0] != node:
        slot = np.uintp((np.uint32(slot) + np.uint32(1)) & mask)
    return slot


@serial
def forget(numbers: Any, nodes: Any, count: int) -> None:
    """Empty the table of `count` touched nodes."""
    if 8 * count > numbers.shape[0]:
        numbers[:] = -1
    else:
        # In reverse order of insertion, so that the search for a node never meets an early gap.
        for t in range(count - 1, -1, -1):
            slot = slot_of(numbers, nodes[t])
            numbers[slot, 0] = numbers[slot, 1] = -1


# --- growth ---------------------------------------------------------------------------------------


@contracting
def touch(T: Touched, graph: LocalGraph, begin: int, end: int) -> bool:
    """Set the data of newly touched nodes, outside the support; their `node` and `piece` are set.

    A range of them, since a call per node would count the references to each array. Returns whether
    their √d_i are as they must be.
    """
    roots, fine = graph.roots, True
    for t in range(begin, end):
        root = roots[T.node[t]]
        fine &= _LEAST_ROOT <= root <= graph.largest_root
        T.root[t] = root
        T.right[t] = 0.0
        T.residual[t] = 0.0
        T.x[t] = 0.0
        T.chi[t] = 0.0
        T.row[t] = -1
    return fine


@borrowing
def _is_row(graph: LocalGraph, node: int, begin: int, end: int) -> bool:
    """Return whether edges that are possible may be those of a node: Σ_j W_ij √d_j = √d_i."""
    if graph.slack == np.inf or begin == end:
        return True
    indices, weights, roots = graph.matrix.indices, graph.matrix.weights, graph.roots
    total, e = 0.0, np.uintp(begin)
    while e < np.uintp(end):
        total += weights[e] * np.float64(roots[np.uintp(indices[e])])
        e += np.uintp(1)
    return abs(total - roots[node]) <= graph.slack * roots[node]


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
    starts, stops, indices, weights = graph.matrix
    numbers, T, R = work
    touched, rows, n = state.touched, state.rows, graph.order.shape[0]
    halt, one = 0, np.uintp(1)
    for t in range(state.touched):
        if T.row[t] >= 0 or abs(T.residual[t]) <= threshold * T.root[t] or rows >= max_rows:
            continue
        begin, end = starts[T.node[t]], stops[T.node[t]]
        # What is read of the graph is checked here instead of all at once, since a solve reads so
        # little of it.
        if not 0 <= begin <= end <= indices.shape[0]:
            halt = DAMAGED
            break
        size = end - begin
        e = R.start[rows]
        if state.work + _RESERVE * (e + size) > max_work:
            halt = EXHAUSTED
            break
        if touched + size > T.node.shape[0] or e + size > R.columns.shape[0]:
            halt = FULL
            break
        T.row[t] = rows
        R.own[rows] = t
        # Indices are unsigned, so that none is checked for being negative.
        f, u, end, wrong = np.uintp(e), np.uintp(begin), np.uintp(end), False
        while u < end:
            place, weight = indices[u], weights[u]
            wrong |= (place < 0) | (place >= n) | (not 0 <= weight <= LARGEST_WEIGHT)
            R.weights[f] = weight
            f += one
            u += one
        if wrong or not _is_row(graph, T.node[t], begin, stops[T.node[t]]):
            halt = DAMAGED
            break
        f, u = np.uintp(e), np.uintp(begin)
        while u < end:
            place = indices[u]
            slot = slot_of(numbers, place)
            j = numbers[slot, 1]
            if j < 0:
                j = touched
                numbers[slot, 0], numbers[slot, 1] = place, j
                T.node[j] = place
                T.piece[j] = T.piece[t]
                touched += 1
            R.columns[f] = j
            f += one
            u += one
        rows += 1
        R.start[rows] = e + size
    if not touch(T, graph, state.touched, touched):
        halt = DAMAGED
    return State(touched, rows, state.inside, state.beside, state.work, state.sweeps, halt)


@contracting
def push(
    graph: LocalGraph,
    work: Workspace,
    state: State,
    alpha: float,
    omega: float,
    goal: float,
    max_work: int,
) -> State:
    """Relax single nodes until every scaled residual is at most `goal` or the work is exhausted.

    Touched nodes whose residual is above the goal are added to the support. Its rows are visited
    in turn, and where the residual is above the goal, x_i += ω r_i; the residuals follow. Each
    step decreases the energy of the error, so that the steps end.
    """
    T, R = work.touched, work.rows
    x, r = T.x, T.residual
    moved = True
    while moved and state.halt == 0:
        moved = False
        state = _take_in(graph, work, state, goal, graph.order.shape[0], max_work)
        if state.halt == FULL or state.halt == DAMAGED:
            break
        allowed = max_work - _RESERVE * R.start[state.rows]
        spent: Any = state.work
        for s in range(state.rows):
            i = np.uintp(R.own[s])
            if abs(r[i]) <= goal * T.root[i]:
                continue
            # Unsigned, so that no index is checked for being negative.
            e, end = np.uintp(R.start[s]), np.uintp(R.start[s + 1])
            size = R.start[s + 1] - R.start[s]
            if spent + size > allowed:
                state = _halted(state, EXHAUSTED)
                break
            # An isolated node has nothing to be relaxed with.
            change = omega * r[i] if size > 0 else r[i]
            x[i] += change
            r[i] -= change
            flow = alpha * change
            spent += size
            while e < end:
                r[np.uintp(R.columns[e])] += R.weights[e] * flow
                e += np.uintp(1)
            moved = True
        state = State(state.touched, state.rows, goal, goal, spent, state.sweeps + 1, state.halt)
    return state


@contracting
def _halted(state: State, halt: int) -> State:
    return State(
        state.touched, state.rows, state.inside, state.beside, state.work, state.sweeps, halt
    )


@contracting
def sweep(T: Touched, R: Rows, rows: int, alpha: float, omega: float, x: Any, right: Any) -> float:
    """Relax each row once: x_i += ω (b - L x)_i; return the largest |(b - L x)_i| / √d_i."""
    largest = 0.0
    for s in range(rows):
        # Unsigned, so that no index is checked for being negative.
        e, end, one = np.uintp(R.start[s]), np.uintp(R.start[s + 1]), np.uintp(1)
        t0, t1, t2, t3 = 0.0, 0.0, 0.0, 0.0
        while e + np.uintp(4) <= end:
            t0 += R.weights[e] * x[np.uintp(R.columns[e])]
            e += one
            t1 += R.weights[e] * x[np.uintp(R.columns[e])]
            e += one
            t2 += R.weights[e] * x[np.uintp(R.columns[e])]
            e += one
            t3 += R.weights[e] * x[np.uintp(R.columns[e])]
            e += one
        while e < end:
            t0 += R.weights[e] * x[np.uintp(R.columns[e])]
            e += one
        i = np.uintp(R.own[s])
        change = right[i] + alpha * ((t0 + t1) + (t2 + t3)) - x[i]
        x[i] += omega * change
        largest = max(largest, abs(change) / T.root[i])
    return largest


@contracting
def renew(T: Touched, R: Rows, state: State, alpha: float, x: Any, right: Any) -> State:
    """Compute T.residual = right - L x at all touched nodes; it is 0 at all others."""
    r = T.residual
    for t in range(state.touched):
        r[t] = right[t] - x[t]
    for s in range(state.rows):
        flow = alpha * x[R.own[s]]
        if flow != 0:
            e, end = np.uintp(R.start[s]), np.uintp(R.start[s + 1])
            while e < end:
                r[np.uintp(R.columns[e])] += R.weights[e] * flow
                e += np.uintp(1)
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
        state = renew(T, R, swept, alpha, T.x, T.right)
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
        if state.halt == EXHAUSTED:
            state = _halted(state, 0)
        if state.halt != 0 or state.rows == before:
            break
        # Relaxed less than later, as the support is still incomplete.
        sweep(T, R, state.rows, alpha, 0.5 * (1.0 + omega), T.x, T.right)
        spent = state.work + R.start[state.rows]
        swept = State(state.touched, state.rows, 0.0, 0.0, spent, state.sweeps + 1, 0)
        state = renew(T, R, swept, alpha, T.x, T.right)
    return state
