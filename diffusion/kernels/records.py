"""Records that shards send to the rows of others: (row, source, value), sorted by row.

They are sorted by counting, in memory that grows with the records and with the rows of a shard.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .threads import parallel, serial


@serial
def sort_records(
    ids: Any, values: Any, first: int, starts: Any, rows: Any, sources: Any, sent: Any
) -> Any:
    """Write a record for each entry of lists (m, k), sorted by the row listed, then by source.

    Row i of `ids`, padded with -1, is the list of item first + i. `rows`, `sources` and `sent` have
    a place for each entry. Returns where those for each shard begin (shards + 1,), int64: shard p
    has the rows starts[p] to starts[p + 1].
    """
    m, k = ids.shape
    count = starts.shape[0] - 1
    offsets = np.zeros(count + 1, np.int64)
    which = np.empty(m * k, np.int32)
    p = 0
    for i in range(m):
        for a in range(k):
            j = ids[i, a]
            if j < 0:
                continue
            if not starts[p] <= j < starts[p + 1]:  # mostly, it is that of the entry before
                p, last = 0, count
                while last - p > 1:
                    middle = (p + last) // 2
                    if starts[middle] <= j:
                        p = middle
                    else:
                        last = middle
            which[i * k + a] = p
            offsets[p + 1] += 1
    longest = 0
    for q in range(count):
        longest = max(longest, starts[q + 1] - starts[q])
        offsets[q + 1] += offsets[q]
    # The entries for each shard together, in the order of their sources.
    places = np.empty(offsets[count], np.int64)
    ends = offsets[:count].copy()
    for i in range(m):
        for a in range(k):
            if ids[i, a] >= 0:
                q = which[i * k + a]
                places[ends[q]] = i * k + a
                ends[q] += 1
    counts = np.empty(longest + 1, np.int64)
    for q in range(count):
        begin, length = starts[q], starts[q + 1] - starts[q]
        counts[: length + 1] = 0
        for t in range(offsets[q], offsets[q + 1]):
            counts[ids[places[t] // k, places[t] % k] - begin + 1] += 1
        for r in range(length):
            counts[r + 1] += counts[r]
        for t in range(offsets[q], offsets[q + 1]):
            i, a = places[t] // k, places[t] % k
            at = offsets[q] + counts[ids[i, a] - begin]
            counts[ids[i, a] - begin] += 1
            rows[at], sources[at], sent[at] = ids[i, a], first + i, values[i, a]
    return offsets


@serial
def join_records(
    rows: Any, sources: Any, values: Any, first: int, indptr: Any, out_sources: Any, out_values: Any
) -> None:
    """Sort records by row; those of a row keep their order.

    The rows are first to first + m. `indptr` (m + 1,) receives where those of each begin.
    """
    m = indptr.shape[0] - 1
    indptr[:] = 0
    for t in range(rows.shape[0]):
        indptr[rows[t] - first + 1] += 1
    for r in range(m):
        indptr[r + 1] += indptr[r]
    ends = indptr[:m].copy()
    for t in range(rows.shape[0]):
        at = ends[rows[t] - first]
        ends[rows[t] - first] += 1
        out_sources[at], out_values[at] = sources[t], values[t]


@parallel(lambda ids, *_: len(ids), grain=1024)
def find_sent(
    start: int, stop: int, ids: Any, indptr: Any, sources: Any, values: Any, missing: Any, out: Any
) -> None:
    """Write what the items in lists (m, k) have sent to the item whose list it is, or `missing`.

    The records of row i are at indptr[i] to indptr[i + 1], by ascending source.
    """
    for i in range(start, stop):
        for a in range(ids.shape[1]):
            out[i, a] = missing
            if ids[i, a] < 0:
                continue
            low, high = indptr[i], indptr[i + 1]
            while low < high:
                middle = (low + high) // 2
                if sources[middle] < ids[i, a]:
                    low = middle + 1
                else:
                    high = middle
            if low < indptr[i + 1] and sources[low] == ids[i, a]:
                out[i, a] = values[low]
