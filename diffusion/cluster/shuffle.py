"""Transposition of sparse rows between shards, by files.

A task writes its entries (row i, column j, value) as records, sorted by their column, with the
place where those for each shard begin: one file per task, however many shards there are. The task
of the shard that has row j reads its stretch of all files, and finds the records of a row together,
by ascending source i. This is how an item learns what the items that list it say of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .shards import Shards, chunks


class Records(NamedTuple):
    """Records for the rows of a range, by ascending row and source."""

    to: NDArray[np.int64]  # (r,)
    source: NDArray[np.int64]  # (r,)
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
        `records`, and `offsets` (shards + 1,): those for shard q are at offsets[q] to
        offsets[q + 1].
    """
    row, place = np.nonzero(ids >= 0)
    to = ids[row, place]
    order = np.argsort(to, kind="stable")  # sources ascend already
    to, row = to[order], row[order]
    types = [("to", np.int32), ("source", np.int32), ("value", values.dtype)]
    records = np.empty(len(to), types)
    records["to"], records["source"] = to, row + first
    records["value"] = values[row, place[order]]
    return {"records": records, "offsets": np.searchsorted(to, shards.starts)}


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
        self._slices = []
        for q in range(shards.count):
            begin, end = shards.array(stage, q, "offsets")[p : p + 2]
            self._slices.append(shards.array(stage, q, "records")[begin:end])

    def records(self, first: int, last: int) -> Records:
        """Return the records for the rows first to last of the shard."""
        found = []
        for part in self._slices:
            begin, end = np.searchsorted(part["to"], [first, last])
            found.append(part[begin:end])
        merged = np.concatenate(found)
        # The sources of one task all come before those of the next.
        merged = merged[np.argsort(merged["to"], kind="stable")]
        to, source = merged["to"].astype(np.int64), merged["source"].astype(np.int64)
        return Records(to, source, np.ascontiguousarray(merged["value"]))

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
        for start, stop in chunks(0, len(ids)):
            own = ids[start:stop].astype(np.int64)
            records = self.records(first + start, first + stop)
            values = np.full(own.shape, missing, records.values.dtype)
            if len(records.to):
                # One number for a pair of items, ascending among the records.
                sent = ((records.to - (first + start)) << 32) | records.source
                wanted = (np.arange(len(own), dtype=np.int64)[:, None] << 32) | np.maximum(own, 0)
                places = np.minimum(np.searchsorted(sent, wanted), len(sent) - 1)
                found = (own >= 0) & (sent[places] == wanted)
                values[found] = records.values[places[found]]
            yield slice(start, stop), values

    def lists(
        self, first: int, last: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[Any]]:
        """Return the records for some rows as sparse rows: offsets, sources and values."""
        records = self.records(first, last)
        indptr = np.searchsorted(records.to, np.arange(first, last + 1))
        return indptr, records.source, records.values
