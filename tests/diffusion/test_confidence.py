"""Confidence, cautious rankings and the number of relevant results."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import sparse

import diffusion
from diffusion import Context, DiffusionError, Reranker
from diffusion.affinity import Observation
from diffusion.confidence import confidence_of, relevant_of, shares_of, signs_of, tempered
from diffusion.index_state import IndexState
from diffusion.kernels.matrix import SparseRows
from diffusion.kernels.ranking import EVERYTHING, FirstStage
from diffusion.solvers import CG
from diffusion.solvers.base import Report
from tests.support.forgery import change_manifest, sign
from tests.support.oracles import similarity

EXACT = CG(tol=1e-12, max_iter=1000)
NO_STARTS = np.empty(0, np.int64)
SHIPPED = diffusion.confidence._MODEL


@pytest.fixture(autouse=True)
def model(monkeypatch):
    """Use a model with high and low confidence, whatever the one fitted to the survey says."""
    monkeypatch.setattr(diffusion.confidence, "_MODEL", (0.65, 3.33, -1.24))


def rows_of(dense):
    """Return the positive entries of rows, in descending order of the ids."""
    out = SparseRows.of_at_most(np.count_nonzero(dense > 0, axis=1))
    for row, values in enumerate(dense):
        ids = np.flatnonzero(values > 0)[::-1]
        out.ids[out.starts[row] : out.starts[row] + len(ids)] = ids
        out.values[out.starts[row] : out.starts[row] + len(ids)] = values[ids]
        out.counts[row] = len(ids)
    return out


def observed(J):
    return Observation(SparseRows.of_csr(sparse.csr_array((len(J), J.shape[1]))), rows_of(J))


def collection(n=240, centres=8, seed=0, noise=0.35):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((centres, 10))[np.arange(n) % centres]
    X = X + noise * rng.standard_normal((n, 10))
    return X, X[:12] + 0.5 * rng.standard_normal((12, 10))


# --- the signs -----------------------------------------------------------------------------------


def test_the_signs_by_hand():
    J = np.zeros((1, 40), np.float32)
    J[0, :30] = np.linspace(0.6, 0.02, 30)  # the 24th is 0.6 - 23 * 0.02 = 0.14
    ids = np.array([[0, 2, 99, 35, 4, 1, 29, 3, -1]])  # 99 is unknown, and 3 the seventh known
    scores = np.linspace(1, 0, 9, dtype=np.float32)[None]
    (agreement, breadth), *_ = signs_of(observed(J), scores, ids, 40)
    assert agreement == pytest.approx((0.6 + 0.56 + 0 + 0.52 + 0.58 + 0.02) / 6, abs=1e-6)
    assert breadth == pytest.approx(0.14 / 0.6, abs=1e-6)


def test_an_item_that_asks_is_left_out():
    J = np.array([[1, 0.5, 0.25, 0]], np.float32)
    scores, ids = np.array([[0.9, 0.8]], np.float32), np.array([[0, 1]])
    found = signs_of(observed(J), scores, ids, 4, itself=np.array([0]))
    assert found[0, 0] == 0.5
    # There are four items, and the fourth has no J.
    assert found[0, 1] == 0


def test_without_neighbourhoods_there_is_no_confidence():
    y = SparseRows.of_csr(sparse.csr_array((1, 4)))
    assert signs_of(Observation(y), np.zeros((1, 1), np.float32), np.zeros((1, 1), int), 4) is None


def test_more_agreement_is_more_confidence_and_more_confidence_a_larger_share(monkeypatch):
    monkeypatch.setattr(diffusion.confidence, "_MODEL", SHIPPED)
    signs = np.column_stack([np.linspace(0, 1, 50), np.full(50, 0.2)])
    confidence = confidence_of(signs)
    assert ((confidence > 0) & (confidence < 1)).all()
    assert (np.diff(confidence) > 0).all()
    shares = shares_of(np.linspace(0, 1, 101, dtype=np.float32))
    assert (np.diff(shares) >= 0).all()
    assert shares[0] == 0
    assert shares[60] == 0  # so rare a success is not tried
    assert shares[90] == pytest.approx(0.5)
    assert (shares[96:] == 1).all()


# --- cautious scores -----------------------------------------------------------------------------


def test_tempered_scores_by_hand():
    fused = np.array([[0.9, 0.5, 0, 0.3], [0.9, 0.5, 0.2, 0.3]], np.float32)
    ids = np.array([[1, 0, 7], [3, 0, 1]])  # 7 is unknown
    scores = np.array([[0.9, 0.8, 0.7]] * 2, np.float32)
    evidence = np.array([[0.4, 0.2, 0.1], [0.3, 0.25, 0]], np.float32)
    confidence = np.array([0.9, 0.2], np.float32)  # of which half and nothing is left
    s = 0.5
    expected = [[s * 0.9 + s * 0.2, s * 0.5 + s * 0.4, 0, s * 0.3], [0.25, 0, 0, 0.3]]
    sparse_rows = tempered(rows_of(fused), confidence, scores, ids, evidence)
    assert sparse_rows.csr(4).toarray() == pytest.approx(np.array(expected), abs=1e-6)
    dense = tempered(fused, confidence, scores, ids, evidence)
    assert dense == pytest.approx(np.array(expected), abs=1e-6)


@pytest.mark.parametrize("solver", ["auto", "local", EXACT, "columns"], ids=str)
def test_a_cautious_ranking_is_that_of_the_tempered_scores(solver):
    X, Q = collection()
    n = len(X)
    ranker = Reranker(k=10, solver=solver).fit(X)
    scores, ids = ranker.search(Q, n)
    share = shares_of(ranker.report_.confidence)
    assert ((share > 0) & (share < 1)).any()
    fitted = ranker.fitted()
    lists, observed = fitted.first_stage(Q, n, query_k=10, progress=False)
    scale = fitted.affinity.scale_of(observed[0])
    own = np.zeros((len(Q), n))
    np.put_along_axis(own, lists[1], fitted.score.evidence(FirstStage(*lists), scale), axis=1)
    plain = np.zeros((len(Q), n))
    np.put_along_axis(plain, ids, np.maximum(scores, 0), axis=1)
    expected = share[:, None] * plain + (1 - share[:, None]) * own
    found, order = ranker.set_params(cautious=True).search(Q, n)
    assert np.maximum(found, 0) == pytest.approx(
        np.take_along_axis(expected, order, axis=1), abs=1e-6
    )
    assert (np.sort(order, axis=1) == np.arange(n)).all()
    changed = (order != ids).any(axis=1)
    assert changed.any()
    # Both modes say the same of a query.
    assert (shares_of(ranker.report_.confidence) == share).all()


def test_a_shorter_answer_is_the_beginning_of_a_longer_one():
    X, Q = collection()
    ranker = Reranker(k=10, cautious=True, solver=EXACT).fit(X)
    scores, ids = ranker.search(Q, 150)
    confidence, relevant = ranker.report_.confidence, ranker.report_.relevant
    for k in (1, 7, 100):
        fewer = ranker.search(Q, k)
        assert (fewer[1] == ids[:, :k]).all()
        assert fewer[0] == pytest.approx(scores[:, :k], abs=1e-6)
        assert (ranker.report_.confidence == confidence).all()
        assert (ranker.report_.relevant == relevant).all()


@given(factor=st.sampled_from([2.0**-20, 0.25, 8.0, 2.0**20]))
def test_neither_confidence_nor_ranking_depends_on_the_scale(factor):
    # Powers of two: the products are exact.
    X, Q = collection(60, 4)
    one = Reranker(k=10, cautious=True, metric="inner_product", solver=EXACT).fit(X)
    other = Reranker(k=10, cautious=True, metric="inner_product", solver=EXACT).fit(X * factor)
    ids, same = one.search(Q, 20)[1], other.search(Q * factor, 20)[1]
    assert (ids == same).all()
    assert (one.report_.confidence == other.report_.confidence).all()
    assert (one.report_.relevant == other.report_.relevant).all()


def by_scaled_scores(X, Q, *, k, factor):
    """Return all items by the first-stage scores less the local scales, for lists of k."""
    own = similarity(X, X, "cosine") - 9 * np.eye(len(X))
    scales = np.sort(own, axis=1)[:, -min(k, 12)]
    return np.argsort(-(similarity(Q, X, "cosine") - factor * scales), axis=1, kind="stable")


@pytest.mark.parametrize("scaling", [0.0, 0.3])
def test_a_query_among_noise_stays_with_the_first_stage(scaling):
    rng = np.random.default_rng(0)
    X, Q = rng.standard_normal((2000, 300)), rng.standard_normal((20, 300))
    ranker = Reranker(affinity=Context(scaling=scaling)).fit(X)
    found = ranker.search(Q, 10)[1]
    assert (ranker.report_.confidence < 0.75).all()
    careful = ranker.set_params(cautious=True).search(Q, 10)[1]
    nearest = by_scaled_scores(X, Q, k=12, factor=scaling)[:, :10]
    assert (careful[:, :3] == nearest[:, :3]).all()
    assert (careful == nearest).mean() > 0.9
    assert (found == nearest).mean() < 0.3


@pytest.mark.parametrize("scaling", [0.0, 0.3])
@pytest.mark.parametrize("solver", [EXACT, "local"], ids=str)
def test_without_confidence_the_ranking_is_the_first_stage(solver, scaling, monkeypatch):
    X, Q = collection()
    ranker = Reranker(affinity=Context(scaling=scaling), k=10, cautious=True, solver=solver).fit(X)
    low = np.float32(0.6)
    monkeypatch.setattr(diffusion.fitted, "confidence_of", lambda signs: np.full(len(signs), low))
    nearest = by_scaled_scores(X, Q, k=10, factor=scaling)
    for k in (5, 240):
        assert (ranker.search(Q, k)[1] == nearest[:, :k]).all()
    mask = np.arange(240) % 7 == 0
    for row, ids in enumerate(ranker.search(Q, 20, allow=mask)[1]):
        assert ids.tolist() == nearest[row][mask[nearest[row]]][:20].tolist()


def test_a_query_amid_a_tight_group_finds_it():
    X, _ = collection(noise=0.02)
    ranker = Reranker(k=30, solver=EXACT).fit(X)
    found = ranker.search(X[:12] + 1e-3, 30)[1]
    assert (ranker.report_.confidence > 0.8).all()
    careful = ranker.set_params(cautious=True).search(X[:12] + 1e-3, 30)[1]
    assert (np.sort(found, axis=1) == np.sort(careful, axis=1)).all()


# --- in all forms of a search --------------------------------------------------------------------


@pytest.mark.parametrize("k", [3, 40])
def test_a_filter_leaves_the_cautious_order(k):
    X, Q = collection()
    ranker = Reranker(k=10, cautious=True, solver=EXACT).fit(X)
    everything, relevant = ranker.search(Q, len(X))[1], ranker.report_.relevant
    plain = Reranker(k=10, solver=EXACT).fit(X)
    order = plain.search(Q, len(X))[1]
    mask = np.arange(len(X)) % 3 == 0
    ids = ranker.search(Q, k, allow=mask)[1]
    for row, all_ids in enumerate(everything):
        assert ids[row].tolist() == all_ids[mask[all_ids]][:k].tolist()
        assert ranker.report_.relevant[row] == mask[order[row, : relevant[row]]].sum()


def test_hits_are_reordered_cautiously():
    X, Q = collection()
    ranker = Reranker(k=10, cautious=True, solver=EXACT).fit(X)
    lists, _ = ranker.fitted().first_stage(Q, 120, query_k=10, progress=False)
    scores, ids = lists[0][:, :120], lists[1][:, :120]
    searched, found = ranker.search(Q, 60), ranker.rerank(scores, ids, 60)
    assert (searched[1] == found[1]).all()
    everything = ranker.search(Q, len(X))[1]
    confidence, relevant = ranker.report_.confidence, ranker.report_.relevant
    only = ranker.rerank(scores, ids, 120, restrict_to_candidates=True)[1]
    assert (ranker.report_.confidence == confidence).all()
    order = ranker.set_params(cautious=False).rerank(scores, ids, len(X))[1]
    relevant = ranker.report_.relevant
    for row in range(len(Q)):
        kept = everything[row][np.isin(everything[row], ids[row])]
        assert only[row].tolist() == kept.tolist()
    ranker.rerank(scores, ids, 120, restrict_to_candidates=True)
    for row in range(len(Q)):
        first = order[row, : relevant[row]]
        assert ranker.report_.relevant[row] == np.isin(first, ids[row]).sum()


def test_unknown_hits_stay_by_their_evidence():
    X, Q = collection()
    ranker = Reranker(k=10, solver=EXACT).fit(X)
    lists, _ = ranker.fitted().first_stage(Q, 100, query_k=10, progress=False)
    scores, ids = lists[0][:, :100], lists[1][:, :100].copy()
    ids[:, 5] = 10_000
    plain = ranker.rerank(scores, ids, 300)
    confidence = ranker.report_.confidence
    careful = ranker.set_params(cautious=True).rerank(scores, ids, 300)
    assert (ranker.report_.confidence == confidence).all()
    assert (ranker.report_.unknown == 1).all()
    for one in (plain, careful):
        here = one[1] == 10_000
        assert (here.sum(axis=1) == 1).all()
    # Their score is the first stage's alone, whatever the share of the rest.
    assert plain[0][plain[1] == 10_000] == pytest.approx(careful[0][careful[1] == 10_000])


def test_copies_count_as_items():
    X, Q = collection(120, 6)
    single = Reranker(k=10, solver=EXACT).fit(X)
    single.search(Q, 10)
    double = Reranker(k=10, solver=EXACT).fit(np.concatenate([X, X, X[:50]]))
    double.search(Q, 10)
    assert (double.report_.confidence == single.report_.confidence).all()
    order = single.search(Q, 120)[1]
    for row, length in enumerate(single.report_.relevant):
        expected = 2 * length + (order[row, :length] < 50).sum()
        assert double.report_.relevant[row] == expected


def test_many_queries_have_a_report_each(monkeypatch):
    X, Q = collection()
    ranker = Reranker(k=10, cautious=True).fit(X)
    ids, whole = ranker.search(Q, 20)[1], ranker.report_
    monkeypatch.setattr(diffusion.fitted, "_BATCH_QUERIES", 5)
    assert (ranker.search(Q, 20)[1] == ids).all()
    assert (ranker.report_.confidence == whole.confidence).all()
    assert (ranker.report_.relevant == whole.relevant).all()
    assert whole.confidence.dtype == np.float32
    assert whole.relevant.dtype == np.int64
    ranker.search(Q[:0], 20)
    assert ranker.report_.confidence.shape == ranker.report_.relevant.shape == (0,)


def test_reports_are_joined_and_replaced():
    def report(values):
        m = len(values)
        empty = np.zeros(m), np.zeros(m, int), np.ones(m, bool), np.zeros(m, int), np.ones(m, bool)
        known = {"observed": np.ones(m, int), "unknown": np.zeros(m, int)}
        return Report(*empty, **known, confidence=np.float32(values), relevant=np.array([7] * m))

    joined = Report.concatenate([report([0.5, 0.25]), report([1])])
    assert joined.confidence.tolist() == [0.5, 0.25, 1]
    changed = joined.replaced(np.array([1]), report([0.75]))
    assert changed.confidence.tolist() == [0.5, 0.75, 1]
    assert changed.relevant.tolist() == [7, 7, 7]


def test_other_scores_have_no_confidence():
    X, Q = collection(60, 4)
    for parameters in ({"affinity": "cosine"}, {"score": "diffusion"}):
        ranker = Reranker(k=8, **parameters).fit(X)
        ranker.search(Q, 5)
        assert ranker.report_.confidence is None
        assert ranker.report_.relevant is None
        with pytest.raises(DiffusionError, match="cautious: only a fusion has a confidence"):
            ranker.set_params(cautious=True).search(Q, 5)
        with pytest.raises(DiffusionError, match="cautious: only a fusion"):
            Reranker(k=8, cautious=True, **parameters).fit(X)
    with pytest.raises(DiffusionError, match="cautious: expected True or False, got 'yes'"):
        Reranker(cautious="yes").fit(X)


def test_a_query_without_observation_is_certain():
    X, _ = collection(60, 4)
    ranker = Reranker(k=8, cautious=True).fit(X)
    ranker.search(np.zeros(10), 5)
    assert ranker.report_.observed.tolist() == [0]
    assert ranker.report_.confidence.tolist() == [1]
    assert ranker.report_.relevant.tolist() == [0]


def test_an_index_keeps_the_mode(tmp_path):
    X, Q = collection(60, 4)
    ranker = Reranker(k=8).fit(X)
    ranker.cautious = np.True_
    expected = ranker.search(Q, 20)
    ranker.save(tmp_path / "index")
    loaded = diffusion.load(tmp_path / "index")
    assert loaded.cautious is True
    assert (loaded.search(Q, 20)[1] == expected[1]).all()
    state = ranker.state()
    earlier = {name: value for name, value in state.parameters.items() if name != "cautious"}
    old = IndexState(earlier, state.sizes, state.arrays, rows=state.rows)
    assert Reranker.from_state(old).cautious is False
    change_manifest(tmp_path / "index", lambda m: m["parameters"].update(cautious="yes"))
    sign(tmp_path / "index")
    with pytest.raises(DiffusionError, match="cautious"):
        diffusion.load(tmp_path / "index")


def test_an_explanation_is_of_the_cautious_ranking():
    X, Q = collection()
    ranker = Reranker(k=10, cautious=True, solver=EXACT).fit(X)
    scores, ids = ranker.search(Q, 60)
    assert (shares_of(ranker.report_.confidence) < 1).any()
    for row in range(len(Q)):
        for place in (0, 3, 59):
            explanation = ranker.explain(Q[row], ids[row, place])
            assert explanation.rank == place + 1
            assert explanation.score == pytest.approx(scores[row, place], abs=1e-6)
            assert sum(explanation.shares) == pytest.approx(max(0, scores[row, place]), abs=1e-5)


# --- how many are real ---------------------------------------------------------------------------


def variance_between(values, length):
    """Return the variance between the first values and the others, of the power 1.5."""
    v = values**1.5
    if length == len(v):
        return 0.0
    return length * (len(v) - length) * (v[:length].mean() - v[length:].mean()) ** 2


def test_two_plain_classes():
    fused = np.array([[0.05, 0.9, 0, 1.1, 0.1, 1.0, 0]], np.float32)
    for scores in (fused, rows_of(fused), 1000 * fused):
        least, items = relevant_of(scores, 7, EVERYTHING, NO_STARTS)
        assert items.tolist() == [3]
        assert least[0] in (np.float32(0.9), np.float32(900))
    allowed = np.array([1, 1, 1, 0, 0, 1, 1], np.uint8)
    assert relevant_of(fused, 7, allowed, NO_STARTS)[1].tolist() == [2]
    starts = np.array([0, 1, 5, 6, 7, 8, 10, 11])
    assert relevant_of(fused, 7, EVERYTHING, starts)[1].tolist() == [4 + 1 + 2]


def test_all_or_nothing():
    for scores in (np.zeros((1, 5), np.float32), rows_of(np.zeros((1, 5), np.float32))):
        least, items = relevant_of(scores, 5, EVERYTHING, NO_STARTS)
        assert least[0] == np.inf
        assert items[0] == 0
    assert relevant_of(np.ones((1, 5), np.float32), 5, EVERYTHING, NO_STARTS)[1].tolist() == [5]


@given(arrays(np.float32, st.integers(2, 60), elements=st.floats(0, 2, width=32)))
def test_no_cut_separates_much_better(values):
    if values.max() < 1e-3:
        return
    least, items = relevant_of(values[None], len(values), EVERYTHING, NO_STARTS)
    same, again = relevant_of(rows_of(values[None]), len(values), EVERYTHING, NO_STARTS)
    assert (least == same).all()
    assert (items == again).all()
    assert items[0] == np.count_nonzero(values >= least[0])
    order = np.sort(values.astype(np.float64))[::-1]
    best = max(variance_between(order, length) for length in range(1, len(order)))
    # Cuts between scores of the same of 1024 bins are not tried.
    assert variance_between(order, items[0]) >= 0.98 * best - 1e-2 * order[0] ** 3


def test_groups_are_found():
    X, _ = collection(240, 8, noise=0.05)
    ranker = Reranker(solver=EXACT).fit(X)
    ranker.search(X[:16] + 0.01, 30)
    assert ranker.report_.relevant.tolist() == [30] * 16


# --- the collection ------------------------------------------------------------------------------


def test_items_as_queries_tell_noise_from_groups():
    rng = np.random.default_rng(0)
    groups, _ = collection(noise=0.02)
    good = Reranker().fit(groups).diagnose()
    bad = Reranker().fit(rng.standard_normal((600, 200))).diagnose()
    assert good.confidence > bad.confidence + 0.05
    assert bad.confidence < 0.75
    assert "may lose more than a point" in str(bad)
    plain = Reranker(affinity="cosine").fit(groups).diagnose()
    assert plain.confidence is None
    assert "lose more than" not in str(plain)


def test_an_item_as_a_query_is_not_in_the_collection():
    X, _ = collection(60, 4)
    ranker = Reranker(k=10).fit(X)
    found = []
    for i in range(60):
        ids = np.delete(np.arange(60), i)
        scores = diffusion.expansion.normalize(X)[ids] @ diffusion.expansion.normalize(X)[i]
        order = np.argsort(-scores, kind="stable")
        observation = ranker.fitted().affinity.observe(
            np.float32(scores[order][None, :10]), ids[order][None, :10], 1
        )
        J = observation.J.csr(60).toarray()[0]
        J[i] = 0
        found.append([J[ids[order][:6]].mean(), np.sort(J)[-24] / J.max()])
    expected = confidence_of(np.array(found)).mean()
    assert ranker.diagnose().confidence == pytest.approx(expected, abs=1e-3)
