from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import diffusion
from diffusion.graph.graph import Graph
from diffusion.kernels import columns as kernels
from diffusion.solvers.columns import Columns
from diffusion.transfer import RegularizedLaplacian
from tests.support.graphs import ALPHAS, copies, mixed_adjacency, random_block, updates
from tests.support.oracles import dense_diffusion, neighbor_lists

# Neighbourhoods are shared from 64 nodes on; the small graphs of these tests do it or not.
SHARES = st.sampled_from([1, 3, 32]).map(
    lambda nodes: mock.patch("diffusion.solvers.columns._NODES_A_COLUMN", nodes)
)


@pytest.fixture
def graph(vectors) -> Graph:
    return diffusion.Reranker(affinity="cosine", k=10).fit(vectors).graph_


@given(neighbor_lists(), ALPHAS, st.integers(1, 24), st.integers(1, 24), SHARES)
def test_a_column_solves_its_own_truncated_system(lists, alpha, size, keep, share):
    graph = Graph.from_neighbors(*lists)
    n, W = graph.n_nodes, graph.W.toarray()
    transfer = RegularizedLaplacian(alpha)
    with share:
        whole = Columns(size=size, keep=size, tol=1e-12, max_iter=1000).prepare(graph, transfer)
        cut = Columns(size=size, keep=keep, tol=1e-12, max_iter=1000).prepare(graph, transfer)
    x = whole.solve(np.eye(n)).x
    exact = dense_diffusion(W, np.eye(n), alpha)
    component_sizes = graph.component_sizes[graph.components]
    for i in range(n):
        # Entries of 0 are not stored: T may hold more nodes at α = 0, never fewer otherwise.
        T = x[[i]].indices
        assert i in T
        if alpha > 0:
            assert len(T) == min(size, component_sizes[i])
        own = dense_diffusion(W[np.ix_(T, T)], i == T, alpha)[0]
        np.testing.assert_allclose(x[[i]].toarray()[0, T], own, rtol=1e-4, atol=1e-9)
        assert (own <= exact[i, T] * (1 + 1e-6) + 1e-12).all()
    degrees = graph.degrees
    stored = cut.solve(np.eye(n)).x
    for i in range(n):
        row, kept = x[[i]], stored[[i]]
        assert len(kept.data) == min(keep, len(row.data))
        assert set(kept.indices) <= set(row.indices)
        np.testing.assert_array_equal(kept.data, row.toarray()[0, kept.indices])
        if graph.component_sizes[graph.components[i]] > 1:
            dropped = np.setdiff1d(row.indices, kept.indices)
            over = row.toarray()[0] / np.sqrt(np.where(degrees > 0, degrees, 1))
            assert over[dropped].max(initial=0) <= over[kept.indices].min() * (1 + 1e-5)


def test_neighbourhoods_hold_what_diffusion_reaches_most(graph):
    y = np.eye(graph.n_nodes)[::7]
    x = Columns(size=20, keep=20).prepare(graph, RegularizedLaplacian(0.9)).solve(y).x
    exact = dense_diffusion(graph.W.toarray(), y, 0.9)
    best = np.sort(exact, axis=1)[:, ::-1][:, :20].sum(axis=1)
    held = np.array([exact[row, x[[row]].indices].sum() for row in range(len(y))])
    assert (held > 0.9 * best).all()


def test_report(graph):
    transfer = RegularizedLaplacian()
    y = np.zeros((3, graph.n_nodes))
    y[0, [1, 5]] = 1
    y[1, 7] = 0.5
    report = Columns(size=50, keep=30).prepare(graph, transfer).solve(y).report
    assert report.work.tolist() == [60, 30, 0]
    assert report.iterations.tolist() == [0, 0, 0]
    assert report.converged.all()
    assert not report.certified.any()
    assert 0 < report.residual[1] <= 1e-6
    with pytest.warns(diffusion.ConvergenceWarning, match="118 of 120 columns .* 2 iterations"):
        early = Columns(size=50, max_iter=2).prepare(graph, transfer)
    report = early.solve(y).report
    assert report.converged.tolist() == [False, False, True]
    assert report.residual[0] > 1e-6


def test_arrays(graph):
    arrays = Columns(size=40, keep=25).prepare(graph, RegularizedLaplacian()).arrays()
    assert {name: (a.shape, a.dtype) for name, a in arrays.items()} == {
        "ids": ((120, 25), np.int32),
        "values": ((120, 25), np.float32),
        "residuals": ((120,), np.float64),
    }


@settings(max_examples=20)
@given(st.integers(0, 1000), st.integers(1, 12), st.sampled_from([1, 7, 20, 166]))
def test_after_an_update_a_column_solves_its_own_truncated_system(seed, count, size):
    for before, after, change, touched in updates(mixed_adjacency(), seed, count):
        n, W = after.n_nodes, after.W.toarray()
        solver = Columns(size=size, keep=size, tol=1e-12, max_iter=1000)
        solver = solver.prepare(before, RegularizedLaplacian(0.9))
        x = solver.changed(after, change, touched).solve(np.eye(n)).x
        for i in range(n):
            T = x[[i]].indices
            assert len(T) == min(size, after.component_sizes[after.components[i]])
            own = dense_diffusion(W[np.ix_(T, T)], i == T, 0.9)[0]
            np.testing.assert_allclose(x[[i]].toarray()[0, T], own, rtol=1e-4, atol=1e-9)


def test_an_update_computes_the_columns_that_it_changes(monkeypatch):
    A = copies(random_block(30, 0), 4)
    computed, columns = [], kernels.columns

    def record(*arguments):
        sequence, begins = arguments[3:5]
        computed.extend(sequence[begins[0] : begins[-1]])
        columns(*arguments)

    for before, after, change, touched in updates(A, count=1):
        old = Columns(size=25, keep=12).prepare(before, RegularizedLaplacian())
        computed.clear()
        with monkeypatch.context() as patched:
            patched.setattr(kernels, "columns", record)
            new = old.changed(after, change, touched)
        own = np.flatnonzero(touched[after.order])
        assert len(np.unique(computed)) == len(computed) <= 30
        assert set(own) <= set(computed)
        others = np.setdiff1d(after.order, after.order[computed])
        assert len(others) >= 89
        kept = np.flatnonzero(change.source >= 0)
        expected = old.solve(np.eye(before.n_nodes)[change.source[others]]).x.toarray()
        got = new.solve(np.eye(after.n_nodes)[others]).x.toarray()
        np.testing.assert_array_equal(got[:, kept], expected[:, change.source[kept]])


class Killed(BaseException):
    pass


def test_goes_on_after_a_kill(graph, tmp_path, monkeypatch):
    monkeypatch.setattr("diffusion.storage.rows._INTERVAL", 0.0)
    monkeypatch.setattr("diffusion.solvers.columns._BATCH", 8)
    transfer = RegularizedLaplacian()
    expected = Columns(size=31).prepare(graph, transfer).arrays()
    columns, firsts = kernels.columns, []

    def die_at(first):
        def compute(*arguments):
            firsts.append(int(arguments[4][0]))  # of `begins`
            if firsts[-1] == first:
                raise Killed
            columns(*arguments)

        return compute

    monkeypatch.setattr(kernels, "columns", die_at(64))
    with pytest.raises(Killed):
        Columns(size=31).prepare(graph, transfer, checkpoint=tmp_path / "part")
    assert min(firsts) == 0
    firsts.clear()
    monkeypatch.setattr(kernels, "columns", die_at(None))
    got = Columns(size=31).prepare(graph, transfer, checkpoint=tmp_path / "part").arrays()
    assert min(firsts) == 64
    for name, array in expected.items():
        np.testing.assert_array_equal(got[name], array)
    # Done: nothing is computed again; with other settings, everything is.
    firsts.clear()
    Columns(size=31).prepare(graph, transfer, checkpoint=tmp_path / "part")
    assert not firsts
    Columns(size=30).prepare(graph, transfer, checkpoint=tmp_path / "part")
    assert min(firsts) == 0
    firsts.clear()
    Columns(size=30).prepare(graph, RegularizedLaplacian(0.9), checkpoint=tmp_path / "part")
    assert min(firsts) == 0


def test_progress(graph, capsys):
    Columns(size=5).prepare(graph, RegularizedLaplacian(), progress=True)
    assert "columns" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, "size: expected an integer of at least 1, got 0"),
        ({"keep": 1.5}, "keep: expected an integer"),
        ({"tol": 0}, "tol: expected a number in"),
        ({"max_iter": 0}, "max_iter"),
    ],
)
def test_bad_settings(arguments, message):
    with pytest.raises(diffusion.DiffusionError, match=message):
        Columns(**arguments)
