"""The page about a graph: its panels against counts by hand."""

from __future__ import annotations

import numpy as np
import pytest

from diffusion import Context, DiffusionError, Reranker, plot

from .conftest import texts


def bars(ax, gid):
    """Return the left ends and heights of the bars of a panel with a name."""
    found = [p for p in ax.patches if p.get_gid() == gid]
    return np.array([[p.get_x(), p.get_height(), p.get_width()] for p in found]).T


def line(ax, gid):
    return next(artist for artist in ax.lines if artist.get_gid() == gid)


def page(ranker):
    from matplotlib.figure import Figure

    return plot.plot_diagnosis(ranker, figure=Figure()).axes


def test_the_panels_of_a_collection():
    X = np.random.default_rng(0).standard_normal((90, 5))
    X[40] = X[41]  # copies count once
    ranker = Reranker(granularity="instance").fit(X)
    neighbors, components, weights, hubs, scores, shares = page(ranker)
    found, W = ranker.diagnose(), ranker.graph_.W
    degrees = np.diff(W.indptr)

    left, heights, width = bars(neighbors, "neighbours")
    assert heights.sum() == 89
    np.testing.assert_array_equal(width, 1)
    np.testing.assert_array_equal(heights, [np.sum(degrees == d) for d in left + 0.5])
    assert line(neighbors, "mean").get_xdata()[0] == pytest.approx(degrees.mean())

    assert line(components, "components").get_ydata().sum() == 89
    assert bars(weights, "weights")[1].sum() == W.nnz

    lists = ranker.fitted().affinity.lists(slice(None))[0][:, :10]
    counts = np.array([np.sum(lists == i) for i in range(89)])
    left, heights, _ = bars(hubs, "hubs")
    np.testing.assert_array_equal(heights, [np.sum(counts == c) for c in left + 0.5])
    assert line(hubs, "largest").get_xdata()[0] == counts.max()
    assert counts.max() / 89 == pytest.approx(found.largest_hub)

    unit = np.delete(X, 40, axis=0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    cosine = unit @ unit.T - 2 * np.eye(89)
    first = next(p for p in scores.patches if p.get_gid() == "rank 1")
    outline = first.get_xy()[:, 0]
    assert outline.min() <= cosine.max(axis=1).min()
    assert outline.max() >= cosine.max(axis=1).max() - 1e-6

    drawn = [p.get_width() for p in shares.patches if p.get_gid() == "shares"]
    names = "isolated largest_component reciprocal listed_by_none hub_places largest_hub departure"
    values = [getattr(found, name) for name in [*names.split(), "confidence"]]
    np.testing.assert_allclose(drawn, [100 * value for value in values])
    assert {f"{100 * value:.3g} %" for value in values} <= texts(shares)


def test_a_hub_by_hand():
    # Item 0 lists 1 to 3, and everybody lists 0 first and then their own pair.
    n = 9
    ids = np.array([[1, 2, 3]] + [[0, i % 2 * 2 + i - 1, -1] for i in range(1, n)])
    ids[ids >= n] = -1
    scores = np.where(ids >= 0, [0.9, 0.5, 0.4], -np.inf)
    hubs = page(Reranker(affinity=Context(scales=[3])).fit_neighbors(scores, ids))[3]
    heights = bars(hubs, "hubs")[1]
    counts = np.bincount(ids[ids >= 0], minlength=n)
    np.testing.assert_array_equal(heights, np.bincount(counts))
    assert line(hubs, "largest").get_xdata()[0] == 8


def test_panels_without_data_say_why():
    X = np.zeros((12, 3))
    X[:4, 0], X[4:10, 1] = 1, 1
    axes = page(Reranker(affinity="cosine").fit_rows(X))
    assert "this affinity keeps no lists to count in" in texts(axes[3])
    assert axes[1].get_title() == "2 components, 2 isolated items"
    assert line(axes[1], "components").get_ydata().tolist() == [6, 4, 1, 1]
    alone = page(Reranker(affinity="cosine").fit_rows(np.zeros((3, 2))))
    assert "the graph has no edges" in texts(alone[2])


def test_many_components_have_a_logarithmic_axis():
    X = np.repeat(np.eye(40), 2, axis=0)
    axes = page(Reranker(affinity="cosine", k=1).fit_rows(X))
    assert axes[1].get_xscale() == "log"
    assert line(axes[1], "components").get_ydata().tolist() == [2] * 40


def test_what_is_no_figure_is_refused(plane, ax):
    with pytest.raises(DiffusionError, match="figure: expected None or Matplotlib's Figure"):
        plot.plot_diagnosis(plane, figure=ax)
