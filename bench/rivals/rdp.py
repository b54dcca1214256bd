"""Regularised diffusion on the tensor product graph (RDP).

Bai, Bai, Tian, Latecki. Regularized Diffusion Process for Visual Retrieval. AAAI 2017.
Bai, Bai, Tian, Latecki. Regularized Diffusion Process on Bidirectional Context for Object
Retrieval. TPAMI 2019.
"""

from __future__ import annotations

import numpy as np

from .common import Ids, Vectors, listed, nearest, ranking, symmetrically_normalized

QUERIES_IN_GRAPH = True


def rank(
    gallery: Vectors,
    queries: Vectors,
    *,
    k: int = 30,
    sigma: float = 0.5,
    mu: float = 0.3,
    iterations: int = 20,
) -> Ids:
    """Rank by similarities A that are diffused over pairs of items at once.

    A <- α S A Sᵀ + (1-α) I with α = 1 / (1 + μ), S = D^-1/2 W D^-1/2 and W the symmetrised
    exp(-d²/σ²) of the k nearest, each item its own first; d is the squared Euclidean distance
    divided by the largest one.

    Queries and gallery form one graph; A is dense. The defaults are those with which the authors
    of CAS compare.
    """
    vectors = np.concatenate([queries, gallery])
    similarity = vectors @ vectors.T
    distance = np.maximum(2 - 2 * similarity, 0)
    weights = np.exp(-((distance / distance.max() / sigma) ** 2))
    W = listed(nearest(similarity, k), weights)
    S = symmetrically_normalized((W + W.T) / 2)
    alpha = 1 / (1 + mu)
    A = np.eye(len(vectors), dtype=np.float32)
    for _ in range(iterations):
        A = alpha * (S @ (S @ A).T)  # A stays symmetric
        A[np.diag_indices_from(A)] += 1 - alpha
    return ranking(A[: len(queries), len(queries) :])
