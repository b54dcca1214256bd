from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import diffusion
from diffusion.graph.graph import Graph
from diffusion.solvers.truncated import Truncated
from diffusion.transfer import RegularizedLaplacian
from tests.support.graphs import ALPHAS, random_observations
from tests.support.oracles import dense_diffusion, dense_graph, neighbor_lists

TRUNCATIONS = st.sampled_from(["late", "early"])


@pytest.fixture
def graph(vectors) -> Graph:
    return diffusion.Reranker(k=10).fit(vectors).graph_


@given(neighbor_lists(), ALPHAS, st.integers(0, 9), st.integers(1, 12))
def test_solves_on_the_graph_cut_to_the_shortlist(lists, alpha, width, size):
    graph = Graph.from_neighbors(*lists)
    A, W = dense_graph(*lists)
    n = graph.n_nodes
    rng = np.random.default_rng(size)
    y = random_observations(graph, 5, width, signed=True) * (rng.random((5, n)) < 0.3)
    candidates = np.stack([rng.permutation(n)[: min(width, n)] for _ in range(5)])
    candidates[rng.random(candidates.shape) < 0.2] = -1
    for truncation in ("late", "early"):
        solver = Truncated(size, truncation, tol=1e-10, max_iter=1000)
        solver.prepare(graph, RegularizedLaplacian(alpha))
        solution = solver.solve(y, candidates=candidates)
        for row in range(5):
            listed = candidates[row, :size]
            T = np.union1d(np.flatnonzero(y[row]), listed[listed >= 0])
            x = solution.x[[row]]
            np.testing.assert_array_equal(x.indices, T)
            part = W[np.ix_(T, T)]
            if truncation == "early":
                part = A[np.ix_(T, T)]
                d = part.sum(axis=1)
                scale = np.where(d > 0, 1 / np.sqrt(np.where(d > 0, d, 1)), 0)
                part = scale[:, None] * part * scale
            expected = dense_diffusion(part, y[row, T], alpha)[0]
            np.testing.assert_allclose(x.data, expected, rtol=1e-4, atol=1e-5)


@given(neighbor_lists(), TRUNCATIONS, st.integers(1, 12))
def test_without_candidates_the_shortlist_grows_along_edges(lists, truncation, size):
    graph = Graph.from_neighbors(*lists)
    n = graph.n_nodes
    y = np.eye(n)
    solver = Truncated(size, truncation, max_iter=1000).prepare(graph, RegularizedLaplacian(0.9))
    x = solver.solve(y).x
    exact = dense_diffusion(graph.W.toarray(), y, 0.9)
    for i in range(n):
        T = x[[i]].indices
        assert i in T
        assert len(T) == min(size, graph.component_sizes[graph.components[i]])
        if truncation == "late":
            assert (x[[i]].data <= exact[i, T] + 1e-5).all()


def test_more_observed_nodes_than_the_shortlist_has(graph):
    y = np.random.default_rng(0).random((2, 120))
    solver = Truncated(3).prepare(graph, RegularizedLaplacian(0.9))
    expected = dense_diffusion(graph.W.toarray(), y, 0.9)
    np.testing.assert_allclose(solver.solve(y).x.toarray(), expected, rtol=1e-4)


def test_report_is_of_the_true_residual(graph):
    y = np.random.default_rng(1).random((40, 120)) * (np.arange(120) < 7)
    y[3] = 0
    candidates = np.tile(np.arange(60), (40, 1))
    solver = Truncated(60, tol=1e-4).prepare(graph, RegularizedLaplacian())
    solution = solver.solve(y, candidates=candidates)
    report = solution.report
    L = np.eye(60) - 0.99 * graph.W.toarray().astype(float)[:60, :60]
    b = 0.01 * y[:, :60]
    error = np.linalg.norm(b - solution.x.toarray()[:, :60] @ L.T, axis=1)
    residual = np.divide(error, np.linalg.norm(b, axis=1), out=np.zeros(40), where=b.any(axis=1))
    np.testing.assert_allclose(report.residual, residual, rtol=0.05, atol=2e-6)
    assert report.converged.all()
    assert not report.certified.any()
    assert report.iterations[3] == 0
    assert (np.delete(report.iterations, 3) > 1).all()
    entries = np.count_nonzero(graph.W.toarray()[:60, :60])
    assert (report.work == report.iterations * entries).all()


def test_says_how_many_candidates_it_wants():
    assert Truncated().shortlist == 1000
    assert Truncated(size=70).shortlist == 70


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, "size: expected an integer of at least 1, got 0"),
        ({"truncation": "never"}, "truncation: expected one of 'late', 'early', got 'never'"),
        ({"tol": -1}, "tol: expected a number in"),
        ({"max_iter": 0}, "max_iter"),
    ],
)
def test_bad_settings(arguments, message):
    with pytest.raises(diffusion.DiffusionError, match=message):
        Truncated(**arguments)


@pytest.mark.parametrize(
    ("candidates", "message"),
    [
        ([[0, 1]], r"candidates: expected integers of shape \(2, c\)"),
        ([[0.5], [1]], "candidates: expected integers"),
        ([[0, 120], [1, 2]], r"candidates: expected ids in \[-1, 120\)"),
    ],
)
def test_bad_candidates(graph, candidates, message):
    solver = Truncated().prepare(graph, RegularizedLaplacian())
    with pytest.raises(diffusion.DiffusionError, match=message):
        solver.solve(np.eye(120)[:2], candidates=candidates)
