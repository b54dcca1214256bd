"""The division of items into shards of neighbours, from neighbour lists.

Input is read by ranges of rows. Random items are seeds; every other item joins the cell of the
nearest item in its list that is in one, round after round. Cells that many lists join are put next
to each other, and shards are stretches of this sequence of about equal length. So most of what the
items of a shard refer to is in it.
"""

from __future__ import annotations

import heapq
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ..kernels.locality import locality_order
from .common import create, write_rows
from .numbers import Local
from .shards import Shards, chunks, open_array, save
from .stages import Stages

#: Average number of items in a cell of a large collection, and of cells in a shard of a small one.
CELL, PER_SHARD = 4096, 16

# Rounds in which items join cells; those that are in none then are taken by row.
_ROUNDS = 16

# Every so many items' lists say which cells belong together.
_SAMPLED = 8


def place_lists(stages: Stages, count: int) -> Shards:
    """Make the stage `placed` from the stage `given`, and return its shards.

    The result of shard p has `rows` (m,), the row of the input of each item, and their lists of
    neighbours, `scores` and `ids` (m, k), where ids are rows.

    Parameters
    ----------
    stages : Stages
        Over ranges of rows. The stage `given` has `scores` and `ids`.
    count : int
        Number of shards.
    """
    ranges = stages.shards
    size = max(1, min(CELL, ranges.n // (PER_SHARD * count)))
    rounds = stages.fact("rounds", lambda: _spread(stages, size))
    stages.run("cells", cells, size, rounds)
    stages.run_once("sequence", sequence, -(-ranges.n // count))
    stages.drop(*(f"spread-{t}" for t in range(rounds)))
    stages.run("sent", sent, count)
    stages.drop("cells", "sequence", "given")
    shards = Shards(ranges.work, tuple(stages.fact("starts", lambda: _starts(ranges))))
    stages.over(shards).run("placed", placed, ranges)
    stages.drop("sent")
    return shards


def _starts(ranges: Shards) -> list[int]:
    """Return where shards begin, from what all ranges send."""
    offsets = sum(ranges.array("sent", r, "offsets") for r in range(ranges.count))
    starts: list[int] = np.asarray(offsets).tolist()
    return starts


# --- cells ----------------------------------------------------------------------------------------


def _spread(stages: Stages, size: int) -> int:
    """Let items join cells until all have or none does any more; return the number of rounds."""
    ranges, before = stages.shards, -1
    for t in range(_ROUNDS):
        create(_labels(ranges, t), np.int32, (ranges.n,))
        stages.run(f"spread-{t}", spread, t, size)
        every = range(ranges.count)
        left = sum(int(ranges.array(f"spread-{t}", r, "left")[0]) for r in every)
        if left in (0, before):
            break
        before = left
    return t + 1


def _labels(ranges: Shards, t: int) -> Path:
    """Return the file of the cells after a round: the row of its seed for each item, or -1."""
    return Path(ranges.work) / "common" / f"labels-{t}.npy"


def _is_seed(rows: NDArray[np.int64], size: int) -> NDArray[np.bool_]:
    """Choose one of about `size` rows, at random but always the same."""
    mixed = (rows.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(32)
    mixed *= np.uint64(0xD6E8FEB86659FD93)
    found: NDArray[np.bool_] = (mixed >> np.uint64(32)) % np.uint64(size) == 0
    return found


def spread(path: str, ranges: Shards, r: int, t: int, size: int) -> str:
    """Let the items of a range join the cell of the first in their lists that was in one."""
    a, b = ranges.bounds(r)
    if t == 0:
        rows = np.arange(a, b)
        own = np.where(_is_seed(rows, size), rows, -1).astype(np.int32)
    else:
        before = open_array(_labels(ranges, t - 1))
        own, ids = np.array(before[a:b]), ranges.array("given", r, "ids")
        for first, last in chunks(0, b - a):
            outside = first + np.flatnonzero(own[first:last] < 0)
            listed = ids[outside]
            theirs = np.where(listed >= 0, before[np.maximum(listed, 0)], np.int32(-1))
            place = np.argmax(theirs >= 0, axis=1)
            own[outside] = np.take_along_axis(theirs, place[:, None], axis=1)[:, 0]
    write_rows(_labels(ranges, t), a, own)
    return save(path, {"left": np.array([np.count_nonzero(own < 0)])})


def cells(path: str, ranges: Shards, r: int, size: int, rounds: int) -> str:
    """Name the cell of each item of a range, and count the entries of lists between cells.

    The result has `labels` (m,); the cells among them, `names`, and their `sizes`; and `pairs`
    (c, 2) of cells with the number `links` (c,) of entries from the first to the second.
    """
    a, b = ranges.bounds(r)
    known, ids = open_array(_labels(ranges, rounds - 1)), ranges.array("given", r, "ids")

    def named(rows: NDArray[np.integer]) -> NDArray[np.int64]:
        label = known[rows].astype(np.int64)
        return np.where(label >= 0, label, rows.astype(np.int64) // size * size)

    labels = named(np.arange(a, b))
    names, sizes = np.unique(labels, return_counts=True)
    row, place = np.nonzero(ids[::_SAMPLED] >= 0)
    row *= _SAMPLED
    keys = (labels[row] << 32) | named(ids[row, place])
    pairs, links = np.unique(keys, return_counts=True)
    both = np.stack([pairs >> 32, pairs & 0xFFFFFFFF], axis=1)
    own: dict[str, NDArray[Any]] = {"labels": labels.astype(np.int32), "pairs": both}
    return save(path, {**own, "names": names, "sizes": sizes, "links": links})


def sequence(path: str, ranges: Shards, target: int) -> str:
    """Put the cells into a sequence in which those that many lists join are close.

    The result has `names` (c,), ascending; the `sizes` of these cells; and `before` (c,), the
    number of items in the cells before each.
    """
    every = range(ranges.count)

    def joined(name: str) -> NDArray[np.int64]:
        return np.concatenate([ranges.array("cells", r, name) for r in every])

    names, where = np.unique(joined("names"), return_inverse=True)
    sizes = np.zeros(len(names), np.int64)
    np.add.at(sizes, where, joined("sizes"))
    ends = np.searchsorted(names, joined("pairs"))
    links = sparse.coo_array((joined("links"), ends.T), shape=(len(names), len(names))).tocsr()
    order = _grown(links + links.T, sizes, target)
    before = np.empty(len(names), np.int64)
    before[order] = np.cumsum(sizes[order]) - sizes[order]
    return save(path, {"names": names, "sizes": sizes, "before": before})


def _grown(links: sparse.csr_array, sizes: NDArray[np.int64], target: int) -> list[int]:
    """Order cells by regions of about `target` items, each grown by the cell most linked to it.

    A region begins with the cell that has the largest share of its links to regions before it, so
    that none is left between them.
    """
    total = np.asarray(links.sum(axis=1)).ravel() - links.diagonal()
    inside, seen = np.zeros(len(sizes)), np.zeros(len(sizes), bool)
    order: list[int] = []
    waiting: list[tuple[float, int]] = []  # by the share of links to all regions, negative
    unseen = 0
    while len(order) < len(sizes):
        while waiting and seen[waiting[0][1]]:
            heapq.heappop(waiting)
        while unseen < len(sizes) and seen[unseen]:
            unseen += 1
        start = waiting[0][1] if waiting else unseen
        near: list[tuple[float, int]] = [(0.0, start)]
        own: dict[int, float] = {}
        filled = 0
        while near and filled < target:
            _, c = heapq.heappop(near)
            if seen[c]:
                continue
            seen[c] = True
            order.append(c)
            filled += int(sizes[c])
            part = slice(links.indptr[c], links.indptr[c + 1])
            for j, count in zip(
                links.indices[part].tolist(), links.data[part].tolist(), strict=True
            ):
                if not seen[j]:
                    own[j] = own.get(j, 0.0) + count
                    inside[j] += count
                    heapq.heappush(near, (-own[j] / total[j], j))
                    heapq.heappush(waiting, (-inside[j] / total[j], j))
    return order


# --- shards ---------------------------------------------------------------------------------------


def sent(path: str, ranges: Shards, r: int, count: int) -> str:
    """Sort the items of a range by shard.

    The result has `rows`, `scores` and `ids`, those of shard q at offsets[q] to offsets[q + 1].
    """
    a, b = ranges.bounds(r)
    names, sizes, before = (ranges.array("sequence", 0, x) for x in ("names", "sizes", "before"))
    cell = np.searchsorted(names, ranges.array("cells", r, "labels"))
    rows, n = np.arange(a, b), ranges.n
    # About as many items of the cell come before an item as have a lower row.
    shard = (before[cell] + (rows * (sizes[cell] / n)).astype(np.int64)) * count // n
    order = np.argsort(shard, kind="stable")
    lists = {name: ranges.array("given", r, name)[order] for name in ("scores", "ids")}
    offsets = np.searchsorted(shard[order], np.arange(count + 1))
    return save(path, {"rows": rows[order].astype(np.int32), "offsets": offsets, **lists})


def placed(path: str, shards: Shards, p: int, ranges: Shards) -> str:
    """Gather the items of a shard, in an order in which neighbours are close."""
    found: dict[str, list[NDArray[np.generic]]] = {"rows": [], "scores": [], "ids": []}
    for r in range(ranges.count):
        begin, end = ranges.array("sent", r, "offsets")[p : p + 2].tolist()
        for name, parts in found.items():
            parts.append(ranges.array("sent", r, name)[begin:end])
    arrays = {name: np.concatenate(parts) for name, parts in found.items()}
    local = Local(0, 0)
    local.add(arrays["rows"])  # which ascend, so that they are numbered from 0 on
    order = locality_order(local.of(arrays["ids"]))
    return save(path, {name: array[order] for name, array in arrays.items()})
