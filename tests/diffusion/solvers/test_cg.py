from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy import sparse
from scipy.sparse.linalg import cg as scipy_cg

import diffusion
from diffusion.graph.graph import Graph
from diffusion.solvers.cg import CG
from diffusion.transfer import RegularizedLaplacian
from tests.support.graphs import complete, ring, star, symmetric_graph
from tests.support.oracles import dense_diffusion, relative_error


def test_default_tolerance_is_accurate_enough_to_rank(vectors):
    ranker = diffusion.Reranker(k=10, alpha=0.99).fit(vectors)
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
    ranker = diffusion.Reranker(k=10, alpha=0.99, solver="cg").fit(vectors)
    y = np.eye(len(vectors))[:20]
    solver = CG(tol=1e-9, block_size=block_size)
    x = solver.prepare(ranker.graph_, RegularizedLaplacian()).solve(y).x
    expected = ranker.solver_.solve(y).x
    np.testing.assert_allclose(x, expected, atol=1e-5 * expected.max())


def test_tighter_than_float32(vectors):
    graph = diffusion.Reranker(k=10).fit(vectors).graph_
    solution = CG(tol=1e-12).prepare(graph, RegularizedLaplacian()).solve(np.eye(120)[:3])
    assert (solution.report.residual <= 1e-12).all()


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
@pytest.mark.parametrize("shape", [star, complete, ring])
def test_out_of_reach_tolerances_end_close_to_the_answer(shape, alpha, tol):
    n = 40
    graph = symmetric_graph(shape(n))
    solver = CG(tol=tol, max_iter=3000).prepare(graph, RegularizedLaplacian(alpha))
    y = np.eye(n)[:3]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", diffusion.ConvergenceWarning)
        solution = solver.solve(y)
    assert relative_error(solution.x, dense_diffusion(graph.W.toarray(), y, alpha)) < 1e-4
    assert solution.report.iterations.max() < 3000
