"""The reciprocal nearest-neighbour graph with symmetric normalisation.

The adjacency is A_ij = min(w_i(j), w_j(i)), where w_i(j) is the weight that node i gives to its
neighbour j, or 0 if i does not list j. It is normalised as W = D^-1/2 A D^-1/2 with the degrees
D = diag(A 1).

Source: Iscen, Tolias, Avrithis, Furon, Chum. Efficient Diffusion on Region Manifolds. CVPR 2017.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from tqdm import tqdm

from ..affinity.base import Edges
from ..change import Change
from ..kernels.graph import (
    cuthill_mckee,
    degrees_and_counts,
    mutual_weights,
    normalized_rows,
)
from ..kernels.lists import Rows
from ..kernels.locality import locality_order
from ..kernels.matrix import LARGEST_WEIGHT, Matrix, read_only
from ..kernels.updates import NewEdges, label_components, write_columns, write_rows
from ..storage.contents import (
    COMPUTED,
    Array,
    Between,
    Contents,
    InverseOf,
    Layout,
    Ragged,
    Stops,
    ZeroOrBetween,
)

# The arrays that hold the rows of W.
GRAPH_ROWS = Ragged("starts", "stops", ("indices", "weights"))


def graph_layout(n: int, n_edges: int, n_components: int) -> Layout:
    """Return what the arrays of a graph must be."""
    ids = Between(0, n - 1)
    # Sums of positive float32 numbers: their roots divide, and must leave finite float32 numbers.
    limits = np.finfo(np.float32)
    degrees = ZeroOrBetween(float(limits.smallest_subnormal), n * float(limits.max))
    weights = Between(0, LARGEST_WEIGHT)
    rows = "starts", "stops"
    return {
        "starts": Array(np.int64, (n,), Between(0, np.inf)),
        "stops": Array(np.int64, (n,), Stops("starts", "indices", 2 * n_edges)),
        "indices": Array(np.int32, ("entries",), ids, by_rows=True, rows=rows),
        "weights": Array(np.float32, ("entries",), weights, by_rows=True, rows=rows),
        "order": Array(np.int32, (n,), ids),
        "position": Array(np.int32, (n,), InverseOf("order")),
        "degrees": Array(np.float64, (n,), degrees),
        "components": Array(np.int32, (n,), Between(0, n_components - 1)),
    }


@dataclass(frozen=True, eq=False)
class Graph:
    """A symmetric normalised graph whose nodes are stored so that neighbours are close in memory.

    The arrays `starts`, `stops`, `indices` and `weights` are in storage order; `order` and
    `position` convert between storage order and the user's order. All other arrays, and `W`, are in
    the user's order. Memory: 8 bytes per entry of W (two entries per undirected edge) and 36 bytes
    per node.

    Attributes
    ----------
    starts, stops : ndarray, shape (n,), int64
    indices : ndarray, int32
    weights : ndarray, float32
        The rows of W in storage order (reverse Cuthill-McKee), with ascending columns: row p is at
        starts[p] to stops[p] of `indices` and `weights`. They have no gaps in a graph that was
        just built; in one that was changed, rows may lie anywhere.
    order : ndarray, shape (n,), int32
        `order[p]` is the user's id of the node stored at p.
    position : ndarray, shape (n,), int32
        The inverse of `order`.
    degrees : ndarray, shape (n,), float64
        Row sums of A; 0 for an isolated node.
    components : ndarray, shape (n,), int32
        Connected component of each node, numbered by descending size.
    n_edges : int
        Number of undirected edges; the rows have twice as many entries.
    n_components : int
        Number of connected components, each isolated node counted as one.
    n_isolated : int
        Number of nodes without an edge.
    contents : Contents
        The check of the arrays of a graph that was read from a file.
    """

    starts: NDArray[np.int64]
    stops: NDArray[np.int64]
    indices: NDArray[np.int32]
    weights: NDArray[np.float32]
    order: NDArray[np.int32]
    position: NDArray[np.int32]
    degrees: NDArray[np.float64]
    components: NDArray[np.int32]
    n_edges: int
    n_components: int
    n_isolated: int
    contents: Contents = COMPUTED

    @classmethod
    def from_neighbors(
        cls,
        ids: NDArray[np.int32],
        weights: NDArray[np.float32],
        *,
        overwrite: bool = False,
        progress: bool = False,
    ) -> Graph:
        """Build the graph from neighbour lists.

        Parameters
        ----------
        ids : ndarray, shape (n, k), int32
            Neighbours of each node, in [0, n), without the node itself and without repetition.
            Padded with -1. They are not checked here; `Reranker.fit_neighbors` checks them.
        weights : ndarray, shape (n, k), float32
            Weights of the neighbours, finite and >= 0. A weight of 0 makes no edge.
        overwrite : bool, default False
            Replace the weights by those of the edges, instead of copying them.
        progress : bool, default False
            Show a progress bar on standard error.

        Returns
        -------
        Graph

        Notes
        -----
        Construction takes 8 bytes per entry of W, at most 8 n k bytes in all, in addition to the
        lists; without `overwrite`, 4 n k bytes more.
        """
        n = len(ids)
        edges = weights if overwrite else weights.copy()
        form = "{desc}: {percentage:3.0f}%|{bar}| [{elapsed}<{remaining}]"
        with tqdm(total=100, desc="graph", bar_format=form, disable=not progress) as bar:
            degrees = np.empty(n, np.float64)
            counts = np.empty(n, np.int32)
            mutual_weights(locality_order(ids), ids, edges)
            degrees_and_counts(edges, degrees, counts)
            bar.update(30)

            starts = np.argsort(counts, kind="stable")
            order, found = cuthill_mckee(ids, edges, counts, starts)
            order = order[::-1].copy()
            position = np.empty(n, np.int32)
            position[order] = np.arange(n, dtype=np.int32)
            bar.update(15)

            indptr = np.zeros(n + 1, np.int64)
            np.cumsum(counts[order], out=indptr[1:])
            indices = np.empty(indptr[-1], np.int32)
            values = np.empty(indptr[-1], np.float32)
            rows = Rows(indptr, indices, values)
            normalized_rows(ids, edges, degrees, order, position, rows)
            bar.update(50)

            components = _by_size(found)
            bar.update(5)
        return cls(
            starts=indptr[:-1],
            stops=indptr[1:],
            indices=indices,
            weights=values,
            order=order,
            position=position,
            degrees=degrees,
            components=components,
            n_edges=len(indices) // 2,
            n_components=int(components.max(initial=-1)) + 1,
            n_isolated=int(np.count_nonzero(counts == 0)),
        )

    def changed(
        self, change: Change, edges: Edges, *, progress: bool = False
    ) -> tuple[Graph, NDArray[np.bool_]]:
        """Return the graph of a changed collection.

        Its W equals that of `from_neighbors` for the edges of all nodes.

        Parameters
        ----------
        change : Change
        edges : Edges
            The edges of the nodes whose edges have changed, other than by the new rows of moved
            nodes. An edge is among those of both its nodes.
        progress : bool, default False
            Show a progress bar on standard error.

        Returns
        -------
        graph : Graph
            A new one; this one is left as it is.
        touched : ndarray, shape (after,), bool
            The rows of W whose columns or values have changed, other than by the new rows of moved
            nodes. Those of added nodes have.
        """
        ids, weights, rows = edges
        if rows is None:
            graph = self.from_neighbors(ids, weights, overwrite=True, progress=progress)
            return graph, np.ones(change.after, bool)
        self.check()
        n, m = change.after, len(rows)
        own, counts = np.empty(m, np.float64), np.empty(m, np.int32)
        np.negative(weights, out=weights)  # the form of reciprocal edges that the loop takes
        degrees_and_counts(weights, own, counts)
        degrees = change.rows_of(self.degrees)
        degrees[rows] = own
        slots = np.full(n, -1, np.int32)
        slots[rows] = np.arange(m)

        order = self._changed_order(change, ids, weights, rows)
        position = np.empty(n, np.int32)
        position[order] = np.arange(n, dtype=np.int32)
        source, target = change.source[order], change.target[self.order]
        places = np.where(source >= 0, self.position[source], np.int32(-1))
        moved = np.where(target >= 0, position[target], np.int32(-1))
        lengths = np.where(places >= 0, (self.stops - self.starts)[places], 0)
        lengths[position[rows]] = counts
        indptr = np.zeros(n + 1, np.int64)
        np.cumsum(lengths, out=indptr[1:])

        old = Matrix(*map(read_only, self.matrix))
        indices, values = np.empty(indptr[-1], np.int32), np.empty(indptr[-1], np.float32)
        stored = Matrix.of_csr(indptr, indices, values)
        nodes = NewEdges(ids, weights, slots, position, degrees)
        touched = np.zeros(n, bool)
        write_rows(order, places, moved, nodes, old, stored, touched)
        write_columns(rows, nodes, stored, touched)
        components = _by_size(label_components(stored))
        graph = Graph(
            starts=stored.starts,
            stops=stored.stops,
            indices=indices,
            weights=values,
            order=order,
            position=position,
            degrees=degrees,
            components=components[position],
            n_edges=len(indices) // 2,
            n_components=int(components.max(initial=-1)) + 1,
            n_isolated=int(np.count_nonzero(lengths == 0)),
        )
        return graph, touched

    def _changed_order(
        self,
        change: Change,
        ids: NDArray[np.int32],
        weights: NDArray[np.float32],
        rows: NDArray[np.int64],
    ) -> NDArray[np.int32]:
        """Return the storage order of a changed graph.

        As few nodes as possible move, so that an index on disk changes little: the last ones, to
        the places of removed nodes. Added nodes come last, those that are joined beside each other.
        """
        removed = self.position[change.removed]
        kept = Change.removal(self.n_nodes, removed).source
        added = change.added
        own = np.full(change.after + 1, -1, np.int32)  # the last is that of -1
        own[added] = np.arange(len(added))
        at = np.searchsorted(rows, added)
        beside = np.where(weights[at] > 0, own[ids[at]], np.int32(-1))
        last = added[locality_order(beside)].astype(np.int32)
        return np.concatenate([change.target[self.order[kept]], last])

    def check(self) -> None:
        """Check the arrays of a graph that was read from a file, its edges included.

        Raises
        ------
        DiffusionError
            If they are not what they must be.
        """
        self.contents.check()
        self.contents.check(by_rows=True)

    @property
    def n_nodes(self) -> int:
        """Number of nodes."""
        return len(self.order)

    @property
    def matrix(self) -> Matrix:
        """W in storage order, as compiled loops take it."""
        return Matrix(self.starts, self.stops, self.indices, self.weights)

    @property
    def component_sizes(self) -> NDArray[np.int64]:
        """Number of nodes of each component, in descending order, shape (n_components,)."""
        self.check()
        return np.bincount(self.components, minlength=self.n_components)

    @cached_property
    def W(self) -> sparse.csr_array:  # noqa: N802
        """The normalised adjacency (n, n) in the user's order, CSR, float32; built on first use."""
        self.check()
        own = self.matrix.csr()[self.position][:, self.position]
        own.sort_indices()
        return own

    def __repr__(self) -> str:
        return (
            f"Graph({self.n_nodes} nodes, {self.n_edges} edges, {self.n_components} components, "
            f"{self.n_isolated} isolated nodes)"
        )


def _by_size(found: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return the labels of components, numbered by descending size."""
    sizes = np.bincount(found)
    label = np.empty(len(sizes), np.int32)
    label[np.argsort(-sizes, kind="stable")] = np.arange(len(sizes), dtype=np.int32)
    return label[found]
