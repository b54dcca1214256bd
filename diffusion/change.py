"""How the rows of a collection move when items are removed or added.

Rows stay dense, from 0 to n - 1, and as few as possible change their number, so that an update
rewrites little: added items get the rows after the last one, and the last rows move into the places
of removed items.

Rows therefore do not say in which order items were added, by which ties are resolved. Their *ages*
do: numbers that ascend in this order, with gaps.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# The largest age, after which ages are counted anew.
_MOST_AGES = 2**31 - 1


class Ages(NamedTuple):
    """The ages of items before and after a change.

    An item keeps its age, unless it stands for several, of which the oldest has been removed: its
    age is larger then. If an age is smaller than before, ages have been counted anew.
    """

    before: NDArray[np.int32]  # (before,)
    after: NDArray[np.int32]  # (after,)


class Change(NamedTuple):
    """A change of a collection of `before` items to one of `after` items.

    Attributes
    ----------
    target : ndarray, shape (before,), int32
        The new row of each item, -1 if it is removed.
    source : ndarray, shape (after,), int32
        The row that each item had before, -1 if it is added.
    """

    target: NDArray[np.int32]
    source: NDArray[np.int32]

    @classmethod
    def removal(cls, n: int, rows: NDArray[np.integer]) -> Change:
        """Return the change that removes some of n rows, which are distinct."""
        removed = np.zeros(n, bool)
        removed[rows] = True
        after = n - len(rows)
        source = np.arange(after, dtype=np.int32)
        holes = np.flatnonzero(removed[:after])
        source[holes] = after + np.flatnonzero(~removed[after:])
        target = np.full(n, -1, np.int32)
        target[source] = np.arange(after, dtype=np.int32)
        return cls(target, source)

    @classmethod
    def addition(cls, n: int, count: int) -> Change:
        """Return the change that adds `count` items to n."""
        rows = np.arange(n + count, dtype=np.int32)
        return cls(rows[:n].copy(), np.where(rows < n, rows, -1).astype(np.int32))

    @property
    def before(self) -> int:
        """Number of items before the change."""
        return len(self.target)

    @property
    def after(self) -> int:
        """Number of items after the change."""
        return len(self.source)

    @property
    def empty(self) -> bool:
        """Whether no item is removed or added."""
        return self.before == self.after and not len(self.added)

    @property
    def removed(self) -> NDArray[np.int64]:
        """The rows, before the change, of the removed items, ascending."""
        return np.flatnonzero(self.target < 0)

    @property
    def added(self) -> NDArray[np.int64]:
        """The rows, after the change, of the added items, ascending."""
        return np.flatnonzero(self.source < 0)

    @property
    def moved(self) -> NDArray[np.int64]:
        """The rows, after the change, of the items that had another one before."""
        own = np.arange(self.after, dtype=np.int32)
        return np.flatnonzero((self.source >= 0) & (self.source != own))

    def rows_of(self, array: NDArray[Any], added: NDArray[Any] | None = None) -> NDArray[Any]:
        """Return a copy of an array (before, ...) with its rows where the items are now.

        The rows of added items are those of `added`, or 0.
        """
        out = np.zeros((self.after, *array.shape[1:]), array.dtype)
        kept = min(self.before, self.after)
        out[:kept] = array[:kept]
        moved = self.moved
        out[moved] = array[self.source[moved]]
        new = self.added
        if len(new):
            out[new] = 0 if added is None else added
        return out

    def ages_of(self, ages: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return the ages (after,) of items that had some (before,); added items are the last."""
        first = int(ages.max(initial=-1)) + 1
        if first > _MOST_AGES - self.after:
            ages = np.argsort(np.argsort(ages, kind="stable")).astype(np.int32)
            first = len(ages)
        return self.rows_of(ages, np.arange(first, first + len(self.added), dtype=np.int32))
