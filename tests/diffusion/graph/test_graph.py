from __future__ import annotations

import numpy as np
from hypothesis import given
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from diffusion.graph import Graph
from tests.support.graphs import with_gaps
from tests.support.oracles import breadth_first_components, dense_graph, neighbor_lists


@given(neighbor_lists())
def test_equals_a_dense_construction(lists):
    ids, weights = lists
    graph = Graph.from_neighbors(ids, weights)
    A, W = dense_graph(ids, weights)
    np.testing.assert_allclose(graph.W.toarray(), W, rtol=1e-6, atol=0)
    np.testing.assert_allclose(graph.degrees, A.sum(axis=1), rtol=1e-6)
    assert graph.n_edges == np.count_nonzero(A) // 2
    assert graph.n_isolated == np.count_nonzero(A.sum(axis=1) == 0)


@given(neighbor_lists())
def test_invariants(lists):
    graph = Graph.from_neighbors(*lists)
    W = graph.W.toarray()
    assert (W == W.T).all()
    assert not W.diagonal().any()
    assert np.abs(np.linalg.eigvalsh(W.astype(float))).max() <= 1 + 1e-6
    # D^1/2 restricted to a component is an eigenvector of eigenvalue 1.
    for component in range(graph.n_components):
        v = np.sqrt(graph.degrees) * (graph.components == component)
        np.testing.assert_allclose(W @ v, v, rtol=1e-5, atol=1e-6)


@given(neighbor_lists())
def test_rows_with_gaps_are_the_same_graph(lists):
    graph = Graph.from_neighbors(*lists)
    other = with_gaps(graph)
    assert repr(other) == repr(graph)
    assert (other.W != graph.W).nnz == 0


@given(neighbor_lists())
def test_components_are_those_of_a_plain_search(lists):
    ids, weights = lists
    graph = Graph.from_neighbors(ids, weights)
    A, _ = dense_graph(ids, weights)
    label = breadth_first_components(A)
    assert graph.n_components == max(label) + 1
    # Two nodes share a component here exactly when they share one there.
    pairs = set(zip(graph.components.tolist(), label, strict=True))
    assert len(pairs) == graph.n_components
    sizes = graph.component_sizes
    assert (np.diff(sizes) <= 0).all()
    assert sizes.sum() == len(ids)


@given(neighbor_lists())
def test_storage_order_is_a_permutation_of_the_users(lists):
    graph = Graph.from_neighbors(*lists)
    n = graph.n_nodes
    assert sorted(graph.order) == list(range(n))
    assert (graph.position[graph.order] == np.arange(n)).all()
    stored = graph.matrix.csr()
    assert stored.has_sorted_indices
    own = graph.W.toarray()
    assert (stored.toarray() == own[np.ix_(graph.order, graph.order)]).all()


def test_worked_by_hand():
    # 0 and 1 list each other with unequal weights, 1 and 2 likewise; 0 lists 2 in vain.
    ids = np.array([[1, 2], [0, 2], [1, -1], [-1, -1]], np.int32)
    weights = np.array([[0.5, 0.9], [0.25, 1.0], [0.75, 0], [0, 0]], np.float32)
    graph = Graph.from_neighbors(ids, weights)
    # A: 01 -> .25, 12 -> .75; degrees .25, 1, .75.
    expected = np.zeros((4, 4))
    expected[0, 1] = expected[1, 0] = 0.25 / np.sqrt(0.25 * 1)
    expected[1, 2] = expected[2, 1] = 0.75 / np.sqrt(0.75 * 1)
    np.testing.assert_allclose(graph.W.toarray(), expected, rtol=1e-7)
    assert (graph.n_edges, graph.n_components, graph.n_isolated) == (2, 2, 1)
    assert graph.component_sizes.tolist() == [3, 1]
    assert repr(graph) == "Graph(4 nodes, 2 edges, 2 components, 1 isolated nodes)"


def test_weights_are_overwritten_only_if_allowed(rng):
    ids = np.argsort(rng.random((300, 300)), axis=1)[:, :40].astype(np.int32)
    ids[ids == np.arange(300)[:, None]] = -1
    weights = (rng.random(ids.shape) * (rng.random(ids.shape) < 0.9)).astype(np.float32)
    given = weights.copy()
    one = Graph.from_neighbors(ids, weights)
    np.testing.assert_array_equal(weights, given)
    other = Graph.from_neighbors(ids, weights, overwrite=True)
    for name in ("starts", "stops", "indices", "weights", "order", "degrees"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    A = np.zeros((300, 300), np.float32)
    rows = np.repeat(np.arange(300), 40)
    A[rows[ids.ravel() >= 0], ids[ids >= 0]] = given[ids >= 0]
    A = np.minimum(A, A.T)
    np.testing.assert_allclose(one.degrees, A.sum(axis=1), rtol=1e-6)
    np.testing.assert_array_equal(one.W.toarray() > 0, A > 0)


def test_dtypes_and_memory():
    ids = np.array([[1], [0]], np.int32)
    graph = Graph.from_neighbors(ids, np.ones((2, 1), np.float32))
    assert graph.indices.dtype == np.int32
    assert graph.weights.dtype == np.float32
    assert graph.starts.dtype == graph.stops.dtype == np.int64
    assert isinstance(graph.W, sparse.csr_array)


def test_order_keeps_neighbours_close(rng):
    # A long path under random names: reverse Cuthill-McKee finds its bandwidth of one.
    n = 500
    name = rng.permutation(n)
    ids = np.full((n, 2), -1, np.int32)
    for i in range(n):
        around = [j for j in (i - 1, i + 1) if 0 <= j < n]
        ids[name[i], : len(around)] = name[around]
    graph = Graph.from_neighbors(ids, (ids >= 0).astype(np.float32))
    row = np.repeat(np.arange(n), graph.stops - graph.starts)
    assert np.abs(graph.indices - row).max() == 1
    assert connected_components(graph.W)[0] == 1


def test_tiny_weights_neither_vanish_nor_overflow():
    ids = np.array([[1, 2], [0, 2], [0, 1]], np.int32)
    graph = Graph.from_neighbors(ids, np.full((3, 2), 1e-30, np.float32))
    np.testing.assert_allclose(graph.W.toarray(), (1 - np.eye(3)) / 2, rtol=1e-6)
