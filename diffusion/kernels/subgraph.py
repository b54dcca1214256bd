"""Compiled loops of the solvers that work on a small part of the graph at a time.

A part T of the graph is a list of nodes in storage order; a node's place in the list is its local
number. One thread works on one part; what it needs is allocated once for many parts and cleaned
sparsely, so that the work does not depend on the size of the graph.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from .matrix import Matrix, Nodes, Observations, SparseRows, System
from .threads import contracting

# A push visits the residuals above a threshold that falls by this factor from sweep to sweep ...
_THRESHOLD_FACTOR = 0.25
# ... down to this part of the largest; the rest is found by breadth-first search.
_LAST_THRESHOLD = 1e-6


class Workspace(NamedTuple):
    """Memory of one thread: 4 bytes a node of the graph, 69 bytes a node of the largest part."""

    place: Any  # (n,) int32, local number + 1 of a node of the part, else 0
    nodes: Any  # (size,) int32
    pushed: Any  # (size,) bool
    indptr: Any  # (size + 1,) int64, of the part's own matrix
    scale: Any  # (size,) float64
    b: Any  # (size,) float64, as are the vectors of conjugate gradient
    x: Any
    r: Any
    p: Any
    q: Any


@contracting
def workspace(place: Any, size: int) -> Workspace:
    """Allocate for parts of at most `size` nodes; `place` (n,) int32 comes filled with 0."""
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
    """Append a node to the part of `count` nodes unless it is there; return the new count."""
    if work.place[node] == 0:
        work.nodes[count] = node
        count += 1
        work.place[node] = count
    return count


@contracting
def clean(work: Workspace, count: int) -> None:
    """Empty the part."""
    for a in range(count):
        work.place[work.nodes[a]] = 0


@contracting
def grow(matrix: Matrix, alpha: float, work: Workspace, count: int, size: int) -> int:
    """Grow a part of `count` nodes to `size` nodes by pushing its `b`; return its size.

    A push at node i moves the residual r_i to the solution, which leaves α W_ij r_i at its
    neighbours; nodes join the part as they are first reached, from the largest residuals on.
    The part remains smaller where the components of its first nodes hold no more.
    """
    indptr, indices, weights = matrix
    r = work.r
    largest = 0.0
    for a in range(count):
        r[a] = abs(work.b[a])
        work.pushed[a] = False
        largest = max(largest, r[a])
    threshold = largest
    waiting = count  # nodes that have not been pushed yet
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
                for e in range(indptr[i], indptr[i + 1]):
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
    """Cut W[T, T] out of W, into `work.indptr`, `cols` and `values`, or larger ones of these."""
    indptr, indices, weights = matrix
    total = 0
    for a in range(count):
        i = work.nodes[a]
        total += indptr[i + 1] - indptr[i]
    if total > len(cols):
        cols = np.empty(total, np.int32)
        values = np.empty(total, np.float32)
    end = 0
    work.indptr[0] = 0
    for a in range(count):
        i = work.nodes[a]
        for e in range(indptr[i], indptr[i + 1]):
            local = work.place[indices[e]]
            # Written in any case, kept if it is of the part: no branch to mispredict.
            cols[end] = local - 1
            values[end] = weights[e]
            end += local > 0
        work.indptr[a + 1] = end
    return Matrix(work.indptr, cols, values)


@contracting
def normalize_again(root: Any, work: Workspace, count: int, part: Matrix) -> None:
    """From W[T, T] to D_T^-1/2 A[T, T] D_T^-1/2, D_T being the degrees within the part.

    `root` (count,) holds the square roots of the degrees in the whole graph. With
    A_ij = √d_i W_ij √d_j a degree within the part is √d_i Σ_j W_ij √d_j.
    """
    indptr, cols, values = part
    for a in range(count):
        total = 0.0
        for e in range(indptr[a], indptr[a + 1]):
            total += values[e] * root[cols[e]]
        work.scale[a] = np.sqrt(root[a] / total) if total > 0 else 0.0
    for a in range(count):
        for e in range(indptr[a], indptr[a + 1]):
            values[e] *= work.scale[a] * work.scale[cols[e]]


@contracting
def _row_product(matrix: Matrix, p: Any, i: int) -> float:
    """Return Σ_j W_ij p_j. Four edges at a time, each to a total of its own."""
    indptr, cols, values = matrix
    t0, t1, t2, t3 = 0.0, 0.0, 0.0, 0.0
    e, end = indptr[i], indptr[i + 1]
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
    """Solve (I - α W_T) x = b within a part, from x = 0, to ||b - (I - α W_T) x|| <= tol ||b||.

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
        # A little below the target: the true residual is not quite the recurrence's.
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
    """Which nodes make the part of an observation, and how the graph is cut to it."""

    candidates: Any  # (m, c) int64, the user's ids, -1 padded
    grown: int  # size that a part grows to
    early: bool  # whether what is cut is normalised again


class Outcome(NamedTuple):
    """How the solve of each observation went."""

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
    """Fill a part with the nodes of an observation, candidates and what grows; return its size."""
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
    """Solve each observation within its own part.

    A part holds the nodes of the observation, then those of a row of candidates, then what it
    grows by. `place` is the workspace's.
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
        ids = out.ids[begin : begin + count]
        for a in range(count):
            ids[a] = nodes.order[work.nodes[a]]
        ids.sort()
        for a in range(count):
            out.values[begin + a] = work.x[work.place[nodes.position[ids[a]]] - 1]
        clean(work, count)


@contracting
def solve_part(matrix: Matrix, nodes: Any, b: Any, system: System) -> Any:
    """Solve (I - α W[T, T]) x = b for one part T = `nodes`, storage order, each once.

    Returns x, the iterations, the relative residual and the entries of W[T, T].
    """
    work = workspace(np.zeros(len(matrix.indptr) - 1, np.int32), len(nodes))
    count = 0
    for node in nodes:
        count = add(work, count, node)
    work.b[:] = b
    part = cut(matrix, work, count, np.empty(0, np.int32), np.empty(0, np.float32))
    iterations, residual = conjugate_gradient(work, count, part, system)
    return work.x, iterations, residual, work.indptr[count]


@contracting
def _compress(rows: SparseRows, indptr: Any) -> None:
    """Move the rows together, in place, to begin at `indptr`."""
    for row in range(len(rows.counts)):
        for t in range(rows.counts[row]):
            rows.ids[indptr[row] + t] = rows.ids[rows.starts[row] + t]
            rows.values[indptr[row] + t] = rows.values[rows.starts[row] + t]


def compressed(rows: SparseRows, n: int) -> sparse.csr_array:
    """Return the rows as a CSR array (m, n), which takes their memory over."""
    indptr = np.zeros(len(rows.counts) + 1, np.int64)
    np.cumsum(rows.counts, out=indptr[1:])
    _compress(rows, indptr)
    entries = rows.values[: indptr[-1]], rows.ids[: indptr[-1]], indptr
    return sparse.csr_array(entries, shape=(len(rows.counts), n))
