"""The few compiled loops that everything fast rests on.

Conventions: n nodes, k listed neighbours each, b right-hand sides solved together. A block of
right-hand sides is (n, b), one row a node, so that the b values that an edge needs lie next to
each other in memory. Sums over nodes are taken in chunks of fixed size and then over the chunks,
so that a result does not depend on how many threads made it.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numba
import numpy as np
from threadpoolctl import ThreadpoolController

from ..errors import DiffusionError

# Nodes a chunk: small enough to share out among many cores, large enough to amortise the task.
CHUNK = 512


def _compiled(**options: Any) -> Callable[[Any], Any]:
    """numba.njit, cached on disk where there is a place to write to."""

    def decorate(function: Any) -> Any:
        try:
            return numba.njit(cache=True, nogil=True, **options)(function)
        except RuntimeError:
            return numba.njit(nogil=True, **options)(function)

    return decorate


# "contract" alone: a fused multiply-add is faster and more accurate; reassociation is only faster.
parallel = _compiled(parallel=True, fastmath={"contract"})
serial = _compiled()
contracting = _compiled(fastmath={"contract"})


def chunks(n: int) -> int:
    """Return the number of chunks that n nodes make."""
    return -(-n // CHUNK)


_lock = threading.RLock()
_state = {"used": False, "forked": False}


@cache
def _layer() -> str:
    """Launch numba's threads, which chooses their layer, and return its name."""
    # The launch sets the number of threads of the OpenMP library that numba loads, which may be
    # the one that torch runs on: there it would change the last bits of every convolution to come.
    loaded = ThreadpoolController().select(user_api="openmp").lib_controllers
    before = [(library, library.num_threads) for library in loaded]
    try:
        block = np.zeros((1, 1), np.float32)
        direction_block(np.zeros(1), block, block)
    finally:
        for library, threads in before:
            library.set_num_threads(threads)
    return str(numba.threading_layer())


def concurrent() -> bool:
    """Whether kernels may run from several Python threads at once.

    They may on numba's OpenMP and TBB layers. Its own "workqueue", the last resort where neither
    is installed, aborts the process.
    """
    with _lock:
        return _layer() != "workqueue"


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Hold the kernels for this thread alone where they must not run concurrently.

    Raises
    ------
    DiffusionError
        In a process that was forked from one that had used them: the threads that OpenMP keeps
        do not survive a fork, and a kernel would wait for them or abort.
    """
    if _state["forked"]:
        raise DiffusionError(
            "process: forked from one that had already searched or fitted, which the threads of "
            "OpenMP do not survive; expected the start method 'spawn', or a fork before first use"
        )
    _state["used"] = True
    with contextlib.nullcontext() if concurrent() else _lock:
        yield


def _after_fork() -> None:
    _state["forked"] = _state["used"]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@contextlib.contextmanager
def using_cores(cores: int) -> Iterator[None]:
    """Run the kernels that this Python thread calls on so many cores."""
    before = numba.get_num_threads()
    numba.set_num_threads(cores)
    try:
        yield
    finally:
        numba.set_num_threads(before)


# --- neighbour lists -----------------------------------------------------------------------------


@parallel
def tidy_lists(scores: Any, ids: Any, first: int, out_scores: Any, out_ids: Any) -> None:
    """Copy neighbour lists without the node itself, equal scores in ascending order of id.

    Row i of `scores`, `ids` (m, w) lists the neighbours of node first + i, best first, -1 padded.
    Its best k others go to row i of `out_scores`, `out_ids` (m, k), padded with -inf and -1.
    """
    m, width = ids.shape
    k = out_ids.shape[1]
    for i in numba.prange(m):
        row_scores = np.empty(width, np.float32)
        row_ids = np.empty(width, out_ids.dtype)
        size = 0
        for a in range(width):
            j, s = ids[i, a], scores[i, a]
            if j < 0 or j == first + i:
                continue
            t = size
            while t > 0 and row_scores[t - 1] == s and row_ids[t - 1] > j:
                row_scores[t], row_ids[t] = row_scores[t - 1], row_ids[t - 1]
                t -= 1
            row_scores[t], row_ids[t] = s, j
            size += 1
        for a in range(k):
            if a < size:
                out_scores[i, a], out_ids[i, a] = row_scores[a], row_ids[a]
            else:
                out_scores[i, a], out_ids[i, a] = -np.inf, -1


# --- graph construction --------------------------------------------------------------------------


@parallel
def mutual_weights(ids: Any, weights: Any, mutual: Any, degrees: Any, counts: Any) -> None:
    """Reciprocal edge weights: mutual[i, a] = min(w_i(j), w_j(i)) with j = ids[i, a], else 0.

    `mutual` (n, k) float32 comes filled with 0. `degrees` (n,) float64 receives the sums of its
    rows, `counts` (n,) the number of edges.
    """
    n, k = ids.shape
    for i in numba.prange(n):
        for a in range(k):
            j, w = ids[i, a], weights[i, a]
            # Only the smaller of the two looks the pair up, and writes for both: reading the
            # other's list is a jump to a random place in memory, and most of the work.
            if j > i and w > 0:
                for b in range(k):
                    if ids[j, b] == i:
                        edge = min(w, weights[j, b])
                        mutual[i, a] = edge
                        mutual[j, b] = edge
                        break
    for i in numba.prange(n):
        degree = 0.0
        count = 0
        for a in range(k):
            degree += mutual[i, a]
            count += mutual[i, a] > 0
        degrees[i] = degree
        counts[i] = count


@parallel
def mutual_ranks(ids: Any, ranks: Any, out: Any) -> None:
    """out[i, a] = max(ranks[i, a], ranks[j, b]) with j = ids[i, a], i = ids[j, b]; 0 without b."""
    n, k = ids.shape
    for i in numba.prange(n):
        for a in range(k):
            out[i, a] = 0
            j = ids[i, a]
            if j < 0:
                continue
            for b in range(k):
                if ids[j, b] == i:
                    out[i, a] = max(ranks[i, a], ranks[j, b])
                    break


@serial
def cuthill_mckee(ids: Any, mutual: Any, counts: Any, starts: Any) -> tuple[Any, Any]:
    """Breadth-first order that visits the neighbours of a node in ascending degree.

    `starts` (n,) lists the nodes in the order in which components are begun. Returns the order
    (n,), int32, and the component of each node (n,), int32, numbered as they were begun.

    Cuthill and McKee. Reducing the Bandwidth of Sparse Symmetric Matrices. ACM 1969.
    """
    n, k = ids.shape
    order = np.empty(n, np.int32)
    component = np.full(n, -1, np.int32)
    head = tail = 0
    label = 0
    for start in starts:
        if component[start] >= 0:
            continue
        component[start] = label
        order[tail] = start
        tail += 1
        while head < tail:
            i = order[head]
            head += 1
            begin = tail
            for a in range(k):
                if mutual[i, a] > 0:
                    j = ids[i, a]
                    if component[j] < 0:
                        component[j] = label
                        t = tail
                        while t > begin and counts[order[t - 1]] > counts[j]:
                            order[t] = order[t - 1]
                            t -= 1
                        order[t] = j
                        tail += 1
        label += 1
    return order, component


@parallel
def normalized_rows(
    ids: Any,
    mutual: Any,
    degrees: Any,
    order: Any,
    position: Any,
    indptr: Any,
    indices: Any,
    weights: Any,
) -> None:
    """Fill the CSR rows of W = D^-1/2 A D^-1/2 in storage order, columns ascending."""
    n, k = ids.shape
    for p in numba.prange(n):
        i = order[p]
        begin = end = indptr[p]
        for a in range(k):
            edge = mutual[i, a]
            if edge > 0:
                j = ids[i, a]
                column = position[j]
                t = end
                while t > begin and indices[t - 1] > column:
                    indices[t], weights[t] = indices[t - 1], weights[t - 1]
                    t -= 1
                # float64: the product of two small float32 degrees may underflow. It is
                # commutative, so that W is symmetric to the last bit.
                indices[t], weights[t] = column, edge / np.sqrt(degrees[i] * degrees[j])
                end += 1


# --- conjugate gradient --------------------------------------------------------------------------


@parallel
def laplacian_block(
    indptr: Any, indices: Any, weights: Any, alpha: Any, P: Any, Q: Any, dots: Any
) -> None:
    """Q = (I - α W) P for a float32 block P (n, b); dots[chunk, c] = Σ P[:, c] Q[:, c] over it."""
    n, b = P.shape
    for chunk in numba.prange(dots.shape[0]):
        total = np.zeros(b, np.float32)
        dot = dots[chunk]
        dot[:] = 0
        for i in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK)):
            e, end = indptr[i], indptr[i + 1]
            if b == 1:
                # No columns to run side by side: four edges do, each to a total of its own.
                t0, t1, t2, t3 = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
                while e + 4 <= end:
                    t0 += weights[e] * P[np.uintp(indices[e]), 0]
                    t1 += weights[e + 1] * P[np.uintp(indices[e + 1]), 0]
                    t2 += weights[e + 2] * P[np.uintp(indices[e + 2]), 0]
                    t3 += weights[e + 3] * P[np.uintp(indices[e + 3]), 0]
                    e += 4
                while e < end:
                    t0 += weights[e] * P[np.uintp(indices[e]), 0]
                    e += 1
                q = P[i, 0] - alpha * ((t0 + t1) + (t2 + t3))
                Q[i, 0] = q
                dot[0] += np.float64(P[i, 0]) * q
                continue
            total[:] = 0
            # Four edges a pass: the running total is loaded and stored once for the four.
            # Unsigned indices: numba then leaves out the test for negative ones.
            while e + 4 <= end:
                j0, j1 = np.uintp(indices[e]), np.uintp(indices[e + 1])
                j2, j3 = np.uintp(indices[e + 2]), np.uintp(indices[e + 3])
                w0, w1, w2, w3 = weights[e], weights[e + 1], weights[e + 2], weights[e + 3]
                for c in range(b):
                    total[c] += w0 * P[j0, c] + w1 * P[j1, c] + w2 * P[j2, c] + w3 * P[j3, c]
                e += 4
            while e < end:
                j, w = np.uintp(indices[e]), weights[e]
                for c in range(b):
                    total[c] += w * P[j, c]
                e += 1
            for c in range(b):
                q = P[i, c] - alpha * total[c]
                Q[i, c] = q
                dot[c] += np.float64(P[i, c]) * q


@parallel
def residual_block(
    indptr: Any,
    indices: Any,
    weights: Any,
    alpha: float,
    X: Any,
    rows: Any,
    columns: Any,
    values: Any,
    R: Any,
    squares: Any,
) -> None:
    """R = B - (I - α W) X in float64, rounded to float32 at the end, and its squared norms.

    B (n, b) is sparse: B[rows[t], columns[t]] = values[t], rows ascending. X (n, b) is float64.
    `squares[chunk, c]` receives the sum of R[:, c]² over the chunk, before rounding.
    """
    n, b = X.shape
    for chunk in numba.prange(squares.shape[0]):
        residual = np.zeros(b, np.float64)
        square = squares[chunk]
        square[:] = 0
        t = np.searchsorted(rows, chunk * CHUNK)
        for i in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK)):
            residual[:] = 0
            for e in range(indptr[i], indptr[i + 1]):
                j, w = np.uintp(indices[e]), np.float64(weights[e])
                for c in range(b):
                    residual[c] += w * X[j, c]
            for c in range(b):
                residual[c] = alpha * residual[c] - X[i, c]
            while t < rows.shape[0] and rows[t] == i:
                residual[columns[t]] += values[t]
                t += 1
            for c in range(b):
                R[i, c] = residual[c]
                square[c] += residual[c] * residual[c]


@parallel
def step_block(step: Any, X: Any, R: Any, P: Any, Q: Any, squares: Any) -> None:
    """X += step P (float64) and R -= step Q (float32); squares[chunk, c] = Σ R[:, c]² over it."""
    n, b = P.shape
    for chunk in numba.prange(squares.shape[0]):
        square = squares[chunk]
        square[:] = 0
        for i in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK)):
            for c in range(b):
                X[i, c] += step[c] * P[i, c]
                r = np.float32(R[i, c] - step[c] * Q[i, c])
                R[i, c] = r
                square[c] += np.float64(r) * r


@parallel
def direction_block(beta: Any, R: Any, P: Any) -> None:
    """P = R + β P, column by column."""
    n, b = P.shape
    for i in numba.prange(n):
        for c in range(b):
            P[i, c] = R[i, c] + beta[c] * P[i, c]


@parallel
def columns_to_rows(X: Any, position: Any, scale: Any, out: Any) -> None:
    """out[c, i] = scale[c] X[position[i], c]: from a block in storage order to rows in the user's.

    As many columns as `out` has rows; X may have more.
    """
    b, n = out.shape
    for chunk in numba.prange(-(-n // CHUNK)):
        for i in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK)):
            p = position[i]
            for c in range(b):
                out[c, i] = scale[c] * X[p, c]


# --- ranking -------------------------------------------------------------------------------------


@serial
def _before(value_a: Any, id_a: Any, value_b: Any, id_b: Any) -> bool:
    """Whether a ranks before b: a larger value, or an equal one and a smaller id."""
    return value_a > value_b or (value_a == value_b and id_a < id_b)


@serial
def _sift_down(values: Any, ids: Any, size: int) -> None:
    """Restore the heap whose root is the entry that ranks last, after its root was replaced."""
    root = 0
    while True:
        child = 2 * root + 1
        if child >= size:
            return
        if child + 1 < size and _before(
            values[child], ids[child], values[child + 1], ids[child + 1]
        ):
            child += 1
        if not _before(values[root], ids[root], values[child], ids[child]):
            return
        values[root], values[child] = values[child], values[root]
        ids[root], ids[child] = ids[child], ids[root]
        root = child


@parallel
def largest_positive(x: Any, out_values: Any, out_ids: Any) -> None:
    """Write the k largest positive entries of each row of x (m, n), equal ones by ascending id.

    `out_values`, `out_ids` (m, k) are padded with -inf and -1.
    """
    m, n = x.shape
    k = out_ids.shape[1]
    for row in numba.prange(m):
        values, ids = out_values[row], out_ids[row]
        values[:] = -np.inf
        ids[:] = -1
        for i in range(n):
            # Ids ascend: an equal value never displaces one that is there.
            if x[row, i] > 0 and x[row, i] > values[0]:
                values[0], ids[0] = x[row, i], i
                _sift_down(values, ids, k)
        # Heap sort: the entry that ranks last goes to the end.
        for size in range(k - 1, 0, -1):
            values[0], values[size] = values[size], values[0]
            ids[0], ids[size] = ids[size], ids[0]
            _sift_down(values, ids, size)


@parallel
def largest_positive_sparse(
    indptr: Any, indices: Any, data: Any, out_values: Any, out_ids: Any
) -> None:
    """`largest_positive` for rows in CSR form, indices ascending."""
    m, k = out_ids.shape
    for row in numba.prange(m):
        values, ids = out_values[row], out_ids[row]
        values[:] = -np.inf
        ids[:] = -1
        for e in range(indptr[row], indptr[row + 1]):
            if data[e] > 0 and data[e] > values[0]:
                values[0], ids[0] = data[e], indices[e]
                _sift_down(values, ids, k)
        for size in range(k - 1, 0, -1):
            values[0], values[size] = values[size], values[0]
            ids[0], ids[size] = ids[size], ids[0]
            _sift_down(values, ids, size)


@parallel
def entries_sparse(indptr: Any, indices: Any, data: Any, ids: Any, out: Any) -> None:
    """out[row, a] = the entry of a CSR row, indices ascending, at ids[row, a]; 0 for none."""
    m, c = ids.shape
    for row in numba.prange(m):
        begin, end = indptr[row], indptr[row + 1]
        own = indices[begin:end]
        for a in range(c):
            out[row, a] = 0
            t = np.searchsorted(own, ids[row, a])
            if t < own.shape[0] and own[t] == ids[row, a]:
                out[row, a] = data[begin + t]


@parallel
def pooled(x: Any, groups: Any, weights: Any, out: Any) -> None:
    """out[row, groups[j]] += weights[j] x[row, j], for x (m, n); `out` comes filled with 0."""
    m, n = x.shape
    for row in numba.prange(m):
        for j in range(n):
            out[row, groups[j]] += weights[j] * x[row, j]
