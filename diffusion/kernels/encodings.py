"""Compiled loops that encode and compare the items of a collection, a block of items at a time.

The items of a block are neighbours of each other (`locality_order`), so that most of what they read
is the same: the lists of their neighbours, or the inverted lists of their entries. It is read once
for a block, its ids are replaced by local numbers, and the sums of each item are kept in a small
array by local number.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .context import (
    ONE,
    UNIT,
    Encodings,
    Holders,
    Scales,
    Sets,
    holder_of,
    insert_largest,
    level_of,
    scale_weights,
    write_encoding,
)
from .locality import Numbers, forget, longer, new_numbers, number, number_of, with_room
from .threads import borrowing, parallel, serial

# Items of a block, which ends earlier once what it has read takes this many entries.
_BLOCK = 256
_ENTRIES = 1 << 17

# Sums are counted in this many intervals to find the least one that may be kept.
_INTERVALS = 256


class Sums(NamedTuple):
    """Sums by local number."""

    values: Any  # (c,) int64, 0 outside the computation of an item
    touched: Any  # (c + 1,) int32: the numbers with a sum above 0
    counts: Any  # (_INTERVALS,) int32


@serial
def _sums(sums: Sums, count: int) -> Sums:
    """Return sums for that many local numbers."""
    if count <= sums.values.shape[0]:
        return sums
    return Sums(np.zeros(2 * count, np.int64), np.empty(2 * count + 1, np.int32), sums.counts)


@borrowing
def _least_kept(sums: Sums, touched: int, size: int) -> int:
    """Return a lower bound of the `size` largest sums, at least 1."""
    values, numbers, counts = sums
    if touched <= size:
        return 1
    most = np.int64(0)
    for t in range(touched):
        most = max(most, values[numbers[t]])
    shift = 0
    while most >> shift >= _INTERVALS:
        shift += 1
    counts[:] = 0
    for t in range(touched):
        counts[values[numbers[t]] >> shift] += 1
    interval = _INTERVALS - 1
    above = counts[interval]
    while above < size and interval > 0:
        interval -= 1
        above += counts[interval]
    return max(1, interval << shift)


@borrowing
def _take_largest(
    sums: Sums, touched: int, most: int, ids: Any, ages: Any, out_ids: Any, out_sums: Any
) -> int:
    """Write the largest sums in descending order, ties by age; return their number.

    Sums above `most` count as `most`, and `ids` are the ids by local number. All sums are 0
    afterwards.
    """
    values, numbers, _ = sums
    least = min(most, _least_kept(sums, touched, out_sums.shape[0]))
    filled = 0
    for t in range(touched):
        value = min(values[numbers[t]], most)
        values[numbers[t]] = 0
        if value >= least:
            filled = insert_largest(ages, filled, ids[numbers[t]], value, out_ids, out_sums)
    return filled


# --- encodings -----------------------------------------------------------------------------------


class Members(NamedTuple):
    """The items whose sets are averaged in a block, each with its list, in local numbers."""

    numbers: Any  # (m, 1 + k) int32: the item itself, then its list; -1 padded
    levels: Any  # (m, 1 + k) uint8: 0 for the item itself
    sizes: Any  # (m, levels) int64: of the sets


@serial
def _more_members(members: Members, room: int) -> Members:
    numbers, levels, sizes = members
    return Members(longer(numbers, room), longer(levels, room), longer(sizes, room))


@borrowing
def _read_member(
    member: int, item: int, sets: Sets, into: Members, names: Numbers, count: int
) -> int:
    """Assign numbers to an item and its list, which `names` must have room for."""
    slots, ids = names
    neighbors, row = sets.ids[item], sets.levels[item]
    numbers, levels, sizes = into.numbers[member], into.levels[member], into.sizes[member]
    k, n_levels = neighbors.shape[0], sizes.shape[0]
    sizes[:] = 0
    for a in range(k + 1):
        j = item if a == 0 else neighbors[a - 1]
        level = 0 if a == 0 else level_of(row, a - 1, k)
        numbers[a] = -1
        levels[a] = n_levels
        if j >= 0 and level < n_levels:
            numbers[a] = number(slots, ids, count, j)
            count += numbers[a] == count
            levels[a] = level
            sizes[level] += 1
    for s in range(1, n_levels):
        sizes[s] += sizes[s - 1]
    return count


@borrowing
def _sum_sets(near: Any, members: Members, scales: Scales, weight: Any, sums: Sums) -> int:
    """Sum the weighted sets of the members `near`, -1 padded; return the number of sums."""
    values, touched, _ = sums
    count = 0
    used = 0
    while used < near.shape[0] and near[used] >= 0:
        used += 1
    for place in range(used):
        numbers, levels = members.numbers[near[place]], members.levels[near[place]]
        scale_weights(members.sizes[near[place]], scales, place, used, weight)
        for a in range(numbers.shape[0]):
            w = weight[levels[a]]
            if w > 0:
                x = numbers[a]
                touched[count] = x
                count += values[x] == 0
                values[x] += w
    return count


@parallel(lambda items, *_: len(items), grain=_BLOCK)
def encode(
    start: int, stop: int, items: Any, places: Any, sets: Sets, scales: Scales, out: Encodings
) -> None:
    """Write the encoding of items[p] to row places[p] of `out`, for every p."""
    k, n_levels, averaged = sets.ids.shape[1], scales.ranks.shape[0], scales.spread[-1]
    size = out.values.shape[1]
    near = np.empty((_BLOCK, averaged), np.int32)
    members = Members(
        np.empty((_BLOCK, 1 + k), np.int32),
        np.empty((_BLOCK, 1 + k), np.uint8),
        np.empty((_BLOCK, n_levels), np.int64),
    )
    names, lists = new_numbers(1 << 12), new_numbers(1 << 10)
    sums = Sums(np.zeros(1, np.int64), np.empty(2, np.int32), np.empty(_INTERVALS, np.int32))
    weight, best = np.empty(n_levels + 1, np.int64), np.empty(size, np.int64)
    first = start
    while first < stop:
        count = read = 0
        last = first
        while last < min(stop, first + _BLOCK) and read * k <= _ENTRIES:
            item = items[last]
            lists = with_room(lists, read, read + averaged)
            names = with_room(names, count, count + averaged * (k + 1))
            members = _more_members(members, read + averaged)
            list_slots, list_ids = lists
            own = sets.ids[item]
            near[last - first] = -1
            for place in range(averaged):
                j = item
                if place > 0:
                    j = own[place - 1] if place <= k else -1
                if j < 0:
                    break
                m = number(list_slots, list_ids, read, j)
                if m == read:
                    count = _read_member(m, j, sets, members, names, count)
                    read += 1
                near[last - first, place] = m
            last += 1
        sums = _sums(sums, count)
        for p in range(first, last):
            filled = _sum_sets(near[p - first], members, scales, weight, sums)
            row = places[p]
            filled = _take_largest(sums, filled, ONE, names.ids, sets.ages, out.ids[row], best)
            write_encoding(best, filled, out.ids[row], out.values[row])
        forget(names, count)
        forget(lists, read)
        first = last


@borrowing
def invert(order: Any, encodings: Encodings, out: Holders) -> None:
    """Turn encodings (n, size) into inverted lists without gaps, with items in the given order.

    `out.stops` is 0 everywhere.
    """
    entries, values = encodings
    n, size = values.shape
    starts, stops, holders, high = out
    for i in range(n):
        for a in range(size):
            if entries[i, a] >= 0:
                stops[entries[i, a]] += 1
    total = 0
    for i in range(n):
        starts[i], total = total, total + stops[i]
        stops[i] = starts[i]
    for i in order:
        for a in range(size):
            l = entries[i, a]  # noqa: E741
            if l >= 0:
                holders[stops[l]] = ((i & 0xFFFF) << 16) | values[i, a]
                high[stops[l]] = i >> 16
                stops[l] += 1  # the end of what is filled; in the end, of the list


# --- Jaccard similarity --------------------------------------------------------------------------


class Decoded(NamedTuple):
    """The inverted lists that a block reads, one after the other."""

    begin: Any  # (lists + 1,) int64
    numbers: Any  # (entries,) int32: local numbers of the items
    values: Any  # (entries,) int64


@borrowing
def _sum_overlaps(lists: Any, values: Any, decoded: Decoded, sums: Sums) -> int:
    """Sum the smaller of two values over the entries of an encoding; return the number of sums.

    `lists` are the places in `decoded` of the inverted lists of the entries, -1 padded.
    """
    total, touched, _ = sums
    begin, numbers, theirs = decoded
    count = 0
    for a in range(lists.shape[0]):
        if lists[a] < 0:
            continue
        own = np.int64(values[a])
        for e in range(begin[lists[a]], begin[lists[a] + 1]):
            x = numbers[e]
            least = min(own, theirs[e])
            before = total[x]
            # Without a branch, which would be mispredicted for every third entry. A least value of
            # 0, as in a damaged index, must not be counted: it would be counted again.
            touched[count] = x
            count += (before == 0) & (least > 0)
            total[x] = before + least
    return count


@borrowing
def _find_lists(entries: Any, which: Any, lists: Numbers, read: int) -> int:
    """Write the local numbers of an encoding's entries; return the new number of lists."""
    slots, ids = lists
    for a in range(which.shape[0]):
        which[a] = -1
        if entries[a] >= 0:
            which[a] = number(slots, ids, read, entries[a])
            read += which[a] == read
    return read


@borrowing
def _length(entries: Any, starts: Any, stops: Any) -> int:
    """Return the total length of the inverted lists of some entries."""
    total = 0
    for entry in entries:
        total += stops[entry] - starts[entry]
    return total


@serial
def _more_decoded(decoded: Decoded, lists: int, entries: int) -> Decoded:
    begin, numbers, values = decoded
    return Decoded(longer(begin, lists + 1), longer(numbers, entries), longer(values, entries))


@borrowing
def _decode(
    entries: Any, first: int, holders: Holders, into: Decoded, names: Numbers, count: int
) -> int:
    """Assign numbers to the items of inverted lists, which all tables must have room for.

    The lists are those of `entries`, and are written as the lists `first` and so on of `into`.
    """
    slots, ids = names
    starts, stops, items, high = holders
    begin, numbers, values = into
    at = begin[first]
    for l in range(entries.shape[0]):  # noqa: E741
        for e in range(starts[entries[l]], stops[entries[l]]):
            item, value = holder_of(items, high, e)
            x = number(slots, ids, count, item)
            count += x == count
            numbers[at], values[at] = x, value
            at += 1
        begin[first + l + 1] = at
    return count


@borrowing
def _write_overlaps(sums: Any, filled: int, out_ids: Any, out_overlaps: Any) -> None:
    """Write the row of an item from its largest overlaps."""
    for a in range(out_overlaps.shape[0]):
        if a < filled:
            out_overlaps[a] = sums[a]
        else:
            out_ids[a], out_overlaps[a] = -1, 0


class _Block(NamedTuple):
    """The inverted lists that the encodings of a block of items read."""

    which: Any  # (_BLOCK, size) int32: the lists of each encoding, -1 padded
    decoded: Decoded
    names: Numbers  # of items
    lists: Numbers
    sums: Sums


@serial
def _new_block(size: int) -> _Block:
    return _Block(
        np.empty((_BLOCK, size), np.int32),
        Decoded(np.zeros(1, np.int64), np.empty(1, np.int32), np.empty(1, np.int64)),
        new_numbers(1 << 12),
        new_numbers(1 << 10),
        Sums(np.zeros(1, np.int64), np.empty(2, np.int32), np.empty(_INTERVALS, np.int32)),
    )


@serial
def _read_block(
    first: int, stop: int, places: Any, encodings: Encodings, holders: Holders, block: _Block
) -> tuple[int, int, int, _Block]:
    """Read what a block of items from `first` on needs, which ends before `stop`.

    Returns the end of the block, the numbers of items and of lists that were read, and the memory.
    """
    which, decoded, names, lists, sums = block
    size = encodings.values.shape[1]
    count = read = 0
    last = first
    while last < min(stop, first + _BLOCK) and decoded.begin[read] <= _ENTRIES:
        before = read
        lists = with_room(lists, read, read + size)
        read = _find_lists(encodings.ids[places[last]], which[last - first], lists, read)
        entries = lists.ids[before:read]
        length = _length(entries, holders.starts, holders.stops)
        names = with_room(names, count, count + length)
        decoded = _more_decoded(decoded, read, decoded.begin[before] + length)
        count = _decode(entries, before, holders, decoded, names, count)
        last += 1
    return last, count, read, _Block(which, decoded, names, lists, _sums(sums, count))


@borrowing
def _sum_row(p: int, first: int, item: int, values: Any, block: _Block) -> int:
    """Sum the overlaps of an item with all others; return the number of sums."""
    touched = _sum_overlaps(block.which[p - first], values, block.decoded, block.sums)
    itself = number_of(block.names, item)
    if itself >= 0:
        block.sums.values[itself] = 0
    return touched


@borrowing
def _write_row(
    touched: int, block: _Block, ages: Any, best: Any, out_ids: Any, out_overlaps: Any
) -> None:
    """Write the largest overlaps of an item, whose sums are computed."""
    filled = _take_largest(block.sums, touched, UNIT, block.names.ids, ages, out_ids, best)
    _write_overlaps(best, filled, out_ids, out_overlaps)


@parallel(lambda items, *_: len(items), grain=_BLOCK)
def jaccard_lists(
    start: int,
    stop: int,
    items: Any,
    places: Any,
    encodings: Encodings,
    holders: Holders,
    ages: Any,
    out_ids: Any,
    out_overlaps: Any,
) -> None:
    """List the k others with the highest Jaccard similarity to items[p], for every p.

    Row places[p] of `encodings` is that of items[p]. The same row of `out_ids` and `out_overlaps`
    (m, k), uint16, receives the list, in descending order of overlap, ties by `ages`, padded with
    -1 and 0. `jaccard_of` turns an overlap into a similarity; one above UNIT, by rounding,
    counts as UNIT, for both give the similarity 1. `out_ids` may be `encodings.ids`: a row is read
    before it is written. Only its first k columns are written.
    """
    k = out_overlaps.shape[1]
    block = _new_block(encodings.values.shape[1])
    best = np.empty(k, np.int64)
    first = start
    while first < stop:
        last, count, read, block = _read_block(first, stop, places, encodings, holders, block)
        for p in range(first, last):
            row = places[p]
            touched = _sum_row(p, first, items[p], encodings.values[row], block)
            _write_row(touched, block, ages, best, out_ids[row, :k], out_overlaps[row])
        forget(block.names, count)
        forget(block.lists, read)
        first = last


class Offers(NamedTuple):
    """Overlaps of items with others that may list them."""

    least: Any  # (n,) int64: the `offer_key` that another one takes at least
    starts: Any  # (m,) int64: where what each item offers begins
    counts: Any  # (m,) int64
    ids: Any  # int32: to whom
    values: Any  # uint16: the overlap


@borrowing
def offer_key(ages: Any, overlap: int, item: int) -> Any:
    """Return a number by which entries are ordered: by overlap, ties as `is_before` has it."""
    age = np.int64(item) if ages.shape[0] == 0 else np.int64(ages[item])
    return (np.int64(overlap) << 32) - age


@borrowing
def _offer(p: int, item: int, touched: int, block: _Block, ages: Any, offers: Offers) -> None:
    """Offer an item to all that share an entry with it and take it."""
    total, numbers, _ = block.sums
    end = offers.starts[p]
    for t in range(touched):
        j = block.names.ids[numbers[t]]
        value = min(total[numbers[t]], UNIT)
        if value > 0 and offer_key(ages, value, item) >= offers.least[j]:
            offers.ids[end], offers.values[end] = j, value
            end += 1
    offers.counts[p] = end - offers.starts[p]


@parallel(lambda items, *_: len(items), grain=_BLOCK)
def jaccard_offers(
    start: int,
    stop: int,
    items: Any,
    encodings: Encodings,
    holders: Holders,
    ages: Any,
    out_ids: Any,
    out_overlaps: Any,
    offers: Offers,
) -> None:
    """List the most similar others of items[p] as `jaccard_lists` does, and offer it to others.

    All arrays of the items are in their order.
    """
    block = _new_block(encodings.values.shape[1])
    best = np.empty(out_overlaps.shape[1], np.int64)
    places = np.arange(len(items))
    first = start
    while first < stop:
        last, count, read, block = _read_block(first, stop, places, encodings, holders, block)
        for p in range(first, last):
            touched = _sum_row(p, first, items[p], encodings.values[p], block)
            _offer(p, items[p], touched, block, ages, offers)
            _write_row(touched, block, ages, best, out_ids[p], out_overlaps[p])
        forget(block.names, count)
        forget(block.lists, read)
        first = last
