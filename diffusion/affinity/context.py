"""The contextual affinity: similarity of the neighbourhoods of items at several scales."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, ClassVar, NoReturn

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ..change import Ages, Change
from ..devices import RUN_TIME, ContextLoops, check_device, context_on
from ..errors import DiffusionError
from ..kernels import context as loops
from ..kernels import encodings as blocks
from ..kernels import queries, updates
from ..kernels import ranking as first_stage
from ..kernels.context import Encodings, Holders, Sets
from ..kernels.locality import locality_order
from ..kernels.matrix import SparseRows, read_only
from ..kernels.ranking import FirstStage, LocalScale
from ..storage.contents import (
    COMPUTED,
    Array,
    Arrays,
    Between,
    Contents,
    Places,
    Promise,
    Ragged,
    Stops,
    damaged,
    finite,
    with_rows,
)
from ..validation import check_integer, check_real
from .base import Affinity, Edges, Lists, Observation, lists_layout
from .scaling import UNSCALED, ScaledLists, in_given_order, local_scales_of, rescaled, scaled_lists
from .updates import differing, mapped, reached

# Number of items encoded or compared between two updates of a progress bar.
_PART = 1 << 16

# Number of overlaps that an update keeps room for at a time: 24 MiB.
_OFFERED = 1 << 22

# An update that encodes a larger share of the items than this computes everything.
_MOST_CHANGED = 0.75

# Entries of lists beyond the largest scale.
SPARE = 8

# The arrays that do not grow with the collection.
_SMALL_ARRAYS = ("ranks",)

# The arrays of `Holders`.
_HOLDERS = ("starts", "stops", "holders", "holders_high")

# No ages: equal sums are ordered by row.
_IN_ORDER = np.empty(0, np.int32)

# Number of similarities computed at a time: 256 MiB.
_BATCH_ENTRIES = 1 << 25


@dataclass
class Context(Affinity):
    """Jaccard similarity of mutual neighbourhoods at several scales at once.

    A fixed number of neighbours suits only objects with about that many images. This affinity
    combines the neighbourhoods of an item at all `scales`. It needs only neighbour lists::

        r_i    = the twelfth highest score s_il in the list of i
        s'_ij  = s_ij - f (r_i + r_j)       by which the entries of all lists are ranked
        m_ij   = max(rank_i(j), rank_j(i))  where i and j list each other, else infinite; m_ii = 0
        V_s(i) = (1[m_ij <= s] + 1[m_ij <= s/2]) / Σ_j (the same)            for every scale s
        V_i    = mean over s of the mean of V_s over i and its s/3 - 1 nearest neighbours
        J_ij   = Σ_l min(V_il, V_jl) / Σ_l max(V_il, V_jl)
        t_ij   = 1 / (1 + (s'_i1 - s'_ij) / (s'_i1 - s'_i12))²  where i lists j, else 0
        S_ij   = (J_ij + (t_ij + t_ji) / 2) / 2
        A_ij   = S_ij³ (share of the scales s with i and j among each other's s best by S)

    r_i is the local scale of item i, and f is `scaling`: items that are near everything (hubs) are
    ranked lower. V_i is the encoding of item i. Its `size` largest entries are kept and divided by
    their sum. Half a scale is rounded down, to 1 at least. t is what the first stage itself says:
    s'_i1 and s'_i12 are the highest and the twelfth distinct scaled score in the list of i. An item
    has S to as many others as a list holds, which are those with the largest J above 0.

    A query is encoded in the same way against the collection, which is not changed: the query is
    ranked among the collection's lists but has no entry of its own in an encoding. Its observation
    y consists of its `query_k` largest J + e, where e is the evidence of the first stage on its
    neighbours (`Fusion`), here less the least of them.

    Parameters
    ----------
    scales : sequence of int in [1, 255], default (3, 6, 12, 24, 48)
        Largest mutual rank in a neighbourhood, at each scale. The largest scale is the number of
        neighbours used per item and per query. Scales are cut to the length of the neighbour
        lists. A single scale gives the k-reciprocal encoding without its exponential weights.
    size : int >= 1, default 50
        Number of entries of an encoding.
    device : {"cpu", "cuda", "cuda:N"}, default "cpu"
        Where to encode and to compare the items of the collection; a GPU needs torch, the extra
        `gpu`, and gives the same result. Queries are encoded on the CPU, and an index does not
        store the device.
    scaling : float in [0, 1), default 0.3
        The factor f of the local scales; 0 ranks by the scores themselves.

    Notes
    -----
    The rank of an entry is one more than the number of entries with a higher score, so that equal
    scores share a rank. An item with an empty list has no neighbourhood, and its similarity J to
    all items and queries is 0. Encodings are stored in units of 1/65535.

    Lists of fewer than twelve neighbours have their last score for r. Scaling sorts what the lists
    hold up to the largest scale, for items and queries alike; nothing enters them. Scores may be of
    any metric, because only differences matter. `local_scale` holds r.

    Memory: for l < 16 different scales and halves, of which the largest is k, 4.5 k + 4 l + 4 bytes
    per item for the lists and 5 `size` + 16 bytes for the encodings, up to 2^24 items: 510 bytes
    per item in all with the default settings, in addition to the graph. Of the scores of the lists,
    a search reads those at these ranks, which is all that the rank of a query depends on. Another
    11 k + 64 bytes per item, 592 with the default settings, are read by updates of the collection
    alone: all scores and the order that they give, spare entries, and the most similar items and
    their similarities. Building takes 1,700 bytes per item in addition to the lists. The time grows
    with the square of the number of encodings that hold an item, which is about `size` for most
    items. It is linear in the number of items unless some items are neighbours of a fixed share of
    all.

    An index of an earlier version has encodings without halves of scales, and queries are encoded
    likewise. An update computes everything anew.

    References
    ----------
    Zhong, Zheng, Cao, Li. Re-ranking Person Re-identification with k-reciprocal Encoding.
    CVPR 2017: the encoding at one scale, with the Jaccard distance.
    Conneau, Lample, Ranzato, Denoyer, Jégou. Word Translation Without Parallel Data. ICLR 2018:
    local scaling of similarities (CSLS), with f = 1/2 and means of ten scores. Jégou, Harzallah,
    Schmid, CVPR 2007, and Zelnik-Manor, Perona, NIPS 2004: local scaling of distances.
    """

    scales: tuple[int, ...] = (3, 6, 12, 24, 48)
    size: int = 50
    device: str = field(default="cpu", metadata=RUN_TIME)
    scaling: float = 0.3
    _state: dict[str, NDArray[Any]] = field(init=False, repr=False, compare=False)
    _contents: Contents = field(init=False, repr=False, compare=False, default=COMPUTED)
    # What only `changed` reads, see `_basis_layout`; empty for an index of an earlier version.
    _basis: dict[str, NDArray[Any]] = field(init=False, repr=False, compare=False)
    # The ages of the items (see `change`); empty if these are in the order of their ages.
    _ages: NDArray[np.int32] = field(
        init=False, repr=False, compare=False, default_factory=lambda: _IN_ORDER
    )
    _basis_contents: Contents = field(init=False, repr=False, compare=False, default=COMPUTED)
    # The state in the form that queries are compared with.
    _opened: tuple[queries.Known, loops.Scales, Holders] | None = field(
        init=False, repr=False, compare=False, default=None
    )

    # What errors call the state that the arrays belong to.
    _source: str = field(init=False, repr=False, compare=False, default="affinity")

    name: ClassVar[str] = "context"
    by_age: ClassVar[bool] = True
    # Its weights fall faster than the published ones, so that walks are to be longer.
    alpha: ClassVar[float] = 0.995
    rows: ClassVar[tuple[Ragged, ...]] = (Ragged("starts", "stops", ("holders", "holders_high")),)

    def __post_init__(self) -> None:
        try:
            scales = tuple(self.scales)
        except TypeError:
            raise DiffusionError(
                f"scales: expected a sequence of integers, got {self.scales!r}"
            ) from None
        self.scales = tuple(sorted({check_integer(s, "scales", low=1) for s in scales}))
        if not scales or self.scales[-1] > 255:
            raise DiffusionError(f"scales: expected integers from 1 to 255, got {scales!r}")
        self.size = check_integer(self.size, "size", low=1)
        self.scaling = check_real(self.scaling, "scaling", low=0.0, high=1.0)
        check_device(self.device)

    @property
    def local_scale(self) -> NDArray[np.float32]:
        """The local scale r (n,) of each item, float32; (0,) if `scaling` is 0."""
        return self._checked.get("local_scale", UNSCALED)

    @property
    def ages(self) -> NDArray[np.int32] | None:
        """The ages (n,) of the items, None if these are in the order of their ages."""
        return self._ages if len(self._ages) else None

    @property
    def depth(self) -> int:
        """Number of neighbours used for the observation of a query."""
        return self._cut[-1]

    def depth_of(self, k: int | None) -> int:
        """Return the number of neighbours up to the largest scale."""
        return self.scales[-1] if k is None else min(k, self.scales[-1])

    def scale_of(
        self, scores: NDArray[np.float32], ids: NDArray[np.int64] | None = None
    ) -> LocalScale:
        """Return the local scales by which lists are ranked, and those of queries."""
        if "local_scale" not in self._state:
            return super().scale_of(scores, ids)
        items = self._state["local_scale"]
        if ids is None:
            self._contents.check()
        elif not self._contents.checked:
            self._contents.check_small(_SMALL_ARRAYS)
            if not np.isfinite(items[ids[(ids >= 0) & (ids < len(items))]]).all():
                self._fail("local_scale", "finite values")
        queries = local_scales_of(scores)
        return LocalScale(float(self.scaling), read_only(items), read_only(queries))

    def _fail(self, name: str, expected: str) -> NoReturn:
        """Raise the error that says what is wrong with the arrays."""
        self._contents.check(by_rows=True)
        self._contents.check()
        raise damaged(self._source, name, expected)

    def listed(self, k: int | None) -> int:
        """Return the number of neighbours up to the largest scale, and spare ones.

        When an item is removed, a spare one takes its place in the lists that had it. Lists that
        are shorter than the largest scale have none: all of their entries are used.
        """
        return k if k is not None and k < self.scales[-1] else self.scales[-1] + SPARE

    @property
    def _cut(self) -> tuple[int, ...]:
        """The scales, cut to the length of the lists."""
        if not hasattr(self, "_state"):
            return self.scales
        width = self._state["ids"].shape[1]
        return tuple(sorted({min(s, width) for s in self.scales}))

    def edges(
        self, scores: NDArray[np.float32], ids: NDArray[np.int32], *, progress: bool = False
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Encode the items; return the most similar others of each, and the weights A.

        A is 0 for items that are not mutually among each other's most similar. Parameters and
        shapes are those of `Affinity.edges`.
        """
        n, k = len(ids), min(self.scales[-1], ids.shape[1])
        lists = self._take(scores, ids, k)
        ids, basis, self._contents, self._opened = lists.ids, self._basis, COMPUTED, None
        # A device resolves ties by row.
        on_device = context_on("cpu" if len(self._ages) else self.device)
        order = locality_order(ids)
        ranks, levels = np.empty(ids.shape, np.uint8), np.empty(ids.shape, np.uint8)
        loops.ranks_in_lists(ids, lists.scores, ranks)
        loops.mutual_levels(order, ids, ranks, self._scales.ranks, levels)
        self._state["levels"] = packed_levels(levels, len(self._scales.ranks))
        self._state["reach"] = np.take(lists.scores, self._scales.ranks - 1, axis=1)
        del ranks, levels
        overlaps = np.empty((n, k), np.uint16)
        similar = self._compare_items(on_device, order, overlaps, progress)
        self._basis = {**basis, "similar": similar, "overlaps": overlaps}
        self._basis_contents = COMPUTED
        S, ranks = self._ranked(order, order, lists)
        levels = np.empty(S.shape, np.uint8)
        loops.mutual_levels(order, similar, ranks, np.array(self._cut), levels)
        return similar, self._weights(S, levels)

    def _take(self, scores: NDArray[np.float32], ids: NDArray[np.integer], k: int) -> ScaledLists:
        """Rank lists by scaled scores, and keep them and what updates need of the given ones."""
        self._basis = _kept_lists(scores, ids, k)
        near = np.ascontiguousarray(ids[:, :k], np.int32)
        lists = scaled_lists(self._basis["scores"], near, self.scaling)
        self._state = {"ids": lists.ids, "ranks": level_ranks(self.scales, k)}
        if self.scaling:
            self._state["local_scale"] = lists.local_scale
            self._basis["order"] = lists.order
        return lists

    def neighbor_lists(self) -> Lists | None:
        """Return the lists that the edges were made from, and their spare entries, or None.

        They are as they were given, by descending score.
        """
        if not self._basis:
            return None
        self._contents.check(by_rows=True)
        self._basis_contents.check()
        scores, ids = self._basis["scores"], self._as_given(self._state["ids"])
        if "spare_ids" not in self._basis:
            return scores, ids
        return (
            np.concatenate([scores, self._basis["spare_scores"]], axis=1),
            np.concatenate([ids, self._basis["spare_ids"]], axis=1),
        )

    def _as_given(
        self, array: NDArray[Any], items: NDArray[np.int64] | slice = slice(None)
    ) -> NDArray[Any]:
        """Return values (m, k) of the entries of some items' lists in the order of the scores."""
        if not self.scaling:
            return array
        self._basis_contents.check(by_rows=True)
        return in_given_order(array, self._basis["order"][items])

    def _compare_items(
        self,
        on_device: ContextLoops,
        order: NDArray[np.int32],
        overlaps: NDArray[np.uint16],
        progress: bool,
    ) -> NDArray[np.int32]:
        """Encode all items, and list the most similar others of each, with their overlaps.

        Only two arrays as wide as the lists exist beside the inverted lists: the items that are
        listed take the place of the encodings.
        """
        n, k = overlaps.shape
        size = min(self.size, n)
        width = max(size, k)
        encodings = Encodings(np.empty((n, width), np.int32), np.empty((n, size), np.uint16))
        parts = [order[start : start + _PART] for start in range(0, n, _PART)]
        form = "{desc}: {percentage:3.0f}%|{bar}| [{elapsed}<{remaining}]"
        with tqdm(total=3 * n, desc="context", bar_format=form, disable=not progress) as bar:
            sets = self._sets
            for part in parts:
                on_device.encode(part, part, sets, self._scales, encodings)
                bar.update(len(part))
            self._state |= _inverted(order, encodings)
            holders = self._holders
            for part in parts:
                on_device.jaccard_lists(
                    part, part, encodings, holders, sets.ages, encodings.ids, overlaps
                )
                bar.update(2 * len(part))  # comparing takes twice the time of encoding
        best = encodings.ids
        del encodings
        return np.ascontiguousarray(best[:, :k])

    def _ranked(
        self, items: NDArray[np.integer], places: NDArray[np.integer], lists: ScaledLists
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Return S of items[p] and the most similar others in row places[p], and their ranks."""
        similar, overlaps = map(read_only, self._similar)
        ids, scores = read_only(lists.ids), read_only(lists.scores)
        units = np.empty(len(ids), np.float64)
        loops.units_of_lists(scores, units)
        S = np.empty((len(items), ids.shape[1]), np.float32)
        ranks = np.empty(S.shape, np.uint8)
        first = loops.Lists(ids, scores, units)
        loops.pair_similarities(items, places, similar, overlaps, first, S)
        loops.ranks_of_values(S, ranks)
        return S, ranks

    def _weights(self, S: NDArray[np.float32], levels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return S³ times the share of the scales that hold the mutual rank by S; overwrites S."""
        share = np.arange(len(self._cut), -1, -1, dtype=np.float32) / np.float32(len(self._cut))
        loops.contextual_weights(S, levels, share, S)
        return S

    # --- a changed collection ---------------------------------------------------------------------

    def changed(
        self,
        scores: NDArray[np.float32],
        ids: NDArray[np.int32],
        dirty: NDArray[np.bool_],
        change: Change,
        ages: Ages,
        *,
        progress: bool = False,
    ) -> tuple[Affinity, Edges]:
        """Return the affinity of a changed collection, and the edges that are not as before.

        An item is encoded again if a set that its encoding averages has changed, if its own age has
        (see `Ages`), or if its encoding has an entry with another age. The overlaps of
        these items with all others are merged into the lists of the others; a list that loses more
        items than it receives is computed again. Edges are weighed again where these lists or those
        of the first stage have changed, and those of all that such lists hold. All else is copied.
        If more than three quarters of the items are to be encoded again, everything is computed. An
        update runs on the CPU.

        Equal sums are ordered by age, as in a fit of the items that are left. Parameters and shapes
        are those of `Affinity.changed`.
        """
        k = min(self.scales[-1], ids.shape[1])
        sizes = {min(self.size, n) for n in (change.before, change.after)}
        same = self._state["ids"].shape[1] == k and len(sizes) == 1
        kept = change.target >= 0
        later = ages.after[change.target[kept]] - ages.before[kept]
        # In another order than it was made with, or with other units.
        same &= np.array_equal(self._ages, _unordered(ages.before)) and not (later < 0).any()
        if self._basis and same and "ranks" in self._state:
            self._contents.check(by_rows=True)
            self._basis_contents.check()
            new = replace(self)
            new._ages = _unordered(ages.after)
            lists = new._take(scores, ids, k)
            dirty = rescaled(dirty, lists.ids, lists.local_scale, self.local_scale, change)
            again = new._change_levels(self, lists, dirty, change)
            again |= self._reordered(np.flatnonzero(kept)[later > 0], change)
            if np.count_nonzero(again) <= _MOST_CHANGED * len(again):
                with tqdm(total=3, desc="context", unit="step", disable=not progress) as bar:
                    listed = new._change_similar(self, again, change, ages, bar)
                    edges = new._changed_edges(self, lists, listed, dirty, change)
                    bar.update()
                return new, edges
        new = replace(self)
        new._ages = _unordered(ages.after)
        return new, Edges(*new.edges(scores, ids, progress=progress))

    def _change_levels(
        self, old: Context, lists: ScaledLists, dirty: NDArray[np.bool_], change: Change
    ) -> NDArray[np.bool_]:
        """Compute the levels from the old ones; mark the items to encode again (after,)."""
        ids, scores, old_ids = lists.ids, lists.scores, old._state["ids"]
        rows, scales = np.flatnonzero(reached(dirty, ids, old_ids, change)), self._scales
        source = change.source[rows]
        known, source = source >= 0, source[source >= 0]
        then = unpacked_levels(old._state["levels"][source], ids.shape[1])
        levels = np.empty((len(rows), ids.shape[1]), np.uint8)
        levels[known] = then
        places = rows.astype(np.int64, copy=False), read_only(ids), read_only(scores)
        updates.levels_of_rows(places[0], dirty, *places[1:], scales.ranks, levels)
        self._state |= {name: change.rows_of(old._state[name]) for name in ("levels", "reach")}
        self._state["levels"][rows] = packed_levels(levels, len(scales.ranks))
        self._state["reach"][dirty] = scores[dirty][:, scales.ranks - 1]

        near, listed = int(scales.spread[-1]) - 1, mapped(old_ids[source], change)
        sets, again = np.zeros(change.after, bool), np.zeros(change.after, bool)
        sets[rows] = again[rows] = True
        now = ids[rows[known]]
        sets[rows[known]] = differing((now, levels[known]), (listed, then), len(scales.ranks))
        again[rows[known]] = np.any(now[:, :near] != listed[:, :near], axis=1)
        updates.reads_changed(read_only(ids), near, sets, again)

        again[change.moved] = True  # what holds them is stored by row
        return again

    def _reordered(self, aged: NDArray[np.int64], change: Change) -> NDArray[np.bool_]:
        """Mark what the larger ages of some items may change: them, and what has their entries.

        Where equal sums are cut off, an item can only be left out by a larger age.
        """
        marked = np.zeros(change.before, bool)
        marked[aged] = True
        starts, stops, holders, high = self._holders
        starts, counts = starts[aged], stops[aged] - starts[aged]
        places = np.repeat(starts - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
        marked[(high[places].astype(np.int64) << 16) | (holders[places] >> 16)] = True
        return change.rows_of(marked)

    def _change_similar(
        self,
        old: Context,
        again: NDArray[np.bool_],
        change: Change,
        ages: Ages,
        bar: tqdm[Any],
    ) -> NDArray[np.bool_]:
        """Encode items again, and list what is most similar to them and to all that share entries.

        Marks the items with other lists than before (after,).
        """
        # By their old rows, the items whose entries and overlaps are not as before.
        gone = np.where(change.target >= 0, again[change.target], True)
        items = self._near_each_other(np.flatnonzero(again))
        encodings = self._encoded(items)
        self._state |= _reinverted(old._holders, gone, items, encodings, change.source)
        bar.update()
        n, k = self._state["ids"].shape
        now = updates.Listed(np.empty((n, k), np.int32), np.empty((n, k), np.uint16))
        before = updates.Listed(*map(read_only, old._similar))
        least, found = np.empty(n, np.int64), np.empty(n, np.uint8)
        # Whether one is in the order of its ages or not, they are in the same units.
        then, since = map(read_only, ages)
        updates.least_taken(change.source, again, then, before, least)
        offers = self._offers(items, encodings, since, least, now)
        both = change.source, change.target
        updates.merge_offers(found, both, again, gone, since, offers, before, now)
        others = self._near_each_other(np.flatnonzero(found == updates.INCOMPLETE))
        encodings = self._encoded(others)
        similar, overlaps = now.ids[others], now.overlaps[others]
        places = np.arange(len(others))
        blocks.jaccard_lists(others, places, encodings, self._holders, since, similar, overlaps)
        now.ids[others], now.overlaps[others] = similar, overlaps
        self._basis |= {"similar": now.ids, "overlaps": now.overlaps}
        bar.update()
        differs = again | (found != updates.SAME)
        rows = np.flatnonzero(differs & (found != updates.CHANGED) & (change.source >= 0))
        source = change.source[rows]
        differs[rows] = np.any(now.ids[rows] != mapped(before.ids[source], change), axis=1)
        differs[rows] |= np.any(now.overlaps[rows] != before.overlaps[source], axis=1)
        return differs

    def _offers(
        self,
        items: NDArray[np.int32],
        encodings: Encodings,
        ages: NDArray[np.int32],
        least: NDArray[np.int64],
        out: updates.Listed,
    ) -> Any:
        """List what is most similar to items, and return what others take of it by receiver."""
        bounds = np.empty(len(items), np.int64)
        n, holders = len(least), self._holders
        queries.jaccard_bounds(encodings.ids, holders, bounds)
        parts = []
        for part in _batches(bounds, _OFFERED) or [slice(0, 0)]:
            these = Encodings(encodings.ids[part], encodings.values[part])
            m, room = len(these.ids), int(bounds[part].sum())
            similar = np.empty((m, out.ids.shape[1]), np.int32)
            overlaps = np.empty(similar.shape, np.uint16)
            ids, values = np.empty(room, np.int32), np.empty(room, np.uint16)
            starts, counts = np.cumsum(bounds[part]) - bounds[part], np.empty(m, np.int64)
            offers = blocks.Offers(least, starts, counts, ids, values)
            blocks.jaccard_offers(items[part], these, holders, ages, similar, overlaps, offers)
            out.ids[items[part]], out.overlaps[items[part]] = similar, overlaps
            _, ids, values = SparseRows(starts, counts, ids, values).packed()
            parts.append((counts, ids, values))
        counts, ids, values = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return updates.by_receiver(items, counts, ids, values, n)

    def _changed_edges(
        self,
        old: Context,
        lists: ScaledLists,
        listed: NDArray[np.bool_],
        dirty: NDArray[np.bool_],
        change: Change,
    ) -> Edges:
        """Weigh the edges of all items that have another S than before, and of what they list.

        S is another where a list of similar items is (`listed`), or where one of the pair has
        another list of the first stage (`dirty`) that holds or has held the other.
        """
        similar = self._similar[0]
        changed = listed | reached(dirty, lists.ids, old._state["ids"], change)
        weighed = reached(changed, similar, old._similar[0], change)
        rows = np.flatnonzero(weighed)
        read = weighed.copy()
        read[similar[rows][similar[rows] >= 0]] = True
        items = np.flatnonzero(read)
        slots = np.full(len(similar), -1, np.int32)
        slots[items] = np.arange(len(items))
        S, ranks = self._ranked(items, slots[items], lists)
        levels = np.empty((len(rows), similar.shape[1]), np.uint8)
        cut = np.array(self._cut)
        updates.levels_by_rank(rows, slots, read_only(similar), ranks, cut, levels)
        return Edges(similar[rows], self._weights(S[slots[rows]], levels), rows)

    def _encoded(self, items: NDArray[np.integer]) -> Encodings:
        encodings = self._empty_encodings(len(items))
        places = np.arange(len(items), dtype=np.int32)
        blocks.encode(items, places, self._sets, self._scales, encodings)
        return encodings

    def _near_each_other(self, items: NDArray[np.int64]) -> NDArray[np.int32]:
        """Order items by clusters of neighbours."""
        ids = self._state["ids"]
        own = np.full(len(ids) + 1, -1, np.int32)  # the last is that of -1
        own[items] = np.arange(len(items))
        return items[locality_order(own[ids[items]])].astype(np.int32)

    @property
    def _similar(self) -> tuple[NDArray[np.int32], NDArray[np.uint16]]:
        return self._basis["similar"], self._basis["overlaps"]

    # --- queries ----------------------------------------------------------------------------------

    def observe(
        self, scores: NDArray[np.float32], ids: NDArray[np.int64], query_k: int
    ) -> Observation:
        """Encode queries by their neighbours; y holds their `query_k` largest J + e.

        An item with an empty list is in no observation, like in no neighbourhood.
        """
        first = FirstStage(np.ascontiguousarray(scores), np.ascontiguousarray(ids, np.int64))
        if self._opened is None:
            # A query checks what it reads.
            self._contents.check_small(_SMALL_ARRAYS)
            state = self._state
            arrays = state["ids"], state["levels"], self._ages
            reach, local_scale = state["reach"], state.get("local_scale", UNSCALED)
            known = queries.Known(
                Sets(*map(read_only, arrays)),
                read_only(reach),
                read_only(local_scale),
                np.float32(self.scaling),
            )
            holders = Holders(*(read_only(state[name]) for name in _HOLDERS))
            self._opened = known, self._scales, holders
        known, scales, holders = self._opened
        m = len(ids)
        encodings, wrong = self._empty_encodings(m), np.zeros(m, bool)
        queries.encode_queries(known, scales, first, encodings, wrong)
        if wrong.any():
            self._fail("ids", "lists of items")
        bounds = np.empty(m, np.int64)
        queries.jaccard_bounds(encodings.ids, holders, bounds)
        if (bounds < 0).any():
            self._fail("stops", "ends of rows")
        near = queries.Near(first.ids, self._evidence(first))
        width = min(query_k, int(bounds.max(initial=0)) + max(1, first.ids.shape[1]))
        y, similar = SparseRows.of_width(m, width), []
        for part in _batches(bounds, _BATCH_ENTRIES) or [slice(0, 0)]:
            these = Encodings(encodings.ids[part], encodings.values[part])
            nearest = queries.Near(near.ids[part], near.evidence[part])
            out = SparseRows.of_at_most(bounds[part]), y.part(part)
            queries.compare(these, holders, known.sets, nearest, *out, width)
            if (out[0].counts < 0).any():
                self._fail("holders", "items of the collection")
            similar.append(out[0])
        return Observation(y, SparseRows.joined(similar))

    def _evidence(self, first: FirstStage) -> NDArray[np.float32]:
        """Return e of the neighbours of queries (m, c)."""
        out = np.empty(first.scores.shape, np.float32)
        scale = self.scale_of(first.scores, first.ids)
        first_stage.evidence(first, scale, out.shape[1], 1.0, out)
        return out

    def lists(
        self, items: NDArray[np.int64] | slice
    ) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Return the neighbour lists of some items, cut to `depth`, and which are mutual (m, k).

        They are as they were given, by descending score.
        """
        self._contents.check(by_rows=True)
        ids, levels = self._state["ids"][items], self._state["levels"][items]
        mutual = unpacked_levels(levels, ids.shape[1]) < len(self._scales.ranks)
        return self._as_given(ids, items), self._as_given(mutual, items)

    def scored_lists(self, items: NDArray[np.int64]) -> Lists | None:
        """Return the scores and ids of the lists of some items, None if scores were not kept.

        They are as they were given, by descending score.
        """
        if not self._basis:
            return None
        self._contents.check(by_rows=True)
        self._basis_contents.check()
        return self._basis["scores"][items], self._as_given(self._state["ids"][items], items)

    def departure(self, items: NDArray[np.int64], k: int) -> float:
        """Return the share of the k nearest of some items that are not among their k largest J."""
        ids = self.lists(items)[0][:, :k]
        items, places = items.astype(np.int32), np.arange(len(items), dtype=np.int32)
        encodings = self._encoded(items)
        best = np.empty((len(items), k), np.int32)
        overlaps = np.empty((len(items), k), np.uint16)
        ages = read_only(self._ages)
        blocks.jaccard_lists(items, places, encodings, self._holders, ages, best, overlaps)
        found = (best[:, :, None] == ids[:, None, :]) & (best[:, :, None] >= 0)
        return 1 - int(np.count_nonzero(found)) / max(1, int(np.count_nonzero(ids >= 0)))

    def _empty_encodings(self, m: int) -> Encodings:
        # No encoding has more entries than there are items.
        shape = m, min(self.size, len(self._state["ids"]))
        return Encodings(np.empty(shape, np.int32), np.empty(shape, np.uint16))

    @property
    def _scales(self) -> loops.Scales:
        if "ranks" in self._state:
            return scales_of(self.scales, self._state["ids"].shape[1])
        # Without ranks, in an index of an earlier version, a level is a scale.
        scales = np.array(self._cut, np.int64)
        return _with_halves(scales, scales, scales)

    @property
    def _sets(self) -> Sets:
        arrays = self._checked["ids"], self._checked["levels"], self._ages
        return Sets(*map(read_only, arrays))

    @property
    def _holders(self) -> Holders:
        return Holders(*(read_only(self._checked[name]) for name in _HOLDERS))

    @property
    def _checked(self) -> dict[str, NDArray[Any]]:
        self._contents.check()
        return self._state

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays to store: the lists and what was made of them."""
        ages = {"ages": self._ages} if len(self._ages) else {}
        return {**self._state, **self._basis, **ages}

    def restore(self, arrays: dict[str, NDArray[Any]], n_items: int, source: str = "state") -> None:
        """Restore the state from stored arrays; their content is checked on first use."""
        if not arrays["ids"].size:
            raise ValueError("ids: no list has an entry")
        self._state, self._opened = {"ids": arrays["ids"]}, None
        self._source = source
        if "ranks" in arrays:
            self._state["ranks"] = arrays["ranks"]
        if "mutual" in arrays:
            arrays = _of_an_earlier_version(arrays, n_items, self._scales.ranks)
        arrays = with_rows(arrays)
        layout = _layout(n_items, arrays["ids"].shape[-1], len(self._scales.ranks))
        if not self.scaling:
            del layout["local_scale"]
        if "ranks" in arrays:
            ranks = self._scales.ranks.tolist()
            layout["ranks"] = Array(np.uint8, (len(ranks),), _Exactly(tuple(ranks)))
        self._ages = arrays.get("ages", _IN_ORDER)
        ages = {"ages": Array(np.int32, (n_items,))} if "ages" in arrays else {}
        self._contents = Contents(arrays, {**layout, **ages}, source)
        self._state = {name: arrays[name] for name in layout}
        kept = bool(self.scaling) or "similar" in arrays
        layout = _basis_layout(*self._state["ids"].shape) if kept else {}
        if layout and "spare_ids" not in arrays:
            del layout["spare_ids"], layout["spare_scores"]
        if layout and not self.scaling:
            del layout["order"]
        self._basis_contents = Contents(arrays, layout, source)
        self._basis = {name: arrays[name] for name in layout}


@dataclass(frozen=True)
class _Holders(Promise):
    """Items from 0 to n - 1, with their other bits in `holders_high`."""

    n: int

    def kept(self, places: Places, block: NDArray[Any], arrays: Arrays) -> bool:
        """Return whether all items are in range."""
        high = arrays["holders_high"][places].astype(np.int64)
        return bool(((high << 16) | (block >> 16)).max() < self.n)

    def __str__(self) -> str:
        return f"items from 0 to {self.n - 1}"


@dataclass(frozen=True)
class _Exactly(Promise):
    """These values."""

    values: tuple[int, ...]

    def kept(self, places: Places, block: NDArray[Any], arrays: Arrays) -> bool:
        """Return whether the values are equal to those at these places."""
        return bool(np.array_equal(block, np.array(self.values)[places]))

    def __str__(self) -> str:
        return f"the values {', '.join(map(str, self.values))}"


def scales_of(scales: tuple[int, ...], k: int) -> loops.Scales:
    """Return the scales, cut to lists of k, and their levels."""
    cut = np.unique(np.minimum(scales, k)).astype(np.int64)
    return _with_halves(cut, level_ranks(scales, k).astype(np.int64), np.maximum(1, cut // 2))


def _with_halves(
    scales: NDArray[np.int64], ranks: NDArray[np.int64], halves: NDArray[np.int64]
) -> loops.Scales:
    whole, half = np.searchsorted(ranks, scales), np.searchsorted(ranks, halves)
    return loops.Scales(ranks, whole, half, np.maximum(1, scales // 3))


def level_ranks(scales: tuple[int, ...], k: int) -> NDArray[np.uint8]:
    """Return the ranks of the levels (l,): the scales, cut to lists of k, and their halves."""
    cut = {min(s, k) for s in scales}
    return np.array(sorted(cut | {max(1, s // 2) for s in cut}), np.uint8)


def _layout(n: int, k: int, n_levels: int) -> dict[str, Array]:
    """Return what the arrays of n items must be: the lists, and the inverted lists.

    `levels` are those of `Sets`, `reach` the scaled scores at the places of their ranks,
    `local_scale` is that of `ScaledLists`, and the others are those of `Holders`.
    """
    most = float(np.finfo(np.float32).max)
    return {
        "ids": Array(np.int32, (n, k), Between(-1, n - 1), by_rows=True),
        "levels": Array(np.uint8, (n, _level_bytes(k, n_levels))),
        "reach": Array(np.float32, (n, n_levels), Between(-np.inf, most), by_rows=True),
        "local_scale": Array(np.float32, (n,), finite(np.float32)),
        "starts": Array(np.int64, (n,), Between(0, np.inf)),
        "stops": Array(np.int64, (n,), Stops("starts", "holders")),
        "holders": Array(np.uint32, ("entries",), _Holders(n), rows=("starts", "stops")),
        "holders_high": Array(high_type(n), ("entries",)),
    }


def _kept_lists(
    scores: NDArray[np.float32], ids: NDArray[np.integer], k: int
) -> dict[str, NDArray[Any]]:
    """Return what is kept of lists for updates: the scores of the first k, and spare entries."""
    kept = {"scores": np.ascontiguousarray(scores[:, :k], np.float32)}
    if ids.shape[1] == k:
        return kept
    spare = slice(k, k + SPARE)
    return {
        **kept,
        "spare_scores": np.ascontiguousarray(scores[:, spare], np.float32),
        "spare_ids": np.ascontiguousarray(ids[:, spare], np.int32),
    }


def _basis_layout(n: int, k: int) -> dict[str, Array]:
    """Return what the arrays must be that an update starts from.

    They are the scores of the lists, the places of their entries by these scores (see
    `ScaledLists`), their spare entries, and, for each item, the most similar others and their
    overlaps, of which the edges were made.
    """
    spare = lists_layout(n, "spare")
    return {
        "scores": lists_layout(n, k)["scores"],
        "order": Array(np.uint8, (n, k), Between(0, k - 1), by_rows=True),
        "spare_scores": spare["scores"],
        "spare_ids": spare["ids"],
        "similar": Array(np.int32, (n, k), Between(-1, n - 1)),
        "overlaps": Array(np.uint16, (n, k)),
    }


def _of_an_earlier_version(
    arrays: dict[str, NDArray[Any]], n: int, ranks: NDArray[np.int64]
) -> dict[str, NDArray[Any]]:
    """Return the arrays that stand for those of an index from before levels were stored."""
    levels = np.searchsorted(ranks, np.arange(256)).astype(np.uint8)
    levels[0] = len(ranks)  # no mutual rank
    items, values = arrays["indices"], arrays["values"]
    return {
        "ids": arrays["ids"],
        "levels": packed_levels(levels[arrays["mutual"]], len(ranks)),
        "reach": np.take(arrays["scores"], ranks - 1, axis=1),
        "indptr": arrays["indptr"],
        "holders": (items.astype(np.uint32) << 16) | values,
        "holders_high": (items >> 16).astype(high_type(n)),
    }


def _level_bytes(k: int, n_levels: int) -> int:
    """Return the length of a row of levels: two levels per byte if they are below 16."""
    return (k + 1) // 2 if n_levels < 16 else k


def packed_levels(levels: NDArray[np.uint8], n_levels: int) -> NDArray[np.uint8]:
    """Return levels (n, k) as they are stored."""
    k = levels.shape[1]
    if _level_bytes(k, n_levels) == k:
        return levels
    packed = levels[:, ::2].copy()
    packed[:, : k // 2] |= levels[:, 1::2] << 4
    return packed


def unpacked_levels(levels: NDArray[np.uint8], k: int) -> NDArray[np.uint8]:
    """Return levels (m, k) from rows of those that are stored."""
    if levels.shape[1] == k:
        return levels
    both = np.stack([levels & 15, levels >> 4], axis=2)
    return both.reshape(len(levels), 2 * levels.shape[1])[:, :k]


def high_type(n: int) -> type[np.unsignedinteger[Any]]:
    """Return the type of the upper bits of an item, of which `holders` has the other 16."""
    return np.uint8 if n <= 1 << 24 else np.uint16


def _inverted(order: NDArray[np.int32], encodings: Encodings) -> dict[str, NDArray[Any]]:
    """Turn encodings (n, size) into inverted lists: for each entry, the items that have it."""
    n = len(order)
    filled = int(np.count_nonzero(encodings.values))
    starts, stops = np.empty(n, np.int64), np.zeros(n, np.int64)
    holders, high = np.empty(filled, np.uint32), np.empty(filled, high_type(n))
    blocks.invert(order, encodings, Holders(starts, stops, holders, high))
    return {"starts": starts, "stops": stops, "holders": holders, "holders_high": high}


def _unordered(ages: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return ages, none if they ascend."""
    return _IN_ORDER if (ages[1:] > ages[:-1]).all() else ages


def _reinverted(
    old: Holders,
    gone: NDArray[np.bool_],
    items: NDArray[np.int32],
    encodings: Encodings,
    source: NDArray[np.int32],
) -> dict[str, NDArray[Any]]:
    """Return inverted lists without the items that are gone, and with those of new encodings.

    `source` (after,) are the old rows of all items; only items that are gone have moved.
    """
    n = len(source)
    kept = np.empty(n, np.int64)
    updates.count_kept(kept, source, old, gone)
    indptr = np.zeros(n + 1, np.int64)
    added = np.bincount(encodings.ids[encodings.ids >= 0], minlength=n)
    np.cumsum(kept + added, out=indptr[1:])
    holders, high = np.empty(indptr[-1], np.uint32), np.empty(indptr[-1], high_type(n))
    updates.copy_kept(kept, source, old, gone, indptr, holders, high)
    updates.add_entries(items, encodings, indptr[:-1] + kept, holders, high)
    starts, stops = indptr[:-1], indptr[1:]
    return {"starts": starts, "stops": stops, "holders": holders, "holders_high": high}


def _batches(sizes: NDArray[np.int64], most: int) -> list[slice]:
    """Cut a sequence into parts with sums up to `most`, each of at least one element."""
    ends = np.cumsum(sizes)
    cuts, begin = [0], 0
    while cuts[-1] < len(sizes):
        end = int(np.searchsorted(ends, begin + most, side="right"))
        cuts.append(max(end, cuts[-1] + 1))
        begin = int(ends[cuts[-1] - 1])
    return [slice(a, b) for a, b in pairwise(cuts)]
