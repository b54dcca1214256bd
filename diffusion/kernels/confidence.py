"""Compiled loops of confidence: signs of a failure, cautious scores, and the extent of a result."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .matrix import SparseRows
from .ranking import FirstStage, begin_best, few, offer, slot_of
from .threads import borrowing, parallel


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
        # Larger than it has to be: most entries are no candidates, and find an empty slot at once.
        keys, values = few(4 * first.ids.shape[1], np.empty(0, np.float32))
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


# --- the extent of a result ----------------------------------------------------------------------

# Bins of the scores between which Otsu's threshold is sought.
_BINS = 1024


class Histogram(NamedTuple):
    """Memory for the numbers of scores, and their sums, by bin."""

    counts: Any  # (bins,) int64
    sums: Any  # (bins,) float64


@borrowing
def _power(score: Any, largest: Any) -> Any:
    """Return the power 1.5 of a positive score, in units of the largest."""
    share = np.float64(score) / largest
    return share * np.sqrt(share)


@borrowing
def _least(scores: Any, n: int, into: Histogram) -> Any:
    """Return the least of the scores that Otsu's method separates from the others of n.

    It maximises the variance between two classes, k (n - k) (m - m')², where m and m' are the means
    of the k largest scores and of the others, of the power 1.5. Scores that are not given are 0.
    Without a positive score, it is infinity.
    """
    counts, sums = into
    bins = counts.shape[0]
    counts[:], sums[:] = 0, 0
    largest = 0.0
    for score in scores:
        largest = max(largest, np.float64(score))
    if not 0 < largest < np.inf:
        return np.inf
    total = 0.0
    for score in scores:
        if score > 0:
            power = _power(score, largest)
            b = min(bins - 1, int(bins * power))
            counts[b] += 1
            sums[b] += power
            total += power
    above, upper, best, cut = 0, 0.0, -1.0, 0
    for b in range(bins - 1, -1, -1):
        if counts[b] == 0:
            continue
        above += counts[b]
        upper += sums[b]
        below = n - above
        if below == 0:
            break
        difference = upper / above - (total - upper) / below
        if above * np.float64(below) * difference * difference > best:
            best, cut = above * np.float64(below) * difference * difference, b
    least = np.inf
    near = largest * (max(0, cut - 1) / bins) ** (2 / 3)  # no smaller score is in the bin
    for score in scores:
        if near < score < least and min(bins - 1, int(bins * _power(score, largest))) >= cut:
            least = np.float64(score)
    return least


@borrowing
def _items(node: Any, allowed: Any, starts: Any) -> int:
    """Return the number of items of a node, 0 if a filter does not allow it."""
    if allowed.shape[0] > 0 and allowed[node] == 0:
        return 0
    return starts[node + 1] - starts[node] if starts.shape[0] > 0 else 1


@parallel(lambda fused, *_: len(fused.counts), grain=8)
def extents_sparse(
    start: int,
    stop: int,
    fused: SparseRows,
    n: int,
    allowed: Any,
    starts: Any,
    out_least: Any,
    out_items: Any,
) -> None:
    """Write the least score of a query's own manifold, and how many items have at least that.

    `starts` (n + 1,) has the items of each node, or is empty if each has one. `allowed` is as
    `rank` takes it.
    """
    into = Histogram(np.empty(_BINS, np.int64), np.empty(_BINS, np.float64))
    for row in range(start, stop):
        begin, end = fused.starts[row], fused.starts[row] + fused.counts[row]
        least = _least(fused.values[begin:end], n, into)
        items = 0
        for t in range(begin, end):
            if fused.values[t] >= least:
                items += _items(fused.ids[t], allowed, starts)
        out_least[row], out_items[row] = least, items


@parallel(lambda fused, *_: len(fused), grain=8)
def extents(
    start: int,
    stop: int,
    fused: Any,
    n: int,
    allowed: Any,
    starts: Any,
    out_least: Any,
    out_items: Any,
) -> None:
    """Do what `extents_sparse` does, for scores (m, n) of all items."""
    into = Histogram(np.empty(_BINS, np.int64), np.empty(_BINS, np.float64))
    for row in range(start, stop):
        least = _least(fused[row], n, into)
        items = 0
        for i in range(n):
            if fused[row, i] >= least:
                items += _items(i, allowed, starts)
        out_least[row], out_items[row] = least, items
