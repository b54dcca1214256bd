"""Residuals while a query is solved: those of the reports, and of the solutions themselves."""

from __future__ import annotations

import numpy as np
import pytest

from diffusion import (
    CG,
    DiffusionError,
    HeatKernel,
    Local,
    RegularizedLaplacian,
    Reranker,
    Truncated,
    plot,
)
from diffusion.solvers.base import as_observations

from .conftest import artist, texts


def system(ranker, q, alpha):
    """Return L and b of a query, dense, from the weights of its best items."""
    vectors = ranker.fitted().vectors_of(np.arange(ranker.n_items_))
    cosine = (vectors @ q / np.linalg.norm(vectors, axis=1) / np.linalg.norm(q)).astype(float)
    y = np.zeros(len(cosine))
    best = np.argsort(-cosine)[:10]
    y[best] = np.maximum(cosine[best], 0) ** 3
    W = ranker.graph_.W.toarray().astype(float)
    return np.eye(len(W)) - alpha * W, (1 - alpha) * y


def textbook_cg(L, b, steps):
    """Return the relative residuals of conjugate gradient in float64, one for each iteration."""
    x, r = np.zeros(len(b)), b.copy()
    p, residuals = r.copy(), []
    for _ in range(steps):
        step = (r @ r) / (p @ L @ p)
        x += step * p
        new = r - step * L @ p
        p, r = new + (new @ new) / (r @ r) * p, new
        residuals.append(np.linalg.norm(b - L @ x) / np.linalg.norm(b))
    return np.array(residuals)


def test_residuals_of_conjugate_gradient_are_those_of_the_textbook(clusters, ax):
    q = np.ones(6)
    plot.plot_convergence(clusters, q, n_points=200, ax=ax)
    steps, residuals = artist(ax, "residual").get_data()
    assert steps.tolist() == list(range(1, len(steps) + 1))
    expected = textbook_cg(*system(clusters, q, 0.99), len(steps))
    np.testing.assert_allclose(residuals[:-5], expected[:-5], rtol=0.02)
    clusters.search(q)
    report = clusters.report_
    assert residuals[-1] == report.residual[0]
    assert steps[-1] == report.iterations[0]
    bound = artist(ax, "bound").get_data()
    assert (bound[1] >= residuals).all()
    root = np.sqrt(1.99 / 0.01)
    assert bound[1][2] == pytest.approx(2 * root * ((root - 1) / (root + 1)) ** 3)
    assert artist(ax, "tolerance").get_ydata()[0] == 1e-6
    assert ax.get_yscale() == "log"


def test_few_points_are_of_the_same_curve(clusters, ax):
    from matplotlib.figure import Figure

    whole = Figure().add_subplot()
    plot.plot_convergence(clusters, np.ones(6), n_points=200, ax=whole)
    plot.plot_convergence(clusters, np.ones(6), n_points=5, ax=ax)
    every = dict(zip(*artist(whole, "residual").get_data(), strict=True))
    steps, residuals = artist(ax, "residual").get_data()
    assert len(steps) == 5
    assert [every[step] for step in steps] == residuals.tolist()


def test_the_local_solver_is_drawn_with_its_bound_and_certificate(clusters, ax):
    q, solver = np.ones(6), Local(certify=5, top=10)
    plot.plot_convergence(clusters, q, solver=solver, ax=ax)
    work, residuals = artist(ax, "residual").get_data()
    bounds = artist(ax, "bound").get_ydata()
    assert not hasattr(solver, "_graph")  # the argument has not been prepared
    assert (np.diff(work) >= 0).all()
    L, b = system(clusters, q, 0.99)
    exact = np.linalg.solve(L, b)
    degrees = np.where(clusters.graph_.degrees > 0, clusters.graph_.degrees, 1)
    for at, limit in ((0, work[0]), (20, work[20]), (-1, solver.max_work)):
        limited = Local(certify=5, top=10, max_work=int(limit))
        limited.prepare(clusters.graph_, RegularizedLaplacian(0.99))
        x = limited.apply(as_observations(b / 0.01, 150)).x.toarray()[0].astype(float)
        error = np.abs(x - exact) / np.sqrt(degrees)
        assert error.max() <= bounds[at] * (1 + 1e-4)
        residual = np.linalg.norm(b - L @ x) / np.linalg.norm(b)
        assert residual == pytest.approx(residuals[at], rel=1e-3)
    assert artist(ax, "certified").get_xdata()[0] in work
    assert "best 5 certified" in texts(ax)


def test_without_certificates_there_is_no_bound(clusters, ax):
    plot.plot_convergence(clusters, item="item 3", solver=Local(certify=0), ax=ax)
    assert not ax.findobj(lambda a: a.get_gid() in ("bound", "certified"))


@pytest.mark.parametrize("solver", ["hybrid", Truncated(size=60), CG(tol=1e-3)])
def test_other_solvers_are_drawn_to_their_end(solver, clusters, ax):
    plot.plot_convergence(clusters, item="item 3", solver=solver, ax=ax)
    residuals = artist(ax, "residual").get_ydata()
    tolerance = artist(ax, "tolerance").get_ydata()[0]
    assert residuals[-1] <= tolerance
    # It ends where the residual by recurrence is 0.9 of the tolerance.
    assert (residuals[:-1] > 0.89 * tolerance).all()


def test_the_default_of_a_ranker_with_another_solver_is_conjugate_gradient(plane, ax):
    assert plane.solver_.name == "auto"
    plot.plot_convergence(plane, item=0, ax=ax)
    assert ax.get_title() == "Conjugate gradient"


def test_another_transfer_function_and_an_empty_observation_are_refused():
    X = np.random.default_rng(0).random((40, 3))
    other = Reranker(k=5, transfer=HeatKernel(2.0)).fit(X)
    with pytest.raises(DiffusionError, match="ranker: expected one with the regularised Laplacian"):
        plot.plot_convergence(other, X[0])
    ranker = Reranker(k=5).fit(X)
    with pytest.raises(DiffusionError, match="q: expected a query with neighbours"):
        plot.plot_convergence(ranker, np.zeros(3))
