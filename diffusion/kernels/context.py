"""Compiled loops of the contextual affinity.

The encoding of an item is a sparse vector over the items, made of its neighbourhoods. Its entries
are sums of many small weights. They are computed in integers, which makes them exact in any order
of summation: entries that are mathematically equal compare equal, and ties are resolved alike on
every machine.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .threads import borrowing, parallel

# The weight 1 in the units of a sum (int64), and in those of a stored encoding (uint16).
ONE = 1 << 40
UNIT = 65535

# Number of distinct scores whose range is the unit of a list, and the place of a list whose score
# says how dense the surroundings of its item are.
PLACE = 12


class Scales(NamedTuple):
    """The scales of an encoding, and the levels that their sets are made of.

    At each scale, the nearer half of a set counts twice: it is the sum of two sets, one up to the
    rank of the scale and one up to half of it.
    """

    ranks: Any  # (l,) int64, ascending: the largest mutual rank of each level
    whole: Any  # (s,) int64, ascending: the level of each scale
    half: Any  # (s,) int64: the level of half of each scale; that of the scale for one set alone
    spread: Any  # (s,) int64, ascending: the number of items whose sets are averaged


class Encodings(NamedTuple):
    """The largest entries of each encoding, in descending order."""

    ids: Any  # (m, size) int32, -1 padded
    values: Any  # (m, size) uint16, in units of 1 / UNIT


class Sets(NamedTuple):
    """Neighbour lists, and the sets that hold each neighbour.

    The sets of an item at ascending ranks contain each other. The level of a neighbour is the
    index of the smallest of `Scales.ranks` whose set holds it, or their number if none does.
    """

    ids: Any  # (n, k) int32, -1 padded at the end
    levels: Any  # (n, k) uint8, or (n, (k + 1) // 2) with two levels per byte, see `level_of`
    ages: Any  # (n,) int32, or (0,) where items have the order of their rows, see `is_before`


class Lists(NamedTuple):
    """Neighbour lists with their scores."""

    ids: Any  # (n, k) int32, -1 padded at the end
    scores: Any  # (n, k) float32, in descending order
    units: Any  # (n,) float64, see `units_of_lists`


class Holders(NamedTuple):
    """Inverted lists: for each entry l, the items whose encoding has it, and its value there.

    The list of l is at starts[l] to stops[l]; there may be gaps between lists. `holder_of` takes an
    element apart. Items in two arrays take 3 bytes instead of 4, up to 2^24 items.
    """

    starts: Any  # (n,) int64
    stops: Any  # (n,) int64
    holders: Any  # (entries,) uint32: the lower 16 bits of the item, then the value
    high: Any  # (entries,) uint8 or uint16: the other bits of the item


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

    `ids` (n, k) is padded with -1 at the end; `scores` (n, k), or overlaps, descend. `out` (n, k),
    uint8, is 0 where padded.
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

    `ranks` (n, k) are the ranks of the entries in their lists, in any order. The ranks `scales` of
    the levels ascend, and the last is at least k.
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


# --- encodings -----------------------------------------------------------------------------------


@borrowing
def is_before(ages: Any, item: int, other: int) -> bool:
    """Return whether an item was in the collection before another, and precedes it in a tie.

    The items of a fit have the order of their rows. Where items were removed, others have taken
    their rows, and ties are resolved by `ages` as if nothing had moved.
    """
    if ages.shape[0] == 0:
        return item < other
    return ages[item] < ages[other]


@borrowing
def insert_largest(
    ages: Any, filled: int, key: int, value: int, out_ids: Any, out_sums: Any
) -> int:
    """Insert a sum among the largest, in descending order, ties as `is_before` has it.

    `out_ids` and `out_sums` hold `filled` sums; the smallest is dropped if they are full. Returns
    the new number of sums.
    """
    if filled == out_sums.shape[0]:
        at = filled - 1
        if value < out_sums[at] or (value == out_sums[at] and is_before(ages, out_ids[at], key)):
            return filled
    else:
        at = filled
        filled += 1
    while at > 0 and (
        value > out_sums[at - 1]
        or (value == out_sums[at - 1] and is_before(ages, key, out_ids[at - 1]))
    ):
        out_ids[at], out_sums[at] = out_ids[at - 1], out_sums[at - 1]
        at -= 1
    out_ids[at], out_sums[at] = key, value
    return filled


@borrowing
def scale_weights(sizes: Any, scales: Scales, place: int, members: int, weight: Any) -> None:
    """Compute the weight (levels + 1,) of an element of an item's sets, by its level.

    At each scale, the encoding is the mean over the first `spread` of `members` items, of each the
    sum of its two sets, divided by their `sizes` together. `place` is the item's place among the
    members, from 0. The encoding is the mean over the scales; a set that holds an element at one
    level holds it at all larger levels.
    """
    ranks, whole, half, spread = scales
    n_scales = spread.shape[0]
    weight[:] = 0
    for s in range(n_scales):
        total = sizes[whole[s]] + sizes[half[s]]
        if spread[s] > place and total > 0:
            each = ONE // (n_scales * min(spread[s], members) * total)
            weight[whole[s]] += each
            weight[half[s]] += each
    for level in range(ranks.shape[0] - 2, -1, -1):
        weight[level] += weight[level + 1]


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


@borrowing
def jaccard_of(overlap: int) -> float:
    """Return Σ min / Σ max of two encodings that each sum to UNIT, up to rounding."""
    return min(1.0, overlap / (2.0 * UNIT - overlap))


# --- edges ---------------------------------------------------------------------------------------


@borrowing
def unit_of(row: Any) -> float:
    """Return the range of the twelve highest distinct scores, or of all where fewer differ.

    The scores descend, padded with -inf.
    """
    place = unit = 0  # the place among the distinct scores, and the score that ends the unit
    for a in range(1, row.shape[0]):
        if row[a] == -np.inf:
            break
        if row[a] < row[a - 1]:
            place += 1
            if place == PLACE:
                break
            unit = a
    return np.float64(row[0]) - np.float64(row[unit]) if row[unit] > -np.inf else 0.0


@parallel(lambda scores, *_: len(scores), grain=4096)
def units_of_lists(start: int, stop: int, scores: Any, out: Any) -> None:
    """Compute the units (n,), float64, of the scores (n, k) of lists."""
    for i in range(start, stop):
        out[i] = unit_of(scores[i])


@borrowing
def _evidence(lists: Lists, i: int, j: int) -> float:
    """Return 1 / (1 + z)², z being how far j is from the head of i's list; 0 if it is not there."""
    row, place = lists.ids[i], -1
    for b in range(row.shape[0]):  # without a branch, so that eight entries are compared at a time
        place = b if row[b] == j else place
    if place < 0:
        return 0.0
    below = np.float64(lists.scores[i, 0]) - np.float64(lists.scores[i, place])
    away = 1 + below / lists.units[i] if below > 0 else 1.0
    return 1 / (away * away)


@parallel(lambda rows, *_: len(rows), grain=64)
def pair_similarities(
    start: int, stop: int, rows: Any, places: Any, ids: Any, overlaps: Any, lists: Lists, out: Any
) -> None:
    """Compute S of some items and those that are similar to them: the mean of J and of evidence.

    `ids` and `overlaps` (n, k) are the similar items. Row places[p] of `out` (m, k), float32,
    receives S of item rows[p], 0 where padded. S is the same to the last bit for both of a pair.
    """
    for p in range(start, stop):
        i = rows[p]
        for a in range(ids.shape[1]):
            j = ids[i, a]
            S = 0.0
            if j >= 0:
                both = _evidence(lists, i, j) + _evidence(lists, j, i)
                S = 0.5 * jaccard_of(overlaps[i, a]) + 0.25 * both
            out[places[p], a] = S


@parallel(lambda values, *_: len(values), grain=256)
def ranks_of_values(start: int, stop: int, values: Any, out: Any) -> None:
    """Rank the values (m, k) of each row: 1 + the number of higher ones; uint8, 0 for values 0."""
    k = values.shape[1]
    for p in range(start, stop):
        row = values[p]
        for a in range(k):
            higher = 0
            for b in range(k):
                higher += row[b] > row[a]
            out[p, a] = 1 + higher if row[a] > 0 else 0


@parallel(lambda S, *_: len(S), grain=1024)
def contextual_weights(start: int, stop: int, S: Any, levels: Any, share: Any, out: Any) -> None:
    """Compute the weights (m, k), float32, of similar items: S³ times the share of their level."""
    for i in range(start, stop):
        for a in range(S.shape[1]):
            out[i, a] = S[i, a] * S[i, a] * S[i, a] * share[levels[i, a]]
