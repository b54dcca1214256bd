"""A page about the graph of a collection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..affinity import Context
from ..errors import DiffusionError
from ..fitted import Fitted
from ..graph.diagnosis import Diagnosis
from ..kernels.matrix import packed
from ..reranker import Reranker
from .figures import BLUE, GREEN, NEUTRAL, ORANGE, ink, legend, new_figure, require_matplotlib, tidy
from .queries import SCORES, fitted_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Numbers of entries of W and of lists of which a distribution is drawn, evenly spaced.
_EDGES, _LISTS = 1_000_000, 10_000

# Number of nearest neighbours among which hubs are counted, as in `Diagnosis`.
_NEAREST = 10

_BINS = 40

# Number of components up to which their ranks have a linear axis.
_FEW = 30

# The attributes of a Diagnosis that are shares of a whole, and their names in the picture.
_SHARES = {
    "isolated": "isolated items",
    "largest_component": "items in the largest component",
    "reciprocal": "listed neighbours that list back",
    "listed_by_none": "items in no list of ten",
    "hub_places": "places of lists taken by 1 % of items",
    "largest_hub": "lists with the largest hub",
    "departure": "nearest ten not among most similar ten",
    "confidence": "queries without loss (estimate)",
}


def plot_diagnosis(ranker: Reranker, *, figure: Figure | None = None) -> Figure:
    """Draw a page about the graph of a collection, around what `Reranker.diagnose` returns.

    Its panels are the number of neighbours per item, the sizes of the components, the weights of
    the edges, how often items are listed (hubs), the scores of listed neighbours, and the shares of
    `Diagnosis`.

    Parameters
    ----------
    ranker : Reranker
        Fitted.
    figure : matplotlib Figure, optional
        A figure to draw into, without Axes. By default, a new one of pyplot.

    Returns
    -------
    matplotlib Figure
        With six Axes, in the order above.

    Raises
    ------
    DiffusionError
        If an argument is not as described, or Matplotlib is not installed.

    Notes
    -----
    "Items" are the nodes of the graph: those with the same vector count once. Weights are those of
    some rows of W, with about a million entries, and scores those of up to 10,000 lists, both
    evenly spaced. How
    often items are listed is known of the contextual affinity only, by the lists that `diagnose`
    reads. A panel without data says so.

    Memory: 40 bytes per item, besides that of `diagnose`.

    Examples
    --------
    >>> import numpy as np, diffusion
    >>> from diffusion.plot import plot_diagnosis
    >>> ranker = diffusion.Reranker().fit(np.random.default_rng(0).standard_normal((200, 8)))
    >>> figure = plot_diagnosis(ranker)  # doctest: +SKIP
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    if figure is not None and not isinstance(figure, Figure):
        raise DiffusionError(f"figure: expected None or Matplotlib's Figure, got {figure!r:.60}")
    fitted = fitted_of(ranker)
    diagnosis = ranker.diagnose()
    counts, scores = _listed(fitted), _scores(fitted)
    figure = figure or new_figure(12.5, 7.0)
    axes = figure.subplots(2, 3).ravel()
    _draw_neighbors(axes[0], fitted, diagnosis)
    _draw_components(axes[1], fitted)
    _draw_weights(axes[2], fitted)
    _draw_hubs(axes[3], counts)
    _draw_scores(axes[4], scores, SCORES[fitted.parameters["metric"]])
    _draw_shares(axes[5], diagnosis)
    for ax in axes:
        tidy(ax)
    return figure


def _listed(fitted: Fitted) -> tuple[NDArray[np.int64], int] | None:
    """Return in how many lists of ten each item is, and of how many lists; None if unknown."""
    if not isinstance(fitted.affinity, Context):
        return None
    n = fitted.graph.n_nodes
    nearest = fitted.affinity.lists(slice(None, None, -(-n // 1_000_000)))[0][:, :_NEAREST]
    return np.bincount(nearest[nearest >= 0], minlength=n), len(nearest)


def _scores(fitted: Fitted) -> NDArray[np.float32] | None:
    """Return the scores of some neighbour lists (m, k), -inf where padded; None if unknown."""
    items = np.arange(0, fitted.graph.n_nodes, -(-fitted.graph.n_nodes // _LISTS))
    if isinstance(fitted.affinity, Context):
        lists = fitted.affinity.scored_lists(items)
        return None if lists is None else lists[0]
    lists = fitted.affinity.neighbor_lists()
    return None if lists is None else lists[0][items]


def _draw_neighbors(ax: Axes, fitted: Fitted, diagnosis: Diagnosis) -> None:
    numbers = fitted.graph.stops - fitted.graph.starts
    last = int(numbers.max(initial=0))
    width = max(1, -(-(last + 1) // _BINS))
    edges = np.arange(0, last + 1 + width, width) - 0.5
    ax.hist(numbers, edges.tolist(), color=BLUE, gid="neighbours")
    ax.axvline(
        diagnosis.edges_per_item,
        color=ORANGE,
        lw=1.4,
        gid="mean",
        label=f"mean {diagnosis.edges_per_item:.1f}",
    )
    _title(ax, "Neighbours per item", "number of neighbours in the graph", "items")
    legend(ax)


def _draw_components(ax: Axes, fitted: Fitted) -> None:
    from matplotlib.ticker import MaxNLocator

    sizes = fitted.graph.component_sizes
    ranks = np.arange(1, len(sizes) + 1)
    ax.plot(ranks, sizes, "o-", color=BLUE, ms=4, lw=0.8, gid="components")
    if len(sizes) > _FEW:
        ax.set_xscale("log")
    else:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_yscale("log")
    ax.set_ylim(0.8, 1.5 * fitted.graph.n_nodes)
    alone = fitted.graph.n_isolated
    found = f"{_count(len(sizes) - alone, 'component')}, {_count(alone, 'isolated item')}"
    _title(ax, found, "rank of the component", "items in it")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _draw_weights(ax: Axes, fitted: Fitted) -> None:
    graph = fitted.graph
    rows = slice(None, None, max(1, -(-2 * graph.n_edges // _EDGES)))
    _, weights = packed(graph.starts[rows], graph.stops[rows], graph.weights)
    if not len(weights):
        return _without(ax, "Weights of edges", "the graph has no edges")
    ax.hist(weights, _BINS, color=BLUE, gid="weights")
    ax.set_yscale("log")
    return _title(ax, "Weights of edges", "W = A / √(dᵢ dⱼ) (no unit)", "entries of W")


def _draw_hubs(ax: Axes, counts: tuple[NDArray[np.int64], int] | None) -> None:
    if counts is None:
        return _without(ax, "Hubs", "this affinity keeps no lists to count in")
    listed, lists = counts
    largest = int(listed.max(initial=0))
    width = max(1, -(-(largest + 1) // _BINS))
    edges = np.arange(0, largest + 1 + width, width) - 0.5
    ax.hist(listed, edges.tolist(), color=BLUE, gid="hubs")
    ax.set_yscale("log")
    mean = float(listed.mean())
    for place, colour, style, name, label in (
        (mean, ORANGE, "-", "mean", f"mean {mean:.1f}"),
        (largest, GREEN, "--", "largest", f"largest hub {largest}"),
    ):
        ax.axvline(place, 0, 0.75, color=colour, lw=1.4, ls=style, gid=name, label=label)
    ax.set_ylim(0.7, 8 * ax.get_ylim()[1])  # room for the legend
    legend(ax, loc="upper right")
    return _title(ax, "Hubs", f"in how many of {lists} lists of ten an item is", "items")


def _draw_scores(ax: Axes, scores: NDArray[np.float32] | None, label: str) -> None:
    kept = None if scores is None else scores[:, np.isfinite(scores).any(axis=0)]
    if kept is None or not kept.size:
        return _without(ax, "Scores of neighbours", "the neighbour lists have not been kept")
    k = kept.shape[1]
    shown = [(r, c) for r, c in ((1, BLUE), (_NEAREST, ORANGE), (k, GREEN)) if r <= k]
    shown = list({rank: (rank, colour) for rank, colour in shown}.values())
    finite = kept[np.isfinite(kept)]
    edges = np.histogram_bin_edges(finite, _BINS).tolist()
    for (rank, colour), style in zip(shown, ("-", "--", "-."), strict=False):
        own = kept[:, rank - 1]
        ax.hist(
            own[np.isfinite(own)],
            edges,
            histtype="step",
            color=colour,
            lw=1.6,
            ls=style,
            gid=f"rank {rank}",
            label=f"neighbour {rank}",
        )
    legend(ax)
    return _title(ax, "Scores of neighbours", label, "lists")


def _draw_shares(ax: Axes, diagnosis: Diagnosis) -> None:
    shares = {text: getattr(diagnosis, name) for name, text in _SHARES.items()}
    known = {text: 100 * value for text, value in shares.items() if value is not None}
    places = np.arange(len(known))[::-1]
    values = list(known.values())
    ax.barh(places, [100] * len(known), height=0.4, color=NEUTRAL, alpha=0.18)
    ax.barh(places, values, height=0.4, color=BLUE, gid="shares")
    for place, text, value in zip(places.tolist(), known, values, strict=True):
        style: dict[str, Any] = {"fontsize": "small", "color": ink(ax)}
        ax.text(0, place + 0.25, text, va="bottom", **style)
        ax.text(102, place, f"{value:.3g} %", va="center", **style)
    ax.set_xlim(0, 122)
    ax.set_ylim(-0.4, len(known) - 0.2)
    ax.set_xticks([0, 25, 50, 75, 100])
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    _title(ax, "Shares", "share (%)", "")


def _title(ax: Axes, title: str, across: str, up: str) -> None:
    ax.set_title(title)
    ax.set_xlabel(across)
    ax.set_ylabel(up)


def _without(ax: Axes, title: str, why: str) -> None:
    """Say why a panel is empty."""
    text: Any = ax.text(0.5, 0.5, why, ha="center", va="center", transform=ax.transAxes)
    text.set_color(ink(ax))
    ax.set_title(title)
    ax.set_xticks([])
    ax.set_yticks([])
