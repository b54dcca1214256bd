"""The solver that chooses among the others."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from scipy.sparse.linalg import splu

import diffusion
from diffusion import CG, HeatKernel, RegularizedLaplacian, Reranker
from diffusion.solvers import Auto
from diffusion.solvers import auto as module
from tests.support.graphs import mixed_graph, random_observations
from tests.support.oracles import dense_diffusion, dense_function

ALPHA = 0.99


def curves(n, curves=6, noise=0.02, seed=0):
    """Points along closed curves in eight dimensions, in random order."""
    rng = np.random.default_rng(seed)
    t = rng.random(n) * 2 * np.pi
    axes = rng.standard_normal((curves, 2, 8))
    circle = np.stack([np.cos(t), np.sin(t)], axis=1)
    X = np.einsum("na,nad->nd", circle, axes[rng.integers(curves, size=n)])
    return (X + noise * rng.standard_normal(X.shape)).astype(np.float32)


@pytest.fixture(scope="module")
def collection():
    """Items and queries; the graph is too large to be solved whole for every query."""
    X = curves(3040)
    return Reranker(k=20).fit(X[:3000]), X[3000:]


def exact_x(graph, y):
    """Solve (I - α W) x = (1 - α) y by a factorisation."""
    L = sparse.eye_array(graph.n_nodes) - ALPHA * graph.W.astype(np.float64)
    return (1 - ALPHA) * splu(sparse.csc_array(L)).solve(np.asarray(y, float).T).T


def best(x, k=100):
    return np.argsort(-x, axis=1, kind="stable")[:, :k]


def agreement(ours, theirs):
    """The mean share of the items of one list that are in the other; lists may be padded."""
    pairs = [(a, b[b >= 0]) for a, b in zip(ours, theirs, strict=True)]
    return np.mean([np.isin(b, a).mean() for a, b in pairs])


def rows(solution):
    return solution.x.toarray() if sparse.issparse(solution.x) else solution.x


@given(st.integers(0, 10**11))
def test_the_choice_depends_on_the_size_of_the_graph(entries):
    assert module.choose(entries) == ("truncated" if entries <= 10_000 else "local")


def test_a_small_graph_is_solved_exactly():
    graph = mixed_graph()
    y = random_observations(graph, 3)
    solution = Auto().prepare(graph, RegularizedLaplacian(ALPHA)).solve(y)
    assert solution.report.solver == "truncated"
    expected = dense_diffusion(graph.W.toarray(), y, ALPHA)
    np.testing.assert_allclose(rows(solution), expected, rtol=1e-4, atol=1e-6 * expected.max())


@pytest.mark.parametrize("observations", [1, 32])
@pytest.mark.parametrize("observed", [1, 10])
def test_it_ranks_as_the_factorisation_does(collection, observations, observed):
    graph = collection[0].graph_
    rng = np.random.default_rng(observed)
    y = np.zeros((observations, graph.n_nodes))
    for row in y:
        seed = int(rng.integers(graph.n_nodes))
        near = np.flatnonzero(graph.W[[seed]].toarray()[0])[: observed - 1]
        row[[seed, *near]] = rng.random(1 + len(near)) + 0.1
    solution = Auto().prepare(graph, RegularizedLaplacian(ALPHA)).solve(y)
    assert solution.report.solver == "local"
    assert solution.report.converged.all()
    assert agreement(best(rows(solution)), best(exact_x(graph, y))) >= 0.99


def test_the_default_lists_what_conjugate_gradient_lists(collection):
    ranker, Q = collection
    assert isinstance(ranker.solver_, Auto)
    other = Reranker(k=20, solver=CG(tol=1e-8))
    other.fit_neighbors(*_lists(ranker), X=None)
    hits = ranker.fitted().index.search(_unit(Q), 100)
    expected = other.rerank(*hits)[1]
    assert agreement(ranker.rerank(*hits)[1], expected) >= 0.99
    one = np.stack([ranker.rerank(s, i)[1] for s, i in zip(*hits, strict=True)])
    assert ranker.report_.solver == "local"
    assert agreement(one, expected) >= 0.99


def _lists(ranker):
    return ranker.fitted().index.neighbors(20)


def _unit(Q):
    return (Q / np.linalg.norm(Q, axis=1, keepdims=True)).astype(np.float32)


def test_longer_lists_are_as_accurate(collection):
    ranker, Q = collection
    other = Reranker(k=20, solver=CG(tol=1e-8))
    other.fit_neighbors(*_lists(ranker))
    hits = ranker.fitted().index.search(_unit(Q), 100)
    for restrict in (False, True):
        for k in (100, 200):
            ids = ranker.rerank(*hits, k, restrict_to_candidates=restrict)[1]
            expected = other.rerank(*hits, k, restrict_to_candidates=restrict)[1]
            assert agreement(ids, expected) >= 0.99
    np.testing.assert_array_equal(ranker.rerank(*hits, 10)[1], ranker.rerank(*hits, 100)[1][:, :10])
    assert ranker.solver_.for_depth(100) is ranker.solver_


def test_a_neighbourhood_that_grows_too_far_is_left_to_conjugate_gradient(collection, monkeypatch):
    graph = collection[0].graph_
    y = np.eye(graph.n_nodes)[[5, 17, 99]]
    expected = Auto().prepare(graph, RegularizedLaplacian(ALPHA)).solve(y)
    monkeypatch.setattr(module, "_PRODUCTS", 0)
    solution = Auto().prepare(graph, RegularizedLaplacian(ALPHA)).solve(y)
    assert solution.report.solver == "local, cg"
    assert solution.report.converged.all()
    exact = exact_x(graph, y)
    np.testing.assert_allclose(rows(solution), exact, rtol=0.01, atol=1e-4 * exact.max())
    assert agreement(best(rows(solution)), best(rows(expected))) >= 0.99


def test_the_work_of_a_graph_of_any_size_is_accepted(monkeypatch):
    monkeypatch.setattr(module, "_PRODUCTS", 10**12)
    graph = mixed_graph()
    assert Auto().prepare(graph, RegularizedLaplacian(ALPHA)).solve(np.eye(166)[0])


def test_another_transfer_function_is_applied_by_chebyshev(vectors):
    graph = Reranker(k=10).fit(vectors).graph_
    y = np.eye(len(vectors))[:3]
    solution = Auto().prepare(graph, HeatKernel(5.0)).solve(y)
    assert solution.report.solver == "chebyshev"
    expected = dense_function(graph.W.toarray(), HeatKernel(5.0), y)
    np.testing.assert_allclose(rows(solution), expected, atol=1e-4 * expected.max())


def test_many_threads_share_the_workspaces(collection):
    ranker, Q = collection
    hits = ranker.fitted().index.search(_unit(Q), 100)
    alone = [ranker.rerank(s, i) for s, i in zip(*hits, strict=True)]
    wrong = []

    def work(first):
        for place in [*range(first, len(Q)), *range(first)]:
            scores, ids = ranker.rerank(hits[0][place], hits[1][place])
            if not (
                np.array_equal(scores, alone[place][0]) and np.array_equal(ids, alone[place][1])
            ):
                wrong.append(place)

    threads = [threading.Thread(target=work, args=(5 * first,)) for first in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_loaded_index_chooses_and_answers_alike(collection, tmp_path):
    ranker, Q = collection
    ranker.save(tmp_path / "index")
    loaded = diffusion.load(tmp_path / "index")
    for queries in (Q[0], Q):
        expected = ranker.search(queries)
        scores, ids = loaded.search(queries)
        np.testing.assert_array_equal(ids, expected[1])
        np.testing.assert_array_equal(scores, expected[0])
        assert loaded.report_.solver == ranker.report_.solver


def test_a_query_is_answered_alike_alone_and_among_others(collection):
    ranker, Q = collection
    scores, ids = ranker.search(Q)
    for row, query in enumerate(Q):
        alone = ranker.search(query)
        np.testing.assert_array_equal(alone[1], ids[row])
        np.testing.assert_array_equal(alone[0], scores[row])


def test_reports_of_several_batches_are_joined(collection, monkeypatch):
    ranker, Q = collection
    expected = ranker.search(Q)
    monkeypatch.setattr("diffusion.fitted._BATCH_QUERIES", 7)
    scores, ids = ranker.search(Q)
    np.testing.assert_array_equal(ids, expected[1])
    np.testing.assert_array_equal(scores, expected[0])
    assert ranker.report_.solver == "local"
    assert ranker.report_.residual.shape == (40,)
