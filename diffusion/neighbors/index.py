"""Nearest neighbours: the first stage of a search and the lists that the graph is made of.

Every method answers with scores that are higher for nearer items: the cosine, the inner product,
or the negative squared Euclidean distance.
"""

from __future__ import annotations

import os
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tqdm import tqdm

from ..kernels import threads
from ..kernels.lists import copy_without_self
from ..storage.rows import ListsCheckpoint
from ..validation import as_vectors, center_of, check_integer
from .methods import FaissMethod, Method, NNDescent, check_metric, make_method, search_all
from .progress import row_blocks

Lists = tuple[NDArray[np.float32], NDArray[Any]]

# Gathered vectors held at a time, in values: 64 MiB of float32.
_GATHER_VALUES = 1 << 24

# The longest list that is searched for all items that tie for a place.
_WIDEST_TIE = 4096


class NeighborIndex:
    """Vectors and the means to search them.

    Parameters
    ----------
    vectors : ndarray, shape (n, d), float32
        As `validation.as_vectors` returns them: unit rows for the cosine.
    metric : {"cosine", "inner_product", "euclidean"}
    method : Exact, IVF, HNSW or NNDescent
    center : ndarray, shape (d,), optional
        What was subtracted from the vectors, to be subtracted from queries: for `"euclidean"`,
        distances are computed as ||x||² + ||y||² - 2<x, y>, which loses all digits far from 0.
    progress : bool, default False
        Show bars on standard error.

    Notes
    -----
    IVF and HNSW keep the vectors inside the faiss index and nowhere else.
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
        self._serialized: NDArray[np.uint8] | None = None
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
    ) -> NeighborIndex:
        """Wrap what `arrays` returned, without reading it."""
        index = cls.__new__(cls)
        index.metric, index.method = metric, method
        index.vectors, index._serialized = arrays.get("vectors"), arrays.get("faiss")
        index.center = arrays.get("center")
        index.size, index.dimension = shape
        if index.vectors is not None and index.vectors.shape != shape:
            raise ValueError(f"vectors of shape {index.vectors.shape}, expected {shape}")
        if index.vectors is None and not (
            index._serialized is not None and isinstance(method, FaissMethod)
        ):
            raise KeyError("vectors")
        return index

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what has to be stored: the vectors, or the faiss index that holds them."""
        center = {} if self.center is None else {"center": self.center}
        if self.vectors is not None:
            return {"vectors": self.vectors, **center}
        if self._serialized is not None:
            return {"faiss": self._serialized, **center}
        import faiss

        return {"faiss": faiss.serialize_index(self._faiss), **center}

    @cached_property
    def _faiss(self) -> Any:
        import faiss

        return faiss.deserialize_index(np.array(self._serialized))

    def search(
        self, queries: NDArray[np.float32], k: int, *, progress: bool = False
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Find the k nearest items of each query.

        Parameters
        ----------
        queries : ndarray, shape (m, d), float32
            As `validation.as_vectors` returns them.
        k : int
            May exceed the number of items.

        Returns
        -------
        scores : ndarray, shape (m, k), float32
            Descending, -inf where padded.
        ids : ndarray, shape (m, k), int64
            Equal scores by ascending id, -1 where padded.
        """
        scores = np.empty((len(queries), k), np.float32)
        ids = np.empty((len(queries), k), np.int64)
        # No row of the block is an item of the index: a negative first row excludes nothing.
        self._search_blocks(queries, min(k, self.size), -len(queries), (scores, ids), progress)
        return scores, ids

    def resolve_ties(
        self,
        queries: NDArray[np.float32],
        scores: NDArray[np.float32],
        ids: NDArray[np.int64],
        depth: int,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Cut lists to their best, the same ones whatever the length of the lists.

        Where several items tie for the last place, those of the lowest ids are taken. Which of
        them a list ends with is the method's choice, so that the search is repeated, for longer
        lists, until one holds them all or is 4096 long.

        Parameters
        ----------
        queries : ndarray, shape (m, d), float32
        scores, ids : ndarray, shape (m, w)
            What `search` returned for them.
        depth : int
            The length to cut to. Shorter lists, and those of just that length, are returned as
            they are.

        Returns
        -------
        scores : ndarray, shape (m, min(depth, w)), float32
        ids : ndarray, shape (m, min(depth, w)), int64
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

        The item itself is left out wherever it stands in its own list; exact duplicates of it
        are other items and stay.

        Parameters
        ----------
        k : int
        progress : bool, default False
        checkpoint : path-like, optional
            A directory in which the lists are kept while they are computed and which is left
            there; a later call with the same vectors and settings goes on from it. The descent
            has no parts to keep.

        Returns
        -------
        scores : ndarray, shape (n, k), float32
            Descending, -inf where padded (k >= n, or an approximate method found fewer).
        ids : ndarray, shape (n, k), int32
            -1 where padded.
        """
        width = min(k + 1, self.size)
        # Below a few lists' worth of items, the descent has nothing to descend.
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
        """Search block by block and write the tidied lists; row i is item first + i."""
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
        """Write lists by pynndescent, their scores computed afresh from the vectors."""
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
    """Score each vector (m, d) against its others (m, w, d), which are overwritten."""
    if metric == "euclidean":
        others -= own[:, None]
        return -np.einsum("iad,iad->ia", others, others)
    return np.minimum(np.einsum("iad,id->ia", others, own), np.float32(1))


def _tied(scores: NDArray[np.float32], ids: NDArray[np.int64], depth: int) -> NDArray[np.bool_]:
    """Whether the item at place `depth` ties with the last of its list, beyond which more may."""
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
        Finite. A zero vector has cosine 0 with everything.
    k : int >= 1
        Lists are padded with id -1 and score -inf where k >= n.
    metric : {"cosine", "inner_product", "euclidean"}, default "cosine"
    method : {"exact", "ivf", "hnsw", "nndescent"} or object, default "exact"
    progress : bool, default False

    Returns
    -------
    scores : ndarray, shape (n, k), float32
        Cosine, inner product or negative squared distance, descending.
    ids : ndarray, shape (n, k), int32
        The item itself is never among them; its exact duplicates are.

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
    with threads.guarded():
        index = NeighborIndex(vectors, metric, method, center=center, progress=progress)
        return index.neighbors(k, progress=progress)


def tidy_lists(
    scores: NDArray[np.float32], ids: NDArray[Any], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Bring given neighbour lists (n, w) to the form of `NeighborIndex.neighbors`, k wide."""
    out_scores = np.empty((len(ids), k), np.float32)
    out_ids = np.empty((len(ids), k), np.int32)
    copy_without_self(scores, ids, 0, out_scores, out_ids)
    return out_scores, out_ids
