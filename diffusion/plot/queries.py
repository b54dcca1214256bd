"""What a picture of one query is drawn from."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import DiffusionError
from ..explanation import FirstStage
from ..fitted import Fitted
from ..reranker import Reranker

# Names of scores by the metric of the vectors.
SCORES = {
    "cosine": "cosine similarity",
    "inner_product": "inner product",
    "euclidean": "negative squared distance",
}


class Answer(NamedTuple):
    """The first stage, the observation and the ranking of one query, of nodes of the graph.

    Attributes
    ----------
    first : tuple of ndarray, shape (c,)
        First-stage scores and nodes, best first.
    observed : tuple of ndarray, shape (o,)
        Nodes of the observation, and their weights y.
    ranked : tuple of ndarray, shape (r,)
        Scores and nodes after diffusion, best first, at most as many as were asked for.
    """

    first: tuple[NDArray[np.float32], NDArray[np.int64]]
    observed: tuple[NDArray[np.int64], NDArray[np.float64]]
    ranked: tuple[NDArray[np.float32], NDArray[np.int64]]


def fitted_of(ranker: Any) -> Fitted:
    """Return the result of the fit of a Reranker.

    Raises
    ------
    DiffusionError
        If it is not a Reranker, or not fitted.
    """
    if not isinstance(ranker, Reranker):
        raise DiffusionError(f"ranker: expected a fitted Reranker, got {type(ranker).__name__}")
    return ranker.fitted()


def first_stage_for(
    ranker: Reranker, q: ArrayLike | None, item: Any, hits: Any, k: int
) -> FirstStage:
    """Return the first stage of a query: a vector, an item of the collection, or hits.

    Raises
    ------
    DiffusionError
        Unless exactly one of them is given, and it is one query.
    """
    fitted, query_k = ranker.fitted(), int(ranker.query_k)
    given = [n for n, v in (("q", q), ("item", item), ("hits", hits)) if v is not None]
    if len(given) != 1:
        raise DiffusionError(
            f"q, item, hits: expected one of them, got {' and '.join(given) or 'none'}"
        )
    if hits is not None:
        return FirstStage.of_hits(fitted, hits, query_k)
    if q is None:
        q = fitted.vectors_of(np.array([fitted.items.row_of(item, "item")]))[0]
    return FirstStage.of_query(fitted, q, k, query_k)


def answer(
    ranker: Reranker, q: ArrayLike | None, item: Any, hits: Any, k: int, length: int = 1
) -> Answer:
    """Rank the best k nodes for a query, as `Reranker.search` and `rerank` do.

    The first stage lists at least `length` nodes if it is searched for. `report_` of the Reranker
    remains that of its last search.

    Raises
    ------
    DiffusionError
        If the query is not as `first_stage_for` expects it.
    """
    fitted, query_k = ranker.fitted(), int(ranker.query_k)
    n = fitted.graph.n_nodes
    first = first_stage_for(ranker, q, item, hits, max(k, length))
    unknown = bool((first.lists[1] >= n).any())
    scores, nodes, _ = fitted.diffuse(
        first.lists,
        first.observed,
        k,
        query_k=query_k,
        cautious=bool(ranker.cautious),
        known=first.candidates if unknown else None,
    )
    _, observed, y = fitted.affinity.observe(*first.observed, query_k).y.packed()
    return Answer(
        _of_nodes(*first.lists, n), (observed.astype(np.int64), y), _of_nodes(scores, nodes, n)
    )


def _of_nodes(
    scores: NDArray[np.float32], nodes: NDArray[np.int64], n: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the only list without padding and without hits that are not of the collection."""
    known = (nodes[0] >= 0) & (nodes[0] < n)
    return scores[0][known], nodes[0][known]
