"""Compiled loops of confidence: signs of a failure, cautious scores, and the extent of a result."""

from __future__ import annotations

from typing import Any

import numpy as np

from .matrix import SparseRows
from .ranking import FirstStage, begin_best, few, offer, slot_of
from .threads import parallel


@parallel(lambda J, *_: len(J.counts), grain=16)
def signs(
    start: int, stop: int, J: SparseRows, first: FirstStage, itself: Any, places: Any, out: Any
) -> None:
    """Write the agreement and the breadth of each query to `out` (m, 2).

    The agreement is the mean J of the best `places[0]` items of the first stage that the graph
    knows, and the breadth is the ``places[1]``-th largest J over the largest. `places[2]` is the
    number of items; ids of that and more are unknown. `itself` (m,) is an item to leave out, or -1.
    Both signs are 0 for a query without J.
    """
    head, n = np.empty(places[0], np.int64), places[2]
    width = places[1]
    best, items = np.empty(width, np.float32), np.empty(width, np.int64)
    by_row = np.empty(0, np.int32)
    for row in range(start, stop):
        size = 0
        for a in range(first.ids.shape[1]):
            item = first.ids[row, a]
            if item < 0 or size == len(head):
                break
            if item < n and item != itself[row]:
                head[size] = item
                size += 1
        begin_best(best, items)
        total, largest = 0.0, np.float32(0)
        for t in range(J.starts[row], J.starts[row] + J.counts[row]):
            item, value = np.int64(J.ids[t]), J.values[t]
            if item == itself[row]:
                continue
            largest = max(largest, value)
            if value > best[0]:
                offer(by_row, best, items, value, item)
            for h in range(size):
                if head[h] == item:
                    total += value
        out[row, 0] = total / size if size > 0 else 0.0
        out[row, 1] = best[0] / largest if best[0] > 0 else 0.0


@parallel(lambda fused, *_: len(fused.counts), grain=16)
def temper_sparse(
    start: int, stop: int, fused: SparseRows, first: FirstStage, evidence: Any, shares: Any
) -> None:
    """Replace fused scores f by s f + (1 - s) e; `evidence` (m, c) has the e of `first`.

    Each candidate with an e > 0 is in its row of `fused`, unless the graph does not know it.
    """
    for row in range(start, stop):
        share = shares[row]
        if share >= 1:
            continue
        keys, values = few(first.ids.shape[1], np.empty(0, np.float32))
        for a in range(first.ids.shape[1]):
            if first.ids[row, a] >= 0:
                slot = slot_of(keys, first.ids[row, a])
                keys[slot] = first.ids[row, a]
                values[slot] = evidence[row, a]
        for t in range(fused.starts[row], fused.starts[row] + fused.counts[row]):
            slot = slot_of(keys, fused.ids[t])
            own = values[slot] if keys[slot] >= 0 else np.float32(0)
            fused.values[t] = share * fused.values[t] + (1 - share) * own


@parallel(lambda fused, *_: len(fused), grain=16)
def temper(
    start: int, stop: int, fused: Any, first: FirstStage, evidence: Any, shares: Any
) -> None:
    """Do what `temper_sparse` does, for scores (m, n) of all items."""
    n = fused.shape[1]
    for row in range(start, stop):
        share = shares[row]
        if share >= 1:
            continue
        for i in range(n):
            fused[row, i] *= share
        for a in range(first.ids.shape[1]):
            if 0 <= first.ids[row, a] < n:
                fused[row, first.ids[row, a]] += (1 - share) * evidence[row, a]
