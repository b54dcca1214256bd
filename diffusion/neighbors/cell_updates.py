"""The cells of an inverted file after vectors have been added or removed.

A change moves few vectors, so that storing it writes little. The last vectors of a cell fill the
places of removed ones. Added vectors come after the last one of their cell; a cell without enough
room moves behind all others, and its old place is room for the cell before.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..change import Change
from ..kernels.cells import Level
from ..kernels.matrix import read_only
from ..kernels.neighbors import Near
from .cells import UNEVEN, Cells, assigned, ranges

# Places for each vector at most; with more, cells are put next to each other again, each with room
# for an eighth of its size.
_MOST_PLACES, _ROOM = 1.5, 8

# Cells are made again if their number is off by more than this factor: for the default number of
# cells of a large collection, if it has doubled or halved.
_OFF = 2**0.5

# Cells near to a cell whose items are compared with an added vector, as a multiple of the cells
# that a query searches.
_WIDER = 4


def changed_cells(cells: Cells, change: Change, vectors: NDArray[np.float32] | None) -> Cells:
    """Return cells after a change; the arrays of the given ones are not modified.

    Added vectors (m, d) go to the cells with the nearest centroids, which follow them.
    """
    cells = cells._replace(
        vectors=np.array(cells.vectors),
        # What is in gaps may be any number.
        ids=np.take(change.target, cells.ids, mode="clip"),
        starts=np.array(cells.starts),
        stops=np.array(cells.stops),
    )
    _remove(cells, change)
    if vectors is not None and len(vectors):
        cells = _add(cells, change.added, vectors)
    if len(cells.vectors) > _MOST_PLACES * change.after + len(cells.starts):
        cells = _moved(cells, np.zeros(len(cells.starts), np.int64))
    return Cells(*map(read_only, cells))


def fits(cells: Cells, wanted: int) -> bool:
    """Return whether there are about as many cells as wanted, and none is very large."""
    count, sizes = len(cells.starts), cells.stops - cells.starts
    if not count / _OFF <= wanted <= count * _OFF:
        return False
    return bool(sizes.max() <= 2 * UNEVEN * max(1, -(-int(sizes.sum()) // count)))


def places_of(cells: Cells, n: int) -> NDArray[np.int64]:
    """Return the place of each of n vectors in the array of all."""
    taken = cells.places()
    places = np.empty(n, np.int64)
    places[cells.ids[taken]] = taken
    return places


def near_items(
    cells: Cells, vectors: NDArray[np.float32], probes: int, metric: str
) -> tuple[Level, Near]:
    """Let added vectors be compared with the items whose cells are near to their own.

    A cell is near to another if a query at the centroid of the other would search it, or would
    with a few times as many `probes`.
    """
    own = assigned(cells.centroids, cells.groups, cells.means, vectors)
    order = np.argsort(own, kind="stable").astype(np.int32)
    counts = np.bincount(own, minlength=len(cells.starts))
    starts = np.cumsum(counts) - counts
    near = cells.probe(cells.centroids, _WIDER * probes, metric)
    many = np.where(near >= 0, counts[near], 0)
    first = np.where(near >= 0, starts[near], 0)
    places = order[ranges(first.ravel(), (first + many).ravel())]
    stops = np.cumsum(many.sum(axis=1))
    compared = Near(*map(read_only, (stops - many.sum(axis=1), stops, places)))
    return Level(cells.vectors, cells.ids, cells.starts, cells.stops), compared


def _remove(cells: Cells, change: Change) -> None:
    """Let the last vectors of cells fill the places of removed ones, whose id is -1."""
    if not len(change.removed):
        return
    taken = cells.places()
    cell = np.repeat(np.arange(len(cells.starts)), cells.stops - cells.starts)
    gone = cells.ids[taken] < 0
    stops = cells.stops - np.bincount(cell[gone], minlength=len(cells.starts))
    last = taken >= stops[cell]
    holes, movers = taken[gone & ~last], taken[~gone & last]
    cells.vectors[holes], cells.ids[holes] = cells.vectors[movers], cells.ids[movers]
    cells.ids[taken[last]] = 0
    cells.stops[:] = stops


def _add(cells: Cells, rows: NDArray[np.int64], vectors: NDArray[np.float32]) -> Cells:
    """Put vectors into the cells with the nearest centroids."""
    own = assigned(cells.centroids, cells.groups, cells.means, vectors)
    counts = np.bincount(own, minlength=len(cells.starts))
    cells = _with_room(cells, counts)
    order = np.argsort(own, kind="stable")
    places = ranges(cells.stops, cells.stops + counts)
    cells.vectors[places], cells.ids[places] = vectors[order], rows[order]
    cells.stops[:] += counts
    # A centroid follows the vectors of its cell, as in k-means with small batches (Sculley, WWW
    # 2010): otherwise, where the collection moves to new regions, cells there would be found less
    # often than those of a new index.
    steps = np.zeros(cells.centroids.shape)
    np.add.at(steps, own, vectors - cells.centroids[own])
    sizes = np.maximum(1, cells.stops - cells.starts)
    centroids = (cells.centroids + steps / sizes[:, None]).astype(np.float32)
    return Cells.of(*cells[:4], centroids, cells.groups)


def _with_room(cells: Cells, counts: NDArray[np.int64]) -> Cells:
    """Return cells with room for some more vectors in each."""
    by_place = np.lexsort((cells.stops, cells.starts))
    room = np.empty(len(counts), np.int64)
    room[by_place] = np.diff(cells.starts[by_place], append=len(cells.vectors))
    needed = cells.stops - cells.starts + counts
    moved = (counts > 0) & (needed > room)
    sizes = np.where(moved, needed + needed // _ROOM + 1, 0)
    n = len(cells.vectors)
    if n + sizes.sum() > _MOST_PLACES * needed.sum() + len(counts):
        return _moved(cells, counts)
    out = _resized(cells, n + int(sizes.sum()))
    starts = np.where(moved, n + np.cumsum(sizes) - sizes, cells.starts)
    return _copied(cells, out, starts, moved)


def _moved(cells: Cells, counts: NDArray[np.int64]) -> Cells:
    """Return cells one after the other, with room for some more vectors in each."""
    needed = cells.stops - cells.starts + counts
    sizes = needed + needed // _ROOM + 1
    out = cells._replace(
        vectors=np.zeros((sizes.sum(), cells.vectors.shape[1]), np.float32),
        ids=np.zeros(sizes.sum(), np.int32),
    )
    return _copied(cells, out, np.cumsum(sizes) - sizes, np.full(len(sizes), True))


def _resized(cells: Cells, length: int) -> Cells:
    """Return cells with as many places, more than there are."""
    more = length - len(cells.vectors)
    if not more:
        return cells
    vectors = np.concatenate([cells.vectors, np.zeros((more, cells.vectors.shape[1]), np.float32)])
    return cells._replace(
        vectors=vectors, ids=np.concatenate([cells.ids, np.zeros(more, np.int32)])
    )


def _copied(cells: Cells, out: Cells, starts: NDArray[np.int64], moved: NDArray[np.bool_]) -> Cells:
    """Copy the cells that move to where they start now."""
    sizes = cells.stops - cells.starts
    before = ranges(cells.starts[moved], cells.stops[moved])
    after = ranges(starts[moved], (starts + sizes)[moved])
    out.vectors[after], out.ids[after] = cells.vectors[before], cells.ids[before]
    return out._replace(starts=starts, stops=starts + sizes)
