"""The methods of neighbour search: their settings, and the calls of faiss and pynndescent."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from ..errors import DiffusionError
from ..storage.contents import Array, Arrays, Between, Layout
from ..validation import METRICS, check_choice, check_integer, check_real
from .progress import row_blocks

# Vectors per cell of an inverted file, on average: fewer leave k-means nothing to average.
_LEAST_PER_CELL = 39

# By how much recall may fall below the target of `Auto` before it chooses again.
_SHORT = 0.01


@dataclass(frozen=True)
class Exact:
    """Exact search: compare each query with every vector.

    It takes O(n d) time per query and no memory beyond the vectors.
    """

    name: ClassVar[str] = "exact"


@dataclass(frozen=True)
class Auto:
    """Exact search while it is the faster, otherwise an inverted file tuned on a sample.

    Which of the two is decided from the number of vectors and their dimension. The cells of the
    inverted file come from k-means. The true neighbours of 512 sampled items then show how many
    cells must be searched for the recall; the target must be exceeded by two standard errors of
    the sample.

    If exact search would take less time after all, it is used. If the recall would need
    comparisons with more than 262,144 vectors per item, which happens with millions of vectors
    that have no structure, as many cells are searched as that allows, and a warning states the
    recall. The recall that was measured is stored with an index, and `diffusion info` prints it.

    Parameters
    ----------
    recall : float in (0, 1), default 0.98
        Mean share of the true k nearest neighbours in the lists.
    """

    recall: float = 0.98

    name: ClassVar[str] = "auto"

    def __post_init__(self) -> None:
        recall = check_real(self.recall, "recall", low=0.0, high=1.0, strict=True)
        object.__setattr__(self, "recall", recall)

    def missed(self, before: float | None, after: float | None) -> bool:
        """Return whether a change of the collection has taken the recall below the target.

        A recall that was lower before would remain so, whatever is chosen.
        """
        low = self.recall - _SHORT
        return before is not None and after is not None and after < low <= before


@dataclass(frozen=True)
class IVF:
    """Inverted file: k-means cells, of which the `nprobe` nearest to a query are searched.

    Parameters
    ----------
    nlist : int >= 1, optional
        Number of cells, 4 √n by default. It is reduced where needed to leave 39 vectors per cell.
        Cells with more than 16 times the average number of vectors are divided.
    nprobe : int >= 1, default 16
        Number of cells searched per query. Larger values are slower and more accurate.

    Notes
    -----
    The lists of a collection are found cell by cell, with matrix products of the items that search
    a cell and the vectors in it. While it searches, the BLAS libraries of the process use one
    thread, because the loop around them uses all cores.

    Memory: the vectors, which are copied once while the cells are made, and 4 bytes per vector.
    After changes of the collection there may be room for half as many vectors more.
    """

    nlist: int | None = None
    nprobe: int = 16

    name: ClassVar[str] = "ivf"

    def __post_init__(self) -> None:
        if self.nlist is not None:
            object.__setattr__(self, "nlist", check_integer(self.nlist, "nlist", low=1))
        object.__setattr__(self, "nprobe", check_integer(self.nprobe, "nprobe", low=1))

    def cells(self, n: int) -> int:
        """Return the number of cells for n vectors."""
        nlist = self.nlist if self.nlist is not None else int(4 * n**0.5)
        return min(nlist, max(1, n // _LEAST_PER_CELL))


@dataclass(frozen=True)
class HNSW:
    """Hierarchical navigable small-world graph of faiss.

    What is stored are the vectors and the arrays of the graph. faiss's own format is not used:
    faiss follows whatever such a file says, to any address. Items are added to the graph; after a
    removal it is built again, because faiss takes no vector out of it.

    Parameters
    ----------
    m : int >= 2, default 32
        Links per vector. They take 8 m bytes per vector in addition to the vectors.
    ef_construction : int >= 1, default 80
        Number of candidates kept while the index is built.
    ef_search : int >= 1, default 128
        Number of candidates kept while searching; at least k are kept.
    """

    m: int = 32
    ef_construction: int = 80
    ef_search: int = 128

    name: ClassVar[str] = "hnsw"

    def __post_init__(self) -> None:
        for name, low in (("m", 2), ("ef_construction", 1), ("ef_search", 1)):
            object.__setattr__(self, name, check_integer(getattr(self, name), name, low=low))

    def build(self, vectors: NDArray[np.float32], metric: str, *, progress: bool) -> Any:
        """Return a faiss index that holds the vectors (n, d)."""
        index = self.new_index(vectors.shape[1], _measure(metric))
        for block in row_blocks(len(vectors), "hnsw build", show=progress):
            index.add(vectors[block])
        return index

    def extended(self, index: Any, vectors: NDArray[np.float32], *, progress: bool) -> Any:
        """Return a copy of a faiss index to which vectors (m, d) have been added."""
        import faiss

        index = faiss.clone_index(index)
        for block in row_blocks(len(vectors), "hnsw build", show=progress):
            index.add(vectors[block])
        return index

    def new_index(self, d: int, measure: int) -> Any:
        """Return an empty faiss index for vectors of dimension d and faiss's metric `measure`."""
        import faiss

        index = faiss.IndexHNSWFlat(d, self.m, measure)
        index.hnsw.efConstruction = self.ef_construction
        return index

    def effort(self, index: Any, k: int) -> Any:
        """Return faiss's parameters of one search for k neighbours.

        They go with the search: set on the index, which threads share, they would hold for the
        searches of others too.
        """
        import faiss

        parameters: Any = faiss.SearchParametersHNSW  # type: ignore[attr-defined]  # made by SWIG
        # faiss allocates this many candidates, of which there are no more than vectors.
        return parameters(efSearch=min(max(self.ef_search, k), index.ntotal))

    def arrays(self, index: Any) -> dict[str, NDArray[Any]]:
        """Return the number of levels of each vector, all links, and the first vector."""
        import faiss

        graph = index.hnsw
        return {
            "hnsw_levels": faiss.vector_to_array(graph.levels),
            "hnsw_links": faiss.vector_to_array(graph.neighbors),
            "hnsw_entry": np.array([graph.entry_point], np.int32),
        }

    def layout(self, arrays: Arrays, n: int, d: int) -> Layout:
        """Return what the arrays must be."""
        # The places of the links of a vector are computed in int32.
        if self.m >= 1 << 20 or 2 * self.m * n > len(arrays["hnsw_links"]):
            raise ValueError(f"m: {self.m} links for each of {n} vectors")
        return {
            "hnsw_entry": Array(np.int32, (1,), Between(0, n - 1)),
            "hnsw_levels": Array(np.int32, (n,), Between(1, len(self._places()) - 1)),
            "hnsw_links": Array(np.int32, ("links",), _Links(-1, n - 1, self)),
        }

    def restored(self, arrays: Arrays, vectors: NDArray[np.float32], metric: str) -> Any:
        """Return an index with the vectors and their links."""
        import faiss

        n, d = vectors.shape
        index = self.new_index(d, _measure(metric))
        index.storage.add(vectors)
        index.ntotal = n
        graph, levels = index.hnsw, arrays["hnsw_levels"]
        faiss.copy_array_to_vector(levels, graph.levels)
        faiss.copy_array_to_vector(self.offsets(levels).astype(np.uint64), graph.offsets)
        faiss.copy_array_to_vector(arrays["hnsw_links"], graph.neighbors)
        graph.entry_point = int(arrays["hnsw_entry"][0])
        graph.max_level = int(levels[graph.entry_point]) - 1
        return index

    def offsets(self, levels: NDArray[np.int32]) -> NDArray[np.int64]:
        """Return where the links of each vector begin, from its number of levels; (n + 1,)."""
        offsets = np.zeros(len(levels) + 1, np.int64)
        np.cumsum(self._places()[levels], out=offsets[1:])
        return offsets

    def links_stay_on_their_level(
        self, levels: NDArray[np.int32], links: NDArray[np.int32]
    ) -> bool:
        """Return whether all links above the lowest level lead to vectors that reach their level.

        faiss reads the links of such a vector on that level, and has no others.
        """
        places, offsets = self._places(), self.offsets(levels)
        for level in range(1, int(levels.max())):
            own = offsets[np.flatnonzero(levels > level)]
            for place in range(int(places[level]), int(places[level + 1])):
                linked = links[own + place]
                if (levels[linked[linked >= 0]] <= level).any():
                    return False
        return True

    def _places(self) -> NDArray[np.int32]:
        """Return how many links a vector has below each level, from 0 to the highest possible."""
        import faiss

        # The vector that is copied belongs to the index.
        index = self.new_index(1, faiss.METRIC_L2)
        return faiss.vector_to_array(index.hnsw.cum_nneighbor_per_level)


@dataclass(frozen=True)
class _Links(Between):
    """The links of an HNSW index: ids of vectors, padded with -1."""

    method: HNSW = HNSW()

    def whole(self, array: NDArray[Any], arrays: Arrays) -> bool:
        """Return whether there are as many as the levels say, and they lead to the right ones."""
        levels, entry = arrays["hnsw_levels"], int(arrays["hnsw_entry"][0])
        return (
            int(self.method.offsets(levels)[-1]) == len(array)
            and levels[entry] == levels.max()
            and array.min() >= -1
            and array.max() < len(levels)
            and self.method.links_stay_on_their_level(levels, array)
        )

    def __str__(self) -> str:
        return "the links of a graph of vectors on their levels"


@dataclass(frozen=True)
class NNDescent:
    """Nearest-neighbour descent of pynndescent, used for the collection's neighbour lists.

    A query is compared with every vector, as `Exact` does. The method does not support the inner
    product, which is not a metric.

    Parameters
    ----------
    n_trees : int >= 1, optional
        Number of random projection trees; pynndescent's default grows with n.
    n_iters : int >= 1, optional
        Number of iterations; pynndescent's default grows with n.
    seed : int >= 0, default 0
        Seed of the random number generator.
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

    def descend(self, vectors: NDArray[np.float32], width: int) -> NDArray[np.int32]:
        """List `width` near items of each vector, usually with itself, padded with -1."""
        from pynndescent import NNDescent as Descent

        with _threads_of_numba():
            # On unit vectors the Euclidean distance orders items as the cosine does.
            ids, _ = Descent(
                vectors,
                metric="euclidean",
                n_neighbors=width,
                n_trees=self.n_trees,
                n_iters=self.n_iters,
                random_state=self.seed,
            ).neighbor_graph
        return ids


# Not all of numba's threading layers may be used by several threads at the same time.
_descending = threading.Lock()
_used_by: set[int] = set()  # the processes that have started numba's threads


@contextlib.contextmanager
def _threads_of_numba() -> Iterator[None]:
    """Reserve the threads that pynndescent's compiled loops run on.

    Raises
    ------
    DiffusionError
        If the process was forked from one that had started them. They do not survive a fork, and
        numba would abort the process.
    """
    if _used_by - {os.getpid()}:
        raise DiffusionError(
            "neighbors: the process was forked after a search by 'nndescent', whose threads do not "
            "survive a fork; expected the start method 'spawn', or another method"
        )
    # numba's first launch sets the number of threads of the OpenMP library that it loads. If torch
    # uses the same library, that would change the last bits of all later convolutions.
    loaded = ThreadpoolController().select(user_api="openmp").lib_controllers
    before = [(library, library.num_threads) for library in loaded]
    with _descending:
        _used_by.add(os.getpid())
        try:
            yield
        finally:
            for library, threads in before:
                library.set_num_threads(threads)


@dataclass(frozen=True)
class Given:
    """The caller's own index, which is given beside the vectors and not stored."""

    name: ClassVar[str] = "given"


Method = Auto | Exact | IVF | HNSW | NNDescent | Given
# Those that a parameter can name.
METHODS: dict[str, type[Method]] = {m.name: m for m in (Auto, Exact, IVF, HNSW, NNDescent)}


def make_method(method: object) -> Method:
    """Return the search method that a name or an object of settings stands for.

    Raises
    ------
    DiffusionError
        If the name or the type is unknown.
    """
    if isinstance(method, str) and method in METHODS:
        return METHODS[method]()
    if isinstance(method, tuple(METHODS.values())):
        return method  # type: ignore[return-value]
    names = ", ".join(repr(name) for name in METHODS)
    raise DiffusionError(
        f"neighbors: expected one of {names} or an object such as IVF(nprobe=8), got {method!r}"
    )


def check_metric(metric: object, method: Method) -> str:
    """Return the metric if it is known and the method supports it.

    Raises
    ------
    DiffusionError
        If the metric is unknown, or is the inner product with nearest-neighbour descent.
    """
    metric = check_choice(metric, "metric", METRICS)
    if metric == "inner_product" and isinstance(method, NNDescent):
        raise DiffusionError(
            "metric: nearest-neighbour descent does not support 'inner_product', which is not a "
            "metric; expected 'cosine' or 'euclidean', or another neighbors method"
        )
    return metric


def search_all(
    vectors: NDArray[np.float32], queries: NDArray[np.float32], k: int, metric: str
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Compare queries with every vector; return faiss's distances or products, and ids (m, k)."""
    import faiss

    return faiss.knn(queries, vectors, k, metric=_measure(metric))


def _measure(metric: str) -> int:
    import faiss

    return faiss.METRIC_L2 if metric == "euclidean" else faiss.METRIC_INNER_PRODUCT
