"""The items of a collection that are compared with added ones, whose lists these may enter."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..kernels.cells import Level
from ..kernels.matrix import read_only
from ..kernels.neighbors import Near

# Items of an exact search that are compared together.
_BLOCK = 1024


def every_item(vectors: NDArray[np.float32], count: int) -> tuple[Level, Near]:
    """Let all items be compared with `count` added ones."""
    n = len(vectors)
    starts = np.arange(0, n, _BLOCK)
    stops = np.minimum(starts + _BLOCK, n)
    first = np.zeros(len(starts), np.int64)
    near = Near(first, first + count, np.arange(count, dtype=np.int32))
    return _level(vectors, np.arange(n, dtype=np.int32), starts, stops), _read_only(near)


def items_found(vectors: NDArray[np.float32], ids: NDArray[Any]) -> tuple[Level, Near]:
    """Let the items that searches for added ones have found, (m, w), be compared with these."""
    found = ids.ravel()
    places = np.repeat(np.arange(len(ids), dtype=np.int32), ids.shape[1])[found >= 0]
    found = found[found >= 0].astype(np.int32)
    order = np.argsort(found, kind="stable")
    own, counts = np.unique(found, return_counts=True)
    starts, stops = np.cumsum(counts) - counts, np.cumsum(counts)
    rows = np.arange(len(own))
    near = Near(starts, stops, places[order])
    return _level(vectors[own], own, rows, rows + 1), _read_only(near)


def _level(*arrays: NDArray[Any]) -> Level:
    return Level(*map(read_only, arrays))


def _read_only(near: Near) -> Near:
    return Near(*map(read_only, near))
