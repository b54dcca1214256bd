"""Compiled loops of the contextual affinity.

The encoding of an item is a sparse vector over the items, made of its neighbourhoods. Its entries
are sums of many small weights. They are computed in integers, which makes them exact in any order
of summation: entries that are mathematically equal compare equal, and ties are resolved alike on
every machine.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .lists import sort_ascending
from .threads import borrowing, parallel, serial

# The weight 1 in the units of a sum (int64), and in those of a stored encoding (uint16).
ONE = 1 << 40
UNIT = 65535


class Scales(NamedTuple):
    """The scales of an encoding."""

    ranks: Any  # (s,) int64, ascending: the largest mutual rank in a set
    spread: Any  # (s,) int64, ascending: the number of items whose sets are averaged


class Encodings(NamedTuple):
    """The largest entries of each encoding, in descending order."""

    ids: Any  # (m, size) int32, -1 padded
    values: Any  # (m, size) uint16, in units of 1 / UNIT


class Sets(NamedTuple):
    """Neighbour lists, and the sets that hold each neighbour.

    The sets of an item at ascending scales contain each other. The level of a neighbour is the
    index of the smallest scale whose set holds it, or the number of scales if none does.
    """

    ids: Any  # (n, k) int32, -1 padded at the end
    levels: Any  # (n, k) uint8, or (n, (k + 1) // 2) with two levels per byte, see `level_of`


class Neighborhood(NamedTuple):
    """An item or a query with the neighbours from which its sets are made."""

    itself: Any  # its id, int64; -1 for a query, which is not a member of its own sets
    ids: Any  # (k,) int32
    levels: Any  # a row of the levels of `Sets`


class Holders(NamedTuple):
    """Inverted lists: for each entry l, the items whose encoding has it, and its value there.

    The lists are one after the other; that of l is at indptr[l] to indptr[l + 1]. `holder_of`
    takes an element apart. Items in two arrays take 3 bytes instead of 4, up to 2^24 items.
    """

    indptr: Any  # (n + 1,) int64
    holders: Any  # (entries,) uint32: the lower 16 bits of the item, then the value
    high: Any  # (entries,) uint8 or uint16: the other bits of the item


class Table(NamedTuple):
    """A hash table from keys to sums."""

    keys: Any  # (slots,) int64, -1 where empty
    sums: Any  # (slots,) int64
    used: Any  # (slots,) int64: the occupied slots, in order of insertion


@borrowing
def level_of(row: Any, a: int, k: int) -> Any:
    """Return the level of entry a of a list of k neighbours, from a row of `Sets.levels`."""
    if row.shape[0] == k:
        return np.int64(row[a])
    return np.int64((row[a >> 1] >> (4 * (a & 1))) & 15)


@borrowing
def holder_of(holders: Any, high: Any, e: int) -> Any:
    """Return element e of the inverted lists: the item, and the value in its encoding."""
    return (np.int64(high[e]) << 16) | (np.int64(holders[e]) >> 16), np.int64(holders[e]) & 0xFFFF


# --- ranks ---------------------------------------------------------------------------------------


@parallel(lambda ids, *_: len(ids), grain=1024)
def ranks_in_lists(start: int, stop: int, ids: Any, scores: Any, out: Any) -> None:
    """Rank the entries of lists: 1 + the number of entries in the row with a higher score.

    `ids` (n, k) is padded with -1 at the end; the first k columns of `scores` descend. `out`
    (n, k), uint8, is 0 where padded.
    """
    k = ids.shape[1]
    for i in range(start, stop):
        for a in range(k):
            if ids[i, a] < 0:
                out[i, a] = 0
            elif a > 0 and scores[i, a] == scores[i, a - 1]:
                out[i, a] = out[i, a - 1]
            else:
                out[i, a] = a + 1


@parallel(lambda order, *_: len(order), grain=256)
def mutual_levels(
    start: int, stop: int, order: Any, ids: Any, ranks: Any, scales: Any, out: Any
) -> None:
    """Compute the levels (n, k) of all entries of lists, row by row in the given order.

    `ranks` (n, k) are the ranks of the entries in their lists. The scales ascend, and the last is
    at least k.
    """
    k = ids.shape[1]
    for p in range(start, stop):
        i = order[p]
        for a in range(k):
            j = ids[i, a]
            out[i, a] = len(scales)
            if j >= 0:
                # Without a branch, so that eight entries are compared at a time.
                theirs = np.uint8(0)
                for b in range(k):
                    theirs = max(theirs, ranks[j, b] if ids[j, b] == i else np.uint8(0))
                if theirs > 0:
                    s = 0
                    while scales[s] < max(ranks[i, a], theirs):
                        s += 1
                    out[i, a] = s


@parallel(lambda reach, scales, query_ids, *_: len(query_ids), grain=16)
def query_levels(
    start: int, stop: int, reach: Any, scales: Any, query_ids: Any, query_scores: Any, out: Any
) -> None:
    """Compute the levels (m, k) of the neighbours of queries.

    Each query is ranked as if it alone were added to the collection: its rank in the list of j is
    1 + the number of entries with a higher score, and at most scales[s] if its score is at least
    reach[j, s], the score of the entry at that place. `query_ids` and `query_scores` (m, k) are
    the queries' neighbours.
    """
    k = query_ids.shape[1]
    for q in range(start, stop):
        own = 0
        for a in range(k):
            out[q, a] = len(scales)
            j = query_ids[q, a]
            if j < 0:
                continue
            score = query_scores[q, a]
            if a == 0 or score != query_scores[q, a - 1]:
                own = a + 1
            s = 0
            while s < len(scales) and (own > scales[s] or score < reach[j, s]):
                s += 1
            out[q, a] = s


# --- a sparse sum in a hash table ----------------------------------------------------------------


@serial
def _empty_table(entries: int, n: int) -> Table:
    """Make a table for that many additions to at most n keys; its size is a power of two."""
    size = 16
    while size < 2 * min(entries, n):
        size *= 2
    keys = np.empty(size, np.int64)
    for slot in range(size):
        keys[slot] = -1
    return Table(keys, np.empty(size, np.int64), np.empty(size, np.int64))


@borrowing
def _add(keys: Any, sums: Any, used: Any, count: int, key: int, value: int) -> int:
    """Add a value to the sum of a key of a `Table`; return the number of keys.

    It takes the three arrays instead of the tuple because unpacking a tuple at every addition is
    measurably slower than unpacking it once before the loop.
    """
    mask = keys.shape[0] - 1
    slot = ((key * 2654435761) >> 7) & mask
    while keys[slot] != key:
        if keys[slot] < 0:
            # A table that is at most half full always has an empty slot, where a search ends. Only
            # a damaged index can add more keys than the table was made for.
            if 2 * count > mask:
                return count
            keys[slot] = key
            sums[slot] = 0
            used[count] = slot
            count += 1
            break
        slot = (slot + 1) & mask
    sums[slot] += value
    return count


@borrowing
def _sum_of(keys: Any, sums: Any, key: int) -> int:
    """Return the sum of a key that is in a `Table`."""
    mask = keys.shape[0] - 1
    slot = ((key * 2654435761) >> 7) & mask
    while keys[slot] != key:
        slot = (slot + 1) & mask
    return sums[slot]


@borrowing
def insert_largest(filled: int, key: int, value: int, out_ids: Any, out_sums: Any) -> int:
    """Insert a sum among the largest, in descending order, ties by ascending key.

    `out_ids` and `out_sums` hold `filled` sums; the smallest is dropped if they are full. Returns
    the new number of sums.
    """
    if filled == out_sums.shape[0]:
        at = filled - 1
        if value < out_sums[at] or (value == out_sums[at] and key > out_ids[at]):
            return filled
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


@borrowing
def scale_weights(sizes: Any, spread: Any, place: int, members: int, weight: Any) -> None:
    """Compute the weight (scales + 1,) of an element of an item's sets, by its level.

    At each scale, the encoding is the mean of the sets of the first `spread` of `members` items,
    and a set of `sizes` items gives each of them the same weight. `place` is the item's place
    among the members, from 0. The encoding is the mean over the scales; a set that holds an
    element at one scale holds it at all larger scales.
    """
    n_scales = spread.shape[0]
    weight[n_scales] = 0
    for s in range(n_scales - 1, -1, -1):
        weight[s] = weight[s + 1]
        if spread[s] > place and sizes[s] > 0:
            weight[s] += ONE // (n_scales * min(spread[s], members) * sizes[s])


@serial
def _add_sets(
    table: Table, count: int, near: Neighborhood, scales: Scales, place: int, members: int
) -> int:
    """Add the sets of one item to the means over several items; return the number of keys.

    At each scale, the set of an item holds its neighbours with a level up to the scale, and the
    item itself unless it is a query.
    """
    keys, sums, used = table
    itself, ids, levels = near
    n_scales, k = scales.ranks.shape[0], ids.shape[0]
    sizes = np.zeros(n_scales + 1, np.int64)
    weight = np.empty(n_scales + 1, np.int64)
    for a in range(k):
        sizes[min(level_of(levels, a, k), n_scales)] += 1
    total = 1 if itself >= 0 else 0
    for s in range(n_scales):
        total += sizes[s]
        sizes[s] = total
    scale_weights(sizes, scales.spread, place, members, weight)
    if itself >= 0 and weight[0] > 0:
        count = _add(keys, sums, used, count, itself, weight[0])
    for a in range(k):
        w = weight[min(level_of(levels, a, k), n_scales)]
        if w > 0:
            count = _add(keys, sums, used, count, np.int64(ids[a]), w)
    return count


@borrowing
def write_encoding(sums: Any, filled: int, ids: Any, values: Any) -> None:
    """Write the largest sums, whose items are in `ids`, as the values of an encoding.

    The sum of the values is 1. `ids` is -1 and `values` (size,) is 0 after the last entry.
    """
    total = 0
    for a in range(filled):
        total += sums[a]
    for a in range(values.shape[0]):
        # In floating point, because the integer product may exceed an int64: ONE is 2^40.
        value = 0 if a >= filled else int(sums[a] * (UNIT / total) + 0.5)
        values[a] = value
        if value == 0:
            ids[a] = -1


@serial
def _keep_largest(table: Table, count: int, ids: Any, values: Any) -> None:
    """Write the largest sums as the entries (size,) of an encoding that sums to 1."""
    keys, sums, used = table
    best = np.empty(values.shape[0], np.int64)
    filled = 0
    for t in range(count):
        filled = insert_largest(filled, keys[used[t]], sums[used[t]], ids, best)
    write_encoding(best, filled, ids, values)


@parallel(lambda own, *_: len(own.ids), grain=8)
def encode_queries(
    start: int, stop: int, own: Sets, sets: Sets, scales: Scales, out: Encodings
) -> None:
    """Encode queries by their own lists and levels (m, k) and those of the collection."""
    k = own.ids.shape[1]
    n, width = sets.ids.shape
    for q in range(start, stop):
        members = 1
        while members <= k and members < scales.spread[-1] and own.ids[q, members - 1] >= 0:
            members += 1
        table = _empty_table(members * (width + 1) + k, n)
        near = Neighborhood(np.int64(-1), own.ids[q], own.levels[q])
        count = _add_sets(table, np.int64(0), near, scales, np.int64(0), members)
        for place in range(1, members):
            p = np.int64(own.ids[q, place - 1])
            near = Neighborhood(p, sets.ids[p], sets.levels[p])
            count = _add_sets(table, count, near, scales, place, members)
        _keep_largest(table, count, out.ids[q], out.values[q])


# --- Jaccard similarity --------------------------------------------------------------------------


@borrowing
def _overlaps(table: Table, ids: Any, values: Any, inverted: Holders) -> int:
    """Sum min(V_l, V_jl) over the entries l of an encoding, for every item j that shares one.

    Returns the number of keys in the table.
    """
    keys, sums, used = table
    indptr, holders, high = inverted
    count = 0
    for a in range(ids.shape[0]):
        l = ids[a]  # noqa: E741
        if l < 0:
            continue
        own = np.int64(values[a])
        for e in range(indptr[l], indptr[l + 1]):
            item, theirs = holder_of(holders, high, e)
            count = _add(keys, sums, used, count, item, min(own, theirs))
    return count


@borrowing
def _entries(ids: Any, indptr: Any) -> int:
    """Return the total length of the inverted lists of an encoding's entries."""
    total = 0
    for l in ids:  # noqa: E741
        if l >= 0:
            total += max(0, indptr[l + 1] - indptr[l])
    return total


@borrowing
def jaccard_of(overlap: int) -> float:
    """Return Σ min / Σ max of two encodings that each sum to UNIT, up to rounding."""
    return min(1.0, overlap / (2.0 * UNIT - overlap))


@parallel(lambda encoding_ids, *_: len(encoding_ids), grain=512)
def jaccard_bounds(start: int, stop: int, encoding_ids: Any, indptr: Any, n: int, out: Any) -> None:
    """Compute an upper bound on the number of items that share an entry with each encoding."""
    for q in range(start, stop):
        out[q] = min(n, _entries(encoding_ids[q], indptr))


@parallel(lambda encodings, inverted, starts, counts, *_: len(counts), grain=8)
def jaccard_rows(
    start: int,
    stop: int,
    encodings: Encodings,
    inverted: Holders,
    starts: Any,
    counts: Any,
    out_ids: Any,
    out_scores: Any,
) -> None:
    """Compute the Jaccard similarity of encodings to all items that share an entry with them.

    Row q is written from starts[q] on, by ascending id; counts[q] receives its length.
    """
    n = len(inverted.indptr) - 1
    for q in range(start, stop):
        table = _empty_table(starts[q + 1] - starts[q], n)
        count = _overlaps(table, encodings.ids[q], encodings.values[q], inverted)
        keys, sums, used = table
        count = min(count, starts[q + 1] - starts[q])
        found = out_ids[starts[q] : starts[q] + count]
        for t in range(count):
            found[t] = keys[used[t]]
        sort_ascending(found)
        for t in range(count):
            out_scores[starts[q] + t] = jaccard_of(_sum_of(keys, sums, np.int64(found[t])))
        counts[q] = count
