"""Connected components of a graph, as the spectral solvers treat them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ...graph.graph import Graph
from ...transfer import Transfer

# Number of values of a batch of dense blocks.
_BLOCK_VALUES = 1 << 24


def known_vector(graph: Graph) -> NDArray[np.float32]:
    """Return the known eigenvectors of W as one vector (n,), in storage order.

    It is D^1/2 1, with D the degrees, normalised to 1 in each connected component. It is 0 at
    isolated nodes.
    """
    scale = np.bincount(graph.components, weights=graph.degrees)[graph.components]
    square = np.divide(graph.degrees, scale, out=np.zeros(graph.n_nodes), where=scale > 0)
    return np.sqrt(square)[graph.order].astype(np.float32)


def large_pieces(graph: Graph, dense_nodes: int, per_component: bool) -> list[NDArray[np.int32]]:
    """Return the positions of the nodes of components with more than `dense_nodes` nodes.

    The positions of all these components are in one array or, with `per_component`, in one array
    per component, the largest first. Each array is ascending.
    """
    sizes = graph.component_sizes
    # Components are numbered by descending size, and each lies in one run of the storage order.
    count = int(np.count_nonzero(sizes > max(1, dense_nodes)))
    stored = graph.components[graph.order]
    large = np.flatnonzero(stored < count).astype(np.int32)
    if not per_component or count < 2:
        return [large] if count else []
    by_component = large[np.argsort(stored[large], kind="stable")]
    return np.split(by_component, np.cumsum(sizes[: count - 1]))


def dense_components(graph: Graph, transfer: Transfer, dense_nodes: int) -> sparse.csr_array:
    """Return h(W) for isolated nodes and small components, as a block diagonal matrix (n, n).

    Rows and columns are in the user's order. Rows of larger components are empty.
    """
    n = graph.n_nodes
    sizes = graph.component_sizes
    by_component = np.argsort(graph.components, kind="stable")
    begins = np.concatenate([[0], np.cumsum(sizes)])
    rows, columns, values = [], [], []
    place = np.empty(n, np.int64)  # index of a node within its component
    place[by_component] = np.arange(n) - np.repeat(begins[:-1], sizes)
    W = graph.W if (sizes[sizes > 1] <= dense_nodes).any() else None
    for size in np.unique(sizes[(sizes <= max(1, dense_nodes))]):
        found = np.flatnonzero(sizes == size)
        step = max(1, _BLOCK_VALUES // int(size) ** 2)
        for start in range(0, len(found), step):
            some = found[start : start + step]
            nodes = by_component[begins[some[0]] : begins[some[-1] + 1]].reshape(-1, size)
            blocks = np.zeros((len(some), size, size))
            if size > 1 and W is not None:
                own = W[nodes.ravel()].tocoo()
                blocks[own.row // size, own.row % size, place[own.col]] = own.data
            eigenvalues, U = np.linalg.eigh(blocks)
            h = transfer(np.clip(eigenvalues, -1, 1))
            blocks = (U * h[:, None]) @ U.transpose(0, 2, 1)
            rows.append(np.repeat(nodes, size, axis=1).ravel())
            columns.append(np.repeat(nodes[:, None], size, axis=1).ravel())
            values.append(blocks.ravel())
    where = (joined(rows, np.int32), joined(columns, np.int32))
    return sparse.csr_array(sparse.coo_array((joined(values, np.float32), where), shape=(n, n)))


def joined(arrays: list[Any], kind: Any) -> NDArray[Any]:
    """Concatenate arrays; the type is given for an empty list."""
    return np.concatenate([np.empty(0, kind), *arrays]).astype(kind, copy=False)
