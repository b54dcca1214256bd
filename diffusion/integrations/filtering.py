"""Re-ranked hits that pass a filter which only their store can evaluate.

Diffusion brings in items that were not among the hits, so the filter of the search has to be
applied to them as well. The store is asked about as few items as possible: it lists everything that
passes a narrow filter, and is asked about the best of the ranking for a broad one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np

from ..reranker import Reranker
from .hits import Reranked

# A ranking that is filtered afterwards is this many times as long as a filter that is spread evenly
# requires, and grows by the second factor when that does not suffice.
_SPARE, _GROWTH = 2, 4

Entry = TypeVar("Entry", bound=tuple[Any, ...])


class Condition(Protocol):
    """A filter of a store. Ids are those that the graph was built with."""

    def count(self) -> int:
        """Return about how many items pass."""

    def every(self) -> set[Any]:
        """Return the ids of all items that pass."""

    def among(self, ids: Sequence[Any]) -> set[Any]:
        """Return those of some ids that pass."""


def rerank_passing(
    ranker: Reranker,
    rank: Callable[..., Reranked],
    hits: Sequence[Sequence[Any]],
    k: int,
    condition: Condition,
) -> Reranked:
    """Re-rank hits, and keep what passes a filter.

    Parameters
    ----------
    ranker : Reranker
    rank : callable
        `hits.rerank` of the hits of several queries; it takes `k` and `allow`.
    hits : sequence of lists of ids
        The hits, best first, unfiltered.
    k : int >= 1
    condition : Condition

    Returns
    -------
    Reranked
        A list for each query, as ``rank(k=k, allow=...)`` returns for the ids that pass, apart from
        the accuracy of the solver: a longer ranking is more accurate.

    Notes
    -----
    Of n items, let c pass. Listing them takes c ids. Asking about the ranking takes 2 k n / c ids,
    or as many as there are hits: fewer if c is larger than the square root of 2 k n. With k = 10
    and n = 1,000,000, that is a filter which allows more than 0.5 %.
    """
    unknown = unknown_hits(ranker, hits)
    count, length = condition.count(), max(map(len, hits), default=0)
    depth = max(length, _SPARE * k * ranker.n_items_ // max(count, 1))
    passed: set[Any] = set()
    asked: set[Any] = set()
    while count > len(hits) * depth and depth < ranker.n_items_:
        # Unknown hits may take the last places, which is not where they are in a longer ranking.
        found = rank(k=depth + len(unknown))
        fresh = list({i for row in (*hits, *found.ids) for i in row} - asked)
        passed |= condition.among(fresh)
        asked.update(fresh)
        lists = [
            [entry if entry[0] in passed else None for entry in zip(*row, strict=True)]
            for row in zip(*found, strict=True)
        ]
        if all(sum(entry is not None for entry in row[:depth]) >= k for row in lists):
            best = [[i for i in row if i in passed][:k] for row in hits]
            return _columns(
                [
                    cut(list(filter(None, row)), k, [i for i in first if i in unknown])
                    for row, first in zip(lists, best, strict=True)
                ]
            )
        depth *= _GROWTH
    return rank(k=k, allow=condition.every())


def unknown_hits(ranker: Reranker, hits: Sequence[Sequence[Any]]) -> set[Any]:
    """Return the hits that the graph does not have."""
    ids = list({i for row in hits for i in row})
    rows = ranker.fitted().items.rows_of(ids, "ids")
    return {ids[place] for place in np.flatnonzero(rows < 0).tolist()}


def cut(entries: list[Entry], k: int, kept: list[Any]) -> list[Entry]:
    """Return the best k entries, (id, ...), among them those that `Reranker.rerank` keeps."""
    by_id = {entry[0]: entry for entry in entries[k:]}
    late = [by_id[i] for i in kept if i in by_id]
    places = [place for place, entry in enumerate(entries[:k]) if entry[0] not in kept]
    dropped = set(places[len(places) - len(late) :])
    return [entry for place, entry in enumerate(entries[:k]) if place not in dropped] + late


def _columns(lists: list[list[tuple[Any, ...]]]) -> Reranked:
    return Reranked(*([[entry[column] for entry in row] for row in lists] for column in range(3)))
