"""Functions that the rivals share: neighbour lists, sparse rows and rankings."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Vectors = NDArray[np.float32]
Ids = NDArray[np.int64]


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


def normalized_rows(matrix: sparse.csr_array) -> sparse.csr_array:
    """Return a non-negative matrix with its rows divided by their sums; empty rows stay empty."""
    sums = matrix.sum(axis=1)
    scale = np.divide(1, sums, out=np.zeros_like(sums), where=sums > 0)
    return sparse.csr_array(sparse.diags_array(scale) @ matrix)


def symmetrically_normalized(matrix: sparse.csr_array) -> sparse.csr_array:
    """Return D^-1/2 W D^-1/2, where D holds the row sums, all positive."""
    scale = sparse.diags_array(matrix.sum(axis=1) ** -0.5)
    return sparse.csr_array(scale @ matrix @ scale)
