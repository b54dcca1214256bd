from __future__ import annotations

import numpy as np
import pytest

import diffusion
from diffusion.solvers.cg import CG
from diffusion.solvers.hybrid import Hybrid
from diffusion.transfer import RegularizedLaplacian
from tests.support.graphs import mixed_graph, random_block, random_observations, symmetric_graph
from tests.support.oracles import dense_diffusion, relative_error


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


@pytest.mark.parametrize(
    "arguments", [{"rank": -1}, {"tol": 0.0}, {"pair_tol": 0.0}, {"min_nodes": 1.5}]
)
def test_bad_settings(arguments):
    with pytest.raises(diffusion.DiffusionError, match=f"{next(iter(arguments))}: expected"):
        Hybrid(**arguments)
