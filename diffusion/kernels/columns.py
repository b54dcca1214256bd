"""Compiled loops of the columns solver, which computes columns offline and combines them online."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .matrix import Matrix, Nodes, Observations, SparseRows, System
from .subgraph import add, clean, cut, grow, workspace
from .threads import contracting, parallel
from .vectors import gather

# Number of columns solved together: float32 values in the widest vector register.
LANES = 16

# A group of w nodes is selected from the nearest _NEAR w nodes.
_NEAR = 8

# Used in place of the degree of an isolated node.
_TINY = 1e-300

# A residual updated by recurrence in float32 is trusted until it has fallen by three orders of
# magnitude.
_TRUSTED_DROP = 1e-3


class Columns(NamedTuple):
    """Sparse columns of the inverse, one per row, padded with -1 (ids) and 0 (values)."""

    ids: Any  # (n, keep) int32, positions in storage order
    values: Any  # (n, keep) float32
    residuals: Any  # (n,) float64, relative residual of each column


class Block(NamedTuple):
    """The vectors of conjugate gradient for columns solved together, (size, LANES)."""

    X: Any  # float64, the solution
    R: Any  # float32, the residual
    P: Any  # float32, the search direction
    Q: Any  # float32, the product of the system matrix and P


@contracting
def groups(matrix: Matrix, alpha: float, widest: int, wanted: Any) -> Any:
    """Partition the `wanted` nodes (n,) into groups of at most `widest` nodes that are close.

    Returns the nodes ordered by group, and the start of each group (n_groups + 1,).
    """
    n = len(matrix.starts)
    near = min(n, _NEAR * widest)
    work = workspace(np.zeros(n, np.int32), near)
    grouped = ~wanted
    sequence = np.empty(n, np.int32)
    begins = np.empty(n + 1, np.int64)
    end = number = 0
    for seed in range(n):
        if grouped[seed]:
            continue
        begins[number] = end
        number += 1
        count = add(work, 0, seed)
        work.b[0] = 1
        if widest > 1:
            count = grow(matrix, alpha, work, count, near)
        for a in range(count):
            node = work.nodes[a]
            if not grouped[node] and end < begins[number - 1] + widest:
                grouped[node] = True
                sequence[end] = node
                end += 1
        clean(work, count)
    begins[number] = end
    return sequence[:end], begins[: number + 1]


@parallel(lambda old, before, after, touched, out, stale: len(before), 256)
def carry(
    start: int,
    stop: int,
    old: Columns,
    before: Any,
    after: Any,
    touched: Any,
    out: Columns,
    stale: Any,
) -> None:
    """Copy columns to the graph after a change, and mark those that it has made `stale` (n,).

    `before` (n,) holds the former position of each node, -1 if it is new, and `after` the new
    position of each former node, -1 if it was removed. A column is stale if it has an entry at a
    node that was removed or is `touched` (n,).
    """
    keep = out.ids.shape[1]
    for p in range(start, stop):
        q = before[p]
        stale[p] = q < 0
        end = 0
        while not stale[p] and end < min(keep, old.ids.shape[1]) and old.ids[q, end] >= 0:
            place = after[old.ids[q, end]]
            stale[p] = place < 0 or touched[place]
            out.ids[p, end] = place
            out.values[p, end] = old.values[q, end]
            end += 1
        out.ids[p, end:] = -1
        out.values[p, end:] = 0
        out.residuals[p] = 0.0 if q < 0 else old.residuals[q]


@contracting
def _keep_largest(
    x: Any, score: Any, nodes: Any, count: int, out_ids: Any, out_values: Any
) -> None:
    """Write the positive entries of x with the largest scores, padded with -1 and 0.

    Entries keep their order. Of entries with equal scores, the first ones are kept.
    """
    keep = len(out_ids)
    least = -np.inf
    spare = keep  # number of entries to keep whose score equals the smallest score kept
    if count > keep:
        least = np.partition(score[:count], count - keep)[count - keep]
        for a in range(count):
            spare -= score[a] > least
    end = 0
    for a in range(count):
        if x[a] > 0 and (score[a] > least or (score[a] == least and spare > 0)):
            spare -= score[a] == least
            out_ids[end] = nodes[a]
            out_values[end] = x[a]
            end += 1
    out_ids[end:] = -1
    out_values[end:] = 0


@contracting
def _multiply(part: Matrix, count: int, alpha: float, block: Block) -> Any:
    """Compute Q = (I - α W_T) P; return Σ P[:, c] Q[:, c] for each column c."""
    starts, stops, cols, values = part
    P, Q = block.P, block.Q
    minus_alpha = np.float32(-alpha)
    total = np.empty((1, LANES), np.float32)
    sums = np.zeros(LANES, np.float64)
    for i in range(count):
        gather(cols, values, starts[i], stops[i], P, total)
        for c in range(LANES):
            q = P[i, c] + minus_alpha * total[0, c]
            Q[i, c] = q
            sums[c] += P[i, c] * q
    return sums


@contracting
def _step(count: int, block: Block, step: Any) -> Any:
    """Compute X += step P and R -= step Q; return Σ R[:, c]² for each column c."""
    X, R, P, Q = block
    sums = np.zeros(LANES, np.float64)
    for i in range(count):
        for c in range(LANES):
            X[i, c] += step[c] * P[i, c]
            r = np.float32(R[i, c] - np.float32(step[c]) * Q[i, c])
            R[i, c] = r
            sums[c] += r * r
    return sums


@contracting
def _true_residual(part: Matrix, count: int, width: int, alpha: float, block: Block) -> Any:
    """Compute R = (1 - α) E - (I - α W_T) X in float64, with E the first `width` unit vectors.

    Returns Σ R[:, c]² for each column c, before R is rounded to float32.
    """
    starts, stops, cols, values = part
    X, R = block.X, block.R
    residual = np.empty((1, LANES), np.float64)
    total = residual[0]
    sums = np.zeros(LANES, np.float64)
    for i in range(count):
        gather(cols, values, starts[i], stops[i], X, residual)
        for c in range(LANES):
            total[c] = alpha * total[c] - X[i, c]
        if i < width:
            total[i] += 1 - alpha
        for c in range(LANES):
            R[i, c] = total[c]
            sums[c] += total[c] * total[c]
    return sums


@contracting
def _unit_columns(
    part: Matrix, count: int, width: int, system: System, block: Block, residuals: Any
) -> None:
    """Solve (I - α W_T) X[:, c] = (1 - α) e_c together for the first `width` nodes of a part.

    X is float64; the vectors that conjugate gradient multiplies are float32. The residual is
    replaced by the true residual whenever it has fallen by three orders of magnitude, as in
    `diffusion.CG`. `residuals[c]` receives the relative residual, computed in float64.
    """
    alpha, tol, max_iter = system
    X, R, P, _ = block
    step, beta = np.empty((2, LANES), np.float64)
    rho, anchor = np.zeros((2, LANES), np.float64)
    rho[:width] = (1 - alpha) ** 2
    anchor[:width] = rho[:width]
    target = (tol * (1 - alpha)) ** 2
    X[:count] = 0
    R[:count] = 0
    for c in range(width):
        R[c, c] = 1 - alpha
    P[:count] = R[:count]
    iterations = 0
    while True:
        sums = _multiply(part, count, alpha, block)
        for c in range(LANES):
            step[c] = rho[c] / sums[c] if sums[c] > 0 else 0.0
        sums = _step(count, block, step)
        iterations += 1
        # The target is lowered slightly, for the true residual differs from the recurrence.
        stopped = iterations >= max_iter or sums.max() <= 0.81 * target
        replace = stopped
        for c in range(LANES):
            replace |= sums[c] < _TRUSTED_DROP**2 * anchor[c]
        if replace:
            sums = _true_residual(part, count, width, alpha, block)
            anchor[:] = sums
        if stopped and (iterations >= max_iter or sums.max() <= target):
            for c in range(width):
                residuals[c] = np.sqrt(sums[c]) / (1 - alpha)
            return
        for c in range(LANES):
            beta[c] = sums[c] / rho[c] if rho[c] > 0 and not stopped else 0.0
            rho[c] = sums[c]
        for i in range(count):
            for c in range(LANES):
                P[i, c] = R[i, c] + np.float32(beta[c]) * P[i, c]


@contracting
def columns(
    matrix: Matrix,
    nodes: Nodes,
    system: System,
    sequence: Any,
    begins: Any,
    size: int,
    out: Columns,
) -> None:
    """Compute truncated columns of (1 - α) (I - α W)^-1 for some groups of nodes.

    Group t is `sequence[begins[t] : begins[t + 1]]`. Its nodes share a part of `size` nodes, which
    is grown from all of them. The entries with the largest value / √degree are stored in `out`.
    """
    work = workspace(np.zeros(len(matrix.starts), np.int32), size)
    cols, values = np.empty(0, np.int32), np.empty(0, np.float32)
    R, P, Q = np.empty((3, size, LANES), np.float32)
    block = Block(np.empty((size, LANES), np.float64), R, P, Q)
    x, score = np.empty((2, size), np.float64)
    residuals = np.empty(LANES, np.float64)
    for t in range(len(begins) - 1):
        group = sequence[begins[t] : begins[t + 1]]
        count = 0
        for node in group:
            work.b[count] = 1
            count = add(work, count, node)
        count = grow(matrix, system.alpha, work, count, size)
        part = cut(matrix, work, count, cols, values)
        cols, values = part.indices, part.weights
        _unit_columns(part, count, len(group), system, block, residuals)
        for a in range(count):
            work.scale[a] = 1 / np.sqrt(max(nodes.degrees[nodes.order[work.nodes[a]]], _TINY))
        for c in range(len(group)):
            for a in range(count):
                x[a] = block.X[a, c]
                score[a] = x[a] * work.scale[a]
            node = group[c]
            _keep_largest(x, score, work.nodes, count, out.ids[node], out.values[node])
            out.residuals[node] = residuals[c]
        clean(work, count)


@contracting
def combine(
    columns: Columns,
    nodes: Nodes,
    y: Observations,
    x: Any,
    reached: Any,
    out: SparseRows,
    out_work: Any,
) -> None:
    """Combine stored columns: compute Σ_j y_j c_j for each observation.

    `x` (n,) float64 is working memory. `reached` (n,) bool is all False before and after the
    call. `out_work` (m,) receives the number of entries combined.
    """
    for row in range(len(out.starts)):
        begin = end = out.starts[row]
        for t in range(y.indptr[row], y.indptr[row + 1]):
            value, column, own = y.values[t], columns.values[y.nodes[t]], columns.ids[y.nodes[t]]
            for a in range(len(own)):
                p = own[a]
                if p < 0:
                    break
                if not reached[p]:
                    reached[p] = True
                    x[p] = 0.0
                    out.ids[end] = nodes.order[p]
                    end += 1
                x[p] += value * column[a]
                out_work[row] += 1
        out.counts[row] = end - begin
        for t in range(begin, end):
            p = nodes.position[out.ids[t]]
            out.values[t] = x[p]
            reached[p] = False
