from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import diffusion
from diffusion.change import Change
from diffusion.graph.graph import Graph
from diffusion.solvers.hybrid import Hybrid
from diffusion.solvers.linalg import eigen
from diffusion.solvers.linalg.components import large_pieces
from diffusion.solvers.linalg.eigen import leading_eigenpairs
from diffusion.solvers.spectral import Spectral
from diffusion.transfer import CustomTransfer, HeatKernel, RegularizedLaplacian, TruncatedRandomWalk
from tests.support.graphs import (
    TRANSFERS,
    complete,
    copies,
    mixed_graph,
    random_block,
    random_observations,
    ring,
    star,
    symmetric_graph,
)
from tests.support.oracles import neighbor_lists, relative_error


@pytest.fixture
def iterative(monkeypatch):
    """No piece is solved densely."""
    monkeypatch.setattr(eigen, "_DENSE_NODES", 0)


# --- eigenpairs ----------------------------------------------------------------------------------


def check_pairs(graph, rank, tol=1e-4, min_nodes=1):
    (nodes,) = large_pieces(graph, min_nodes, per_component=False)
    pairs = leading_eigenpairs(graph, nodes, rank, tol=tol)
    W = graph.W.toarray().astype(float)[np.ix_(graph.order, graph.order)][np.ix_(nodes, nodes)]
    expected = np.sort(np.linalg.eigvalsh(W))[::-1]
    # One known eigenvalue a component; no other is 1.
    known = len(np.unique(graph.components[graph.order[nodes]]))
    np.testing.assert_allclose(expected[:known], 1, atol=1e-6)
    np.testing.assert_allclose(pairs.values, expected[known : known + rank], atol=2 * tol)
    U = pairs.vectors.astype(float)
    residuals = np.linalg.norm(W @ U - U * pairs.values, axis=0)
    np.testing.assert_allclose(pairs.residuals, residuals, atol=3e-6)
    assert residuals.max(initial=0) <= tol + 3e-6
    np.testing.assert_allclose(U.T @ U, np.eye(len(pairs.values)), atol=2e-5)
    trivial = np.sqrt(graph.degrees)[graph.order][nodes]
    assert np.abs(trivial @ U).max(initial=0) <= 1e-4 * np.linalg.norm(trivial)
    return pairs


@given(neighbor_lists(), st.integers(0, 30))
def test_pairs_of_small_graphs_equal_numpy(lists, rank):
    graph = Graph.from_neighbors(*lists)
    if graph.n_edges:
        check_pairs(graph, rank)


@pytest.mark.parametrize("rank", [1, 7, 40, 100])
@pytest.mark.parametrize(
    "A",
    [
        random_block(500, 0),
        copies(random_block(60, 1), 8),  # every eigenvalue eight times
        ring(600),  # every eigenvalue twice, and -1
        complete(450),  # one eigenvalue 449 times
        star(450),  # -1, and 0 as often as there are leaves but one
        copies(random_block(20, 1, 4), 60),  # more copies than a block has columns
    ],
    ids=["geometric", "copies", "ring", "complete", "star", "many copies"],
)
def test_iterative_pairs_equal_numpy(iterative, A, rank):
    check_pairs(symmetric_graph(A), rank)


def test_pairs_are_the_same_every_time(iterative):
    graph = symmetric_graph(random_block(400, 2))
    nodes = np.arange(400, dtype=np.int32)
    first, again = (leading_eigenpairs(graph, nodes, 20) for _ in range(2))
    np.testing.assert_allclose(first.values, again.values, atol=1e-6)


def test_progress_goes_to_standard_error(iterative, capsys):
    graph = symmetric_graph(random_block(400, 2))
    leading_eigenpairs(graph, np.arange(400, dtype=np.int32), 20, progress=True)
    captured = capsys.readouterr()
    assert "20/20" in captured.err
    assert not captured.out


# --- eigenpairs after an update ------------------------------------------------------------------


def blocks_of(count, n=80):
    """The adjacency of separate blocks, all different."""
    A = np.zeros((count * n, count * n))
    for i in range(count):
        A[i * n : (i + 1) * n, i * n : (i + 1) * n] = random_block(n, i)
    return A


def asked_pairs(monkeypatch):
    """A list that receives the number of pairs of each run of Lanczos."""
    asked, lanczos = [], eigen._lanczos
    monkeypatch.setattr(eigen, "_lanczos", lambda *a: asked.append(a[1]) or lanczos(*a))
    return asked


def local_updates():
    """A block of eight is removed, or added."""
    A, n = blocks_of(8), 640
    removal, addition = Change.removal(n, np.arange(80, 160)), Change.addition(560, 80)
    part = symmetric_graph(A[np.ix_(removal.source, removal.source)])
    names = np.concatenate([removal.source, removal.removed])
    whole, renamed = symmetric_graph(A), symmetric_graph(A[np.ix_(names, names)])
    return [(whole, part, removal), (part, renamed, addition)]


@pytest.mark.parametrize("rank", [1, 40, 100])
def test_pairs_after_an_update_equal_numpy(iterative, monkeypatch, rank):
    for before, after, change in local_updates():
        touched = np.zeros(change.after, bool)
        old = Hybrid(rank=rank).prepare(before, RegularizedLaplacian())
        asked = asked_pairs(monkeypatch)
        new = old.changed(after, change, touched)
        assert asked[0] < (rank if rank > 1 else 10)
        assert len(asked) <= 2
        W = after.W.toarray().astype(float)
        # One known eigenvalue a component.
        expected = np.sort(np.linalg.eigvalsh(W))[::-1][after.n_components :]
        np.testing.assert_allclose(new.eigenvalues_, expected[:rank], atol=2e-4)
        a = new.arrays()
        U = np.zeros((change.after, rank))
        U[after.order[a["nodes"]]] = a["vectors"]
        assert np.linalg.norm(W @ U - U * a["eigenvalues"], axis=0).max() <= 1e-4 + 3e-6
        np.testing.assert_allclose(U.T @ U, np.eye(rank), atol=4e-5)


@pytest.mark.parametrize("per_component", [False, True])
@pytest.mark.parametrize("kind", [{}, {"float16": True}, {"sparsity": 0.3}], ids=str)
def test_a_spectral_solver_after_an_update(iterative, monkeypatch, kind, per_component):
    solver = Spectral(rank=20, tol=1e-5, per_component=per_component, **kind)
    for before, after, change in local_updates():
        old = replace(solver).prepare(before, RegularizedLaplacian(0.9))
        fresh = replace(solver).prepare(after, RegularizedLaplacian(0.9))
        asked = asked_pairs(monkeypatch)
        new = old.changed(after, change, np.zeros(change.after, bool))
        assert (min(asked) < 20) != bool(kind)
        np.testing.assert_allclose(new.eigenvalues_, fresh.eigenvalues_, atol=2e-5)
        assert new.residuals_.max() <= 1e-5
        y = random_observations(after, 4)
        x, expected = new.solve(y).x, fresh.solve(y).x
        assert relative_error(x, expected) < (1e-2 if kind else 1e-3)


def test_vectors_that_are_no_eigenvectors_do_no_harm(iterative):
    graph = symmetric_graph(blocks_of(8))
    nodes, rng = np.arange(640, dtype=np.int32), np.random.default_rng(0)
    expected = leading_eigenpairs(graph, nodes, 40)
    for start in (
        rng.standard_normal((640, 40), dtype=np.float32),
        np.zeros((640, 0), np.float32),
        np.zeros((640, 40), np.float32),
        np.repeat(expected.vectors[:, :1], 40, axis=1),
        # Eigenvectors, but the smallest ones.
        leading_eigenpairs(graph, nodes, 300).vectors[:, -40:],
    ):
        pairs = leading_eigenpairs(graph, nodes, 40, start=start)
        np.testing.assert_allclose(pairs.values, expected.values, atol=2e-4)
        assert pairs.residuals.max() <= 1e-4


# --- full rank -----------------------------------------------------------------------------------


@pytest.mark.parametrize("per_component", [False, True])
@pytest.mark.parametrize("dense_nodes", [0, 10, 100])
def test_nothing_is_outside_of_a_basis_of_full_rank(dense_nodes, per_component):
    graph = mixed_graph()
    solver = Spectral(rank=166, dense_nodes=dense_nodes, per_component=per_component)
    report = solver.prepare(graph, HeatKernel()).solve(random_observations(graph, 5)).report
    assert (report.residual < 2e-3).all()  # the root of float32's rounding
    assert (report.iterations == 0).all()


def test_refuses_a_decreasing_function_below_full_rank(vectors):
    graph = diffusion.Reranker(k=10).fit(vectors).graph_
    with pytest.raises(diffusion.DiffusionError, match=r"transfer: .* expected rank >= "):
        Spectral(rank=20, dense_nodes=0).prepare(graph, TruncatedRandomWalk(0.9, 6))


# --- truncated rank ------------------------------------------------------------------------------


def truncated(graph, transfer, y, rank, dense_nodes, per_component):
    """The best that a basis of that rank does, from a full decomposition of each component."""
    W = graph.W.toarray().astype(float)
    x = np.zeros_like(y)
    inside = np.zeros_like(y)
    leading = []
    for label in range(graph.n_components):
        own = np.flatnonzero(graph.components == label)
        values, U = np.linalg.eigh(W[np.ix_(own, own)])
        large = len(own) > dense_nodes
        for place, (value, u) in enumerate(zip(values[::-1], U.T[::-1], strict=True)):
            leading.append((place > 0, -value if large else -2, label if large else -1, own, u))
    others = sorted(
        (pair for pair in leading if pair[0] and pair[2] >= 0), key=lambda pair: pair[1]
    )
    chosen = [pair for pair in leading if not pair[0] or pair[2] < 0]
    for label in {pair[2] for pair in others} if per_component else [None]:
        chosen += [pair for pair in others if label is None or pair[2] == label][:rank]
    for _, _, _, own, u in chosen:
        value = u @ W[np.ix_(own, own)] @ u
        x[:, own] += np.outer(y[:, own] @ u, u) * transfer(value)
        inside[:, own] += np.outer(y[:, own] @ u, u)
    return x, inside


@pytest.mark.parametrize("per_component", [False, True])
@pytest.mark.parametrize("rank", [0, 1, 11, 60])
@pytest.mark.parametrize("transfer", TRANSFERS[:3], ids=lambda transfer: type(transfer).__name__)
def test_truncated_basis(transfer, rank, per_component):
    graph = mixed_graph()
    y = random_observations(graph, 6)
    solver = Spectral(rank=rank, dense_nodes=10, per_component=per_component)
    solution = solver.prepare(graph, transfer).solve(y)
    x, inside = truncated(graph, transfer, y, rank, 10, per_component)
    np.testing.assert_allclose(solution.x, x, atol=2e-5)
    outside = np.linalg.norm(y - inside, axis=1) / np.linalg.norm(y, axis=1)
    np.testing.assert_allclose(solution.report.residual, outside, atol=1e-4)
    # That part is the residual of the regularised Laplacian.
    if transfer == TRANSFERS[0]:
        Lx = solution.x - 0.99 * solution.x @ graph.W.toarray().T
        b = 0.01 * y
        residual = np.linalg.norm(Lx - b, axis=1) / np.linalg.norm(b, axis=1)
        np.testing.assert_allclose(solution.report.residual, residual, atol=5e-3)


@pytest.mark.parametrize("rank", [1, 2, 10, 50])
def test_truncated_on_known_spectra(iterative, rank):
    transfer = RegularizedLaplacian(0.9)
    y = np.zeros((1, 400))
    y[0, 7] = 1
    # Complete graph: 1 once, else -1 / (n - 1); the mean, and nothing else, at any rank.
    x = Spectral(rank=0).prepare(symmetric_graph(complete(400)), transfer).solve(y).x
    np.testing.assert_allclose(x, 1 / 400, rtol=1e-5)
    # Ring: cos(2πj/n), in pairs; an even rank takes whole pairs.
    frequencies = np.arange(1, rank // 2 + 1)
    h = transfer(np.cos(2 * np.pi * frequencies / 400))
    wave = np.cos(2 * np.pi * np.outer(np.arange(400) - 7, frequencies) / 400)
    expected = (1 + 2 * wave @ h) / 400
    if rank % 2 == 0:
        x = Spectral(rank=rank).prepare(symmetric_graph(ring(400)), transfer).solve(y).x
        np.testing.assert_allclose(x[0], expected, atol=1e-5)
    # Star: 1, 0 (n - 2 times) and -1. A leaf without the eigenvalue 0: half its share of the mean.
    x = Spectral(rank=0).prepare(symmetric_graph(star(400)), transfer).solve(y).x
    root = np.sqrt(np.r_[399, np.ones(399)] / 798)
    np.testing.assert_allclose(x[0], root * root[7], rtol=1e-5)


# --- options -------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_component", [False, True])
def test_half_precision_and_sparse_bases(per_component):
    graph = mixed_graph()
    y = random_observations(graph, 6)
    settings = {"rank": 30, "dense_nodes": 10, "per_component": per_component}

    def solve(**more):
        return Spectral(**settings, **more).prepare(graph, RegularizedLaplacian()).solve(y).x

    exact = solve()
    # Rounding to 11 bits: at most 2^-11 an entry, twice.
    assert relative_error(solve(float16=True), exact) < 2.0**-10
    errors = [relative_error(solve(sparsity=share), exact) for share in (0.01, 0.3, 0.7)]
    assert errors[0] < 0.01
    assert errors[0] <= errors[1] < errors[2] < 0.5
    both = solve(sparsity=0.3, float16=True)
    assert relative_error(both, solve(sparsity=0.3)) < 2.0**-10


def test_sparsity_keeps_the_largest_entries():
    graph = mixed_graph()
    solver = Spectral(rank=30, dense_nodes=10, sparsity=0.7).prepare(graph, HeatKernel())
    whole = Spectral(rank=30, dense_nodes=10).prepare(graph, HeatKernel())
    kept, every = solver.arrays()["basis"], np.abs(whole.arrays()["basis"])
    assert abs(len(kept) - 0.3 * every.size) <= 1
    np.testing.assert_allclose(np.abs(kept).min(), np.sort(every)[-len(kept)])


def test_reweighted_adds_what_the_basis_lacks_of_a_node():
    graph = mixed_graph()
    y = random_observations(graph, 3)
    settings = {"rank": 12, "dense_nodes": 10}
    plain = Spectral(**settings).prepare(graph, RegularizedLaplacian()).solve(y).x
    again = Spectral(**settings, reweighted=True).prepare(graph, RegularizedLaplacian()).solve(y).x
    _, projector = truncated(graph, HeatKernel(), np.eye(graph.n_nodes), 12, 10, False)
    norms = np.sqrt(np.diag(projector))
    np.testing.assert_allclose(again, plain + (1 - norms) * y, atol=1e-5)


@pytest.mark.parametrize("sparsity", [0.0, 0.5])
@pytest.mark.parametrize("per_component", [False, True])
def test_embeddings_multiply_to_the_scores(per_component, sparsity):
    graph = mixed_graph()
    settings = {"dense_nodes": 10, "per_component": per_component, "sparsity": sparsity}
    solver = Spectral(rank=12, **settings).prepare(graph, RegularizedLaplacian())
    y = random_observations(graph, 4)
    large = np.isin(graph.components, [0, 1])
    embedding = solver.embedding_
    assert embedding.shape == (graph.n_nodes, 2 + 12 * (1 + per_component))
    assert embedding.dtype == solver.embed(y).dtype == np.float32
    np.testing.assert_allclose(
        (solver.embed(y) @ embedding.T)[:, large], solver.solve(y).x[:, large], atol=1e-5
    )
    assert not embedding[~large].any()


def test_embedding_needs_a_non_negative_function():
    graph = mixed_graph()
    transfer = CustomTransfer(lambda u: u, kind="increasing")
    solver = Spectral(rank=160, dense_nodes=10).prepare(graph, transfer)
    with pytest.raises(diffusion.DiffusionError, match="non-negative"):
        solver.embed(np.ones(graph.n_nodes))


@pytest.mark.parametrize("more", [{}, {"sparsity": 0.5, "float16": True}, {"per_component": True}])
def test_restored_from_files(tmp_path, more):
    graph = mixed_graph()
    y = random_observations(graph, 4)
    solver = Spectral(rank=12, dense_nodes=10, reweighted=True, **more)
    expected = solver.prepare(graph, HeatKernel()).solve(y)
    for name, array in solver.arrays().items():
        np.save(tmp_path / f"{name}.npy", array)
    mapped = {path.stem: np.load(path, mmap_mode="r") for path in tmp_path.iterdir()}
    restored = Spectral(rank=12, dense_nodes=10, reweighted=True, **more)
    solution = restored.restore(graph, HeatKernel(), mapped).solve(y)
    np.testing.assert_allclose(solution.x, expected.x, atol=1e-7)
    np.testing.assert_array_equal(solution.report.work, expected.report.work)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank": -1}, "rank: expected an integer of at least 0"),
        ({"tol": 0.0}, "tol: expected a number in"),
        ({"dense_nodes": 2.5}, "dense_nodes"),
        ({"sparsity": 1.0}, "sparsity: expected a number in"),
        ({"float16": "yes"}, "float16: expected True or False"),
    ],
)
def test_bad_settings(arguments, message):
    with pytest.raises(diffusion.DiffusionError, match=message):
        Spectral(**arguments)
