"""Compiled loop of explanations: the strongest paths from observed nodes to a node.

`scipy.sparse.csgraph.dijkstra` takes the costs of all edges at once and visits all nodes. This loop
reads the rows of the nodes that it visits only, and ends when the paths are known.
"""

from __future__ import annotations

import heapq
from typing import Any, NamedTuple

import numpy as np

from .threads import serial

# The states of a node.
_SEEN, _SETTLED = 1, 2


class Sources(NamedTuple):
    """Where paths begin."""

    nodes: Any  # int64, in storage order, different ones
    costs: Any  # float64


class Arrivals(NamedTuple):
    """The cheapest paths to the target, at most one for each node before it, ascending."""

    last: Any  # (most,) int64, the node before the target; the target if it is the whole path
    costs: Any  # (most,) float64


@serial
def _arrive(arrivals: Arrivals, count: int, node: int, cost: float) -> int:
    """Enter a path unless there are enough cheaper ones; return the new number of paths."""
    last, costs = arrivals
    if count == len(last) and not cost < costs[count - 1]:
        return count
    place = min(count, len(last) - 1)
    while place > 0 and cost < costs[place - 1]:
        last[place], costs[place] = last[place - 1], costs[place - 1]
        place -= 1
    last[place], costs[place] = node, cost
    return min(count + 1, len(last))


@serial
def cheapest_paths(
    starts: Any,
    stops: Any,
    indices: Any,
    weights: Any,
    alpha: float,
    inside: Any,
    sources: Sources,
    target: int,
    arrivals: Arrivals,
    before: Any,
) -> int:
    """Find the cheapest paths from the sources to a target; return their number.

    An edge costs -log(α W_ij), which is at least 0. Row i of W is at starts[i] to stops[i] of
    `indices` and `weights`. A path passes through nodes that are `inside` (n,) and visits the
    target at its end only. `before` (n,) int32 receives the node before each node on the cheapest
    path to it, -1 for a source; it is written for the nodes on paths, and perhaps for others.

    Source: Dijkstra. A Note on Two Problems in Connexion with Graphs. 1959.
    """
    n = len(starts)
    state, cost = np.zeros(n, np.uint8), np.empty(n, np.float64)
    state[target] = _SETTLED
    found = waiting = 0  # waiting: neighbours of the target that no path has reached yet
    for e in range(starts[target], stops[target]):
        waiting += inside[indices[e]]
    heap = [(sources.costs[a], sources.nodes[a]) for a in range(len(sources.nodes))]
    for own, node in heap:
        if node == target:
            found = _arrive(arrivals, found, target, own)
        elif inside[node]:
            state[node], cost[node], before[node] = _SEEN, own, -1
    heapq.heapify(heap)
    while len(heap) > 0 and waiting > 0:
        own, node = heapq.heappop(heap)
        if found == len(arrivals.last) and own >= arrivals.costs[found - 1]:
            break
        if state[node] != _SEEN or own > cost[node]:
            continue
        state[node] = _SETTLED
        for e in range(starts[node], stops[node]):
            other = np.int64(indices[e])
            step = alpha * weights[e]
            if not step > 0:
                continue
            further = own + max(0.0, -np.log(step))
            if other == target:
                waiting -= 1
                found = _arrive(arrivals, found, node, further)
            elif inside[other] and (
                state[other] == 0 or (state[other] == _SEEN and further < cost[other])
            ):
                state[other], cost[other], before[other] = _SEEN, further, node
                heapq.heappush(heap, (further, other))
    return found
