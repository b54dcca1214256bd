"""Compiled loops of the contextual affinity.

Encodings are sums of many small weights, taken in integers: exact in any order, so that entries
that are equal on paper are equal here and ties fall the same way everywhere.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from .threads import parallel, serial

# The weight 1 while an encoding is summed, and in an encoding that is kept, as uint16.
ONE = 1 << 40
UNIT = 65535


# --- ranks ---------------------------------------------------------------------------------------


@parallel
def ranks_in_lists(ids: Any, scores: Any, out: Any) -> None:
    """out[i, a] = 1 + the number of entries of row i with a higher score than entry a's; 0: no id.

    `ids` (n, k) is -1 padded at the end, `scores` (n, k) descends. `out` (n, k), uint8.
    """
    n, k = ids.shape
    for i in numba.prange(n):
        for a in range(k):
            if ids[i, a] < 0:
                out[i, a] = 0
            elif a > 0 and scores[i, a] == scores[i, a - 1]:
                out[i, a] = out[i, a - 1]
            else:
                out[i, a] = a + 1


@parallel
def query_ranks(ids: Any, scores: Any, query_ids: Any, query_scores: Any, out: Any) -> None:
    """Rank queries and their neighbours mutually, as if each query alone joined the lists.

    `query_ids`, `query_scores` (m, k): their neighbours. rank_j(q) is 1 + the number of entries
    of j's list with a score above s_qj. out (m, k), uint8, 0 where that exceeds k.
    """
    m, k = query_ids.shape
    for q in numba.prange(m):
        own = 0
        for a in range(k):
            out[q, a] = 0
            j = query_ids[q, a]
            if j < 0:
                continue
            s = query_scores[q, a]
            if a == 0 or s != query_scores[q, a - 1]:
                own = a + 1
            theirs = 1
            for b in range(ids.shape[1]):
                theirs += ids[j, b] >= 0 and scores[j, b] > s
            if theirs <= k:
                out[q, a] = max(own, theirs)


# --- a sparse sum in a hash table ----------------------------------------------------------------


@serial
def _slots(entries: int, n: int) -> int:
    """Slots, a power of two, of a table for so many additions to at most n different keys."""
    size = 16
    while size < 2 * min(entries, n):
        size *= 2
    return size


@serial
def _add(keys: Any, sums: Any, used: Any, count: int, key: int, value: int) -> int:
    """Add to the sum of a key; return how many keys there are, their slots in `used`."""
    mask = keys.shape[0] - 1
    slot = ((key * 2654435761) >> 7) & mask
    while keys[slot] != key:
        if keys[slot] < 0:
            keys[slot] = key
            sums[slot] = 0
            used[count] = slot
            count += 1
            break
        slot = (slot + 1) & mask
    sums[slot] += value
    return count


@serial
def _largest(keys: Any, sums: Any, used: Any, count: int, out_ids: Any, out_sums: Any) -> int:
    """Write the largest sums, equal ones by ascending key, in that order; return how many."""
    size = out_ids.shape[0]
    filled = 0
    for t in range(count):
        key, value = keys[used[t]], sums[used[t]]
        if filled == size:
            last = size - 1
            if value < out_sums[last] or (value == out_sums[last] and key > out_ids[last]):
                continue
            at = last
        else:
            at = filled
            filled += 1
        while at > 0 and (
            value > out_sums[at - 1] or (value == out_sums[at - 1] and key < out_ids[at - 1])
        ):
            out_ids[at], out_sums[at] = out_ids[at - 1], out_sums[at - 1]
            at -= 1
        out_ids[at], out_sums[at] = key, value
    return filled


# --- encodings -----------------------------------------------------------------------------------


@serial
def _add_sets(
    keys: Any,
    sums: Any,
    used: Any,
    count: int,
    itself: int,
    row_ids: Any,
    row_mutual: Any,
    scales: Any,
    spread: Any,
    place: int,
    members: int,
) -> int:
    """Add what the sets of one item, at `place` among the members of a mean, give to it.

    The item's set at a scale holds its neighbours of a mutual rank up to the scale, and `itself`
    unless that is negative, in equal parts; the mean at scales[s] is over the first spread[s] of
    `members` items.
    """
    n_scales = scales.shape[0]
    k = row_ids.shape[0]
    smallest = np.full(k, n_scales)  # the smallest scale whose set holds the neighbour
    sizes = np.zeros(n_scales + 1, np.int64)
    for a in range(k):
        if row_mutual[a] > 0:
            s = 0
            while s < n_scales and scales[s] < row_mutual[a]:
                s += 1
            smallest[a] = s
            sizes[s] += 1
    total = 1 if itself >= 0 else 0
    for s in range(n_scales):
        total += sizes[s]
        sizes[s] = total
    # What holds a neighbour at one scale holds it at all larger ones.
    weight = np.zeros(n_scales + 1, np.int64)
    for s in range(n_scales - 1, -1, -1):
        weight[s] = weight[s + 1]
        if spread[s] > place and sizes[s] > 0:
            weight[s] += ONE // (n_scales * min(spread[s], members) * sizes[s])
    if itself >= 0 and weight[0] > 0:
        count = _add(keys, sums, used, count, itself, weight[0])
    for a in range(k):
        if weight[smallest[a]] > 0:
            count = _add(keys, sums, used, count, row_ids[a], weight[smallest[a]])
    return count


@parallel
def encode(
    items: Any,
    own_ids: Any,
    own_mutual: Any,
    ids: Any,
    mutual: Any,
    scales: Any,
    spread: Any,
    out_ids: Any,
    out_values: Any,
) -> None:
    """Encode items, by their numbers, and queries, whose number is -1.

    `own_ids`, `own_mutual` (m, k) are the neighbours of what is encoded, `ids`, `mutual` (n, k)
    those of the collection. `out_ids` (m, size) int32, `out_values` (m, size) uint16 receive the
    largest entries, descending, in units of 1 / UNIT, padded with -1 and 0.
    """
    m, k = own_ids.shape
    for q in numba.prange(m):
        members = 1
        while members <= k and members < spread[-1] and own_ids[q, members - 1] >= 0:
            members += 1
        slots = _slots(members * (ids.shape[1] + 1) + k, len(ids))
        keys = np.full(slots, -1, np.int64)
        sums = np.empty(slots, np.int64)
        used = np.empty(slots, np.int64)
        count = _add_sets(
            keys, sums, used, 0, items[q],
            own_ids[q], own_mutual[q], scales, spread, 0, members,
        )  # fmt: skip
        for place in range(1, members):
            p = own_ids[q, place - 1]
            count = _add_sets(
                keys, sums, used, count, p, ids[p], mutual[p], scales, spread, place, members
            )
        size = out_ids.shape[1]
        best = np.empty(size, np.int64)
        filled = _largest(keys, sums, used, count, out_ids[q], best)
        total = 0
        for a in range(filled):
            total += best[a]
        for a in range(size):
            # In floating point: ONE is 2^40 and the product may exceed an int64.
            value = 0 if a >= filled else int(best[a] * (UNIT / total) + 0.5)
            out_values[q, a] = value
            if value == 0:
                out_ids[q, a] = -1


# --- Jaccard similarity --------------------------------------------------------------------------


@serial
def _overlaps(
    keys: Any,
    sums: Any,
    used: Any,
    itself: int,
    row_ids: Any,
    row_values: Any,
    indptr: Any,
    indices: Any,
    values: Any,
) -> int:
    """Sum min(V_l, V_jl) over the entries l of one encoding, for every j that shares one."""
    count = 0
    for a in range(row_ids.shape[0]):
        l = row_ids[a]  # noqa: E741
        if l < 0:
            continue
        own = np.int64(row_values[a])
        for e in range(indptr[l], indptr[l + 1]):
            if indices[e] != itself:
                count = _add(keys, sums, used, count, indices[e], min(own, np.int64(values[e])))
    return count


@serial
def _entries(row_ids: Any, indptr: Any) -> int:
    """Length of the inverted lists of an encoding's entries, all together."""
    total = 0
    for l in row_ids:  # noqa: E741
        if l >= 0:
            total += indptr[l + 1] - indptr[l]
    return total


@serial
def _jaccard(overlap: int) -> float:
    """Σ min / Σ max of two encodings whose entries sum to UNIT, up to their rounding."""
    return min(1.0, overlap / (2.0 * UNIT - overlap))


@parallel
def jaccard_lists(
    items: Any,
    encoding_ids: Any,
    encoding_values: Any,
    indptr: Any,
    indices: Any,
    values: Any,
    out_ids: Any,
    out_scores: Any,
) -> None:
    """List what has the highest Jaccard similarity to each of some items, itself left out.

    `items` (m,) are their numbers, `encoding_*` (m, size) their encodings; `indptr`, `indices`,
    `values` are the inverted lists. `out_ids`, `out_scores` (m, k) descend, equal ones by
    ascending id, padded with -1 and -inf.
    """
    n = len(indptr) - 1
    k = out_ids.shape[1]
    for i in numba.prange(encoding_ids.shape[0]):
        slots = _slots(_entries(encoding_ids[i], indptr), n)
        keys = np.full(slots, -1, np.int64)
        sums = np.empty(slots, np.int64)
        used = np.empty(slots, np.int64)
        count = _overlaps(
            keys,
            sums,
            used,
            items[i],
            encoding_ids[i],
            encoding_values[i],
            indptr,
            indices,
            values,
        )
        best = np.empty(k, np.int64)
        filled = _largest(keys, sums, used, count, out_ids[i], best)
        for a in range(k):
            if a < filled:
                out_scores[i, a] = _jaccard(best[a])
            else:
                out_ids[i, a], out_scores[i, a] = -1, -np.inf


@parallel
def jaccard_bounds(encoding_ids: Any, indptr: Any, n: int, out: Any) -> None:
    """out[q] = the most items that can share an entry with encoding q."""
    for q in numba.prange(encoding_ids.shape[0]):
        out[q] = min(n, _entries(encoding_ids[q], indptr))


@parallel
def jaccard_rows(
    encoding_ids: Any,
    encoding_values: Any,
    indptr: Any,
    indices: Any,
    values: Any,
    starts: Any,
    out_ids: Any,
    out_scores: Any,
    out_counts: Any,
) -> None:
    """Compare encodings with all items that share an entry, ids ascending.

    Row q is written from starts[q] on; out_counts[q] receives its length.
    """
    n = len(indptr) - 1
    for q in numba.prange(encoding_ids.shape[0]):
        slots = _slots(starts[q + 1] - starts[q], n)
        keys = np.full(slots, -1, np.int64)
        sums = np.empty(slots, np.int64)
        used = np.empty(slots, np.int64)
        count = _overlaps(
            keys, sums, used, -1, encoding_ids[q], encoding_values[q], indptr, indices, values
        )
        found = np.empty(count, np.int64)
        for t in range(count):
            found[t] = keys[used[t]]
        order = np.argsort(found)
        for t in range(count):
            slot = used[order[t]]
            out_ids[starts[q] + t] = keys[slot]
            out_scores[starts[q] + t] = _jaccard(sums[slot])
        out_counts[q] = count
