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
        self._shards, self._stage = shards, stage
        every = range(shards.count)
        self._offsets = [shards.array(stage, q, "offsets")[p : p + 2].tolist() for q in every]

    def parts(self, first: int, last: int) -> Iterator[tuple[int, int, Records]]:
        """Yield the records for the rows first to last of the shard, `CHUNK` rows at a time.

        Before the records, there are the first of these rows and the one after the last.
        """
        cuts = list(chunks(first, last))
        ends = [first, *(stop for _, stop in cuts)]
        bounds = [np.searchsorted(own["to"], ends) for own in map(self._slice, range(self._count))]
        for place, (start, stop) in enumerate(cuts):
            found = [
                self._slice(q)[bounds[q][place] : bounds[q][place + 1]] for q in range(self._count)
            ]
            merged = np.concatenate(found)
            # The sources of one task all come before those of the next.
            merged = merged[np.argsort(merged["to"], kind="stable")]
            to, source = merged["to"].astype(np.int64), merged["source"].astype(np.int64)
            yield start, stop, Records(to, source, np.ascontiguousarray(merged["value"]))

    @property
    def _count(self) -> int:
        return self._shards.count

    def _slice(self, q: int) -> NDArray[Any]:
        """Return what task q has sent; its file is not kept open."""
        begin, end = self._offsets[q]
        return self._shards.array(self._stage, q, "records")[begin:end]

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
            own = ids[rows].astype(np.int64)
            values = np.full(own.shape, missing, records.values.dtype)
            if len(records.to):
                # One number for a pair of items, ascending among the records.
                sent = ((records.to - start) << 32) | records.source
                wanted = (np.arange(len(own), dtype=np.int64)[:, None] << 32) | np.maximum(own, 0)
                places = np.minimum(np.searchsorted(sent, wanted), len(sent) - 1)
                found = (own >= 0) & (sent[places] == wanted)
                values[found] = records.values[places[found]]
            yield rows, values

    def lists(
        self, first: int, last: int
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[Any]]]:
        """Yield the records for some rows as sparse rows: their lengths, sources and values."""
        for start, stop, records in self.parts(first, last):
            lengths = np.bincount(records.to - start, minlength=stop - start)
            yield lengths, records.source, records.values
