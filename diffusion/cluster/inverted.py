"""The inverted file of a collection, made by tasks that each hold a range of its vectors.

Its cells are those of `neighbors.cells`: k-means of a sample at two levels, then every vector in
the cell of the centroid nearest to it. Here, the groups of centroids are put into an order in which
near ones follow each other, and so are the cells of a group: a shard is a run of cells.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..neighbors import cells
from .common import write_rows
from .shards import open_array, save
from .vectors import VALUES, Vectors, place

#: The arrays of an inverted file beside the vectors and their ids, as `divided` stores them.
STRUCTURE = ("starts", "stops", "centroids", "groups")


def trained(path: str, work: str, count: int, n_cells: int) -> str:
    """Store `centroids` (n_cells, d) and the `groups` of them, from the samples of all ranges."""
    samples = [open_array(place(work, "checked", i) / "sample.npy") for i in range(count)]
    centroids, groups = cells.trained(np.concatenate(samples), n_cells, progress=False)
    order = near_order(cells.means_of(centroids, groups))
    inside = [groups[g] + near_order(centroids[groups[g] : groups[g + 1]]) for g in order.tolist()]
    sizes = np.diff(groups)[order]
    new = np.append(0, np.cumsum(sizes)).astype(np.int64)
    return save(path, {"centroids": centroids[np.concatenate(inside)], "groups": new})


def near_order(points: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return an order (m,) of points in which near ones follow each other.

    They are halved, again and again, along the line between two points that are far from each
    other.
    """
    order = np.arange(len(points))
    pending = [(0, len(points))]
    while pending:
        first, last = pending.pop()
        if last - first < 3:
            continue
        own = points[order[first:last]].astype(np.float64)
        one = own[np.argmax(((own - own.mean(axis=0)) ** 2).sum(axis=1))]
        other = own[np.argmax(((own - one) ** 2).sum(axis=1))]
        along = ((own - one) * (other - one)).sum(axis=1)
        order[first:last] = order[first:last][np.argsort(along, kind="stable")]
        middle = (first + last) // 2
        pending += [(first, middle), (middle, last)]
    return order


def assigned(path: str, work: str, vectors: Vectors, first: int, last: int) -> str:
    """Store the `vectors` of a range sorted by cell, with their `rows` and `cells`."""
    folder = place(work, "trained", 0)
    centroids, groups = (open_array(folder / f"{name}.npy") for name in ("centroids", "groups"))
    means = cells.means_of(centroids, groups)
    own = vectors.read(first, last)
    found = np.empty(len(own), np.int32)
    for start in range(0, len(own), cells.CHUNK):
        part = slice(start, start + cells.CHUNK)
        found[part] = cells.assigned(centroids, groups, means, own[part])
    order = np.argsort(found, kind="stable")
    rows = (first + order).astype(np.int32)
    return save(path, {"vectors": own[order], "rows": rows, "cells": found[order]})


def divided(path: str, work: str, count: int) -> str:
    """Store the structure of the inverted file, and the `bounds` of cells as they were assigned.

    As in `cells.divided`, very large cells are cut into several.
    """
    folder = place(work, "trained", 0)
    centroids, groups = (open_array(folder / f"{name}.npy") for name in ("centroids", "groups"))
    sizes = np.zeros(len(centroids), np.int64)
    for i in range(count):
        own = open_array(place(work, "assigned", i) / "cells.npy")
        sizes += np.bincount(own, minlength=len(sizes))
    offsets, centroids, groups = cells.divided_sizes(sizes, centroids, groups)
    structure = offsets[:-1], offsets[1:], centroids, groups
    bounds = np.append(0, np.cumsum(sizes))
    return save(path, {**dict(zip(STRUCTURE, structure, strict=True)), "bounds": bounds})


class _Stretch(NamedTuple):
    """The vectors of one range that some places of the inverted file are filled with."""

    source: NDArray[np.int64]  # where they are in the range
    target: NDArray[np.int64]  # and at those places


def sorted_(path: str, work: str, count: int, first: int, last: int, files: dict[str, str]) -> str:
    """Fill places `first` to `last` of the files of vectors and ids, sorted by cell and row."""
    d = open_array(place(work, "assigned", 0) / "vectors.npy").shape[1]
    size = max(1, VALUES // d)
    for start in range(first, last, size):
        stop = min(last, start + size)
        vectors, ids = np.empty((stop - start, d), np.float32), np.empty(stop - start, np.int32)
        for i, stretch in enumerate(_stretches(work, count, start, stop)):
            if not len(stretch.source):
                continue
            folder = place(work, "assigned", i)
            target = stretch.target - start
            vectors[target] = open_array(folder / "vectors.npy")[stretch.source]
            ids[target] = open_array(folder / "rows.npy")[stretch.source]
        write_rows(Path(files["vectors"]), start, vectors)
        write_rows(Path(files["ivf_ids"]), start, ids)
    return save(path, {})


def _stretches(work: str, count: int, start: int, stop: int) -> list[_Stretch]:
    """Return what each range has for places `start` to `stop` of the inverted file.

    A cell has the vectors of one range after the other.
    """
    bounds = open_array(place(work, "divided", 0) / "bounds.npy")
    low = int(np.searchsorted(bounds, start, side="right")) - 1
    high = int(np.searchsorted(bounds, stop))
    filled, stretches = bounds[low:high].copy(), []
    for i in range(count):
        own = open_array(place(work, "assigned", i) / "cells.npy")
        begins = np.searchsorted(own, np.arange(low, high + 1, dtype=own.dtype))
        begin, sizes = begins[:-1], np.diff(begins)
        from_ = np.clip(start - filled, 0, sizes)
        to = np.clip(stop - filled, 0, sizes)
        stretches.append(
            _Stretch(
                cells.ranges(begin + from_, begin + to), cells.ranges(filled + from_, filled + to)
            )
        )
        filled += sizes
    return stretches
