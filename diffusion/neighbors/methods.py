"""The methods of neighbour search: their settings, and the calls of faiss and pynndescent."""

from __future__ import annotations

import contextlib
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from ..errors import DiffusionError
from ..validation import METRICS, check_choice, check_integer
from .progress import row_blocks

# Vectors per cell of an inverted file below which faiss's k-means warns.
_LEAST_PER_CELL = 39


@dataclass(frozen=True)
class Exact:
    """Exact search: compare each query with every vector.

    It takes O(n d) time per query and no memory beyond the vectors.
    """

    name: ClassVar[str] = "exact"


class FaissMethod(ABC):
    """A method that keeps the vectors in a faiss index."""

    name: ClassVar[str]

    @abstractmethod
    def new_index(self, n: int, d: int, measure: int) -> Any:
        """Return an empty faiss index for n vectors of dimension d and faiss's metric `measure`."""

    @abstractmethod
    def set_effort(self, index: Any, k: int) -> None:
        """Apply the search settings to an index before a search for k neighbours."""

    def build(self, vectors: NDArray[np.float32], metric: str, *, progress: bool) -> Any:
        """Return a faiss index that holds the vectors (n, d)."""
        n, d = vectors.shape
        index = self.new_index(n, d, _measure(metric))
        if not index.is_trained:
            index.train(vectors)
        for block in row_blocks(n, f"{self.name} build", show=progress):
            index.add(vectors[block])
        return index


@dataclass(frozen=True)
class IVF(FaissMethod):
    """Inverted file of faiss: k-means cells, of which the nearest `nprobe` are searched.

    Parameters
    ----------
    nlist : int >= 1, optional
        Number of cells, 4 √n by default. It is reduced where needed to leave 39 vectors per cell,
        the minimum that faiss recommends.
    nprobe : int >= 1, default 16
        Number of cells searched per query. Larger values are slower and more accurate.
    """

    nlist: int | None = None
    nprobe: int = 16

    name: ClassVar[str] = "ivf"

    def __post_init__(self) -> None:
        if self.nlist is not None:
            object.__setattr__(self, "nlist", check_integer(self.nlist, "nlist", low=1))
        object.__setattr__(self, "nprobe", check_integer(self.nprobe, "nprobe", low=1))

    def new_index(self, n: int, d: int, measure: int) -> Any:
        """Return an empty, untrained index."""
        import faiss

        nlist = self.nlist if self.nlist is not None else int(4 * n**0.5)
        nlist = min(nlist, max(1, n // _LEAST_PER_CELL))
        return faiss.IndexIVFFlat(faiss.IndexFlat(d, measure), d, nlist, measure)

    def set_effort(self, index: Any, k: int) -> None:
        """Set the number of cells searched per query."""
        index.nprobe = self.nprobe


@dataclass(frozen=True)
class HNSW(FaissMethod):
    """Hierarchical navigable small-world graph of faiss.

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

    def new_index(self, n: int, d: int, measure: int) -> Any:
        """Return an empty index."""
        import faiss

        index = faiss.IndexHNSWFlat(d, self.m, measure)
        index.hnsw.efConstruction = self.ef_construction
        return index

    def set_effort(self, index: Any, k: int) -> None:
        """Set the number of candidates kept."""
        index.hnsw.efSearch = max(self.ef_search, k)


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


Method = Exact | IVF | HNSW | NNDescent
METHODS: dict[str, type[Method]] = {m.name: m for m in (Exact, IVF, HNSW, NNDescent)}


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
