from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import diffusion
from diffusion.graph.graph import Graph
from diffusion.solvers.cg import CG
from diffusion.solvers.hybrid import Hybrid
from diffusion.transfer import HeatKernel, RegularizedLaplacian
from tests.diffusion.solvers.test_spectral import (
    mixed_graph,
    random_block,
    random_observations,
    symmetric_graph,
)
from tests.support.oracles import dense_diffusion, neighbor_lists


def relative_error(x, expected):
    norm = np.linalg.norm(expected, axis=1)
    return (np.linalg.norm(x - expected, axis=1)[norm > 0] / norm[norm > 0]).max(initial=0)


@given(
    neighbor_lists(),
    st.sampled_from([0, 3, 10, 24]),
    st.sampled_from([0.0, 0.5, 0.99, 0.999]),
    st.integers(1, 40),
)
def test_equals_a_dense_solve_at_every_rank(lists, rank, alpha, m):
    graph = Graph.from_neighbors(*lists)
    y = random_observations(graph, m, m)
    transfer = RegularizedLaplacian(alpha)
    solver = Hybrid(rank=rank, tol=1e-9, max_iter=1000, min_nodes=0).prepare(graph, transfer)
    solution = solver.solve(y)
    assert relative_error(solution.x, dense_diffusion(graph.W.toarray(), y, alpha)) < 1e-5
    assert solution.report.converged.all()
    assert solution.x.dtype == np.float32


@pytest.mark.parametrize("rank", [0, 10, 166])
def test_equals_cg(rank):
    graph = mixed_graph()
    y = random_observations(graph, 40)
    transfer = RegularizedLaplacian(0.99)
    solution = Hybrid(rank=rank, tol=1e-9, min_nodes=10).prepare(graph, transfer).solve(y)
    expected = CG(tol=1e-9).prepare(graph, transfer).solve(y)
    assert relative_error(solution.x, expected.x) < 1e-6
    assert relative_error(solution.x, dense_diffusion(graph.W.toarray(), y, 0.99)) < 1e-6
    assert solution.report.iterations.max() <= expected.report.iterations.max()
    if rank == graph.n_nodes:
        # What is left are the small component, and rounding.
        assert solution.report.iterations.max() <= 8


@pytest.mark.parametrize("error", [1e-3, 1e-1, 1.0])
def test_exact_with_bad_eigenpairs(error):
    graph = symmetric_graph(random_block(300, 0))
    transfer = RegularizedLaplacian(0.99)
    solver = Hybrid(rank=30, tol=1e-8, max_iter=1000).prepare(graph, transfer)
    arrays = solver.arrays()
    noise = np.random.default_rng(0).standard_normal(arrays["vectors"].shape) / np.sqrt(300)
    disturbed, _ = np.linalg.qr(arrays["vectors"] + error * noise)
    arrays = arrays | {"vectors": disturbed.astype(np.float32)}
    y = random_observations(graph, 5)
    solution = solver.restore(graph, transfer, arrays).solve(y)
    assert solution.report.converged.all()
    assert relative_error(solution.x, dense_diffusion(graph.W.toarray(), y, 0.99)) < 1e-6


def test_rank_saves_iterations():
    graph = symmetric_graph(random_block(600, 1))
    transfer = RegularizedLaplacian(0.99)
    y = random_observations(graph, 5)
    counts = [
        Hybrid(rank=rank).prepare(graph, transfer).solve(y).report.iterations.max()
        for rank in (0, 20, 100)
    ]
    assert counts[0] > counts[1] > counts[2]


def test_report_is_of_the_true_residual():
    graph = mixed_graph()
    y = random_observations(graph, 7)
    solver = Hybrid(rank=10, tol=1e-4).prepare(graph, RegularizedLaplacian())
    solution = solver.solve(y)
    b = 0.01 * y
    Lx = solution.x - 0.99 * solution.x @ graph.W.toarray().astype(float)
    residual = np.linalg.norm(b - Lx, axis=1) / np.linalg.norm(b, axis=1)
    np.testing.assert_allclose(solution.report.residual, residual, rtol=0.05, atol=2e-6)
    assert (solution.report.residual <= 1e-4).all()
    with pytest.warns(diffusion.ConvergenceWarning, match="raise Hybrid's max_iter"):
        Hybrid(rank=0, max_iter=2).prepare(graph, RegularizedLaplacian()).solve(y)


def test_zero_observations_and_a_graph_without_edges():
    graph = Graph.from_neighbors(np.full((5, 2), -1, np.int32), np.zeros((5, 2), np.float32))
    y = np.array([[0, 0, 0, 0, 0], [0, 3.0, 0, 0, 0]])
    solution = Hybrid().prepare(graph, RegularizedLaplacian(0.75)).solve(y)
    np.testing.assert_allclose(solution.x, 0.25 * y)
    assert solution.report.converged.all()


def test_restored_from_files(tmp_path):
    graph = mixed_graph()
    y = random_observations(graph, 4)
    solver = Hybrid(rank=12).prepare(graph, RegularizedLaplacian())
    expected = solver.solve(y)
    for name, array in solver.arrays().items():
        np.save(tmp_path / f"{name}.npy", array)
    mapped = {path.stem: np.load(path, mmap_mode="r") for path in tmp_path.iterdir()}
    solution = Hybrid(rank=12).restore(graph, RegularizedLaplacian(), mapped).solve(y)
    np.testing.assert_array_equal(solution.x, expected.x)


def test_refuses_another_transfer():
    with pytest.raises(diffusion.DiffusionError, match="transfer: solver 'hybrid'"):
        Hybrid().prepare(mixed_graph(), HeatKernel())


@pytest.mark.parametrize(
    "arguments", [{"rank": -1}, {"tol": 0.0}, {"pair_tol": 0.0}, {"min_nodes": 1.5}]
)
def test_bad_settings(arguments):
    with pytest.raises(diffusion.DiffusionError, match=f"{next(iter(arguments))}: expected"):
        Hybrid(**arguments)
