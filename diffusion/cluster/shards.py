"""The results of tasks by shard, and the reading of rows of other shards.

A shard is a range of the rows of a collection. The result of a stage for a shard is a folder of
.npy files of its rows. A task that needs rows of other shards, its halo, reads these from the
memory-mapped files and numbers them together with its own (`numbers.Local`), so that the loops of a
build in one process run on what it has read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..kernels.matrix import packed
from ..storage.files import read_array
from ..storage.results import result

#: Rows that a task reads the halo of at a time, which bounds its memory.
CHUNK = 1 << 15


@dataclass(frozen=True)
class Shards:
    """The shards of a collection, and where the results of their tasks are.

    Attributes
    ----------
    work : str
        The folder of all results.
    starts : tuple of int, shape (shards + 1,)
        Shard p consists of rows starts[p] to starts[p + 1]; it may be empty.
    """

    work: str
    starts: tuple[int, ...]

    @property
    def n(self) -> int:
        """Number of rows of all shards."""
        return self.starts[-1]

    @property
    def count(self) -> int:
        """Number of shards."""
        return len(self.starts) - 1

    def bounds(self, p: int) -> tuple[int, int]:
        """Return the first row of a shard, and the one after its last."""
        return self.starts[p], self.starts[p + 1]

    def folder(self, stage: str, p: int) -> Path:
        """Return the folder of the result of a stage for a shard."""
        return Path(self.work) / stage / f"{p:05d}"

    def array(self, stage: str, p: int, name: str) -> NDArray[Any]:
        """Return an array of a result, memory-mapped for reading."""
        return open_array(self.folder(stage, p) / f"{name}.npy")

    def rows(self, stage: str, name: str) -> Rows:
        """Return the rows of all shards of an array of a stage."""
        return Rows(self, stage, name)


class Rows:
    """The rows of an array of which each shard has its own.

    Parameters
    ----------
    shards : Shards
    stage, name : str
        The stage whose result the array is, and its name there. Its length is that of the shard.
    """

    def __init__(self, shards: Shards, stage: str, name: str) -> None:
        self._shards, self._stage, self._name = shards, stage, name

    def shard(self, p: int) -> NDArray[Any]:
        """Return the rows of a shard, memory-mapped; the file is not kept open."""
        return self._shards.array(self._stage, p, self._name)

    def take(self, rows: NDArray[np.integer]) -> NDArray[Any]:
        """Return some rows (m, ...), given by their numbers, in their order.

        Shard after shard is read, and in each what comes first in `rows` first: rows should ascend.
        """
        first = self.shard(0)
        out = np.empty((len(rows), *first.shape[1:]), first.dtype)
        for p, places, within in parts_of(rows, self._shards.starts):
            out[places] = self.shard(p)[within]
        return out


def parts_of(
    rows: NDArray[np.integer], starts: tuple[int, ...]
) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.int64]]]:
    """Yield each shard that has some of the rows (m,), their places in `rows`, and in the shard."""
    # Of shards that begin at the same row, only the last has rows.
    which = np.searchsorted(starts, rows, side="right") - 1
    order = np.argsort(which, kind="stable")
    ends = np.searchsorted(which[order], np.arange(len(starts)))
    for p in np.flatnonzero(np.diff(ends)).tolist():
        places = order[ends[p] : ends[p + 1]]
        yield p, places, rows[places].astype(np.int64) - starts[p]


def take_lists(
    shards: Shards, stage: str, rows: NDArray[np.integer], names: tuple[str, ...]
) -> tuple[NDArray[Any], ...]:
    """Return the rows of any length that a stage has stored: offsets (m + 1,), and their entries.

    Parameters
    ----------
    shards : Shards
    stage : str
        In its results, row i of a shard is at indptr[i] to indptr[i + 1] of the arrays `names`.
    rows : ndarray, shape (m,), ascending
    names : tuple of str
    """
    counts: list[NDArray[np.int64]] = [np.zeros(1, np.int64)]
    data: list[tuple[NDArray[Any], ...]] = []
    for p, _, within in parts_of(rows, shards.starts):
        indptr = shards.array(stage, p, "indptr")
        arrays = [shards.array(stage, p, name) for name in names]
        own, *entries = packed(indptr[within], indptr[within + 1], *arrays)
        counts.append(np.diff(own))
        data.append(tuple(entries))
    if not data:
        empty = (shards.array(stage, 0, name)[:0] for name in names)
        return np.zeros(1, np.int64), *empty
    return np.cumsum(np.concatenate(counts)), *map(np.concatenate, zip(*data, strict=True))


def save(path: str | Path, arrays: dict[str, NDArray[Any]]) -> str:
    """Write the result of a task: a folder of arrays, which appears once it is complete."""
    with result(path) as folder:
        folder.mkdir()
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", np.ascontiguousarray(array), allow_pickle=False)
    return str(path)


def open_array(path: Path) -> NDArray[Any]:
    """Return the array of an .npy file, memory-mapped for reading."""
    return np.asarray(read_array(path))


def chunks(first: int, last: int) -> Iterator[tuple[int, int]]:
    """Cut a range into parts of at most `CHUNK`."""
    for start in range(first, last, CHUNK):
        yield start, min(last, start + CHUNK)
