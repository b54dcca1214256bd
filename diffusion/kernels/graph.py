"""Compiled loops of graph construction."""

from __future__ import annotations

from typing import Any

import numpy as np

from .lists import Rows
from .threads import borrowing, parallel, serial


@parallel(lambda order, *_: len(order), grain=64)
def mutual_weights(start: int, stop: int, order: Any, ids: Any, weights: Any) -> None:
    """Replace weights (n, k) by those of reciprocal edges, negated: -min(w_i(j), w_j(i)).

    Here j = ids[i, a]. A weight stays as it is, not negative, if j does not list i or gives it a
    weight of 0. Nodes are visited in the given order.
    """
    k = ids.shape[1]
    for p in range(start, stop):
        i = order[p]
        for a in range(k):
            j, w = ids[i, a], weights[i, a]
            # Only the node with the smaller id looks the pair up, and it writes both entries:
            # reading the other list is a random memory access, which dominates the run time.
            if j > i and w > 0:
                for b in range(k):
                    if ids[j, b] == i:
                        edge = min(w, weights[j, b])
                        weights[i, a] = -edge
                        weights[j, b] = -edge
                        break


@parallel(lambda weights, *_: len(weights), grain=1024)
def degrees_and_counts(start: int, stop: int, weights: Any, degrees: Any, counts: Any) -> None:
    """Give reciprocal weights their sign again, and set all others to 0.

    `weights` (n, k) are those that `mutual_weights` leaves. Also computes their row sums in
    float64, and the number of edges per node.
    """
    for i in range(start, stop):
        degree = 0.0
        count = 0
        for a in range(weights.shape[1]):
            edge = max(-weights[i, a], np.float32(0))
            weights[i, a] = edge
            degree += edge
            count += edge > 0
        degrees[i] = degree
        counts[i] = count


@serial
def cuthill_mckee(ids: Any, mutual: Any, counts: Any, starts: Any) -> tuple[Any, Any]:
    """Order nodes breadth first, visiting the neighbours of a node by ascending degree.

    `starts` (n,) lists all nodes; each component is started from the first of its nodes in this
    list. Returns the order (n,), int32, and the component of each node (n,), int32, numbered in
    the order in which components are started.

    Source: Cuthill, McKee. Reducing the Bandwidth of Sparse Symmetric Matrices. ACM 1969.
    """
    n, k = ids.shape
    order = np.empty(n, np.int32)
    component = np.full(n, -1, np.int32)
    head = tail = 0
    label = 0
    for start in starts:
        if component[start] >= 0:
            continue
        component[start] = label
        order[tail] = start
        tail += 1
        while head < tail:
            i = order[head]
            head += 1
            begin = tail
            for a in range(k):
                if mutual[i, a] > 0:
                    j = ids[i, a]
                    if component[j] < 0:
                        component[j] = label
                        t = tail
                        while t > begin and counts[order[t - 1]] > counts[j]:
                            order[t] = order[t - 1]
                            t -= 1
                        order[t] = j
                        tail += 1
        label += 1
    return order, component


@borrowing
def normalized(edge: float, one: float, other: float) -> float:
    """Return the entry of W of an edge between nodes of two degrees."""
    # In float64, because the product of two small float32 degrees may underflow.
    # The product is commutative, so W is symmetric to the last bit.
    return edge / np.sqrt(one * other)


@borrowing
def insert_column(
    begin: int, end: int, column: int, weight: float, indices: Any, weights: Any
) -> None:
    """Insert an entry into a row with ascending columns, at begin to end."""
    t = end
    while t > begin and indices[t - 1] > column:
        indices[t], weights[t] = indices[t - 1], weights[t - 1]
        t -= 1
    indices[t], weights[t] = column, weight


@parallel(lambda ids, *_: len(ids), grain=64)
def normalized_rows(
    start: int, stop: int, ids: Any, mutual: Any, degrees: Any, order: Any, position: Any, out: Rows
) -> None:
    """Fill the rows of W = D^-1/2 A D^-1/2 in storage order, with ascending columns."""
    k = ids.shape[1]
    indices, weights = out.indices, out.values
    for p in range(start, stop):
        i = order[p]
        begin = end = out.indptr[p]
        for a in range(k):
            edge = mutual[i, a]
            if edge > 0:
                j = ids[i, a]
                weight = normalized(edge, degrees[i], degrees[j])
                insert_column(begin, end, position[j], weight, indices, weights)
                end += 1
