"""The tasks that make the graph from reciprocal edges: degrees, an order of the nodes, and W.

The nodes are stored shard by shard, and those of a shard in the reverse Cuthill-McKee order of the
edges within it. Everything else equals what `Graph.from_neighbors` computes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from ..graph import Graph
from ..kernels import graph as loops
from ..kernels.lists import Rows as SparseRows
from .final import Final, Source
from .numbering import rows_of
from .numbers import Local
from .shards import Shards, save
from .shuffle import Inbox
from .stages import Stages


def mutual_edges(path: str, shards: Shards, p: int, stage: str) -> str:
    """Weigh the edges of a shard: the smaller of the weights that two nodes give each other.

    The result has `ids` and `weights` (m, k), where a weight of 0 is no edge.

    Parameters
    ----------
    path : str
        Of the result.
    shards : Shards
    p : int
        The shard.
    stage : str
        The stage that has the `ids` and `weights` of lists, and has sent the weights.
    """
    a, _ = shards.bounds(p)
    ids = shards.array(stage, p, "ids")
    weights = shards.array(stage, p, "weights").copy()
    for rows, theirs in Inbox(shards, stage, p).reverse(ids, a, 0):
        weights[rows] = np.minimum(weights[rows], theirs)
    return save(path, {"ids": ids, "weights": weights})


def nodes(path: str, shards: Shards, p: int) -> str:
    """Compute what other shards need to know of the nodes of a shard, from the stage `edges`.

    The result has, for each node, its degree, its number of edges, its place in storage and the
    component that it has within the shard; `order`, the nodes by place; and for each of these
    components its size and its first node, by number of edges and row, as one number.
    """
    a, b = shards.bounds(p)
    ids, weights = shards.array("edges", p, "ids"), shards.array("edges", p, "weights")
    edges = np.negative(weights)  # the form of reciprocal edges that the loop takes
    degrees, counts = np.empty(b - a, np.float64), np.empty(b - a, np.int32)
    loops.degrees_and_counts(edges, degrees, counts)
    inside = (ids >= a) & (ids < b)
    edges[~inside] = 0
    rows = np.array(rows_of(shards)[a:b])
    starts = np.lexsort((rows, counts))
    local = np.where(inside, ids - np.int32(a), np.int32(-1))
    order, component = loops.cuthill_mckee(local, edges, counts, starts)
    order = order[::-1]
    position = np.empty(b - a, np.int32)
    position[order] = np.arange(a, b, dtype=np.int32)
    # A component begins at the first of its nodes in `starts`, in which others come later.
    labels, at = np.unique(component[starts], return_index=True)
    first = starts[at]
    return save(
        path,
        {
            "degrees": degrees,
            "counts": counts,
            "position": position,
            "component": component,
            "order": order + np.int32(a),
            "sizes": np.bincount(component, minlength=len(labels)),
            "first": (counts[first].astype(np.int64) << 32) | rows[first],
        },
    )


def matrix(path: str, shards: Shards, p: int) -> str:
    """Compute the rows of W of a shard, and the pairs of components that its edges join.

    The result has `indptr` (m + 1,), `indices` and `weights` in storage order, and `joined` (c, 2):
    components are numbered shard after shard.
    """
    a, b = shards.bounds(p)
    ids, weights = shards.array("edges", p, "ids"), shards.array("edges", p, "weights")
    local = Local(a, b)
    local.add(np.where(weights > 0, ids, np.int32(-1)))
    rows, near = local.rows, local.of(ids)
    degrees = shards.rows("nodes", "degrees").take(rows)
    position = shards.rows("nodes", "position").take(rows)
    order = shards.array("nodes", p, "order") - np.int32(a)
    counts = shards.array("nodes", p, "counts")
    indptr = np.zeros(b - a + 1, np.int64)
    np.cumsum(counts[order], out=indptr[1:])
    indices, values = np.empty(indptr[-1], np.int32), np.empty(indptr[-1], np.float32)
    out = SparseRows(indptr, indices, values)
    loops.normalized_rows(near, weights.copy(), degrees, order, position, out)

    base = component_starts(shards)
    which = np.searchsorted(shards.starts, rows, side="right") - 1
    component = shards.rows("nodes", "component").take(rows) + base[which]
    row, place = np.nonzero((weights > 0) & (ids >= b))  # the other shard has the others
    # Pairs as single numbers, which are sorted faster; there are fewer components than 2^31.
    pairs = np.unique((component[row] << 32) | component[near[row, place]])
    joined = np.stack([pairs >> 32, pairs & 0xFFFFFFFF], axis=1)
    return save(path, {"indptr": indptr, "indices": indices, "weights": values, "joined": joined})


def component_starts(shards: Shards) -> NDArray[np.int64]:
    """Return where the components of each shard begin (shards + 1,) in their common numbering."""
    counts = [len(shards.array("nodes", p, "sizes")) for p in range(shards.count)]
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])


def components(path: str, shards: Shards) -> str:
    """Join the components of all shards, and number them by descending size.

    The result has `labels` (c,), int32, of the components of the shards, and `count` (1,). This is
    the one task whose memory grows with the number of components, isolated nodes included.
    """
    c = int(component_starts(shards)[-1])
    every = range(shards.count)
    joined = np.concatenate([shards.array("matrix", p, "joined") for p in every])
    ones = np.ones(len(joined), np.int8)
    edges = sparse.coo_array((ones, (joined[:, 0], joined[:, 1])), shape=(c, c))
    count, found = connected_components(edges, directed=False)
    sizes = np.zeros(count, np.int64)
    np.add.at(sizes, found, np.concatenate([shards.array("nodes", p, "sizes") for p in every]))
    first = np.full(count, np.iinfo(np.int64).max)
    np.minimum.at(first, found, np.concatenate([shards.array("nodes", p, "first") for p in every]))
    labels = np.empty(count, np.int32)
    labels[np.lexsort((first, -sizes))] = np.arange(count, dtype=np.int32)
    return save(path, {"labels": labels[found], "count": np.array([count])})


def stored(path: str, shards: Shards, p: int, before: int) -> str:
    """Make what the index has of the nodes of a shard.

    The result has `starts` and `stops` (m,), where the row of each stored node is, of which there
    are so many entries `before`; and `components` (m,) by position.
    """
    indptr = shards.array("matrix", p, "indptr")
    first, last = component_starts(shards)[p : p + 2].tolist()
    labels = shards.array("components", 0, "labels")[first:last]
    return save(
        path,
        {
            "starts": indptr[:-1] + before,
            "stops": indptr[1:] + before,
            "components": labels[shards.array("nodes", p, "component")],
        },
    )


def make_graph(stages: Stages, final: Final) -> Graph:
    """Make the graph from the stage `edges`, write its arrays, and return it."""
    shards = stages.shards
    stages.run("nodes", nodes)
    stages.run("matrix", matrix)
    stages.drop("edges")
    stages.run_once("components", components)
    entries = [len(shards.array("matrix", p, "indices")) for p in range(shards.count)]
    stages.run("stored", stored, each=(np.cumsum(entries) - entries).tolist())
    final.by_place(
        {
            "graph_starts": Source("stored", "starts"),
            "graph_stops": Source("stored", "stops"),
            "graph_indices": Source("matrix", "indices"),
            "graph_weights": Source("matrix", "weights"),
            "graph_order": Source("nodes", "order", items=True),
        }
    )
    final.by_row(
        {
            "graph_position": Source("nodes", "position"),
            "graph_degrees": Source("nodes", "degrees"),
            "graph_components": Source("stored", "components"),
        }
    )
    every = range(shards.count)
    isolated = [np.count_nonzero(shards.array("nodes", p, "counts") == 0) for p in every]
    names = ("starts", "stops", "indices", "weights", "order", "position", "degrees", "components")
    arrays: dict[str, Any] = {name: final.array(f"graph_{name}") for name in names}
    return Graph(
        **arrays,
        n_edges=sum(entries) // 2,
        n_components=int(shards.array("components", 0, "count")[0]),
        n_isolated=int(sum(isolated)),
    )
