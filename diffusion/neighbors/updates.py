"""The neighbour lists of a collection after items have been added or removed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..change import Change
from .index import SearchIndex, tidy_lists, without_items


def changed_lists(
    index: SearchIndex | None,
    scores: NDArray[np.float32],
    ids: NDArray[np.int32],
    change: Change,
    k: int,
    *,
    progress: bool = False,
) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.bool_]]:
    """Return neighbour lists after a change, from those before it.

    Parameters
    ----------
    index : SearchIndex or None
        The index after the change. Without one, lists only become shorter, and those of added
        items are empty.
    scores, ids : ndarray, shape (before, w)
        The lists before the change, as `NeighborIndex.neighbors` returns them, without the items
        that have no direction.
    change : Change
    k : int >= 1
        Length of the lists of a fit, which is cut to n - 1.
    progress : bool, default False

    Returns
    -------
    scores : ndarray, shape (after, w), float32
    ids : ndarray, shape (after, w), int32
        Equal scores are ordered by ascending row. Padded with -1.
    dirty : ndarray, shape (after,), bool
        Whether the list of an item is another than before, except for the numbers of rows.
    """
    renumbered = np.append(change.target, np.int32(-1))[ids]
    lists = change.rows_of(scores), change.rows_of(renumbered)
    lists[1][change.added] = -1
    same = lists[1].copy()
    if index is None:
        lists = tidy_lists(*lists, ids.shape[1])
    else:
        vectors = index.vectors_of(np.arange(index.size))
        zero = np.full(index.size, False)
        if index.metric != "euclidean":
            zero = np.logical_not(vectors.any(axis=1))
        k = min(k, max(1, index.size - 1))
        lists = without_items(*index.neighbors_of(vectors, k, progress=progress), zero)
    if lists[1].shape != same.shape:
        return *lists, np.full(change.after, True)
    dirty = (lists[1] != same).any(axis=1)
    dirty[change.added] = True
    return *lists, dirty
