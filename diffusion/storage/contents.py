"""What the arrays of a state must contain, and the check that they do, on first use.

Whoever stores arrays declares a `Layout`: for each array its type, its shape, and what its values
promise. `Contents` compares types and shapes with it at once, and the values when they are first
used. Of large arrays of which a query reads little, the query checks the values that it reads, so
that its time does not depend on their size (`Contents.check_small`). A damaged or forged file is
thereby one clear error, and never an access outside an array.
Values that keep every promise and are wrong nevertheless give wrong results.
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import DiffusionError
from .files import read_singly

# A state whose arrays have at most this many bytes is checked whole, in some milliseconds.
SMALL = 1 << 24

# An array of at most this many bytes is in memory after a few reads, however it is read.
_SMALL_ARRAY = 1 << 20

# Values compared at a time: what a block takes, about a MiB, stays in the cache of a core.
_BLOCK = 1 << 18

# Reading from memory does not get faster with more threads than this.
_THREADS = 8

Arrays = Mapping[str, NDArray[Any]]
Places = slice | NDArray[np.int64]


class Promise(ABC):
    """What the values of an array promise."""

    #: Number of values that follow a block and are checked with it.
    overlap: ClassVar[int] = 0

    @abstractmethod
    def kept(self, places: Places, block: NDArray[Any], arrays: Arrays) -> bool:
        """Return whether a block of values keeps it; NaN never does.

        Parameters
        ----------
        places : slice or ndarray of int64
            Where the values are in the array, flattened.
        block : ndarray, shape (b,)
        arrays : mapping of str to ndarray
            All arrays of the layout.
        """

    def whole(self, array: NDArray[Any], arrays: Arrays) -> bool:
        """Return whether an array keeps what does not show in its blocks."""
        return True

    @abstractmethod
    def __str__(self) -> str:
        """Return what is expected, in words."""


@dataclass(frozen=True)
class Anything(Promise):
    """Values that are only copied or compared."""

    def kept(self, places: Places, block: NDArray[Any], arrays: Arrays) -> bool:
        """Return True."""
        return True

    def __str__(self) -> str:
        return "any values"


@dataclass(frozen=True)
class Between(Promise):
    """Values from `low` to `high`; `high` may name an array of one value."""

    low: float
    high: float | str

    def kept(self, places: Places, block: NDArray[Any], arrays: Arrays) -> bool:
        """Return whether all values are within the bounds."""
        high = arrays[self.high][0] if isinstance(self.high, str) else self.high
        if self.low == 0 and block.dtype.kind == "i" and high < np.inf:
            # Read once: a negative integer is a large one without its sign.
            return bool(block.view(f"u{block.dtype.itemsize}").max().item() <= high)
        return bool(self.low <= block.min().item() and block.max().item() <= high)

    def __str__(self) -> str:
        return f"values from {self.low} to {self.high}"


class ZeroOrBetween(Between):
    """Zeros, and values from `low` to `high`."""

    def kept(self, places: Places, block: NDArray[Any], arrays: Arrays) -> bool:
        """Return whether all values but zeros are within the bounds."""
        others = block[block != 0]
        return not len(others) or super().kept(places, others, arrays)

    def __str__(self) -> str:
        return f"0 or {super().__str__()}"


def finite(dtype: Any) -> Between:
    """Return the promise of finite values of a floating type."""
    most = float(np.finfo(dtype).max)
    return Between(-most, most)


@dataclass(frozen=True)
class Offsets(Promise):
    """Values that begin at 0, never decrease and end at the length of the array named."""

    of: str
    overlap: ClassVar[int] = 1

    def kept(self, places: Places, block: NDArray[Any], arrays: Arrays) -> bool:
        """Return whether values never decrease."""
        return bool((block[1:] >= block[:-1]).all())

    def whole(self, array: NDArray[Any], arrays: Arrays) -> bool:
        """Return whether the first value and the last are as they must be."""
        return bool(array[0] == 0 and array[-1] == len(arrays[self.of]))

    def __str__(self) -> str:
        return f"offsets from 0 to the length of {self.of}, which never decrease"


@dataclass(frozen=True)
class Stops(Promise):
    """Where rows end, each at or after its start, within the array named.

    The starts are listed before, and promise to be at least 0. Together, the rows have `total`
    values, or at most as many as the array: they do not overlap much.
    """

    starts: str
    of: str
    total: int | None = None

    def kept(self, places: Places, block: NDArray[Any], arrays: Arrays) -> bool:
        """Return whether rows end where they may."""
        return bool(
            (block >= arrays[self.starts][places]).all() and block.max() <= len(arrays[self.of])
        )

    def whole(self, array: NDArray[Any], arrays: Arrays) -> bool:
        """Return whether there are as many values as there must be."""
        found = float(np.subtract(array, arrays[self.starts], dtype=np.float64).sum())
        return found <= len(arrays[self.of]) if self.total is None else found == self.total

    def __str__(self) -> str:
        total = "" if self.total is None else f", {self.total} values in all"
        return f"ends of rows that begin at {self.starts}, within {self.of}{total}"


def with_rows(arrays: Arrays, offsets: str = "indptr", prefix: str = "") -> dict[str, Any]:
    """Return arrays with the starts and stops of rows, which an earlier version stored as offsets.

    Nothing is copied.
    """
    if offsets not in arrays:
        return dict(arrays)
    return {
        **arrays,
        f"{prefix}starts": arrays[offsets][:-1],
        f"{prefix}stops": arrays[offsets][1:],
    }


@dataclass(frozen=True)
class Ascending(Promise):
    """Values of at least 0, each larger than the one before."""

    overlap: ClassVar[int] = 1

    def kept(self, places: Places, block: NDArray[Any], arrays: Arrays) -> bool:
        """Return whether values increase."""
        return bool(block[0] >= 0 and (block[1:] > block[:-1]).all())

    def __str__(self) -> str:
        return "values of at least 0 that increase"


@dataclass(frozen=True)
class InverseOf(Promise):
    """The inverse of a permutation, which is listed before and promises to be in range."""

    of: str

    def kept(self, places: Places, block: NDArray[Any], arrays: Arrays) -> bool:
        """Return whether following both leads back."""
        n = len(arrays[self.of])
        if not (block.min() >= 0 and block.max() < n):
            return False
        if isinstance(places, slice):
            places = np.arange(places.start, places.stop)
        return bool((arrays[self.of][block] == places).all())

    def __str__(self) -> str:
        return f"the inverse of {self.of}"


class Array(NamedTuple):
    """What an array must be.

    Attributes
    ----------
    dtype : type, or tuple of types
    shape : tuple of int and str
        A name stands for any length, the same wherever it occurs in a layout.
    promise : Promise
    by_rows : bool
        Whether it is so large, and a use of it reads so little, that rows are checked when they are
        read (`Contents.check_rows`).
    rows : tuple of str, optional
        The names of the arrays that say where rows start and stop in this one. Values outside of
        them are never used, and promise nothing.
    """

    dtype: Any
    shape: tuple[int | str, ...]
    promise: Promise = Anything()
    by_rows: bool = False
    rows: tuple[str, str] | None = None


Layout = Mapping[str, Array]


class Ragged(NamedTuple):
    """Rows of any length: row i is at starts[i] to stops[i] in each of several arrays.

    Attributes
    ----------
    starts, stops : str
        The names of the arrays (n,), int64, that tell the places.
    data : tuple of str
        The names of the arrays of entries, which have one length.
    """

    starts: str
    stops: str
    data: tuple[str, ...]

    def with_prefix(self, prefix: str) -> Ragged:
        """Return rows of which all names begin with a prefix."""
        data = tuple(prefix + name for name in self.data)
        return Ragged(prefix + self.starts, prefix + self.stops, data)


class Contents:
    """Arrays that are checked on first use.

    Parameters
    ----------
    arrays : mapping of str to ndarray
        Those of the layout, and perhaps others. They may be memory-mapped; they are not read.
    layout : mapping of str to Array
    source : str
        What errors call the state that the arrays belong to.

    Raises
    ------
    KeyError, ValueError
        If an array is missing, or does not have its type or shape.
    """

    def __init__(self, arrays: Arrays, layout: Layout, source: str) -> None:
        lengths: dict[str, int] = {}
        for name, (dtype, shape, *_) in layout.items():
            array = arrays[name]
            types = dtype if isinstance(dtype, tuple) else (dtype,)
            ok = array.dtype in map(np.dtype, types) and array.ndim == len(shape)
            for length, found in zip(shape, array.shape, strict=False):
                ok &= found == (
                    length if isinstance(length, int) else lengths.setdefault(length, found)
                )
            if not ok:
                raise ValueError(f"{name}: {array.dtype} of shape {array.shape}")
        self._arrays, self._layout, self._source = arrays, layout, source
        self._done: set[bool] = set()  # of `by_rows`
        self._begun = False  # whether `check_small` has left arrays to those who read them

    def check(self, *, by_rows: bool = False) -> None:
        """Check the values of whole arrays, unless they have been checked.

        Parameters
        ----------
        by_rows : bool, default False
            Check the arrays that are checked by rows, instead of the others.

        Raises
        ------
        DiffusionError
            If an array does not keep its promise; the message names it.
        """
        if by_rows in self._done:
            return
        with _lock:
            if by_rows not in self._done:
                self.read_singly(False)
                self._check(self._promising(by_rows))
                self._done.add(by_rows)

    def check_small(self, whole: Collection[str] = ()) -> None:
        """Check the values of whole arrays, as `check` does, unless they are large together.

        The caller of a method that reads a few values of large arrays checks these values itself,
        and calls `check` when one is wrong, which raises the error that says so.

        Parameters
        ----------
        whole : collection of str, optional
            The arrays that are checked in any case: those that are read whole.

        Raises
        ------
        DiffusionError
            If an array does not keep its promise; the message names it.
        """
        if self._begun or False in self._done:
            return
        names = self._promising(False)
        if sum(self._arrays[name].nbytes for name in names) <= SMALL:
            self.check()
            return
        with _lock:
            if not self._begun:
                self._check(tuple(name for name in names if name in whole))
                self.read_singly()
                self._begun = True

    def check_range(self, name: str, start: int, stop: int) -> None:
        """Check the rows from `start` to `stop` of an array, unless all have been checked."""
        if self.checked:
            return
        array, promise = self._arrays[name], self._layout[name].promise
        width = max(1, array.size // max(1, len(array)))
        for begin in range(start * width, stop * width, _BLOCK):
            if not self._kept(name, slice(begin, min(stop * width, begin + _BLOCK))):
                raise damaged(self._source, name, promise)

    @property
    def checked(self) -> bool:
        """Whether the values of whole arrays have been checked, other than those read by rows."""
        return False in self._done or not self._layout

    def read_singly(self, singly: bool = True) -> None:
        """Tell the system whether single values of large arrays are read, see `files`."""
        for name in self._layout:
            if self._arrays[name].nbytes > _SMALL_ARRAY:
                read_singly(self._arrays[name], singly)

    def _promising(self, by_rows: bool) -> tuple[str, ...]:
        """Return the names of the arrays that `check` checks."""
        return tuple(
            name
            for name, array in self._layout.items()
            if array.by_rows == by_rows and not isinstance(array.promise, Anything)
        )

    def _check(self, names: Collection[str]) -> None:
        with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
            for name in names:
                _, _, promise, _, rows = self._layout[name]
                array = self._arrays[name]
                broken = [
                    places
                    for places, kept in pool.map(
                        lambda places, name=name: (places, self._kept(name, places)),
                        _blocks(array, promise.overlap),
                    )
                    if not kept
                ]
                if broken and rows is not None:
                    # Most arrays have no gaps, or nothing in them that would not be allowed.
                    used = _Used(array, *(self._arrays[row] for row in rows))
                    live = pool.map(used.within, broken)
                    broken = [places for places in live if not self._kept(name, places)]
                if broken or not promise.whole(array, self._arrays):
                    raise damaged(self._source, name, promise)

    def _kept(self, name: str, places: Places) -> bool:
        """Return whether the values at some places of an array, flattened, keep its promise."""
        block = self._arrays[name].reshape(-1)[places]
        return not len(block) or self._layout[name].promise.kept(places, block, self._arrays)

    def check_rows(self, rows: NDArray[Any]) -> None:
        """Check rows, given by their numbers, of the arrays that are checked by rows."""
        if True in self._done or not self._layout:
            return
        rows = np.unique(rows)
        for name, (_, _, promise, by_rows, _) in self._layout.items():
            array = self._arrays[name]
            if not by_rows or not array.size:
                continue
            step = max(1, _BLOCK * len(array) // array.size)
            for start in range(0, len(rows), step):
                block = array[rows[start : start + step]].reshape(-1)
                if not promise.kept(slice(0, len(block)), block, self._arrays):
                    raise damaged(self._source, name, promise)


# One for all states, so that those which hold contents can still be copied and pickled.
_lock = threading.RLock()


def _renew_lock() -> None:
    """Forget that a thread of the parent process is checking, for it does not exist in a fork."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)

#: The contents of a state that was computed here: there is nothing to check.
COMPUTED = Contents({}, {}, "")


def damaged(source: str, name: str, expected: object) -> DiffusionError:
    """Return the error of an array that does not contain what it must."""
    return DiffusionError(f"{source}: altered, {name}: expected {expected}")


def _blocks(array: NDArray[Any], overlap: int) -> Iterator[slice]:
    """Yield the places of blocks of an array, flattened."""
    for start in range(0, array.size, _BLOCK):
        yield slice(start, min(array.size, start + _BLOCK + overlap))


class _Used:
    """The places of an array, flattened, that rows occupy."""

    def __init__(
        self, array: NDArray[Any], starts: NDArray[np.int64], stops: NDArray[np.int64]
    ) -> None:
        self._width = max(1, array.size // max(1, len(array)))
        self._starts, self._stops = np.sort(starts), np.sort(stops)

    def within(self, places: slice) -> NDArray[np.int64]:
        """Return the places between two that rows occupy."""
        first, last = places.start // self._width, -(-places.stop // self._width)
        change = np.zeros(last - first + 1, np.int64)
        for ends, sign in ((self._starts, 1), (self._stops, -1)):
            begin, end = np.searchsorted(ends, (first, last), side="right")
            change[0] += sign * begin
            np.add.at(change, ends[begin:end] - first, sign)
        used = np.repeat(np.cumsum(change[:-1]) > 0, self._width)
        own = first * self._width + np.flatnonzero(used)
        return own[(own >= places.start) & (own < places.stop)]
