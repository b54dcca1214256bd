"""Ranking: merging diffused scores and first-stage candidates into one list per query."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import DiffusionError
from ..kernels import ranking as kernels
from ..kernels.matrix import SparseRows
from ..kernels.ranking import EVERYTHING, FirstStage

_LOWEST = np.finfo(np.float32).min


class Unknown(NamedTuple):
    """Candidates that the graph does not know: those with ids of n and more.

    Attributes
    ----------
    n : int
    evidence : ndarray, shape (m, c), float32
        The score that each candidate has by the first stage alone, 0 for none.
    """

    n: int
    evidence: NDArray[np.float32]


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
    allowed: NDArray[np.uint8] = EVERYTHING,
    unknown: Unknown | None = None,
) -> None:
    """Rank items by their diffused score, then the candidates not reached by diffusion.

    Candidates that the graph does not know are ranked by their own evidence, or with those that are
    not reached. If the list would be cut before one that is among the k best candidates, it takes
    one of the last places.

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
    allowed : ndarray, shape (n + u,) or (0,), uint8
        Not 0 for the items that may be in the lists; (0,) stands for all.
    unknown : Unknown, optional
        If there are candidates that the graph does not know.

    Raises
    ------
    DiffusionError
        If a score is not finite: a solver has diverged, as it may with weights of a forged index
        that are in range but not those of a normalised graph.
    """
    first = FirstStage(scores, ids)
    if restrict:
        _rank_candidates(x, first, allowed, unknown, out_scores, out_ids)
    else:
        if isinstance(x, np.ndarray):
            kernels.largest_positive(x, allowed, out_scores, out_ids)
        else:
            kernels.largest_positive_sparse(x, allowed, out_scores, out_ids)
        if unknown is not None:
            kernels.insert_unknown(first, *unknown, allowed, out_scores, out_ids)
        # Contiguous for any number of queries, so that one loop is compiled for all.
        best = scores[:, 0].copy() if scores.shape[1] else np.zeros(len(scores), np.float32)
        kernels.append_unreached(first, best, allowed, out_scores, out_ids)
    if unknown is not None:
        kernels.keep_unknown(first, *unknown, allowed, out_scores, out_ids)
    if not (out_scores < np.inf).all():
        raise DiffusionError(
            "graph: altered, the diffused scores are not finite; expected the weights of a "
            "normalised graph"
        )


def fill(
    scores: NDArray[np.float32],
    ids: NDArray[np.int64],
    best: NDArray[np.float32],
    out_scores: NDArray[np.float32],
    out_ids: NDArray[np.int64],
) -> None:
    """Replace what diffusion did not reach in ranked lists by other results of the first stage.

    Parameters
    ----------
    scores, ids : ndarray, shape (m, c)
        These results, as `rank` takes them.
    best : ndarray, shape (m,), float32
        The best first-stage score of each query.
    out_scores, out_ids : ndarray, shape (m, k)
        What `rank` has written.
    """
    unreached = ~(out_scores > 0)
    out_scores[unreached], out_ids[unreached] = -np.inf, -1
    kernels.append_unreached(FirstStage(scores, ids), best, EVERYTHING, out_scores, out_ids)


def entries(x: NDArray[np.float32] | SparseRows, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the scores x of some items (m, c) of each row, 0 for padding and unknown ones."""
    if isinstance(x, np.ndarray):
        known = (ids >= 0) & (ids < x.shape[1])
        return np.where(known, np.take_along_axis(x, np.where(known, ids, 0), axis=1), 0)
    out = np.empty(ids.shape, np.float32)
    kernels.entries(x, ids, out)
    return out


def _rank_candidates(
    x: NDArray[np.float32] | SparseRows,
    first: FirstStage,
    allowed: NDArray[np.uint8],
    unknown: Unknown | None,
    out_scores: NDArray[np.float32],
    out_ids: NDArray[np.int64],
) -> None:
    """Rank the candidates alone; equal scores keep their first-stage order."""
    scores, ids = first
    best = np.where(ids[:, :1] >= 0, scores[:, :1], 0)
    real = ids >= 0
    if len(allowed):
        real &= allowed[ids] != 0
        ids = np.where(real, ids, -1)
    merged = entries(x, ids)
    if unknown is not None:
        merged = np.where(real & (ids >= unknown.n), unknown.evidence, merged)
    with np.errstate(over="ignore"):  # -inf is padding, the lowest score is finite
        behind = np.where(real, np.maximum(scores - best, _LOWEST), np.float32(-np.inf))
    merged = np.where(real & (merged > 0), merged, behind)
    width = min(ids.shape[1], out_ids.shape[1])
    order = np.argsort(-merged, axis=1, kind="stable")[:, :width]
    out_scores[:] = -np.inf
    out_ids[:] = -1
    out_scores[:, :width] = np.take_along_axis(merged, order, axis=1)
    out_ids[:, :width] = np.take_along_axis(ids, order, axis=1)
