"""Comparison of two indexes of the same lists, item by item."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

import diffusion
from diffusion import CG, RegularizedLaplacian, Reranker
from diffusion.kernels.matrix import packed

from ..table import Table
from .tiles import Lists, Tiles

# What exact scores may differ by, as a share of the best score of the query: nodes are stored in
# another order, so that sums are in another order.
TOLERANCE = 1e-5
_SOLVER = CG(tol=1e-7)
_LIMIT = 1 << 22  # values compared at a time

# The inverted lists of the contextual affinity: where each lies, and the entries, in any order. A
# sharded build places the lists by shard, so that the places differ and the lists do not.
_ROWS = ("affinity_starts", "affinity_stops")
_ENTRIES = ("affinity_holders", "affinity_holders_high")


def measure(one: Path, other: Path, tiles: Tiles, queries: int) -> Table:
    """Compare two indexes.

    Parameters
    ----------
    one, other : Path
    tiles : Tiles
        The collection.
    queries : int
        Number of queries that both rerank.
    """
    rankers = [diffusion.load(path) for path in (one, other)]
    first, second = (ranker.graph_ for ranker in rankers)
    first_w, second_w = first.W, second.W
    rows = [
        compared(f"W: {name}", getattr(first_w, name), getattr(second_w, name))
        for name in ("indptr", "indices", "data")
    ]
    del first_w, second_w
    rows += [
        compared(name, getattr(first, name), getattr(second, name))
        for name in ("degrees", "components")
    ]
    rows += _affinities(*(_arrays(path) for path in (one, other)))
    chosen = np.random.default_rng(1).choice(tiles.n, queries, replace=False)
    rows += _answers(rankers, tiles.queries(chosen))
    return Table(
        f"**Equality of the two indexes**, {tiles.n:,} items",
        ("compared", "values", "equal", "largest difference"),
        rows,
        [
            "Equal means to the last bit. Scores x of queries are those of conjugate gradient on "
            f"either graph, equal if within {TOLERANCE:g} of the best score of the query.",
            "The default solver computes scores as accurately as a ranking needs, in steps that "
            "depend on the order of the nodes: what it returns is not expected to be equal.",
        ],
    )


def compared(name: str, one: NDArray[Any], other: NDArray[Any]) -> list[Any]:
    """Return the row of two arrays, which are read part by part."""
    if one.shape != other.shape or one.dtype != other.dtype:
        shapes = " and ".join(f"{array.dtype} {array.shape}" for array in (one, other))
        return [name, one.size, f"no: {shapes}", None]
    first, second = one.reshape(-1), other.reshape(-1)
    different, largest = 0, 0.0
    for start in range(0, one.size, _LIMIT):
        a, b = first[start : start + _LIMIT], second[start : start + _LIMIT]
        # Bits, so that NaN equals NaN and 0 is not -0.
        unequal = np.flatnonzero(_bits(a) != _bits(b))
        different += len(unequal)
        if len(unequal):
            apart = np.abs(a[unequal].astype(np.float64) - b[unequal].astype(np.float64))
            largest = max(largest, float(np.fmax.reduce(apart, initial=0.0)))
    return [name, one.size, f"no: {different} differ" if different else "yes", largest]


def _bits(values: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}")


# --- arrays of the affinity -----------------------------------------------------------------------


def _arrays(index: Path) -> dict[str, NDArray[Any]]:
    files = sorted(index.rglob("affinity_*.npy"))
    return {file.stem: np.load(file, mmap_mode="r") for file in files}


def _affinities(one: dict[str, NDArray[Any]], other: dict[str, NDArray[Any]]) -> list[list[Any]]:
    rows = []
    for name in sorted(one.keys() | other.keys()):
        if name not in one or name not in other:
            rows.append([name, None, "no: only one index has it", None])
        elif name not in _ROWS + _ENTRIES:
            rows.append(compared(name, one[name], other[name]))
    if all(name in arrays for name in (*_ROWS, *_ENTRIES) for arrays in (one, other)):
        lengths = [arrays["affinity_stops"] - arrays["affinity_starts"] for arrays in (one, other)]
        rows.append(compared("affinity_holders, length of each list", *lengths))
        both = [_sorted_entries(arrays) for arrays in (one, other)]
        rows.append(compared("affinity_holders, sorted within each list", *both))
    return rows


def _sorted_entries(arrays: dict[str, NDArray[Any]]) -> NDArray[np.uint64]:
    """Return the entries of all inverted lists, sorted within each."""
    starts, stops = (np.asarray(arrays[name]) for name in _ROWS)
    indptr, lower, upper = packed(starts, stops, *(np.asarray(arrays[name]) for name in _ENTRIES))
    found = (upper.astype(np.uint64) << np.uint64(32)) | lower
    step = max(1, _LIMIT // 50)
    for start in range(0, len(starts), step):
        ends = indptr[start : start + step + 1]
        part = found[ends[0] : ends[-1]]
        rows = np.repeat(np.arange(len(ends) - 1), np.diff(ends))
        part[:] = part[np.lexsort((part, rows))]
    return found


# --- queries --------------------------------------------------------------------------------------


def _answers(rankers: Sequence[Reranker], first_stage: Lists) -> list[list[Any]]:
    """Return the rows of observations, exact scores and default rankings of queries."""
    scores0, ids0 = first_stage[0], first_stage[1].astype(np.int64)
    rows, exact = [], []
    observed = [
        ranker.fitted().affinity.observe(scores0, ids0, ranker.query_k) for ranker in rankers
    ]
    y = [each.y.csr(ranker.n_items_) for each, ranker in zip(observed, rankers, strict=True)]
    rows += _sparse("observations y", *y)
    if all(each.J is not None for each in observed):
        rows += _sparse(
            "similarities J",
            *(
                each.J.csr(ranker.n_items_)
                for each, ranker in zip(observed, rankers, strict=True)
                if each.J is not None
            ),
        )
    for ranker, each in zip(rankers, y, strict=True):
        transfer = RegularizedLaplacian(ranker.fitted().affinity.alpha)
        solver = _SOLVER.prepare(ranker.graph_, transfer)
        exact.append(solver.solve(each).x)
    difference = largest_difference(*exact)
    equal = "yes" if difference <= TOLERANCE else "no"
    rows.append([f"scores x of {len(scores0)} queries", exact[0].size, equal, difference])
    (one, one_ids), (other, other_ids) = (ranker.rerank(scores0, ids0) for ranker in rankers)
    shared = [len(np.intersect1d(a, b)) for a, b in zip(one_ids, other_ids, strict=True)]
    agreement = 100 * float(np.mean(shared)) / one_ids.shape[1]
    name = f"rankings by the default solver: {agreement:.1f} % of ids in both"
    return [*rows, [name, np.size(one), None, largest_difference(one, other)]]


def _sparse(name: str, one: sparse.csr_array, other: sparse.csr_array) -> list[list[Any]]:
    return [
        compared(f"{name}: {part}", getattr(one, part), getattr(other, part))
        for part in ("indptr", "indices", "data")
    ]


def largest_difference(one: ArrayLike, other: ArrayLike) -> float:
    """Return the largest difference of scores (m, k), as a share of the best score of the row."""
    a, b = np.asarray(one), np.asarray(other)
    shares = [0.0]
    for row, same in zip(a, b, strict=True):
        unequal = row != same  # padding is -inf
        apart = np.abs(row[unequal].astype(np.float64) - same[unequal])
        shares.append(
            float(apart.max(initial=0.0) / np.abs(row).max(where=np.isfinite(row), initial=1e-300))
        )
    return max(shares)
