"""Confidence: how likely re-ranking is to lose against the first stage, and what to do about it."""

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
_MODEL = (0.47, 4.6, 1.6)

# How fast the share of the evidence other than the first stage falls, and the risk where it begins.
_STEEP, _RISK = 20.0, 0.1


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
    """Return the share of the evidence that a cautious ranking uses besides the first stage."""
    risk = 1 - confidence
    return np.minimum(1, np.exp2(-_STEEP * (risk - _RISK))).astype(np.float32)


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
