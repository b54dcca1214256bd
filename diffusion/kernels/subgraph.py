"""Compiled loops of the solvers that process a small part of the graph at a time.

A part T of the graph is a list of nodes, given by their positions in storage order. The index of a
node in the list is its local number. Each thread processes one part at a time, in a workspace that
is allocated once for many parts. Only the entries used are reset, so that the cost of a part does
not depend on the size of the graph.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .matrix import Matrix, Nodes, Observations, SparseRows, System
from .threads import contracting

# A sweep pushes the residuals above a threshold, which is multiplied by this factor for the next.
_THRESHOLD_FACTOR = 0.25
# Below this fraction of the largest residual, a part is grown by breadth-first search instead.
_LAST_THRESHOLD = 1e-6


class Workspace(NamedTuple):
    """Memory of one thread: 4 bytes per node of the graph, 69 per node of the largest part."""

    place: Any  # (n,) int32, local number + 1 of each node of the part, 0 for others
    nodes: Any  # (size,) int32
    pushed: Any  # (size,) bool
    indptr: Any  # (size + 1,) int64, of the matrix of the part
    scale: Any  # (size,) float64
    b: Any  # (size,) float64, as are the vectors of conjugate gradient
    x: Any
    r: Any
    p: Any
    q: Any


@contracting
def workspace(place: Any, size: int) -> Workspace:
    """Allocate a workspace for parts of at most `size` nodes; `place` (n,) int32 is all 0."""
    return Workspace(
        place,
        np.empty(size, np.int32),
        np.empty(size, np.bool_),
        np.empty(size + 1, np.int64),
        np.empty(size, np.float64),
        np.empty(size, np.float64),
        np.empty(size, np.float64),
        np.empty(size, np.float64),
        np.empty(size, np.float64),
        np.empty(size, np.float64),
    )


@contracting
def add(work: Workspace, count: int, node: int) -> int:
    """Append a node to a part of `count` nodes unless it is in it; return the new count."""
    if work.place[node] == 0:
        work.nodes[count] = node
        count += 1
        work.place[node] = count
    return count


@contracting
def clean(work: Workspace, count: int) -> None:
    """Remove all nodes from the part."""
    for a in range(count):
        work.place[work.nodes[a]] = 0


@contracting
def grow(matrix: Matrix, alpha: float, work: Workspace, count: int, size: int) -> int:
    """Grow a part of `count` nodes to `size` nodes by pushing `work.b`; return its new size.

    A push at node i moves its residual r_i to the solution and adds α W_ij r_i to the residuals
    of its neighbours j. Residuals are pushed in approximately descending order, and a node joins
    the part when it is first reached. The part remains smaller than `size` if the connected
    components of its nodes have fewer nodes.
    """
    starts, stops, indices, weights = matrix
    r = work.r
    largest = 0.0
    for a in range(count):
        r[a] = abs(work.b[a])
        work.pushed[a] = False
        largest = max(largest, r[a])
    threshold = largest
    waiting = count  # number of nodes that have not been pushed yet
    while count < size and waiting > 0:
        threshold *= _THRESHOLD_FACTOR
        reach_all = not threshold > _LAST_THRESHOLD * largest
        a = 0
        while a < count and count < size:
            if r[a] >= threshold or (reach_all and not work.pushed[a]):
                if not work.pushed[a]:
                    work.pushed[a] = True
                    waiting -= 1
                moved = alpha * r[a]
                r[a] = 0.0
                i = work.nodes[a]
                for e in range(starts[i], stops[i]):
                    j = indices[e]
                    local = work.place[j] - 1
                    if local < 0:
                        if count == size:
                            break
                        local = count
                        count = add(work, count, j)
                        r[local] = 0.0
                        work.pushed[local] = False
                        waiting += 1
                    r[local] += moved * weights[e]
            a += 1
    return count


@contracting
def cut(matrix: Matrix, work: Workspace, count: int, cols: Any, values: Any) -> Matrix:
    """Extract W[T, T] into `work.indptr`, `cols` and `values`; the latter two grow if needed."""
    starts, stops, indices, weights = matrix
    total = 0
    for a in range(count):
        i = work.nodes[a]
        total += stops[i] - starts[i]
    if total > len(cols):
        cols = np.empty(total, np.int32)
        values = np.empty(total, np.float32)
    end = 0
    work.indptr[0] = 0
    for a in range(count):
        i = work.nodes[a]
        for e in range(starts[i], stops[i]):
            local = work.place[indices[e]]
            # Written always and kept if the column is in the part, which avoids a branch.
            cols[end] = local - 1
            values[end] = weights[e]
            end += local > 0
        work.indptr[a + 1] = end
    return Matrix(work.indptr[:-1], work.indptr[1:], cols, values)


@contracting
def normalize_again(root: Any, work: Workspace, count: int, part: Matrix) -> None:
    """Replace W[T, T] by D_T^-1/2 A[T, T] D_T^-1/2, with D_T the degrees within the part.

    `root` (count,) holds the square roots of the degrees in the whole graph. Since
    A_ij = √d_i W_ij √d_j, a degree within the part is √d_i Σ_j W_ij √d_j.
    """
    starts, stops, cols, values = part
    for a in range(count):
        total = 0.0
        for e in range(starts[a], stops[a]):
            total += values[e] * root[cols[e]]
        work.scale[a] = np.sqrt(root[a] / total) if total > 0 else 0.0
    for a in range(count):
        for e in range(starts[a], stops[a]):
            values[e] *= work.scale[a] * work.scale[cols[e]]


@contracting
def _row_product(matrix: Matrix, p: Any, i: int) -> float:
    """Return Σ_j W_ij p_j, computed with four totals for four edges at a time."""
    starts, stops, cols, values = matrix
    t0, t1, t2, t3 = 0.0, 0.0, 0.0, 0.0
    e, end = starts[i], stops[i]
    while e + 4 <= end:
        t0 += values[e] * p[np.uintp(cols[e])]
        t1 += values[e + 1] * p[np.uintp(cols[e + 1])]
        t2 += values[e + 2] * p[np.uintp(cols[e + 2])]
        t3 += values[e + 3] * p[np.uintp(cols[e + 3])]
        e += 4
    while e < end:
        t0 += values[e] * p[np.uintp(cols[e])]
        e += 1
    return (t0 + t1) + (t2 + t3)


@contracting
def conjugate_gradient(work: Workspace, count: int, part: Matrix, system: System) -> Any:
    """Solve (I - α W_T) x = b on a part, starting from x = 0, to a relative residual of `tol`.

    Returns the number of iterations and the relative residual, computed from x in float64.
    """
    alpha, tol, max_iter = system
    b, x, r, p, q = work.b, work.x, work.r, work.p, work.q
    square_b = 0.0
    for i in range(count):
        square_b += b[i] * b[i]
        x[i] = 0.0
        r[i] = b[i]
        p[i] = b[i]
    if square_b == 0:
        return 0, 0.0
    target = tol * tol * square_b
    rho = square_b
    iterations = 0
    while True:
        # The target is lowered slightly, for the true residual differs from the recurrence.
        while rho > 0.81 * target and iterations < max_iter:
            curvature = 0.0
            for i in range(count):
                q[i] = p[i] - alpha * _row_product(part, p, i)
                curvature += p[i] * q[i]
            step = rho / curvature
            rho_new = 0.0
            for i in range(count):
                x[i] += step * p[i]
                r[i] -= step * q[i]
                rho_new += r[i] * r[i]
            beta = rho_new / rho
            for i in range(count):
                p[i] = r[i] + beta * p[i]
            rho = rho_new
            iterations += 1
        rho = 0.0
        for i in range(count):
            r[i] = b[i] - x[i] + alpha * _row_product(part, x, i)
            p[i] = r[i]
            rho += r[i] * r[i]
        if rho <= target or iterations >= max_iter:
            return iterations, np.sqrt(rho / square_b)


class Shortlists(NamedTuple):
    """The nodes that make up the part of each observation, and how the part is normalised."""

    candidates: Any  # (m, c) int64, the user's ids, padded with -1
    grown: int  # number of nodes that a part is grown to, 0 for no growth
    early: bool  # whether the part is normalised by the degrees within it


class Outcome(NamedTuple):
    """Diagnostics of the solve of each observation."""

    iterations: Any  # (m,) int64
    residuals: Any  # (m,) float64
    work: Any  # (m,) int64


@contracting
def _shortlisted(
    row: int,
    matrix: Matrix,
    nodes: Nodes,
    alpha: float,
    y: Observations,
    lists: Shortlists,
    work: Workspace,
) -> int:
    """Fill a part with the nodes of an observation and its candidates, and grow it.

    Returns the size of the part.
    """
    count = 0
    for t in range(y.indptr[row], y.indptr[row + 1]):
        work.b[count] = (1 - alpha) * y.values[t]
        count = add(work, count, y.nodes[t])
    own = count
    for c in range(lists.candidates.shape[1]):
        if lists.candidates[row, c] >= 0:
            count = add(work, count, nodes.position[lists.candidates[row, c]])
    work.b[own:count] = 0
    if count < lists.grown:
        own = count
        count = grow(matrix, alpha, work, count, lists.grown)
        work.b[own:count] = 0
    return count


@contracting
def truncated(
    matrix: Matrix,
    nodes: Nodes,
    system: System,
    y: Observations,
    lists: Shortlists,
    place: Any,
    out: SparseRows,
    outcome: Outcome,
) -> None:
    """Solve the system of each observation on its own part of the graph.

    A part has the nodes of the observation, then its candidates, then the nodes it is grown by.
    `place` (n,) int32, all 0, is memory for the workspace.
    """
    size = 0
    for row in range(len(out.starts)):
        size = max(size, y.indptr[row + 1] - y.indptr[row] + lists.candidates.shape[1])
    work = workspace(place, min(len(place), max(size, lists.grown)))
    root = np.empty(len(work.nodes), np.float64)
    cols, values = np.empty(0, np.int32), np.empty(0, np.float32)
    for row in range(len(out.starts)):
        count = _shortlisted(row, matrix, nodes, system.alpha, y, lists, work)
        part = cut(matrix, work, count, cols, values)
        cols, values = part.indices, part.weights
        if lists.early:
            for a in range(count):
                root[a] = np.sqrt(nodes.degrees[nodes.order[work.nodes[a]]])
            normalize_again(root, work, count, part)
        iterations, residual = conjugate_gradient(work, count, part, system)
        outcome.iterations[row], outcome.residuals[row] = iterations, residual
        outcome.work[row] = iterations * work.indptr[count]
        out.counts[row] = count
        begin = out.starts[row]
        for a in range(count):
            out.ids[begin + a] = nodes.order[work.nodes[a]]
            out.values[begin + a] = work.x[a]
        clean(work, count)


@contracting
def solve_part(matrix: Matrix, nodes: Any, b: Any, system: System) -> Any:
    """Solve (I - α W[T, T]) x = b for one part T = `nodes`, distinct positions in storage order.

    Returns x, the number of iterations, the relative residual and the number of entries of
    W[T, T].
    """
    work = workspace(np.zeros(len(matrix.starts), np.int32), len(nodes))
    count = 0
    for node in nodes:
        count = add(work, count, node)
    work.b[:] = b
    part = cut(matrix, work, count, np.empty(0, np.int32), np.empty(0, np.float32))
    iterations, residual = conjugate_gradient(work, count, part, system)
    return work.x, iterations, residual, work.indptr[count]
