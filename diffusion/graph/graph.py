"""The reciprocal nearest-neighbour graph, symmetrically normalised.

A_ij = min(w_i(j), w_j(i)), where w_i(j) is the weight that node i gives to its listed neighbour j
and 0 if it does not list it; W = D^-1/2 A D^-1/2 with the degrees D = diag(A 1).

Source: Iscen, Tolias, Avrithis, Furon, Chum. Efficient Diffusion on Region Manifolds. CVPR 2017.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from tqdm import tqdm

from ..kernels.graph import cuthill_mckee, mutual_weights, normalized_rows
from ..kernels.lists import Rows


@dataclass(frozen=True, eq=False)
class Graph:
    """A symmetric normalised graph, its nodes stored in an order that keeps neighbours close.

    Every array but `order`, `position`, `indptr`, `indices` and `weights` is in the user's order,
    and so is `W`. Memory: 8 bytes an entry of W (two an undirected edge), 28 bytes a node.

    Attributes
    ----------
    indptr : ndarray, shape (n + 1,), int64
    indices : ndarray, shape (2 n_edges,), int32
    weights : ndarray, shape (2 n_edges,), float32
        W as CSR in storage order (reverse Cuthill-McKee), columns ascending.
    order : ndarray, shape (n,), int32
        `order[p]` is the user's id of the node stored at p.
    position : ndarray, shape (n,), int32
        The inverse of `order`.
    degrees : ndarray, shape (n,), float64
        Row sums of A; 0 for an isolated node.
    components : ndarray, shape (n,), int32
        Connected component of each node, numbered by descending size.
    n_components : int
        Number of components, every isolated node being one of its own.
    n_isolated : int
        Number of nodes without an edge.
    """

    indptr: NDArray[np.int64]
    indices: NDArray[np.int32]
    weights: NDArray[np.float32]
    order: NDArray[np.int32]
    position: NDArray[np.int32]
    degrees: NDArray[np.float64]
    components: NDArray[np.int32]
    n_components: int
    n_isolated: int

    @classmethod
    def from_neighbors(
        cls, ids: NDArray[np.int32], weights: NDArray[np.float32], *, progress: bool = False
    ) -> Graph:
        """Build the graph from neighbour lists.

        Parameters
        ----------
        ids : ndarray, shape (n, k), int32
            Neighbours of each node in [-1, n), without itself and without repetition, -1 padded;
            not checked, `Reranker.fit_neighbors` does.
        weights : ndarray, shape (n, k), float32
            Their weights, finite and >= 0; a weight of 0 is no edge.
        progress : bool, default False
            Show a bar on standard error.

        Notes
        -----
        Beyond the lists it takes 4 n k bytes for the reciprocal weights and 8 bytes an entry of
        W, at most 12 n k bytes in all.
        """
        n = len(ids)
        with tqdm(total=4, desc="graph", unit="step", disable=not progress) as bar:
            mutual = np.zeros(ids.shape, np.float32)
            degrees = np.empty(n, np.float64)
            counts = np.empty(n, np.int32)
            mutual_weights(ids, weights, mutual, degrees, counts)
            bar.update()

            starts = np.argsort(counts, kind="stable")
            order, found = cuthill_mckee(ids, mutual, counts, starts)
            order = order[::-1].copy()
            position = np.empty(n, np.int32)
            position[order] = np.arange(n, dtype=np.int32)
            bar.update()

            indptr = np.zeros(n + 1, np.int64)
            np.cumsum(counts[order], out=indptr[1:])
            indices = np.empty(indptr[-1], np.int32)
            values = np.empty(indptr[-1], np.float32)
            rows = Rows(indptr, indices, values)
            normalized_rows(ids, mutual, degrees, order, position, rows)
            bar.update()

            sizes = np.bincount(found)
            by_size = np.argsort(-sizes, kind="stable")
            label = np.empty(len(sizes), np.int32)
            label[by_size] = np.arange(len(sizes), dtype=np.int32)
            components = label[found]
            bar.update()
        return cls(
            indptr=indptr,
            indices=indices,
            weights=values,
            order=order,
            position=position,
            degrees=degrees,
            components=components,
            n_components=len(sizes),
            n_isolated=int(np.count_nonzero(counts == 0)),
        )

    @property
    def n_nodes(self) -> int:
        """Number of nodes."""
        return len(self.order)

    @property
    def n_edges(self) -> int:
        """Number of undirected edges."""
        return len(self.indices) // 2

    @property
    def component_sizes(self) -> NDArray[np.int64]:
        """Number of nodes of each component, descending, shape (n_components,)."""
        return np.bincount(self.components, minlength=self.n_components)

    @cached_property
    def W(self) -> sparse.csr_array:  # noqa: N802
        """The normalised adjacency in the user's order: CSR, (n, n), float32, made when asked."""
        n = self.n_nodes
        stored = sparse.csr_array((self.weights, self.indices, self.indptr), shape=(n, n))
        own = stored[self.position][:, self.position]
        own.sort_indices()
        return own

    def __repr__(self) -> str:
        return (
            f"Graph({self.n_nodes} nodes, {self.n_edges} edges, {self.n_components} components, "
            f"{self.n_isolated} isolated nodes)"
        )
