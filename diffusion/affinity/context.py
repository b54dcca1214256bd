"""The contextual affinity: similarity of the neighbourhoods of items at several scales."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from tqdm import tqdm

from ..devices import RUN_TIME, ContextLoops, check_device, context_on
from ..errors import DiffusionError
from ..kernels import context as loops
from ..kernels import threads
from ..kernels.graph import mutual_ranks
from ..kernels.lists import Lists, Rows
from ..kernels.ranking import largest_positive_sparse
from ..storage.contents import COMPUTED, Array, Between, Contents, Offsets
from ..validation import check_integer, padding_last
from .base import Affinity, Observation, sparse_rows

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

    Memory: for the largest scale k, 9 k bytes per item for the lists and 6 `size` bytes for the
    encodings; 740 bytes per item in all with the default settings, in addition to the graph.
    Building takes 2,000 bytes per item in addition to the lists. The time grows with the square of
    the number of encodings that hold an item, which is about `size` for most items. It is linear
    in the number of items unless some items are neighbours of a fixed share of all.

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
        on_device = context_on(self.device)
        k = min(self.scales[-1], ids.shape[1])
        ids = np.ascontiguousarray(ids[:, :k], np.int32)
        scores = np.ascontiguousarray(scores[:, :k])
        mutual = _mutual_ranks(scores, ids)
        self._state = {"ids": ids, "scores": scores, "mutual": mutual}
        self._contents = COMPUTED
        n = len(ids)
        parts = [slice(start, start + _PART) for start in range(0, n, _PART)]
        size = min(self.size, n)
        entries, values = np.empty((n, size), np.int32), np.empty((n, size), np.uint16)
        best, jaccard = np.empty((n, k), np.int32), np.empty((n, k), np.float32)
        with tqdm(total=2 * n, desc="context", unit="item", disable=not progress) as bar:
            for part in parts:
                items = np.arange(part.start, min(n, part.stop), dtype=np.int32)
                encodings = self._encode(items, Lists(ids[part], mutual[part]), on_device)
                entries[part], values[part] = encodings
                bar.update(len(items))
            self._state |= _inverted(entries, values)
            for part in parts:
                items = np.arange(part.start, min(n, part.stop), dtype=np.int32)
                encodings = loops.Encodings(entries[part], values[part])
                best[part], jaccard[part] = self._jaccard_lists(items, encodings, k, on_device)
                bar.update(len(items))
        return best, self._weigh(jaccard, best)

    def _weigh(self, jaccard: NDArray[np.float32], best: NDArray[np.int32]) -> NDArray[np.float32]:
        """Multiply J² by the share of the scales that hold the mutual rank by J, in place."""
        share = (np.arange(256)[:, None] <= self._cut).mean(axis=1, dtype=np.float32)
        share[0] = 0  # no mutual rank
        rank = _mutual_ranks(jaccard, best)
        np.maximum(jaccard, 0, out=jaccard)
        np.square(jaccard, out=jaccard)
        jaccard *= share[rank]
        return jaccard

    def observe(
        self, scores: NDArray[np.float32], ids: NDArray[np.int64], query_k: int
    ) -> Observation:
        """Encode queries by their neighbours; y holds their `query_k` largest similarities J."""
        # Starting a core costs more than it saves if it gets only a few queries.
        with threads.using_cores(max(1, min(threads.cores(), len(ids) // 16))):
            J = self._compare(scores, ids)
            return Observation(_largest(J, query_k), J)

    def _compare(self, scores: NDArray[np.float32], ids: NDArray[np.int64]) -> sparse.csr_array:
        """Encode queries by their neighbours; return their similarity to every item."""
        state, n = self._checked, len(self._checked["ids"])
        own = np.ascontiguousarray(ids[:, : self.depth], np.int32)
        scores = np.ascontiguousarray(scores[:, : self.depth])
        self._contents.check_rows(np.unique(own[own >= 0]))
        # An item without a list, such as a zero vector, has no neighbourhood to compare with.
        alone = (own >= 0) & (state["ids"][own, 0] < 0)
        if alone.any():
            scores, own = padding_last(scores, np.where(alone, np.int32(-1), own))
        mutual = np.empty(own.shape, np.uint8)
        loops.query_ranks(state["ids"], state["scores"], own, scores, mutual)
        encodings = self._encode(np.full(len(own), -1, np.int32), Lists(own, mutual))
        bounds = np.empty(len(own), np.int64)
        loops.jaccard_bounds(encodings.ids, state["indptr"], n, bounds)
        parts = [sparse.csr_array((0, n), dtype=np.float32)]  # stacked alone if there is no query
        for part in _batches(bounds):
            starts = np.concatenate([[0], np.cumsum(bounds[part])])
            indices = np.empty(starts[-1], np.int32)
            jaccard = np.empty(starts[-1], np.float32)
            counts = np.empty(len(starts) - 1, np.int64)
            these = loops.Encodings(encodings.ids[part], encodings.values[part])
            loops.jaccard_rows(these, self._inverted, starts, counts, indices, jaccard)
            kept = np.arange(starts[-1]) < np.repeat(starts[:-1] + counts, bounds[part])
            indptr = np.concatenate([[0], np.cumsum(counts)])
            parts.append(
                sparse.csr_array((jaccard[kept], indices[kept], indptr), shape=(len(counts), n))
            )
        return sparse.csr_array(sparse.vstack(parts, format="csr"))

    @property
    def lists(self) -> Lists:
        """The neighbour lists given to `edges`, cut to `depth`, and their mutual ranks (n, k)."""
        self._contents.check(by_rows=True)
        return Lists(self._state["ids"], self._state["mutual"])

    def departure(self, items: NDArray[np.int64], k: int) -> float:
        """Return the share of the k nearest of some items that are not among their k largest J."""
        lists = self.lists
        ids = lists.ids[items]
        encodings = self._encode(items, Lists(ids, lists.mutual[items]))
        best, _ = self._jaccard_lists(items, encodings, k, context_on("cpu"))
        found = (best[:, :, None] == ids[:, None, :k]) & (best[:, :, None] >= 0)
        listed = int(np.count_nonzero(ids[:, :k] >= 0))
        return 1 - int(np.count_nonzero(found)) / max(1, listed)

    def _jaccard_lists(
        self, items: NDArray[Any], encodings: loops.Encodings, k: int, on_device: ContextLoops
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        best = np.empty((len(items), k), np.int32)
        jaccard = np.empty((len(items), k), np.float32)
        on_device.jaccard_lists(items, encodings, self._inverted, best, jaccard)
        return best, jaccard

    @property
    def _inverted(self) -> Rows:
        return Rows(*(self._checked[name] for name in ("indptr", "indices", "values")))

    @property
    def _checked(self) -> dict[str, NDArray[Any]]:
        self._contents.check()
        return self._state

    def _encode(
        self, items: NDArray[Any], own: Lists, on_device: ContextLoops | None = None
    ) -> loops.Encodings:
        """Encode items given by their ids, or queries, whose id is -1."""
        ranks = np.array(self._cut, np.int64)
        scales = loops.Scales(ranks, np.maximum(1, ranks // 3))
        # No encoding has more entries than there are items.
        shape = len(own.ids), min(self.size, len(self._state["ids"]))
        encodings = loops.Encodings(np.empty(shape, np.int32), np.empty(shape, np.uint16))
        lists = Lists(self._state["ids"], self._state["mutual"])
        (on_device or context_on("cpu")).encode(items, own, lists, scales, encodings)
        return encodings

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays to store: the lists, their mutual ranks and the inverted lists."""
        return self._state

    def restore(self, arrays: dict[str, NDArray[Any]], n_items: int, source: str = "state") -> None:
        """Restore the state from stored arrays; their content is checked on first use."""
        layout = _layout(n_items)
        if not arrays["ids"].size:
            raise ValueError("ids: no list has an entry")
        self._contents = Contents(arrays, layout, source)
        self._state = {name: arrays[name] for name in layout}


def _layout(n: int) -> dict[str, Array]:
    """Return what the arrays of n items must be: the lists, and the inverted lists."""
    most = float(np.finfo(np.float32).max)
    return {
        "ids": Array(np.int32, (n, "k"), Between(-1, n - 1), by_rows=True),
        "scores": Array(np.float32, (n, "k"), Between(-np.inf, most), by_rows=True),
        "mutual": Array(np.uint8, (n, "k")),
        "indptr": Array(np.int64, (n + 1,), Offsets("indices")),
        "indices": Array(np.int32, ("entries",), Between(0, n - 1)),
        "values": Array(np.uint16, ("entries",)),
    }


def _mutual_ranks(scores: NDArray[np.float32], ids: NDArray[np.int32]) -> NDArray[np.uint8]:
    ranks = np.empty(ids.shape, np.uint8)
    loops.ranks_in_lists(ids, scores, ranks)
    mutual = np.empty(ids.shape, np.uint8)
    mutual_ranks(ids, ranks, mutual)
    return mutual


def _inverted(entries: NDArray[np.int32], values: NDArray[np.uint16]) -> dict[str, NDArray[Any]]:
    """Turn encodings (n, size) into inverted lists: for each entry, the items that have it."""
    n = len(entries)
    kept = entries >= 0
    indptr = np.concatenate([[0], np.cumsum(np.count_nonzero(kept, axis=1))])
    by_item = sparse.csr_array((values[kept], entries[kept], indptr), shape=(n, n))
    by_entry = by_item.tocsc()
    return {
        "indptr": by_entry.indptr.astype(np.int64, copy=False),
        "indices": by_entry.indices.astype(np.int32, copy=False),
        "values": by_entry.data,
    }


def _batches(sizes: NDArray[np.int64]) -> list[slice]:
    """Cut a sequence into parts with sums up to `_BATCH_ENTRIES`, each of at least one element."""
    ends = np.cumsum(sizes)
    cuts, begin = [0], 0
    while cuts[-1] < len(sizes):
        end = int(np.searchsorted(ends, begin + _BATCH_ENTRIES, side="right"))
        cuts.append(max(end, cuts[-1] + 1))
        begin = int(ends[cuts[-1] - 1])
    return [slice(a, b) for a, b in pairwise(cuts)]


def _largest(J: sparse.csr_array, k: int) -> sparse.csr_array:
    """Keep the k largest entries of each row, resolving ties by ascending column."""
    k = min(k, int(np.diff(J.indptr).max(initial=1)))
    scores = np.empty((J.shape[0], k), np.float32)
    ids = np.empty((J.shape[0], k), np.int64)
    largest_positive_sparse(J.indptr, J.indices, J.data, scores, ids)
    return sparse_rows(scores.astype(np.float64), ids, J.shape[1])
