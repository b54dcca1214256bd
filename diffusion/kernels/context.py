"""Compiled loops of the contextual affinity.

The encoding of an item is a sparse vector over the items, made of its neighbourhoods. Its entries
are sums of many small weights. They are computed in integers, which makes them exact in any order
of summation: entries that are mathematically equal compare equal, and ties are resolved alike on
every machine.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .lists import Lists, Rows
from .threads import parallel, serial

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


class Neighborhood(NamedTuple):
    """An item or a query with the neighbours from which its sets are made."""

    itself: Any  # its id, int64; -1 for a query, which is not a member of its own sets
    ids: Any  # (k,) int32
    mutual: Any  # (k,) uint8, 0 for none


class Table(NamedTuple):
    """A hash table from keys to sums."""

    keys: Any  # (slots,) int64, -1 where empty
    sums: Any  # (slots,) int64
    used: Any  # (slots,) int64: the occupied slots, in order of insertion


# --- ranks ---------------------------------------------------------------------------------------


@parallel(lambda ids, *_: len(ids), grain=1024)
def ranks_in_lists(start: int, stop: int, ids: Any, scores: Any, out: Any) -> None:
    """Rank the entries of lists: 1 + the number of entries in the row with a higher score.

    `ids` (n, k) is padded with -1 at the end, `scores` (n, k) descends. `out` (n, k), uint8, is 0
    where padded.
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


@serial
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


@serial
def _largest(table: Table, count: int, out_ids: Any, out_sums: Any) -> int:
    """Write the largest sums in descending order, ties by ascending key; return their number."""
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
    """Add the sets of one item to the means over several items; return the number of keys.

    At each scale, the set of an item holds its neighbours with a mutual rank up to the scale, and
    the item itself unless it is a query, all with equal weights. The encoding at that scale is the
    mean of the sets of the first `spread` of `members` items; `place` is the item's place among
    them, from 0.
    """
    keys, sums, used = table
    itself, ids, mutual = near
    ranks, spread = scales
    n_scales, k = ranks.shape[0], ids.shape[0]
    smallest = np.empty(k, np.int64)  # the smallest scale whose set holds the neighbour
    sizes = np.empty(n_scales + 1, np.int64)
    weight = np.empty(n_scales + 1, np.int64)
    for s in range(n_scales + 1):
        sizes[s] = weight[s] = 0
    for a in range(k):
        smallest[a] = n_scales
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
    # A set that holds a neighbour at one scale holds it at all larger scales.
    for s in range(n_scales - 1, -1, -1):
        weight[s] = weight[s + 1]
        if spread[s] > place and sizes[s] > 0:
            weight[s] += ONE // (n_scales * min(spread[s], members) * sizes[s])
    if itself >= 0 and weight[0] > 0:
        count = _add(keys, sums, used, count, itself, weight[0])
    for a in range(k):
        if weight[smallest[a]] > 0:
            count = _add(keys, sums, used, count, np.int64(ids[a]), weight[smallest[a]])
    return count


@serial
def _keep_largest(table: Table, count: int, ids: Any, values: Any) -> None:
    """Write the largest sums as the entries (size,) of an encoding that sums to 1."""
    size = ids.shape[0]
    best = np.empty(size, np.int64)
    filled = _largest(table, count, ids, best)
    total = 0
    for a in range(filled):
        total += best[a]
    for a in range(size):
        # In floating point, because the integer product may exceed an int64: ONE is 2^40.
        value = 0 if a >= filled else int(best[a] * (UNIT / total) + 0.5)
        values[a] = value
        if value == 0:
            ids[a] = -1


@parallel(lambda items, *_: len(items), grain=8)
def encode(
    start: int, stop: int, items: Any, own: Lists, lists: Lists, scales: Scales, out: Encodings
) -> None:
    """Encode items, given by their ids.

    `own` are the lists (m, k) of the items to encode, `lists` the lists (n, k) of the collection.
    """
    k = own.ids.shape[1]
    n, width = lists.ids.shape
    for q in range(start, stop):
        members = 1
        while members <= k and members < scales.spread[-1] and own.ids[q, members - 1] >= 0:
            members += 1
        table = _empty_table(members * (width + 1) + k, n)
        near = Neighborhood(np.int64(items[q]), own.ids[q], own.mutual[q])
        count = _add_sets(table, np.int64(0), near, scales, np.int64(0), members)
        for place in range(1, members):
            p = np.int64(own.ids[q, place - 1])
            near = Neighborhood(p, lists.ids[p], lists.mutual[p])
            count = _add_sets(table, count, near, scales, place, members)
        _keep_largest(table, count, out.ids[q], out.values[q])


# --- Jaccard similarity --------------------------------------------------------------------------


@serial
def _overlaps(table: Table, itself: int, ids: Any, values: Any, inverted: Rows) -> int:
    """Sum min(V_l, V_jl) over the entries l of an encoding, for every item j that shares one.

    The item `itself` is left out. Returns the number of keys in the table.
    """
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
                count = _add(keys, sums, used, count, np.int64(indices[e]), value)
    return count


@serial
def _entries(ids: Any, indptr: Any) -> int:
    """Return the total length of the inverted lists of an encoding's entries."""
    total = 0
    for l in ids:  # noqa: E741
        if l >= 0:
            total += max(0, indptr[l + 1] - indptr[l])
    return total


@serial
def _jaccard(overlap: int) -> float:
    """Return Σ min / Σ max of two encodings that each sum to UNIT, up to rounding."""
    return min(1.0, overlap / (2.0 * UNIT - overlap))


@parallel(lambda items, *_: len(items), grain=8)
def jaccard_lists(
    start: int,
    stop: int,
    items: Any,
    encodings: Encodings,
    inverted: Rows,
    out_ids: Any,
    out_scores: Any,
) -> None:
    """List the other items with the highest Jaccard similarity to each of some items.

    `items` (m,) are their ids and `encodings` (m, size) their encodings. Row l of `inverted` lists
    the items whose encoding has an entry l, with its values. `out_ids` and `out_scores` (m, k) are
    in descending order of score, ties by ascending id, padded with -1 and -inf.
    """
    n = len(inverted.indptr) - 1
    k = out_ids.shape[1]
    for i in range(start, stop):
        ids, values = encodings.ids[i], encodings.values[i]
        table = _empty_table(_entries(ids, inverted.indptr), n)
        count = _overlaps(table, np.int64(items[i]), ids, values, inverted)
        best = np.empty(k, np.int64)
        filled = _largest(table, count, out_ids[i], best)
        for a in range(k):
            if a < filled:
                out_scores[i, a] = _jaccard(best[a])
            else:
                out_ids[i, a], out_scores[i, a] = -1, -np.inf
