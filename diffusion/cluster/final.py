"""The arrays of the index, which tasks write from the results of all shards.

Arrays by row have the items in the order of the input, so items are exchanged between shards and
ranges of rows once more; arrays by place are those of all shards, one after the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .common import create, write_rows
from .numbering import rows_of
from .shards import Shards, open_array, save
from .stages import Stages


class Source(NamedTuple):
    """Where an array of the index is before it is written.

    Attributes
    ----------
    stage, name : str
    columns : tuple of int, optional
        The first of the columns that are taken, and the one after the last.
    items : bool
        Whether its values are positions of items, which become rows, or -1.
    """

    stage: str
    name: str
    columns: tuple[int, int] | None = None
    items: bool = False

    def of(self, shards: Shards, p: int) -> NDArray[Any]:
        """Return the part of a shard, memory-mapped; items are still positions."""
        array = shards.array(self.stage, p, self.name)
        return array if self.columns is None else array[:, slice(*self.columns)]


class Final(NamedTuple):
    """Writes the arrays of the index."""

    stages: Stages
    ranges: Shards

    def by_row(self, sources: Mapping[str, Source]) -> None:
        """Write arrays of one row for each item, by name."""
        shards, label = self.stages.shards, next(iter(sources))
        one, two = f"outgoing-{label}", f"incoming-{label}"
        if self.stages.dropped(two):
            return
        for name, source in sources.items():
            first = source.of(shards, 0)
            self._create(name, first.dtype, (shards.n, *first.shape[1:]))
        self.stages.run(one, outgoing, dict(sources), self.ranges)
        self.stages.over(self.ranges).run(two, incoming, tuple(sources), one, shards)
        self.stages.drop(one, two)

    def by_place(self, sources: Mapping[str, Source]) -> None:
        """Write arrays that are those of all shards, one after the other, by name."""
        shards, stage = self.stages.shards, f"copied-{next(iter(sources))}"
        if self.stages.dropped(stage):
            return
        every = range(shards.count)
        firsts: list[dict[str, int]] = [{} for _ in every]
        for name, source in sources.items():
            parts = [source.of(shards, p) for p in every]
            total = 0
            for p, part in zip(every, parts, strict=True):
                firsts[p][name], total = total, total + len(part)
            self._create(name, parts[0].dtype, (total, *parts[0].shape[1:]))
        self.stages.run(stage, copied, dict(sources), each=firsts)
        self.stages.drop(stage)

    def names(self) -> set[str]:
        """Return the names of the arrays that have been written."""
        return {file.stem for file in file_of(self.stages.shards, "").parent.glob("[!.]*.npy")}

    def file(self, name: str) -> Path:
        """Return the file of an array that has been written."""
        return file_of(self.stages.shards, name)

    def array(self, name: str) -> NDArray[Any]:
        """Return an array that has been written, memory-mapped."""
        return open_array(file_of(self.stages.shards, name))

    def _create(self, name: str, dtype: Any, shape: tuple[int, ...]) -> None:
        create(file_of(self.stages.shards, name), dtype, shape)


def file_of(shards: Shards, name: str) -> Path:
    """Return the file of an array of the index."""
    return Path(shards.work) / "index" / f"{name}.npy"


def _converted(array: NDArray[Any], source: Source, shards: Shards) -> NDArray[Any]:
    if not source.items:
        return array
    found: NDArray[Any] = np.where(array >= 0, rows_of(shards)[np.maximum(array, 0)], np.int32(-1))
    return found


def outgoing(path: str, shards: Shards, p: int, sources: dict[str, Source], ranges: Shards) -> str:
    """Sort arrays of a shard by row: those for range r are at offsets[r] to offsets[r + 1]."""
    a, b = shards.bounds(p)
    rows = np.array(rows_of(shards)[a:b])
    order = np.argsort(rows)
    arrays = {
        name: _converted(source.of(shards, p)[order], source, shards)
        for name, source in sources.items()
    }
    offsets = np.searchsorted(rows[order], ranges.starts)
    return save(path, {**arrays, "rows_": rows[order], "offsets_": offsets})


def incoming(
    path: str, ranges: Shards, r: int, names: tuple[str, ...], stage: str, shards: Shards
) -> str:
    """Write the rows of a range of arrays of the index."""
    a, b = ranges.bounds(r)
    every = range(shards.count)
    cuts = [shards.array(stage, p, "offsets_")[r : r + 2].tolist() for p in every]

    def sent(name: str) -> list[NDArray[Any]]:
        return [shards.array(stage, p, name)[slice(*cuts[p])] for p in every]

    rows = np.concatenate(sent("rows_")) - a
    for name in names:
        file = file_of(ranges, name)
        whole = open_array(file)
        out = np.empty((b - a, *whole.shape[1:]), whole.dtype)
        out[rows] = np.concatenate(sent(name))
        write_rows(file, a, out)
    return save(path, {})


def copied(
    path: str, shards: Shards, p: int, firsts: dict[str, int], sources: dict[str, Source]
) -> str:
    """Write the part of a shard of arrays of the index."""
    for name, source in sources.items():
        part = _converted(source.of(shards, p), source, shards)
        write_rows(file_of(shards, name), firsts[name], part)
    return save(path, {})
