"""Graph convolution within Chebyshev neighbourhoods (Cheb-GR).

Yang, Li, Du, Ye. Cheb-GR: Rethinking K-nearest Neighbor Search in Re-ranking for Person
Re-identification. CVPR 2025. The convolution is that of Zhang, Qian, Wang, Liu, Chen, Wang. Graph
Convolution Based Efficient Re-Ranking for Visual Retrieval. arXiv 2306.08792, 2023.

Written from descriptions of the first paper, without its text and the authors' program. From them
are the cut and the order of the steps. That the weights and their normalisation are those of the
second paper is assumed, and so are the defaults, which are one setting for all collections.
"""

from __future__ import annotations

import numpy as np

from .common import Ids, Vectors, ranking

QUERIES_IN_GRAPH = True

# Settings of which the best is looked for on a whole survey.
GRID = {"lambda_": (1.5, 2.0, 2.5, 3.0), "beta": (0.1, 0.2, 0.4), "rounds": (1, 2)}


def rank(
    gallery: Vectors,
    queries: Vectors,
    *,
    lambda_: float = 2.5,
    beta: float = 0.1,
    rounds: int = 2,
) -> Ids:
    """Rank by features that are averaged over neighbourhoods without a fixed size.

    The neighbours of an item i are those at a distance of at most mean_i - λ std_i, the mean and
    the standard deviation of its distances to all; by Chebyshev's inequality they are at most a
    share of 1/λ². i itself is one. In each round, with S_ij = exp(s_ij / β) for the neighbours j,
    X <- D_r^-1/2 S D_c^-1/2 X, L2-normalised; D_r and D_c hold the sums of rows and of columns.

    Queries and gallery form one graph; several matrices are dense.
    """
    X = np.concatenate([queries, gallery])
    for _ in range(rounds):
        similarity = X @ X.T
        distance = np.sqrt(np.maximum(2 - 2 * similarity, 0))
        cut = distance.mean(axis=1) - lambda_ * distance.std(axis=1)
        near = distance <= cut[:, None]
        np.fill_diagonal(near, True)
        # All weights are divided by the largest possible one, exp(1 / β), which changes nothing.
        weights = np.where(near, np.exp((similarity - 1) / beta), 0)
        X = weights @ (X / np.sqrt(weights.sum(axis=0))[:, None])
        X /= np.linalg.norm(X, axis=1, keepdims=True)
    return ranking(X[: len(queries)] @ X[len(queries) :].T)
