"""A graph and a first stage from a faiss index that exists, without its vectors at hand."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import faiss
import numpy as np
from numpy.typing import NDArray

from ..errors import DiffusionError
from ..reranker import Reranker
from ..reranker import load as load_reranker

# The error of the norm of a unit vector that was rounded to half precision before it was added.
_ROUNDING = 1e-3

# Values whose norms are computed at a time.
_BLOCK_VALUES = 1 << 20

# The metric of vectors that are not normalised, by that of the index.
_METRICS = {faiss.METRIC_INNER_PRODUCT: "inner_product", faiss.METRIC_L2: "euclidean"}

_KINDS = (
    "a faiss index that stores its vectors as float32: IndexFlat, IndexIVFFlat, IndexHNSWFlat, "
    "IndexNSGFlat, IndexRefineFlat, or IndexIDMap, IndexIDMap2 or an IndexPreTransform that "
    "divides by norms, around one of these"
)


def fit_index(
    index: Any,
    *,
    ids: Mapping[int, Any] | Sequence[Any] | NDArray[Any] | None = None,
    metric: str | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    **parameters: Any,
) -> Reranker:
    """Build a Reranker from a faiss index.

    The graph is built from searches of the index for its own vectors, and the index is the first
    stage of `Reranker.search`. It is not changed, and its search settings, such as `nprobe`, are
    used as they are.

    Parameters
    ----------
    index : faiss.Index
        An index that stores its vectors as float32: IndexFlat, IndexIVFFlat, IndexHNSWFlat,
        IndexNSGFlat, IndexRefineFlat, or IndexIDMap, IndexIDMap2 or the L2 normalisation of an
        IndexPreTransform around one of these. For other kinds, which keep the vectors only
        approximately, pass the vectors: ``Reranker().fit(X, index=index)``.
    ids : mapping or sequence, optional
        The id by which the Reranker names each item, int or str, by the id that the index has for
        it. A mapping, such as the `index_to_docstore_id` of LangChain's FAISS, or a sequence if
        the ids of the index are the numbers from 0. By default, the items have the ids of the
        index.
    metric : {"cosine", "inner_product", "euclidean"}, optional
        By default, it is decided by the vectors and the index. If all vectors have norm 1 (to
        1e-3), it is `"cosine"`, for METRIC_INNER_PRODUCT as well as METRIC_L2, which puts unit
        vectors into the same order. Otherwise, METRIC_INNER_PRODUCT is `"inner_product"` and
        METRIC_L2 is `"euclidean"`.
    checkpoint : path-like, optional
        As `Reranker.fit` takes it.
    **parameters
        Those of `Reranker`.

    Returns
    -------
    Reranker
        Fitted. `add` and `remove` are not available: after a change of the index, call `fit_index`
        again. Saved with `Reranker.save`, it is opened with `load_index`.

    Raises
    ------
    DiffusionError
        If the index is empty, of another kind or metric, or repeats an id; if `ids` or a parameter
        is not as described.

    Notes
    -----
    Memory: while the graph is built, the vectors of the index in float32 and one copy of them, or
    two if the index has ids of its own. Afterwards, the vectors are only in the index, and 8 bytes
    per item are used if it has ids of its own.

    Each vector becomes a node, also where vectors are identical (see the notes of `Reranker`).

    Examples
    --------
    >>> import faiss, numpy as np
    >>> from diffusion.integrations.faiss import fit_index
    >>> angle = np.linspace(0, np.pi, 60)
    >>> X = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype("float32")
    >>> index = faiss.IndexIDMap(faiss.IndexFlatIP(2))
    >>> index.add_with_ids(X, np.arange(1000, 1060))
    >>> ranker = fit_index(index, k=4, query_k=2)
    >>> ranker.metric, sorted(ranker.search(X[0], k=3)[1].tolist())
    ('cosine', [1000, 1001, 1002])
    """
    items = _Items.of(index, ids)
    X = items.vectors()
    ranker = Reranker(metric=_metric(index, X) if metric is None else metric, **parameters)
    if ranker.metric == "cosine" and not _is_unit(X):
        raise DiffusionError(
            "metric: expected vectors of norm 1 in the index for 'cosine'; others are searched by "
            "'inner_product' or 'euclidean'"
        )
    return ranker.fit(
        X, ids=items.names, index=items.first_stage(ranker.metric), checkpoint=checkpoint
    )


def load_index(
    path: str | os.PathLike[str],
    index: Any,
    *,
    ids: Mapping[int, Any] | Sequence[Any] | NDArray[Any] | None = None,
    verify: bool = False,
    device: str = "cpu",
) -> Reranker:
    """Open a Reranker that `fit_index` has built, with its index.

    Parameters
    ----------
    path : path-like
        A directory that `Reranker.save` has written.
    index : faiss.Index
        The index that `fit_index` was given. `Reranker.save` does not store it; use
        `faiss.write_index` and `faiss.read_index`.
    ids : mapping or sequence, optional
        What `fit_index` was given.
    verify, device
        As `diffusion.load` takes them.

    Returns
    -------
    Reranker

    Raises
    ------
    DiffusionError
        If the index has other items than the Reranker, or in the cases in which `diffusion.load`
        raises it.
    """
    items = _Items.of(index, ids)
    ranker = load_reranker(path, verify=verify)
    names = np.arange(index.ntotal) if items.names is None else np.asarray(items.names)
    dimension = getattr(ranker, "n_features_in_", None)
    if ranker.ids_.tolist() != names.tolist() or dimension != index.d:
        raise DiffusionError(
            f"index: expected the index and the ids that {os.fspath(path)} was fitted with, of "
            f"{ranker.n_items_} items of dimension {dimension}; got {len(names)} of dimension "
            f"{index.d}, or other ids"
        )
    return load_reranker(path, device=device, index=items.first_stage(ranker.metric))


class _Items(NamedTuple):
    """The items of an index. Row i of a Reranker is the item with the ith lowest id.

    Attributes
    ----------
    index : faiss.Index
        The caller's object: another one for the same index would not keep it alive.
    own : ndarray, shape (n,), int64
        The ids that the index has for the items, ascending.
    names : array_like, shape (n,), or None
        The ids that the Reranker has for them; None for row numbers.
    """

    index: Any
    own: NDArray[np.int64]
    names: Any

    @classmethod
    def of(cls, index: Any, ids: Any) -> _Items:
        """Check an index and the caller's ids."""
        if not isinstance(index, faiss.Index):
            raise _error(f"expected {_KINDS}, got {type(index).__name__}")
        kind = type(_downcast(index)).__name__
        if index.metric_type not in _METRICS:
            raise _error(
                "expected METRIC_INNER_PRODUCT or METRIC_L2, got metric type "
                f"{index.metric_type} of faiss"
            )
        if index.ntotal == 0:
            raise _error(f"expected an index that has vectors, got an empty {kind}")
        own = np.sort(np.concatenate([ids for ids, _ in _parts(index)]))
        repeated = own[1:][own[1:] == own[:-1]]
        if len(repeated):
            raise _error(f"expected each id once, this {kind} has {repeated[0]} more than once")
        rows = np.array_equal(own, np.arange(len(own)))
        if ids is None:
            return cls(index, own, None if rows else own)
        if isinstance(ids, Mapping):
            missing = [i for i in own.tolist() if i not in ids]
            if missing:
                raise DiffusionError(
                    f"ids: expected one for each id of the index, {missing[0]} has none"
                )
            return cls(index, own, [ids[i] for i in own.tolist()])
        if not rows:
            raise DiffusionError(
                f"ids: expected a mapping from the ids of the index, because this {kind} has ids "
                f"of its own; got {type(ids).__name__}"
            )
        return cls(index, own, ids)

    def vectors(self) -> NDArray[np.float32]:
        """Return the vectors, shape (n, d), in the order of the ids."""
        out = None
        for ids, vectors in _parts(self.index):
            if np.array_equal(ids, self.own):
                return vectors
            out = np.empty((len(self.own), self.index.d), np.float32) if out is None else out
            out[np.searchsorted(self.own, ids)] = vectors
        return cast("NDArray[np.float32]", out)

    def first_stage(self, metric: str) -> Any:
        """Return what a Reranker takes as its index."""
        plain = _METRICS[self.index.metric_type]
        if metric not in ("cosine", plain):
            raise DiffusionError(
                f"metric: expected 'cosine' or {plain!r}, which the index has, got {metric!r}"
            )
        rows = np.array_equal(self.own, np.arange(len(self.own)))
        if rows and not isinstance(_downcast(self.index), faiss.IndexIDMap):
            return self.index
        return _OwnIds(self.index, self.own, metric)


class _OwnIds:
    """An index with ids of its own, whose searches return row numbers.

    Parameters
    ----------
    index : faiss.Index
    ids : ndarray, shape (n,), int64
        Ascending; the row of an id is its place.
    metric : str
        The metric of the Reranker.
    """

    def __init__(self, index: Any, ids: NDArray[np.int64], metric: str) -> None:
        self._index, self._ids = index, ids
        # Of unit vectors: ||x - y||² = 2 - 2 <x, y>.
        self._halved = metric == "cosine" and index.metric_type == faiss.METRIC_L2

    def search(
        self, queries: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return scores and rows (m, k), padded with -1."""
        scores, found = self._index.search(queries, k)
        rows = np.minimum(np.searchsorted(self._ids, found), len(self._ids) - 1)
        strange = (self._ids[rows] != found) & (found != -1)
        if strange.any():
            raise _error(
                "expected it as it was when the graph was built, it returned the id "
                f"{found[strange][0]}, which it did not have then"
            )
        return (1 - scores / 2 if self._halved else scores), np.where(found == -1, -1, rows)


# --- what an index holds --------------------------------------------------------------------------


def _parts(index: Any) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Yield ids (m,) and vectors (m, d) of all items of an index; arrays of the index, no copies.

    `reconstruct_n` would need an index of row numbers: an IndexIVF with other ids returns the
    vectors of others, and an IndexIDMap ends the process.
    """
    index = _downcast(index)
    if type(index) in (faiss.IndexFlat, faiss.IndexFlatIP, faiss.IndexFlatL2):
        vectors = _array(index.get_xb(), index.ntotal * index.d)
        yield np.arange(index.ntotal), vectors.reshape(index.ntotal, index.d)
    elif type(index) is faiss.IndexIVFFlat:
        lists: Any = index.invlists
        for cell in range(index.nlist):
            size = lists.list_size(cell)
            if size:
                codes = _array(lists.get_codes(cell), size * index.code_size)
                vectors = codes.view(np.float32).reshape(size, index.d)
                yield _array(lists.get_ids(cell), size), vectors
    elif type(index) in (faiss.IndexHNSWFlat, faiss.IndexNSGFlat):
        yield from _parts(index.storage)
    elif isinstance(index, faiss.IndexRefine):
        yield from _parts(index.refine_index)
    elif isinstance(index, faiss.IndexPreTransform) and _only_normalises(index):
        yield from _parts(index.index)
    elif isinstance(index, faiss.IndexIDMap):
        outer = faiss.vector_to_array(index.id_map)
        for rows, vectors in _parts(index.index):
            if rows.max(initial=0) >= len(outer):
                raise _error(
                    "expected an IndexIDMap whose inner index has row numbers; this one lost them, "
                    "as it does when vectors are removed from an IndexIVF in it"
                )
            yield outer[rows], vectors
    else:
        raise _error(
            f"expected {_KINDS}, got {type(index).__name__}; with the vectors at hand, "
            "Reranker().fit(X, index=index) takes other kinds as well"
        )


def _downcast(index: Any) -> Any:
    """Return an index as an object of its own class, which does not keep it alive."""
    return faiss.downcast_index(index)


def _array(pointer: Any, size: int) -> NDArray[Any]:
    """Return the values at a pointer of faiss."""
    return faiss.rev_swig_ptr(pointer, size)


def _only_normalises(index: Any) -> bool:
    """Return whether vectors are divided by their norms and nothing else."""
    steps = [faiss.downcast_VectorTransform(index.chain.at(i)) for i in range(index.chain.size())]
    return all(isinstance(s, faiss.NormalizationTransform) and s.norm == 2 for s in steps)


def _metric(index: Any, X: NDArray[np.float32]) -> str:
    return "cosine" if _is_unit(X) else _METRICS[index.metric_type]


def _is_unit(X: NDArray[np.float32]) -> bool:
    rows = max(1, _BLOCK_VALUES // X.shape[1])
    norms = (np.linalg.norm(X[start : start + rows], axis=1) for start in range(0, len(X), rows))
    return all((np.abs(part - 1) <= _ROUNDING).all() for part in norms)


def _error(message: str) -> DiffusionError:
    return DiffusionError(f"index: {message}")
