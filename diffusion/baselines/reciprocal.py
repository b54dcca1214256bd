"""Sparse k-reciprocal re-ranking, a baseline that encodes queries together with the items.

>>> import numpy as np
>>> from diffusion import reciprocal
>>> X = np.random.default_rng(0).standard_normal((50, 8))
>>> scores, ids = reciprocal.search(X[:2] + 0.1, X, 10)
>>> ids.shape
(2, 10)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from ..kernels.lists import Lists, Rows
from ..kernels.ranking import EVERYTHING, largest_positive
from ..kernels.reciprocal import expanded_rows, expanded_sizes, mutual_ranks, shared_weight
from ..neighbors import Method, NeighborIndex, check_metric, make_method
from ..validation import as_vectors, check_integer, check_real

# Number of scores computed at a time: 16 MiB of float32.
_BLOCK_VALUES = 1 << 22

# Replaces a score of 0 where scores must be positive.
_ZERO = np.finfo(np.float32).tiny


def search(
    Q: ArrayLike,
    X: ArrayLike,
    k: int,
    *,
    k1: int = 20,
    k2: int = 6,
    lambda_: float = 0.3,
    method: str | Method = "exact",
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Search a collection and re-rank by the Jaccard distance of k-reciprocal neighbours.

    Queries and items are encoded together, so that the ranking of a query depends on the other
    queries of the call. Let R(i, k) be the items that are mutually among the k nearest neighbours
    of i, including i itself. Then

    - R*(i) is the union of R(i, k1) and of every R(g, k1/2), g in R(i, k1), of which more than two
      thirds lie in R(i, k1);
    - V_ij = exp(-d_ij) for j in R*(i), L1-normalised and then averaged over i and its k2 - 1
      nearest neighbours;
    - d_J = 1 - s / (2 - s) with s = Σ_l min(V_ql, V_jl);
    - d* = (1 - λ) d_J + λ d_qj is the final distance,

    where d_ij = ||x_i - x_j||⁴ for unit vectors, divided by the largest value in row i.

    Parameters
    ----------
    Q : array_like, shape (nq, d)
    X : array_like, shape (n, d)
        Vectors, compared by their cosine.
    k : int >= 1
        Number of results. It does not affect the run time.
    k1 : int >= 1, default 20
        Number of neighbours in R(i, k1).
    k2 : int >= 1, default 6
        Number of encodings that are averaged, including that of the item itself. 1 disables the
        averaging.
    lambda_ : float in [0, 1), default 0.3
        Weight λ of the original distance.
    method : {"exact", "ivf", "hnsw", "nndescent"} or object, default "exact"
        Search method for the neighbour lists, as for `nearest_neighbors`.

    Returns
    -------
    scores : ndarray, shape (nq, k), float32
        1 - d*, in [0, 1], in descending order. Padded with -inf where k > n.
    ids : ndarray, shape (nq, k), int64
        Rows of X, equal scores by ascending id. Padded with -1.

    Raises
    ------
    DiffusionError
        If an argument is out of range, or Q or X holds NaN or infinity.

    Notes
    -----
    With N = nq + n, memory is linear in N: the vectors, lists of 4 N max(k1, k2 - 1) bytes, and
    24 bytes per entry of V, which has about k1 entries per row before averaging and 2 k1 after it.
    Two searches per item find the lists and the largest distances. The encoding takes at most
    O(N k1² (k1 + d)) time, and a query O(n d). The common implementation holds several N x N
    matrices.

    As in the common implementation for cosines, d is the square of the squared distance, divided
    by the largest value, and a set is added if *more* than two thirds of it lie in R(i, k1). In the
    paper, d is the squared distance, and at least two thirds are required.

    References
    ----------
    Zhong, Zheng, Cao, Li. Re-ranking Person Re-identification with k-reciprocal Encoding.
    CVPR 2017.
    """
    k = check_integer(k, "k", low=1)
    k1 = check_integer(k1, "k1", low=1)
    k2 = check_integer(k2, "k2", low=1)
    lambda_ = check_real(lambda_, "lambda_", low=0.0, high=1.0)
    check_metric("cosine", method := make_method(method))
    Q = as_vectors(Q, "Q", metric="cosine", queries=True)
    X = as_vectors(X, "X", metric="cosine", dimension=Q.shape[1])
    return _search(np.concatenate([Q, X]), len(Q), k, k1, k2, lambda_, method)


def _search(
    vectors: NDArray[np.float32],
    n_queries: int,
    k: int,
    k1: int,
    k2: int,
    lambda_: float,
    method: Method,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    index = NeighborIndex(vectors, "cosine", method)
    _, ids = index.neighbors(max(k1, k2 - 1))
    # The item farthest from a vector is the nearest one to the opposite vector.
    farthest = _distance(-index.search(-vectors, 1)[0][:, 0])
    farthest = np.where(farthest > 0, farthest, np.float32(1))
    V = _average(_encode(vectors, ids, farthest, k1), ids[:, : k2 - 1])
    rows = Rows(V.indptr, V.indices, V.data)
    by_column = V[n_queries:].tocsc()
    inverted = Rows(by_column.indptr, by_column.indices, by_column.data)
    Q, X = vectors[:n_queries], vectors[n_queries:]
    scores = np.empty((n_queries, k), np.float32)
    out_ids = np.empty((n_queries, k), np.int64)
    block = max(1, _BLOCK_VALUES // len(X))
    for start in range(0, n_queries, block):
        part = slice(start, min(n_queries, start + block))
        jaccard = np.empty((part.stop - start, len(X)), np.float32)
        shared_weight(rows, start, inverted, jaccard)
        jaccard /= 2 - jaccard
        distance = _distance(Q[part] @ X.T) / farthest[part, None]
        mixed = (1 - lambda_) * jaccard + lambda_ * (1 - distance)
        mixed = np.maximum(mixed, _ZERO, dtype=np.float32)
        largest_positive(mixed, EVERYTHING, scores[part], out_ids[part])
    scores[scores == _ZERO] = 0
    return scores, out_ids


def _distance(similarity: NDArray[np.float32]) -> NDArray[np.float32]:
    """Map cosines s of any shape to (2 - 2 s)², the square of the squared Euclidean distance."""
    return (2 - 2 * np.minimum(similarity, np.float32(1))) ** 2


def _encode(
    vectors: NDArray[np.float32],
    ids: NDArray[np.int32],
    farthest: NDArray[np.float32],
    k1: int,
) -> sparse.csr_array:
    """Encode n items by the weights of their expanded reciprocal sets; return CSR (n, n)."""
    n, half = len(ids), round(k1 / 2)
    ids = ids[:, :k1]
    mutual = np.empty(ids.shape, np.min_scalar_type(k1))
    places = np.broadcast_to(np.arange(1, ids.shape[1] + 1, dtype=mutual.dtype), ids.shape)
    mutual_ranks(ids, places, mutual)
    lists = Lists(ids, mutual)
    indptr = np.zeros(n + 1, np.int64)
    expanded_sizes(lists, half, indptr[1:])
    np.cumsum(indptr, out=indptr)
    rows = Rows(indptr, np.empty(indptr[-1], np.int32), np.empty(indptr[-1], np.float32))
    expanded_rows(lists, half, vectors, farthest, rows)
    return sparse.csr_array((rows.values, rows.indices, rows.indptr), shape=(n, n))


def _average(V: sparse.csr_array, ids: NDArray[np.int32]) -> sparse.csr_array:
    """Average each row of V with the rows of its neighbours `ids` (n, w), padded with -1."""
    n = len(ids)
    members = np.concatenate([np.arange(n, dtype=np.int32)[:, None], ids], axis=1)
    real = members >= 0
    counts = real.sum(axis=1)
    shares = np.repeat((1 / counts).astype(np.float32), counts)
    indptr = np.concatenate([[0], np.cumsum(counts)])
    return sparse.csr_array((shares, members[real], indptr), shape=(n, n)) @ V
