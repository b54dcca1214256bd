"""An order of the items in which neighbours are close, and local numbers of ids.

Compiled loops over neighbour lists read the lists of an item's neighbours, which are anywhere in
memory. In an order in which consecutive items have most neighbours in common, what a block of items
reads stays in the cache of a core. Within a block, ids are replaced by local numbers 0, 1, 2, ...,
so that sums over ids are kept in a small array.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .threads import borrowing, serial

# Items per cluster of the order, and neighbours per item by which a cluster grows. In collections
# of three intrinsic dimensions, the lists that a cluster reads take a few hundred kilobytes.
_CLUSTER = 256
_LINKS = 12


@serial
def locality_order(ids: Any) -> Any:
    """Order items by clusters of neighbours, each next to those before it.

    A cluster grows breadth first from an item. The next one starts at a neighbour of the earliest
    item that still has a neighbour outside all clusters. `ids` (n, k) are neighbour lists, padded
    with -1. Returns the order (n,), int32.
    """
    n = ids.shape[0]
    links = min(_LINKS, ids.shape[1])
    order = np.empty(n, np.int32)
    seen = np.zeros(n, np.bool_)
    tail = earliest = unseen = 0
    while tail < n:
        start = -1
        while start < 0 and earliest < tail:
            for a in range(links):
                j = ids[order[earliest], a]
                if j >= 0 and not seen[j]:
                    start = j
                    break
            if start < 0:
                earliest += 1
        if start < 0:
            while seen[unseen]:
                unseen += 1
            start = unseen
        first = head = tail
        seen[start] = True
        order[tail] = start
        tail += 1
        while head < tail and tail - first < _CLUSTER:
            i = order[head]
            head += 1
            for a in range(links):
                j = ids[i, a]
                if j >= 0 and not seen[j]:
                    seen[j] = True
                    order[tail] = j
                    tail += 1
    return order


class Numbers(NamedTuple):
    """Local numbers of ids: a hash table from ids, and the ids by number."""

    slots: Any  # (slots,) int32: local numbers, -1 where empty; at most half are occupied
    ids: Any  # (slots / 2,) int32


@serial
def new_numbers(room: int) -> Numbers:
    """Make a table for at least that many ids; its size is a power of two."""
    size = 16
    while size < room:
        size *= 2
    slots = np.empty(2 * size, np.int32)
    slots[:] = -1
    return Numbers(slots, np.empty(size, np.int32))


@borrowing
def _slot_of(slots: Any, ids: Any, key: int) -> int:
    """Return the slot of an id, or the empty slot where it belongs."""
    mask = slots.shape[0] - 1
    slot = ((np.int64(key) * 2654435761) >> 11) & mask
    while slots[slot] >= 0 and ids[slots[slot]] != key:
        slot = (slot + 1) & mask
    return slot


@borrowing
def number_of(numbers: Numbers, key: int) -> int:
    """Return the local number of an id, or -1."""
    slots, ids = numbers
    return slots[_slot_of(slots, ids, key)]


@borrowing
def number(slots: Any, ids: Any, count: int, key: int) -> int:
    """Return the local number of an id; a new id gets the number `count`.

    The table must have room for it. The two arrays of `Numbers` are passed one by one because
    unpacking a tuple at every call is measurably slower.
    """
    slot = _slot_of(slots, ids, key)
    if slots[slot] < 0:
        ids[count] = key
        slots[slot] = count
    return slots[slot]


@serial
def with_room(numbers: Numbers, count: int, room: int) -> Numbers:
    """Return a table of the same `count` ids that has room for `room`."""
    if room <= numbers.ids.shape[0]:
        return numbers
    larger = new_numbers(max(room, 2 * numbers.ids.shape[0]))
    for t in range(count):
        number(larger.slots, larger.ids, t, numbers.ids[t])
    return larger


@borrowing
def forget(numbers: Numbers, count: int) -> None:
    """Empty a table of `count` ids."""
    slots, ids = numbers
    if 8 * count > slots.shape[0]:
        slots[:] = -1
    else:
        # In reverse order of insertion, so that the search for an id never meets an early gap.
        for t in range(count - 1, -1, -1):
            slots[_slot_of(slots, ids, ids[t])] = -1


@serial
def longer(array: Any, length: int) -> Any:
    """Return an array of at least that length whose rows begin with those of `array`."""
    if length <= array.shape[0]:
        return array
    larger = np.empty((max(length, 2 * array.shape[0]), *array.shape[1:]), array.dtype)
    # By a loop over all values: assigning a part of an array takes a second to compile.
    values, copied = array.reshape(-1), larger.reshape(-1)
    for a in range(values.shape[0]):
        copied[a] = values[a]
    return larger
