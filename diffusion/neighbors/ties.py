"""First-stage lists that do not depend on which of several tied items the engine returned."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .index import NeighborIndex

# The longest list that is searched for the items that tie for the last place of an observation.
_WIDEST_TIE = 4096


def best_of(
    index: NeighborIndex,
    queries: NDArray[np.float32],
    scores: NDArray[np.float32],
    ids: NDArray[Any],
    depth: int,
) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Return the `depth` best items of each query, the same whatever the length of its list.

    Of several items that tie for the last place, those with the lowest ids are taken. Which of
    them a list contains is the engine's choice, so the list is widened until it contains all of
    them, up to a limit.

    Parameters
    ----------
    index : NeighborIndex
    queries : ndarray, shape (nq, d), float32
    scores, ids : ndarray, shape (nq, c)
        What `index.search` found. Where c <= `depth`, they are returned as they are; otherwise
        at least one item more than `depth` shows whether there is a tie.
    depth : int

    Returns
    -------
    scores, ids : ndarray, shape (nq, min(c, depth))
    """
    width = scores.shape[1]
    if width <= depth:
        return scores, ids
    best_scores, best_ids = scores[:, :depth].copy(), ids[:, :depth].copy()
    rows = np.flatnonzero((ids[:, -1] >= 0) & (scores[:, depth - 1] == scores[:, -1]))
    while len(rows) and width < min(_WIDEST_TIE, index.size):
        width = min(2 * width, index.size)
        scores, ids = index.search(queries[rows], width)
        best_scores[rows], best_ids[rows] = scores[:, :depth], ids[:, :depth]
        rows = rows[(ids[:, -1] >= 0) & (scores[:, depth - 1] == scores[:, -1])]
    return best_scores, best_ids
