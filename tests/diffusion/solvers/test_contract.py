"""What every solver must do, whichever it is."""

from __future__ import annotations

import dataclasses
from inspect import signature

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

import diffusion
from diffusion import Reranker
from diffusion.graph.graph import Graph
from diffusion.solvers import SOLVERS, Solver
from diffusion.solvers.base import Report
from diffusion.transfer import RegularizedLaplacian
from tests.support.graphs import (
    ALPHAS,
    TRANSFERS,
    chain_and_isolated,
    mixed_adjacency,
    mixed_graph,
    random_observations,
    symmetric_graph,
    updates,
    with_gaps,
)
from tests.support.oracles import (
    dense_diffusion,
    dense_function,
    neighbor_lists,
    relative_error,
)

# Settings with which each solver is exact, on graphs of at most 166 nodes.
EXACT = {
    "auto": diffusion.solvers.Auto(tol=1e-9),
    "cg": diffusion.CG(tol=1e-9, max_iter=1000),
    "spectral": diffusion.Spectral(rank=166),
    "hybrid": diffusion.Hybrid(rank=10, tol=1e-9, max_iter=1000),
    "chebyshev": diffusion.Chebyshev(tol=1e-9),
    "columns": diffusion.Columns(size=166, keep=166, tol=1e-9, max_iter=1000),
    "truncated": diffusion.Truncated(size=166, tol=1e-9, max_iter=1000),
    "local": diffusion.Local(tol=1e-9, certify=0),
}
# The same, computed by torch, on the CPU as it would be on a GPU.
ON_TORCH = {
    f"{name} on torch": dataclasses.replace(EXACT[name], device="torch:cpu")
    for name in ("cg", "chebyshev")
}
CONTRACT = EXACT | ON_TORCH
# Settings beside these that take another way to the same answer.
VARIANTS = CONTRACT | {
    "cg in small blocks": diffusion.CG(tol=1e-9, max_iter=1000, block_size=3),
    "spectral without dense blocks": diffusion.Spectral(rank=24, dense_nodes=0),
    "spectral per component": diffusion.Spectral(rank=24, dense_nodes=3, per_component=True),
    "hybrid of rank 0": diffusion.Hybrid(rank=0, tol=1e-9, max_iter=1000, min_nodes=0),
    "hybrid of rank 3": diffusion.Hybrid(rank=3, tol=1e-9, max_iter=1000, min_nodes=0),
    "hybrid of full rank": diffusion.Hybrid(rank=24, tol=1e-9, max_iter=1000, min_nodes=0),
    "chebyshev in small blocks": diffusion.Chebyshev(tol=1e-9, block_size=3),
    "truncated early": diffusion.Truncated(166, "early", tol=1e-9, max_iter=1000),
    "local with certificate": diffusion.Local(tol=1e-7, certify=5),
}
# Settings that end a solve before its tolerance is reached, where a solver has such.
HURRIED = {
    "cg": diffusion.CG(max_iter=3),
    "cg on torch": diffusion.CG(max_iter=3, device="torch:cpu"),
    "hybrid": diffusion.Hybrid(rank=0, max_iter=3),
    "truncated": diffusion.Truncated(max_iter=3),
    "local": diffusion.Local(max_work=500),
}
every = pytest.mark.parametrize("name", list(CONTRACT))


def test_every_solver_is_tested_here():
    assert set(EXACT) == set(SOLVERS)
    assert set(HURRIED) == {name for name, kind in CONTRACT.items() if kind.limit is not None}
    with_device = [name for name, kind in SOLVERS.items() if "device" in signature(kind).parameters]
    assert list(ON_TORCH) == [f"{name} on torch" for name in with_device]


def prepared(solver, graph, transfer=RegularizedLaplacian(), **options):  # noqa: B008
    return dataclasses.replace(solver).prepare(graph, transfer, **options)


def with_defaults(name):
    """The solver with default settings, on the same device."""
    kind = type(CONTRACT[name])
    return kind(device=CONTRACT[name].device) if name in ON_TORCH else kind()


def rows(x):
    return x.toarray() if sparse.issparse(x) else x


def check_form(solution, m, n):
    """What a solution and its report are made of."""
    x, report = solution.x, solution.report
    assert x.shape == (m, n)
    assert x.dtype == np.float32
    if sparse.issparse(x):
        assert isinstance(x, sparse.csr_array)
        assert x.has_canonical_format
    else:
        assert isinstance(x, np.ndarray)
    kinds = {"residual": "f", "iterations": "i", "converged": "b", "work": "i", "certified": "b"}
    kinds |= {"observed": "i", "unknown": "i"}
    assert set(report.solver.split(", ")) <= set(SOLVERS)
    for field in dataclasses.fields(Report):
        if field.name == "solver":
            continue
        value = getattr(report, field.name)
        if field.name in ("confidence", "relevant"):
            assert value is None  # of a ranking, which a solver does not make
            continue
        assert value.shape == (m,), field.name
        assert value.dtype.kind == kinds[field.name], field.name
    for value in (report.residual, report.iterations, report.work):
        assert (value >= 0).all()


# --- the answer ----------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", VARIANTS.values(), ids=list(VARIANTS))
@settings(max_examples=30)  # for each of the variants
@given(
    neighbor_lists(),
    ALPHAS,
    st.sampled_from([None, *TRANSFERS]),
    st.integers(1, 40),
    st.booleans(),
    st.booleans(),
)
def test_exact_settings_equal_a_dense_solve(solver, lists, alpha, other, m, signed, gaps):
    graph = Graph.from_neighbors(*lists)
    n, W = graph.n_nodes, graph.W.toarray()
    if gaps:
        graph = with_gaps(graph, m)
    transfer = RegularizedLaplacian(alpha)
    if solver.any_transfer:
        # The largest eigenvalue is 1 but for W's rounding, which 1 / (1 - α) magnifies.
        transfer = other or RegularizedLaplacian(min(alpha, 0.99))
    y = random_observations(graph, m, m, signed=signed)
    y[m // 2] = 0
    everything = np.tile(np.random.default_rng(m).permutation(n), (m, 1))
    solution = prepared(solver, graph, transfer).solve(y, candidates=everything if m % 2 else None)
    check_form(solution, m, n)
    x = rows(solution.x)
    assert not x[m // 2].any()
    assert solution.report.converged.all()
    if solver.any_transfer:
        error = np.linalg.norm(x - dense_function(W, transfer, y), axis=1)
        assert (error <= 5e-6 * np.linalg.norm(y, axis=1)).all()
    else:
        assert relative_error(x, dense_diffusion(W, y, alpha)) < 1e-5


@every
def test_zero_observations_and_isolated_nodes(name):
    y = [[0, 0, 0], [0, 0, 2.0], [1.0, 0, 0], [0, 0, -2.0]]
    solution = prepared(CONTRACT[name], chain_and_isolated(), RegularizedLaplacian(0.75)).solve(y)
    x = rows(solution.x)
    assert not x[0].any()
    np.testing.assert_allclose(x[1], [0, 0, 0.5], rtol=2e-6)  # (1 - α) y
    # Two nodes, W = [[0, 1], [1, 0]]: x = (1 - α) / (1 - α²) (1, α).
    np.testing.assert_allclose(x[2], [0.25 / 0.4375, 0.1875 / 0.4375, 0], rtol=2e-6)
    np.testing.assert_array_equal(x[3], -x[1])
    assert solution.report.converged.all()
    if solution.report.iterations[0] == 0:
        assert solution.report.residual[0] == 0


@every
def test_a_graph_without_edges(name):
    graph = Graph.from_neighbors(np.full((5, 2), -1, np.int32), np.zeros((5, 2), np.float32))
    y = np.array([[0, 0, 0, 0, 0], [0, 3.0, 0, 0, 0]])
    solution = prepared(with_defaults(name), graph, RegularizedLaplacian(0.75)).solve(y)
    np.testing.assert_allclose(rows(solution.x), 0.25 * y, rtol=1e-5)
    assert solution.report.converged.all()


@every
def test_names_of_the_nodes_do_not_matter(name):
    A = mixed_adjacency()
    names = np.random.default_rng(7).permutation(len(A))
    solver = prepared(CONTRACT[name], symmetric_graph(A))
    renamed = prepared(CONTRACT[name], symmetric_graph(A[np.ix_(names, names)]))
    y = random_observations(symmetric_graph(A), 7)
    x, other = rows(solver.solve(y).x), rows(renamed.solve(y[:, names]).x)
    np.testing.assert_allclose(other, x[:, names], rtol=1e-4, atol=3e-6)


@every
def test_observations_together_are_each_by_itself(name):
    graph = mixed_graph()
    solver = prepared(CONTRACT[name], graph)
    y = random_observations(graph, 35)
    solution = solver.solve(y)
    assert (solution.report.work > 0).all()
    together = rows(solution.x)
    alone = np.concatenate([rows(solver.solve(row).x) for row in y])
    np.testing.assert_allclose(alone, together, rtol=1e-4, atol=1e-6)


@every
def test_no_observation(name):
    solver = prepared(CONTRACT[name], chain_and_isolated())
    check_form(solver.solve(sparse.csr_array((0, 3))), 0, 3)
    check_form(solver.solve(np.zeros((0, 3)), candidates=np.zeros((0, 2), int)), 0, 3)


@every
def test_the_report_counts_what_is_observed(name):
    solver = prepared(CONTRACT[name], chain_and_isolated())
    y = sparse.csr_array(([1.0, 2.0, 0.0, 3.0], [0, 2, 1, 2], [0, 2, 4, 4]), (3, 3))
    assert solver.solve(y).report.observed.tolist() == [2, 1, 0]


@every
def test_any_kind_of_array_is_observed_and_left_as_it_was(name):
    solver = prepared(CONTRACT[name], chain_and_isolated())
    y = np.array([[1, 0, 2], [0, 3, 0]])
    expected = rows(solver.solve(y).x)
    twice = sparse.coo_array((np.full(6, 0.5), ([0] * 4 + [1] * 2, [0, 0, 2, 2, 1, 1])), (2, 3))
    twice.data *= np.repeat([1.0, 2.0, 3.0], 2)
    for same in (y.tolist(), y.astype(np.float32), sparse.csc_matrix(y), twice):
        before = same.copy()
        np.testing.assert_array_equal(rows(solver.solve(same).x), expected)
        assert same == before if isinstance(same, list) else (same != before).sum() == 0


# --- offline work, and its arrays ----------------------------------------------------------------


@every
def test_restored_from_files_it_answers_the_same(tmp_path, name):
    graph = mixed_graph()
    solver = prepared(CONTRACT[name], graph)
    for key, array in solver.arrays().items():
        np.save(tmp_path / f"{key}.npy", array)
    mapped = {path.stem: np.load(path, mmap_mode="r") for path in tmp_path.iterdir()}
    restored = dataclasses.replace(CONTRACT[name]).restore(graph, RegularizedLaplacian(), mapped)
    y = random_observations(graph, 9)
    expected, solution = solver.solve(y), restored.solve(y)
    np.testing.assert_array_equal(rows(solution.x), rows(expected.x))
    np.testing.assert_array_equal(solution.report.work, expected.report.work)


@every
def test_progress_and_checkpoint_change_nothing(tmp_path, capsys, name):
    graph = mixed_graph()
    expected = prepared(CONTRACT[name], graph).arrays()
    assert capsys.readouterr() == ("", "")
    for _ in range(2):
        solver = prepared(CONTRACT[name], graph, progress=True, checkpoint=tmp_path / "part")
        assert not capsys.readouterr().out
        assert set(solver.arrays()) == set(expected)
        for key, array in solver.arrays().items():
            np.testing.assert_array_equal(array, expected[key])


# --- after an update -----------------------------------------------------------------------------


@pytest.mark.parametrize("solver", VARIANTS.values(), ids=list(VARIANTS))
def test_changed_equals_prepared_anew(solver):
    for before, after, change, touched in updates(mixed_adjacency()):
        old = prepared(solver, before, RegularizedLaplacian(0.9))
        y = random_observations(before, 3)
        kept, arrays = rows(old.solve(y).x), {k: a.copy() for k, a in old.arrays().items()}
        new = old.changed(after, change, touched)
        fresh = prepared(solver, after, RegularizedLaplacian(0.9))
        assert new is not old
        assert new == solver
        y_after = random_observations(after, 5)
        solution, expected = new.solve(y_after), fresh.solve(y_after)
        check_form(solution, 5, after.n_nodes)
        assert solution.report.converged.all()
        assert relative_error(rows(solution.x), rows(expected.x)) < 5e-6
        assert {k: (a.dtype, a.ndim) for k, a in new.arrays().items()} == {
            k: (a.dtype, a.ndim) for k, a in fresh.arrays().items()
        }
        restored = dataclasses.replace(solver).restore(
            after, RegularizedLaplacian(0.9), new.arrays()
        )
        np.testing.assert_array_equal(rows(restored.solve(y_after).x), rows(solution.x))
        # The solver of the graph before is what it was.
        np.testing.assert_array_equal(rows(old.solve(y).x), kept)
        for name, array in arrays.items():
            np.testing.assert_array_equal(old.arrays()[name], array)


# --- bad input -----------------------------------------------------------------------------------


@every
@pytest.mark.parametrize(
    ("observations", "message"),
    [
        (np.ones((2, 7)), r"observations: expected shape \(m, 3\) or \(3,\), got \(2, 7\)"),
        (np.ones(7), r"observations: expected shape \(m, 3\) or \(3,\), got \(7,\)"),
        (sparse.eye_array(7), "observations: expected shape"),
        (np.ones((2, 2, 3)), "observations: expected numbers of shape"),
        ([[1, 2, 3], [4]], "observations: expected numbers of shape"),
        (["a", "b", "c"], "observations: expected numbers of shape"),
        (None, "observations: expected"),
        ([np.nan, 1, 1], "observations: expected finite values"),
        (sparse.csr_array([[0, np.inf, 1]]), "observations: expected finite values"),
    ],
    ids=["columns", "length", "sparse", "cube", "ragged", "text", "none", "nan", "infinity"],
)
def test_bad_observations(name, observations, message):
    solver = prepared(CONTRACT[name], chain_and_isolated())
    with pytest.raises(diffusion.DiffusionError, match=message):
        solver.solve(observations)


@every
def test_a_setting_of_the_wrong_kind(name):
    own = dataclasses.fields(CONTRACT[name])
    assert own
    for setting in own:
        with pytest.raises(diffusion.DiffusionError, match=f"^{setting.name}: expected"):
            type(CONTRACT[name])(**{setting.name: object()})


@every
@pytest.mark.parametrize("transfer", [*TRANSFERS[1:], np.exp], ids=lambda h: type(h).__name__)
def test_a_transfer_function_is_applied_or_refused(vectors, name, transfer):
    graph = Reranker(k=10).fit(vectors).graph_
    if not CONTRACT[name].any_transfer:
        refused = f"transfer: solver '{CONTRACT[name].name}'"
        with pytest.raises(diffusion.DiffusionError, match=refused):
            prepared(CONTRACT[name], graph, transfer)
        with pytest.raises(diffusion.DiffusionError, match=refused):
            dataclasses.replace(CONTRACT[name]).restore(graph, transfer, {})
    elif transfer is not np.exp:
        y = np.eye(120)[:5]
        expected = dense_function(graph.W.toarray(), transfer, y)
        x = rows(prepared(CONTRACT[name], graph, transfer).solve(y).x)
        np.testing.assert_allclose(x, expected, atol=3e-5 * np.abs(expected).max())


# --- solves that end early -----------------------------------------------------------------------


@pytest.mark.parametrize("name", list(HURRIED))
def test_warns_and_reports_when_it_has_not_converged(vectors, name):
    graph = Reranker(k=10).fit(vectors).graph_
    solver = prepared(HURRIED[name], graph)
    limit, kind = CONTRACT[name].limit, type(CONTRACT[name]).__name__
    message = f"3 of 3 observations have not converged .* raise {kind}'s {limit} or tol"
    with pytest.warns(diffusion.ConvergenceWarning, match=message) as caught:
        solution = solver.solve(np.eye(len(vectors))[:3])
    assert {warning.filename for warning in caught} == {__file__}
    assert not solution.report.converged.any()
    assert not solution.report.certified.any()
    assert (solution.report.residual > 1e-6).all()
    if limit == "max_iter":
        assert (solution.report.iterations == 3).all()


@pytest.mark.parametrize("name", [name for name in HURRIED if name != "local"])
def test_an_iterative_solver_reports_its_true_residual(name):
    graph = mixed_graph()
    y = random_observations(graph, 7, 1)
    solution = prepared(dataclasses.replace(CONTRACT[name], tol=1e-4), graph).solve(y)
    x, b = rows(solution.x).astype(float), 0.01 * y
    Lx = x - 0.99 * x @ graph.W.toarray()
    residual = np.linalg.norm(b - Lx, axis=1) / np.linalg.norm(b, axis=1)
    # The rounding of x to float32 alone is worth 1e-6 here.
    np.testing.assert_allclose(solution.report.residual, residual, rtol=0.05, atol=2e-6)
    assert (solution.report.residual <= 1e-4).all()
    assert (solution.report.iterations > 1).all()


# --- within a Reranker ---------------------------------------------------------------------------


@every
def test_search_save_and_load(vectors, tmp_path, name):
    ranker = Reranker(k=10, solver=CONTRACT[name]).fit(vectors)
    expected = ranker.search(vectors[:40] + 0.1, k=120)
    exact = Reranker(k=10, solver=EXACT["cg"]).fit(vectors).search(vectors[:40] + 0.1, k=120)
    same = (expected[1][:, :10] == exact[1][:, :10]).mean()
    assert same > 0.98  # all but near ties
    ranker.save(tmp_path / "index")
    device = CONTRACT[name].device if name in ON_TORCH else "cpu"
    loaded = diffusion.load(tmp_path / "index", verify=True, device=device)
    assert loaded.get_params() == ranker.get_params()
    for mine, theirs in zip(loaded.search(vectors[:40] + 0.1, k=120), expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("name", list(SOLVERS))
def test_the_name_alone_will_do(vectors, tmp_path, name):
    ranker = Reranker(k=10, solver=name).fit(vectors)
    _, ids = ranker.search(vectors[[0, 50, 100]], k=30)
    assert (ids // 40 == np.array([[0], [1], [2]])).mean() > 0.9
    ranker.save(tmp_path / "index")
    assert diffusion.load(tmp_path / "index").solver == name


@every
def test_one_item_and_isolated_items(name):
    ranker = Reranker(affinity="cosine", solver=CONTRACT[name]).fit([[1.0, 2.0]])
    np.testing.assert_allclose(ranker.search([1.0, 2.0], k=2)[0][0], 0.01, rtol=1e-5)
    ranker = Reranker(affinity="cosine", k=1, solver=CONTRACT[name]).fit(
        [[1, 0, 0], [1, 0.1, 0], [0, 0, 1.0]]
    )
    scores, ids = ranker.search([0.1, 0.1, 1.0], k=3)
    assert sorted(ids) == [0, 1, 2]
    assert (scores > 0).all()
    _, ids = ranker.rerank([-0.5, -0.6], [2, 0], k=3)
    assert ids.tolist() == [2, 0, -1]


def test_a_named_transfer_function_is_saved(vectors, tmp_path):
    ranker = Reranker(k=10, solver="chebyshev", transfer=diffusion.HeatKernel(4.0)).fit(vectors)
    ranker.save(tmp_path / "index")
    loaded = diffusion.load(tmp_path / "index")
    assert loaded.transfer == diffusion.HeatKernel(4.0)
    np.testing.assert_array_equal(loaded.search(vectors)[1], ranker.search(vectors)[1])
    custom = Reranker(k=10, solver="chebyshev", transfer=TRANSFERS[-1]).fit(vectors)
    with pytest.raises(diffusion.DiffusionError, match="transfer: a CustomTransfer holds"):
        custom.save(tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_settings_are_not_shared_between_rankers(vectors):
    solver = diffusion.CG()
    first = Reranker(k=5, alpha=0.99, solver=solver).fit(vectors)
    second = Reranker(k=20, solver=solver).fit(vectors)
    assert first.solver_ is not second.solver_ is not solver
    assert isinstance(solver, Solver)
    y = np.eye(120)[0]
    expected = dense_diffusion(first.graph_.W.toarray(), y, 0.99)
    np.testing.assert_allclose(first.solver_.solve(y).x, expected, atol=1e-4 * expected.max())
