"""Items with the same vector, which are one node of the graph.

Copies of an item would fill the neighbour lists of each other and of all that is near them: a
group of more copies than the lists are long is a component of its own, and edges say nothing more
than that copies are alike. A node is therefore a distinct vector; an answer of nodes is expanded
to items, of which copies have equal scores and follow each other.

Only vectors that are equal as they are stored (float32, for the cosine divided by their norms) are
copies. Being nearly equal is not transitive: which vectors belong together would depend on the
order in which they are added and removed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .change import Change
from .kernels.ranking import EVERYTHING
from .storage.contents import COMPUTED, Array, Arrays, Between, Contents, damaged
from .validation import padding_last

Rows = NDArray[np.int64]
Lists = tuple[NDArray[np.float32], NDArray[np.int64]]

# Values of vectors that are hashed or compared at a time.
_BLOCK_VALUES = 1 << 18


class _Groups(NamedTuple):
    """The items of each node: those of node i are members[starts[i]:starts[i + 1]], by age."""

    starts: NDArray[np.int64]
    members: NDArray[np.int64]

    def among(self, allowed: NDArray[np.uint8]) -> _Groups:
        """Return the items of each node that a filter allows."""
        kept = allowed[self.members] != 0
        before = np.concatenate([np.zeros(1, np.int64), np.cumsum(kept)])
        return _Groups(before[self.starts], self.members[kept])


class Copies:
    """Which items of a collection share a node.

    Items and nodes are numbered from 0. A code of an item that is the number of items or more
    stands for a hit that is not of the collection (`Coded`); the same hit follows the nodes.
    `none`, `of` and `restored` make one. It does not change: `added` and `removed` return another.

    Parameters
    ----------
    nodes : ndarray, shape (n_items,), int32, or None
        The node of each item, None if that is its own number.
    n_items, n_nodes : int
    hashes : ndarray, shape (n_nodes,), uint64, optional
        Those of the vectors of nodes. Without them, the first call of `added` computes them.
    ages : ndarray, shape (n_items,), int32, optional
        The ages of items (see `change`). By default, they are the numbers of the items.
    contents : Contents
    source : str
        What errors call the arrays.
    """

    def __init__(
        self,
        nodes: NDArray[np.int32] | None,
        n_items: int,
        n_nodes: int,
        hashes: NDArray[np.uint64] | None = None,
        ages: NDArray[np.int32] | None = None,
        contents: Contents = COMPUTED,
        source: str = "copies",
    ) -> None:
        self.n_items, self.n_nodes = n_items, n_nodes
        self._nodes, self._hashes, self._ages = nodes, hashes, ages
        self._contents, self._source = contents, source

    # --- making -----------------------------------------------------------------------------------

    @classmethod
    def none(cls, n: int) -> Copies:
        """Return what n items are that are n nodes, whatever their vectors."""
        return cls(None, n, n)

    @classmethod
    def of(cls, vectors: NDArray[np.float32]) -> tuple[Copies, Rows | None]:
        """Find the copies among vectors (n, d).

        Returns
        -------
        copies : Copies
        first : ndarray, shape (n_nodes,), or None
            The first item of each node, ascending; None if every item is a node.
        """
        n, hashes = len(vectors), _hashes(vectors)
        first = _first_of_each(vectors, hashes)
        if first is None:
            return cls(None, n, n, hashes), None
        kept = np.flatnonzero(first == np.arange(n))
        numbers = np.empty(n, np.int32)
        numbers[kept] = np.arange(len(kept))
        return cls(numbers[first], n, len(kept), hashes[kept]), kept

    @classmethod
    def restored(
        cls,
        arrays: Arrays,
        n_items: int,
        n_nodes: int,
        source: str,
        ages: NDArray[np.int32] | None = None,
    ) -> Copies:
        """Return the copies from the arrays that `arrays` returned; they are not read.

        `ages` are those of the nodes, if they are stored.

        Raises
        ------
        KeyError, ValueError
            If an array is missing, or has another type or shape than it must.
        """
        if not arrays and n_items == n_nodes:
            return cls(None, n_items, n_nodes, ages=ages)
        layout = {"nodes": Array(np.int32, (n_items,), Between(0, n_nodes - 1))}
        if "ages" in arrays:
            layout["ages"] = Array(np.int32, (n_items,))
        contents = Contents(arrays, layout, source)
        return cls(arrays["nodes"], n_items, n_nodes, None, arrays.get("ages"), contents, source)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays to store: none if every item is its own node.

        The ages of its node are stored by the affinity then, if they matter.
        """
        if self._nodes is None:
            return {}
        return {"nodes": self._nodes, **({} if self._ages is None else {"ages": self._ages})}

    # --- from items to nodes ----------------------------------------------------------------------

    @property
    def plain(self) -> bool:
        """Whether the node of each item is its own number."""
        return self._nodes is None

    @property
    def nodes(self) -> NDArray[np.int32]:
        """The node of each item, shape (n_items,)."""
        if self._nodes is None:
            return np.arange(self.n_items, dtype=np.int32)
        self._contents.check()
        return self._nodes

    @property
    def ages(self) -> NDArray[np.int32]:
        """The age of each node, shape (n_nodes,), that of its oldest item."""
        if self.plain:
            return self._item_ages
        ages = np.full(self.n_nodes, np.iinfo(np.int32).max, np.int32)
        np.minimum.at(ages, self.nodes, self._item_ages)
        return ages

    @property
    def _item_ages(self) -> NDArray[np.int32]:
        return np.arange(self.n_items, dtype=np.int32) if self._ages is None else self._ages

    def of_items(self, codes: Rows) -> Rows:
        """Return the nodes of items, given by codes of any shape; -1 is padding."""
        if self.plain:
            return codes
        known = (codes >= 0) & (codes < self.n_items)
        nodes = self.nodes[np.where(known, codes, 0)].astype(np.int64)
        others = np.where(codes < 0, -1, codes - self.n_items + self.n_nodes)
        return np.where(known, nodes, others)

    def distinct(self, scores: NDArray[np.float32], codes: Rows) -> Lists:
        """Return lists of items (m, c), best first, as lists of nodes, each at its best place."""
        nodes = self.of_items(codes)
        if self.plain:
            return scores, nodes
        order = np.argsort(nodes, axis=1, kind="stable")
        ordered = np.take_along_axis(nodes, order, axis=1)
        again = np.zeros(nodes.shape, bool)
        again[:, 1:] = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
        repeated = np.empty_like(again)
        np.put_along_axis(repeated, order, again, axis=1)
        return padding_last(scores, np.where(repeated, -1, nodes))

    def allowed(self, items: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the nodes that have an item that a filter (n_items + u,) or (0,) allows."""
        if self.plain or not len(items):
            return items
        out = np.zeros(self.n_nodes + len(items) - self.n_items, np.uint8)
        out[self.nodes[items[: self.n_items] != 0]] = 1
        out[self.n_nodes :] = items[self.n_items :]
        return out

    # --- from nodes to items ----------------------------------------------------------------------

    @cached_property
    def _groups(self) -> _Groups:
        nodes = self.nodes
        sizes = np.bincount(nodes, minlength=self.n_nodes)
        if not sizes.all():
            raise damaged(self._source, "nodes", "an item of every node")
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
        by_age = () if self._ages is None else (self._ages,)
        return _Groups(starts, np.lexsort((*by_age, nodes)))

    def first_items(self, nodes: Rows) -> Rows:
        """Return the first item of each of some nodes, of any shape; -1 is padding."""
        if self.plain:
            return nodes
        known = (nodes >= 0) & (nodes < self.n_nodes)
        starts, members = self._groups
        items = members[starts[np.where(known, nodes, 0)]]
        others = np.where(nodes < 0, -1, nodes - self.n_nodes + self.n_items)
        return np.where(known, items, others)

    def place(self, item: int) -> int:
        """Return how many items of its node an item follows."""
        if self.plain:
            return 0
        starts, members = self._groups
        node = self.nodes[item]
        return int(np.flatnonzero(members[starts[node] : starts[node + 1]] == item)[0])

    def counts(self, nodes: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return how many items there are of each of some nodes; 1 for an unknown hit, 0 for -1."""
        counts = (nodes >= 0).astype(np.int64)
        if not self.plain:
            known = (nodes >= 0) & (nodes < self.n_nodes)
            starts = self._groups.starts
            counts[known] = starts[nodes[known] + 1] - starts[nodes[known]]
        return counts

    @property
    def starts(self) -> NDArray[np.int64]:
        """The sums of the numbers of items of the nodes before each, (n_nodes + 1,).

        It is empty, (0,), if every item is a node.
        """
        return np.empty(0, np.int64) if self.plain else self._groups.starts

    def expanded(
        self, found: Lists, k: int, allowed: NDArray[np.uint8] = EVERYTHING
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Expand ranked nodes to items.

        Parameters
        ----------
        found : tuple of ndarray, shape (m, w)
            Scores and nodes, with padding last. Each has an item that the filter allows.
        k : int >= 1
            Length of the lists of items.
        allowed : ndarray, shape (n_items + u,) or (0,), uint8

        Returns
        -------
        scores, items : ndarray, shape (m, k)
            Items of one node follow each other in the order in which they were added.
        """
        scores, nodes = found
        m, w = nodes.shape
        groups = self._groups.among(allowed) if len(allowed) else self._groups
        known = (nodes >= 0) & (nodes < self.n_nodes)
        at = np.where(known, nodes, 0)
        sizes = np.where(known, groups.starts[at + 1] - groups.starts[at], nodes >= 0)
        ends = np.cumsum(sizes, axis=1)
        # The places of all lists in one ascending sequence, in which all are looked up at once.
        span = max(k, int(ends.max(initial=0))) + 1
        lists = np.arange(m)[:, None]
        places = np.arange(k)
        ordered = (ends + span * lists).ravel()
        source = np.searchsorted(ordered, places + span * lists, side="right") - w * lists
        listed = source < w
        source = np.where(listed, source, 0)
        node = np.take_along_axis(nodes, source, axis=1)
        within = places - np.take_along_axis(ends - sizes, source, axis=1)
        own = np.take_along_axis(known, source, axis=1) & listed
        items = node - self.n_nodes + self.n_items
        items[own] = groups.members[groups.starts[node[own]] + within[own]]
        chosen = np.take_along_axis(scores, source, axis=1)
        return np.where(listed, chosen, np.float32(-np.inf)), np.where(listed, items, -1)

    def among(
        self, found: Lists, candidates: Rows, k: int, allowed: NDArray[np.uint8] = EVERYTHING
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Expand ranked nodes (m, w) to those of their items that are candidates.

        As `expanded` does, but items of one node are in the order of `candidates` (m, c), which are
        codes padded with -1.
        """
        scores, nodes = found
        m, w = nodes.shape
        wanted = self.of_items(candidates)
        if len(allowed):
            wanted = np.where((candidates >= 0) & (allowed[candidates] != 0), wanted, -1)
        order = np.argsort(nodes, axis=1, kind="stable")
        # As in `expanded`. Padding is -1: nodes are counted from 1.
        span = max(int(nodes.max(initial=0)), int(wanted.max(initial=0))) + 2
        lists = np.arange(m)[:, None]
        ordered = (np.take_along_axis(nodes, order, axis=1) + 1 + span * lists).ravel()
        asked = wanted + 1 + span * lists
        place = np.minimum(np.searchsorted(ordered, asked), ordered.size - 1)
        listed = (ordered[place] == asked) & (wanted >= 0)
        rank = np.take_along_axis(order, np.where(listed, place - w * lists, 0), axis=1)
        by_rank = np.argsort(np.where(listed, rank, w), axis=1, kind="stable")[:, :k]
        out = np.full((m, k), -np.inf, np.float32), np.full((m, k), -1, np.int64)
        width = by_rank.shape[1]
        chosen = np.where(listed, np.take_along_axis(scores, rank, axis=1), np.float32(-np.inf))
        out[0][:, :width] = np.take_along_axis(chosen, by_rank, axis=1)
        items = np.where(listed, candidates, -1)
        out[1][:, :width] = np.take_along_axis(items, by_rank, axis=1)
        return out

    # --- changes ----------------------------------------------------------------------------------

    def added(
        self, vectors: NDArray[np.float32], of_nodes: Callable[[Rows], NDArray[np.float32]]
    ) -> tuple[Copies, Rows]:
        """Return the copies of a collection with further items.

        Parameters
        ----------
        vectors : ndarray, shape (m, d), float32
            Those of the new items.
        of_nodes : callable
            Returns the vectors of some nodes.

        Returns
        -------
        copies : Copies
        fresh : ndarray
            The rows of `vectors` that are new nodes, which follow those before, ascending.
        """
        m, n, hashes = len(vectors), self.n_nodes, self._hashes
        if hashes is None:
            rows = max(1, _BLOCK_VALUES // vectors.shape[1])
            parts = [np.arange(start, min(start + rows, n)) for start in range(0, n, rows)]
            hashes = np.concatenate([_hashes(of_nodes(part)) for part in parts])
        own = _hashes(vectors)
        first = _first_of_each(vectors, own)
        leads = np.arange(m) if first is None else np.flatnonzero(first == np.arange(m))
        joined = _joined(vectors, own, leads, hashes, of_nodes)
        fresh = leads[joined[leads] < 0]
        hashes = np.concatenate([hashes, own[fresh]])
        after = n + len(fresh)
        ages = self._ages_after(Change.addition(self.n_items, m))
        if self.plain and len(fresh) == m:
            return Copies(None, after, after, hashes, ages), fresh
        joined[fresh] = np.arange(n, after)
        nodes = np.concatenate([self.nodes, joined if first is None else joined[first]])
        return Copies(nodes.astype(np.int32), len(nodes), after, hashes, ages), fresh

    def removed(self, change: Change) -> tuple[Copies, Change]:
        """Return the copies after a removal of items, and what it removes of the nodes."""
        nodes, of_nodes = None, change
        if not self.plain:
            kept = self.nodes[change.source]
            held = np.bincount(kept, minlength=self.n_nodes)
            of_nodes = Change.removal(self.n_nodes, np.flatnonzero(held == 0))
            nodes = of_nodes.target[kept]
            if np.array_equal(nodes, np.arange(of_nodes.after)):
                nodes = None
        hashes = None if self._hashes is None else of_nodes.rows_of(self._hashes)
        ages = self._ages_after(change)
        return Copies(nodes, change.after, of_nodes.after, hashes, ages), of_nodes

    def _ages_after(self, change: Change) -> NDArray[np.int32] | None:
        """Return the ages of the items after a change, None if they are their numbers."""
        ages = change.ages_of(self._item_ages)
        return None if np.array_equal(ages, np.arange(len(ages))) else ages


# --- equal vectors --------------------------------------------------------------------------------


def _hashes(vectors: NDArray[np.float32]) -> NDArray[np.uint64]:
    """Return hashes (n,) of vectors (n, d): the sum of random multiples of their bits."""
    n, d = vectors.shape
    factors = np.random.default_rng(0).integers(1 << 63, size=d, dtype=np.uint64)
    factors = 2 * factors + np.uint64(1)
    out = np.empty(n, np.uint64)
    rows = max(1, _BLOCK_VALUES // d)
    for start in range(0, n, rows):
        # -0.0 + 0.0 is 0.0.
        block = np.ascontiguousarray(vectors[start : start + rows]) + np.float32(0)
        out[start : start + rows] = block.view(np.uint32).astype(np.uint64) @ factors
    return out


def _first_of_each(vectors: NDArray[np.float32], hashes: NDArray[np.uint64]) -> Rows | None:
    """Return the first row (n,) that has the vector of each row; None if all vectors differ."""
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    same = ordered[1:] == ordered[:-1]
    if not same.any():
        return None
    repeated = np.zeros(len(order), bool)
    repeated[1:] |= same
    repeated[:-1] |= same
    first = np.arange(len(order))
    rows = order[repeated]
    while len(rows):  # more than once only if different vectors have one hash
        begins = np.append(True, hashes[rows[1:]] != hashes[rows[:-1]])
        lead = rows[begins][np.cumsum(begins) - 1]
        equal = _equal(vectors, rows, vectors.__getitem__, lead)
        first[rows[equal]] = lead[equal]
        rows = rows[~equal]
    return first if (first != np.arange(len(order))).any() else None


def _joined(
    vectors: NDArray[np.float32],
    own: NDArray[np.uint64],
    leads: Rows,
    hashes: NDArray[np.uint64],
    of_nodes: Callable[[Rows], NDArray[np.float32]],
) -> Rows:
    """Return the first node that has the vector of each row (m,), -1 if none has.

    Only for the rows `leads`, whose hashes are `own[leads]`; `hashes` are those of the nodes.
    """
    joined = np.full(len(vectors), -1, np.int64)
    leads = leads[np.argsort(own[leads], kind="stable")]
    begin, end = (np.searchsorted(own[leads], hashes, side=side) for side in ("left", "right"))
    found = np.flatnonzero(end > begin)
    counts = (end - begin)[found]
    nodes = np.repeat(found, counts)
    offsets = np.arange(len(nodes)) - np.repeat(np.cumsum(counts) - counts, counts)
    rows = leads[np.repeat(begin[found], counts) + offsets]
    equal = _equal(vectors, rows, of_nodes, nodes)
    # Of several, the first is written last.
    joined[rows[equal][::-1]] = nodes[equal][::-1]
    return joined


def _equal(
    vectors: NDArray[np.float32],
    rows: Rows,
    of_nodes: Callable[[Rows], NDArray[np.float32]],
    nodes: Rows,
) -> NDArray[np.bool_]:
    """Return whether some rows of vectors and those of some nodes are equal, pair by pair."""
    out = np.empty(len(rows), bool)
    size = max(1, _BLOCK_VALUES // vectors.shape[1])
    for start in range(0, len(rows), size):
        part = slice(start, start + size)
        out[part] = (vectors[rows[part]] == of_nodes(nodes[part])).all(axis=1)
    return out
