"""Transposition of sparse rows between shards, by files.

A task writes its entries (row i, column j, value) as records, sorted by their column, with the
place where those for each shard begin: one folder per task, however many shards there are. The task
of the shard that has row j reads its stretch of all files, and finds the records of a row together,
by ascending source i. This is how an item learns what the items that list it say of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..kernels.matrix import read_only
from ..kernels.records import find_sent, join_records, sort_records
from .shards import Shards, chunks


class Records(NamedTuple):
    """Records for the rows of a range: those of row i are at indptr[i] to indptr[i + 1]."""

    indptr: NDArray[np.int64]  # (m + 1,)
    sources: NDArray[np.int32]  # (r,), ascending in each row
    values: NDArray[Any]  # (r,)


def records_of(
    ids: NDArray[np.int32], values: NDArray[Any], first: int, shards: Shards
) -> dict[str, NDArray[Any]]:
    """Return the arrays to store in the result of a task that sends values to the rows `ids`.

    Parameters
    ----------
    ids : ndarray, shape (m, k), int32
        Row r is that of item first + r. -1 is padding.
    values : ndarray, shape (m, k)
        The values that the items send.
    first : int
    shards : Shards

    Returns
    -------
    dict of str to ndarray
        `sent_rows`, `sent_sources` and `sent_values`, and `offsets` (shards + 1,): those for shard
        q are at offsets[q] to offsets[q + 1].
    """
    count = int(np.count_nonzero(ids >= 0))
    sent = np.empty(count, np.int32), np.empty(count, np.int32), np.empty(count, values.dtype)
    starts = np.array(shards.starts)
    offsets = sort_records(read_only(ids), read_only(values), first, starts, *sent)
    names = ("sent_rows", "sent_sources", "sent_values")
    return {**dict(zip(names, sent, strict=True)), "offsets": offsets}


class Inbox:
    """What all tasks of a stage have sent to the rows of a shard.

    Parameters
    ----------
    shards : Shards
    stage : str
        The stage whose tasks have stored what `records_of` returned.
    p : int
        The shard.
    """

    def __init__(self, shards: Shards, stage: str, p: int) -> None:
        self._shards, self._stage = shards, stage
        every = range(shards.count)
        self._offsets = [shards.array(stage, q, "offsets")[p : p + 2].tolist() for q in every]

    def parts(self, first: int, last: int) -> Iterator[tuple[int, int, Records]]:
        """Yield the records for the rows first to last of the shard, `CHUNK` rows at a time.

        Before the records, there are the first of these rows and the one after the last.
        """
        cuts = list(chunks(first, last))
        ends = [first, *(stop for _, stop in cuts)]
        every = range(self._shards.count)
        bounds = [np.searchsorted(self._slice(q, "rows"), ends) for q in every]
        for place, (start, stop) in enumerate(cuts):
            parts = [slice(*bounds[q][place : place + 2]) for q in every]

            def joined(name: str, parts: list[slice] = parts) -> NDArray[Any]:
                return np.concatenate([self._slice(q, name)[parts[q]] for q in every])

            # The sources of one task all come before those of the next.
            rows, sources, values = map(joined, ("rows", "sources", "values"))
            indptr = np.empty(stop - start + 1, np.int64)
            found = Records(indptr, np.empty_like(sources), np.empty_like(values))
            join_records(rows, sources, values, start, *found)
            yield start, stop, found

    def _slice(self, q: int, name: str) -> NDArray[Any]:
        """Return what task q has sent; its file is not kept open."""
        begin, end = self._offsets[q]
        return self._shards.array(self._stage, q, f"sent_{name}")[begin:end]

    def reverse(
        self, ids: NDArray[np.int32], first: int, missing: Any
    ) -> Iterator[tuple[slice, NDArray[Any]]]:
        """Yield what the items in lists have sent to the item whose list it is.

        Parameters
        ----------
        ids : ndarray, shape (m, k), int32
            Row r is the list of item first + r, padded with -1.
        first : int
        missing : scalar
            The value of those that have sent nothing.

        Yields
        ------
        rows : slice
            Some of the m rows.
        values : ndarray, shape (rows, k)
        """
        for start, stop, records in self.parts(first, first + len(ids)):
            rows = slice(start - first, stop - first)
            values = np.empty(ids[rows].shape, records.values.dtype)
            none = values.dtype.type(missing)
            find_sent(read_only(ids[rows]), *map(read_only, records), none, values)
            yield rows, values

    def lists(
        self, first: int, last: int
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int32], NDArray[Any]]]:
        """Yield the records for some rows as sparse rows: their lengths, sources and values."""
        for _, _, records in self.parts(first, last):
            yield np.diff(records.indptr), records.sources, records.values
