"""Nearest neighbours: the first stage of a search and the lists that the graph is made of.

Every method answers with scores that are higher for nearer items: the cosine, the inner product,
or the negative squared Euclidean distance.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tqdm import tqdm

from ..errors import DiffusionError
from ..kernels import lists, threads
from ..storage.rows import ListsCheckpoint
from ..validation import METRICS, as_vectors, center_of, check_choice, check_integer

# Queries searched between two updates of the progress bar.
_BLOCK = 1024


@dataclass(frozen=True)
class Exact:
    """Comparison with every vector, in blocks: exact, O(n d) a query, no memory of its own."""

    name: ClassVar[str] = "exact"


@dataclass(frozen=True)
class IVF:
    """faiss's inverted file: k-means cells, of which the nearest `nprobe` are searched.

    Parameters
    ----------
    nlist : int >= 1, optional
        Number of cells; default 4 √n, with at least 39 vectors each, faiss's own minimum.
    nprobe : int >= 1, default 16
        Cells searched; more is slower and nearer to exact.
    """

    nlist: int | None = None
    nprobe: int = 16

    name: ClassVar[str] = "ivf"

    def __post_init__(self) -> None:
        if self.nlist is not None:
            object.__setattr__(self, "nlist", check_integer(self.nlist, "nlist", low=1))
        object.__setattr__(self, "nprobe", check_integer(self.nprobe, "nprobe", low=1))


@dataclass(frozen=True)
class HNSW:
    """faiss's hierarchical navigable small-world graph.

    Parameters
    ----------
    m : int >= 2, default 32
        Links a vector; memory is 8 m bytes a vector beside the vectors.
    ef_construction : int >= 1, default 80
    ef_search : int >= 1, default 128
        Candidates kept while building and searching; at least k is used.
    """

    m: int = 32
    ef_construction: int = 80
    ef_search: int = 128

    name: ClassVar[str] = "hnsw"

    def __post_init__(self) -> None:
        for name, low in (("m", 2), ("ef_construction", 1), ("ef_search", 1)):
            object.__setattr__(self, name, check_integer(getattr(self, name), name, low=low))


@dataclass(frozen=True)
class NNDescent:
    """pynndescent's nearest-neighbour descent, for the lists alone.

    A query is compared with every vector, as by `Exact`. Not for the inner product, which is no
    metric.

    Parameters
    ----------
    n_trees : int >= 1, optional
    n_iters : int >= 1, optional
        pynndescent's own; its defaults grow with n.
    seed : int, default 0
    """

    n_trees: int | None = None
    n_iters: int | None = None
    seed: int = 0

    name: ClassVar[str] = "nndescent"

    def __post_init__(self) -> None:
        for name in ("n_trees", "n_iters"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, check_integer(getattr(self, name), name, low=1))
        object.__setattr__(self, "seed", check_integer(self.seed, "seed", low=0))


Method = Exact | IVF | HNSW | NNDescent
METHODS: dict[str, type[Method]] = {m.name: m for m in (Exact, IVF, HNSW, NNDescent)}


def make_method(method: object) -> Method:
    """Return the settings of a method given by name or as such an object."""
    if isinstance(method, str) and method in METHODS:
        return METHODS[method]()
    if isinstance(method, tuple(METHODS.values())):
        return method  # type: ignore[return-value]
    names = ", ".join(repr(name) for name in METHODS)
    raise DiffusionError(
        f"neighbors: expected one of {names} or an object such as IVF(nprobe=8), got {method!r}"
    )


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
        if isinstance(method, IVF | HNSW):
            self._faiss = _build_faiss(vectors, metric, method, progress)
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
        if index.vectors is None and index._serialized is None:
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
        self._search_blocks(queries, min(k, self.size), -len(queries), scores, ids, progress)
        return scores, ids

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
            self._search_blocks(vectors, width, 0, scores, ids, progress, kept)
            return scores, ids
        scores = np.empty((self.size, k), np.float32)
        ids = np.empty((self.size, k), np.int32)
        if descend:
            self._descend(vectors, width, scores, ids, progress)
        else:
            self._search_blocks(vectors, width, 0, scores, ids, progress)
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
        out_scores: NDArray[np.float32],
        out_ids: NDArray[Any],
        progress: bool,
        checkpoint: ListsCheckpoint | None = None,
    ) -> None:
        """Search block by block and write the tidied lists; row i is item first + i."""
        begin = 0 if checkpoint is None else checkpoint.rows
        for start in _blocks(begin, len(queries), progress, f"{self.method.name} search"):
            stop = min(len(queries), start + _BLOCK)
            scores, ids = self._search_block(queries[start:stop], width)
            lists.tidy_lists(
                scores, ids, first + start, out_scores[start:stop], out_ids[start:stop]
            )
            if checkpoint is not None:
                checkpoint.done(stop)

    def _search_block(
        self, queries: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        import faiss

        euclidean = self.metric == "euclidean"
        if self.vectors is not None:
            metric = faiss.METRIC_L2 if euclidean else faiss.METRIC_INNER_PRODUCT
            scores, ids = faiss.knn(queries, self.vectors, k, metric=metric)
        else:
            if isinstance(self.method, HNSW):
                self._faiss.hnsw.efSearch = max(self.method.ef_search, k)
            elif isinstance(self.method, IVF):
                self._faiss.nprobe = self.method.nprobe
            scores, ids = self._faiss.search(queries, k)
        if euclidean:
            np.negative(scores, out=scores)
        elif self.metric == "cosine":
            np.minimum(scores, np.float32(1), out=scores)
        return scores, ids

    def _descend(
        self,
        vectors: NDArray[np.float32],
        width: int,
        out_scores: NDArray[np.float32],
        out_ids: NDArray[np.int32],
        progress: bool,
    ) -> None:
        """Write lists by pynndescent, their scores computed afresh from the vectors."""
        from pynndescent import NNDescent as Descent

        method = self.method
        assert isinstance(method, NNDescent)
        # On unit vectors the Euclidean distance has the order of the cosine.
        with tqdm(total=1, desc="nndescent", disable=not progress) as bar:
            ids, _ = Descent(
                vectors,
                metric="euclidean",
                n_neighbors=width,
                n_trees=method.n_trees,
                n_iters=method.n_iters,
                random_state=method.seed,
            ).neighbor_graph
            bar.update()
        rows = max(1, (1 << 24) // (width * self.dimension))
        for start in range(0, self.size, rows):
            own = vectors[start : start + rows]
            listed = ids[start : start + rows].astype(np.int64)
            others = vectors[listed]
            if self.metric == "euclidean":
                others -= own[:, None]
                scores = -np.einsum("iad,iad->ia", others, others)
            else:
                scores = np.minimum(np.einsum("iad,id->ia", others, own), np.float32(1))
            scores[listed < 0] = -np.inf
            by_score = np.argsort(-scores, axis=1, kind="stable")
            lists.tidy_lists(
                np.take_along_axis(scores, by_score, axis=1),
                np.take_along_axis(listed, by_score, axis=1),
                start,
                out_scores[start : start + rows],
                out_ids[start : start + rows],
            )


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


def check_metric(metric: object, method: Method) -> str:
    """Return the metric if it is one and goes with the method."""
    metric = check_choice(metric, "metric", METRICS)
    if metric == "inner_product" and isinstance(method, NNDescent):
        raise DiffusionError(
            "metric: 'inner_product' is no metric, on which nearest-neighbour descent rests; "
            "expected 'cosine' or 'euclidean', or another neighbors method"
        )
    return metric


def tidy_lists(
    scores: NDArray[np.float32], ids: NDArray[Any], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Bring given neighbour lists (n, w) to the form of `NeighborIndex.neighbors`, k wide."""
    out_scores = np.empty((len(ids), k), np.float32)
    out_ids = np.empty((len(ids), k), np.int32)
    lists.tidy_lists(scores, ids, 0, out_scores, out_ids)
    return out_scores, out_ids


def _blocks(begin: int, n: int, progress: bool, description: str) -> Iterator[int]:
    """Yield the first row of each block from `begin`, under a bar that counts rows."""
    with tqdm(total=n, initial=begin, desc=description, unit="row", disable=not progress) as bar:
        for start in range(begin, n, _BLOCK):
            yield start
            bar.update(min(_BLOCK, n - start))


def _build_faiss(
    vectors: NDArray[np.float32], metric: str, method: IVF | HNSW, progress: bool
) -> Any:
    import faiss

    n, d = vectors.shape
    measure = faiss.METRIC_L2 if metric == "euclidean" else faiss.METRIC_INNER_PRODUCT
    if isinstance(method, HNSW):
        index: Any = faiss.IndexHNSWFlat(d, method.m, measure)
        index.hnsw.efConstruction = method.ef_construction
    else:
        largest = max(1, n // 39)
        nlist = method.nlist if method.nlist is not None else int(4 * n**0.5)
        index = faiss.IndexIVFFlat(faiss.IndexFlat(d, measure), d, min(nlist, largest), measure)
        index.train(vectors)
    for start in _blocks(0, n, progress, f"{method.name} build"):
        index.add(vectors[start : start + _BLOCK])
    return index
