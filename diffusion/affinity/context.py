"""The contextual affinity: similarity of the neighbourhoods of items at several scales."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ..devices import RUN_TIME, ContextLoops, check_device, context_on
from ..errors import DiffusionError
from ..kernels import context as loops
from ..kernels import encodings as blocks
from ..kernels import queries
from ..kernels.context import Encodings, Holders, Sets
from ..kernels.locality import locality_order
from ..kernels.matrix import SparseRows, read_only
from ..kernels.ranking import FirstStage
from ..storage.contents import (
    COMPUTED,
    Array,
    Arrays,
    Between,
    Contents,
    Places,
    Promise,
    Stops,
    with_rows,
)
from ..validation import check_integer
from .base import Affinity, Lists, Observation, lists_layout

# Number of items encoded or compared between two updates of a progress bar.
_PART = 1 << 16

# Number of similarities computed at a time: 256 MiB.
_BATCH_ENTRIES = 1 << 25


@dataclass
class Context(Affinity):
    """Jaccard similarity of mutual neighbourhoods at several scales at once.

    A fixed number of neighbours suits only objects with about that many images. This affinity
    combines the neighbourhoods of an item at all `scales`. It needs only neighbour lists::

        m_ij   = max(rank_i(j), rank_j(i))  where i and j list each other, else infinite; m_ii = 0
        V_s(i) = 1[m_ij <= s] / Σ_j 1[m_ij <= s]                             for every scale s
        V_i    = mean over s of the mean of V_s over i and its s/3 - 1 nearest neighbours
        J_ij   = Σ_l min(V_il, V_jl) / Σ_l max(V_il, V_jl)
        A_ij   = J_ij² (share of the scales s with i and j among each other's s best by J)

    V_i is the encoding of item i. Its `size` largest entries are kept and divided by their sum.
    A query is encoded in the same way against the collection, which is not changed: the query is
    ranked among the collection's lists but has no entry of its own in an encoding. Its observation
    y consists of its `query_k` largest J.

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

    Notes
    -----
    The rank of an entry is one more than the number of entries with a higher score, so that equal
    scores share a rank. An item with an empty list has no neighbourhood, and its similarity J to
    all items and queries is 0. Encodings are stored in units of 1/65535.

    Memory: for s < 16 scales of which the largest is k, 4.5 k + 4 s bytes per item for the lists
    and 5 `size` + 16 bytes for the encodings, up to 2^24 items: 502 bytes per item in all with the
    default settings, in addition to the graph. Of the scores of the lists, a search reads those
    at the places of the scales, which is all that the rank of a query depends on. Another 10 k
    bytes per item, 480 with the default settings, are read by updates of the collection alone: all
    scores, the most similar items and their similarities. Building takes 1,200 bytes per item in
    addition to the lists. The time grows with the square of the number of
    encodings that hold an item, which is about `size` for most items. It is linear in the number
    of items unless some items are neighbours of a fixed share of all.

    References
    ----------
    Zhong, Zheng, Cao, Li. Re-ranking Person Re-identification with k-reciprocal Encoding.
    CVPR 2017: the encoding at one scale, with the Jaccard distance.
    """

    scales: tuple[int, ...] = (3, 6, 12, 24, 48)
    size: int = 50
    device: str = field(default="cpu", metadata=RUN_TIME)
    _state: dict[str, NDArray[Any]] = field(init=False, repr=False, compare=False)
    _contents: Contents = field(init=False, repr=False, compare=False, default=COMPUTED)
    # What only `changed` reads, see `_basis_layout`; empty for an index of an earlier version.
    _basis: dict[str, NDArray[Any]] = field(init=False, repr=False, compare=False)
    _basis_contents: Contents = field(init=False, repr=False, compare=False, default=COMPUTED)
    # The state in the form that queries are compared with.
    _opened: tuple[queries.Known, loops.Scales, Holders] | None = field(
        init=False, repr=False, compare=False, default=None
    )

    name: ClassVar[str] = "context"

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
        check_device(self.device)

    @property
    def depth(self) -> int:
        """Number of neighbours used for the observation of a query."""
        return self._cut[-1]

    def depth_of(self, k: int) -> int:
        """Return the number of neighbours up to the largest scale."""
        return min(k, self.scales[-1])

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
        ids = np.ascontiguousarray(ids[:, :k], np.int32)
        scores = np.ascontiguousarray(scores[:, :k], np.float32)
        self._state, self._contents, self._opened = {"ids": ids}, COMPUTED, None
        on_device = context_on(self.device)
        order = locality_order(ids)
        levels = self._levels(order, scores, ids)
        self._state["levels"] = _packed(levels, len(self._cut))
        self._state["reach"] = np.take(scores, self._scales.ranks - 1, axis=1)
        del levels
        overlaps = np.empty((n, k), np.uint16)
        similar = self._compare_items(on_device, order, overlaps, progress)
        self._basis = {"scores": scores, "similar": similar, "overlaps": overlaps}
        self._basis_contents = COMPUTED
        return similar, self._weigh(order, overlaps, similar)

    def neighbor_lists(self) -> Lists | None:
        """Return the lists that the edges were made from, `depth` columns of them, or None."""
        if not self._basis:
            return None
        self._contents.check(by_rows=True)
        self._basis_contents.check()
        return self._basis["scores"], self._state["ids"]

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
                on_device.jaccard_lists(part, part, encodings, holders, encodings.ids, overlaps)
                bar.update(2 * len(part))  # comparing takes twice the time of encoding
        best = encodings.ids
        del encodings
        return np.ascontiguousarray(best[:, :k])

    def _levels(
        self, order: NDArray[np.int32], scores: NDArray[Any], ids: NDArray[np.int32]
    ) -> NDArray[np.uint8]:
        """Return the level of every listed item, by the ranks of both in each other's list."""
        ranks, levels = np.empty(ids.shape, np.uint8), np.empty(ids.shape, np.uint8)
        loops.ranks_in_lists(ids, scores, ranks)
        loops.mutual_levels(order, ids, ranks, self._scales.ranks, levels)
        return levels

    def _weigh(
        self, order: NDArray[np.int32], overlaps: NDArray[np.uint16], similar: NDArray[np.int32]
    ) -> NDArray[np.float32]:
        """Return J² times the share of the scales that hold the mutual rank by J."""
        levels = self._levels(order, overlaps, similar)
        share = np.arange(len(self._cut), -1, -1, dtype=np.float32) / np.float32(len(self._cut))
        weights = np.empty(similar.shape, np.float32)
        loops.contextual_weights(overlaps, levels, share, weights)
        return weights

    def observe(
        self, scores: NDArray[np.float32], ids: NDArray[np.int64], query_k: int
    ) -> Observation:
        """Encode queries by their neighbours; y holds their `query_k` largest similarities J."""
        first = FirstStage(np.ascontiguousarray(scores), np.ascontiguousarray(ids, np.int64))
        if self._opened is None:
            known = queries.Known(self._sets, read_only(self._state["reach"]))
            self._opened = known, self._scales, self._holders
        known, scales, holders = self._opened
        m = len(ids)
        encodings, damaged = self._empty_encodings(m), np.zeros(m, bool)
        queries.encode_queries(known, scales, first, encodings, damaged)
        if damaged.any():
            self._contents.check(by_rows=True)  # raises the error that says what is wrong
        bounds = np.empty(m, np.int64)
        queries.jaccard_bounds(encodings.ids, holders.starts, holders.stops, bounds)
        width = min(query_k, max(1, int(bounds.max(initial=0))))
        y, similar = SparseRows.of_width(m, width), []
        for part in _batches(bounds) or [slice(0, 0)]:
            these = Encodings(encodings.ids[part], encodings.values[part])
            similar.append(SparseRows.of_at_most(bounds[part]))
            queries.compare(these, holders, similar[-1], y.part(part), width)
        return Observation(y, SparseRows.joined(similar))

    def lists(
        self, items: NDArray[np.int64] | slice
    ) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Return the neighbour lists of some items, cut to `depth`, and which are mutual (m, k)."""
        self._contents.check(by_rows=True)
        ids, levels = self._state["ids"][items], self._state["levels"][items]
        if levels.shape != ids.shape:
            both = np.stack([levels & 15, levels >> 4], axis=2)
            levels = both.reshape(len(ids), -1)[:, : ids.shape[1]]
        return ids, levels < len(self._cut)

    def departure(self, items: NDArray[np.int64], k: int) -> float:
        """Return the share of the k nearest of some items that are not among their k largest J."""
        ids = self.lists(items)[0][:, :k]
        items, places = items.astype(np.int32), np.arange(len(items), dtype=np.int32)
        encodings = self._empty_encodings(len(items))
        blocks.encode(items, places, self._sets, self._scales, encodings)
        best = np.empty((len(items), k), np.int32)
        overlaps = np.empty((len(items), k), np.uint16)
        blocks.jaccard_lists(items, places, encodings, self._holders, best, overlaps)
        found = (best[:, :, None] == ids[:, None, :]) & (best[:, :, None] >= 0)
        return 1 - int(np.count_nonzero(found)) / max(1, int(np.count_nonzero(ids >= 0)))

    def _empty_encodings(self, m: int) -> Encodings:
        # No encoding has more entries than there are items.
        shape = m, min(self.size, len(self._state["ids"]))
        return Encodings(np.empty(shape, np.int32), np.empty(shape, np.uint16))

    @property
    def _scales(self) -> loops.Scales:
        ranks = np.array(self._cut, np.int64)
        return loops.Scales(ranks, np.maximum(1, ranks // 3))

    @property
    def _sets(self) -> Sets:
        return Sets(*(read_only(self._checked[name]) for name in Sets._fields))

    @property
    def _holders(self) -> Holders:
        names = ("starts", "stops", "holders", "holders_high")
        return Holders(*(read_only(self._checked[name]) for name in names))

    @property
    def _checked(self) -> dict[str, NDArray[Any]]:
        self._contents.check()
        return self._state

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays to store: the lists and what was made of them."""
        return {**self._state, **self._basis}

    def restore(self, arrays: dict[str, NDArray[Any]], n_items: int, source: str = "state") -> None:
        """Restore the state from stored arrays; their content is checked on first use."""
        if not arrays["ids"].size:
            raise ValueError("ids: no list has an entry")
        self._state, self._opened = {"ids": arrays["ids"]}, None
        if "mutual" in arrays:
            arrays = _of_an_earlier_version(arrays, n_items, self._scales.ranks)
        arrays = with_rows(arrays)
        layout = _layout(n_items, arrays["ids"].shape[-1], len(self._cut))
        self._contents = Contents(arrays, layout, source)
        self._state = {name: arrays[name] for name in layout}
        layout = _basis_layout(*self._state["ids"].shape) if "similar" in arrays else {}
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


def _layout(n: int, k: int, scales: int) -> dict[str, Array]:
    """Return what the arrays of n items must be: the lists, and the inverted lists.

    `levels` are those of `Sets`, `reach` the scores at the places of the scales, and the others
    are those of `Holders`.
    """
    most = float(np.finfo(np.float32).max)
    return {
        "ids": Array(np.int32, (n, k), Between(-1, n - 1), by_rows=True),
        "levels": Array(np.uint8, (n, _level_bytes(k, scales))),
        "reach": Array(np.float32, (n, scales), Between(-np.inf, most), by_rows=True),
        "starts": Array(np.int64, (n,), Between(0, np.inf)),
        "stops": Array(np.int64, (n,), Stops("starts", "holders")),
        "holders": Array(np.uint32, ("entries",), _Holders(n), rows=("starts", "stops")),
        "holders_high": Array(_high_type(n), ("entries",)),
    }


def _basis_layout(n: int, k: int) -> dict[str, Array]:
    """Return what the arrays must be that an update starts from.

    They are the scores of the lists, and, for each item, the most similar others and their
    overlaps, of which the edges were made.
    """
    return {
        "scores": lists_layout(n, k)["scores"],
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
        "levels": _packed(levels[arrays["mutual"]], len(ranks)),
        "reach": np.take(arrays["scores"], ranks - 1, axis=1),
        "indptr": arrays["indptr"],
        "holders": (items.astype(np.uint32) << 16) | values,
        "holders_high": (items >> 16).astype(_high_type(n)),
    }


def _level_bytes(k: int, scales: int) -> int:
    """Return the length of a row of levels: two levels per byte if they are below 16."""
    return (k + 1) // 2 if scales < 16 else k


def _packed(levels: NDArray[np.uint8], scales: int) -> NDArray[np.uint8]:
    """Return levels (n, k) as they are stored."""
    k = levels.shape[1]
    if _level_bytes(k, scales) == k:
        return levels
    packed = levels[:, ::2].copy()
    packed[:, : k // 2] |= levels[:, 1::2] << 4
    return packed


def _high_type(n: int) -> type[np.unsignedinteger[Any]]:
    """Return the type of the upper bits of an item, of which `holders` has the other 16."""
    return np.uint8 if n <= 1 << 24 else np.uint16


def _inverted(order: NDArray[np.int32], encodings: Encodings) -> dict[str, NDArray[Any]]:
    """Turn encodings (n, size) into inverted lists: for each entry, the items that have it."""
    n = len(order)
    filled = int(np.count_nonzero(encodings.values))
    starts, stops = np.empty(n, np.int64), np.zeros(n, np.int64)
    holders, high = np.empty(filled, np.uint32), np.empty(filled, _high_type(n))
    blocks.invert(order, encodings, Holders(starts, stops, holders, high))
    return {"starts": starts, "stops": stops, "holders": holders, "holders_high": high}


def _batches(sizes: NDArray[np.int64]) -> list[slice]:
    """Cut a sequence into parts with sums up to `_BATCH_ENTRIES`, each of at least one element."""
    ends = np.cumsum(sizes)
    cuts, begin = [0], 0
    while cuts[-1] < len(sizes):
        end = int(np.searchsorted(ends, begin + _BATCH_ENTRIES, side="right"))
        cuts.append(max(end, cuts[-1] + 1))
        begin = int(ends[cuts[-1] - 1])
    return [slice(a, b) for a, b in pairwise(cuts)]
