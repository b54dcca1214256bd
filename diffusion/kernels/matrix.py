"""Named tuples of arrays, the arguments of compiled loops."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

# The largest entry of W is 1, up to rounding.
LARGEST_WEIGHT = 1 + 1e-3


# Entries of rows that are moved together at a time, 8 bytes each beside the copy.
_MOVED = 1 << 20


class Matrix(NamedTuple):
    """A sparse square matrix: row i is at starts[i] to stops[i] in `indices` and `weights`.

    Rows may lie in any order, with gaps between them, so that a change of a few rows moves no
    other.
    """

    starts: Any  # (n,) int64
    stops: Any  # (n,) int64
    indices: Any  # int32
    weights: Any  # float32

    @classmethod
    def of_csr(cls, indptr: Any, indices: Any, weights: Any) -> Matrix:
        """Return the matrix of which the CSR form is given; nothing is copied."""
        return cls(indptr[:-1], indptr[1:], indices, weights)

    def csr(self) -> sparse.csr_array:
        """Return a CSR array (n, n); indices and weights are copied only if there are gaps."""
        indptr, indices, weights = packed(self.starts, self.stops, self.indices, self.weights)
        return sparse.csr_array((weights, indices, indptr), shape=(len(self.starts),) * 2)


class Nodes(NamedTuple):
    """The position of each node in storage order, and its degree."""

    order: Any  # (n,) int32, the user's id of the node stored at each position
    position: Any  # (n,) int32, the inverse of `order`
    degrees: Any  # (n,) float64, in the user's order


class System(NamedTuple):
    """The system (I - α W) x = (1 - α) y, and the stopping criteria of its iterative solution."""

    alpha: float
    tol: float  # relative residual
    max_iter: int


class Observations(NamedTuple):
    """Observations as rows in CSR form, with nodes in storage order."""

    indptr: Any  # (m + 1,) int64
    nodes: Any  # int32
    values: Any  # float64

    def part(self, rows: slice) -> Observations:
        """Return the given rows."""
        return self._replace(indptr=self.indptr[rows.start : rows.stop + 1])


class SparseRows(NamedTuple):
    """Sparse rows: row t has `counts[t]` entries, stored from `starts[t]` on, in any order.

    Rows may be stored with gaps between them, so that they can be written by several threads and
    before their lengths are known.
    """

    starts: Any  # (m,) int64
    counts: Any  # (m,) int64
    ids: Any  # int32, the user's ids, different ones in a row
    values: Any  # float32 or float64

    @classmethod
    def of_at_most(cls, entries: NDArray[np.int64]) -> SparseRows:
        """Allocate empty rows with room for the given numbers of entries (m,)."""
        starts = np.zeros(len(entries) + 1, np.int64)
        np.cumsum(entries, out=starts[1:])
        ids, values = np.empty(starts[-1], np.int32), np.empty(starts[-1], np.float32)
        return cls(starts[:-1], np.zeros(len(entries), np.int64), ids, values)

    @classmethod
    def of_width(cls, m: int, width: int) -> SparseRows:
        """Allocate m empty rows of observations, with room for `width` entries each."""
        ids, values = np.empty(m * width, np.int32), np.empty(m * width, np.float64)
        return cls(np.arange(m) * width, np.zeros(m, np.int64), ids, values)

    @classmethod
    def of_csr(cls, rows: sparse.csr_array) -> SparseRows:
        """Return the rows of a CSR array."""
        indptr = rows.indptr.astype(np.int64)
        ids = rows.indices.astype(np.int32, copy=False)
        return cls(indptr[:-1], np.diff(indptr), ids, rows.data)

    @classmethod
    def joined(cls, parts: Sequence[SparseRows]) -> SparseRows:
        """Return the rows of all parts, of which there is at least one, one after the other."""
        if len(parts) == 1:
            return parts[0]
        packed = [part.packed() for part in parts]
        counts = np.concatenate([part.counts for part in parts])
        ids = np.concatenate([ids for _, ids, _ in packed])
        values = np.concatenate([values for *_, values in packed])
        return cls(np.cumsum(counts) - counts, counts, ids, values)

    def part(self, rows: slice | NDArray[np.int64]) -> SparseRows:
        """Return the given rows."""
        return self._replace(starts=self.starts[rows], counts=self.counts[rows])

    def replaced(self, rows: NDArray[np.int64], dense: NDArray[Any]) -> SparseRows:
        """Return these rows with some of them, given by their numbers, replaced by dense rows."""
        parts = [self.part(slice(row, row + 1)) for row in range(len(self.counts))]
        for row, values in zip(rows, dense, strict=True):
            ids = np.flatnonzero(values).astype(np.int32)
            one, count = np.zeros(1, np.int64), np.full(1, len(ids))
            parts[row] = SparseRows(one, count, ids, values[ids])
        return SparseRows.joined(parts)

    def packed(self) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[Any]]:
        """Return the rows without gaps: offsets (m + 1,), ids and values."""
        indptr, ids, values = packed(self.starts, self.starts + self.counts, self.ids, self.values)
        return indptr, ids, values

    def csr(self, n: int) -> sparse.csr_array:
        """Return a CSR array (m, n) with sorted indices."""
        indptr, ids, values = self.packed()
        rows = sparse.csr_array((values, ids, indptr), shape=(len(self.counts), n))
        if not rows.has_sorted_indices:
            rows = rows.sorted_indices()
        return rows


def packed(
    starts: NDArray[np.int64], stops: NDArray[np.int64], *data: NDArray[Any]
) -> tuple[Any, ...]:
    """Return rows without gaps: their offsets (m + 1,), and the entries of each array of data.

    Row i is at starts[i] to stops[i] of every array. Arrays whose rows have no gaps are not copied.
    """
    counts = stops - starts
    indptr = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=indptr[1:])
    if np.array_equal(indptr[:-1], starts):
        return indptr, *(array[: indptr[-1]] for array in data)
    moved = [np.empty((indptr[-1], *array.shape[1:]), array.dtype) for array in data]
    end = 0
    for places in places_of(starts, stops):
        part = slice(end, end + len(places))
        for array, out in zip(data, moved, strict=True):
            np.take(array, places, axis=0, out=out[part])
        end = part.stop
    return indptr, *moved


def places_of(starts: NDArray[np.int64], stops: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Yield the places of the entries of rows, row after row, about a million at a time."""
    ends = np.cumsum(stops - starts)
    shift = stops - ends
    first = done = 0
    while first < len(ends):
        last = max(first + 1, int(np.searchsorted(ends, done + _MOVED, side="right")))
        rows = slice(first, last)
        counts = stops[rows] - starts[rows]
        yield np.arange(done, ends[last - 1]) + np.repeat(shift[rows], counts)
        first, done = last, int(ends[last - 1])


def read_only(array: Any) -> NDArray[Any]:
    """Return a read-only view, as a plain array.

    Numba compiles a kernel separately for writable and for read-only arrays. Arrays in memory and
    arrays memory-mapped from a file thereby share one compiled kernel.
    """
    view = np.asarray(array).view()
    view.flags.writeable = False
    return view
