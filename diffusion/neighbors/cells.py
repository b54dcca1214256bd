"""The inverted file: k-means cells of vectors, and the search of the cells nearest to queries.

Three levels of the same kind are searched one after the other: groups of centroids, centroids, and
vectors, each sorted by the cell that it belongs to. Queries that ask for the same cells are
compared with them together, by matrix products.

Source: Jégou, Douze, Schmid. Product Quantization for Nearest Neighbor Search. TPAMI 2011 (the
inverted file); Johnson, Douze, Jégou. Billion-Scale Similarity Search with GPUs. 2017.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from ..kernels.cells import Asked, Level, k_means, search_cells
from ..kernels.matrix import packed, read_only
from .progress import row_blocks

# Queries searched together, and in one call of the compiled loop.
BLOCK = 1024
CHUNK = 32 * BLOCK

# Vectors that a sample is compared with in one call, and items of it that are searched together.
_SLAB, _FEW = 1 << 20, 256

# Vectors per cell that k-means is given, and its iterations.
PER_CELL, _ITERATIONS = 48, 8

# Parts of the sample that k-means divides in one call of the compiled loop.
_TOGETHER = 32

# Groups of centroids that are searched for the cell of a vector.
_GROUPS_ASSIGNED = 4

# A cell has at most this many times the average number of vectors; a larger one is divided.
UNEVEN = 16


class Cells(NamedTuple):
    """Vectors of a collection in k-means cells.

    Attributes
    ----------
    vectors : ndarray, shape (places, d), float32
        Those of cell c are at starts[c] to stops[c]. There are no gaps in what was just built.
    ids : ndarray, shape (places,), int32
        The id of each of these rows.
    starts, stops : ndarray, shape (cells,), int64
    centroids : ndarray, shape (cells, d), float32
        Sorted by group.
    groups : ndarray, shape (groups + 1,), int64
        The first centroid of each group.
    means : ndarray, shape (groups, d), float32
    """

    vectors: NDArray[np.float32]
    ids: NDArray[np.int32]
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]
    centroids: NDArray[np.float32]
    groups: NDArray[np.int64]
    means: NDArray[np.float32]

    @classmethod
    def of(
        cls,
        vectors: NDArray[np.float32],
        ids: NDArray[np.int32],
        starts: NDArray[np.int64],
        stops: NDArray[np.int64],
        centroids: NDArray[np.float32],
        groups: NDArray[np.int64],
    ) -> Cells:
        """Return cells from what is stored of them."""
        means = means_of(centroids, groups)
        arrays = vectors, ids, starts, stops, centroids, groups, means
        return cls(*map(read_only, arrays))

    def places(self) -> NDArray[np.int64]:
        """Return the rows of `vectors` that are in cells, and not in the gaps between them."""
        return ranges(self.starts, self.stops)

    def packed(self) -> Cells:
        """Return the cells without gaps."""
        offsets, vectors, ids = packed(self.starts, self.stops, self.vectors, self.ids)
        own = vectors, ids, offsets[:-1], offsets[1:], self.centroids, self.groups, self.means
        return Cells(*map(read_only, own))

    def probe(self, queries: NDArray[np.float32], count: int, metric: str) -> NDArray[np.int32]:
        """Return the cells (m, count) with the nearest centroids, nearest first, padded with -1."""
        return _nearest_cells(self.centroids, self.groups, self.means, queries, count, metric)

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        probes: int,
        metric: str,
        own: NDArray[np.int32] | None = None,
        check: Callable[[NDArray[np.int32]], None] | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Find the k nearest vectors of each query in the `probes` cells nearest to it.

        The vector whose id is that of `own` (m,) for a query is left out. If the cells of a query
        hold fewer than k others, twice as many are searched. `check` is called with the cells
        (m, p), padded with -1, before they are searched.
        """
        if own is None:
            own = np.full(len(queries), -1, np.int32)
        scores = np.empty((len(queries), k), np.float32)
        ids = np.empty((len(queries), k), np.int32)
        for start in range(0, len(queries), CHUNK):
            part = slice(start, start + CHUNK)
            cells = self.probe(queries[part], probes, metric)
            if check is not None:
                check(cells)
            by_cell = np.argsort(cells[:, 0], kind="stable").astype(np.int32)
            asked = _asked(queries[part][by_cell], own[part][by_cell], by_cell, cells[by_cell])
            _search(asked, self._level(), metric, scores[part], ids[part])
        self._fill(queries, probes, metric, own, scores, ids, check)
        return scores, ids

    def search_own(
        self, rows: slice, k: int, probes: int, metric: str
    ) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """List the k nearest other vectors of some rows of `vectors`, at most `CHUNK`.

        The cells have no gaps.
        """
        queries, own = self.vectors[rows], self.ids[rows]
        numbers = np.arange(len(own), dtype=np.int32)
        asked = _asked(queries, own, numbers, self.probe(queries, probes, metric))
        scores, ids = np.empty((len(own), k), np.float32), np.empty((len(own), k), np.int32)
        _search(asked, self._level(), metric, scores, ids)
        self._fill(queries, probes, metric, own, scores, ids)
        return scores, ids

    def _fill(
        self,
        queries: NDArray[np.float32],
        probes: int,
        metric: str,
        own: NDArray[np.int32],
        scores: NDArray[np.float32],
        ids: NDArray[np.int32],
        check: Callable[[NDArray[np.int32]], None] | None = None,
    ) -> None:
        """Search more cells for the queries whose cells held too few vectors.

        Equal vectors may be in different cells, since products depend on the place in a matrix by
        a rounding error, and some of these cells are then nearly empty.
        """
        short = np.flatnonzero(ids[:, -1] < 0)
        if len(short) and probes < len(self.centroids):
            k, probes = ids.shape[1], 2 * probes
            wider = self.search(queries[short], k, probes, metric, own[short], check)
            scores[short], ids[short] = wider

    def _level(self) -> Level:
        return Level(self.vectors, self.ids, self.starts, self.stops)


def ranges(starts: NDArray[Any], stops: NDArray[Any]) -> NDArray[np.int64]:
    """Return the integers from each start to before its stop, one range after the other."""
    sizes = stops - starts
    shift = np.repeat(starts - (np.cumsum(sizes) - sizes), sizes)
    return np.arange(len(shift), dtype=np.int64) + shift


class Partition(NamedTuple):
    """The cells of vectors that are not sorted by cell yet.

    Cell c is made of the vectors order[offsets[c] : offsets[c + 1]]; the other attributes are those
    of `Cells`.
    """

    order: NDArray[np.int32]
    offsets: NDArray[np.int64]
    centroids: NDArray[np.float32]
    groups: NDArray[np.int64]

    def cells(self, vectors: NDArray[np.float32]) -> Cells:
        """Return the vectors, which are copied, in their cells."""
        order, offsets, centroids, groups = self
        return Cells.of(vectors[order], order, offsets[:-1], offsets[1:], centroids, groups)

    def probe(self, queries: NDArray[np.float32], count: int, metric: str) -> NDArray[np.int32]:
        """Return the cells (m, count) with the nearest centroids, as `Cells.probe` does."""
        means = means_of(self.centroids, self.groups)
        return _nearest_cells(self.centroids, self.groups, means, queries, count, metric)


def partition(vectors: NDArray[np.float32], count: int, *, progress: bool) -> Partition:
    """Divide vectors into about `count` cells by k-means on a sample, at two levels."""
    centroids, groups = trained(vectors, count, progress=progress)
    means = means_of(centroids, groups)
    cells = np.empty(len(vectors), np.int32)
    for part in row_blocks(len(vectors), "ivf build", show=progress, size=CHUNK):
        cells[part] = assigned(centroids, groups, means, vectors[part])
    return divided(cells, centroids, groups)


def trained(
    vectors: NDArray[np.float32], count: int, *, progress: bool
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return centroids (count, d) for vectors, sorted by group, and where the groups begin."""
    centroids = _train(vectors, count, progress)
    return _sorted_by(_group_of(centroids), centroids)


def assigned(
    centroids: NDArray[np.float32],
    groups: NDArray[np.int64],
    means: NDArray[np.float32],
    vectors: NDArray[np.float32],
) -> NDArray[np.int32]:
    """Return the cell that each vector belongs to, of those in the groups nearest to it."""
    near = _nearest_cells(centroids, groups, means, vectors, 1, "euclidean", _GROUPS_ASSIGNED)
    return near[:, 0]


def divided(
    cells: NDArray[np.integer], centroids: NDArray[np.float32], groups: NDArray[np.int64]
) -> Partition:
    """Return the partition with the given cell of each vector; very large cells are divided.

    Otherwise, the time of a search would be quadratic in the number of identical vectors. The parts
    of a cell have the same centroid.
    """
    order = np.argsort(cells, kind="stable").astype(np.int32)
    sizes = np.bincount(cells, minlength=len(centroids))
    return Partition(order, *divided_sizes(sizes, centroids, groups))


def divided_sizes(
    sizes: NDArray[np.integer], centroids: NDArray[np.float32], groups: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """Return `offsets`, `centroids` and `groups` of the partition that `divided` returns.

    The vectors are sorted by cell; `sizes` (cells,) says how many each cell has.
    """
    n = int(sizes.sum())
    limit = UNEVEN * max(1, -(-n // len(centroids)))
    parts = np.maximum(1, -(-sizes // limit))
    cell = np.repeat(np.arange(len(centroids)), parts)
    number = np.arange(len(cell)) - np.repeat(np.cumsum(parts) - parts, parts)
    begin = np.repeat(np.cumsum(sizes) - sizes, parts) + number * limit
    offsets = np.append(begin, n).astype(np.int64)
    first = np.append(0, np.cumsum(parts))
    return offsets, centroids[cell], first[groups].astype(np.int64)


def regrouped(cells: NDArray[np.integer], centroids: NDArray[np.float32]) -> Partition:
    """Return the partition of vectors whose cells are known, with the centroids in any order."""
    group = _group_of(centroids)
    order = np.argsort(group, kind="stable")
    number = np.empty(len(order), np.int32)
    number[order] = np.arange(len(order))
    return divided(number[cells], *_sorted_by(group, centroids))


def nearest_others(
    vectors: NDArray[np.float32], sample: NDArray[np.integer], metric: str, k: int, progress: bool
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """List the k nearest other vectors of some, by comparing these with all.

    Returns scores and ids (m, k), padded with -inf and -1. faiss is several times slower for so few
    queries.
    """
    queries, own = vectors[sample], sample.astype(np.int32)
    return nearest_of_rows(queries, own, vectors, slice(0, len(vectors)), metric, k, progress)


def nearest_of_rows(
    queries: NDArray[np.float32],
    own: NDArray[np.int32],
    vectors: NDArray[np.float32],
    rows: slice,
    metric: str,
    k: int,
    progress: bool,
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """List the k nearest of some rows of `vectors`, but for row own[i] in list i.

    Returns scores and rows (m, k), padded with -inf and -1; equal scores by ascending row.
    """
    m = len(queries)
    order = np.arange(m, dtype=np.int32)
    blocks = np.append(np.arange(0, m, _FEW), m)
    asked = Asked(*map(read_only, (queries, own, order, np.zeros((m, 1), np.int32), blocks)))
    scores, ids = np.full((m, k), -np.inf, np.float32), np.full((m, k), -1, np.int32)
    slabs = row_blocks(rows.stop, "ivf tuning", show=progress, begin=rows.start, size=_SLAB)
    for part in slabs:
        numbers = np.arange(part.start, part.stop, dtype=np.int32)
        whole = np.zeros(1, np.int64), np.full(1, len(numbers))
        near, found = np.empty_like(scores), np.empty_like(ids)
        level = Level(*map(read_only, (vectors[part], numbers, *whole)))
        _search(asked, level, metric, near, found)
        near, found = np.append(scores, near, axis=1), np.append(ids, found, axis=1)
        best = np.argsort(-near, axis=1, kind="stable")[:, :k]
        scores, ids = np.take_along_axis(near, best, 1), np.take_along_axis(found, best, 1)
    return scores, ids


# --- training -------------------------------------------------------------------------------------


def _train(vectors: NDArray[np.float32], count: int, progress: bool) -> NDArray[np.float32]:
    """Return centroids (count, d): k-means of a sample, and then of each of its √count parts."""
    n = len(vectors)
    rng = np.random.default_rng(0)
    chosen = np.sort(rng.choice(n, min(n, PER_CELL * count), replace=False))
    sample = vectors[chosen]
    rng.shuffle(sample)
    top = sample[: max(1, int(count**0.5))].copy()
    few = sample[: 256 * len(top)]
    whole = np.array([0, len(few)])
    with one_blas_thread():
        k_means(few, whole, top, np.array([0, len(top)]), _ITERATIONS)
    group = _nearest_of(sample, top)
    sizes = np.bincount(group, minlength=len(top))
    sample = sample[np.argsort(group, kind="stable")]
    ends = np.append(0, np.cumsum(sizes))
    shares = ends * count // len(sample)
    # Each group starts from its first points, which are in random order.
    member = np.repeat(ends[:-1] - shares[:-1], np.diff(shares)) + np.arange(count)
    centroids = sample[member]
    for part in row_blocks(len(top), "ivf k-means", show=progress, size=_TOGETHER, unit="group"):
        own = slice(part.start, part.stop + 1)
        with one_blas_thread():
            k_means(sample, ends[own], centroids, shares[own], _ITERATIONS)
    return centroids


def _sorted_by(
    group: NDArray[np.integer], centroids: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return centroids sorted by their group, and where the groups begin; none is empty."""
    sizes = np.bincount(group)
    groups = np.append(0, np.cumsum(sizes[sizes > 0])).astype(np.int64)
    return centroids[np.argsort(group, kind="stable")], groups


def _group_of(centroids: NDArray[np.float32]) -> NDArray[np.int32]:
    """Return the group of each centroid, from k-means of the centroids."""
    count = len(centroids)
    points = np.random.default_rng(0).permutation(centroids)
    means = points[: max(1, int(count**0.5))].copy()
    with one_blas_thread():
        k_means(points, np.array([0, count]), means, np.array([0, len(means)]), _ITERATIONS)
    return _nearest_of(centroids, means)


def means_of(centroids: NDArray[np.float32], groups: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the mean of the centroids of each group."""
    sizes = np.diff(groups)
    sums = np.zeros((len(sizes), centroids.shape[1]))
    np.add.at(sums, np.repeat(np.arange(len(sizes)), sizes), centroids)
    return (sums / np.maximum(1, sizes)[:, None]).astype(np.float32)


# --- searching ------------------------------------------------------------------------------------


def _nearest_of(points: NDArray[np.float32], means: NDArray[np.float32]) -> NDArray[np.int32]:
    """Return the number of the nearest mean of each point."""
    out = [
        _nearest_in_all(points[start : start + CHUNK], means, 1, by_distance=True)[:, 0]
        for start in range(0, len(points), CHUNK)
    ]
    return np.concatenate(out)


def _nearest_in_all(
    queries: NDArray[np.float32], vectors: NDArray[np.float32], count: int, *, by_distance: bool
) -> NDArray[np.int32]:
    """Return the numbers (m, count) of the vectors nearest to each query, all being compared."""
    m = len(queries)
    rows, nobody = np.arange(m, dtype=np.int32), np.full(m, -1, np.int32)
    asked = _asked(queries, nobody, rows, np.zeros((m, 1), np.int32))
    numbers = np.arange(len(vectors), dtype=np.int32)
    whole = np.zeros(1, np.int64), np.full(1, len(vectors))
    level = Level(*map(read_only, (vectors, numbers, *whole)))
    out = np.empty((m, count), np.float32), np.empty((m, count), np.int32)
    _search(asked, level, "euclidean" if by_distance else "inner_product", *out)
    return out[1]


def _nearest_cells(
    centroids: NDArray[np.float32],
    groups: NDArray[np.int64],
    means: NDArray[np.float32],
    queries: NDArray[np.float32],
    count: int,
    metric: str,
    searched: int | None = None,
) -> NDArray[np.int32]:
    """Return the numbers (m, count) of the centroids nearest to each query, in the nearest groups.

    Distances order them, also for the cosine; for the inner product, products do.
    """
    count = min(count, len(centroids))
    if searched is None:
        # Enough groups to contain the cells several times over.
        searched = 12 + 4 * count * len(means) // len(centroids)
    searched = min(searched, len(means))
    by_distance = metric != "inner_product"
    near = _nearest_in_all(queries, means, searched, by_distance=by_distance)
    order = np.argsort(near[:, 0], kind="stable").astype(np.int32)
    nobody = np.full(len(order), -1, np.int32)
    asked = _asked(queries[order], nobody, order, near[order])
    numbers = np.arange(len(centroids), dtype=np.int32)
    level = Level(*map(read_only, (centroids, numbers, groups[:-1], groups[1:])))
    out = np.empty((len(queries), count), np.float32), np.empty((len(queries), count), np.int32)
    _search(asked, level, "euclidean" if by_distance else metric, *out)
    return out[1]


def _asked(queries: Any, own: Any, rows: Any, cells: Any) -> Asked:
    # Few queries are divided so that each core has some; results do not depend on its number.
    size = min(BLOCK, max(1, len(queries) // 16))
    blocks = np.append(np.arange(0, len(queries), size), len(queries))
    return Asked(*map(read_only, (queries, own, rows, cells, blocks)))


def _search(asked: Asked, level: Level, metric: str, scores: Any, ids: Any) -> None:
    with one_blas_thread():
        search_cells(asked, level, metric == "euclidean", highest_score(metric), scores, ids)


def highest_score(metric: str) -> float:
    """Return what scores are cut to, which rounding could make larger."""
    return 1.0 if metric == "cosine" else np.inf


# --- BLAS -----------------------------------------------------------------------------------------


class _Limited:
    """The number of searches that run, and the threads that BLAS had before the first of them."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.running = 0
        self.before: list[tuple[Any, int]] = []


_limited = _Limited()


def _after_fork() -> None:
    """Forget the searches of other threads, which a fork does not copy, and a lock they held."""
    global _limited
    _limited = _Limited()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@cache
def _blas() -> list[Any]:
    import scipy.linalg.cython_blas  # noqa: F401 (what compiled loops call is loaded before)

    return ThreadpoolController().select(user_api="blas").lib_controllers


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """Let BLAS use one thread for each thread of ours; several threads may be in here at once."""
    with _limited.lock:
        if not _limited.running:
            _limited.before = [(library, library.num_threads) for library in _blas()]
            for library, _ in _limited.before:
                library.set_num_threads(1)
        _limited.running += 1
    try:
        yield
    finally:
        with _limited.lock:
            _limited.running -= 1
            if not _limited.running:
                for library, threads in _limited.before:
                    library.set_num_threads(threads)
