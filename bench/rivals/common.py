"""Functions that the rivals share: neighbour lists, sparse rows and rankings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import dijkstra

Vectors = NDArray[np.float32]
Ids = NDArray[np.int64]
Matrix = NDArray[np.float64]

# The length assigned to items without a path between them.
_FAR = 50.0


def ranking(scores: NDArray[Any]) -> Ids:
    """Return the ids of each row by descending score, and by ascending id for equal scores."""
    return np.argsort(-scores, axis=1, kind="stable")


def nearest(similarity: NDArray[Any], k: int) -> Ids:
    """Return the k nearest of each row of a square similarity matrix, the item itself first.

    Equal similarities are ordered by ascending id; which of them are last in a list is undefined.
    """
    own = -similarity
    np.fill_diagonal(own, -np.inf)
    ids = np.sort(np.argpartition(own, min(k, len(own)) - 1, axis=1)[:, :k], axis=1)
    order = np.argsort(np.take_along_axis(own, ids, axis=1), axis=1, kind="stable")
    return np.take_along_axis(ids, order, axis=1)


def listed(ids: Ids, values: NDArray[Any]) -> sparse.csr_array:
    """Return an (N, N) matrix with values[i, j] at the listed ids (N, k), and 0 elsewhere.

    `values` is square.
    """
    n, k = ids.shape
    entries = np.take_along_axis(values, ids, axis=1).ravel()
    return sparse.csr_array((entries, ids.ravel(), np.arange(n + 1) * k), shape=(n, n))


def mutual(ids: Ids) -> sparse.csr_array:
    """Return 1 for the pairs that are in each other's lists, and 0 elsewhere."""
    directed = listed(ids, np.ones((len(ids), len(ids))))
    return sparse.csr_array(directed * directed.T)


def normalized_rows(matrix: sparse.csr_array) -> sparse.csr_array:
    """Return a non-negative matrix with its rows divided by their sums; empty rows stay empty."""
    sums = matrix.sum(axis=1)
    scale = np.divide(1, sums, out=np.zeros_like(sums), where=sums > 0)
    return sparse.csr_array(sparse.diags_array(scale) @ matrix)


def symmetrically_normalized(matrix: sparse.csr_array) -> sparse.csr_array:
    """Return D^-1/2 W D^-1/2, where D holds the row sums, all positive."""
    scale = sparse.diags_array(matrix.sum(axis=1) ** -0.5)
    return sparse.csr_array(scale @ matrix @ scale)


def kernel(gallery: Vectors, queries: Vectors, sigma: float) -> tuple[Matrix, Matrix, Matrix]:
    """Return similarities s, distances d and weights exp(-d/σ²) of queries and gallery together.

    d_ij is the squared Euclidean distance divided by the largest in its row.
    """
    vectors = np.concatenate([queries, gallery]).astype(np.float64)
    similarity = vectors @ vectors.T
    distance = np.maximum(2 - 2 * similarity, 0)
    distance /= distance.max(axis=1, keepdims=True)
    return similarity, distance, np.exp(-distance / sigma**2)


def bidirectional(S: sparse.csr_array, F: Matrix, alpha: float, iterations: int) -> Matrix:
    """Iterate F <- α/2 (F S + S F) + (1-α) I for symmetric S and F."""
    for _ in range(iterations):
        F = S @ F
        F = alpha / 2 * (F + F.T)
        F[np.diag_indices_from(F)] += 1 - alpha
    return F


def shortest_paths(
    V: Matrix, ids: Ids, length: Callable[[Matrix, Matrix], Matrix], count: int
) -> Matrix:
    """Return the lengths of the shortest paths from the first `count` items to all, at most 50.

    A step leads from an item to a listed one, or back; its length is that between their rows of V,
    `length(V[i], V[ids[i]])`.
    """
    values = np.array([length(V[i], V[row]) for i, row in enumerate(ids)])
    indptr = np.arange(len(ids) + 1) * ids.shape[1]
    steps = sparse.csr_array((values.ravel(), ids.ravel(), indptr), shape=(len(ids), len(ids)))
    # Undirected: there is a step in both directions if either item lists the other.
    return np.minimum(dijkstra(steps, directed=False, indices=np.arange(count)), _FAR)
