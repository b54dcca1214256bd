"""Chains of neighbours, compared with dense searches for shortest paths."""

from __future__ import annotations

from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse.csgraph import dijkstra

from diffusion.graph.explain import neighbors_of, strongest_paths
from diffusion.graph.graph import Graph
from tests.support.graphs import mixed_adjacency, mixed_graph, symmetric_graph
from tests.support.oracles import dense_graph, neighbor_lists


def observed(y):
    nodes = np.flatnonzero(y).astype(np.int32)
    return nodes, y[nodes]


def paths(graph, y, node, *, alpha=0.9, most=3, support=None):
    support = np.arange(graph.n_nodes, dtype=np.int32) if support is None else support
    return strongest_paths(graph, observed(y), support, node, alpha=alpha, most=most)


def dense_strengths(W, y, node, alpha):
    """The strengths of the best chains by last step, of the observed node itself first, dense."""
    n = len(W)
    others = np.arange(n) != node
    # A node n stands for the query. Costs are shifted, as 0 would be no edge.
    costs = np.zeros((n + 1, n + 1))
    real = W > 0
    costs[:n, :n][real] = -np.log(alpha * W[real])
    costs[node] = costs[:, node] = 0
    begin = (y > 0) & others
    shift = 1 + np.log(max(1, y.max(initial=0)))
    costs[n, :n][begin] = shift - np.log(y[begin])
    best = np.exp(shift - dijkstra(costs, indices=n)[:n])
    strengths = [*(alpha * W[node, i] * best[i] for i in range(n) if W[node, i] > 0), y[node]]
    return sorted((s for s in strengths if s > 0), reverse=True)


def test_a_worked_path_of_four_nodes():
    # Degrees 1, 2, 2, 1: W = 1/√2, 1/2, 1/√2 along the path.
    A = np.diag(np.ones(3), 1)
    graph = symmetric_graph(A + A.T)
    y = np.array([1.0, 0, 0.1, 0])
    (first,) = paths(graph, y, 3, alpha=0.5)
    # From 0: 0.5^3 (1/√2) (1/2) (1/√2) = 1/32. From 2: 0.1 (0.5/√2) = 0.0354.
    assert first.nodes == [2, 3]
    assert first.strength == pytest.approx(0.1 * 0.5 / np.sqrt(2))
    assert first.weights == pytest.approx([1 / np.sqrt(2)])
    (first,) = paths(graph, np.array([1.0, 0, 0.01, 0]), 3, alpha=0.5)
    assert first.nodes == [0, 1, 2, 3]
    assert first.strength == pytest.approx(1 / 32)
    assert first.weights == pytest.approx([1 / np.sqrt(2), 0.5, 1 / np.sqrt(2)])
    # An observed node is a chain by itself, beside the one from the other side.
    own, other = paths(graph, y, 2, alpha=0.5)
    assert (own.nodes, own.weights, own.strength) == ([2], [], pytest.approx(0.1))
    assert other.nodes == [0, 1, 2]
    assert other.strength == pytest.approx(0.5**2 * 0.5 / np.sqrt(2))


def check(path, W, y, node, alpha):
    """A path is one of the graph, it ends at the node and has the strength that it claims."""
    nodes = path.nodes
    assert nodes[-1] == node
    assert node not in nodes[:-1]
    steps = [W[a, b] for a, b in pairwise(nodes)]
    assert path.weights == pytest.approx(steps, rel=1e-5)
    assert path.strength == pytest.approx(y[nodes[0]] * np.prod([alpha * w for w in steps]))


@given(neighbor_lists(), st.integers(0, 10**6), st.sampled_from([0.0, 0.5, 0.99, 1.0]))
def test_the_strongest_chains_are_those_of_a_dense_search(lists, seed, alpha):
    rng = np.random.default_rng(seed)
    n = len(lists[0])
    W = np.asarray(dense_graph(*lists)[1], np.float32).astype(float)
    y = 3 * rng.random(n) * (rng.random(n) < 0.4)
    node, most = int(rng.integers(n)), int(rng.integers(1, 5))
    # An edge of W = 1 between two nodes costs 0, which the dense search takes for no edge.
    W = np.minimum(W, 1 - 1e-7)
    found = paths(Graph.from_neighbors(*lists), y, node, alpha=alpha, most=most)
    with np.errstate(divide="ignore"):
        expected = dense_strengths(W, y, node, alpha)[:most]
    assert [path.strength for path in found] == pytest.approx(expected, rel=1e-4)
    for path in found:
        check(path, W, y, node, alpha)
    assert len({path.nodes[-2:][0] for path in found}) == len(found)


@pytest.mark.parametrize("seed", range(5))
def test_several_chains_in_a_dense_graph_of_uneven_weights(seed):
    rng = np.random.default_rng(seed)
    A = np.triu(rng.random((40, 40)) ** 6, 1).astype(np.float32)
    graph = symmetric_graph(A + A.T)
    W, y = graph.W.toarray().astype(float), rng.random(40) * (rng.random(40) < 0.1)
    for node in range(40):
        for most in (1, 2, 3, 10, 50):
            found = paths(graph, y, node, alpha=0.99, most=most)
            expected = dense_strengths(W, y, node, 0.99)[:most]
            assert [path.strength for path in found] == pytest.approx(expected, rel=1e-5)


@given(st.integers(0, 10**6))
def test_the_first_chain_is_the_best_of_all_orders_of_nodes(seed):
    rng = np.random.default_rng(seed)
    A = np.triu(rng.random((5, 5)) * (rng.random((5, 5)) < 0.6), 1).astype(np.float32)
    graph = symmetric_graph(A + A.T)
    W, y = graph.W.toarray(), rng.random(5) * (rng.random(5) < 0.5)
    every = [
        y[order[0]] * np.prod([0.9 * W[a, b] for a, b in pairwise(order)])
        for length in range(1, 6)
        for order in permutations(range(5), length)
        if order[-1] == 4
    ]
    best = [max(every)] if max(every) > 0 else []
    assert [path.strength for path in paths(graph, y, 4, most=1)] == pytest.approx(best)


def test_chains_stay_within_the_support():
    # Two ways from 0 to 3, the stronger one through node 1.
    A = np.zeros((4, 4))
    A[0, 1] = A[1, 3] = 1.0
    A[0, 2] = A[2, 3] = 0.5
    graph, y = symmetric_graph(A + A.T), np.array([1.0, 0, 0, 0])
    assert [path.nodes for path in paths(graph, y, 3)] == [[0, 1, 3], [0, 2, 3]]
    outside = np.array([0, 2, 3], np.int32)
    assert [path.nodes for path in paths(graph, y, 3, support=outside)] == [[0, 2, 3]]
    assert paths(graph, y, 3, support=np.array([1, 2, 3], np.int32)) == []
    assert paths(graph, -y, 3) == []


def test_chains_and_neighbours_of_a_large_graph_in_the_order_of_the_user():
    graph = mixed_graph()
    W = graph.W.toarray()
    rng = np.random.default_rng(1)
    y = rng.random(166) * (rng.random(166) < 0.05)
    for node in range(0, 166, 7):
        ids, weights = neighbors_of(graph, node)
        order = np.argsort(ids)
        np.testing.assert_array_equal(ids[order], np.flatnonzero(mixed_adjacency()[node]))
        np.testing.assert_array_equal(weights[order], W[node][W[node] > 0])
        found = paths(graph, y, node)
        expected = dense_strengths(W.astype(float), y, node, 0.9)[:3]
        assert [path.strength for path in found] == pytest.approx(expected, rel=1e-5)
        for path in found:
            check(path, W, y, node, 0.9)
