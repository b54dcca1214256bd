"""Choosing the parameters of a Reranker from queries whose relevant items are known.

Few labelled queries say little: of many settings, some gain by chance. The rule is therefore
cautious. Each setting is compared with the present one query by query, and it must gain by more
than chance explains; the expected gain is that on queries which were left out of the choice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from . import metrics
from .affinity import GRANULARITIES, Context, make_affinity
from .affinity.base import Lists
from .change import Change
from .errors import DiffusionError
from .fitted import Fitted
from .ids import ItemIds
from .neighbors import NeighborIndex
from .neighbors.updates import changed_lists
from .scoring.fusion import Fusion
from .validation import check_integer, check_switch, count_of, is_single

if TYPE_CHECKING:
    from .reranker import Reranker

Values: TypeAlias = NDArray[np.float64]
#: Precision of settings (c, nq): that of the present one is in row 0.
PrecisionTable: TypeAlias = NDArray[np.float64]

# Quantiles of Student's t distribution: a setting is better if its gain is certain to 90 %. An
# interval at the second would hold 95 % of all gains. After a choice, it holds 94 % of those that
# ``python -m bench tune`` measures, and fewer with more queries: it is called one of 90 %.
_BETTER, _INTERVAL = 0.9, 0.975

# Standard deviation of a gain, in points, that is added to that of the queries: ten queries that
# agree by chance are no proof. Results depend little on it, from 1 to 3.
_DOUBT = 3.0

# Length of the rankings that are judged.
_RANKED = 1000

# Lists that are searched again continue those that were kept if they share this part of them.
_AGREE, _SAMPLE = 0.9, 1000


class Setting(NamedTuple):
    """Parameters that are chosen together.

    Attributes
    ----------
    granularity : {"instance", "mixed", "category"} or None
        None for the scales of a `Context` of the caller's.
    weight : float or None
        That of the fusion; None for another score.
    query_k : int
    """

    granularity: str | None
    weight: float | None
    query_k: int

    def __str__(self) -> str:
        fields = self._asdict().items()
        return ", ".join(f"{name}={value!r}" for name, value in fields if value is not None)

    def changes(self, before: Setting) -> dict[str, Any]:
        """Return the parameters of a Reranker that differ from those of another setting."""
        changes: dict[str, Any] = {}
        if self.granularity != before.granularity:
            changes["granularity"] = self.granularity
        if self.weight is not None and self.weight != before.weight:
            changes["score"] = Fusion(self.weight)
        if self.query_k != before.query_k:
            changes["query_k"] = self.query_k
        return changes


@dataclass(frozen=True)
class Candidate:
    """A setting that was compared with the present one.

    Attributes
    ----------
    setting : Setting
    precision : float
        Mean over the labelled queries, in percent.
    gain : float
        Difference to the present setting, in points.
    bound : float
        What the gain exceeds with a certainty of 90 %, for this setting alone; 0 for the present
        one.
    """

    setting: Setting
    precision: float
    gain: float
    bound: float


@dataclass(frozen=True)
class Choice:
    """What a table of precisions says.

    Attributes
    ----------
    best : int
        The row of the chosen setting; 0 if the present one is kept.
    bounds : ndarray, shape (c,)
        What the gain of each setting exceeds.
    gain : float
        The expected gain of the choice in points: the mean, over the queries, of the gain on a
        query of what the others choose. 0 if the present setting is kept.
    interval : tuple of float
        Of that gain, 90 %.
    needed : int or None
        How many such queries would suffice if all went on as on these; None if the setting was
        changed, none of the others has gained, or more than 1,000 times as many would be needed.
    """

    best: int
    bounds: Values
    gain: float
    interval: tuple[float, float]
    needed: int | None


@dataclass(frozen=True)
class Tuning:
    """What `Reranker.tune` has chosen, and why; printing it explains it.

    Attributes
    ----------
    parameters : dict
        The parameters that were set, {} if the present ones were kept.
    before, after : Setting
        The setting that the Reranker had, and that which it has now.
    gain : float
        The expected gain on other queries in points, by leave-one-out cross-validation; 0 if the
        setting was kept.
    interval : tuple of float
        A 90 % interval of the gain.
    measure : str
        What is gained: "average precision", or "discounted gain" for labels that are not complete.
    n_queries : int
        Number of labelled queries.
    candidates : tuple of Candidate
        All settings, those with the largest bound first.
    needed : int or None
        If the setting was kept: how many such queries would suffice if all went on as on these,
        None if no other has gained anything or more than 1,000 times as many would be needed.
    notes : tuple of str
        What was not tried, and why.
    """

    parameters: dict[str, Any]
    before: Setting
    after: Setting
    gain: float
    interval: tuple[float, float]
    measure: str
    n_queries: int
    candidates: tuple[Candidate, ...]
    needed: int | None
    notes: tuple[str, ...]

    def __str__(self) -> str:
        by = {candidate.setting: candidate for candidate in self.candidates}
        if self.parameters:
            low, high = self.interval
            lines = [
                f"changed to {self.after}",
                f"from {self.before}",
                f"expected gain: {self.gain:+.1f} points of {self.measure}, 90 % interval "
                f"{low:+.1f} to {high:+.1f} (each of {self.n_queries} queries left out once)",
                f"mean {self.measure} of these queries: {by[self.before].precision:.1f} before, "
                f"{by[self.after].precision:.1f} now",
            ]
        else:
            lines = [
                f"kept {self.before}: {self.n_queries} queries do not show that any of "
                f"{len(by) - 1} other settings is better",
                self._lacking(),
            ]
        return "\n".join([*lines, *self.notes])

    def _lacking(self) -> str:
        best = max(self.candidates, key=lambda candidate: candidate.gain)
        if best.gain <= 0:
            return "none of them has gained anything"
        what = f"the largest gain was {best.gain:+.1f} points of {self.measure} ({best.setting})"
        if self.needed is None:
            return what
        return f"{what}; if that continues, about {self.needed} queries are needed to show it"


# --- the choice ----------------------------------------------------------------------------------


def choose(table: PrecisionTable) -> Choice:
    """Choose a setting from the precisions of all settings on labelled queries.

    For the gain d_i of a setting over the present one on each of m queries, the bound is::

        mean(d) - t_{0.9, m-1} sqrt((var(d) + 3²) / m)

    where t is the quantile of Student's distribution. The setting with the largest bound is chosen
    if its bound is positive, and if this rule gains in leave-one-out cross-validation as well. The
    order of the queries does not matter.

    Parameters
    ----------
    table : ndarray, shape (c, nq)
        In percent. Row 0 is that of the present setting.

    Returns
    -------
    Choice
    """
    gains = np.ascontiguousarray(table - table[0])
    n = gains.shape[1]
    # Sums of sorted values do not depend on the order of the queries.
    ordered = np.sort(gains, axis=1)
    mean, spread = ordered.mean(axis=1), ((ordered - ordered.mean(axis=1)[:, None]) ** 2).sum(1)
    bounds = _bounds(mean, spread, n)
    best = int(bounds.argmax())
    without = (n * mean[:, None] - gains) / max(1, n - 1)
    # Leaving out d changes the sum of squares about the mean by n / (n - 1) (d - mean)².
    fewer = spread[:, None] - n / max(1, n - 1) * (gains - mean[:, None]) ** 2
    chosen = _bounds(without, np.maximum(fewer, 0), n - 1).argmax(axis=0)
    left_out = np.sort(gains[chosen, np.arange(n)])
    gain = float(left_out.mean())
    if not best or gain <= 0:
        return Choice(0, bounds, 0.0, (0.0, 0.0), _needed(mean, spread, n))
    half = _margin(_INTERVAL, ((left_out - gain) ** 2).sum(), n)
    return Choice(best, bounds, gain, (gain - float(half), gain + float(half)), None)


def _bounds(mean: Values, spread: Values, n: int) -> Values:
    """Return what the gains of n queries exceed; 0 for those of the present setting, in row 0."""
    bounds = mean - _margin(_BETTER, spread, n)
    bounds[0] = 0.0
    return bounds


def _margin(quantile: float, spread: Any, n: int) -> Any:
    """Return how far a mean of n gains may be off; `spread` is their sum of squares about it."""
    if n < 2:
        return np.full(np.shape(spread), np.inf)
    return stdtrit(n - 1, quantile) * np.sqrt((spread / (n - 1) + _DOUBT**2) / n)


def _needed(mean: Values, spread: Values, n: int) -> int | None:
    """Return for how many queries the bound of some setting would be positive, None for none."""
    wins = mean > 0
    if not wins.any():
        return None
    variance = spread[wins] / (n - 1)
    for more in np.unique(np.geomspace(n + 1, 1000 * n, 500).astype(int)):
        if (mean[wins] > _margin(_BETTER, variance * (more - 1), int(more))).any():
            return _rounded(int(more))
    return None


def _rounded(count: int) -> int:
    """Round a number up to two digits."""
    unit = 10 ** max(0, len(str(count)) - 2)
    return -(-count // unit) * unit


# --- labelled queries ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Labelled:
    """Labelled queries, and the collection in which they are searched for.

    Attributes
    ----------
    ranker : Reranker
        Fitted; without the queries, if they are items.
    search : callable
        Returns the ranked ids (nq, k) of the queries by a Reranker of that collection.
    relevant : list of ndarray of int64
        For each query, the rows of the relevant items.
    k : int
        Length of the rankings.
    complete : bool
        Whether all other items are irrelevant.
    """

    ranker: Reranker
    search: Callable[[Reranker], NDArray[Any]]
    relevant: list[NDArray[np.int64]]
    k: int
    complete: bool

    @classmethod
    def of(
        cls,
        ranker: Reranker,
        queries: Any,
        relevant: Any,
        hits: tuple[ArrayLike, ArrayLike] | None,
        *,
        complete: bool,
        k: int | None,
    ) -> Labelled:
        """Check the arguments of `Reranker.tune`; see there."""
        items = ranker.fitted().items
        if (queries is None) == (hits is None):
            raise DiffusionError("queries, hits: expected one of them")
        complete = check_switch(complete, "complete")
        k = min(items.size, _RANKED) if k is None else check_integer(k, "k", low=1)
        rows = _relevant_rows(items, relevant)
        if hits is not None:
            search = _search_of_hits(hits, k)
            count = _count_of(hits, "hits")
        elif _is_flat(queries):
            return cls._of_items(ranker, queries, rows, complete, k)
        elif ranker.fitted().index is None:
            raise DiffusionError(
                "queries: this index was fitted from neighbour lists and holds no vectors to "
                "search; expected ids of items, or hits"
            )
        else:
            search, count = _search_of(queries, k), len(ranker.fitted().searched(queries)[1])
        return cls(ranker, search, _checked(rows, count), k, complete)

    @classmethod
    def _of_items(
        cls, ranker: Reranker, queries: Any, rows: list[NDArray[np.int64]], complete: bool, k: int
    ) -> Labelled:
        """Return queries that are items: they are taken out of the collection."""
        fitted = ranker.fitted()
        own = fitted.items.rows_to_remove(queries, "queries")
        rows = [np.setdiff1d(row, own) for row in _checked(rows, len(own))]
        rows = _checked(rows, len(own), " that is not itself a query")
        if fitted.index is None:
            first = _first_stage_of_items(fitted, fitted.copies.of_items(own), own)
            search = _search_of_hits(first, k)
        elif not isinstance(fitted.index, NeighborIndex):
            raise DiffusionError(
                "queries: items cannot be taken out of an index of your own; expected vectors, "
                "or hits"
            )
        else:
            search = _search_of(fitted.vectors_of(own), k)
        without = ranker.with_parameters(None).remove(fitted.items.of_rows(own))
        after = without.fitted().items
        of_rows = fitted.items.of_rows
        moved = [after.rows_of(of_rows(row), "relevant") for row in rows]
        return cls(without, search, moved, k, complete)

    def precision(self, ranker: Reranker) -> Values:
        """Return the precision in percent of the queries (nq,) with a Reranker."""
        found = ranker.fitted().items.coded(self.search(ranker), "ids").codes
        hits, counts = metrics.hits_from_lists(found, self.relevant)
        if self.complete:
            return 100 * metrics.average_precision(hits, counts)
        discount = 1 / np.log2(2 + np.arange(hits.shape[1]))
        return 100 * (hits @ discount) / counts


def _search_of(queries: ArrayLike, k: int) -> Callable[[Reranker], NDArray[Any]]:
    return lambda other: other.search(queries, k)[1]


def _search_of_hits(
    hits: tuple[ArrayLike, ArrayLike], k: int
) -> Callable[[Reranker], NDArray[Any]]:
    return lambda other: other.rerank(*hits, k=k)[1]


def _first_stage_of_items(
    fitted: Fitted, nodes: NDArray[np.int64], own: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Return the neighbour lists of items as first-stage results, without these items."""
    kept = fitted.affinity.neighbor_lists()
    if kept is None:
        raise DiffusionError(
            "queries: this index, of an earlier version, holds neither vectors nor neighbour "
            "lists; expected hits"
        )
    scores, ids = kept[0][nodes], kept[1][nodes].astype(np.int64)
    return scores, fitted.items.of_rows(np.where(np.isin(ids, own), -1, ids))


def _count_of(hits: Any, name: str) -> int:
    if not (isinstance(hits, tuple | list) and len(hits) == 2 and hasattr(hits[1], "__len__")):
        raise DiffusionError(f"{name}: expected a pair of scores and ids, got {hits!r:.40}")
    return 1 if is_single(hits[1]) else len(hits[1])


def _is_flat(values: Any) -> bool:
    """Return whether values are ids, and not vectors or sequences of ids."""
    if hasattr(values, "ndim"):
        return bool(values.ndim == 1 and not any(map(np.ndim, values)))
    return isinstance(values, Sequence) and all(isinstance(v, str | Integral) for v in values)


def _relevant_rows(items: ItemIds, relevant: Any) -> list[NDArray[np.int64]]:
    """Return the rows of the relevant items of each query, each once."""
    # The elements of a set, and the keys of a dictionary, are not in the order of the queries.
    if isinstance(relevant, str | bytes | Set | Mapping) or count_of(relevant) is None:
        raise DiffusionError(
            f"relevant: expected for each query a sequence of ids, or one id, got {relevant!r:.40}"
        )
    if _is_flat(relevant):
        relevant = [[item] for item in relevant]
    else:
        relevant = [list(row) if isinstance(row, set | frozenset) else row for row in relevant]
    codes = items.only_known(relevant, "relevant")
    return [np.unique(row[row >= 0]).astype(np.int64) for row in map(np.ravel, codes)]


def _checked(rows: list[NDArray[np.int64]], count: int, which: str = "") -> list[NDArray[np.int64]]:
    """Return the relevant items of `count` queries; raise an error if one has none."""
    if len(rows) != count:
        raise DiffusionError(
            f"relevant: expected those of {count} queries, one entry for each, got {len(rows)}"
        )
    if count < 2:
        raise DiffusionError(f"queries: expected at least 2 labelled queries, got {count}")
    empty = [number for number, row in enumerate(rows) if not len(row)]
    if empty:
        shown = ", ".join(map(str, empty[:10])) + (", ..." if len(empty) > 10 else "")
        raise DiffusionError(
            f"relevant: expected a relevant item{which} for each query, none for query {shown}"
        )
    return rows


# --- settings and their rankings -----------------------------------------------------------------


def present_setting(ranker: Reranker) -> Setting:
    """Return the setting that a Reranker was fitted with.

    Raises
    ------
    DiffusionError
        If its affinity has none of these parameters.
    """
    fitted = ranker.fitted()
    if not isinstance(fitted.affinity, Context):
        raise DiffusionError(
            f"tune: expected affinity='context', got affinity={fitted.affinity.name!r}"
        )
    weight = fitted.score.weight if isinstance(fitted.score, Fusion) else None
    granularity = None if isinstance(ranker.affinity, Context) else ranker.granularity
    return Setting(granularity, weight, int(ranker.query_k))


def settings_near(present: Setting, granularities: Sequence[str | None]) -> list[Setting]:
    """Return the settings to compare: the present one, then those that change least.

    Each of these granularities, with half the weight and twice, and half of query_k and twice.
    """
    weight, query_k = present.weight, present.query_k
    weights = [None] if weight is None else sorted({weight / 2, weight, 2 * weight})
    sizes = sorted({max(1, query_k // 2), query_k, 2 * query_k})
    every = [Setting(g, w, q) for g in granularities for w in weights for q in sizes]
    return sorted(every, key=lambda one: len(one.changes(present)))


def lists_for(fitted: Fitted, granularity: str, *, progress: bool = False) -> Lists | None:
    """Return neighbour lists that are long enough for a granularity.

    Lists that were kept are cut, which takes no time. Longer ones are searched for, unless the
    collection was fitted from lists that the vectors do not have, or without vectors: None then.
    """
    affinity = make_affinity("context", fitted.parameters["metric"], 1.0, granularity)
    width = affinity.listed(fitted.parameters["k"])
    kept, n = fitted.affinity.neighbor_lists(), fitted.graph.n_nodes
    if kept is not None and kept[1].shape[1] >= min(width, max(1, n - 1)):
        return kept[0][:, :width], kept[1][:, :width]
    index = fitted.index
    if kept is None or not isinstance(index, NeighborIndex):
        return None
    unchanged = Change.removal(n, np.empty(0, np.int64))
    scores, ids, _ = changed_lists(index, *kept, unchanged, width, progress=progress)
    rows = np.linspace(0, n - 1, min(n, _SAMPLE)).astype(np.int64)
    old, new = kept[1][rows][:, :, None], ids[rows][:, None, :]
    shared = np.count_nonzero((old == new).any(axis=2) & (old[:, :, 0] >= 0))
    return (scores, ids) if shared >= _AGREE * np.count_nonzero(old >= 0) else None


class Judged(NamedTuple):
    """The precisions of settings on labelled queries.

    Attributes
    ----------
    settings : list of Setting
        The first is the present one.
    table : ndarray, shape (c, nq)
        In percent.
    notes : list of str
        What was not tried, and why.
    """

    settings: list[Setting]
    table: PrecisionTable
    notes: list[str]


def judged(labelled: Labelled) -> Judged:
    """Rank the labelled queries with every setting.

    One graph is in memory at a time beside that of the Reranker.
    """
    ranker, notes = labelled.ranker, []
    fitted, present = ranker.fitted(), present_setting(ranker)
    precisions = {}
    for granularity in (None,) if present.granularity is None else GRANULARITIES:
        other = ranker
        if granularity is not None and granularity != present.granularity:
            lists = lists_for(fitted, granularity, progress=ranker.progress)
            if lists is None:
                notes.append(
                    f"{granularity!r} was not tried: its lists are longer than those that were "
                    "given, which no vectors continue"
                )
                continue
            other = ranker.with_parameters(lists, granularity=granularity)
        for setting in settings_near(present, [granularity]):
            one = setting.changes(present._replace(granularity=granularity))
            precisions[setting] = labelled.precision(
                other.with_parameters(None, **one, progress=False)
            )
    if present.granularity is None:
        notes.append("only weight and query_k were tried: the scales are those of a Context")
    tried = list(dict.fromkeys(setting.granularity for setting in precisions))
    order = settings_near(present, tried)
    return Judged(order, np.stack([precisions[setting] for setting in order]), notes)


def tuned(labelled: Labelled) -> Tuning:
    """Choose the parameters of a Reranker, which is not changed."""
    settings, table, notes = judged(labelled)
    choice = choose(table)
    means = np.sort(table, axis=1).mean(axis=1)
    gains = np.sort(table - table[0], axis=1).mean(axis=1)
    figures = zip(settings, means.tolist(), gains.tolist(), choice.bounds.tolist(), strict=True)
    candidates = [Candidate(*row) for row in figures]
    before, after = settings[0], settings[choice.best]
    return Tuning(
        after.changes(before),
        before,
        after,
        choice.gain,
        choice.interval,
        "average precision" if labelled.complete else "discounted gain",
        table.shape[1],
        tuple(sorted(candidates, key=lambda one: -one.bound)),
        choice.needed,
        tuple(notes),
    )
