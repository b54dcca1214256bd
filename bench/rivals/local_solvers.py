"""The published local solvers: successive over-relaxation, gradient descent and Chebyshev.

Bai, Zhou, Yang, Xiao. Faster Local Solvers for Graph Diffusion Equations. NeurIPS 2024
(arXiv 2410.21634): the algorithms LocalSOR, LocalGD and LocalCH, from their pseudo-code. Here they
solve (I - α W) x = b for the symmetric W = D^-1/2 A D^-1/2, in which their PageRank is D^1/2 x. A
node is active while |r_i| >= ε √d_i; the published programs differ in that they allocate arrays
of n values for every query, where these keep and clear them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from diffusion.graph import Graph

_UNSEEN, _SEEN, _ACTIVE = 0, 1, 2


class Memory(NamedTuple):
    """Arrays of n values that are kept between queries: zero, except for the lists."""

    x: Any
    r: Any
    change: Any
    state: Any  # uint8
    active: Any  # list of nodes
    following: Any  # list of nodes
    seen: Any  # list of nodes


def _compiled(function: Any) -> Any:
    return numba.njit(nogil=True, error_model="numpy", fastmath={"contract"})(function)


@_compiled
def _begin(memory: Memory, places: Any, values: Any) -> int:
    for a in range(places.shape[0]):
        memory.r[places[a]] = values[a]
        memory.state[places[a]] = _ACTIVE
        memory.active[a] = memory.seen[a] = places[a]
    return places.shape[0]


@_compiled
def local_sor(
    matrix: Any, roots: Any, alpha: float, eps: float, memory: Memory, places: Any, values: Any
) -> int:
    """Relax active nodes in the order of a queue; return the number of nodes seen."""
    starts, stops, indices, weights = matrix
    x, r, _, state, queue, _, seen = memory
    omega = 2.0 / (1.0 + np.sqrt(1.0 - alpha * alpha))
    n = x.shape[0]
    count = waiting = _begin(memory, places, values)
    front = 0
    while waiting > 0:
        u = np.uintp(queue[front])
        front = front + 1 if front + 1 < n else 0
        waiting -= 1
        state[u] = _SEEN
        if abs(r[u]) < eps * roots[u]:
            continue
        change = omega * r[u]
        x[u] += change
        r[u] -= change
        flow = alpha * change
        e, end = np.uintp(starts[u]), np.uintp(stops[u])
        while e <= end:
            # The node itself comes last.
            v = np.uintp(indices[e]) if e < end else u
            if e < end:
                r[v] += weights[e] * flow
            if state[v] != _ACTIVE:
                if state[v] == _UNSEEN:
                    state[v] = _SEEN
                    seen[count] = v
                    count += 1
                if abs(r[v]) >= eps * roots[v]:
                    state[v] = _ACTIVE
                    last = front + waiting
                    queue[last if last < n else last - n] = v
                    waiting += 1
            e += np.uintp(1)
    return count


@_compiled
def local_chebyshev(
    matrix: Any,
    roots: Any,
    alpha: float,
    eps: float,
    memory: Memory,
    places: Any,
    values: Any,
    accelerated: bool = True,
) -> int:
    """Change all active nodes at once; return the number of nodes seen.

    A change is β r + (β - 1) times the node's change before, with the β of Chebyshev's iteration.
    Without acceleration, β is 1: gradient descent.
    """
    starts, stops, indices, weights = matrix
    x, r, change, state, current, following, seen = memory
    count = size = _begin(memory, places, values)
    delta, beta, first = alpha, 1.0, True
    while size > 0:
        if accelerated and not first:
            delta = 1.0 / (2.0 / alpha - delta)
            beta = 2.0 * delta / alpha
        first = False
        for a in range(size):
            u = np.uintp(current[a])
            change[u] = beta * r[u] + (beta - 1.0) * change[u]
            x[u] += change[u]
            r[u] -= change[u]
            state[u] = _SEEN
        after = 0
        for a in range(size):
            u = np.uintp(current[a])
            flow = alpha * change[u]
            e, end = np.uintp(starts[u]), np.uintp(stops[u])
            while e <= end:
                # The node itself comes last.
                v = np.uintp(indices[e]) if e < end else u
                if e < end:
                    r[v] += weights[e] * flow
                if state[v] != _ACTIVE:
                    if state[v] == _UNSEEN:
                        state[v] = _SEEN
                        seen[count] = v
                        count += 1
                    if abs(r[v]) >= eps * roots[v]:
                        state[v] = _ACTIVE
                        following[after] = v
                        after += 1
                e += np.uintp(1)
        current, following, size = following, current, after
    return count


@_compiled
def local_descent(
    matrix: Any, roots: Any, alpha: float, eps: float, memory: Memory, places: Any, values: Any
) -> int:
    """Change all active nodes at once by their residuals; return the number of nodes seen."""
    return local_chebyshev(matrix, roots, alpha, eps, memory, places, values, False)


@_compiled
def _take_out(memory: Memory, count: int, x: Any) -> None:
    """Copy x of the nodes seen, and clear the memory."""
    for a in range(count):
        u = memory.seen[a]
        x[a] = memory.x[u]
        memory.x[u] = memory.r[u] = memory.change[u] = 0.0
        memory.state[u] = _UNSEEN


class Rival:
    """A published solver on a graph.

    Parameters
    ----------
    graph : Graph
    alpha : float in (0, 1)
    solve : function
        `local_sor`, `local_descent` or `local_chebyshev`.
    """

    def __init__(self, graph: Graph, alpha: float, solve: Callable[..., int]) -> None:
        n = graph.n_nodes
        self._graph, self._alpha, self._solve = graph, alpha, solve
        degrees = graph.degrees[graph.order]
        self._roots = np.sqrt(np.where(degrees > 0, degrees, 1)).astype(np.float32)
        x, r, change = np.zeros((3, n))
        active, following, seen = np.zeros((3, n), np.int32)
        self._memory = Memory(x, r, change, np.zeros(n, np.uint8), active, following, seen)

    def solve(
        self, ids: NDArray[np.integer], values: NDArray[np.float64], eps: float
    ) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """Return the ids and the values of x for an observation, to eps times the largest of b."""
        graph = self._graph
        places = graph.position[ids]
        b = (1.0 - self._alpha) * values
        largest = np.max(b / self._roots[places])
        matrix = graph.matrix
        count = self._solve(
            matrix, self._roots, self._alpha, eps * largest, self._memory, places, b
        )
        x = np.empty(count)
        _take_out(self._memory, count, x)
        return graph.order[self._memory.seen[:count]], x


SOLVERS: dict[str, Callable[..., int]] = {
    "local SOR": local_sor,
    "local gradient descent": local_descent,
    "local Chebyshev": local_chebyshev,
}
