"""What differs between the arrays of a directory and new ones, so that a save writes no more.

Each array is compared with what is stored, whatever the caller knows of the change. Rows at its end
that are new are appended to its file. Rows that differ are written to a patch, which holds all rows
that are not as in the file. An array whose patch would be large is written anew.

Rows of any length (`Ragged`) lie in arrays that they share, at places that two other arrays tell.
Rows that differ are appended, and the places patched; what is stored of a row before is then of
no use. When the share of that is large, all are written anew, one after the other.

Loading an array copies the pages on which it has patched rows, so that their number is limited,
too.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import DiffusionError
from ..kernels.matrix import packed, places_of, read_only
from ..kernels.rows import unequal, unequal_stretches
from .contents import Ragged
from .entries import Entry, as_bytes, open_array, open_unpatched, row_bytes

Arrays = Mapping[str, NDArray[Any]]

# An index of fewer bytes is written anew as a whole, and an array of fewer bytes as well: one more
# file takes longer.
SMALL_INDEX, SMALL_ARRAY = 1 << 22, 1 << 18

# The largest share of an array that is patched or of no use.
SHARE = 4

# Pages of an array that may have patched rows in any case, and bytes of a page.
FEW_PAGES, _PAGE = 2048, 4096


class Delta(NamedTuple):
    """How an array differs from the rows in its file.

    Attributes
    ----------
    length : int
        The number of its rows.
    patched : ndarray, shape (m,), int64
        The rows in the file that differ, ascending.
    content : ndarray, shape (m, ...)
        What they are.
    tail : iterable of ndarray
        Blocks of the rows to append.
    """

    length: int
    patched: NDArray[np.int64]
    content: NDArray[Any]
    tail: Iterable[NDArray[Any]]


def deltas(
    path: Path, entries: Mapping[str, Entry], arrays: Arrays, families: Iterable[Ragged]
) -> Iterator[tuple[str, NDArray[Any], Delta | None]]:
    """Compare arrays with those of a directory.

    Parameters
    ----------
    path : Path
    entries : mapping
        The entries of the stored arrays.
    arrays : mapping
    families : iterable of Ragged

    Yields
    ------
    name : str
    array : ndarray
        The array to store: rows of any length are without gaps, or where they are in the file.
    delta : Delta or None
        None for an array to be written anew.
    """
    if sum(array.nbytes for array in arrays.values()) < SMALL_INDEX:
        entries = {}
    rest = dict(arrays)
    for family in families:
        if all(name in arrays for name in (family.starts, family.stops, *family.data)):
            rest[family.starts], rest[family.stops], found = _family(path, entries, arrays, family)
            for name in family.data:
                yield name, *found.pop(name)
                del rest[name]
    for name, array in rest.items():
        yield name, array, _delta(path, entries.get(name), array)


# --- rows of one length ---------------------------------------------------------------------------


def _delta(path: Path, entry: Entry | None, array: NDArray[Any]) -> Delta | None:
    """Return how an array differs from what is stored; None if it is to be written anew."""
    base = _comparable(path, entry, array)
    if base is None:
        return None
    common = min(len(base), len(array))
    differ = np.empty(common, bool)
    unequal(read_only(as_bytes(base[:common])), read_only(as_bytes(array[:common])), differ)
    rows, tail = np.flatnonzero(differ), array[common:]
    unused = len(base) - common
    changed = len(rows) or len(tail) or unused
    if changed and (array.nbytes < SMALL_ARRAY or SHARE * unused > common):
        return None
    if len(rows) and _is_dear(rows, array):
        return None
    return Delta(len(array), rows, array[rows], [tail] if len(tail) else [])


def _comparable(path: Path, entry: Entry | None, array: NDArray[Any]) -> NDArray[Any] | None:
    """Return all rows in the file of an entry; None unless they are like those of an array."""
    if entry is None or not array.ndim or not row_bytes(entry):
        return None
    if (entry["dtype"], entry["shape"][1:]) != (array.dtype.str, list(array.shape[1:])):
        return None
    if not os.access(path / entry["file"], os.W_OK):
        return None
    try:
        return open_unpatched(path, entry)
    except DiffusionError:  # damaged
        return None


def _is_dear(rows: NDArray[np.int64], array: NDArray[Any]) -> bool:
    """Return whether a patch of some rows takes a large share of an array, or of its pages."""
    width = array.nbytes // len(array)
    first, last = rows * width // _PAGE, (rows * width + width - 1) // _PAGE
    pages = int((last - np.maximum(first, np.append(-1, last[:-1]) + 1) + 1).sum())
    most = max(FEW_PAGES, array.nbytes // _PAGE // SHARE)
    return pages > most or SHARE * len(rows) * (width + 8) > array.nbytes


# --- rows of any length ---------------------------------------------------------------------------


def _family(
    path: Path, entries: Mapping[str, Entry], arrays: Arrays, family: Ragged
) -> tuple[NDArray[np.int64], NDArray[np.int64], dict[str, tuple[NDArray[Any], Delta | None]]]:
    """Return where rows are to start and stop, and the arrays of entries with their deltas."""
    starts, stops = arrays[family.starts], arrays[family.stops]
    data = {name: arrays[name] for name in family.data}
    if not _are_within(starts, stops, min(map(len, data.values()))):
        raise DiffusionError(f"{family.starts}: altered, expected rows within {family.data[0]}")
    stored = _stored_rows(path, entries, data, family)
    changed: dict[str, tuple[NDArray[Any], Delta | None]]
    if stored is not None:
        moved = _differing(stored, starts, stops, data)
        end, counts = len(next(iter(stored.data.values()))), stops - starts
        ends = end + np.cumsum(counts[moved])
        length, used = int(ends[-1]) if len(moved) else end, int(counts.sum())
        small = len(moved) > 0 and max(array.nbytes for array in data.values()) < SMALL_ARRAY
        if not small and SHARE * (length - used) <= used:
            new_starts, new_stops = (_longer(old, len(starts)) for old in stored[:2])
            new_starts[moved], new_stops[moved] = ends - counts[moved], ends
            changed = {
                name: (array, _appended(array, length, starts[moved], stops[moved]))
                for name, array in data.items()
            }
            return new_starts, new_stops, changed
    offsets, *whole = packed(starts, stops, *data.values())
    changed = {name: (array, None) for name, array in zip(data, whole, strict=True)}
    return offsets[:-1], offsets[1:], changed


def _appended(
    array: NDArray[Any], length: int, starts: NDArray[np.int64], stops: NDArray[np.int64]
) -> Delta:
    """Return the delta of an array of entries, of which those of some rows are appended."""
    blocks = (array[places] for places in places_of(starts, stops))
    return Delta(length, np.empty(0, np.int64), array[:0], blocks)


class _Stored(NamedTuple):
    """Where stored rows are, and all entries in the files by name."""

    starts: NDArray[np.int64]
    stops: NDArray[np.int64]
    data: dict[str, NDArray[Any]]


def _stored_rows(
    path: Path, entries: Mapping[str, Entry], data: Arrays, family: Ragged
) -> _Stored | None:
    """Return the stored rows; None if they cannot be built upon."""
    bases = {}
    for name, array in data.items():
        entry = entries.get(name)
        base = _comparable(path, entry, array)
        if entry is None or base is None or "patch" in entry or len(base) != entry["shape"][0]:
            return None
        bases[name] = base
    try:
        starts, stops = (open_array(path, entries[name]) for name in (family.starts, family.stops))
    except (LookupError, DiffusionError):
        return None
    alike = starts.dtype == stops.dtype == np.int64 and starts.shape == stops.shape
    if not alike or starts.ndim != 1 or len({len(base) for base in bases.values()}) != 1:
        return None
    if not _are_within(starts, stops, min(map(len, bases.values()))):
        return None
    return _Stored(starts, stops, bases)


def _are_within(starts: NDArray[np.int64], stops: NDArray[np.int64], length: int) -> bool:
    """Return whether rows are within arrays of a length, and do not overlap much."""
    if not len(starts):
        return True
    total = float(np.subtract(stops, starts, dtype=np.float64).sum())
    return bool(
        starts.min() >= 0 and (stops >= starts).all() and stops.max() <= length and total <= length
    )


def _differing(
    stored: _Stored, starts: NDArray[np.int64], stops: NDArray[np.int64], data: Arrays
) -> NDArray[np.int64]:
    """Return the rows, ascending, that are not among the stored ones."""
    common = min(len(starts), len(stored.starts))
    differ = np.zeros(len(starts), bool)
    differ[common:] = True
    old = (read_only(ends[:common]) for ends in stored[:2])
    new = (read_only(ends[:common]) for ends in (starts, stops))
    (old_starts, old_stops), (new_starts, new_stops) = old, new
    for name, array in data.items():
        old_entries, new_entries = (
            read_only(as_bytes(entries).reshape(-1)) for entries in (stored.data[name], array)
        )
        unequal_stretches(
            old_starts,
            old_stops,
            old_entries,
            new_starts,
            new_stops,
            new_entries,
            len(new_entries) // max(1, len(array)),
            differ[:common],
        )
    return np.flatnonzero(differ)


def _longer(array: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Return a copy with another length."""
    out = np.zeros(length, np.int64)
    kept = min(len(array), length)
    out[:kept] = array[:kept]
    return out
