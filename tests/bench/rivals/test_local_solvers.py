from __future__ import annotations

import numpy as np
import pytest

from bench.rivals.local_solvers import SOLVERS, Rival
from tests.support.graphs import mixed_graph
from tests.support.oracles import dense_diffusion


@pytest.mark.parametrize("name", SOLVERS)
def test_published_solvers_converge_to_the_solution(name):
    graph = mixed_graph()
    rival = Rival(graph, 0.95, SOLVERS[name])
    rng = np.random.default_rng(0)
    for size in (1, 10, 3):  # the memory of one query is cleared before the next
        y = np.zeros(graph.n_nodes)
        y[rng.choice(graph.n_nodes, size, replace=False)] = rng.random(size) + 0.1
        ids = np.flatnonzero(y)
        found, values = rival.solve(ids, y[ids], 1e-9)
        assert len(np.unique(found)) == len(found)
        x = np.zeros(graph.n_nodes)
        x[found] = values
        expected = dense_diffusion(graph.W.toarray(), y, 0.95)[0]
        np.testing.assert_allclose(x, expected, atol=1e-6 * expected.max())
