from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from scipy.sparse.linalg import cg as scipy_cg

import diffusion
from diffusion.graph.graph import Graph
from diffusion.solvers.cg import CG
from diffusion.transfer import RegularizedLaplacian
from tests.support.oracles import dense_diffusion, neighbor_lists


def relative_error(x, expected):
    norm = np.linalg.norm(expected, axis=1)
    return (np.linalg.norm(x - expected, axis=1)[norm > 0] / norm[norm > 0]).max(initial=0)


@given(neighbor_lists(), st.sampled_from([0.0, 0.5, 0.9, 0.99, 0.999]), st.integers(1, 40))
def test_equals_a_dense_solve(lists, alpha, m):
    graph = Graph.from_neighbors(*lists)
    rng = np.random.default_rng(m)
    y = rng.random((m, graph.n_nodes)) * (rng.random((m, graph.n_nodes)) < 0.3)
    solver = CG(tol=1e-9, max_iter=1000).prepare(graph, RegularizedLaplacian(alpha))
    solution = solver.solve(y)
    expected = dense_diffusion(graph.W.toarray(), y, alpha)
    assert relative_error(solution.x, expected) < 1e-5
    assert solution.report.converged.all()
    assert solution.x.dtype == np.float32


def test_default_tolerance_is_accurate_enough_to_rank(vectors):
    ranker = diffusion.Reranker(k=10).fit(vectors)
    y = np.eye(len(vectors))[:40]
    x = ranker.solver_.solve(y).x
    assert relative_error(x, dense_diffusion(ranker.graph_.W.toarray(), y, 0.99)) < 1e-5


def large_graph(rng, n=30_000, k=8):
    """More nodes than one core is given alone: a ring with random chords in reach."""
    step = np.arange(1, k // 2 + 1)
    ids = (np.arange(n)[:, None] + np.concatenate([step, -step])) % n
    return Graph.from_neighbors(ids.astype(np.int32), np.ones((n, k), np.float32))


def test_equals_scipy_on_a_graph_shared_among_cores(rng):
    graph = large_graph(rng)
    y = sparse.random_array((5, graph.n_nodes), density=3e-4, rng=rng, format="csr")
    solution = CG(tol=1e-8).prepare(graph, RegularizedLaplacian(0.9)).solve(y)
    L = sparse.eye_array(graph.n_nodes) - 0.9 * graph.W.astype(float)
    for row in range(5):
        expected, info = scipy_cg(L, 0.1 * y[[row]].toarray()[0], rtol=1e-12)
        assert info == 0
        np.testing.assert_allclose(solution.x[row], expected, atol=1e-6 * expected.max())


@pytest.mark.parametrize("block_size", [1, 3, 64])
def test_block_size_does_not_change_the_answer(vectors, block_size):
    ranker = diffusion.Reranker(k=10).fit(vectors)
    y = np.eye(len(vectors))[:20]
    solver = CG(tol=1e-9, block_size=block_size)
    x = solver.prepare(ranker.graph_, RegularizedLaplacian()).solve(y).x
    expected = ranker.solver_.solve(y).x
    np.testing.assert_allclose(x, expected, atol=1e-5 * expected.max())


def test_report_is_of_the_true_residual(vectors):
    graph = diffusion.Reranker(k=10).fit(vectors).graph_
    y = np.random.default_rng(1).random((7, len(vectors)))
    solution = CG(tol=1e-4).prepare(graph, RegularizedLaplacian()).solve(y)
    L = np.eye(len(vectors)) - 0.99 * graph.W.toarray().astype(float)
    b = 0.01 * y
    residual = np.linalg.norm(b - solution.x @ L.T, axis=1) / np.linalg.norm(b, axis=1)
    # The rounding of x to float32 alone is worth 1e-6 here.
    np.testing.assert_allclose(solution.report.residual, residual, rtol=0.05, atol=2e-6)
    assert (solution.report.residual <= 1e-4).all()
    assert (solution.report.iterations > 1).all()


def test_tighter_than_float32(vectors):
    graph = diffusion.Reranker(k=10).fit(vectors).graph_
    solution = CG(tol=1e-12).prepare(graph, RegularizedLaplacian()).solve(np.eye(120)[:3])
    assert (solution.report.residual <= 1e-12).all()


def test_zero_observation_and_isolated_node():
    ids = np.array([[1], [0], [-1]], np.int32)
    graph = Graph.from_neighbors(ids, np.array([[1], [1], [0]], np.float32))
    y = [[0, 0, 0], [0, 0, 2.0], [1.0, 0, 0]]
    solution = CG(tol=1e-10).prepare(graph, RegularizedLaplacian(0.75)).solve(y)
    assert solution.report.iterations[0] == 0
    assert solution.report.converged.all()
    assert not solution.x[0].any()
    np.testing.assert_allclose(solution.x[1], [0, 0, 0.5], rtol=1e-6)  # (1 - α) y
    # Two nodes, W = [[0, 1], [1, 0]]: x = (1 - α) / (1 - α²) (1, α).
    np.testing.assert_allclose(solution.x[2], [0.25 / 0.4375, 0.1875 / 0.4375, 0], rtol=1e-6)


def test_a_converged_column_stops_changing(vectors):
    graph = diffusion.Reranker(k=10).fit(vectors).graph_
    # The degree vector is an eigenvector: its column converges soon, beside a slow one.
    easy = np.sqrt(graph.degrees)[None] * (graph.components == graph.components[0])
    y = np.concatenate([easy, np.eye(len(vectors))[[0]]])
    transfer = RegularizedLaplacian()
    whole = CG().prepare(graph, transfer).solve(y)
    soon, late = whole.report.iterations
    assert soon < late / 2
    with pytest.warns(diffusion.ConvergenceWarning, match="1 of 2"):
        cut = CG(max_iter=int(soon)).prepare(graph, transfer).solve(y)
    assert (cut.x[0] == whole.x[0]).all()
    assert (cut.x[1] != whole.x[1]).any()


def test_warns_and_reports_when_it_has_not_converged(vectors):
    graph = diffusion.Reranker(k=10).fit(vectors).graph_
    solver = CG(max_iter=3).prepare(graph, RegularizedLaplacian())
    with pytest.warns(diffusion.ConvergenceWarning, match="3 of 3 observations .* 3 iterations"):
        solution = solver.solve(np.eye(len(vectors))[:3])
    assert (solution.report.iterations == 3).all()
    assert not solution.report.converged.any()
    assert (solution.report.residual > 1e-6).all()


def test_iterations_stay_within_the_bound_of_the_condition_number(vectors):
    graph = diffusion.Reranker(k=10).fit(vectors).graph_
    solution = CG(tol=1e-6).prepare(graph, RegularizedLaplacian(0.99)).solve(np.eye(120))
    root = np.sqrt(1.99 / 0.01)
    bound = np.log(2 * root / 1e-6) / np.log((root + 1) / (root - 1))
    assert solution.report.iterations.max() <= bound


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tol": 0}, "tol: expected a number in"),
        ({"tol": float("nan")}, "tol"),
        ({"max_iter": 0}, "max_iter: expected an integer of at least 1, got 0"),
        ({"max_iter": 2.5}, "max_iter"),
        ({"block_size": True}, "block_size"),
    ],
)
def test_bad_settings(arguments, message):
    with pytest.raises(diffusion.DiffusionError, match=message):
        CG(**arguments)


def test_bad_observations(vectors):
    solver = diffusion.Reranker(k=5).fit(vectors).solver_
    with pytest.raises(diffusion.DiffusionError, match=r"observations: expected shape \(m, 120\)"):
        solver.solve(np.ones((2, 7)))
    with pytest.raises(diffusion.DiffusionError, match="observations: expected finite"):
        solver.solve(np.full(120, np.nan))


def test_refuses_a_transfer_it_cannot_apply(vectors):
    graph = diffusion.Reranker(k=5).fit(vectors).graph_
    with pytest.raises(diffusion.DiffusionError, match="transfer: solver 'cg'"):
        CG().prepare(graph, np.exp)


def test_alpha_is_checked():
    for alpha in (1.0, -0.1, float("nan"), "high", True):
        with pytest.raises(diffusion.DiffusionError, match="alpha: expected a number in"):
            RegularizedLaplacian(alpha)


@pytest.mark.parametrize("scale", [1e-170, 1e-30, 1e-15, 1e15])
def test_the_scale_of_an_observation_does_not_matter(vectors, scale):
    graph = diffusion.Reranker(k=10).fit(vectors).graph_
    y = np.eye(120)[:5] + 0.5 * np.eye(120)[5:10]
    solver = CG(tol=1e-9).prepare(graph, RegularizedLaplacian())
    solution = solver.solve(scale * y)
    assert solution.report.converged.all()
    expected = scale * dense_diffusion(graph.W.toarray(), y, 0.99)
    # What float32 can hold of it.
    tiny = np.finfo(np.float32).smallest_subnormal
    np.testing.assert_allclose(solution.x, expected, rtol=1e-3, atol=1e-5 * expected.max() + tiny)


@pytest.mark.parametrize(("alpha", "tol"), [(0.9999, 1e-13), (0.999999, 1e-8), (0.99, 1e-20)])
@pytest.mark.parametrize("shape", ["star", "complete", "ring"])
def test_out_of_reach_tolerances_end_close_to_the_answer(shape, alpha, tol):
    n = 40
    A = np.zeros((n, n))
    if shape == "star":
        A[0, 1:] = A[1:, 0] = 1
    elif shape == "complete":
        A[:] = 1 - np.eye(n)
    else:
        A[np.arange(n), np.arange(n) - 1] = A[np.arange(n) - 1, np.arange(n)] = 1
    ids = np.full((n, n - 1), -1, np.int32)
    for i in range(n):
        others = np.flatnonzero(A[i])
        ids[i, : len(others)] = others
    graph = Graph.from_neighbors(ids, (ids >= 0).astype(np.float32))
    solver = CG(tol=tol, max_iter=3000).prepare(graph, RegularizedLaplacian(alpha))
    y = np.eye(n)[:3]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", diffusion.ConvergenceWarning)
        solution = solver.solve(y)
    assert relative_error(solution.x, dense_diffusion(graph.W.toarray(), y, alpha)) < 1e-4
    assert solution.report.iterations.max() < 3000
