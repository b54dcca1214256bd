"""Exact neighbour lists of a connected collection of any size, at the cost of copying them.

A tile holds random points of a periodic box in four dimensions, whose nearest neighbours are
searched once. The collection is a periodic grid of such tiles: a neighbour across the border of a
tile is the same point of the next one.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from .permutation import Permutation

DIMENSION = 4
POINTS = 4000  # of a tile; a divisor of round numbers of items
K = 50
# Scores are exp(-distance² / (2 · _SCALE²)) with this share of a tile's side: from 0.3 to 1.
_SCALE = 0.15
_ROWS = 1 << 12  # made at a time: what they take stays in the cache

Lists = tuple[NDArray[np.float32], NDArray[np.int32]]


class _Template(NamedTuple):
    """The points of a tile of side 1, and their neighbours, best first."""

    points: NDArray[np.float64]  # (T, 4), from 0 to 1
    scores: NDArray[np.float32]  # (T, k)
    ids: NDArray[np.int64]  # (T, k), points of a tile
    offsets: NDArray[np.int64]  # (T, k, 4), the tile of the neighbour: -1, 0 or 1 in each dimension


class Tiles:
    """A collection whose neighbour lists are computed for any range of its rows.

    Rows are numbered at random over all tiles, as those of a real collection are.

    Parameters
    ----------
    n : int >= 1
        Number of items, rounded up to a multiple of `points`.
    k : int, default 50
        Number of neighbours of each item, less than a hundredth of `points`: lists are exact while
        all neighbours are closer than half a tile.
    points : int, default 4000
        Number of items of a tile.
    seed : int, default 0

    Attributes
    ----------
    n, k : int
    grid : tuple of int
        Number of tiles in each dimension, as equal as their product allows.
    """

    def __init__(self, n: int, k: int = K, points: int = POINTS, seed: int = 0) -> None:
        self.grid = _grid(-(-n // points))
        self.n, self.k = points * int(np.prod(self.grid)), k
        self._points, self._seed = points, seed
        self._numbers = Permutation(self.n, seed)

    def lists(self, first: int, last: int) -> Lists:
        """Return the neighbour lists (last - first, k) of some rows: scores and ids, best first.

        No item is in its own list. Scores are in (0, 1] and symmetric: of two items in each other's
        lists, both have the same score.
        """
        scores = np.empty((last - first, self.k), np.float32)
        ids = np.empty(scores.shape, np.int32)
        template = self._template
        for start in range(first, last, _ROWS):
            stop = min(last, start + _ROWS)
            tiles, points = np.divmod(self._numbers(np.arange(start, stop)), self._points)
            part = slice(start - first, stop - first)
            scores[part] = template.scores[points]
            ids[part] = self._rows(tiles, template.offsets[points], template.ids[points])
        return scores, ids

    def queries(self, rows: NDArray[np.integer], k: int = K, noise: float = 0.02) -> Lists:
        """Return the k nearest items to queries that are near the items `rows` (m,).

        Parameters
        ----------
        rows : ndarray, shape (m,)
        k : int
            Less than a hundredth of the points of a tile.
        noise : float, default 0.02
            Standard deviation of a coordinate of a query, in sides of a tile.
        """
        template = self._template
        tiles, points = np.divmod(self._numbers(rows), self._points)
        rng = np.random.default_rng(self._seed)
        moved = template.points[points] + noise * rng.standard_normal((len(rows), DIMENSION))
        across = np.floor(moved).astype(np.int64)
        scores, ids, offsets = _neighbours(template.points, moved - across, k)
        return scores, self._rows(tiles, offsets + across[:, None], ids)

    def write(self, folder: Path, shards: int) -> None:
        """Write the lists as shards of equal length: scores_0000.npy, ids_0000.npy and so on."""
        folder.mkdir(parents=True, exist_ok=True)
        for p in range(shards):
            first, last = self.n * p // shards, self.n * (p + 1) // shards
            shape = (last - first, self.k)
            with (
                open(folder / f"scores_{p:04d}.npy", "wb") as scores_file,
                open(folder / f"ids_{p:04d}.npy", "wb") as ids_file,
            ):
                for file, dtype in ((scores_file, "<f4"), (ids_file, "<i4")):
                    header = {"descr": dtype, "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(file, header)
                for start in range(first, last, _ROWS):
                    scores, ids = self.lists(start, min(last, start + _ROWS))
                    scores.tofile(scores_file)
                    ids.tofile(ids_file)

    def positions(self, rows: NDArray[np.integer]) -> NDArray[np.float64]:
        """Return the coordinates (m, 4) of items in a periodic box of the sides `grid`."""
        tiles, points = np.divmod(self._numbers(rows), self._points)
        return self._template.points[points] + np.stack(np.unravel_index(tiles, self.grid), axis=-1)

    @cached_property
    def _template(self) -> _Template:
        points = np.random.default_rng(self._seed).random((self._points, DIMENSION))
        return _Template(points, *_neighbours(points, points, self.k, themselves=True))

    def _rows(
        self, tiles: NDArray[np.int64], offsets: NDArray[np.int64], ids: NDArray[np.int64]
    ) -> NDArray[np.int32]:
        """Return the rows (m, k) of points that are `offsets` (m, k, 4) away from tiles (m,)."""
        other = np.zeros(ids.shape, np.int64)
        coordinates = np.unravel_index(tiles, self.grid)
        for axis, side in enumerate(self.grid):
            own = coordinates[axis][:, None] + offsets[..., axis]
            other = other * side + own % side
        return self._numbers.inverse(other * self._points + ids).astype(np.int32)


def _grid(tiles: int) -> tuple[int, ...]:
    """Return four factors of a number, as equal as a greedy choice makes them."""
    sides = []
    for dimensions in range(DIMENSION, 0, -1):
        side = max(1, round(tiles ** (1 / dimensions)))
        # The closest factor, since some number of tiles has to be a product of four.
        side = min((s for s in range(1, tiles + 1) if not tiles % s), key=lambda s: abs(s - side))
        sides.append(side if dimensions > 1 else tiles)
        tiles //= side
    return tuple(sides)


def _neighbours(
    points: NDArray[np.float64], queries: NDArray[np.float64], k: int, themselves: bool = False
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Return scores, ids and tile offsets of the k nearest points in the periodic box of side 1.

    With `themselves`, the queries are the points, which are not their own neighbours.
    """
    tree = cKDTree(points, boxsize=1.0)
    distances, ids = tree.query(queries, k + themselves)
    if distances[:, -1].max() >= 0.5:
        raise ValueError(f"expected k of at most a hundredth of {len(points)} points, got {k}")
    if themselves:
        ids = ids[:, 1:]  # a point is closest to itself
    across = points[ids] - queries[:, None]
    offsets = -np.rint(across).astype(np.int64)
    # The difference of two points is the same both ways but for its sign: the scores are symmetric.
    squares = ((across + offsets) ** 2).sum(axis=-1)
    scores = np.exp(-squares / (2 * _SCALE**2)).astype(np.float32)
    order = np.argsort(-scores, axis=1, kind="stable")
    scores, ids = (np.take_along_axis(each, order, axis=1) for each in (scores, ids))
    return scores, ids, np.take_along_axis(offsets, order[..., None], axis=1)
