"""Re-ranking of SuperGlobal by refined global descriptors.

Shao, Chen, Karpur, Cui, Araujo, Cao. Global Features are All You Need for Image Retrieval and
Reranking. ICCV 2023. Only the re-ranking is implemented; the pooling is not compared.
"""

from __future__ import annotations

import numpy as np

from .common import Ids, Vectors, listed, nearest, ranking

QUERIES_IN_GRAPH = False


def rank(
    gallery: Vectors, queries: Vectors, *, M: int = 400, K: int = 9, beta: float = 0.15
) -> Ids:
    """Re-rank the first M of each query by descriptors refined among themselves.

    Each of the M descriptors becomes the weighted mean of itself (1) and its K nearest of the M
    (β s). The query's second descriptor is the elementwise maximum of the K + 1 refined ones that
    match it best. Score: the mean of the query's and the second descriptor's inner products with
    the refined ones. The results after the first M keep their places.

    A query is ranked by itself. M, K and β are the paper's.
    """
    ids = ranking(queries @ gallery.T)
    for query, row in zip(queries, ids, strict=True):
        X = gallery[row[:M]]
        similarity = X @ X.T
        weights = beta * similarity
        np.fill_diagonal(weights, 1)
        near = listed(nearest(similarity, K + 1), weights)
        refined = near @ X / near.sum(axis=1)[:, None]
        score = refined @ query
        best = np.argsort(-score, kind="stable")[: K + 1]
        score += refined @ refined[best].max(axis=0)
        row[:M] = row[:M][np.argsort(-score, kind="stable")]
    return ids
