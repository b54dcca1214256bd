"""Compiled loops of the contextual affinity.

Encodings are sums of many small weights, taken in integers: exact in any order, so that entries
that are equal on paper are equal here and ties fall the same way everywhere.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np

from .lists import Lists, Rows
from .threads import parallel, serial

# The weight 1 while an encoding is summed, and in an encoding that is kept, as uint16.
ONE = 1 << 40
UNIT = 65535


class Scales(NamedTuple):
    """The scales of an encoding."""

    ranks: Any  # (s,) int64, ascending: the largest mutual rank in a set
    spread: Any  # (s,) int64, ascending: the members whose sets are averaged, itself among them


class Encodings(NamedTuple):
    """The largest entries of each encoding, descending."""

    ids: Any  # (m, size) int32, -1 padded
    values: Any  # (m, size) uint16, in units of 1 / UNIT


class Neighborhood(NamedTuple):
    """An item, or a query, and the neighbours in its sets."""

    itself: int  # -1: not in its own sets, as a query is not
    ids: Any  # (k,) int32
    mutual: Any  # (k,) uint8, 0 for none


class Table(NamedTuple):
    """A hash table: the sum for every key that was added to."""

    keys: Any  # (slots,) int64, -1 where empty
    sums: Any  # (slots,) int64
    used: Any  # (slots,) int64: the slots in use, in the order in which their keys came


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
def _empty_table(entries: int, n: int) -> Table:
    """Room for so many additions to at most n different keys: a power of two of slots."""
    size = 16
    while size < 2 * min(entries, n):
        size *= 2
    return Table(np.full(size, -1, np.int64), np.empty(size, np.int64), np.empty(size, np.int64))


@serial
def _add(keys: Any, sums: Any, used: Any, count: int, key: int, value: int) -> int:
    """Add to the sum of a key of a `Table`; return how many keys there are.

    It takes the arrays, unpacked before the loop that calls it: unpacking them at every addition
    costs a third of the time of the loop.
    """
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
def _largest(table: Table, count: int, out_ids: Any, out_sums: Any) -> int:
    """Write the largest sums, equal ones by ascending key, in that order; return how many."""
    keys, sums, used = table
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
    table: Table, count: int, near: Neighborhood, scales: Scales, place: int, members: int
) -> int:
    """Add what the sets of one item, at `place` among the members of a mean, give to it.

    The item's set at a scale holds its neighbours of a mutual rank up to the scale, and itself
    unless it is a query, in equal parts; the mean at a scale is over the first `spread` of
    `members` items.
    """
    keys, sums, used = table
    itself, ids, mutual = near
    ranks, spread = scales
    n_scales, k = ranks.shape[0], ids.shape[0]
    smallest = np.full(k, n_scales)  # the smallest scale whose set holds the neighbour
    sizes = np.zeros(n_scales + 1, np.int64)
    for a in range(k):
        if mutual[a] > 0:
            s = 0
            while s < n_scales and ranks[s] < mutual[a]:
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
            count = _add(keys, sums, used, count, ids[a], weight[smallest[a]])
    return count


@serial
def _keep_largest(table: Table, count: int, ids: Any, values: Any) -> None:
    """Write the largest sums as the entries (size,) of an encoding, in units of 1 / UNIT."""
    size = ids.shape[0]
    best = np.empty(size, np.int64)
    filled = _largest(table, count, ids, best)
    total = 0
    for a in range(filled):
        total += best[a]
    for a in range(size):
        # In floating point: ONE is 2^40 and the product may exceed an int64.
        value = 0 if a >= filled else int(best[a] * (UNIT / total) + 0.5)
        values[a] = value
        if value == 0:
            ids[a] = -1


@parallel
def encode(items: Any, own: Lists, lists: Lists, scales: Scales, out: Encodings) -> None:
    """Encode items, by their numbers, and queries, whose number is -1.

    `own` (m, k) are the lists of what is encoded, `lists` (n, k) those of the collection.
    """
    m, k = own.ids.shape
    n, width = lists.ids.shape
    for q in numba.prange(m):
        members = 1
        while members <= k and members < scales.spread[-1] and own.ids[q, members - 1] >= 0:
            members += 1
        table = _empty_table(members * (width + 1) + k, n)
        near = Neighborhood(items[q], own.ids[q], own.mutual[q])
        count = _add_sets(table, 0, near, scales, 0, members)
        for place in range(1, members):
            p = own.ids[q, place - 1]
            near = Neighborhood(p, lists.ids[p], lists.mutual[p])
            count = _add_sets(table, count, near, scales, place, members)
        _keep_largest(table, count, out.ids[q], out.values[q])


# --- Jaccard similarity --------------------------------------------------------------------------


@serial
def _overlaps(table: Table, itself: int, ids: Any, values: Any, inverted: Rows) -> int:
    """Sum min(V_l, V_jl) over the entries l of one encoding, for every j that shares one."""
    keys, sums, used = table
    indptr, indices, theirs = inverted
    count = 0
    for a in range(ids.shape[0]):
        l = ids[a]  # noqa: E741
        if l < 0:
            continue
        own = np.int64(values[a])
        for e in range(indptr[l], indptr[l + 1]):
            if indices[e] != itself:
                value = min(own, np.int64(theirs[e]))
                count = _add(keys, sums, used, count, indices[e], value)
    return count


@serial
def _entries(ids: Any, indptr: Any) -> int:
    """Length of the inverted lists of an encoding's entries, all together."""
    total = 0
    for l in ids:  # noqa: E741
        if l >= 0:
            total += indptr[l + 1] - indptr[l]
    return total


@serial
def _jaccard(overlap: int) -> float:
    """Σ min / Σ max of two encodings whose entries sum to UNIT, up to their rounding."""
    return min(1.0, overlap / (2.0 * UNIT - overlap))


@parallel
def jaccard_lists(
    items: Any, encodings: Encodings, inverted: Rows, out_ids: Any, out_scores: Any
) -> None:
    """List what has the highest Jaccard similarity to each of some items, itself left out.

    `items` (m,) are their numbers, `encodings` (m, size) theirs, `inverted` the inverted lists:
    in row l the items that have an entry l, and its values. `out_ids`, `out_scores` (m, k)
    descend, equal ones by ascending id, padded with -1 and -inf.
    """
    n = len(inverted.indptr) - 1
    m, k = out_ids.shape
    for i in numba.prange(m):
        ids, values = encodings.ids[i], encodings.values[i]
        table = _empty_table(_entries(ids, inverted.indptr), n)
        count = _overlaps(table, items[i], ids, values, inverted)
        best = np.empty(k, np.int64)
        filled = _largest(table, count, out_ids[i], best)
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
    encodings: Encodings, inverted: Rows, starts: Any, counts: Any, out_ids: Any, out_scores: Any
) -> None:
    """Compare encodings with all items that share an entry, ids ascending.

    Row q is written from starts[q] on; counts[q] receives its length.
    """
    n = len(inverted.indptr) - 1
    for q in numba.prange(counts.shape[0]):
        table = _empty_table(starts[q + 1] - starts[q], n)
        count = _overlaps(table, -1, encodings.ids[q], encodings.values[q], inverted)
        keys, sums, used = table
        found = np.empty(count, np.int64)
        for t in range(count):
            found[t] = keys[used[t]]
        order = np.argsort(found)
        for t in range(count):
            slot = used[order[t]]
            out_ids[starts[q] + t] = keys[slot]
            out_scores[starts[q] + t] = _jaccard(sums[slot])
        counts[q] = count
