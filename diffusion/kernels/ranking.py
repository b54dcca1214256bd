"""Compiled loops of ranking."""

from __future__ import annotations

from typing import Any

import numpy as np

from .threads import parallel, serial


@serial
def _before(value_a: Any, id_a: Any, value_b: Any, id_b: Any) -> bool:
    """Return whether a ranks before b: it has a larger value, or an equal one and a smaller id."""
    return value_a > value_b or (value_a == value_b and id_a < id_b)


@serial
def _sift_down(values: Any, ids: Any, size: int) -> None:
    """Restore a heap with the last-ranked entry at its root after the root was replaced."""
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


@parallel(lambda x, *_: len(x), grain=4)
def largest_positive(start: int, stop: int, x: Any, out_values: Any, out_ids: Any) -> None:
    """Write the k largest positive entries of each row of x (m, n), in descending order.

    Equal entries are ordered by ascending id. `out_values` and `out_ids` (m, k) are padded with
    -inf and -1.
    """
    n = x.shape[1]
    k = out_ids.shape[1]
    for row in range(start, stop):
        values, ids = out_values[row], out_ids[row]
        values[:] = -np.inf
        ids[:] = -1
        for i in range(n):
            # Ids ascend, so an equal value never displaces one that is already kept.
            if x[row, i] > 0 and x[row, i] > values[0]:
                values[0], ids[0] = x[row, i], i
                _sift_down(values, ids, k)
        # Heap sort: move the entry that ranks last to the end.
        for size in range(k - 1, 0, -1):
            values[0], values[size] = values[size], values[0]
            ids[0], ids[size] = ids[size], ids[0]
            _sift_down(values, ids, size)


@parallel(lambda indptr, *_: len(indptr) - 1, grain=16)
def largest_positive_sparse(
    start: int, stop: int, indptr: Any, indices: Any, data: Any, out_values: Any, out_ids: Any
) -> None:
    """Write what `largest_positive` does, for rows in CSR form with ascending indices."""
    k = out_ids.shape[1]
    for row in range(start, stop):
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


@parallel(lambda indptr, *_: len(indptr) - 1, grain=32)
def entries_sparse(
    start: int, stop: int, indptr: Any, indices: Any, data: Any, ids: Any, out: Any
) -> None:
    """Look up the entries of CSR rows (ascending indices) at `ids` (m, c); 0 where not stored."""
    c = ids.shape[1]
    for row in range(start, stop):
        begin, end = indptr[row], indptr[row + 1]
        own = indices[begin:end]
        for a in range(c):
            out[row, a] = 0
            t = np.searchsorted(own, ids[row, a])
            if t < own.shape[0] and own[t] == ids[row, a]:
                out[row, a] = data[begin + t]


@parallel(lambda x, *_: len(x), grain=4)
def pooled(start: int, stop: int, x: Any, groups: Any, weights: Any, out: Any) -> None:
    """Add weights[j] x[row, j] to out[row, groups[j]] for x (m, n); `out` must be filled with 0."""
    n = x.shape[1]
    for row in range(start, stop):
        for j in range(n):
            out[row, groups[j]] += weights[j] * x[row, j]
