"""Numbers from 0 for the rows that a task reads, by which loops find them in its arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..kernels.locality import Numbers, new_numbers, number, number_of, with_room
from ..kernels.matrix import read_only
from ..kernels.threads import parallel, serial

# Ids for which a table makes room at a time.
_BLOCK = 1 << 12


@serial
def _insert(numbers: Numbers, count: int, ids: Any) -> tuple[Numbers, int]:
    """Give numbers from `count` on to the ids (m,) that have none; -1 is left out."""
    for start in range(0, ids.shape[0], _BLOCK):
        stop = min(ids.shape[0], start + _BLOCK)
        numbers = with_room(numbers, count, count + stop - start)
        slots, known = numbers
        for t in range(start, stop):
            if ids[t] >= 0:
                count += number(slots, known, count, ids[t]) == count
    return numbers, count


@parallel(lambda ids, *_: len(ids), grain=1 << 14)
def _look_up(
    start: int, stop: int, ids: Any, first: int, last: int, numbers: Numbers, out: Any
) -> None:
    """Write the numbers of ids (m,): those of a range come first, then those of a table."""
    for t in range(start, stop):
        i = ids[t]
        if first <= i < last:
            out[t] = i - first
        else:
            found = number_of(numbers, i) if i >= 0 else -1
            out[t] = found if found < 0 else found + last - first


class Local:
    """Numbers from 0 for rows: those of a range first, then others as they are added.

    Parameters
    ----------
    first, last : int
        The range.
    """

    def __init__(self, first: int, last: int) -> None:
        self._first, self._last = first, last
        self._numbers, self._count = new_numbers(1 << 10), 0

    def add(self, ids: NDArray[np.int32]) -> None:
        """Give numbers to the rows among `ids`, of any shape, that have none; -1 is padding.

        The new numbers ascend with the rows.
        """
        flat = np.ascontiguousarray(ids, np.int32).reshape(-1)
        unknown = flat[self.of(flat) < 0]
        found, count = _insert(new_numbers(1 << 10), 0, unknown)
        new = np.sort(found.ids[:count])
        self._numbers, self._count = _insert(self._numbers, self._count, new)

    @property
    def rows(self) -> NDArray[np.int32]:
        """The rows (m,) by their numbers."""
        own = np.arange(self._first, self._last, dtype=np.int32)
        return np.concatenate([own, self._numbers.ids[: self._count]])

    def of(self, ids: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return the numbers of rows, of the shape of `ids`; -1 for rows that have none."""
        flat = np.ascontiguousarray(ids, np.int32).reshape(-1)
        out = np.empty(len(flat), np.int32)
        _look_up(read_only(flat), self._first, self._last, self._numbers, out)
        return out.reshape(ids.shape)
