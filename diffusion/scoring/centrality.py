"""Centrality of nodes: Katz centrality and degree centrality."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import DiffusionError
from ..graph import Graph
from ..kernels.matrix import System
from ..kernels.subgraph import solve_part
from ..solvers import CG, Report
from ..transfer import RegularizedLaplacian


@dataclass(frozen=True)
class Centrality:
    """Centrality of nodes, with a report on its computation.

    Attributes
    ----------
    values : ndarray, shape (n,) or (m,), float32
        Centrality of every node in the user's order, or of the requested nodes in their order.
    report : Report
        Residual, iterations, convergence and work, each of shape (1,).
    """

    values: NDArray[np.float32]
    report: Report


def katz(
    graph: Graph,
    *,
    alpha: float = 0.99,
    weights: ArrayLike | None = None,
    nodes: ArrayLike | None = None,
    tol: float = 1e-6,
    max_iter: int = 200,
) -> Centrality:
    """Compute Katz centrality on the normalised adjacency: g = (1 - α) (I - α W)^-1 w, w = 1.

    It is the solution of L_α g = w with L_α = (I - α W) / (1 - α): the centrality of a node is its
    own share plus the centrality of its neighbours, damped by α. An isolated node has (1 - α) w.

    Parameters
    ----------
    graph : Graph
    alpha : float in [0, 1), default 0.99
        Damping factor.
    weights : array_like, shape (n,) or (m,), float >= 0, optional
        The right-hand side w, for every node in the user's order or for `nodes` in their order.
        By default 1.
    nodes : array_like, shape (m,), int, optional
        Ids of a subset of the nodes, without repetition. The rows and columns of W of all other
        nodes are removed. W is not normalised again, so that a node loses the share of its
        removed neighbours. By default the whole graph is used.
    tol : float > 0, default 1e-6
        Relative residual ||w - L_α g|| / ||w|| to reach, in float64.
    max_iter : int >= 1, default 200
        Largest number of iterations.

    Returns
    -------
    Centrality

    Raises
    ------
    DiffusionError
        If an argument does not have the described shape or values.

    Warns
    -----
    ConvergenceWarning
        If `tol` is not reached within `max_iter` iterations.

    Notes
    -----
    On each component, W has eigenvalue 1 with eigenvector D^½ 1, to which g converges as α goes to
    1. Within a component, Katz centrality is therefore nearly proportional to the square root of
    the degree, with a factor that depends on the component. On a connected graph `degree`, which
    needs no computation, gives nearly the same ranking. On a graph with several components the
    rankings differ (`python -m bench objects` prints by how much).

    References
    ----------
    Katz. A New Status Index Derived from Sociometric Analysis. Psychometrika 1953.
    Siméoni, Iscen, Tolias, Avrithis, Chum. Unsupervised (deep) object discovery for instance
    recognition. WACV 2018.
    """
    transfer = RegularizedLaplacian(alpha)
    solver = CG(tol=tol, max_iter=max_iter)
    n = graph.n_nodes
    chosen = None if nodes is None else _as_nodes(nodes, n)
    w = _as_weights(weights, n if chosen is None else len(chosen))
    graph.check()
    if chosen is None:
        solution = solver.prepare(graph, transfer).solve(w)
        return Centrality(np.asarray(solution.x)[0], solution.report)
    g, iterations, residual, entries = solve_part(
        graph.matrix,
        graph.position[chosen],
        (1 - alpha) * w,
        System(float(alpha), float(tol), max_iter),
    )
    report = Report(
        np.array([residual]),
        np.array([iterations]),
        np.array([residual <= tol]),
        np.array([iterations * entries]),
        np.zeros(1, bool),
        observed=np.array([np.count_nonzero(w)]),
    )
    report.warn("raise katz's max_iter or tol, or lower alpha", stacklevel=2)
    return Centrality(g.astype(np.float32), report)


def degree(graph: Graph, *, nodes: ArrayLike | None = None) -> NDArray[np.float64]:
    """Return the degree centrality: the row sums of A over the whole graph.

    Parameters
    ----------
    graph : Graph
    nodes : array_like, shape (m,), int, optional
        Ids of the nodes to return, without repetition. By default all nodes in the user's order.

    Returns
    -------
    ndarray, shape (n,) or (m,), float64

    Raises
    ------
    DiffusionError
        If `nodes` is not as described.
    """
    graph.check()
    if nodes is None:
        return graph.degrees.copy()
    return graph.degrees[_as_nodes(nodes, graph.n_nodes)]


def _as_nodes(nodes: ArrayLike, n: int) -> NDArray[np.int64]:
    array = np.asarray(nodes)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise DiffusionError(
            f"nodes: expected integers of shape (m,), got shape {array.shape}, dtype {array.dtype}"
        )
    array = array.astype(np.int64)
    if ((array < 0) | (array >= n)).any() or len(np.unique(array)) < len(array):
        raise DiffusionError(f"nodes: expected ids in [0, {n}), each at most once")
    return array


def _as_weights(weights: ArrayLike | None, m: int) -> NDArray[np.float64]:
    if weights is None:
        return np.ones(m)
    try:
        w: NDArray[Any] = np.asarray(weights, dtype=np.float64)
    except (TypeError, ValueError):
        raise DiffusionError(f"weights: expected {m} numbers, got {weights!r:.60}") from None
    if w.shape != (m,) or not (np.isfinite(w) & (w >= 0)).all():
        raise DiffusionError(
            f"weights: expected finite values >= 0 of shape ({m},), got shape {w.shape}"
        )
    return w
