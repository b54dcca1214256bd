"""Ranking: merging diffused scores and first-stage candidates into one list per query."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..errors import DiffusionError
from ..kernels import ranking as kernels
from ..kernels.matrix import SparseRows
from ..kernels.ranking import FirstStage

_LOWEST = np.finfo(np.float32).min


def no_results(single: bool, k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the results of a query without regions, of shape (k,), or of no query, (0, k)."""
    shape = (k,) if single else (0, k)
    return np.full(shape, -np.inf, np.float32), np.full(shape, -1, np.int64)


def rank(
    x: NDArray[np.float32] | SparseRows,
    scores: NDArray[np.float32],
    ids: NDArray[np.int64],
    out_scores: NDArray[np.float32],
    out_ids: NDArray[np.int64],
    *,
    restrict: bool,
) -> None:
    """Rank items by their diffused score, then the candidates not reached by diffusion.

    Parameters
    ----------
    x : ndarray, shape (m, n), float32, or SparseRows
        Diffused or fused scores. Items with a score of 0 or less are not reached.
    scores : ndarray, shape (m, c), float32
        First-stage scores of the candidates, best first.
    ids : ndarray, shape (m, c), int64
        Ids of the candidates, with padding (-1) last.
    out_scores : ndarray, shape (m, k), float32
        Receives the scores, padded with -inf. A candidate that is not reached gets the difference
        of its first-stage score and the best one of the query, which is 0 or negative.
    out_ids : ndarray, shape (m, k), int64
        Receives the ids, padded with -1.
    restrict : bool
        Rank the candidates alone.

    Raises
    ------
    DiffusionError
        If a score is not finite: a solver has diverged, as it may with weights of a forged index
        that are in range but not those of a normalised graph.
    """
    first = FirstStage(scores, ids)
    if restrict:
        _rank_candidates(x, first, out_scores, out_ids)
    else:
        if isinstance(x, np.ndarray):
            kernels.largest_positive(x, out_scores, out_ids)
        else:
            kernels.largest_positive_sparse(x, out_scores, out_ids)
        kernels.append_unreached(first, out_scores, out_ids)
    if not (out_scores < np.inf).all():
        raise DiffusionError(
            "graph: altered, the diffused scores are not finite; expected the weights of a "
            "normalised graph"
        )


def _rank_candidates(
    x: NDArray[np.float32] | SparseRows,
    first: FirstStage,
    out_scores: NDArray[np.float32],
    out_ids: NDArray[np.int64],
) -> None:
    """Rank the candidates alone; equal scores keep their first-stage order."""
    scores, ids = first
    real = ids >= 0
    if isinstance(x, np.ndarray):
        merged = np.where(real, np.take_along_axis(x, np.where(real, ids, 0), axis=1), 0)
    else:
        merged = np.empty(ids.shape, np.float32)
        kernels.entries(x, ids, merged)
    best = np.where(real[:, :1], scores[:, :1], 0)
    with np.errstate(over="ignore"):  # -inf is padding, the lowest score is finite
        behind = np.where(real, np.maximum(scores - best, _LOWEST), np.float32(-np.inf))
    merged = np.where(merged > 0, merged, behind)
    width = min(ids.shape[1], out_ids.shape[1])
    order = np.argsort(-merged, axis=1, kind="stable")[:, :width]
    out_scores[:] = -np.inf
    out_ids[:] = -1
    out_scores[:, :width] = np.take_along_axis(merged, order, axis=1)
    out_ids[:, :width] = np.take_along_axis(ids, order, axis=1)
