"""Retrieval metrics: mAP, the trapezoidal mAP of the Oxford protocol, mP@k and recall@k.

Every metric takes `hits` and `n_relevant`. `hits` is a boolean array (nq, k) that says whether the
item at each rank is relevant; `n_relevant` (nq,) is the number of relevant items in the collection
for each query. A metric returns one value per query, NaN for a query without relevant items; the
mean over queries is `numpy.nanmean`. Junk, items that count neither as relevant nor as
irrelevant, is removed from the ranking beforehand, by the `junk` argument of `hits_from_lists`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import DiffusionError
from .validation import as_ids, as_numeric, check_integer

Values = NDArray[np.float64]

# Larger than every id.
_ANY = np.iinfo(np.int64).max


def hits_from_labels(
    ids: ArrayLike, gallery_labels: ArrayLike, query_labels: ArrayLike
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Judge rankings by class labels: an item is relevant if it has the label of the query.

    Parameters
    ----------
    ids : array_like, shape (nq, k), int
        Ranked items in [0, n), padded with -1. Lists of different lengths are accepted.
    gallery_labels : array_like, shape (n,)
    query_labels : array_like, shape (nq,)

    Returns
    -------
    hits : ndarray, shape (nq, k), bool
    n_relevant : ndarray, shape (nq,), int64

    Raises
    ------
    DiffusionError
        If the shapes do not match, an id is out of range or an item is repeated in a row.
    """
    ids = as_ids(ids, "ids", _ANY)
    gallery = _as_labels(gallery_labels, "gallery_labels")
    queries = _as_labels(query_labels, "query_labels")
    if gallery.ndim != 1 or not len(gallery):
        raise DiffusionError(f"gallery_labels: expected shape (n,), got {gallery.shape}")
    if queries.shape != ids.shape[:1]:
        raise DiffusionError(
            f"query_labels: expected shape ({len(ids)},), one for each row of ids, "
            f"got {queries.shape}"
        )
    if ids.size and (ids.min() < -1 or ids.max() >= len(gallery)):
        raise DiffusionError(
            f"ids: expected values in [-1, {len(gallery)}), the number of gallery_labels; got "
            f"[{ids.min()}, {ids.max()}]"
        )
    try:
        names, counts = np.unique(gallery, return_counts=True)
        where = np.minimum(np.searchsorted(names, queries), len(names) - 1)
        hits = (gallery[ids] == queries[:, None]) & (ids >= 0)
    except TypeError as error:  # such as None, or dates and numbers
        raise DiffusionError(
            f"query_labels: expected labels that can be compared with gallery_labels, of "
            f"{gallery.dtype}, got {queries.dtype} ({error})"
        ) from None
    return hits, np.where(names[where] == queries, counts[where], 0)


def hits_from_lists(
    ids: ArrayLike,
    relevant: Sequence[Collection[int]],
    junk: Sequence[Collection[int]] | None = None,
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Judge rankings by lists of relevant items, with junk removed from the rankings.

    Parameters
    ----------
    ids : array_like, shape (nq, k), int
        Ranked items, padded with -1. Lists of different lengths are accepted.
    relevant : sequence of nq collections of int
    junk : sequence of nq collections of int, optional
        Items that count neither as relevant nor as irrelevant; the items after them move up.

    Returns
    -------
    hits : ndarray, shape (nq, k), bool
        Without the junk; rows are filled with False at the end.
    n_relevant : ndarray, shape (nq,), int64
    """
    ids = as_ids(ids, "ids", _ANY, rows=len(relevant))
    if junk is not None and len(junk) != len(ids):
        raise DiffusionError(f"junk: expected {len(ids)} collections, got {len(junk)}")
    hits = np.zeros(ids.shape, bool)
    for row, wanted in enumerate(relevant):
        ranked = ids[row]
        if junk is not None:
            ranked = ranked[~np.isin(ranked, _as_items(junk[row], "junk"))]
        found = np.isin(ranked, _as_items(wanted, "relevant")) & (ranked >= 0)
        hits[row, : len(found)] = found
    return hits, np.array([len(set(wanted)) for wanted in relevant], dtype=np.int64)


def _as_labels(labels: ArrayLike, name: str) -> NDArray[Any]:
    try:
        return np.asarray(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DiffusionError(f"{name}: expected an array of labels ({error})") from None


def _as_items(items: Collection[int], name: str) -> NDArray[np.int64]:
    try:
        return np.fromiter(items, np.int64)
    except (TypeError, ValueError, OverflowError) as error:
        raise DiffusionError(f"{name}: expected collections of ids ({error})") from None


def _at_hits(hits: ArrayLike, n_relevant: ArrayLike) -> tuple[NDArray[np.bool_], Values, Values]:
    hits = as_numeric(hits, "hits").astype(bool)
    n_relevant = as_numeric(n_relevant, "n_relevant").astype(np.float64)
    if hits.ndim == 2 and not hits.shape[1]:  # nothing was found
        hits = np.zeros((len(hits), 1), bool)
    if hits.ndim != 2 or n_relevant.shape != hits.shape[:1]:
        raise DiffusionError(
            f"hits, n_relevant: expected shapes (nq, k) and (nq,), got {hits.shape} and "
            f"{n_relevant.shape}"
        )
    return hits, n_relevant, np.cumsum(hits, axis=1).astype(np.float64)


def _divide(sums: Values, n_relevant: Values) -> Values:
    return np.divide(sums, n_relevant, out=np.full(len(sums), np.nan), where=n_relevant > 0)


def average_precision(hits: ArrayLike, n_relevant: ArrayLike) -> Values:
    """Compute the average precision: the mean of the precision at the rank of each relevant item.

    A relevant item that is not in the list contributes 0. The mean over queries is the mAP of the
    full ranking only if the lists hold all relevant items. Of lists that are cut at k, it is
    mAP@k, which is lower.

    Examples
    --------
    Three relevant items, of which two are found, at ranks 1 and 3: (1/1 + 2/3 + 0) / 3.

    >>> average_precision([[True, False, True]], [3]).round(4).tolist()
    [0.5556]
    """
    hits, n_relevant, found = _at_hits(hits, n_relevant)
    precision = found / np.arange(1, hits.shape[1] + 1)
    return _divide((precision * hits).sum(axis=1), n_relevant)


def trapezoidal_average_precision(hits: ArrayLike, n_relevant: ArrayLike) -> Values:
    """Compute the area under the precision-recall curve by the trapezoidal rule.

    A relevant item at rank r contributes the mean of the precision at r and at r - 1, which is 1
    at rank 0. All published figures on Oxford5k and Paris6k follow this protocol.

    References
    ----------
    Philbin, Chum, Isard, Sivic, Zisserman. Object Retrieval with Large Vocabularies and Fast
    Spatial Matching. CVPR 2007.

    Examples
    --------
    Two relevant items, at ranks 1 and 3: ((1 + 1) / 2 + (1/2 + 2/3) / 2) / 2.

    >>> trapezoidal_average_precision([[True, False, True]], [2]).round(4).tolist()
    [0.7917]
    """
    hits, n_relevant, found = _at_hits(hits, n_relevant)
    precision = found / np.arange(1, hits.shape[1] + 1)
    before = np.concatenate([np.ones((len(hits), 1)), precision[:, :-1]], axis=1)
    return _divide(((precision + before) / 2 * hits).sum(axis=1), n_relevant)


def precision_at(
    hits: ArrayLike, n_relevant: ArrayLike, k: int, *, revisited: bool = False
) -> Values:
    """Compute the precision of the first k results; its mean over queries is mP@k.

    Parameters
    ----------
    hits, n_relevant
        See the description of this module. In a list shorter than k, the missing results count
        as irrelevant.
    k : int >= 1
    revisited : bool, default False
        Apply the rule of the revisited Oxford and Paris benchmarks: if all relevant items are
        found before rank k, the rank of the last one replaces k, so that a query with few
        relevant items can reach 1.

    Examples
    --------
    >>> precision_at([[True, True, False, False]], [2], 4).tolist()
    [0.5]
    >>> precision_at([[True, True, False, False]], [2], 4, revisited=True).tolist()
    [1.0]
    """
    hits, n_relevant, found = _at_hits(hits, n_relevant)
    k = check_integer(k, "k", low=1)
    top = found[:, min(k, hits.shape[1]) - 1]
    depth = np.full(len(hits), float(k))
    if revisited:
        last = hits.shape[1] - np.argmax(hits[:, ::-1], axis=1)
        complete = found[:, -1] >= n_relevant
        depth = np.where(complete, np.minimum(last, k), k).astype(np.float64)
    return np.where(n_relevant > 0, top / depth, np.nan)


def recall_at(hits: ArrayLike, n_relevant: ArrayLike, k: int) -> Values:
    """Compute the fraction of the relevant items that are among the first k results.

    Examples
    --------
    >>> recall_at([[True, False, True]], [4], 2).tolist()
    [0.25]
    """
    hits, n_relevant, found = _at_hits(hits, n_relevant)
    k = check_integer(k, "k", low=1)
    return _divide(found[:, min(k, hits.shape[1]) - 1], n_relevant)
