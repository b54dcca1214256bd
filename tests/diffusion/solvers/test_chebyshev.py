from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import diffusion
from diffusion.graph.graph import Graph
from diffusion.solvers.chebyshev import Chebyshev
from diffusion.transfer import CustomTransfer, RegularizedLaplacian, TruncatedRandomWalk
from tests.support.graphs import TRANSFERS, random_observations
from tests.support.oracles import dense_function, neighbor_lists


def bound(transfer, y):
    largest = np.abs(transfer(np.linspace(-1, 1, 1001))).max()
    return largest * np.linalg.norm(y, axis=1)


@given(
    neighbor_lists(),
    st.sampled_from(TRANSFERS),
    st.sampled_from([1e-2, 1e-4, 1e-6]),
    st.integers(1, 40),
)
def test_equals_a_dense_function(lists, transfer, tol, m):
    graph = Graph.from_neighbors(*lists)
    y = random_observations(graph, m, m)
    solution = Chebyshev(tol=tol).prepare(graph, transfer).solve(y)
    error = np.linalg.norm(solution.x - dense_function(graph.W.toarray(), transfer, y), axis=1)
    assert (error <= (tol + 3e-7) * bound(transfer, y)).all()
    assert (solution.report.residual == tol).all()


@pytest.mark.parametrize("tol", [1e-5, 1e-6])
@pytest.mark.parametrize("block_size", [1, 64])
@pytest.mark.parametrize(
    "transfer",
    [*TRANSFERS, RegularizedLaplacian(0.999)],
    ids=lambda transfer: type(transfer).__name__,
)
def test_collection(vectors, transfer, block_size, tol):
    graph = diffusion.Reranker(k=10, affinity="cosine").fit(vectors).graph_
    y = random_observations(graph, 20)
    solver = Chebyshev(tol=tol, block_size=block_size).prepare(graph, transfer)
    solution = solver.solve(y)
    error = np.linalg.norm(solution.x - dense_function(graph.W.toarray(), transfer, y), axis=1)
    assert (error <= (tol + 3e-7) * bound(transfer, y)).all()
    assert solution.report.converged.all()


def test_a_polynomial_takes_its_own_degree():
    graph = Graph.from_neighbors(np.array([[1], [0]], np.int32), np.ones((2, 1), np.float32))
    solution = Chebyshev().prepare(graph, TruncatedRandomWalk(0.9, 7)).solve(np.eye(2))
    assert (solution.report.iterations == 7).all()
    assert (solution.report.work == 14).all()
    constant = Chebyshev().prepare(graph, CustomTransfer(lambda u: 0 * u + 2)).solve(np.eye(2))
    np.testing.assert_allclose(constant.x, 2 * np.eye(2), atol=1e-6)


def test_refuses_a_function_with_a_jump():
    graph = Graph.from_neighbors(np.array([[1], [0]], np.int32), np.ones((2, 1), np.float32))
    with pytest.raises(diffusion.DiffusionError, match="not smooth enough"):
        Chebyshev().prepare(graph, CustomTransfer(np.sign))


@pytest.mark.parametrize("arguments", [{"tol": 0.0}, {"block_size": 0}])
def test_bad_settings(arguments):
    with pytest.raises(diffusion.DiffusionError, match=f"{next(iter(arguments))}: expected"):
        Chebyshev(**arguments)
