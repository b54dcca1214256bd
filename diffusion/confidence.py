"""Confidence: how likely re-ranking is to lose against the first stage, and what to do about it.

A query loses if its average precision is more than one point, of 100, below that of the first
stage. Whether it does is a matter of the labels; without them, only a probability can be given, and
the signs that are known of one query tell little: over the collections of the survey, nearly all
predicted risks are between 0.1 and 0.2. The probabilities are right on average. A cautious ranking
can therefore exchange losses for gains, and cannot avoid losses alone (`python -m bench confidence`
prints the figures).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .affinity import Observation
from .kernels import confidence as kernels
from .kernels.matrix import SparseRows
from .kernels.ranking import FirstStage

# Candidates whose agreement counts, and the place of J whose ratio to the largest is the breadth.
_NEAREST, _PLACE = 6, 24

# The logistic model of the confidence: a constant, and the weights of agreement and breadth.
# Fitted to the survey's collections, each with the same weight (`python -m bench confidence`).
_MODEL = (1.56, 0.86, -0.44)

# How fast the share of the evidence other than the first stage falls, and the risk where it begins:
# over the survey, half of the queries that lose no longer do, at a quarter of the gain.
_STEEP, _RISK = 20.0, 0.05
# Smaller shares are none: the ranking is that of the evidence e of the first stage.
_LEAST_SHARE = 1 / 64


def signs_of(
    observation: Observation,
    scores: NDArray[np.float32],
    ids: NDArray[np.int64],
    n: int,
    itself: NDArray[np.int64] | None = None,
) -> NDArray[np.float64] | None:
    """Return what the confidence is computed from; None for affinities without J.

    Parameters
    ----------
    observation : Observation
        Observations of m queries.
    scores, ids : ndarray, shape (m, c)
        The first stage, best first, padded with -1. Ids of `n` and more are unknown items.
    n : int
        Number of nodes.
    itself : ndarray, shape (m,), int64, optional
        The nodes of queries that are in the collection.

    Returns
    -------
    ndarray, shape (m, 2), float64
        Agreement: the mean J of the six nearest items. Breadth: the 24th largest J divided by the
        largest. Both are in [0, 1], and depend neither on the scale of the scores nor on how x is
        computed.
    """
    J = observation.J
    if J is None:
        return None
    out = np.empty((len(ids), 2))
    own = np.full(len(ids), -1) if itself is None else itself
    places = np.array([_NEAREST, min(_PLACE, n), n])
    kernels.signs(J, FirstStage(scores, ids), own, places, out)
    return out


def confidence_of(signs: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the estimated probability that re-ranking does not lose, shape (m,).

    A query loses if its average precision is more than one point, of 100, below that of the first
    stage. The model is logistic in the signs.
    """
    constant, agreement, breadth = _MODEL
    logit = constant + agreement * signs[:, 0] + breadth * signs[:, 1]
    return (1 / (1 + np.exp(-logit))).astype(np.float32)


def shares_of(confidence: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the share s of the fused score in a cautious ranking.

    It is 1 up to a risk, 1 - confidence, of 0.05, and halves with each further 0.05; less than
    1 / 64 becomes 0.
    """
    shares = np.minimum(1, np.exp2(-_STEEP * (1 - confidence - _RISK)))
    return np.where(shares < _LEAST_SHARE, 0, shares).astype(np.float32)


def tempered(
    fused: NDArray[np.float32] | SparseRows,
    confidence: NDArray[np.float32],
    scores: NDArray[np.float32],
    ids: NDArray[np.int64],
    evidence: NDArray[np.float32],
) -> NDArray[np.float32] | SparseRows:
    """Return cautious scores s f + (1 - s) e, which replace the fused scores f in their array.

    Parameters
    ----------
    fused : ndarray, shape (m, n), float32, or SparseRows
    confidence : ndarray, shape (m,), float32
    scores, ids : ndarray, shape (m, c)
        The first stage.
    evidence : ndarray, shape (m, c), float32
        The part of the fused score that the first stage gives.
    """
    first, shares = FirstStage(scores, ids), shares_of(confidence)
    if isinstance(fused, np.ndarray):
        kernels.temper(fused, first, evidence, shares)
    else:
        kernels.temper_sparse(fused, first, evidence, shares)
    return fused


def relevant_of(
    fused: NDArray[np.float32] | SparseRows,
    n: int,
    allowed: NDArray[np.uint8],
    starts: NDArray[np.int64],
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return where the scores of each query's own manifold end, and how many items they belong to.

    Otsu's method divides the power 1.5 of the scores of all nodes into two classes, so that the
    variance between them is largest. Neither scale nor tail of the scores matters much.

    Parameters
    ----------
    fused : ndarray, shape (m, n), float32, or SparseRows
    n : int
        Number of nodes.
    allowed : ndarray, shape (n + u,) or (0,), uint8
        The nodes that may be in the results.
    starts : ndarray, shape (n + 1,) or (0,), int64
        Differences are the numbers of items of each node; empty if each has one.

    Returns
    -------
    least : ndarray, shape (m,), float32
        The least score of a node in the upper class, infinity if no score is positive.
    items : ndarray, shape (m,), int64
        Number of items of the nodes that have at least this score and are allowed.
    """
    m = len(fused) if isinstance(fused, np.ndarray) else len(fused.counts)
    least, items = np.empty(m, np.float32), np.empty(m, np.int64)
    loop = kernels.extents if isinstance(fused, np.ndarray) else kernels.extents_sparse
    loop(fused, n, allowed, starts, least, items)
    return least, items
