"""Cluster-aware similarity diffusion (CAS).

Luo, Yao, Xu. Cluster-Aware Similarity Diffusion for Instance Retrieval. ICML 2024. The order of
the steps, the Markov expansion, the paths and the settings are those of the authors' program.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.special import rel_entr

from .common import (
    Ids,
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


def rank(
    gallery: Vectors,
    queries: Vectors,
    *,
    k1: int = 6,
    k2: int = 60,
    k3: int = 70,
    k4: int = 7,
    k5: int = 80,
    links: int = 100,
    sigma: float = 0.3,
    mu: float = 0.23,
    boost: float = 2.0,
    lambda_: float = 0.3,
) -> Ids:
    """Rank by similarities diffused within clusters, smoothed, and compared as distributions.

    d_ij is the squared Euclidean distance divided by the largest in its row, w = exp(-d/σ²), and
    an item is its own first neighbour.

    1. Clusters: the confident items C(i) are the mutual k1 nearest; the candidates E(i) are the
       mutual k2 + 1 nearest, expanded as in k-reciprocal re-ranking.
    2. Bidirectional diffusion: F <- α/2 (F S + S F) + (1-α) I, ten times, α = 1 / (1 + μ), S the
       normalised symmetric w of the k1 nearest, confident ones weighted by `boost`.
    3. Neighbour-guided smoothing of F over E(i): f_j = r_j F_ij + mean of (1 - r_l) F_il over E(i),
       with r_j = 1 in C(i). Elsewhere r_j is the probability that two steps among k3 neighbours
       lead from j to an item of C(i), over the probability that two steps from that item return to
       it, both averaged over C(i); r_j is at most 1.
    4. Markov expansion: rows are averaged over the k4 nearest and, with weight `boost`, over C(i);
       squared; cut to k5 entries; and squared again.
    5. Distance: (1-λ) times the shortest path plus λ d. A step of a path leads to one of the
       `links` nearest; its length is the Jensen-Shannon divergence of the two rows.

    Queries and gallery form one graph; several matrices are dense.
    """
    nq = len(queries)
    similarity, distance, weights = kernel(gallery, queries, sigma)
    ids = nearest(similarity, max(k1, k2 + 1, k3, k4, links))

    confident = mutual(ids[:, :k1])
    candidates = _expanded(mutual(ids[:, : k2 + 1]), mutual(ids[:, : k2 // 2 + 1]))
    W = listed(ids[:, 1:k1], weights)
    F = _diffuse(W + (boost - 1) * (W * confident), mu)
    P = normalized_rows(listed(ids[:, 1:k3], weights))
    V = normalized_rows(_smooth(candidates, F, confident, sparse.csr_array(P @ P)))

    near = listed(ids[:, :k4], np.full_like(weights, 1 / k4))
    V = normalized_rows(near @ V + boost * (normalized_rows(confident) @ V))
    V = normalized_rows(_largest(V @ V, k5))
    V = normalized_rows(V @ V)

    paths = shortest_paths(V.toarray(), ids[:, :links], _divergence, nq)
    return ranking((lambda_ - 1) * paths[:, nq:] - lambda_ * distance[:nq, nq:])


def _expanded(mutual: sparse.csr_array, half: sparse.csr_array) -> sparse.csr_array:
    """Add the half set of each member if more than two thirds of it are members already."""
    shared = sparse.coo_array((mutual @ half) * mutual)
    enough = 3 * shared.data > 2 * half.sum(axis=1)[shared.col]
    chosen = sparse.csr_array(
        (np.ones(enough.sum()), (shared.row[enough], shared.col[enough])), shape=shared.shape
    )
    return sparse.csr_array((mutual + chosen @ half).sign())


def _diffuse(W: sparse.csr_array, mu: float) -> NDArray[np.float64]:
    W = (W + W.T) / 2
    return bidirectional(symmetrically_normalized(W), W.toarray(), 1 / (1 + mu), 10)


def _smooth(
    candidates: sparse.csr_array,
    F: NDArray[np.float64],
    confident: sparse.csr_array,
    two_steps: sparse.csr_array,
) -> sparse.csr_array:
    """Apply step 3; rows with at most one item in C(i), or at most one outside it, keep F."""
    C = normalized_rows(confident)
    into, back = (C @ two_steps.T).toarray(), C @ two_steps.diagonal()
    size = np.diff(candidates.indptr)
    row, column = np.repeat(np.arange(len(F)), size), candidates.indices
    sure = confident.sum(axis=1)
    whole = (sure <= 1) | (size - sure <= 1)
    r = np.minimum(into[row, column] / np.where(whole, 1, back)[row], 1)
    r[whole[row] | (confident.toarray()[row, column] > 0)] = 1
    values = F[row, column]
    rest = np.bincount(row, (1 - r) * values, minlength=len(F)) / size
    smoothed = r * values + rest[row]
    return sparse.csr_array((smoothed, column, candidates.indptr), shape=candidates.shape)


def _largest(matrix: sparse.csr_array, k: int) -> sparse.csr_array:
    dense = matrix.toarray()
    return listed(ranking(dense)[:, :k], dense)


def _divergence(p: NDArray[Any], q: NDArray[Any]) -> NDArray[np.float64]:
    """Return the Jensen-Shannon divergences, in bits, of p from the rows of q.

    JS = 1 - ½ Σ [p log2((p+q)/p) + q log2((p+q)/q)] over the entries that both have.
    """
    own = np.flatnonzero(p)
    p, q = p[own], q[:, own]
    both = (rel_entr(p, p + q) + rel_entr(q, p + q)).sum(axis=1)
    return np.maximum(1 + both / (2 * np.log(2)), 0)
