"""The ways by which diffusion reaches a node: its strongest chains, and the flow into it.

The regularised Laplacian sums over all walks from the observed nodes, x = (1 - α) Σ_t (αW)^t y (the
Neumann series). A chain i_0, ..., i_t is one walk; its strength is its term of the sum without the
factor 1 - α, y_{i_0} Π αW. The strongest chain is therefore the shortest path for the costs
-log y of its beginning and -log αW of its steps.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..kernels import paths as kernels
from ..kernels.matrix import read_only
from .graph import Graph


class Path(NamedTuple):
    """A chain of nodes from an observed node to another.

    Attributes
    ----------
    nodes : list of int
        In the user's order of rows.
    weights : list of float
        W of each step, one less than there are nodes.
    strength : float
        y of the first node times αW of all steps.
    """

    nodes: list[int]
    weights: list[float]
    strength: float


def neighbors_of(graph: Graph, node: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return the neighbours of a node, in the user's order of rows, and the weights W."""
    graph.check()
    place = graph.position[node]
    row = slice(graph.starts[place], graph.stops[place])
    return graph.order[graph.indices[row]], graph.weights[row]


def strongest_paths(
    graph: Graph,
    observed: tuple[NDArray[np.int32], NDArray[np.float64]],
    support: NDArray[np.int32],
    node: int,
    *,
    alpha: float,
    most: int,
) -> list[Path]:
    """Return the strongest chains from the observed nodes to a node, one for each last step.

    For each neighbour of the node that chains pass through last, this is the strongest one; if the
    node is observed, the chain that consists of it alone is another one.

    Parameters
    ----------
    graph : Graph
    observed : tuple of ndarray
        The nodes of the observation, and their values y; those of 0 or less begin no chain.
    support : ndarray of int32
        The nodes that chains may pass through.
    node : int
    alpha : float in [0, 1]
        The factor of each step.
    most : int >= 1
        The number of chains.

    Returns
    -------
    list of Path
        At most `most`, by descending strength.
    """
    graph.check()
    inside = np.zeros(graph.n_nodes, np.bool_)
    inside[graph.position[support]] = True
    begin = observed[1] > 0
    sources = kernels.Sources(
        graph.position[observed[0][begin]].astype(np.int64), -np.log(observed[1][begin])
    )
    target = int(graph.position[node])
    most = min(most, 1 + int(graph.stops[target] - graph.starts[target]))
    arrivals = kernels.Arrivals(np.empty(most, np.int64), np.empty(most))
    before = np.empty(graph.n_nodes, np.int32)
    count = kernels.cheapest_paths(
        *map(read_only, graph.matrix),
        float(alpha),
        inside,
        sources,
        target,
        arrivals,
        before,
    )
    paths = []
    for last, cost in zip(arrivals.last[:count], arrivals.costs[:count], strict=True):
        places = [target]
        place = int(last)
        while place >= 0 and place != target:
            places.append(place)
            place = int(before[place])
        places.reverse()
        weights = [_weight(graph, *step) for step in pairwise(places)]
        paths.append(Path(graph.order[places].tolist(), weights, float(np.exp(-cost))))
    return paths


def _weight(graph: Graph, place: int, other: int) -> float:
    """Return the weight of the edge between two nodes, given by their places in storage order."""
    row = slice(graph.starts[place], graph.stops[place])
    return float(graph.weights[row][graph.indices[row] == other][0])
