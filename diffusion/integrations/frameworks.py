"""What `llama_index` and `langchain` have in common: documents in, documents in better order out.

Frameworks name documents by text. A Reranker with ids of int64 is asked for the numbers that their
text stands for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import DiffusionError
from ..filters import Allow, allowed_by
from ..reranker import Reranker
from ..validation import check_integer
from . import hits
from .filtering import cut, unknown_hits


class Question(NamedTuple):
    """What is known of one query, and how it is answered.

    Attributes
    ----------
    vector : array_like, shape (d,), or None
        The query's embedding.
    scores : sequence of float or None
        Of the hits; None for a hit, or None for all, if they have none.
    distances : bool
        Whether they are distances.
    squared : bool or None
        Whether Euclidean distances are squared.
    allow : array_like, set, callable or None
        A filter, as `Reranker.search` takes it.
    """

    vector: Any
    scores: Sequence[float | None] | None
    distances: bool = False
    squared: bool | None = None
    allow: Allow = None


Fetch = Callable[[list[str]], Mapping[str, Any]]


def reranked(
    ranker: Reranker,
    found: Mapping[str, Any],
    question: Question,
    k: int | None,
    fetch: Fetch | None,
) -> list[tuple[Any, float]]:
    """Return the best documents of a query, and their scores.

    Parameters
    ----------
    ranker : Reranker
    found : mapping
        The hits by id, best first.
    question : Question
    k : int >= 1 or None
        Number of documents; None means as many as there are hits.
    fetch : callable or None
        Returns documents by id, without those that it does not have. Without it, the hits are only
        reordered.

    Returns
    -------
    list of tuple
        Documents that cannot be fetched are left out, and others take their places.

    Raises
    ------
    DiffusionError
        If the ids or scores are not those of hits of this Reranker.
    """
    if not isinstance(ranker, Reranker):
        raise DiffusionError(f"ranker: expected a Reranker, got {type(ranker).__name__}")
    if k is not None:
        check_integer(k, "top_n", low=1)
    if not found:
        return []
    k = len(found) if k is None else k
    own = dict(zip(_own_ids(ranker, list(found)), found, strict=True))
    unknown = unknown_hits(ranker, [list(own)])
    documents, length = dict(found), k
    tried: set[str] = set()
    kept: list[Any] | None = None
    while True:
        order = _order(ranker, list(own), question, length, restrict=fetch is None)
        if kept is None:  # in the best k; in a longer order, they are further down
            kept = [i for i, _ in order if i in unknown]
        texts = {i: own[i] if i in own else str(i) for i, _ in order}
        new = [text for text in texts.values() if text not in documents and text not in tried]
        if fetch is not None and new:
            documents.update(fetch(new))
            tried.update(new)
        there = [(i, score) for i, score in order if texts[i] in documents]
        if len(there) >= k or len(order) < length:
            return [(documents[texts[i]], score) for i, score in cut(there, k, kept)]
        # The graph has items that the store does not have any more.
        length *= 2


def _order(
    ranker: Reranker, ids: list[Any], question: Question, k: int, *, restrict: bool
) -> list[tuple[Any, float]]:
    """Return the best k ids, the Reranker's own, and their scores."""
    fitted = ranker.fitted()
    rows = fitted.items.rows_of(ids, "ids")
    scored = question.scores is not None and None not in question.scores
    searchable = question.vector is not None and fitted.index is not None
    if searchable and ((rows >= 0).all() or not scored):
        return _searched(ranker, ids, rows, question, k, restrict=restrict)
    if not scored:
        raise DiffusionError(
            "scores: expected a score of each hit, or the embedding of the query and a Reranker "
            "that has vectors"
        )
    out = hits.rerank(
        ranker,
        ids,
        None if question.distances else question.scores,
        distances=question.scores if question.distances else None,
        squared=question.squared,
        k=k,
        allow=question.allow,
        restrict_to_candidates=restrict,
    )
    return list(zip(out.ids, out.scores, strict=True))


def _searched(
    ranker: Reranker,
    ids: list[Any],
    rows: NDArray[np.int64],
    question: Question,
    k: int,
    *,
    restrict: bool,
) -> list[tuple[Any, float]]:
    """Search for the query. What a search cannot find of the hits takes the last places."""
    if np.ndim(question.vector) != 1:
        raise DiffusionError(f"embedding: expected shape (d,), got {np.shape(question.vector)}")
    items, allow = ranker.fitted().items, question.allow
    codes, unknown = rows.copy(), np.flatnonzero(rows < 0)
    codes[unknown] = items.size + np.arange(len(unknown))
    mask = allowed_by(allow, items, np.array(ids, object if items.named else np.int64)[unknown])
    allowed = {i: code for i, code in zip(ids, codes.tolist(), strict=True) if _in(mask, code)}
    known = [i for i, code in allowed.items() if code < items.size]
    # All hits, so that those which are not found are those that the search does not reach.
    length, allow = (max(k, len(ids)), known) if restrict else (k, allow)
    scores, best = ranker.search(question.vector, length, allow=allow)
    real = scores > -np.inf
    found = dict(zip(best[real].tolist(), scores[real].tolist(), strict=True))
    last = min([0.0, *found.values()])
    if restrict:  # with an index of the caller's, a search does not reach all items
        found |= {i: last for i in known if i not in found}
    others = [(i, last) for i, code in allowed.items() if code >= items.size][:k]
    return list(found.items())[: k - len(others)] + others


def _in(mask: NDArray[np.uint8], code: int) -> bool:
    return not mask.size or bool(mask[code])


def _own_ids(ranker: Reranker, texts: list[str]) -> list[Any]:
    """Return the ids that a Reranker has for texts."""
    if ranker.fitted().items.named:
        if not all(texts):
            raise DiffusionError("ids: expected ids other than '', which stands for padding")
        return texts
    strange = [text for text in texts if not _is_number(text)]
    if strange:
        raise DiffusionError(
            f"ids: expected the texts of int64 ids, as the Reranker has, got {strange[0]!r:.60}"
        )
    return [int(text) for text in texts]


def _is_number(text: str) -> bool:
    """Return whether a text is that of an id of int64, which comes back as the same text."""
    try:
        number = int(text)
    except ValueError:
        return False
    return text == str(number) and number != -1 and -(1 << 63) <= number < 1 << 63
