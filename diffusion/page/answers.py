"""What the page in a file shows: the answers to queries, computed in advance for several settings.

The page has a slider for `query_k` and one for the weight of the fusion. Both have a few values
around those of the index, and the answers are stored for each pair of them: items are numbers, and
an answer takes about 150 bytes. Explanations are of the settings of the index alone, because there
are too many of the others: one takes as long as a search.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..explanation import Chain, Explainer, Explanation, FirstStage
from ..fitted import Fitted
from ..reranker import Reranker
from ..scoring import Fusion
from ..storage.strings import printable
from ..validation import check_integer

# Results shown before and after.
_SHOWN = 12

# The values of the sliders, as multiples of those of the index.
_QUERY_K = (1 / 4, 1 / 2, 1, 2, 4)
_WEIGHT = (0, 1 / 2, 1, 2, 4)
# Those of the weight where the index has 0.
_WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.5)


class Answers(NamedTuple):
    """The answers to queries.

    Attributes
    ----------
    data : dict
        JSON values, as `render` and `write` take them.
    ids : list
        The ids of the items that occur in them, in the order of `data["items"]`.
    """

    data: dict[str, Any]
    ids: list[Any]


class _Numbers:
    """The items of a page, numbered in the order in which they first occur."""

    def __init__(self) -> None:
        self.rows: dict[int, int] = {}

    def of(self, row: int) -> int:
        return self.rows.setdefault(int(row), len(self.rows))


def answers(
    ranker: Reranker,
    Q: ArrayLike,
    names: Sequence[str],
    *,
    k: int = 100,
    name_of: Callable[[Any], str] = str,
    title: str = "Search before and after diffusion",
) -> Answers:
    """Answer queries for each setting of the page, and explain what it shows first.

    Parameters
    ----------
    ranker : Reranker
        Fitted with vectors.
    Q : array_like, shape (nq, d)
    names : sequence of str
        What the page calls the queries.
    k : int >= 1, default 100
        Length of the rankings, of which the page shows the first twelve.
    name_of : callable, default str
        Returns what the page calls an item, given its id.
    title : str

    Returns
    -------
    Answers

    Raises
    ------
    DiffusionError
        As `Reranker.search` does.

    Notes
    -----
    There are at most 25 settings, each of which is a search for all queries. The answers take about
    60 kB of memory per query, and 10 kB of JSON.
    """
    fitted, shown = ranker.fitted(), min(check_integer(k, "k", low=1), _SHOWN)
    query_k = int(ranker.query_k)
    weight = float(fitted.score.weight) if isinstance(fitted.score, Fusion) else None
    query_ks = _query_ks(fitted, query_k, k)
    settings = list(product(query_ks, _weights(weight)))
    own = settings.index((query_k, weight))
    numbers = _Numbers()
    answered = [list(_answered(numbers, ranker, Q, k, shown, *setting)) for setting in settings]
    data: dict[str, Any] = {
        "mode": "file",
        "title": title,
        "shown": shown,
        "listed": k,
        "complete": fitted.items.size <= k,
        "query_k": query_ks,
        "weight": [value for value in _weights(weight) if value is not None],
        "own": own,
        "queries": [
            {
                "name": printable(name),
                "answers": [answer[number] for answer in answered],
                "explanations": _explained(numbers, ranker, fitted, q, k, rows),
            }
            for number, (name, q, rows) in enumerate(
                zip(names, np.asarray(Q), _seen(answered[own], numbers), strict=True)
            )
        ],
    }
    ids = fitted.items.of_rows(np.array(list(numbers.rows), np.int64)).tolist()
    return Answers({**data, "items": [printable(name_of(id)) for id in ids]}, ids)


def _query_ks(fitted: Fitted, own: int, k: int) -> list[int]:
    """Return values of `query_k` around that of the index, which needs lists as long as they do.

    An index of the caller's may refuse longer ones.
    """
    least = max(k, fitted.solver.shortlist, fitted.score.depth, fitted.depth(own) + 1)
    values = {max(1, round(factor * own)) for factor in _QUERY_K}
    return sorted(value for value in values if fitted.depth(value) < least)


def _weights(own: float | None) -> list[float | None]:
    if own is None:
        return [None]
    return [*sorted({factor * own for factor in _WEIGHT} if own else _WEIGHTS)]


def _answered(
    numbers: _Numbers,
    ranker: Reranker,
    Q: ArrayLike,
    k: int,
    shown: int,
    query_k: int,
    weight: float | None,
) -> Iterator[dict[str, Any]]:
    """Yield the answer to each query for a setting.

    `after` are the first results and `was` their ranks in the first stage, `before` are its first
    ones and `went` their ranks after diffusion. A rank is 0 for what is not in the list.
    """
    fitted = ranker.fitted()
    if isinstance(fitted.score, Fusion) and weight is not None:
        fitted = replace(fitted, score=replace(fitted.score, weight=weight))
    found = fitted.search(Q, k, query_k=query_k, cautious=bool(ranker.cautious))
    _, near = fitted.first_items(Q, found.lists, k)
    report = found.report
    for number, (first, last) in enumerate(zip(near, found.rows, strict=True)):
        before, after = _known(first[:shown]), _known(last[:shown])
        answer: dict[str, Any] = {
            "after": list(map(numbers.of, after)),
            "was": _ranks(after, first),
            "before": list(map(numbers.of, before)),
            "went": _ranks(before, last),
        }
        if report.confidence is not None and report.relevant is not None:
            answer["confidence"] = round(float(report.confidence[number]), 3)
            answer["relevant"] = int(report.relevant[number])
        yield answer


def _known(rows: NDArray[np.int64]) -> list[int]:
    return rows[rows >= 0].tolist()


def _ranks(rows: list[int], ranking: NDArray[np.int64]) -> list[int]:
    """Return the ranks of items in a ranking, from 1; 0 for those that are not in it."""
    found = ranking[None] == np.array(rows, np.int64)[:, None]
    return np.where(found.any(axis=1), found.argmax(axis=1) + 1, 0).tolist()


def _seen(answers: list[dict[str, Any]], numbers: _Numbers) -> Iterator[list[int]]:
    """Yield the rows of the items that each answer shows."""
    rows = list(numbers.rows)
    for answer in answers:
        yield sorted({rows[number] for number in answer["before"] + answer["after"]})


def _explained(
    numbers: _Numbers, ranker: Reranker, fitted: Fitted, q: ArrayLike, k: int, rows: list[int]
) -> dict[str, Any]:
    """Explain results of a query; return the explanations by the numbers of the items."""
    query_k = int(ranker.query_k)
    first = FirstStage.of_query(fitted, q, k, query_k)
    explainer = Explainer(fitted, first, k=k, query_k=query_k, cautious=bool(ranker.cautious))

    def number_of(id: Any) -> int:
        return numbers.of(fitted.items.row_of(id, "id"))

    return {
        str(numbers.of(row)): _as_json(explainer.explain(row, n_chains=1), number_of)
        for row in rows
    }


def _as_json(explanation: Explanation, number_of: Callable[[Any], int]) -> dict[str, Any]:
    """Return what the page shows of an explanation, with the numbers of items for ids."""

    def chain_as_json(chain: Chain) -> dict[str, Any]:
        return {
            "ids": list(map(number_of, chain.ids)),
            "weights": list(map(_short, chain.weights)),
            "observed": _short(chain.observed),
            "similarity": _short(chain.similarity),
            "share": _short(chain.share),
        }

    return {
        "first_rank": explanation.first_rank,
        "rank": explanation.rank,
        "first_score": _short(explanation.first_score),
        "score": _short(explanation.score),
        "shares": {name: _short(value) for name, value in explanation.shares._asdict().items()},
        "reached": explanation.reached,
        "chains": list(map(chain_as_json, explanation.chains)),
    }


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
