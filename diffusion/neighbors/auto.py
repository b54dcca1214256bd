"""The choice between exact search and an inverted file, and the settings of the latter."""

from __future__ import annotations

import sys
import warnings

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from .cells import Partition, nearest_others, partition
from .methods import IVF, Auto, Exact

# Seconds of one core for the comparison of two vectors by exact search, at dimension 0 and for each
# dimension; for what an item takes with cells; and for what takes the same time for any number of
# items. `bench speed` compares both methods.
_PAIR, _PAIR_DIMENSION = 3e-9, 14e-12
_ITEM, _ITEM_DIMENSION, _ONCE = 30e-6, 0.11e-6, 0.25

# An approximation must save at least half of the time.
_PAYS = 2.0

# The comparison with a vector of a cell takes this many times as long as one of exact search,
# because the matrices are smaller.
_SMALLER = 2.5

# Items whose true neighbours show the recall of the settings.
_SAMPLE = 1024

# Scores that differ by less than this, relative to the largest, may tie.
_TIE = 1e-5

# Standard errors by which the recall on the sample must exceed the target.
_MARGIN = 2.0

# The most vectors that an item is compared with where the target would need more.
_MOST_COMPARED = 1 << 18


def exact_is_better(n: int, d: int) -> bool:
    """Return whether the lists of n vectors (d,) are found exactly in little more time.

    The times are those of one core, so that the choice does not depend on the number of cores.
    """
    exact = n**2 * (_PAIR + d * _PAIR_DIMENSION)
    cells = _ONCE + n * (_ITEM + d * _ITEM_DIMENSION)
    return exact <= _PAYS * cells


def outgrown(before: int, after: int, d: int) -> bool:
    """Return whether exact search, chosen for fewer vectors, should be reconsidered for more.

    That is when the limit for exact search is passed, and each time the number of vectors has
    doubled: without structure, exact search remains the better method.
    """
    if exact_is_better(after, d):
        return False
    return exact_is_better(before, d) or after.bit_length() > before.bit_length()


def share_found(found: NDArray[np.float32], true: NDArray[np.float32]) -> float:
    """Return the mean share of the best scores, (m, k), that are among those found.

    Any of several items that tie for the last place will do.
    """
    listed = np.count_nonzero(np.isfinite(true), axis=1)
    last = np.take_along_axis(true, np.maximum(listed - 1, 0)[:, None], axis=1)
    tie = _TIE * np.abs(true).max(axis=1, where=np.isfinite(true), initial=0)[:, None]
    hits = np.count_nonzero(found >= last - tie, axis=1)
    return float(np.mean(np.minimum(1, hits / np.maximum(1, listed))))


def tuned(
    vectors: NDArray[np.float32], metric: str, k: int, auto: Auto, *, progress: bool
) -> tuple[Exact | IVF, Partition | None, float]:
    """Choose the method for vectors, and measure its recall.

    Parameters
    ----------
    vectors : ndarray, shape (n, d), float32
    metric : str
    k : int
        Number of neighbours whose recall counts.
    auto : Auto
    progress : bool

    Returns
    -------
    method : Exact or IVF
    partition : Partition or None
        The cells of the inverted file.
    recall : float
        The mean share of the true k nearest neighbours in the lists of a sample of items, 1.0 for
        exact search.

    Warns
    -----
    UserWarning
        If the recall is lower than the target, because the target would need comparisons with more
        than 2^18 vectors per item.
    """
    n, d = vectors.shape
    if exact_is_better(n, d):
        return Exact(), None, 1.0
    parts = partition(vectors, IVF().cells(n), progress=progress)
    sample = sampled(n)
    cell_of = np.empty(n, np.int32)
    cell_of[parts.order] = np.repeat(
        np.arange(len(parts.centroids), dtype=np.int32), np.diff(parts.offsets)
    )
    scores, ids = nearest_others(vectors, sample, metric, k + 1, progress)
    places = clear_cells(scores, cell_of[ids])
    method, recall = chosen(vectors[sample], metric, k, auto, parts, places)
    if isinstance(method, Exact):
        return method, None, 1.0
    warn_if_missed(recall, k, len(sample), auto)
    if progress:
        tqdm.write(f"{method}: recall at {k} {recall:.3f}", file=sys.stderr)
    return method, parts, recall


def sampled(n: int) -> NDArray[np.int64]:
    """Return those of n vectors whose true neighbours show the recall, in ascending order."""
    return np.sort(np.random.default_rng(1).choice(n, min(_SAMPLE, n), replace=False))


def chosen(
    queries: NDArray[np.float32],
    metric: str,
    k: int,
    auto: Auto,
    parts: Partition,
    places: list[NDArray[np.int32]],
) -> tuple[Exact | IVF, float]:
    """Choose exact search or the number of cells to search, and return the recall.

    Parameters
    ----------
    queries : ndarray, shape (m, d), float32
        A sample of the vectors.
    metric : str
    k : int
    auto : Auto
    parts : Partition
        The cells of all vectors; its `order` is not used.
    places : list of ndarray
        The cells of the true neighbours of each, as `clear_cells` returns them.
    """
    n, probes = int(parts.offsets[-1]), 32
    while True:
        recall, enough, compared = _curve(queries, metric, k, parts, places, probes)
        reached = np.flatnonzero(enough >= auto.recall)
        most = min(_MOST_COMPARED, n / _SMALLER)
        if len(reached) or compared[-1] > most or probes >= len(parts.centroids):
            break
        probes *= 2
    last = int(reached[0]) if len(reached) else len(compared) - 1
    if compared[last] > n / _SMALLER or (not len(reached) and n <= _MOST_COMPARED):
        return Exact(), 1.0
    if compared[last] > _MOST_COMPARED:
        last = max(0, int(np.searchsorted(compared, _MOST_COMPARED)) - 1)
    return IVF(nlist=IVF().cells(n), nprobe=last + 1), float(recall[last])


def warn_if_missed(recall: float, k: int, sample: int, auto: Auto) -> None:
    """Warn that the recall, measured on so many items, is lower than the target."""
    if recall < auto.recall:
        warnings.warn(
            f"neighbors: the recall at {k} is {recall:.3f}, measured on {sample} "
            f"items, which is less than {auto.recall}; the vectors have too little structure for "
            "an approximate search. Exact(), or IVF with a larger nprobe, finds more",
            stacklevel=3,
        )


def clear_cells(scores: NDArray[np.float32], found: NDArray[np.int32]) -> list[NDArray[np.int32]]:
    """Return the cells of the true k neighbours of each item of a sample.

    Neighbours that tie with the best that is left out are not among them: any of these would do.

    Parameters
    ----------
    scores : ndarray, shape (m, k + 1)
        Of the nearest others, found by exact search and padded with -inf.
    found : ndarray, shape (m, k + 1), int32
        The cell of each of these; any number for padding.
    """
    size = np.abs(scores).max(axis=1, where=np.isfinite(scores), initial=0)
    with np.errstate(invalid="ignore"):  # the difference of two -inf
        clear = np.abs(scores[:, :-1] - scores[:, -1:]) > _TIE * size[:, None]
    return [cells[:-1][sure] for cells, sure in zip(found, clear, strict=True)]


def _curve(
    queries: NDArray[np.float32],
    metric: str,
    k: int,
    parts: Partition,
    places: list[NDArray[np.int32]],
    probes: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return, for 1 to `probes` cells, the recall, its lower bound and the vectors compared."""
    near = parts.probe(queries, probes, metric)
    rank = np.full(len(parts.centroids), near.shape[1])
    found = np.ones((len(queries), near.shape[1]))
    for row, cells in enumerate(places):
        listed = near[row][near[row] >= 0]
        rank[listed] = np.arange(len(listed))
        if len(cells):
            hits = np.bincount(rank[cells], minlength=near.shape[1] + 1)[:-1]
            found[row] = np.cumsum(hits) / len(cells)
        rank[listed] = near.shape[1]
    held = np.cumsum(np.where(near >= 0, np.diff(parts.offsets)[near], 0), axis=1)
    # Cells that hold fewer than k others are followed by a search of twice as many.
    for last in reversed(range(near.shape[1] // 2)):
        short = held[:, last] <= k
        found[short, last] = found[short, 2 * last + 1]
        held[short, last] = held[short, 2 * last + 1]
    recall = found.mean(axis=0)
    error = found.std(axis=0) / len(found) ** 0.5
    return recall, recall - _MARGIN * error, held.mean(axis=0)
