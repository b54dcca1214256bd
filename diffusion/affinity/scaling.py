"""Neighbour lists ranked by locally scaled scores, which ranks hubs lower.

An item in dense surroundings has high scores with many others, and is listed by items that it has
nothing in common with. Its *local scale* r, the score at the twelfth place of its own list, tells
how high the scores around it are::

    s'_ij = s_ij - f (r_i + r_j)                                            with 0 <= f < 1

Only the order within lists matters, and r_i is the same in all of the list of i: lists are sorted
by s_ij - f r_j. Sorting more than an affinity uses, and using the first of it, gained nothing.

Source: Conneau, Lample, Ranzato, Denoyer, Jégou. Word Translation Without Parallel Data. ICLR 2018:
cross-domain similarity local scaling (CSLS), with f = 1/2 and the mean of ten scores for r. Before
it, Jégou, Harzallah, Schmid, CVPR 2007, and Zelnik-Manor, Perona, NIPS 2004, scaled distances.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..change import Change
from ..kernels import scaling as loops
from ..kernels.context import PLACE
from ..kernels.matrix import read_only
from ..kernels.updates import reads_changed

#: The local scales of lists that are not scaled.
UNSCALED = read_only(np.empty(0, np.float32))


class ScaledLists(NamedTuple):
    """Neighbour lists by scaled scores.

    Attributes
    ----------
    ids : ndarray, shape (n, k), int32
    scores : ndarray, shape (n, k), float32
        The scaled scores s_ij - f r_j, in descending order; -inf where padded.
    local_scale : ndarray, shape (n,) or (0,), float32
        r; (0,) for f = 0, where the lists are as given.
    order : ndarray, shape (n, k) or (0, 0), uint8
        The places that the entries have in the given lists; (0, 0) for f = 0.
    """

    ids: NDArray[np.int32]
    scores: NDArray[np.float32]
    local_scale: NDArray[np.float32]
    order: NDArray[np.uint8]


def scaled_lists(scores: NDArray[np.float32], ids: NDArray[np.int32], factor: float) -> ScaledLists:
    """Sort neighbour lists by scaled scores; equal ones keep their order.

    Parameters
    ----------
    scores : ndarray, shape (n, k), float32
        In descending order, padded with -inf.
    ids : ndarray, shape (n, k), int32
        Padded with -1; k is at most 255.
    factor : float in [0, 1)
        f. The lists are not copied if it is 0.

    Returns
    -------
    ScaledLists
    """
    if not factor:
        return ScaledLists(ids, scores, UNSCALED, np.empty((0, 0), np.uint8))
    given = read_only(ids), read_only(scores)
    local_scale = np.empty(len(ids), np.float32)
    loops.local_scales(*given, local_scale)
    sorted_ids, sorted_scores = np.empty_like(ids), np.empty_like(scores)
    order = np.empty(ids.shape, np.uint8)
    loops.scale_lists(*given, local_scale, np.float32(factor), sorted_ids, sorted_scores, order)
    return ScaledLists(sorted_ids, sorted_scores, local_scale, order)


def local_scales_of(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the local scale of each list of scores (m, k), descending and padded with -inf."""
    out = np.empty(len(scores), np.float32)
    ids = np.where(scores[:, :PLACE] > -np.inf, 0, -1)
    loops.local_scales(ids, read_only(np.ascontiguousarray(scores)), out)
    return out


def in_given_order(array: NDArray[Any], order: NDArray[np.uint8]) -> NDArray[Any]:
    """Return values (m, k) of the entries of scaled lists by their places in the given lists."""
    out = array.copy()
    loops.put_back(read_only(array), read_only(order), out)
    return out


def rescaled(
    dirty: NDArray[np.bool_],
    ids: NDArray[np.int32],
    local_scale: NDArray[np.float32],
    before: NDArray[np.float32],
    change: Change,
) -> NDArray[np.bool_]:
    """Mark the scaled lists that are not as before: with another list, or other local scales.

    Parameters
    ----------
    dirty : ndarray, shape (after,), bool
        The items whose given lists have changed.
    ids : ndarray, shape (after, k), int32
    local_scale, before : ndarray, shape (after,) and (before,), float32
        Both (0,) where lists are not scaled.
    change : Change

    Returns
    -------
    ndarray, shape (after,), bool
    """
    if not len(local_scale):
        return dirty
    marked = dirty.copy()
    reads_changed(read_only(ids), ids.shape[1], change.rows_of(before) != local_scale, marked)
    return marked
