"""Evaluation of descriptors by leave-one-out search for images with the same label."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffusion import metrics
from diffusion.baselines import expansion
from diffusion.errors import DiffusionError

# Values per block of queries, which bounds the memory of their rankings.
_VALUES = 1 << 22


def leave_one_out(X: ArrayLike, labels: ArrayLike) -> NDArray[np.float64]:
    """Search all descriptors for each of them by cosine similarity, leaving out the query.

    Parameters
    ----------
    X : array_like, shape (n, d)
    labels : array_like, shape (n,)
        Results with the label of the query are relevant.

    Returns
    -------
    ndarray, shape (n,), float64
        Average precision of each query, NaN if no other descriptor has its label.

    Raises
    ------
    DiffusionError
        If the shapes do not match.
    """
    X, labels = expansion.normalize(X), np.asarray(labels)
    if labels.shape != X.shape[:1]:
        raise DiffusionError(f"labels: expected shape ({len(X)},), got {labels.shape}")
    precision = np.empty(len(X))
    rows = max(1, _VALUES // len(X))
    for start in range(0, len(X), rows):
        part = slice(start, min(len(X), start + rows))
        ids = expansion.search(X[part], X, len(X))[1]
        numbers = np.arange(part.start, part.stop)
        others = ids[ids != numbers[:, None]].reshape(len(numbers), -1)
        hits = labels[others] == labels[part, None]
        precision[part] = metrics.average_precision(hits, hits.sum(axis=1))
    return precision
