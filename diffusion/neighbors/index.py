"""The neighbour index: the first stage of a search, and the neighbour lists of a collection.

Scores are higher for nearer items with every metric: they are the cosine, the inner product or the
negative squared Euclidean distance.
"""

from __future__ import annotations

import os
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tqdm import tqdm

from ..kernels.lists import copy_without_self
from ..storage.contents import COMPUTED, Array, Between, Contents, finite
from ..storage.rows import ListsCheckpoint
from ..validation import as_vectors, center_of, check_integer
from .methods import FaissMethod, Method, NNDescent, check_metric, make_method, search_all
from .progress import row_blocks

Lists = tuple[NDArray[np.float32], NDArray[Any]]

# Gathered vectors held at a time, in values: 64 MiB of float32.
_GATHER_VALUES = 1 << 24

# The largest magnitude of a value of a vector: of a unit vector, up to rounding, and of any vector
# whose squared distances fit float32.
_LARGEST_UNIT, _LARGEST = 1 + 1e-3, 1e19

# The longest list that is searched to find all items that tie for a place.
_WIDEST_TIE = 4096


class NeighborIndex:
    """Vectors of a collection, prepared for nearest-neighbour search.

    Parameters
    ----------
    vectors : ndarray, shape (n, d), float32
        As `validation.as_vectors` returns them: unit rows for the cosine.
    metric : {"cosine", "inner_product", "euclidean"}
        Similarity of vectors.
    method : Exact, IVF, HNSW or NNDescent
        Search method with its settings.
    center : ndarray, shape (d,), optional
        The vector that was subtracted from `vectors` and must be subtracted from queries. It is
        used for `"euclidean"`: distances are computed as ||x||² + ||y||² - 2<x, y>, which is
        inaccurate for vectors far from 0.
    progress : bool, default False
        Show progress bars on standard error.

    Notes
    -----
    With IVF and HNSW the vectors are kept only inside the faiss index.
    """

    def __init__(
        self,
        vectors: NDArray[np.float32],
        metric: str,
        method: Method,
        *,
        center: NDArray[np.float64] | None = None,
        progress: bool = False,
    ) -> None:
        self.metric = metric
        self.method = method
        self.center = center
        self.size, self.dimension = vectors.shape
        self.vectors: NDArray[np.float32] | None = vectors
        self.contents = COMPUTED
        self._stored: dict[str, NDArray[Any]] = {}
        if isinstance(method, FaissMethod):
            self._faiss = method.build(vectors, metric, progress=progress)
            self.vectors = None

    @classmethod
    def restore(
        cls,
        arrays: dict[str, NDArray[Any]],
        metric: str,
        method: Method,
        shape: tuple[int, int],
        source: str = "arrays",
    ) -> NeighborIndex:
        """Make an index from the arrays that `arrays` returned, checked on first use.

        Parameters
        ----------
        arrays : dict of str to ndarray
            They may be memory-mapped; other arrays are ignored.
        metric : str
            Similarity of vectors.
        method : Exact, IVF, HNSW or NNDescent
            Search method with its settings.
        shape : tuple of int
            Number of vectors and dimension.
        source : str, default "arrays"
            What errors call the state that the arrays belong to.

        Raises
        ------
        KeyError, ValueError
            If the arrays are missing, or do not have the expected types and shapes.
        """
        if "faiss" in arrays:
            raise ValueError("an earlier version has built it; expected one that is built again")
        largest = _LARGEST_UNIT if metric == "cosine" else _LARGEST
        layout = {"vectors": Array(np.float32, shape, Between(-largest, largest))}
        if "center" in arrays:
            layout["center"] = Array(np.float64, shape[1:], finite(np.float64))
        if isinstance(method, FaissMethod):
            layout |= method.layout(arrays, *shape)
        index = cls.__new__(cls)
        index.metric, index.method = metric, method
        index.size, index.dimension = shape
        index.contents = Contents(arrays, layout, source)
        index._stored = {name: arrays[name] for name in layout}
        index.vectors = None if isinstance(method, FaissMethod) else arrays["vectors"]
        index.center = arrays.get("center")
        return index

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays to store: vectors, the structure over them, and the centre if any."""
        if self._stored:
            return self._stored
        center = {} if self.center is None else {"center": self.center}
        structure = {}
        if isinstance(self.method, FaissMethod):
            structure = self.method.arrays(self._faiss)
        return {"vectors": self._own_vectors(), **structure, **center}

    @cached_property
    def _faiss(self) -> Any:
        assert isinstance(self.method, FaissMethod)
        return self.method.restored(self._stored, self._stored["vectors"], self.metric)

    def search(
        self, queries: NDArray[np.float32], k: int, *, progress: bool = False
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Find the k nearest items of each query.

        Parameters
        ----------
        queries : ndarray, shape (m, d), float32
            As `validation.as_vectors` returns them.
        k : int >= 1
            Length of the lists. It may exceed the number of items.
        progress : bool, default False
            Show a progress bar on standard error.

        Returns
        -------
        scores : ndarray, shape (m, k), float32
            In descending order, padded with -inf.
        ids : ndarray, shape (m, k), int64
            Equal scores are ordered by ascending id. Padded with -1.
        """
        self.contents.check()
        scores = np.empty((len(queries), k), np.float32)
        ids = np.empty((len(queries), k), np.int32)
        # Queries are not items of the index: with a negative first row, no item is left out.
        self._search_blocks(queries, min(k, self.size), -len(queries), (scores, ids), progress)
        return scores, ids.astype(np.int64)

    def resolve_ties(
        self,
        queries: NDArray[np.float32],
        scores: NDArray[np.float32],
        ids: NDArray[np.int64],
        depth: int,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Cut lists to their best entries, which do not depend on the length of the lists.

        Where several items tie for the last place, those with the lowest ids are taken. A search
        method may end a list with any of the tied items. The search is therefore repeated for
        longer lists until a list holds all tied items or has 4096 entries.

        Parameters
        ----------
        queries : ndarray, shape (m, d), float32
            As `validation.as_vectors` returns them.
        scores, ids : ndarray, shape (m, w)
            The lists that `search` returned for the queries.
        depth : int >= 1
            The length to cut to. Lists that are not longer than this are returned unchanged.

        Returns
        -------
        scores : ndarray, shape (m, min(depth, w)), float32
            In descending order, padded with -inf.
        ids : ndarray, shape (m, min(depth, w)), int64
            Equal scores are ordered by ascending id. Padded with -1.
        """
        width = scores.shape[1]
        if width <= depth:
            return scores, ids
        best_scores, best_ids = scores[:, :depth].copy(), ids[:, :depth].copy()
        rows = np.flatnonzero(_tied(scores, ids, depth))
        while len(rows) and width < min(_WIDEST_TIE, self.size):
            width = min(2 * width, self.size)
            scores, ids = self.search(queries[rows], width)
            best_scores[rows], best_ids[rows] = scores[:, :depth], ids[:, :depth]
            rows = rows[_tied(scores, ids, depth)]
        return best_scores, best_ids

    def neighbors(
        self, k: int, *, progress: bool = False, checkpoint: str | os.PathLike[str] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """List the k nearest other items of each item.

        The item itself is left out of its list. Its exact duplicates are other items and are kept.

        Parameters
        ----------
        k : int >= 1
            Number of neighbours per item.
        progress : bool, default False
            Show a progress bar on standard error.
        checkpoint : path-like, optional
            A directory in which the lists are stored while they are computed. A later call with
            the same vectors and settings resumes from it. The directory is not removed at the
            end. Nearest-neighbour descent cannot be resumed and ignores it.

        Returns
        -------
        scores : ndarray, shape (n, k), float32
            In descending order. Padded with -inf where k >= n or where an approximate method
            found fewer neighbours.
        ids : ndarray, shape (n, k), int32
            Padded with -1.
        """
        self.contents.check()
        width = min(k + 1, self.size)
        # For so few items nearest-neighbour descent has no advantage over exact search.
        descend = isinstance(self.method, NNDescent) and self.size > 4 * width
        vectors = self._own_vectors()
        if checkpoint is not None and not descend:
            kept = ListsCheckpoint(checkpoint, vectors, f"{self.metric} {self.method}", k)
            scores, ids = np.asarray(kept.scores), np.asarray(kept.ids)
            self._search_blocks(vectors, width, 0, (scores, ids), progress, kept)
            return scores, ids
        scores = np.empty((self.size, k), np.float32)
        ids = np.empty((self.size, k), np.int32)
        if descend:
            self._descend(vectors, width, (scores, ids), progress)
        else:
            self._search_blocks(vectors, width, 0, (scores, ids), progress)
        return scores, ids

    def _own_vectors(self) -> NDArray[np.float32]:
        if self.vectors is not None:
            return self.vectors
        return self._faiss.reconstruct_n(0, self.size)

    def _search_blocks(
        self,
        queries: NDArray[np.float32],
        width: int,
        first: int,
        out: Lists,
        progress: bool,
        checkpoint: ListsCheckpoint | None = None,
    ) -> None:
        """Search block by block; write lists without the item itself, which is first + row."""
        begin = 0 if checkpoint is None else checkpoint.rows
        label = f"{self.method.name} search"
        for part in row_blocks(len(queries), label, show=progress, begin=begin):
            found = self._search_block(queries[part], width)
            copy_without_self(*found, first + part.start, out[0][part], out[1][part])
            if checkpoint is not None:
                checkpoint.done(part.stop)

    def _search_block(
        self, queries: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        if self.vectors is not None:
            scores, ids = search_all(self.vectors, queries, k, self.metric)
        else:
            assert isinstance(self.method, FaissMethod)
            self.method.set_effort(self._faiss, k)
            scores, ids = self._faiss.search(queries, k)
        if self.metric == "euclidean":
            np.negative(scores, out=scores)
        elif self.metric == "cosine":
            np.minimum(scores, np.float32(1), out=scores)
        return scores, ids

    def _descend(
        self, vectors: NDArray[np.float32], width: int, out: Lists, progress: bool
    ) -> None:
        """Write lists found by pynndescent, with scores computed from the vectors."""
        assert isinstance(self.method, NNDescent)
        with tqdm(total=1, desc="nndescent", disable=not progress) as bar:
            ids = self.method.descend(vectors, width)
            bar.update()
        rows = max(1, _GATHER_VALUES // (width * self.dimension))
        for start in range(0, self.size, rows):
            part = slice(start, start + rows)
            listed = ids[part].astype(np.int64)
            scores = _scores_of(vectors[part], vectors[listed], self.metric)
            scores[listed < 0] = -np.inf
            by_score = np.argsort(-scores, axis=1, kind="stable")
            copy_without_self(
                np.take_along_axis(scores, by_score, axis=1),
                np.take_along_axis(listed, by_score, axis=1),
                start,
                out[0][part],
                out[1][part],
            )


def _scores_of(
    own: NDArray[np.float32], others: NDArray[np.float32], metric: str
) -> NDArray[np.float32]:
    """Score each vector (m, d) against `others` (m, w, d), which is overwritten."""
    if metric == "euclidean":
        others -= own[:, None]
        return -np.einsum("iad,iad->ia", others, others)
    return np.minimum(np.einsum("iad,id->ia", others, own), np.float32(1))


def _tied(scores: NDArray[np.float32], ids: NDArray[np.int64], depth: int) -> NDArray[np.bool_]:
    """Return whether entry `depth` of each list ties with the last, so that more may follow."""
    return (ids[:, -1] >= 0) & (scores[:, depth - 1] == scores[:, -1])


def nearest_neighbors(
    X: ArrayLike,
    k: int,
    *,
    metric: str = "cosine",
    method: str | Method = "exact",
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
    method : {"exact", "ivf", "hnsw", "nndescent"} or object, default "exact"
        Search method: a name, or an object with settings such as ``IVF(nprobe=32)``.
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
    center = center_of(X, "X") if metric == "euclidean" else None
    vectors = as_vectors(X, "X", metric=metric, center=center)
    index = NeighborIndex(vectors, metric, method, center=center, progress=progress)
    return index.neighbors(k, progress=progress)


def without_items(
    scores: NDArray[np.float32], ids: NDArray[Any], dropped: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Empty the neighbour lists (n, k) of some items (n,), and take these out of all others."""
    if not dropped.any():
        return scores, ids
    ids = np.where(dropped[ids] | dropped[:, None], ids.dtype.type(-1), ids)
    return tidy_lists(scores, ids, ids.shape[1])


def tidy_lists(
    scores: NDArray[np.float32], ids: NDArray[Any], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Convert given neighbour lists (n, w) to those of `NeighborIndex.neighbors` with width k."""
    out_scores = np.empty((len(ids), k), np.float32)
    out_ids = np.empty((len(ids), k), np.int32)
    copy_without_self(scores, ids, 0, out_scores, out_ids)
    return out_scores, out_ids
