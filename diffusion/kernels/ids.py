"""Compiled loops of a hash table that finds the rows of ids.

The table has open addressing with linear probing: each slot has the row of an id, or -1. It is a
power of two at least twice as long as there are ids. A stored table is not trusted: what a loop
reads is compared with the bounds of the arrays, and no loop takes more steps than there are slots.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .threads import borrowing, parallel, serial

#: What `find` writes for an id if the table or the offsets are not what they must be.
DAMAGED = -2


class Keys(NamedTuple):
    """Ids as bytes, one after the other."""

    text: Any  # uint8
    offsets: Any  # (n + 1,) int64, where each begins; empty if all have 8 bytes


def length(keys: Keys) -> int:
    """Return the number of keys."""
    return len(keys.offsets) - 1 if len(keys.offsets) else len(keys.text) // 8


@borrowing
def _begin(offsets: Any, row: Any) -> Any:
    """Return where a key begins."""
    return offsets[row] if offsets.shape[0] else np.int64(8) * np.int64(row)


@borrowing
def _hash(text: Any, begin: Any, end: Any) -> Any:
    """Return the FNV-1a hash of a key, its bits mixed as splitmix64 does."""
    h = np.uint64(14695981039346656037)
    for i in range(begin, end):
        h = (h ^ np.uint64(text[i])) * np.uint64(1099511628211)
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return h ^ (h >> np.uint64(31))


@borrowing
def _equal(text: Any, begin: Any, end: Any, other: Any, first: Any, last: Any) -> bool:
    """Return whether two keys are equal."""
    if end - begin != last - first:
        return False
    for i in range(end - begin):  # noqa: SIM110
        if text[begin + i] != other[first + i]:
            return False
    return True


@borrowing
def _slot(text: Any, begin: Any, end: Any, own: Any, offsets: Any, n: Any, table: Any) -> Any:
    """Return the slot of the row whose key equals one, -1 - the empty slot, or -1 - the slots.

    The last stands for a table without an empty slot, or for values out of bounds.
    """
    slots = table.shape[0]
    mask = np.uint64(slots - 1)
    slot = _hash(text, begin, end) & mask
    for _ in range(slots):
        row = table[slot]
        if row == -1:
            return -1 - np.int64(slot)
        if not 0 <= row < n:
            break
        first, last = _begin(offsets, row), _begin(offsets, row + 1)
        if not 0 <= first <= last <= own.shape[0]:
            break
        if _equal(text, begin, end, own, first, last):
            return np.int64(slot)
        slot = (slot + np.uint64(1)) & mask
    return np.int64(-1 - slots)


@parallel(lambda asked, *_: length(asked), grain=1024)
def find(start: int, stop: int, asked: Keys, keys: Keys, n: int, table: Any, out: Any) -> None:
    """Look ids up among n: write the row of each to `out` (m,), -1 if it is unknown, or DAMAGED."""
    slots = table.shape[0]
    for i in range(start, stop):
        begin, end = _begin(asked.offsets, i), _begin(asked.offsets, i + 1)
        slot = _slot(asked.text, begin, end, keys.text, keys.offsets, n, table)
        if slot >= 0:
            out[i] = table[slot]
        else:
            out[i] = DAMAGED if slot == -1 - slots else -1


@serial
def insert(keys: Keys, first: int, last: int, table: Any) -> Any:
    """Enter the rows from first to last - 1; return the rows of the first id that is repeated.

    These are (-1, -1) if no id is. The keys of all rows in the table are in `keys`.
    """
    text, offsets = keys.text, keys.offsets
    for row in range(first, last):
        begin, end = _begin(offsets, row), _begin(offsets, row + 1)
        slot = _slot(text, begin, end, text, offsets, last, table)
        if slot >= 0:
            return np.int64(table[slot]), np.int64(row)
        table[-1 - slot] = row
    return np.int64(-1), np.int64(-1)


@borrowing
def _slot_of_row(text: Any, offsets: Any, row: Any, table: Any) -> Any:
    """Return the slot that has a row, -1 if none has."""
    mask = np.uint64(table.shape[0] - 1)
    slot = _hash(text, _begin(offsets, row), _begin(offsets, row + 1)) & mask
    for _ in range(table.shape[0]):
        if table[slot] == row:
            return np.int64(slot)
        if table[slot] < 0:
            return np.int64(-1)
        slot = (slot + np.uint64(1)) & mask
    return np.int64(-1)


@serial
def move(keys: Keys, removed: Any, sources: Any, targets: Any, table: Any) -> bool:
    """Take rows out of a table, and renumber others; return whether all were in it.

    `keys` are those before; `sources` and `targets` (m,) are the old rows and the new ones. A new
    row is one that is removed or that does not exist before.
    """
    text, offsets = keys.text, keys.offsets
    mask = np.uint64(table.shape[0] - 1)
    for row in removed:
        found = _slot_of_row(text, offsets, row, table)
        if found < 0:
            return False
        # Entries that follow move back, unless they would stand before their own place.
        hole = np.uint64(found)
        slot = hole
        for _ in range(table.shape[0]):
            slot = (slot + np.uint64(1)) & mask
            other = table[slot]
            if other < 0:
                break
            home = _hash(text, _begin(offsets, other), _begin(offsets, other + 1)) & mask
            if ((slot - home) & mask) >= ((slot - hole) & mask):
                table[hole] = other
                hole = slot
        table[hole] = -1
    for i in range(sources.shape[0]):
        found = _slot_of_row(text, offsets, sources[i], table)
        if found < 0:
            return False
        table[found] = targets[i]
    return True


@parallel(lambda source, *_: len(source), grain=4096)
def gather(start: int, stop: int, source: Any, keys: Keys, out: Keys) -> None:
    """Copy the keys of the rows in `source` (m,) to `out`, whose offsets are set."""
    for row in range(start, stop):
        begin, size = keys.offsets[source[row]], out.offsets[row + 1] - out.offsets[row]
        for i in range(size):
            out.text[out.offsets[row] + i] = keys.text[begin + i]
