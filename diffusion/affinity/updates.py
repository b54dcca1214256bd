"""What the updates of affinities share: which rows a change reaches, and which it changes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..change import Change
from ..kernels import updates as loops


def reached(
    changed: NDArray[np.bool_], ids: NDArray[np.int32], old_ids: NDArray[np.int32], change: Change
) -> NDArray[np.bool_]:
    """Mark items whose lists have changed, and all that these lists hold or have held.

    What an item and its neighbours have in each other's lists is as before for all other items.

    Parameters
    ----------
    changed : ndarray, shape (after,), bool
        The items whose lists have changed. Those that listed removed items have.
    ids, old_ids : ndarray, shape (after, k) and (before, k), int32
    change : Change

    Returns
    -------
    ndarray, shape (after,), bool
    """
    marked = changed.copy()
    source = change.source[changed]
    old = np.concatenate([change.removed, source[source >= 0]])
    for listed in (ids[changed], mapped(old_ids[old], change)):
        marked[listed[listed >= 0]] = True
    return marked


def mapped(ids: NDArray[np.int32], change: Change) -> NDArray[np.int32]:
    """Return the new rows of items, -1 for removed ones and where padded."""
    return np.where(ids >= 0, change.target[ids], np.int32(-1))


def differing(
    now: tuple[NDArray[np.int32], NDArray[Any]],
    before: tuple[NDArray[np.int32], NDArray[Any]],
    none: float,
) -> NDArray[np.bool_]:
    """Mark the rows (m,) of lists, ids and values (m, k), that differ from those before.

    Entries of the value `none` do not count.
    """
    out = np.empty(len(now[0]), bool)
    arrays = [np.ascontiguousarray(array) for array in (*now, *before)]
    loops.differing_rows(*arrays, arrays[1].dtype.type(none), out)
    return out
