"""Ranking: diffused scores and first-stage candidates merged into one list a query."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ..kernels.ranking import entries_sparse, largest_positive, largest_positive_sparse


def padding_last(
    scores: NDArray[np.float32], ids: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Move -1 ids behind the others, with score -inf; the order is kept otherwise."""
    padded = ids < 0
    if padded.any():
        order = np.argsort(padded, axis=1, kind="stable")
        scores = np.take_along_axis(np.where(padded, np.float32(-np.inf), scores), order, axis=1)
        ids = np.take_along_axis(ids, order, axis=1)
    return scores, ids


def rank(
    x: NDArray[np.float32] | sparse.csr_array,
    scores: NDArray[np.float32],
    ids: NDArray[np.int64],
    out_scores: NDArray[np.float32],
    out_ids: NDArray[np.int64],
    *,
    restrict: bool,
) -> None:
    """Rank by diffused score x (m, n), then by first-stage score what diffusion did not reach.

    The candidates `scores`, `ids` (m, c) come best first, padding last.
    """
    real = ids >= 0
    if isinstance(x, np.ndarray):
        diffused = np.where(real, np.take_along_axis(x, np.where(real, ids, 0), axis=1), 0)
    else:
        diffused = np.empty(ids.shape, np.float32)
        entries_sparse(x.indptr, x.indices, x.data, ids, diffused)
    reached = diffused > 0
    best = np.where(real[:, :1], scores[:, :1], 0)
    behind = np.where(real, scores - best, np.float32(-np.inf))
    if restrict:
        merged = np.where(reached, diffused, behind)
        width = min(ids.shape[1], out_ids.shape[1])
        order = np.argsort(-merged, axis=1, kind="stable")[:, :width]
        out_scores[:] = -np.inf
        out_ids[:] = -1
        out_scores[:, :width] = np.take_along_axis(merged, order, axis=1)
        out_ids[:, :width] = np.take_along_axis(ids, order, axis=1)
        return
    if isinstance(x, np.ndarray):
        largest_positive(x, out_scores, out_ids)
    else:
        largest_positive_sparse(x.indptr, x.indices, x.data, out_scores, out_ids)
    for row in np.flatnonzero(out_ids[:, -1] < 0):
        rest = np.flatnonzero(real[row] & ~reached[row])
        filled = int(np.count_nonzero(out_ids[row] >= 0))
        rest = rest[: out_ids.shape[1] - filled]
        out_scores[row, filled : filled + len(rest)] = behind[row, rest]
        out_ids[row, filled : filled + len(rest)] = ids[row, rest]
