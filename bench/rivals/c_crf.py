"""Denoising of neighbour lists by a continuous conditional random field (C-CRF), then diffusion.

Kim, Cho, Kim, Yoon. Enhancing Visual Re-ranking through Denoising Nearest Neighbor Graph via
Continuous CRF. ICIP 2025, arXiv 2412.13875.

Written from the abstract and a summary of the paper. From them are the field on the clique of an
item's neighbours, its two potentials and that it is solved offline. Not known to us are the
statistical distance, for which Hellinger's is used, the scale of the weights and the settings; the
defaults are assumed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

import diffusion

from .common import Ids, Vectors, nearest

QUERIES_IN_GRAPH = False

# Settings of which the best is looked for on a whole survey.
GRID = {"beta": (0.01, 0.03, 0.1, 0.3, 1.0)}

# Number of items whose cliques are in memory at a time.
_BLOCK = 100


def rank(
    gallery: Vectors,
    queries: Vectors,
    *,
    beta: float = 0.1,
    clique: int = 100,
    k: int = 50,
) -> Ids:
    """Rank by diffusion (α = 0.99, γ = 3) in a graph of denoised lists.

    The clique of an item i is its nearest items, itself included. Their similarities s_j to i are
    replaced by those ŝ that minimise Σ_j (ŝ_j - s_j)² + β/2 Σ_jl w_jl (ŝ_j - ŝ_l)², that is by
    ŝ = (I + β L)^-1 s, where L is the Laplacian of w. The weights are w_jl = exp(-h_jl² / mean h²)
    with Hellinger's distance h_jl of the distributions p_j and p_l, and p_jm is the similarity of
    j to the member m of the clique, divided by the sum over m. The k items of the clique that are
    the most similar to i after that, without i, are its neighbours in the graph.

    A query is ranked by itself.
    """
    scores, ids = denoised(gallery, clique, beta)
    ranker = diffusion.Reranker(affinity="cosine", k=k, alpha=0.99, gamma=3.0, query_k=10)
    ranker.fit_neighbors(scores[:, :k], ids[:, :k])
    n = len(gallery)
    similarity = queries @ gallery.T
    first = np.argsort(-similarity, axis=1, kind="stable")
    return ranker.rerank(np.take_along_axis(similarity, first, axis=1), first, k=n)[1]


def denoised(X: Vectors, clique: int, beta: float) -> tuple[NDArray[Any], Ids]:
    """Return the denoised similarities in the clique of each item, without it, best first."""
    similarity = np.maximum(X @ X.T, 0).astype(np.float64)
    members = nearest(similarity, clique)
    scores = np.empty((len(X), members.shape[1] - 1))
    ids = np.empty(scores.shape, np.int64)
    for start in range(0, len(X), _BLOCK):
        rows = members[start : start + _BLOCK]
        values = _solved(similarity[rows[:, :, None], rows[:, None, :]], beta)[:, 1:]
        order = np.argsort(-values, axis=1, kind="stable")
        scores[start : start + _BLOCK] = np.take_along_axis(values, order, axis=1)
        ids[start : start + _BLOCK] = np.take_along_axis(rows[:, 1:], order, axis=1)
    return scores, ids


def _solved(similarity: NDArray[np.float64], beta: float) -> NDArray[np.float64]:
    """Return ŝ of the first item of each clique, given the similarities (m, c, c) within them."""
    roots = np.sqrt(similarity / similarity.sum(axis=2, keepdims=True))
    squared = np.maximum(1 - roots @ roots.transpose(0, 2, 1), 0)
    mean = squared.mean(axis=(1, 2), keepdims=True)
    weights = np.exp(-squared / np.where(mean > 0, mean, 1))
    laplacian = -weights
    diagonal = np.arange(similarity.shape[1])
    laplacian[:, diagonal, diagonal] += weights.sum(axis=2)
    system = np.eye(len(diagonal)) + beta * laplacian
    return np.linalg.solve(system, similarity[:, 0, :, None])[:, :, 0]
