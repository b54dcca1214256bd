"""Scores of a query before and after diffusion."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import DiffusionError
from ..fitted import Fitted
from ..graph.graph import Graph
from ..reranker import Reranker
from ..validation import as_numeric, check_integer
from .figures import (
    BLUE,
    NEUTRAL,
    ORANGE,
    SEQUENTIAL,
    check_pair,
    colour_bar,
    legend,
    new_figure,
    tidy,
)
from .queries import SCORES, answer, fitted_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The most nodes that are drawn: more would make a picture that no viewer opens quickly.
_MOST = 20_000

# Share of the step between two distances over which the points of one distance are spread.
_SPREAD = 0.7

# The golden ratio: its multiples, without their integers, are spread evenly.
_GOLDEN = (1 + 5**0.5) / 2


def plot_scores(
    ranker: Reranker,
    q: ArrayLike | None = None,
    *,
    item: Any = None,
    hits: tuple[ArrayLike, ArrayLike] | None = None,
    positions: ArrayLike | None = None,
    n_items: int = 5000,
    axes: Any = None,
) -> tuple[Axes, Axes]:
    """Draw the scores of a query before diffusion, on the left, and after it, on the right.

    Items in the plane are drawn where they are, coloured by their score. Others are drawn by their
    score and by their distance from the query in the graph: the least number of edges from an item
    that the query is observed at. A line connects the medians of each distance.

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
    positions : array_like, shape (n, 2), optional
        Where the items are, in the order of `ranker.ids_`: their coordinates, or an embedding in
        the plane. By default, the vectors if they have two dimensions and the metric is
        "euclidean".
    n_items : int in [1, 20000], default 5000
        The best items of both rankings are drawn, as many of each.
    axes : sequence of two matplotlib Axes, optional
        By default, those of a new figure of pyplot.

    Returns
    -------
    tuple of two matplotlib Axes

    Raises
    ------
    DiffusionError
        If an argument is not as described, or Matplotlib is not installed.

    Notes
    -----
    Scores are those of `Reranker.search`. On a map, items without one are drawn as small grey
    points: on the left those that the first stage does not list, on the right those that follow by
    their first-stage score, because diffusion does not reach them. Pictures by distance leave them
    out. With the fusion, the best of the first stage have a score even if diffusion does not reach
    them; a Reranker with `score="diffusion"` shows diffusion alone. On a map, scores after
    diffusion have a logarithmic scale of colours, because they decrease exponentially along the
    graph. Items with the same vector are one point, that of the first.

    The distances take 12 bytes per entry of W at most, in addition to the memory of a search.

    Examples
    --------
    >>> import numpy as np, diffusion
    >>> from diffusion.plot import plot_scores
    >>> angle = np.linspace(0, np.pi, 60)
    >>> X = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    >>> ranker = diffusion.Reranker(k=4, metric="euclidean").fit(X)
    >>> before, after = plot_scores(ranker, X[0])  # doctest: +SKIP
    """
    check_pair(axes)
    fitted = fitted_of(ranker)
    if check_integer(n_items, "n_items", low=1) > _MOST:
        raise DiffusionError(f"n_items: expected at most {_MOST}, got {n_items}")
    places = None if positions is None else _checked(positions, fitted.items.size)
    k = min(n_items, fitted.graph.n_nodes)
    found = answer(ranker, q, item, hits, k, length=k)
    # Scores of 0 and less are places in the ranking, behind all that diffusion reaches.
    reached = found.ranked[0] > 0
    ranked = found.ranked[0][reached], found.ranked[1][reached]
    nodes = np.union1d(np.concatenate([found.first[1][:k], found.ranked[1]]), found.observed[0])
    if not len(nodes):
        raise DiffusionError("q: expected a query with neighbours, got one of which none is known")
    first = found.first[0][:k], found.first[1][:k]
    scores = np.array([_values_at(nodes, *first), _values_at(nodes, *ranked)])
    rows = fitted.copies.first_items(nodes)
    where = _vectors(fitted, rows) if places is None else places[rows]
    distances = None if where is not None else distances_from(fitted.graph, found.observed[0])

    query = None
    if where is not None and item is not None:
        node = fitted.copies.of_items(np.array([fitted.items.row_of(item, "item")]))
        query = where[nodes == node]
    elif where is not None and q is not None and places is None:
        query = np.asarray(q, np.float64)

    if axes is None:
        axes = new_figure(11.0, 4.4).subplots(1, 2)
    titles = (
        (
            "First stage",
            SCORES[fitted.parameters["metric"]] if hits is None else "score of the hit",
        ),
        ("After diffusion", "score (no unit)"),
    )
    for ax, values, (title, label) in zip(axes, scores, titles, strict=True):
        if where is None:
            assert distances is not None
            _draw_distances(ax, distances[nodes], nodes, values, label)
        else:
            _draw_map(ax, where, values, label, logarithmic=ax is axes[1])
            _mark(ax, where[np.isin(nodes, found.observed[0])], query)
        ax.set_title(title)
    legend(axes[0])
    return axes[0], axes[1]


def _checked(positions: ArrayLike, n: int) -> NDArray[np.float64]:
    """Return positions as an array (n, 2) of finite numbers."""
    out = as_numeric(positions, "positions")
    if out.shape != (n, 2):
        raise DiffusionError(f"positions: expected shape ({n}, 2), got {out.shape}")
    if not np.isfinite(out).all():
        raise DiffusionError("positions: expected finite values, got NaN or infinity")
    return out.astype(np.float64)


def _vectors(fitted: Fitted, rows: NDArray[np.int64]) -> NDArray[np.float64] | None:
    """Return the vectors of items (m, 2) if they are in the plane as they were given."""
    index = fitted.index
    if index is None or index.dimension != 2 or fitted.parameters["metric"] != "euclidean":
        return None
    try:
        return np.asarray(fitted.vectors_of(rows), np.float64)
    except DiffusionError:  # an index of the caller's keeps them
        return None


def _values_at(
    nodes: NDArray[np.int64], scores: NDArray[np.float32], listed: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the scores of ascending nodes by a list, NaN for those that are not in it."""
    out = np.full(len(nodes), np.nan)
    out[np.searchsorted(nodes, listed)] = scores
    return out


def distances_from(graph: Graph, sources: NDArray[np.int64]) -> NDArray[np.int32]:
    """Return the least number of edges from any source to each node, -1 if there is no path.

    Parameters
    ----------
    graph : Graph
    sources : ndarray of int64
        Nodes, in the user's order.

    Returns
    -------
    ndarray, shape (n,), int32
        In the user's order.
    """
    graph.check()
    matrix = graph.matrix.csr()
    steps = np.full(graph.n_nodes, -1, np.int32)
    front = np.unique(graph.position[sources])
    step = 0
    while len(front):
        steps[front] = step
        step += 1
        beside = np.unique(matrix[front].indices)
        front = beside[steps[beside] < 0]
    return steps[graph.position]


def _draw_map(
    ax: Axes,
    where: NDArray[np.float64],
    values: NDArray[np.float64],
    label: str,
    *,
    logarithmic: bool,
) -> None:
    known = np.isfinite(values)
    ax.scatter(
        where[~known, 0],
        where[~known, 1],
        s=5,
        color=NEUTRAL,
        alpha=0.6,
        gid="without score",
        zorder=1,
    )
    order = np.flatnonzero(known)[np.argsort(values[known], kind="stable")]  # the best on top
    drawn = ax.scatter(
        where[order, 0],
        where[order, 1],
        c=values[order],
        cmap=SEQUENTIAL,
        norm="log" if logarithmic else "linear",
        s=22,
        edgecolors=NEUTRAL,
        linewidths=0.3,
        zorder=2,
        gid="scores",
    )
    ax.set_aspect("equal", adjustable="datalim")
    ax.set_xlabel("first coordinate (unit of the data)")
    ax.set_ylabel("second coordinate (unit of the data)")
    tidy(ax)
    if known.any():
        colour_bar(ax, drawn, label)


def _mark(ax: Axes, observed: NDArray[np.float64], query: NDArray[np.float64] | None) -> None:
    """Mark the places of what the query is observed at, and its own if it has one."""
    ax.scatter(
        observed[:, 0],
        observed[:, 1],
        s=44,
        facecolors="none",
        edgecolors=ORANGE,
        linewidths=1.3,
        zorder=3,
        gid="observed",
        label="observed: neighbour of the query",
    )
    if query is not None and query.size:
        ax.plot(
            *query.reshape(2).tolist(),
            "*",
            color=ORANGE,
            markersize=17,
            markeredgecolor=ax.get_facecolor(),
            zorder=4,
            label="query",
            gid="query",
        )


def _draw_distances(
    ax: Axes,
    distances: NDArray[np.int32],
    nodes: NDArray[np.int64],
    values: NDArray[np.float64],
    label: str,
) -> None:
    from matplotlib.ticker import MaxNLocator

    kept = np.isfinite(values) & (distances >= 0)
    distances, values = distances[kept], values[kept]
    shift = _SPREAD * ((nodes[kept] * _GOLDEN) % 1 - 0.5)
    ax.scatter(
        distances + shift,
        values,
        s=9,
        color=BLUE,
        alpha=0.6,
        linewidths=0,
        gid="scores",
    )
    ax.plot([], [], "o", ms=4, color=BLUE, label="item, spread sideways to be visible")
    present = np.unique(distances)
    medians = [float(np.median(values[distances == d])) for d in present]
    ax.plot(present, medians, "o-", color=ORANGE, lw=1.6, gid="medians", label="median")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("distance from the query's neighbours (edges)")
    ax.set_ylabel(label)
    tidy(ax)
