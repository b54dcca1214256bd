"""What all pictures have in common: arguments, backgrounds, and figures that stay closed."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import diffusion
from diffusion import DiffusionError, Reranker, plot
from diffusion.plot import figures as shared

from .conftest import matplotlib

QUERY = [plot.plot_neighborhood, plot.plot_scores, plot.plot_convergence]


def luminance(colour):
    """Return the relative luminance of WCAG 2."""
    rgb = np.array(matplotlib.colors.to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("colour", [shared.BLUE, shared.ORANGE, shared.GREEN, shared.NEUTRAL])
def test_colours_can_be_seen_on_white_and_on_black(colour):
    assert 1.05 / (luminance(colour) + 0.05) >= 3
    assert (luminance(colour) + 0.05) / 0.05 >= 3


def test_neither_the_package_nor_the_module_imports_matplotlib():
    code = """if True:
        import sys, diffusion
        from diffusion import plot
        print(plot is diffusion.plot, "matplotlib" in sys.modules)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]


@pytest.mark.parametrize("function", [*QUERY, plot.plot_diagnosis])
def test_without_matplotlib_the_extra_is_named(function, plane, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(DiffusionError, match=r"diffusion-rerank\[plot\]"):
        function(plane)


@pytest.mark.parametrize("function", QUERY)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "q, item, hits: expected one of them, got none"),
        ({"q": [0.0, 0.0], "item": 3}, "q, item, hits: expected one of them, got q and item"),
        ({"q": [0.0, 0.0, 0.0]}, "Q: "),
        ({"q": [[0.0, 0.0], [1.0, 1.0]]}, "q: expected one query, got 2"),
        ({"item": 120}, "item: expected the id of an item, got 120"),
        ({"hits": ([1.0], [0], [0])}, "hits: expected a pair"),
    ],
)
def test_a_bad_query_is_refused_and_leaves_no_figure(function, arguments, message, plane, figures):
    with pytest.raises(DiffusionError, match=message):
        function(plane, **arguments)
    assert not figures.get_fignums()


@pytest.mark.parametrize("function", [*QUERY, plot.plot_diagnosis])
def test_a_bad_ranker_is_refused(function, figures):
    with pytest.raises(DiffusionError, match="ranker: expected a fitted Reranker, got ndarray"):
        function(np.eye(3))
    with pytest.raises(DiffusionError, match="not fitted"):
        function(Reranker())
    assert not figures.get_fignums()


@pytest.mark.parametrize(
    ("function", "argument", "value", "message"),
    [
        (plot.plot_neighborhood, "ax", "left", "ax: expected None or Matplotlib's Axes"),
        (plot.plot_neighborhood, "n_nodes", 0, "n_nodes: "),
        (plot.plot_neighborhood, "n_nodes", 1001, "n_nodes: expected at most 1000, got 1001"),
        (plot.plot_neighborhood, "n_labels", -1, "n_labels: "),
        (plot.plot_scores, "axes", 3, "axes: expected None or two"),
        (plot.plot_scores, "axes", [None, None], "axes: expected None or two"),
        (plot.plot_scores, "n_items", 20_001, "n_items: expected at most 20000"),
        (plot.plot_scores, "positions", np.zeros((3, 2)), r"positions: expected shape \(120, 2\)"),
        (plot.plot_scores, "positions", np.full((120, 2), np.nan), "positions: expected finite"),
        (plot.plot_convergence, "ax", 1, "ax: expected None or Matplotlib's Axes"),
        (plot.plot_convergence, "n_points", 201, "n_points: expected at most 200"),
        (plot.plot_convergence, "n_points", 1, "n_points: "),
        (plot.plot_convergence, "solver", "spectral", "solver: expected one of 'cg'"),
        (plot.plot_convergence, "solver", 3, "solver: "),
    ],
)
def test_bad_arguments_are_refused(function, argument, value, message, plane, figures):
    with pytest.raises(DiffusionError, match=message):
        function(plane, item=0, **{argument: value})
    assert not figures.get_fignums()


def test_only_pictures_without_axes_are_of_pyplot(plane, figures):
    from matplotlib.figure import Figure

    left, right = Figure().subplots(1, 2)
    assert plot.plot_neighborhood(plane, item=0, ax=left) is left
    assert plot.plot_convergence(plane, item=0, ax=right) is right
    assert plot.plot_scores(plane, item=0, axes=Figure().subplots(1, 2))[0].collections
    own = Figure()
    assert plot.plot_diagnosis(plane, figure=own) is own
    assert not figures.get_fignums()
    made = [
        plot.plot_neighborhood(plane, item=0).figure,
        plot.plot_scores(plane, item=0)[1].figure,
        plot.plot_convergence(plane, item=0).figure,
        plot.plot_diagnosis(plane),
    ]
    assert [figures.figure(n) for n in figures.get_fignums()] == made


@pytest.mark.parametrize("style", ["default", "dark_background"])
def test_pictures_are_drawn_with_text_in_the_colour_of_the_style(style, plane, tmp_path):
    with matplotlib.style.context(style):
        pictures = {
            "neighborhood": plot.plot_neighborhood(plane, item=0, n_labels=2).figure,
            "scores": plot.plot_scores(plane, item=0)[0].figure,
            "convergence": plot.plot_convergence(plane, item=0, n_points=5).figure,
            "diagnosis": plot.plot_diagnosis(plane),
        }
        expected = matplotlib.rcParams["text.color"]
        for name, figure in pictures.items():
            if style != "default":  # once is enough
                figure.set_layout_engine("none")  # which takes most of the time
                figure.savefig(tmp_path / f"{name}.png", dpi=30)
                assert (tmp_path / f"{name}.png").stat().st_size > 1000
            for text in figure.findobj(matplotlib.text.Text):
                if text.get_text() and text.get_visible():
                    assert matplotlib.colors.same_color(text.get_color(), expected), text


def test_every_axis_is_labelled(plane, clusters):
    axes = [
        plot.plot_neighborhood(plane, item=0),
        *plot.plot_scores(plane, item=0),
        *plot.plot_scores(clusters, item="item 0"),
        plot.plot_convergence(plane, item=0),
        plot.plot_convergence(plane, item=0, solver="local"),
        *plot.plot_diagnosis(plane).axes[:5],
    ]
    for ax in axes:
        assert ax.get_xlabel()
        assert ax.get_ylabel()
        assert ax.get_title()


def test_pictures_do_not_change_the_report(plane):
    plane.search([[0.0, 0.0], [1.0, 1.0]])
    report = plane.report_
    plot.plot_neighborhood(plane, item=0)
    plot.plot_scores(plane, [0.5, 0.5])
    plot.plot_convergence(plane, item=0)
    plot.plot_diagnosis(plane)
    assert plane.report_ is report


def test_what_is_public():
    assert "plot" in diffusion.__all__
    for name in plot.__all__:
        assert callable(getattr(plot, name))
