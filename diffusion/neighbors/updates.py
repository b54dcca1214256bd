"""The neighbour lists of a collection after items have been added or removed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..change import Change
from ..kernels.lists import copy_without_self
from ..kernels.neighbors import Added, admit, renumber_lists
from .cells import highest_score, one_blas_thread
from .index import Lists, NeighborIndex, without_items

# What a pass over the lists says of each: it has not changed, it has, it must be searched again.
_SAME, _ENTERED, _AGAIN = 0, 1, 2


def changed_lists(
    index: NeighborIndex | None,
    scores: NDArray[np.float32],
    ids: NDArray[np.int32],
    change: Change,
    k: int,
    *,
    least: int | None = None,
    progress: bool = False,
) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.bool_]]:
    """Return the neighbour lists of a collection after a change, from those before it.

    Lists that hold a removed item are searched again. Added items are searched for, and enter the
    lists whose worst entry they beat. All other lists only get the new numbers of rows.

    Parameters
    ----------
    index : NeighborIndex or None
        The index after the change. Without one, lists only become shorter, and those of added
        items are empty.
    scores, ids : ndarray, shape (before, w)
        The lists before the change, as `NeighborIndex.neighbors` returns them, without the items
        that have no direction.
    change : Change
    k : int >= 1
        Length of the lists of a fit, which is cut to n - 1. If lists of another length are needed
        than before, all are searched again.
    least : int, optional
        A list that still has this many entries is not searched again, but remains shorter than k.
        These entries are the best ones in any case. By default, all lists have k entries.
    progress : bool, default False

    Returns
    -------
    scores : ndarray, shape (after, min(k, after - 1)), float32
    ids : ndarray, of the same shape, int32
        Equal scores are ordered by ascending row. Padded with -1.
    dirty : ndarray, shape (after,), bool
        Whether the list of an item is another than before in its first `least` entries, except for
        the numbers of rows.

    Notes
    -----
    With an exact method, the lists are those of a fit to the items after the change. Beside the
    search, the time is that of reading and writing all lists once.
    """
    width = ids.shape[1]
    least = width if least is None else min(least, width)
    shape = change.after, width
    out = np.empty(shape, np.float32), np.empty(shape, np.int32)
    sizes, dirty = np.empty(change.after, np.int32), np.empty(change.after, bool)
    renumber_lists(scores, ids, change.source, change.target, least, *out, sizes, dirty)
    if index is None:
        return *out, dirty
    zero = _without_direction(index, np.flatnonzero(sizes == 0))
    k = min(k, max(1, change.after - 1))
    if k != width:
        lists = without_items(*index.neighbors(k, progress=progress), zero)
        return *lists, np.full(change.after, True)
    state = np.zeros(change.after, np.int8)
    if len(change.added):
        _enter(index, change.added, zero, least, sizes, out, state)
    dirty |= state == _ENTERED
    short = np.flatnonzero(((sizes < least) | (state == _AGAIN)) & ~zero)
    if len(short):
        found = _without(zero, *index.neighbors_at(short, k, progress=progress))
        dirty[short] |= (found[1] != out[1][short])[:, :least].any(axis=1)
        out[0][short], out[1][short] = found
    return *out, dirty


def _enter(
    index: NeighborIndex,
    rows: NDArray[np.int64],
    zero: NDArray[np.bool_],
    least: int,
    sizes: NDArray[np.int32],
    lists: Lists,
    state: NDArray[np.int8],
) -> None:
    """Enter added items into the lists whose worst entry they beat."""
    vectors = index.vectors_of(rows)
    squares = np.einsum("id,id->i", vectors, vectors)
    by_distance = index.metric == "euclidean"
    half = squares / 2 if by_distance else np.zeros(len(rows), np.float32)
    own = np.where(zero[rows], -1, rows).astype(np.int32)
    added = Added(vectors, own, half, float(squares.max()) ** 0.5)
    highest = highest_score(index.metric)
    with one_blas_thread():
        level, near = index.compared(rows)
        admit(level, added, near, by_distance, highest, least, sizes, *lists, state)


def _without_direction(index: NeighborIndex, empty: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which items (n,) have no direction, of which those with empty lists may be some."""
    zero = np.full(index.size, False)
    if index.metric != "euclidean":
        zero[empty] = (index.vectors_of(empty) == 0).all(axis=1)
    return zero


def _without(zero: NDArray[np.bool_], scores: NDArray[np.float32], ids: NDArray[np.int32]) -> Lists:
    """Take the items that have no direction out of lists."""
    if not zero.any():
        return scores, ids
    ids = np.where(zero[ids], np.int32(-1), ids)
    out = np.empty_like(scores), np.empty_like(ids)
    copy_without_self(scores, ids, -len(ids), *out)
    return out
