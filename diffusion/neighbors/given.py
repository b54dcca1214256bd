"""Search in an index that the caller has: one of faiss, or any object that can search."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..change import Change
from ..errors import DiffusionError
from ..validation import as_lists
from .index import NeighborIndex, SearchIndex
from .methods import Given

# Items whose listed scores are compared with the vectors, and the error, relative to the squared
# norms, that no index with compressed vectors has in the median.
_SAMPLE, _ERROR = 256, 0.25

# The largest rise of a score within a list, relative to the largest score, that rounding explains.
_ROUNDING = 1e-4


class GivenIndex(SearchIndex):
    """An index of the caller.

    Parameters
    ----------
    index : object or None
        An index of faiss, or an object with ``search(Q, k)``; see `Reranker.fit`. None stands for
        one that is not at hand: only searching raises an error then.
    metric : {"cosine", "inner_product", "euclidean"}
    shape : tuple of int
        Number of vectors and dimension.

    Raises
    ------
    DiffusionError
        If the index cannot be of vectors of this number, dimension and metric.
    """

    def __init__(self, index: Any, metric: str, shape: tuple[int, int]) -> None:
        self.metric = metric
        self.method = Given()
        self.size, self.dimension = shape
        self._index = index
        # How the results of the index become similarities: factor and summand.
        self._scale = -1.0 if metric == "euclidean" else 1.0
        self._shift = 0.0
        if index is None:
            return
        if _is_of_faiss(index):
            self._check_faiss(index)
        elif not callable(getattr(index, "search", None)):
            raise _error(f"expected a faiss index or an object with search(Q, k), got {index!r}")

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return nothing: the index is not stored."""
        return {}

    def changed(
        self,
        change: Change,
        vectors: NDArray[np.float32] | None = None,
        *,
        progress: bool = False,
    ) -> NeighborIndex:
        """Raise an error: only the caller can change the index."""
        raise _unchangeable()

    def vectors_of(self, rows: NDArray[np.integer]) -> NDArray[np.float32]:
        """Raise an error: what an index of the caller's returns need not be its vectors."""
        raise _unchangeable()

    def check_scores(self, vectors: NDArray[np.float32]) -> None:
        """Check that the index is of these vectors, from the lists of some of them.

        Raises
        ------
        DiffusionError
            If the scores are far from those of the vectors that the ids stand for: the index holds
            other vectors, or in another order, or for the cosine vectors that are not normalised.
        """
        rows = np.random.default_rng(0).permutation(len(vectors))[:_SAMPLE]
        queries = vectors[rows]
        scores, ids = self._found(queries, min(10, self.size))
        row, place = np.nonzero(ids >= 0)
        own, others = queries[row].astype(float), vectors[ids[row, place]].astype(float)
        if self.metric == "euclidean":
            expected = -((own - others) ** 2).sum(axis=1)
        else:
            expected = (own * others).sum(axis=1)
        norms = (own**2).sum(axis=1) + (others**2).sum(axis=1)
        error = np.abs(scores[row, place] - expected)
        real = norms > 0
        if real.any() and np.median(error[real] / norms[real]) > _ERROR / 2:
            worst = int(np.argmax(np.where(real, error, -1)))
            raise _error(
                "expected an index of the rows of X"
                f"{', divided by their norms' if self.metric == 'cosine' else ''}; search gives "
                f"{scores[row[worst], place[worst]]:.4g} for rows {rows[row[worst]]} and "
                f"{ids[row[worst], place[worst]]}, whose similarity is {expected[worst]:.4g}"
            )

    def _search_block(
        self, queries: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.float32], NDArray[Any]]:
        scores, ids = self._found(queries, k)
        if self.metric == "cosine":
            np.minimum(scores, np.float32(1), out=scores)
        return scores, ids

    def _found(
        self, queries: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.float32], NDArray[Any]]:
        """Search the index, and return checked similarities and ids."""
        if self._index is None:
            raise DiffusionError(
                "search: this index was built with an index of your own, which is not stored; "
                "expected diffusion.load(path, index=...), or a call of rerank(scores0, ids0)"
            )
        kind = type(self._index).__name__
        try:
            scores, ids = self._index.search(np.ascontiguousarray(queries), k)
            scores, ids = np.asarray(scores), np.asarray(ids)
        except DiffusionError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise _error(
                f"expected search(Q, k) of {kind} to return (scores, ids), it raised "
                f"{type(error).__name__}: {reason}"
            ) from error
        if ids.ndim != 2 or ids.shape != scores.shape or len(ids) != len(queries):
            raise _error(
                f"expected search(Q, k) of {kind} to return scores and ids of shape "
                f"{(len(queries), k)}, got {scores.shape} and {ids.shape}"
            )
        if ids.shape[1] > k:
            scores, ids = scores[:, :k], ids[:, :k]
        try:
            return self._similarities(scores, ids)
        except DiffusionError as error:
            raise _error(f"search(Q, k) of {kind}: {error}") from None

    def _similarities(
        self, scores: NDArray[Any], ids: NDArray[Any]
    ) -> tuple[NDArray[np.float32], NDArray[Any]]:
        """Return the results of a search as similarities, best first."""
        given = np.where(ids >= 0, scores, np.inf if self._scale < 0 else -np.inf)
        similar = self._scale * given.astype(np.float64) + self._shift
        with np.errstate(invalid="ignore"):
            rises = np.diff(similar, axis=1) > _ROUNDING * np.abs(similar[:, :-1])
        if (rises & (ids[:, 1:] >= 0)).any():
            row = int(np.argmax((rises & (ids[:, 1:] >= 0)).any(axis=1)))
            expected = "distances in ascending" if self._scale < 0 else "similarities in descending"
            raise DiffusionError(
                f"scores: expected {expected} order, padding last; row {row} has "
                f"{np.array2string(scores[row, :5], precision=4)} ..."
            )
        if self.metric == "euclidean":
            # Rounding can make a distance to itself a little smaller than 0.
            near = similar[ids >= 0]
            if near.size and near.max() > _ROUNDING * max(1.0, float(-near.min())):
                raise DiffusionError("scores: expected squared distances of at least 0")
            np.minimum(similar, 0, out=similar)
        names = ("scores", "ids")
        return as_lists(similar, ids, self.size, names=names, metric=self.metric)

    def _check_faiss(self, index: Any) -> None:
        """Check the type, the metric, the size and the ids of an index of faiss."""
        import faiss

        kind = type(index).__name__
        if not isinstance(index, faiss.Index):
            raise _error(
                f"expected a faiss index of float32 vectors, got {kind}, whose distances are those "
                "of binary codes or of another kind"
            )
        index = faiss.downcast_index(index)
        kind = type(index).__name__
        found = (index.ntotal, index.d)
        if found != (self.size, self.dimension):
            raise _error(
                f"expected {self.size} vectors of dimension {self.dimension}, got a {kind} of "
                f"{found[0]} of dimension {found[1]}"
            )
        if not index.is_trained:
            raise _error(f"expected a trained {kind}")
        product, distance = faiss.METRIC_INNER_PRODUCT, faiss.METRIC_L2
        allowed = {
            "cosine": (product, distance),
            "inner_product": (product,),
            "euclidean": (distance,),
        }[self.metric]
        if index.metric_type not in allowed:
            names = {product: "METRIC_INNER_PRODUCT", distance: "METRIC_L2"}
            expected = " or ".join(names[measure] for measure in allowed)
            got = names.get(index.metric_type, f"metric type {index.metric_type}")
            raise _error(f"metric={self.metric!r} expects a {expected} index, got {kind} of {got}")
        if self.metric == "cosine" and index.metric_type == distance:
            # Of unit vectors: ||x - y||² = 2 - 2 <x, y>.
            self._scale, self._shift = -0.5, 1.0
        if isinstance(index, faiss.IndexIDMap | faiss.IndexIDMap2):
            ids = faiss.vector_to_array(index.id_map)
            if not np.array_equal(ids, np.arange(self.size)):
                raise _error(
                    f"expected ids that are row numbers of X; this {kind} has others. Its inner "
                    "index has row numbers if its vectors were added in the order of X"
                )


def _is_of_faiss(index: object) -> bool:
    """Return whether an object is of a class of faiss, without importing it."""
    modules = {kind.__module__.split(".")[0] for kind in type(index).__mro__}
    return "faiss" in sys.modules and any(name in ("faiss", "swigfaiss") for name in modules)


def _unchangeable() -> DiffusionError:
    return _error(
        "an index of your own is not changed; expected fit(X, index=...) with the index and the "
        "vectors after the change"
    )


def _error(message: str) -> DiffusionError:
    return DiffusionError(f"index: {message}")
