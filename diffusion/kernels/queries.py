"""Compiled loops of the contextual affinity for queries: their encodings and similarities."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .context import (
    Encodings,
    Neighborhood,
    Scales,
    _add_sets,
    _empty_table,
    _entries,
    _jaccard,
    _keep_largest,
    _overlaps,
)
from .lists import Rows
from .matrix import SparseRows
from .ranking import FirstStage, begin_best, end_best, offer
from .threads import parallel, serial

_MOST = np.finfo(np.float32).max


class Known(NamedTuple):
    """The neighbour lists of the collection."""

    ids: Any  # (n, k) int32, -1 padded
    scores: Any  # (n, k) float32, descending
    mutual: Any  # (n, k) uint8


@serial
def _damaged(known: Known, item: int) -> bool:
    """Return whether a list is not one of a collection of this size."""
    n, k = known.ids.shape
    for a in range(k):
        if not (-1 <= known.ids[item, a] < n and known.scores[item, a] <= _MOST):
            return True
    return False


@serial
def _rank(scores: Any, score: Any) -> int:
    """Return 1 + the number of descending scores that are higher than a score."""
    low, high = 0, scores.shape[0]
    while low < high:
        middle = (low + high) // 2
        if scores[middle] > score:
            low = middle + 1
        else:
            high = middle
    return low + 1


@serial
def _mutual(known: Known, first: FirstStage, q: int, ids: Any, mutual: Any) -> int:
    """Write the neighbours of a query that have lists, and their mutual ranks with it.

    The query is ranked as if it alone were added to the collection's lists. A mutual rank is 0
    if the rank of the query in the list of a neighbour exceeds the length of its own list. Returns
    the number of neighbours, or -1 if a list is damaged.
    """
    listed = 0
    while listed < ids.shape[0] and first.ids[q, listed] >= 0:
        listed += 1
    count = own = 0
    last = np.float32(0)
    for a in range(listed):
        j, s = first.ids[q, a], first.scores[q, a]
        if _damaged(known, j):
            return -1
        # An item without a list, such as a zero vector, has no neighbourhood to compare with.
        if known.ids[j, 0] < 0:
            continue
        if count == 0 or s != last:
            own, last = count + 1, s
        theirs = _rank(known.scores[j], s)
        ids[count] = j
        mutual[count] = max(own, theirs) if theirs <= listed else 0
        count += 1
    return count


@parallel(lambda known, scales, first, *_: len(first.ids), grain=4)
def encode_queries(
    start: int,
    stop: int,
    known: Known,
    scales: Scales,
    first: FirstStage,
    out: Encodings,
    damaged: Any,
) -> None:
    """Encode queries by their neighbours; `damaged` (m,) says where a list was found to be."""
    n, width = known.ids.shape
    depth = min(scales.ranks[-1], first.ids.shape[1])
    ids, mutual = np.empty(depth, np.int32), np.empty(depth, np.uint8)
    for q in range(start, stop):
        neighbours = _mutual(known, first, q, ids, mutual)
        damaged[q] = neighbours < 0
        neighbours = max(0, neighbours)
        members = min(neighbours + 1, max(1, scales.spread[-1]))
        table = _empty_table(members * (width + 1) + depth, n)
        near = Neighborhood(np.int64(-1), ids[:neighbours], mutual[:neighbours])
        count = _add_sets(table, np.int64(0), near, scales, np.int64(0), members)
        for place in range(1, members):
            p = np.int64(ids[place - 1])
            near = Neighborhood(p, known.ids[p], known.mutual[p])
            count = _add_sets(table, count, near, scales, place, members)
        _keep_largest(table, count, out.ids[q], out.values[q])


@parallel(lambda encoding_ids, *_: len(encoding_ids), grain=512)
def jaccard_bounds(start: int, stop: int, encoding_ids: Any, indptr: Any, n: int, out: Any) -> None:
    """Compute an upper bound on the number of items that share an entry with each encoding."""
    for q in range(start, stop):
        out[q] = min(n, _entries(encoding_ids[q], indptr))


@parallel(lambda encodings, *_: len(encodings.ids), grain=2)
def compare(
    start: int,
    stop: int,
    encodings: Encodings,
    inverted: Rows,
    J: SparseRows,
    y: SparseRows,
    width: int,
) -> None:
    """Compute the Jaccard similarity of encodings to all items that share an entry with them.

    The rows of J have room for the bounds of `jaccard_bounds`. Those of y receive the `width`
    largest similarities, in descending order.
    """
    n = len(inverted.indptr) - 1
    values, ids = np.empty(width, np.float32), np.empty(width, np.int32)
    for q in range(start, stop):
        room = min(n, _entries(encodings.ids[q], inverted.indptr))
        table = _empty_table(room, n)
        count = _overlaps(table, np.int64(-1), encodings.ids[q], encodings.values[q], inverted)
        count = min(count, room)
        keys, sums, used = table
        begin_best(values, ids)
        for t in range(count):
            item, similarity = np.int32(keys[used[t]]), np.float32(_jaccard(sums[used[t]]))
            J.ids[J.starts[q] + t], J.values[J.starts[q] + t] = item, similarity
            if similarity >= values[0]:
                offer(values, ids, similarity, item)
        J.counts[q] = count
        end_best(values, ids)
        size = 0
        while size < width and ids[size] >= 0:
            y.ids[y.starts[q] + size], y.values[y.starts[q] + size] = ids[size], values[size]
            size += 1
        y.counts[q] = size
