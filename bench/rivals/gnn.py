"""Re-ranking as a graph neural network without weights to learn.

Zhang, Jiang, Zheng, Tan, Ding, Yang. Understanding Image Retrieval Re-Ranking: A Graph Neural
Network Perspective. arXiv 2012.07620, 2020.
"""

from __future__ import annotations

import numpy as np

from .common import Ids, Vectors, listed, nearest, ranking

QUERIES_IN_GRAPH = True


def rank(
    gallery: Vectors, queries: Vectors, *, k1: int = 26, k2: int = 7, alpha: float = 2.0
) -> Ids:
    """Rank by the cosine of neighbourhood features after two steps of message propagation.

    h_i is 1 for the k1 nearest of i, itself included; then twice: H <- H + Hᵀ,
    h_i <- Σ_j s_ij^α h_j over the k2 nearest of i, itself included, L2-normalised.

    Queries and gallery form one graph; H is dense. The defaults are those of the authors' program.
    """
    vectors = np.concatenate([queries, gallery])
    similarity = vectors @ vectors.T
    ids = nearest(similarity, k1)
    H = listed(ids, np.ones_like(similarity)).toarray()
    messages = listed(ids[:, :k2], similarity**alpha)
    for _ in range(2):
        H = messages @ (H + H.T)
        H /= np.linalg.norm(H, axis=1, keepdims=True)
    return ranking(H[: len(queries)] @ H[len(queries) :].T)
