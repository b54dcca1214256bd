"""The methods of neighbour search: their settings, and what faiss and pynndescent do for them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..errors import DiffusionError
from ..validation import METRICS, check_choice, check_integer
from .progress import row_blocks

# Vectors for each cell of an inverted file, below which faiss's k-means complains.
_LEAST_PER_CELL = 39


@dataclass(frozen=True)
class Exact:
    """Comparison with every vector, in blocks: exact, O(n d) a query, no memory of its own."""

    name: ClassVar[str] = "exact"


class FaissMethod(ABC):
    """A method whose index is faiss's own, which holds the vectors."""

    name: ClassVar[str]

    @abstractmethod
    def new_index(self, n: int, d: int, measure: int) -> Any:
        """Return an empty faiss index for n vectors of dimension d; `measure` is faiss's metric."""

    @abstractmethod
    def set_effort(self, index: Any, k: int) -> None:
        """Make an index search for k neighbours as the settings say."""

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

    def new_index(self, n: int, d: int, measure: int) -> Any:
        """Return an empty, untrained index."""
        import faiss

        nlist = self.nlist if self.nlist is not None else int(4 * n**0.5)
        nlist = min(nlist, max(1, n // _LEAST_PER_CELL))
        return faiss.IndexIVFFlat(faiss.IndexFlat(d, measure), d, nlist, measure)

    def set_effort(self, index: Any, k: int) -> None:
        """Set the number of cells that are searched."""
        index.nprobe = self.nprobe


@dataclass(frozen=True)
class HNSW(FaissMethod):
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

    def new_index(self, n: int, d: int, measure: int) -> Any:
        """Return an empty index."""
        import faiss

        index = faiss.IndexHNSWFlat(d, self.m, measure)
        index.hnsw.efConstruction = self.ef_construction
        return index

    def set_effort(self, index: Any, k: int) -> None:
        """Set the number of candidates that are kept."""
        index.hnsw.efSearch = max(self.ef_search, k)


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

    def descend(self, vectors: NDArray[np.float32], width: int) -> NDArray[np.int32]:
        """List `width` near items of each, itself among them, in no certain order, -1 padded."""
        from pynndescent import NNDescent as Descent

        # On unit vectors the Euclidean distance has the order of the cosine.
        ids, _ = Descent(
            vectors,
            metric="euclidean",
            n_neighbors=width,
            n_trees=self.n_trees,
            n_iters=self.n_iters,
            random_state=self.seed,
        ).neighbor_graph
        return ids


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


def check_metric(metric: object, method: Method) -> str:
    """Return the metric if it is one and goes with the method."""
    metric = check_choice(metric, "metric", METRICS)
    if metric == "inner_product" and isinstance(method, NNDescent):
        raise DiffusionError(
            "metric: 'inner_product' is no metric, on which nearest-neighbour descent rests; "
            "expected 'cosine' or 'euclidean', or another neighbors method"
        )
    return metric


def search_all(
    vectors: NDArray[np.float32], queries: NDArray[np.float32], k: int, metric: str
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Compare queries with every vector; return faiss's own measures and ids (m, k)."""
    import faiss

    return faiss.knn(queries, vectors, k, metric=_measure(metric))


def _measure(metric: str) -> int:
    import faiss

    return faiss.METRIC_L2 if metric == "euclidean" else faiss.METRIC_INNER_PRODUCT
