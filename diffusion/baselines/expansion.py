"""Query expansion and database augmentation, as baselines for diffusion.

Vectors are L2-normalised rows, and their similarity is the inner product. Each function turns
vectors and their first-stage lists into new vectors for a second search:

>>> import numpy as np
>>> from diffusion import expansion
>>> X = expansion.normalize(np.random.default_rng(0).standard_normal((50, 8)))
>>> Q = X[:2]
>>> scores, ids = expansion.search(Q, X, 5)
>>> scores, ids = expansion.search(expansion.average(Q, X, scores, ids, alpha=3.0), X, 10)
>>> ids.shape
(2, 10)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import DiffusionError
from ..neighbors import Exact, NeighborIndex
from ..validation import as_ids, as_lists, as_vectors, check_integer, check_real

# Number of values of neighbour vectors gathered at a time: 64 MiB of float32.
_GATHER_VALUES = 1 << 24


def normalize(X: ArrayLike) -> NDArray[np.float32]:
    """Return the rows of X (n, d) divided by their L2 norms, float32; zero rows stay zero.

    Raises
    ------
    DiffusionError
        If X is not a matrix of finite numbers.
    """
    return as_vectors(X, "X", metric="cosine")


def search(
    Q: NDArray[np.float32], X: NDArray[np.float32], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Search exactly by inner product.

    Parameters
    ----------
    Q : ndarray, shape (nq, d), float32
        As `normalize` returns them.
    X : ndarray, shape (n, d), float32
        As `normalize` returns them.
    k : int >= 1
        Length of the lists.

    Returns
    -------
    scores : ndarray, shape (nq, k), float32
        In descending order, padded with -inf.
    ids : ndarray, shape (nq, k), int64
        Rows of X, equal scores by ascending id. Padded with -1.
    """
    return NeighborIndex(X, "inner_product", Exact()).search(Q, k)


def average(
    Q: ArrayLike, X: ArrayLike, scores: ArrayLike, ids: ArrayLike, *, alpha: float = 0.0
) -> NDArray[np.float32]:
    """Average each query with its neighbours: average query expansion (AQE), or α-QE.

    The new query is q' = q + Σ_i max(<q, x_i>, 0)^α x_i, L2-normalised; the sum is over the listed
    neighbours i.

    Parameters
    ----------
    Q : array_like, shape (nq, d)
    X : array_like, shape (n, d)
    scores, ids : array_like, shape (nq, k)
        First-stage lists: similarities, best first, and rows of X, padded with -1.
    alpha : float >= 0, default 0.0
        Exponent α of the weights. 0 gives equal weights (AQE); 3 is usual for α-QE.

    Returns
    -------
    ndarray, shape (nq, d), float32
        The expanded queries, L2-normalised.

    Raises
    ------
    DiffusionError
        If an argument is not as described.

    References
    ----------
    Chum, Philbin, Sivic, Isard, Zisserman. Total Recall. ICCV 2007.
    Radenović, Tolias, Chum. Fine-tuning CNN Image Retrieval with No Human Annotation. TPAMI 2018.
    """
    alpha = check_real(alpha, "alpha", low=0.0)
    Q = as_vectors(Q, "Q", metric="cosine", queries=True)
    X = as_vectors(X, "X", metric="cosine", dimension=Q.shape[1])
    scores, ids = as_lists(scores, ids, len(X), names=("scores", "ids"), metric="cosine")
    if len(ids) != len(Q):
        raise DiffusionError(f"ids: expected {len(Q)} lists, one for each query, got {len(ids)}")
    own, weights = _weights(scores, ids, alpha)
    expanded = Q * own
    rows = max(1, _GATHER_VALUES // (ids.shape[1] * Q.shape[1]))
    for start in range(0, len(Q), rows):
        part = slice(start, start + rows)
        expanded[part] += np.einsum("qk,qkd->qd", weights[part], X[ids[part]])
    return as_vectors(expanded, "Q", metric="cosine", queries=True)


def _weights(
    scores: NDArray[np.float32], ids: NDArray[np.int64], alpha: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the weight of each query (m, 1) and of its neighbours (m, k), 1 and max(s, 0)^α.

    A row is divided by its largest weight if that exceeds 1, as large powers overflow.
    """
    with np.errstate(divide="ignore", over="ignore"):
        logarithms = np.log(np.maximum(scores.astype(np.float64), 0))
        powers = alpha * logarithms if alpha else np.zeros(scores.shape)
    # The bound keeps infinity out of the difference, whatever the exponent.
    powers = np.where(ids < 0, -np.inf, np.minimum(powers, 1e300))
    shift = np.maximum(powers.max(axis=1, keepdims=True), 0)
    return np.exp(-shift).astype(np.float32), np.exp(powers - shift).astype(np.float32)


def augment_database(X: ArrayLike, k: int = 10, *, alpha: float = 0.0) -> NDArray[np.float32]:
    """Average each item with its k nearest neighbours (database-side augmentation, DBA).

    Parameters
    ----------
    X : array_like, shape (n, d)
    k : int >= 1, default 10
        Number of neighbours per item.
    alpha : float >= 0, default 0.0
        Exponent of the neighbours' weights, as in `average`.

    Returns
    -------
    ndarray, shape (n, d), float32
        The augmented items, L2-normalised.

    Raises
    ------
    DiffusionError
        If an argument is not as described.

    References
    ----------
    Turcot and Lowe. Better Matching with Fewer Features. ICCV Workshops 2009.
    """
    X = normalize(X)
    k = check_integer(k, "k", low=1)
    scores, ids = NeighborIndex(X, "cosine", Exact()).neighbors(k)
    return average(X, X, scores, ids, alpha=alpha)


def discriminative(
    Q: ArrayLike,
    X: ArrayLike,
    ids: ArrayLike,
    *,
    n_positive: int = 5,
    n_negative: int = 200,
    C: float = 0.1,
) -> NDArray[np.float32]:
    """Learn a linear SVM per query (discriminative query expansion, DQE).

    The SVM separates the top results of the query's ranking from its bottom results.

    Parameters
    ----------
    Q : array_like, shape (nq, d)
    X : array_like, shape (n, d)
    ids : array_like, shape (nq, k), int
        First-stage rankings, padded with -1. They should be long, at best rankings of the whole
        collection, because their last entries are the negative examples.
    n_positive, n_negative : int >= 1, default 5 and 200
        Number of results taken from the top, in addition to the query itself, and from the bottom.
        Each is at most half of the ranking.
    C : float > 0, default 0.1
        Inverse regularisation strength of the SVM.

    Returns
    -------
    ndarray, shape (nq, d), float32
        The normals of the SVMs, L2-normalised, for use as queries. A query with fewer than two
        results is returned as it is, L2-normalised.

    Raises
    ------
    DiffusionError
        If an argument is not as described.

    References
    ----------
    Arandjelović and Zisserman. Three Things Everyone Should Know to Improve Object Retrieval.
    CVPR 2012.
    """
    from sklearn.svm import LinearSVC

    Q = as_vectors(Q, "Q", metric="cosine", queries=True)
    X = as_vectors(X, "X", metric="cosine", dimension=Q.shape[1])
    ids = as_ids(ids, "ids", len(X), rows=len(Q))
    check_integer(n_positive, "n_positive", low=1)
    check_integer(n_negative, "n_negative", low=1)
    normals = Q.copy()
    for row, (query, ranked) in enumerate(zip(Q, ids, strict=True)):
        ranked = ranked[ranked >= 0]
        half = len(ranked) // 2
        if half == 0:
            continue
        positive, negative = ranked[: min(n_positive, half)], ranked[-min(n_negative, half) :]
        examples = np.concatenate([query[None], X[positive], X[negative]])
        labels = np.repeat([1, 0], [1 + len(positive), len(negative)])
        svm = LinearSVC(C=C, class_weight="balanced").fit(examples, labels)
        normals[row] = svm.coef_[0]
    return as_vectors(normals, "Q", metric="cosine", queries=True)
