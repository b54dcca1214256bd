"""Hits of any search engine: its own ids and scores in, the same in better order out."""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from typing import Any, NamedTuple
from uuid import UUID

import numpy as np
from numpy.typing import ArrayLike

from ..errors import DiffusionError
from ..filters import Allow
from ..ids import ItemIds
from ..reranker import Reranker
from ..validation import check_switch


class Reranked(NamedTuple):
    """Re-ranked hits as Python values, which JSON has.

    If the hits are of one query, each attribute is a list with one value for each result, and
    otherwise a list with one such list for each query. There is no padding.

    Attributes
    ----------
    ids : list of int or str, or list of lists
        Best first.
    scores : list of float, or list of lists
        In descending order.
    new : list of bool, or list of lists
        Whether the id was not among the hits of its query. What the engine stores for such an item
        has to be fetched.
    """

    ids: list[Any]
    scores: list[Any]
    new: list[Any]

    @property
    def new_ids(self) -> list[Any]:
        """The new ids of all queries, each once, in the order in which they appear."""
        batch = bool(self.ids) and isinstance(self.ids[0], list)
        rows = zip(self.ids, self.new, strict=True) if batch else [(self.ids, self.new)]
        return list(dict.fromkeys(i for row in rows for i, new in zip(*row, strict=True) if new))


def rerank(
    ranker: Reranker,
    ids: ArrayLike | Sequence[Any],
    scores: ArrayLike | Sequence[Any] | None = None,
    *,
    distances: ArrayLike | Sequence[Any] | None = None,
    squared: bool | None = None,
    k: int | None = None,
    allow: Allow = None,
    restrict_to_candidates: bool = False,
) -> Reranked:
    """Re-rank the hits of a search engine.

    It is `Reranker.rerank` for ids and scores as engines return them, with Python values as the
    result.

    Parameters
    ----------
    ranker : Reranker
        Fitted to the vectors of the engine's items, with the engine's ids.
    ids : array_like, shape (m,) or (nq, m), or sequence of lists
        The ids of the hits of one query, or of each of several queries: int, str, or numpy scalars
        of these. If the ids of the collection are str, `uuid.UUID` is accepted too, and stands for
        its text. Lists may differ in length, and may be padded with -1 or, for str, with None or
        "". ``[]`` is one query without hits, ``[[]]`` a batch of one such query.
    scores : array_like or sequence of lists, of the form of `ids`, optional
        Scores of the hits in the metric of the graph; higher is better.
    distances : array_like or sequence of lists, of the form of `ids`, optional
        Distances of the hits, instead of `scores`: 1 - cosine for `metric="cosine"`, or Euclidean
        distances.
    squared : bool, optional
        Whether Euclidean distances are squared; required for them, and only for them.
    k : int >= 1, optional
        Number of results of each query. By default, as many as the query has hits.
    allow : array_like, set or callable, optional
        A filter of the results, as `Reranker.search` takes it. If the hits come from a filtered
        search, the same filter is needed here, or `restrict_to_candidates`: diffusion may bring
        in any item.
    restrict_to_candidates : bool, default False
        Only reorder the hits.

    Returns
    -------
    Reranked
        Flat for the hits of one query, with a list for each query otherwise. Fewer than k results
        if there are not as many. Hits that are not in the collection are kept.

    Raises
    ------
    DiffusionError
        If the hits are not as described; the message names the argument.

    Examples
    --------
    >>> import numpy as np, diffusion
    >>> from diffusion.integrations import hits
    >>> angle = np.linspace(0, np.pi, 60)
    >>> X = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    >>> names = [f"photo {i}" for i in range(60)]
    >>> ranker = diffusion.Reranker(k=4, query_k=2).fit(X, ids=names)
    >>> found = hits.rerank(ranker, ["photo 0", "photo 1"], scores=[1.0, 0.99], k=3)
    >>> found.ids, found.new
    (['photo 0', 'photo 1', 'photo 2'], [False, False, True])
    >>> found.new_ids
    ['photo 2']
    """
    if not isinstance(ranker, Reranker):
        raise DiffusionError(f"ranker: expected a Reranker, got {type(ranker).__name__}")
    restrict = check_switch(restrict_to_candidates, "restrict_to_candidates")
    if squared is not None and distances is None:
        raise DiffusionError(f"squared: expected None without distances, got {squared!r}")
    items = ranker.fitted().items
    given = _ids(ids, "ids", items.named)
    try:
        found = ranker.rerank(
            scores,
            given,
            k,
            distances0=distances,
            squared=squared,
            restrict_to_candidates=restrict,
            allow=_filter(allow, items.named),
        )
    except DiffusionError as error:
        # The Reranker's names of these arguments end with 0.
        message = re.sub(r"\b(scores|ids|distances)0\b", r"\1", str(error))
        raise DiffusionError(message) from error
    rows = zip(*(np.atleast_2d(part).tolist() for part in found), strict=True)
    single = found[1].ndim == 1
    results = [
        _result(row_scores, row_ids, own, k, items)
        for (row_scores, row_ids), own in zip(rows, [given] if single else given, strict=True)
    ]
    if single:
        return results[0]
    return Reranked(*([result[part] for result in results] for part in range(3)))


def _result(
    scores: list[float], ids: list[Any], hits: Any, k: int | None, items: ItemIds
) -> Reranked:
    """Return the result of one query from its padded list and its hits."""
    hits = hits.tolist() if isinstance(hits, np.ndarray) else hits
    among = [i for i in hits if not _is_padding(i, items)]
    entries = [pair for pair in zip(ids, scores, strict=True) if not _is_padding(pair[0], items)]
    excess = len(entries) - len(among)
    if k is None and excess > 0:
        # Another query of the batch has more hits. As with k = len(among), the last items give way,
        # but no hit that is not in the collection.
        unknown = {i for i, row in zip(among, items.rows_of(among, "ids"), strict=True) if row < 0}
        places = [place for place, (i, _) in enumerate(entries) if i not in unknown]
        surplus = set(places[-excess:])
        entries = [pair for place, pair in enumerate(entries) if place not in surplus]
    known, kept = set(among), [i for i, _ in entries]
    return Reranked(kept, [score for _, score in entries], [i not in known for i in kept])


def _is_padding(item: Any, items: ItemIds) -> bool:
    return not item if items.named else item == -1


def _ids(values: Any, name: str, named: bool) -> Any:
    """Return ids in a form that a Reranker takes: an array, or lists of Python values."""
    if isinstance(values, np.ndarray) and values.dtype != object:
        return values
    if hasattr(values, "detach") and hasattr(values, "cpu"):  # a torch tensor
        values = values.detach().cpu()
    if hasattr(values, "tolist"):
        values = values.tolist()
    elif hasattr(values, "to_pylist"):  # an array of pyarrow
        values = values.to_pylist()
    if not isinstance(values, list | tuple):
        raise DiffusionError(f"{name}: expected a list of ids, or of lists, got {values!r:.60}")
    nested = [_is_list(value) for value in values]
    if all(nested):
        return [_ids(row, f"{name}: row {number}", named) for number, row in enumerate(values)]
    if any(nested):
        raise DiffusionError(
            f"{name}: expected a list of ids, or of lists; place {nested.index(True)} has a list, "
            f"place {nested.index(False)} has {values[nested.index(False)]!r:.60}"
        )
    return [_id(value, named) for value in values]


def _is_list(value: Any) -> Any:
    return not isinstance(value, str) and hasattr(value, "__len__") and getattr(value, "ndim", 1)


def _id(value: Any, named: bool) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    return str(value) if named and isinstance(value, UUID) else value


def _filter(allow: Any, named: bool) -> Any:
    """Return a filter in a form that a Reranker takes."""
    if isinstance(allow, Set | list | tuple):
        return [_id(value, named) for value in allow]
    return allow
