from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import sparse
from scipy.sparse.linalg import splu

import diffusion
from diffusion.graph.graph import Graph
from diffusion.solvers.local import Local, LocalReport
from diffusion.transfer import RegularizedLaplacian
from tests.support.graphs import (
    ALPHAS,
    chain_and_isolated,
    lists_of,
    random_block,
    star,
    symmetric_graph,
)
from tests.support.oracles import dense_diffusion, neighbor_lists

pytestmark = pytest.mark.filterwarnings("ignore::diffusion.errors.ConvergenceWarning")


def roots(graph):
    return np.where(graph.degrees > 0, np.sqrt(graph.degrees), 1.0)


def lattice(side):
    """A periodic square lattice with random weights, no two scores alike."""
    n = side * side
    cell = np.arange(n)
    across, down = np.divmod(cell, side)
    ids = np.stack(
        [
            ((across + a) % side) * side + (down + b) % side
            for a, b in ((0, 1), (1, 0), (0, -1), (-1, 0))
        ],
        axis=1,
    ).astype(np.int32)
    rng = np.random.default_rng(0)
    right, below = rng.uniform(0.5, 1, n), rng.uniform(0.5, 1, n)
    weights = np.stack([right, below, right[ids[:, 2]], below[ids[:, 3]]], axis=1)
    return ids, weights.astype(np.float32)


def observations(n, seed, signed=False):
    rng = np.random.default_rng(seed)
    y = rng.random((6, n)) * (rng.random((6, n)) < rng.uniform(0, 1, (6, 1)) ** 3)
    y[0] = np.eye(n)[rng.integers(n)]
    y[1] = 0
    return y * rng.choice([-1, 1], y.shape) if signed else y


def check(graph, alpha, y, solution, certify):
    """Whatever was asked for: the report says the truth."""
    x, report = solution.x.toarray(), solution.report
    n = graph.n_nodes
    W = graph.W.toarray().astype(float)
    exact = dense_diffusion(W, y, alpha)
    slack = 1e-12 * np.abs(exact).max(axis=1, keepdims=True)  # of the dense solve
    assert (np.abs(x - exact) <= report.bound[:, None] * roots(graph) + slack).all()
    b = (1 - alpha) * y
    norm = np.linalg.norm(b, axis=1)
    residual = np.linalg.norm(b - x + alpha * x @ W, axis=1)
    rounding = 5e-7 * np.abs(x).max()  # of x to float32
    np.testing.assert_allclose(report.residual * norm, residual, rtol=1e-6, atol=rounding)
    for row in np.flatnonzero(report.certified):
        best = np.lexsort((np.arange(n), -x[row]))[:certify]
        best = best[x[row, best] > 0]
        others = np.setdiff1d(np.arange(n), best)
        # Fewer than were asked for: then the others have nothing.
        lowest = exact[row, best].min(initial=np.inf if len(best) == certify else 0)
        if len(others):
            assert lowest >= exact[row, others].max() - slack[row, 0]


@given(
    neighbor_lists(max_n=40),
    ALPHAS,
    st.integers(0, 999),
    st.sampled_from([0.3, 0.01, 1e-6]),
    st.sampled_from([0, 1, 3, 10, 50]),
    st.booleans(),
    st.sampled_from([1, 30, 300, 100_000]),
)
@example(lists_of(star(30)), 0.99, 0, 0.01, 10, False, 100_000)
@example(lists_of(star(12, np.arange(1, 12))), 0.99, 1, 0.01, 3, False, 100_000)
@example(lattice(12), 0.99, 2, 0.1, 10, False, 100_000)
@example(lattice(12), 0.99, 3, 0.1, 10, True, 20_000)
def test_report_is_true(lists, alpha, seed, tol, certify, signed, max_work):
    graph = Graph.from_neighbors(*lists)
    y = observations(graph.n_nodes, seed, signed)
    solver = Local(tol=tol, certify=certify, max_work=max_work)
    solution = solver.prepare(graph, RegularizedLaplacian(alpha)).solve(y)
    assert isinstance(solution.report, LocalReport)
    check(graph, alpha, y, solution, certify)
    assert (solution.report.work <= max_work).all()
    assert solution.report.converged[1]
    if certify == 0:
        assert not solution.report.certified.any()


def curved(n, seed=0):
    """Unit vectors on a closed manifold of three dimensions, of uneven density."""
    rng = np.random.default_rng(seed)
    u = np.where(rng.random((n, 1)) < 0.5, rng.standard_normal((n, 3)), 6.28 * rng.random((n, 3)))
    angle = u @ rng.integers(-2, 3, (3, 16)) + 6.28 * rng.random(16)
    return np.concatenate([np.cos(angle), np.sin(angle)], axis=1) / 4


def graph_with(affinity, X, k=30):
    scores, ids = diffusion.nearest_neighbors(X, k)
    if affinity == "unweighted":
        scores, affinity = np.ones_like(scores), "cosine"
    return diffusion.Reranker(k=k, affinity=affinity).fit_neighbors(scores, ids).graph_


def shared(x, exact, k=100):
    """Return the share of the best k of x that are among the best k of the exact solution."""
    best = np.argsort(-x, axis=1, kind="stable")[:, :k]
    lowest = -np.sort(-exact, axis=1)[:, k - 1 : k]  # equal values are equally right
    return (np.take_along_axis(exact, best, axis=1) >= lowest * (1 - 1e-6)).mean()


@pytest.fixture(scope="module", params=["unweighted", "cosine", "context"])
def curved_graph(request):
    return graph_with(request.param, curved(1000))


@pytest.mark.parametrize("observed", [1, 10])
@pytest.mark.parametrize(("alpha", "least"), [(0.9, 0.99), (0.99, 0.99), (0.999, 0.985)])
def test_the_best_hundred_are_right(curved_graph, alpha, least, observed):
    """However few nodes are observed: the order by x, and by x / √d as the fusion has it."""
    X, n = curved(1000), 1000
    y = np.zeros((100, n))
    for row, center in enumerate(np.random.default_rng(1).choice(n, 100, replace=False)):
        y[row, np.argsort(-(X @ X[center]))[:observed]] = np.linspace(1, 0.5, observed)
    solution = Local(certify=0).prepare(curved_graph, RegularizedLaplacian(alpha)).solve(y)
    assert solution.report.converged.all()
    x, exact = solution.x.toarray(), dense_diffusion(curved_graph.W.toarray(), y, alpha)
    scale = roots(curved_graph)
    assert shared(x, exact) >= least
    assert shared(x / scale, exact / scale) >= least


def test_each_part_of_a_support_has_its_own_constant():
    """What has not been spread yet in a large component is not added to a small one."""
    _, near = diffusion.nearest_neighbors(curved(1000), 15)
    directed = np.zeros((1000, 1000))
    np.put_along_axis(directed, near, 1.0, axis=1)
    A = np.zeros((1030, 1030))
    A[:1000, :1000], A[1000:, 1000:] = np.minimum(directed, directed.T), random_block(30, 1)
    graph = symmetric_graph(A)
    y = np.zeros(1030)
    y[[3, 1005]] = 1.0, 0.01
    x = Local(certify=0).prepare(graph, RegularizedLaplacian(0.99)).solve(y).x.toarray()[0]
    exact = dense_diffusion(graph.W.toarray(), y, 0.99)[0]
    for part in (slice(1000), slice(1000, 1030)):
        np.testing.assert_allclose(x[part].sum(), exact[part].sum(), rtol=0.005)


def test_the_work_before_does_not_show(curved_graph):
    """A used workspace, even one that overflowed, gives the answers of a fresh one."""
    y = np.eye(1000)[[5, 300, 5, 17, 5]]
    y[1, :500] = 1
    for certify in (0, 3):
        used = Local(certify=certify, threads=1).prepare(curved_graph, RegularizedLaplacian(0.99))
        solution = used.solve(y)
        for row in range(len(y)):
            fresh = Local(certify=certify).prepare(curved_graph, RegularizedLaplacian(0.99))
            alone = fresh.solve(y[row])
            assert (alone.x != solution.x[[row]]).nnz == 0
            assert alone.report.bound[0] == solution.report.bound[row]
            assert alone.report.work[0] == solution.report.work[row]


@given(neighbor_lists(max_n=40), ALPHAS, st.integers(0, 999))
def test_tolerance_bounds_the_scaled_residual(lists, alpha, seed):
    graph = Graph.from_neighbors(*lists)
    y = observations(graph.n_nodes, seed)
    solution = Local(tol=1e-7, certify=0).prepare(graph, RegularizedLaplacian(alpha)).solve(y)
    assert solution.report.converged.all()
    b = (1 - alpha) * y / roots(graph)
    allowed = 1e-7 * b.max(axis=1) / (1 - alpha) + 1e-6 * b.max(axis=1) / (1 - alpha)
    assert (solution.report.bound <= allowed + 1e-30).all()
    expected = dense_diffusion(graph.W.toarray(), y, alpha)
    np.testing.assert_allclose(solution.x.toarray(), expected, atol=1e-4 * expected.max())


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.99])
def test_certifies_where_scores_differ(alpha):
    graph = Graph.from_neighbors(*lattice(100))
    y = sparse.csr_array((np.ones(8), (np.arange(8), np.arange(0, 8000, 1000))), (8, 10_000))
    solution = Local(certify=3).prepare(graph, RegularizedLaplacian(alpha)).solve(y)
    assert solution.report.certified.all()
    if alpha == 0:
        assert (solution.x != y.astype(np.float32)).nnz == 0
        return
    L = sparse.eye_array(10_000) - alpha * graph.W.astype(float)
    expected = (1 - alpha) * splu(L.tocsc()).solve(y.toarray().T).T
    for row, x in enumerate(solution.x.toarray()):
        assert set(np.argsort(-x)[:3]) == set(np.argsort(-expected[row])[:3])
    # On a part of the graph.
    assert solution.report.support.max() < 9_000
    assert (solution.x.toarray()[0] > 0).sum() == solution.report.support[0]


def test_the_bound_tightens_towards_the_query():
    """The maximum principle is worth more than max |r| / √d / (1 - α)."""
    graph = Graph.from_neighbors(*lattice(100))
    transfer = RegularizedLaplacian(0.99)
    y = np.eye(10_000)[[0]]
    plain = Local(certify=0, tol=1e-3).prepare(graph, transfer).solve(y).report
    shielded = Local(certify=3, tol=1e-3).prepare(graph, transfer).solve(y).report
    assert shielded.certified.all()
    assert shielded.support[0] <= 2 * plain.support[0]
    assert shielded.bound[0] < 0.5 * plain.bound[0]


def test_ties_alone_are_never_certified_against_each_other():
    # Nine leaves alike: no three of them are provably the best beside the centre.
    graph = Graph.from_neighbors(*lists_of(star(10)))
    solver = Local(certify=4, max_work=10_000).prepare(graph, RegularizedLaplacian(0.9))
    solution = solver.solve(np.eye(10)[[0]])
    check(graph, 0.9, np.eye(10)[[0]], solution, 4)
    assert solution.report.converged.all()


def test_nothing_is_left_to_do_for_an_observation_of_whole_components():
    y = [[0, 0, 0], [0, 0, 2.0], [1.0, 0, 0]]
    solver = Local(tol=1e-8).prepare(chain_and_isolated(), RegularizedLaplacian(0.75))
    solution = solver.solve(y)
    assert solution.x[[0]].nnz == 0
    assert solution.report.work[:2].tolist() == [0, 0]
    assert solution.report.bound[0] == 0
    assert solution.report.certified.all()


def test_threads_do_not_change_the_answer(vectors):
    graph = diffusion.Reranker(k=10).fit(vectors).graph_
    y = observations(len(vectors), 3).repeat(7, axis=0)
    transfer = RegularizedLaplacian(0.99)
    alone = Local(threads=1, tol=1e-4).prepare(graph, transfer)
    side_by_side = Local(threads=8, tol=1e-4).prepare(graph, transfer).solve(y)
    for _ in range(2):  # with a fresh workspace and a used one
        solution = alone.solve(y)
        assert (solution.x != side_by_side.x).nnz == 0
        for name in ("residual", "work", "certified", "bound", "iterations"):
            first, second = getattr(solution.report, name), getattr(side_by_side.report, name)
            assert (first == second).all()


def test_warns_where_the_budget_ends_first():
    graph = Graph.from_neighbors(*lattice(30))
    solver = Local(max_work=500).prepare(graph, RegularizedLaplacian())
    with pytest.warns(diffusion.ConvergenceWarning, match="max_work"):
        report = solver.solve(np.eye(900)[0]).report
    assert report.work[0] <= 500
    assert not report.converged[0]
    assert not report.certified[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tol": 0}, "tol: expected a number in"),
        ({"top": 0}, "top: expected an integer of at least 1"),
        ({"certify": -1}, "certify: expected an integer of at least 0"),
        ({"max_work": 0}, "max_work: expected an integer of at least 1"),
        ({"threads": 0}, "threads: expected an integer of at least 1"),
    ],
)
def test_bad_settings(arguments, message):
    with pytest.raises(diffusion.DiffusionError, match=message):
        Local(**arguments)
