"""The graph around a query."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg, sparse
from scipy.sparse import csgraph

from ..errors import DiffusionError
from ..graph.graph import Graph
from ..reranker import Reranker
from ..validation import check_integer
from .figures import (
    NEUTRAL,
    ORANGE,
    SEQUENTIAL,
    check_axes,
    colour_bar,
    ink,
    legend,
    new_figure,
)
from .queries import answer, fitted_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The most nodes that are drawn: the eigenvectors of a dense matrix of 1000 rows take a second.
_MOST = 1000

# The gap between components, in units of the side of a square that holds one node.
_GAP = 1.0


def spectral_layout(A: ArrayLike) -> NDArray[np.float64]:
    """Place the nodes of a graph by its spectral embedding.

    The coordinates are the eigenvectors u of the normalised Laplacian ``I - D^-1/2 A D^-1/2``, with
    D = diag(A 1), that have the second and the third smallest eigenvalue. The first one is known,
    ``D^1/2 1``. Those of a connected graph minimise ``Σ A_ij (u_i / √d_i - u_j / √d_j)²`` among all
    vectors of length 1 that are orthogonal to it. The sign is chosen so that the entry of largest
    magnitude is positive.

    Parameters
    ----------
    A : array_like, shape (m, m)
        Weights >= 0 of the edges, symmetric and dense. Memory: 40 m² bytes.

    Returns
    -------
    ndarray, shape (m, 2), float64
        Of a graph of two nodes, the second coordinate is 0; of one, both.

    Raises
    ------
    DiffusionError
        If A is not as described, or the graph is not connected.

    References
    ----------
    Chung. Spectral Graph Theory. 1997, chapter 1.
    """
    A = np.asarray(A, np.float64)
    if A.ndim != 2 or A.shape[0] != A.shape[1] or not len(A):
        raise DiffusionError(f"A: expected a square matrix, got shape {A.shape}")
    if not (np.isfinite(A).all() and (A >= 0).all() and np.allclose(A, A.T)):
        raise DiffusionError("A: expected symmetric, finite weights >= 0")
    m = len(A)
    out = np.zeros((m, 2))
    if m == 1:
        return out
    if csgraph.connected_components(sparse.csr_array(A), directed=False)[0] > 1:
        raise DiffusionError("A: expected a connected graph")
    roots = np.sqrt(A.sum(axis=1))
    laplacian = np.eye(m) - A / roots / roots[:, None]
    last = min(2, m - 1)
    vectors = linalg.eigh(laplacian, subset_by_index=(1, last), overwrite_a=True)[1]
    largest = vectors[np.abs(vectors).argmax(axis=0), np.arange(last)]
    out[:, :last] = vectors * np.sign(largest)
    return out


def plot_neighborhood(
    ranker: Reranker,
    q: ArrayLike | None = None,
    *,
    item: Any = None,
    hits: tuple[ArrayLike, ArrayLike] | None = None,
    n_nodes: int = 100,
    n_labels: int = 0,
    ax: Axes | None = None,
) -> Axes:
    """Draw the graph around a query: its best items after diffusion, and the edges among them.

    Items are placed by the spectral embedding of this part of the graph (`spectral_layout`), with
    the weights W of its edges, and coloured by their score. Edges are the darker, the larger W. The
    query is not part of the graph: a star marks the mean of the items that it is observed at,
    weighted by y, and dashed lines lead to them.

    Parameters
    ----------
    ranker : Reranker
        Fitted.
    q : array_like, shape (d,), optional
        The query, as `Reranker.search` takes it.
    item : int or str, optional
        An item of the collection, whose vector is the query, in place of `q`.
    hits : tuple of array_like, shape (m,), optional
        First-stage scores and ids of the query, as `Reranker.rerank` takes them, in place of `q`.
    n_nodes : int in [1, 1000], default 100
        Number of best items that are drawn, besides those that the query is observed at. They are
        1000 at most together.
    n_labels : int >= 0, default 0
        Number of best items whose ids are written beside them.
    ax : matplotlib Axes, optional
        By default, those of a new figure of pyplot.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    DiffusionError
        If an argument is not as described, or Matplotlib is not installed.

    Notes
    -----
    Components of the drawn part of the graph, which may be connected through items that are not
    drawn, stand side by side, each embedded on its own, in squares whose area is proportional to
    the number of their items. Items with the same vector are one node, with the id of the first.

    Memory: 50 bytes per pair of drawn items, at most 50 MB, in addition to that of a search.

    Examples
    --------
    >>> import numpy as np, diffusion
    >>> from diffusion.plot import plot_neighborhood
    >>> angle = np.linspace(0, np.pi, 60)
    >>> ranker = diffusion.Reranker(k=4).fit(np.stack([np.cos(angle), np.sin(angle)], axis=1))
    >>> ax = plot_neighborhood(ranker, item=0, n_nodes=20)  # doctest: +SKIP
    """
    check_axes(ax)
    fitted = fitted_of(ranker)
    if check_integer(n_nodes, "n_nodes", low=1) > _MOST:
        raise DiffusionError(f"n_nodes: expected at most {_MOST}, got {n_nodes}")
    check_integer(n_labels, "n_labels", low=0)
    found = answer(ranker, q, item, hits, min(n_nodes, fitted.graph.n_nodes))
    most_first = np.argsort(-found.observed[1], kind="stable")
    observed, y = found.observed[0][most_first], found.observed[1][most_first]
    known = dict(zip(found.ranked[1].tolist(), found.ranked[0].tolist(), strict=True))
    nodes = np.array(list(dict.fromkeys([*known, *observed.tolist()]))[:_MOST], np.int64)
    if not len(nodes):
        raise DiffusionError("q: expected a query with neighbours, got one of which none is known")
    values = np.array([known.get(node, np.nan) for node in nodes.tolist()])
    W = _weights_among(fitted.graph, nodes)
    positions = _side_by_side(W)

    ax = ax if ax is not None else new_figure(7.0, 5.6).add_subplot()
    drawn = np.isin(observed, nodes)
    at, y = _places(observed[drawn], nodes), y[drawn]
    _draw_edges(ax, W, positions)
    if len(at) and y.sum() > 0:
        _draw_query(ax, positions[at], y)
    _draw_nodes(ax, positions, values, at)
    ids = fitted.items.of_rows(fitted.copies.first_items(nodes[:n_labels]))
    for text, (x, z) in zip(ids.tolist(), positions[:n_labels].tolist(), strict=True):
        ax.annotate(
            str(text),
            (x, z),
            (4, 4),
            textcoords="offset points",
            fontsize="small",
            color=ink(ax),
            parse_math=False,
        )
    ax.set_aspect("equal", adjustable="datalim")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
    ax.set_xlabel("spectral coordinate 1 (no unit)")
    ax.set_ylabel("spectral coordinate 2 (no unit)")
    ax.set_title(f"The graph around the query: {len(nodes)} of {fitted.graph.n_nodes} nodes")
    legend(ax, loc="upper center", bbox_to_anchor=(0.5, -0.06), ncols=3)
    return ax


def _places(nodes: NDArray[np.int64], among: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the places of nodes in a list of different nodes that has them."""
    order = np.argsort(among)
    return order[np.searchsorted(among, nodes, sorter=order)]


def _weights_among(graph: Graph, nodes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return W among some nodes, dense; only their rows are read."""
    graph.check()
    own = graph.position[nodes]
    place = np.full(graph.n_nodes, -1, np.int32)
    place[own] = np.arange(len(own))
    out = np.zeros((len(own), len(own)))
    for row, p in enumerate(own.tolist()):  # at most the nodes that are drawn
        part = slice(graph.starts[p], graph.stops[p])
        columns = place[graph.indices[part]]
        inside = columns >= 0
        out[row, columns[inside]] = graph.weights[part][inside]
    return out


def _side_by_side(A: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return positions (m, 2) of the nodes of a graph, its components side by side.

    A component of m nodes fills a square of side √m. The squares stand in rows, the largest first.
    """
    count, labels = csgraph.connected_components(sparse.csr_array(A), directed=False)
    if count == 1:
        return spectral_layout(A)
    members = sorted((np.flatnonzero(labels == c) for c in range(count)), key=len, reverse=True)
    sides = np.array([np.sqrt(len(part)) for part in members])
    widest = max(sides[0], 1.4 * np.sqrt(((sides + _GAP) ** 2).sum()))
    out = np.empty((len(A), 2))
    x = z = height = 0.0
    for part, side in zip(members, sides, strict=True):
        if x > 0 and x + side > widest:
            x, z, height = 0.0, z - height - _GAP, 0.0
        own = spectral_layout(A[np.ix_(part, part)])
        low, extent = own.min(axis=0), np.ptp(own, axis=0)
        scale = side / extent.max() if extent.max() > 0 else 0.0
        centre = np.array([x + side / 2, z - side / 2])
        out[part] = centre + (own - low - extent / 2) * scale
        x, height = x + side + _GAP, max(height, side)
    return out


def _draw_edges(ax: Axes, W: NDArray[np.float64], positions: NDArray[np.float64]) -> None:
    from matplotlib.collections import LineCollection

    i, j = np.nonzero(np.triu(W, 1))
    share = W[i, j] / W.max(initial=1e-300)
    lines = LineCollection(
        np.stack([positions[i], positions[j]], axis=1).tolist(),
        linewidths=(0.3 + 2.0 * share).tolist(),
        colors=[(0.5, 0.5, 0.5, 0.06 + 0.8 * s**0.7) for s in share.tolist()],
        zorder=1,
        gid="edges",
    )
    ax.add_collection(lines)


def _draw_query(ax: Axes, positions: NDArray[np.float64], y: NDArray[np.float64]) -> None:
    centre = y @ positions / y.sum()
    for (x, z), weight in zip(positions.tolist(), (y / y.max()).tolist(), strict=True):
        ax.plot([centre[0], x], [centre[1], z], "--", color=ORANGE, lw=0.6 + weight, zorder=2)
    ax.plot(
        *centre.tolist(),
        "*",
        color=ORANGE,
        markersize=17,
        markeredgecolor=ax.get_facecolor(),
        zorder=5,
        label="query",
        gid="query",
    )


def _draw_nodes(
    ax: Axes, positions: NDArray[np.float64], values: NDArray[np.float64], at: NDArray[np.int64]
) -> None:
    beside = np.ones(len(positions), bool)
    beside[at] = False
    drawn = ax.scatter(
        positions[:, 0],
        positions[:, 1],
        c=values,
        cmap=SEQUENTIAL,
        plotnonfinite=True,
        s=np.where(beside, 34, 60).tolist(),
        edgecolors=np.where(beside, NEUTRAL, ORANGE).tolist(),
        linewidths=np.where(beside, 0.5, 1.8).tolist(),
        zorder=4,
        gid="nodes",
    )
    ax.plot([], [], "o", mfc="none", mec=ORANGE, mew=1.8, label="observed: neighbour of the query")
    ax.plot([], [], "o", mfc="none", mec=NEUTRAL, mew=0.8, label="other item")
    colour_bar(ax, drawn, "score after diffusion (no unit)")
