"""The numbers of items in the shards, their positions, and those in the input, their rows.

All stages after this one name items by position. Two files that tasks map convert: `rows` and
`positions`, 4 bytes for each item. Where positions would resolve a tie, rows do, as in a build in
one process.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .common import create, write_rows
from .shards import Shards, open_array, save
from .stages import Stages


def number_lists(stages: Stages, ranges: Shards) -> None:
    """Make the stage `lists` from the stage `placed`: `scores`, and `ids` as positions."""
    shards = stages.shards
    for name in ("rows", "positions"):
        create(_file(shards, name), np.int32, (shards.n,))
    stages.run("addresses", addresses, ranges)
    stages.over(ranges).run("positions", positions, shards)
    stages.run("lists", lists)
    stages.drop("placed", "addresses")


def _file(shards: Shards, name: str) -> Path:
    return Path(shards.work) / "common" / f"{name}.npy"


def rows_of(shards: Shards) -> NDArray[np.int32]:
    """Return the row of each item by position (n,), memory-mapped."""
    return open_array(_file(shards, "rows"))


def positions_of(shards: Shards) -> NDArray[np.int32]:
    """Return the position of each item by row (n,), memory-mapped."""
    return open_array(_file(shards, "positions"))


def addresses(path: str, shards: Shards, p: int, ranges: Shards) -> str:
    """Write the rows of the items of a shard, and sort their positions by row for each range."""
    first, _ = shards.bounds(p)
    rows = shards.array("placed", p, "rows")
    write_rows(_file(shards, "rows"), first, rows)
    order = np.argsort(rows)
    offsets = np.searchsorted(rows[order], ranges.starts)
    sent = {"rows": rows[order], "positions": (order + first).astype(np.int32)}
    return save(path, {**sent, "offsets": offsets})


def positions(path: str, ranges: Shards, r: int, shards: Shards) -> str:
    """Write the positions of the items of a range."""
    a, b = ranges.bounds(r)
    out = np.empty(b - a, np.int32)
    for p in range(shards.count):
        begin, end = shards.array("addresses", p, "offsets")[r : r + 2].tolist()
        found = (shards.array("addresses", p, name)[begin:end] for name in ("rows", "positions"))
        rows, own = found
        out[rows - a] = own
    write_rows(_file(shards, "positions"), a, out)
    return save(path, {})


def lists(path: str, shards: Shards, p: int) -> str:
    """Give the lists of a shard ids that are positions."""
    ids = shards.array("placed", p, "ids")
    found = np.where(ids >= 0, positions_of(shards)[np.maximum(ids, 0)], np.int32(-1))
    return save(path, {"scores": shards.array("placed", p, "scores"), "ids": found})
