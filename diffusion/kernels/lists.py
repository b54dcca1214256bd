"""Neighbour lists and sparse rows as compiled loops take them, and a loop over lists."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .threads import parallel


class Lists(NamedTuple):
    """Neighbour lists and the mutual rank of each item and its listed neighbour."""

    ids: Any  # (n, k) int32, -1 padded at the end
    mutual: Any  # (n, k) unsigned: the larger of both ranks, 0 if not mutual


class Rows(NamedTuple):
    """Sparse rows in CSR form: the rows of a matrix, or inverted lists."""

    indptr: Any  # (n + 1,) int64
    indices: Any  # int32
    values: Any


@parallel(lambda scores, ids, *_: len(ids), grain=64)
def copy_without_self(
    start: int, stop: int, scores: Any, ids: Any, first: int, out_scores: Any, out_ids: Any
) -> None:
    """Copy neighbour lists without the item itself, ordering equal scores by ascending id.

    Row i of `scores` and `ids` (m, w) lists the neighbours of item first + i, best first and
    padded with -1. The k best entries other than the item are written to row i of `out_scores`
    and `out_ids` (m, k), which are padded with -inf and -1.
    """
    width = ids.shape[1]
    k = out_ids.shape[1]
    for i in range(start, stop):
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
