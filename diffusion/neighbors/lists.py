"""The neighbour lists of a collection, from its vectors."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..copies import Copies
from ..validation import as_vectors, center_of, check_integer
from .given import GivenIndex
from .index import Lists, NeighborIndex, SearchIndex
from .methods import Method, check_metric, make_method


def indexed(
    X: ArrayLike, metric: str, method: Method, *, k: int, progress: bool, collapse: bool = False
) -> tuple[NeighborIndex, NDArray[np.bool_], Copies]:
    """Return an index of vectors, which of these (n,) have no direction, and the copies among X.

    Parameters
    ----------
    X : array_like, shape (n, d)
    metric : str
    method : method of neighbour search
    k : int
        Number of neighbours that `Auto` chooses the settings for.
    progress : bool
    collapse : bool, default False
        Let copies be one vector of the index; otherwise, there are none.
    """
    center = center_of(X, "X") if metric == "euclidean" else None
    vectors = as_vectors(X, "X", metric=metric, center=center)
    copies, first = Copies.of(vectors) if collapse else (Copies.none(len(vectors)), None)
    if first is not None:
        vectors = vectors[first]
    zero = _without_direction(vectors, metric)
    index = NeighborIndex(vectors, metric, method, k=k, center=center, progress=progress)
    return index, zero, copies


def listed(
    X: ArrayLike,
    k: int,
    metric: str,
    method: Method,
    *,
    index: object = None,
    collapse: bool = False,
    progress: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
) -> tuple[SearchIndex, NDArray[np.bool_], Lists, Copies]:
    """Return an index of vectors, as `indexed` does, with their neighbour lists before the copies.

    Parameters
    ----------
    X : array_like, shape (n, d)
    k : int >= 1
        Length of the lists; n - 1 if that is less.
    metric : str
    method : method of neighbour search
        Not used if `index` is given.
    index : object, optional
        An index of the caller, as `Reranker.fit` takes it. Copies stay as they are in it.
    collapse : bool, default False
        As `indexed` takes it.
    progress : bool, default False
    checkpoint : path-like, optional
        As `NeighborIndex.neighbors` takes it.
    """
    if index is None:
        made, zero, copies = indexed(X, metric, method, k=k, progress=progress, collapse=collapse)
        k = min(k, max(1, made.size - 1))
        return made, zero, made.neighbors(k, progress=progress, checkpoint=checkpoint), copies
    vectors = as_vectors(X, "X", metric=metric)
    given = GivenIndex(index, metric, vectors.shape)
    given.check_scores(vectors)
    k = min(k, max(1, given.size - 1))
    lists = given.neighbors_of(vectors, k, progress=progress, checkpoint=checkpoint)
    return given, _without_direction(vectors, metric), lists, Copies.none(given.size)


def _without_direction(vectors: NDArray[np.float32], metric: str) -> NDArray[np.bool_]:
    if metric == "euclidean":
        return np.full(len(vectors), False)
    return np.logical_not(vectors.any(axis=1), out=np.empty(len(vectors), bool))


def nearest_neighbors(
    X: ArrayLike,
    k: int,
    *,
    metric: str = "cosine",
    method: str | Method = "auto",
    index: Any = None,
    progress: bool = False,
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """List the k nearest other items of each item, as `Reranker.fit_neighbors` takes them.

    Parameters
    ----------
    X : array_like, shape (n, d)
        Vectors with finite values. A zero vector has cosine 0 with every other.
    k : int >= 1
        Number of neighbours per item. Lists are padded with id -1 and score -inf where k >= n.
    metric : {"cosine", "inner_product", "euclidean"}, default "cosine"
        Similarity of vectors.
    method : {"auto", "exact", "ivf", "hnsw", "nndescent"} or object, default "auto"
        Search method: a name, or an object with settings such as ``IVF(nprobe=32)``. "auto" is
        exact for a small collection, and has a recall of 0.98 for a large one (`Auto`).
    index : object, optional
        An index that the vectors are in already, as `Reranker.fit` takes it; `method` is not used
        then.
    progress : bool, default False
        Show progress bars on standard error.

    Returns
    -------
    scores : ndarray, shape (n, k), float32
        Cosine, inner product or negative squared distance, in descending order.
    ids : ndarray, shape (n, k), int32
        Equal scores are ordered by ascending id. An item is never in its own list; its exact
        duplicates are.

    Raises
    ------
    DiffusionError
        If an argument is out of range or X holds NaN or infinity.

    Examples
    --------
    >>> scores, ids = nearest_neighbors([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]], k=1)
    >>> ids.tolist()
    [[1], [0], [1]]
    """
    k = check_integer(k, "k", low=1)
    metric = check_metric(metric, method := make_method(method))
    _, _, lists, _ = listed(X, k, metric, method, index=index, progress=progress)
    missing = k - lists[1].shape[1]
    if not missing:
        return lists
    padding = ((0, 0), (0, missing))
    return (
        np.pad(lists[0], padding, constant_values=-np.inf),
        np.pad(lists[1], padding, constant_values=-1),
    )
