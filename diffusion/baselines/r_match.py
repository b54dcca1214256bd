"""R-match, the baseline of regional diffusion: images ranked by their most similar regions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..scoring.ranking import no_results
from ..scoring.regions import Groups
from ..validation import as_vectors, check_choice, check_integer

# Similarities computed at a time: 16 MiB of float32.
_BLOCK_VALUES = 1 << 22


def r_match(
    Q: ArrayLike,
    X: ArrayLike,
    images: ArrayLike,
    queries: ArrayLike | None = None,
    k: int = 100,
    *,
    pooling: str = "sum",
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Search images by matching each region of a query with the most similar region of an image.

    The score of an image is ``Σ_q max_x <q, x>``, over the regions q of the query and the regions
    x of the image. Regional diffusion is compared with this baseline.

    Parameters
    ----------
    Q : array_like, shape (r, d) or (d,)
        The regions of all queries.
    X : array_like, shape (m, d)
        The regions of all images.
    images : array_like, shape (m,), int
        The image number of each region, >= 0, in any order.
    queries : array_like, shape (r,), int, optional
        The query number of each region of Q, in any order; the numbers start at 0 and none is
        left out. By default, all regions belong to one query.
    k : int >= 1, default 100
        Length of the result lists.
    pooling : {"sum", "max"}, default "sum"
        How the scores of the query's regions are combined: their sum, or only the best one.

    Returns
    -------
    scores, ids : ndarray, shape (nq, k), or (k,) without `queries`, float32 and int64
        Best first, equal scores by ascending image number, padded with -inf and -1.

    Raises
    ------
    DiffusionError
        If an argument is not as described.

    Notes
    -----
    The search is exact and takes O(m d) per region of a query. Memory: the regions in float32 and
    a block of similarities.

    References
    ----------
    Razavian, Sullivan, Carlsson, Maki. Visual Instance Retrieval with Deep Convolutional
    Networks. ITE Transactions on Media Technology and Applications, 2016.

    Examples
    --------
    >>> X, Q = [[1, 0], [0, 1], [0.6, 0.8]], [[1, 0], [0, 1]]
    >>> scores, ids = r_match(Q, X, images=[0, 0, 1], k=2)
    >>> scores.round(4).tolist(), ids.tolist()
    ([2.0, 1.399999976158142], [0, 1])
    """
    check_choice(pooling, "pooling", ("sum", "max"))
    k = check_integer(k, "k", low=1)
    gallery = as_vectors(X, "X", metric="cosine")
    groups = Groups.of(images, gallery, "images")
    asking = as_vectors(Q, "Q", metric="cosine", dimension=gallery.shape[1], queries=True)
    asked = Groups.of_queries(queries, asking)
    if not len(asking):
        return no_results(queries is None, k)
    combine: np.ufunc = np.add if pooling == "sum" else np.maximum
    if (groups.order[:-1] > groups.order[1:]).any():
        gallery = gallery[groups.order]
    step = max(1, _BLOCK_VALUES // len(gallery))
    nq, n = len(asked.names), len(groups.names)
    out_scores = np.full((nq, k), -np.inf, np.float32)
    out_ids = np.full((nq, k), -1, np.int64)
    for query in range(nq):
        own = asked.order[asked.starts[query] : asked.starts[query + 1]]
        total: Any = combine.identity if pooling == "sum" else -np.inf
        for start in range(0, len(own), step):
            similarity = asking[own[start : start + step]] @ gallery.T
            best = np.maximum.reduceat(similarity, groups.starts[:-1], axis=1)
            total = combine(total, combine.reduce(best, axis=0, dtype=np.float64))
        ranked = np.argsort(-total, kind="stable")[: min(k, n)]
        out_scores[query, : len(ranked)] = total[ranked]
        out_ids[query, : len(ranked)] = groups.names[ranked]
    return (out_scores[0], out_ids[0]) if queries is None else (out_scores, out_ids)
