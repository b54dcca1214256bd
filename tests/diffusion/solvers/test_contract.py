"""What every solver must do, whichever it is."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

import diffusion
from diffusion import Reranker
from diffusion.solvers import SOLVERS, Solver
from tests.support.oracles import dense_diffusion

# Settings with which each solver is exact on the 120 vectors of the fixture.
EXACT = {
    "cg": diffusion.CG(tol=1e-8),
    "spectral": diffusion.Spectral(rank=120),
    "hybrid": diffusion.Hybrid(rank=10, tol=1e-8),
    "chebyshev": diffusion.Chebyshev(tol=1e-8),
    "columns": diffusion.Columns(size=120, keep=120, tol=1e-8),
    "truncated": diffusion.Truncated(size=120, tol=1e-8),
    "local": diffusion.Local(tol=1e-7),
}
TRANSFERS = [
    diffusion.RegularizedLaplacian(0.9),
    diffusion.HeatKernel(5.0),
    diffusion.TruncatedRandomWalk(0.9, 6),
    diffusion.CustomTransfer(np.exp, kind="increasing"),
]
every = pytest.mark.parametrize("name", list(SOLVERS))


def test_every_solver_is_tested_here():
    assert set(EXACT) == set(SOLVERS)


def rows(x):
    return x.toarray() if sparse.issparse(x) else x


@every
def test_exact_settings_equal_a_dense_solve(vectors, name):
    ranker = Reranker(k=10, solver=EXACT[name]).fit(vectors)
    rng = np.random.default_rng(1)
    y = rng.random((35, 120)) * (rng.random((35, 120)) < 0.05)
    everything = np.tile(np.arange(120), (35, 1))
    solution = ranker.solver_.solve(y, candidates=everything)
    expected = dense_diffusion(ranker.graph_.W.toarray(), y, 0.99)
    np.testing.assert_allclose(rows(solution.x), expected, atol=2e-5 * expected.max())
    assert solution.x.dtype == np.float32
    report = solution.report
    for field in (report.residual, report.iterations, report.converged, report.work):
        assert field.shape == (35,)
    assert report.converged.all()
    assert (report.work > 0)[y.any(axis=1)].all()


@every
def test_search_save_and_load(vectors, tmp_path, name):
    ranker = Reranker(k=10, solver=EXACT[name]).fit(vectors)
    expected = ranker.search(vectors[:40] + 0.1, k=120)
    exact = Reranker(k=10, solver=EXACT["cg"]).fit(vectors).search(vectors[:40] + 0.1, k=120)
    same = (expected[1][:, :10] == exact[1][:, :10]).mean()
    assert same > 0.98  # all but near ties
    ranker.save(tmp_path / "index")
    loaded = diffusion.load(tmp_path / "index", verify=True)
    assert loaded.get_params() == ranker.get_params()
    for mine, theirs in zip(loaded.search(vectors[:40] + 0.1, k=120), expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@every
def test_the_name_alone_will_do(vectors, tmp_path, name):
    ranker = Reranker(k=10, solver=name).fit(vectors)
    _, ids = ranker.search(vectors[[0, 50, 100]], k=30)
    assert (ids // 40 == np.array([[0], [1], [2]])).mean() > 0.9
    ranker.save(tmp_path / "index")
    assert diffusion.load(tmp_path / "index").solver == name


@every
def test_one_item_zero_observations_and_isolated_nodes(name):
    ranker = Reranker(affinity="cosine", solver=EXACT[name]).fit([[1.0, 2.0]])
    np.testing.assert_allclose(ranker.search([1.0, 2.0], k=2)[0][0], 0.01, rtol=1e-5)
    ranker = Reranker(affinity="cosine", k=1, solver=EXACT[name]).fit(
        [[1, 0, 0], [1, 0.1, 0], [0, 0, 1.0]]
    )
    scores, ids = ranker.search([0.1, 0.1, 1.0], k=3)
    assert sorted(ids) == [0, 1, 2]
    assert (scores > 0).all()
    _, ids = ranker.rerank([-0.5, -0.6], [2, 0], k=3)
    assert ids.tolist() == [2, 0, -1]


@every
@pytest.mark.parametrize("transfer", TRANSFERS, ids=lambda transfer: transfer.name)
def test_a_transfer_function_is_applied_or_refused(vectors, name, transfer):
    ranker = Reranker(k=10, solver=EXACT[name], transfer=transfer)
    if name in ("spectral", "chebyshev") or transfer is TRANSFERS[0]:
        ranker.fit(vectors)
        values, basis = np.linalg.eigh(ranker.graph_.W.toarray().astype(float))
        y = np.eye(120)[:5]
        expected = y @ (basis * transfer(values)) @ basis.T
        x = rows(ranker.solver_.solve(y, candidates=np.tile(np.arange(120), (5, 1))).x)
        np.testing.assert_allclose(x, expected, atol=3e-5 * np.abs(expected).max())
    else:
        with pytest.raises(diffusion.DiffusionError, match=f"transfer: solver '{name}'"):
            ranker.fit(vectors)


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
    first = Reranker(k=5, solver=solver).fit(vectors)
    second = Reranker(k=20, solver=solver).fit(vectors)
    assert first.solver_ is not second.solver_ is not solver
    assert isinstance(solver, Solver)
    y = np.eye(120)[0]
    expected = dense_diffusion(first.graph_.W.toarray(), y, 0.99)
    np.testing.assert_allclose(first.solver_.solve(y).x, expected, atol=1e-4 * expected.max())
