"""Requests in terms of the library, and the answers to those that are answered together.

A request holds the view that it was checked with, and is answered from that view alone.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..distances import similarities
from ..errors import DiffusionError
from ..explanation import Explainer, Explanation, FirstStage
from ..filters import allowed_by
from ..fitted import Fitted, Found, first_stage_of
from ..integrations import hits
from ..integrations.hits import Reranked
from .collection import View


@dataclass(frozen=True)
class Filter:
    """Which items may be in results.

    Attributes
    ----------
    key : hashable
        Equal for filters that are alike.
    allow : list of ids, ndarray of bool, or None
        As `Reranker.search` takes it.
    """

    key: Hashable = None
    allow: Any = None

    @classmethod
    def of(
        cls,
        view: View,
        ids: list[Any] | None,
        containing: str | None = None,
        mask: NDArray[np.bool_] | None = None,
    ) -> Filter:
        """Check the ids that are allowed, and combine them with the mask of a text.

        Raises
        ------
        DiffusionError
            If they are not of the kind of those of the items.
        """
        if ids is None and mask is None:
            return cls()
        items, allow = view.ranker.fitted().items, ids if mask is None else mask
        key = None if ids is None else tuple(ids), containing
        if ids is not None and mask is None:
            items.coded(ids, "allow")
        elif ids is not None:
            allow = mask & (allowed_by(ids, items) != 0)
        return cls(key, allow)


# --- queries ------------------------------------------------------------------------------------


def checked_queries(view: View, vectors: Sequence[Any]) -> NDArray[np.float64]:
    """Return vectors (nq, d) as an array, the library's error unless they are queries."""
    queries = as_matrix(vectors)
    view.ranker.fitted().check_queries(queries)
    return queries


def as_matrix(vectors: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """Return vectors as an array (n, d).

    Raises
    ------
    DiffusionError
        If their lengths differ.
    """
    lengths = sorted(set(map(len, vectors)))
    if len(lengths) > 1:
        raise DiffusionError(
            f"vectors: expected vectors of one dimension, got {lengths[0]} and {lengths[-1]}"
        )
    return np.array(vectors, np.float64)


@dataclass(frozen=True)
class Results:
    """The results of one request, as lists that are not padded, for each query.

    Attributes
    ----------
    ids, scores : list of list
    first_ids, first_scores : list of list, or None
        Those of the first stage, if they were asked for.
    first_ranks : list of list, or None
        The ranks of the results in the first stage, None for one that it does not list.
    confidence, relevant : list
        Of each query; None without a fusion.
    """

    ids: list[list[Any]]
    scores: list[list[float]]
    confidence: list[float | None]
    relevant: list[int | None]
    first_ids: list[list[Any]] | None = None
    first_scores: list[list[float]] | None = None
    first_ranks: list[list[int | None]] | None = None


@dataclass(frozen=True, eq=False)
class Search:
    """A search.

    Attributes
    ----------
    view : View
    queries : ndarray, shape (nq, d)
        Finite, and of the dimension of the index.
    k : int >= 1
    filter : Filter
    first : bool
        Whether the first stage is wanted, too.
    own : ndarray, shape (nq,), int64, or None
        Rows of items, each of which is left out of the results of its query.
    """

    view: View
    queries: NDArray[Any]
    k: int
    filter: Filter
    first: bool
    own: NDArray[np.int64] | None = None

    @classmethod
    def of(
        cls,
        view: View,
        vectors: Sequence[Any] | None,
        items: Sequence[Any] | None,
        *,
        k: int,
        filter: Filter,
        first: bool,
    ) -> Search:
        """Check the queries, of which there are vectors or items.

        Raises
        ------
        DiffusionError
            If they are not as `Reranker.search` takes them, or not ids of items.
        """
        fitted = view.ranker.fitted()
        if items is None:
            assert vectors is not None
            return cls(view, checked_queries(view, vectors), k, filter, first)
        own = np.array([fitted.items.row_of(item, "items") for item in items], np.int64)
        return cls(view, fitted.vectors_of(own), k, filter, first, own)

    @property
    def size(self) -> int:
        """The number of queries."""
        return len(self.queries)

    @property
    def depth(self) -> int:
        """The number of results that have to be found, of which one may be left out."""
        return self.k if self.own is None else self.k + 1

    @property
    def key(self) -> Hashable:
        """What searches that are answered together have in common."""
        return Search, self.view, self.depth, self.filter.key


def search(asked: list[Search]) -> list[Results]:
    """Answer searches with equal keys."""
    view, filter_ = asked[0].view, asked[0].filter
    ranker, fitted = view.ranker, view.ranker.fitted()
    queries = np.concatenate([each.queries for each in asked])
    allowed = allowed_by(filter_.allow, fitted.items)
    found = fitted.search(
        queries,
        asked[0].depth,
        query_k=int(ranker.query_k),
        cautious=bool(ranker.cautious),
        allowed=allowed,
    )
    parts = np.cumsum([0, *(each.size for each in asked)])
    answers = []
    for each, (begin, end) in zip(asked, pairwise(parts), strict=True):
        own, part = each.own, slice(begin, end)
        rows, scores = _without(own, each.k, found.rows[part], found.scores[part])
        confidence, relevant = _judged(found, part, own)
        results = _listed(fitted, rows, scores), confidence, relevant
        first: tuple[Any, ...] = (None, None, None)
        if each.first:
            lists = found.lists[0][part], found.lists[1][part]
            near = fitted.first_items(each.queries, lists, each.depth, allowed)
            near_rows, near_scores = _without(own, near[1].shape[1], near[1], near[0])
            head = near_rows[:, : each.k], near_scores[:, : each.k]
            first = *_listed(fitted, *head), _ranks(rows, near_rows)
        answers.append(Results(*results[0], *results[1:], *first))
    return answers


def _without(
    own: NDArray[np.int64] | None, k: int, rows: NDArray[np.int64], scores: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the first k of lists (nq, c), without an item of each."""
    if own is not None:
        order = np.argsort(rows == own[:, None], axis=1, kind="stable")
        rows = np.take_along_axis(rows, order, axis=1)
        scores = np.take_along_axis(scores, order, axis=1)
        if k == rows.shape[1]:
            rows = np.where(rows == own[:, None], -1, rows)
    return rows[:, :k], scores[:, :k]


def _listed(
    fitted: Fitted, rows: NDArray[np.int64], scores: NDArray[np.float32]
) -> tuple[list[list[Any]], list[list[float]]]:
    """Return ids and scores of padded lists of items without the padding."""
    ids, counts = fitted.items.of_rows(rows), (rows >= 0).sum(axis=1)
    return (
        [row[:count].tolist() for row, count in zip(ids, counts, strict=True)],
        [row[:count].tolist() for row, count in zip(scores, counts, strict=True)],
    )


def _judged(
    found: Found, part: slice, own: NDArray[np.int64] | None
) -> tuple[list[float | None], list[int | None]]:
    """Return the confidence and the number of relevant results of each query."""
    report, count = found.report, len(found.rows[part])
    if report.confidence is None or report.relevant is None:
        return [None] * count, [None] * count
    relevant = report.relevant[part]
    if own is not None:
        # The item itself is one of them if it is among them.
        ranks = np.arange(found.rows.shape[1])
        at = (found.rows[part] == own[:, None]) & (ranks < relevant[:, None])
        relevant = relevant - at.any(axis=1)
    return report.confidence[part].tolist(), relevant.tolist()


def _ranks(rows: NDArray[np.int64], lists: NDArray[np.int64]) -> list[list[int | None]]:
    """Return the places of items (nq, k) in lists (nq, c), from 1; None if they are not there."""
    out = []
    for wanted, listed in zip(rows, lists, strict=True):
        wanted = wanted[wanted >= 0]
        order = np.argsort(listed, kind="stable")
        place = np.searchsorted(listed, wanted, sorter=order)
        found = order[np.minimum(place, len(order) - 1)]
        there = listed[found] == wanted
        pairs = zip(found.tolist(), there.tolist(), strict=True)
        out.append([rank + 1 if known else None for rank, known in pairs])
    return out


# --- hits -----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Rerank:
    """Hits to re-rank.

    Attributes
    ----------
    view : View
    ids, values : list of list
        Ids, and scores or distances, for each query.
    distances : bool
    squared : bool or None
    k : int or None
    allow : list or None
        Ids.
    restrict : bool
    """

    view: View
    ids: list[list[Any]]
    values: list[list[float]]
    distances: bool
    squared: bool | None
    k: int | None
    allow: list[Any] | None
    restrict: bool

    def __post_init__(self) -> None:
        fitted = self.view.ranker.fitted()
        if self.squared is not None and not self.distances:
            raise DiffusionError(f"squared: expected None without distances, got {self.squared!r}")
        name = "distances0" if self.distances else "scores0"
        values = {"scores0": None, "distances0": None, name: self.values}
        first_stage_of(values["scores0"], self.ids, fitted,
                       distances0=values["distances0"], squared=self.squared)  # fmt: skip
        if self.allow is not None:
            fitted.items.coded(self.allow, "allow")

    @property
    def size(self) -> int:
        """The number of queries."""
        return len(self.ids)

    @property
    def key(self) -> Hashable:
        """What calls that are answered together have in common."""
        allow = None if self.allow is None else tuple(self.allow)
        how = self.k, self.distances, self.squared, self.restrict
        return Rerank, self.view, *how, allow


def rerank(asked: list[Rerank]) -> list[Reranked]:
    """Answer re-rankings with equal keys, each by its own lists of lists."""
    one = asked[0]
    name = "distances" if one.distances else "scores"
    values: dict[str, Any] = {name: [row for each in asked for row in each.values]}
    found = hits.rerank(
        one.view.ranker,
        [row for each in asked for row in each.ids],
        **values,
        squared=one.squared,
        k=one.k,
        allow=one.allow,
        restrict_to_candidates=one.restrict,
    )
    parts = np.cumsum([0, *(each.size for each in asked)]).tolist()
    return [Reranked(*(column[begin:end] for column in found)) for begin, end in pairwise(parts)]


def answer(asked: list[Any]) -> Sequence[Any]:
    """Answer searches or re-rankings with equal keys."""
    return search(asked) if isinstance(asked[0], Search) else rerank(asked)


# --- explanations ---------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Explain:
    """An explanation of an item for a query, or for hits.

    Attributes
    ----------
    view : View
    id : int or str
    k, n_chains : int >= 1
    query : ndarray, shape (d,), or None
    hits : tuple of list, or None
        Scores and ids.
    own : int or str, or None
        The item that is the query, if it is one. It is left out of the rankings.
    """

    view: View
    id: Any
    k: int
    n_chains: int
    query: NDArray[Any] | None = None
    hits: tuple[Any, list[Any]] | None = None
    own: Any = None


def query_of(view: View, vector: Sequence[float] | None, item: Any) -> NDArray[Any]:
    """Check a query that is a vector, or else return the vector of an item."""
    fitted = view.ranker.fitted()
    if vector is None:
        return fitted.vectors_of(np.array([fitted.items.row_of(item, "item")]))[0]
    return checked_queries(view, [vector])[0]


def hits_of(
    view: View,
    ids: list[Any],
    scores: list[float] | None,
    distances: list[float] | None,
    squared: bool | None,
) -> tuple[Any, list[Any]]:
    """Check the hits of one query, and return their scores and ids."""
    fitted = view.ranker.fitted()
    if squared is not None and distances is None:
        raise DiffusionError(f"squared: expected None without distances, got {squared!r}")
    if distances is not None:
        codes, metric = fitted.items.coded(ids, "ids").codes, fitted.parameters["metric"]
        scores = similarities(distances, codes, metric, squared)[0].tolist()
    first_stage_of(scores, ids, fitted)
    return scores, ids


def explain(asked: list[Explain]) -> list[tuple[dict[str, Any], str]]:
    """Return explanations as JSON values, and in words."""
    out = []
    for each in asked:
        found = _explained(each)
        out.append((_finite(found.as_dict()), str(found)))
    return out


def _explained(asked: Explain) -> Explanation:
    """Return an explanation, with the ranks that `search` gives."""
    ranker, k = asked.view.ranker, asked.k
    if asked.own is None or asked.own == asked.id:
        return ranker.explain(asked.query, asked.id, hits=asked.hits, k=k, n_chains=asked.n_chains)
    fitted, query_k = ranker.fitted(), int(ranker.query_k)
    assert asked.query is not None
    first = FirstStage.of_query(fitted, asked.query, k, query_k)
    explainer = Explainer(fitted, first, k=k, query_k=query_k, cautious=bool(ranker.cautious))
    found = explainer.explain(fitted.items.row_of(asked.id, "id"), asked.n_chains)
    own = explainer.explain(fitted.items.row_of(asked.own, "item"), 1)
    return replace(
        found,
        rank=_without_rank(found.rank, own.rank),
        first_rank=_without_rank(found.first_rank, own.first_rank),
    )


def _without_rank(rank: int | None, other: int | None) -> int | None:
    """Return a rank after the item at another rank has been left out."""
    return rank if rank is None or other is None or other > rank else rank - 1


def _finite(value: Any) -> Any:
    """Return JSON values with null in place of what JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
