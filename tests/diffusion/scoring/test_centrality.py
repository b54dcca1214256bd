from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import diffusion
from diffusion.graph import Graph
from diffusion.scoring import degree, katz
from tests.support.oracles import dense_diffusion, dense_graph, neighbor_lists

ALPHAS = st.sampled_from([0.0, 0.5, 0.9, 0.99, 0.999])


@pytest.fixture
def graph(vectors) -> Graph:
    return diffusion.Reranker(k=10).fit(vectors).graph_


@given(neighbor_lists(), ALPHAS, st.booleans())
def test_equals_a_dense_solve(lists, alpha, weighted):
    graph = Graph.from_neighbors(*lists)
    n = graph.n_nodes
    w = np.random.default_rng(n).random(n) if weighted else np.ones(n)
    g = katz(graph, alpha=alpha, weights=w if weighted else None, tol=1e-9, max_iter=1000)
    expected = dense_diffusion(graph.W.toarray(), w, alpha)[0]
    np.testing.assert_allclose(g.values, expected, rtol=1e-5, atol=1e-7)
    assert g.report.converged.all()
    assert g.values.dtype == np.float32


@given(neighbor_lists(), ALPHAS, st.booleans(), st.integers(0, 24))
def test_of_a_subset_equals_a_dense_solve_on_the_cut_matrix(lists, alpha, weighted, m):
    graph = Graph.from_neighbors(*lists)
    rng = np.random.default_rng(m)
    nodes = rng.permutation(graph.n_nodes)[:m]
    w = rng.random(len(nodes)) if weighted else np.ones(len(nodes))
    g = katz(
        graph, alpha=alpha, weights=w if weighted else None, nodes=nodes, tol=1e-9, max_iter=1000
    )
    part = graph.W.toarray()[np.ix_(nodes, nodes)]
    np.testing.assert_allclose(g.values, dense_diffusion(part, w, alpha)[0], rtol=1e-5, atol=1e-7)
    assert g.report.converged.all()


def test_grows_towards_the_root_of_the_degree(graph):
    root = np.sqrt(degree(graph))
    agreement = [np.corrcoef(katz(graph, alpha=a).values, root)[0, 1] for a in (0.5, 0.9, 0.99)]
    assert agreement == sorted(agreement)
    assert agreement[-1] > 0.9


@given(neighbor_lists())
def test_degree(lists):
    graph = Graph.from_neighbors(*lists)
    expected = dense_graph(*lists)[0].sum(axis=1)
    np.testing.assert_allclose(degree(graph), expected, rtol=1e-6)
    nodes = np.arange(graph.n_nodes)[::-2]
    np.testing.assert_allclose(degree(graph, nodes=nodes), expected[nodes], rtol=1e-6)


@pytest.mark.parametrize("nodes", [None, np.arange(50)])
def test_warns_when_it_has_not_converged(graph, nodes):
    with pytest.warns(diffusion.ConvergenceWarning, match="1 of 1 .* 2 iterations"):
        g = katz(graph, nodes=nodes, max_iter=2)
    assert not g.report.converged.any()
    assert g.report.iterations.tolist() == [2]
    assert g.report.residual[0] > 1e-6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": 1.0}, "alpha: expected a number in"),
        ({"tol": 0}, "tol"),
        ({"max_iter": 0}, "max_iter"),
        ({"weights": np.ones(7)}, r"weights: expected .* shape \(120,\), got shape \(7,\)"),
        ({"weights": -np.ones(120)}, "weights: expected finite values >= 0"),
        ({"weights": np.full(120, np.nan)}, "weights: expected finite"),
        ({"weights": ["a"] * 120}, "weights: expected 120 numbers"),
        ({"nodes": [0, 0]}, r"nodes: expected ids in \[0, 120\), each at most once"),
        ({"nodes": [120]}, "nodes"),
        ({"nodes": [0.5]}, "nodes: expected integers"),
        ({"nodes": [0, 1], "weights": np.ones(120)}, r"weights: .* shape \(2,\)"),
    ],
)
def test_bad_arguments(graph, arguments, message):
    with pytest.raises(diffusion.DiffusionError, match=message):
        katz(graph, **arguments)
