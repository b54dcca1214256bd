"""Choosing parameters from labelled queries: the rule, what it is told, and what it changes."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import diffusion
from diffusion import Context, DiffusionError, Fusion, Reranker
from diffusion.tuning import Choice, Labelled, Setting, choose, judged, present_setting

# --- the rule, on tables --------------------------------------------------------------------------

TABLES = st.integers(2, 9).flatmap(
    lambda queries: st.integers(1, 6).flatmap(
        lambda rows: arrays(np.float64, (rows, queries), elements=st.floats(0, 100))
    )
)


def bound(gains):
    m = len(gains)
    spread = np.sqrt((np.var(gains, ddof=1) + 9) / m)
    return np.mean(gains) - scipy.stats.t.ppf(0.9, m - 1) * spread


def brute_force(table):
    """Return the choice, the gains of those left out, and how clear all choices were, by loops."""
    clear = []

    def row(some):
        if some.shape[1] < 2:
            return 0
        bounds = [0.0] + [bound(other - some[0]) for other in some[1:]]
        clear.append(-np.diff(np.sort(bounds)[-2:][::-1]).max(initial=-1))
        return int(np.argmax(bounds))

    left_out = []
    for query in range(table.shape[1]):
        chosen = row(np.delete(table, query, axis=1))
        left_out.append(table[chosen, query] - table[0, query])
    best = row(table)
    clear.append(abs(np.mean(left_out)))
    return (best if np.mean(left_out) > 0 else 0), np.array(left_out), min(clear)


def test_a_worked_choice():
    # Gains of 28, 30 and 32: mean 30, variance 4; t(0.9, 2) = 1.8856, t(0.975, 2) = 4.3027.
    # Without a query, the other two say the same: 29 - 3.0777 sqrt((2 + 9) / 2) > 0.
    table = np.array([[50.0, 50.0, 50.0], [78.0, 80.0, 82.0], [51.0, 50.0, 49.0]])
    choice = choose(table)
    assert (choice.best, choice.gain, choice.needed) == (1, 30, None)
    np.testing.assert_allclose(choice.bounds, [0, 26.0747, -3.4426], atol=1e-3)
    np.testing.assert_allclose(choice.interval, (21.0433, 38.9567), atol=1e-3)


def test_what_three_queries_do_not_show_is_not_chosen():
    # Gains of 3, 5 and 7. All three suffice, 5 - 1.8856 sqrt((4 + 9) / 3) > 0, but no two of
    # them do: 6 - 3.0777 sqrt((2 + 9) / 2) < 0. The choice does not hold on queries left out.
    choice = choose(np.array([[50.0, 50.0, 50.0], [53.0, 55.0, 57.0]]))
    assert choice.bounds[1] > 0
    assert (choice.best, choice.gain, choice.interval) == (0, 0, (0, 0))


def test_two_queries_never_suffice():
    assert choose(np.array([[1.0, 1.0], [99.0, 99.0]])).best == 0


def test_chance_agreement_is_no_proof():
    # Ten queries that gain 0.5 each have no variance.
    table = np.stack([np.full(10, 50.0), np.full(10, 50.5)])
    choice = choose(table)
    assert choice.best == 0
    # 0.5 > t(0.9, m - 1) 3 / sqrt(m) holds from m = 61 on.
    assert choice.needed == 61
    assert choose(np.tile(table, 6)).best == 0
    assert choose(np.tile(table, 7)).best == 1


def test_nothing_is_needed_where_nothing_gains():
    assert choose(np.stack([np.full(10, 50.0), np.full(10, 40.0)])).needed is None


@settings(max_examples=300, deadline=None)
@given(TABLES)
def test_the_choice_is_that_of_leave_one_out_by_loops(table):
    best, left_out, clear = brute_force(table)
    choice = choose(table)
    expected = [0.0] + [bound(row - table[0]) for row in table[1:]]
    np.testing.assert_allclose(choice.bounds, expected, atol=1e-9)
    if clear < 1e-6 and left_out.any():
        return  # rounding decides
    assert choice.best == best
    if choice.best:
        half = scipy.stats.t.ppf(0.975, len(left_out) - 1) * np.sqrt(
            (left_out.var(ddof=1) + 9) / len(left_out)
        )
        assert choice.gain == pytest.approx(left_out.mean())
        assert choice.interval == pytest.approx((choice.gain - half, choice.gain + half))
    else:
        assert (choice.gain, choice.interval) == (0, (0, 0))


@settings(max_examples=100, deadline=None)
@given(TABLES, st.randoms(use_true_random=False))
def test_the_order_of_queries_does_not_matter(table, random):
    order = list(range(table.shape[1]))
    random.shuffle(order)
    first, second = choose(table), choose(table[:, order])
    np.testing.assert_array_equal(first.bounds, second.bounds)
    assert (first.best, first.gain, first.interval, first.needed) == (
        second.best,
        second.gain,
        second.interval,
        second.needed,
    )


@settings(max_examples=100, deadline=None)
@given(TABLES)
def test_no_figure_is_nan(table):
    choice = choose(table)
    assert np.isfinite([*choice.bounds, choice.gain, *choice.interval]).all()


# --- a collection on which other parameters are better --------------------------------------------


@pytest.fixture(scope="module")
def curves():
    """Close closed curves, 24 items of each: scales up to 48 reach other curves."""
    rng = np.random.default_rng(0)
    t = np.sort(rng.uniform(0, 2 * np.pi, (15, 30, 1)), axis=1)
    waves = np.concatenate([np.cos(t), np.sin(t), np.cos(2 * t), np.sin(2 * t)], axis=2)
    X = waves @ rng.standard_normal((15, 4, 12)) + 0.1 * rng.standard_normal((15, 30, 12))
    labels = np.repeat(np.arange(15), 30)
    X = X.reshape(450, 12)
    asked = rng.permutation(450)[:90]
    kept = np.setdiff1d(np.arange(450), asked)
    return X[kept], labels[kept], X[asked], labels[asked]


def relevant_of(labels, query_labels):
    return [np.flatnonzero(labels == label) for label in query_labels]


@pytest.fixture(scope="module")
def tuned(curves):
    X, labels, Q, query_labels = curves
    ranker = Reranker().fit(X)
    return ranker, ranker.tune(Q[:20], relevant_of(labels, query_labels[:20]))


def same_rankings(ranker, other, Q):
    for found, expected in zip(ranker.search(Q, 60), other.search(Q, 60), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_parameters_are_set_and_fitted(curves, tuned):
    X, labels, Q, query_labels = curves
    ranker, tuning = tuned
    assert tuning.parameters["granularity"] == "instance"
    assert {n: ranker.get_params()[n] for n in tuning.parameters} == tuning.parameters
    assert present_setting(ranker) == tuning.after
    fresh = Reranker(**tuning.parameters).fit(X)
    assert (ranker.graph_.W != fresh.graph_.W).nnz == 0
    same_rankings(ranker, fresh, Q)
    assert ranker.fitted().parameters == fresh.fitted().parameters
    # What was expected is gained on other queries.
    precision = [
        diffusion.metrics.average_precision(
            labels[one.search(Q[20:], len(X))[1]] == query_labels[20:, None],
            (labels == query_labels[20:, None]).sum(axis=1),
        ).mean()
        for one in (Reranker().fit(X), ranker)
    ]
    low, high = tuning.interval
    assert 1 < low < tuning.gain < high
    assert low < 100 * (precision[1] - precision[0]) < high


def test_it_can_be_changed_and_stored_afterwards(curves, tuned, tmp_path):
    X, _, Q, _ = curves
    ranker, tuning = tuned
    ranker.save(tmp_path / "index")
    loaded = diffusion.load(tmp_path / "index")
    same_rankings(loaded, ranker, Q)
    assert loaded.get_params() == ranker.get_params()
    loaded.remove(np.arange(350, 360))
    expected = Reranker(**tuning.parameters).fit(X[:350])
    assert abs(loaded.graph_.W - expected.graph_.W).max() < 1e-6


def test_the_table_is_that_of_rankings_by_other_rerankers(curves):
    X, labels, Q, query_labels = curves
    relevant = relevant_of(labels, query_labels[:5])
    labelled = Labelled.of(Reranker().fit(X), Q[:5], relevant, None, complete=True, k=None)
    settings, table, notes = judged(labelled)
    assert not notes
    assert settings[0] == Setting("mixed", Fusion().weight, 10)
    assert len(settings) == len(set(settings)) == 27
    for setting, row in list(zip(settings, table, strict=True))[::5]:
        granularity, weight, query_k = setting
        fresh = Reranker(granularity=granularity, score=Fusion(weight), query_k=query_k).fit(X)
        hits = labels[fresh.search(Q[:5], len(X))[1]] == query_labels[:5, None]
        expected = diffusion.metrics.average_precision(hits, [len(r) for r in relevant])
        np.testing.assert_allclose(row, 100 * expected)


def test_labels_that_are_not_complete_are_measured_by_their_ranks(curves):
    X, labels, Q, query_labels = curves
    pairs = [row[0] for row in relevant_of(labels, query_labels[:5])]
    ranker = Reranker().fit(X)
    labelled = Labelled.of(ranker, Q[:5], pairs, None, complete=False, k=200)
    ids = ranker.search(Q[:5], 200)[1]
    ranks = [np.flatnonzero(row == pair) + 1 for row, pair in zip(ids, pairs, strict=True)]
    expected = [100 / np.log2(1 + rank[0]) if len(rank) else 0 for rank in ranks]
    np.testing.assert_allclose(labelled.precision(ranker), expected)
    assert ranker.tune(Q[:5], pairs, complete=False).measure == "discounted gain"


def test_nothing_changes_if_nothing_is_better(curves):
    X, _, Q, _ = curves
    ranker = Reranker(query_k=7).fit(X)
    fitted, parameters = ranker.fitted(), ranker.get_params()
    rng = np.random.default_rng(0)
    tuning = ranker.tune(Q[:10], [rng.choice(360, 3, replace=False) for _ in range(10)])
    assert (tuning.parameters, tuning.gain, tuning.interval) == ({}, 0, (0, 0))
    assert tuning.before == tuning.after == Setting("mixed", Fusion().weight, 7)
    assert ranker.fitted() is fitted
    assert ranker.get_params() == parameters
    assert str(tuning).startswith(f"kept {tuning.before}: 10 queries do not show that any of 26")


def test_it_says_what_it_has_done(tuned):
    _, tuning = tuned
    lines = str(tuning).split("\n")
    assert lines[0] == f"changed to {tuning.after}"
    assert lines[0].startswith("changed to granularity='instance', weight=")
    assert f"{tuning.gain:+.1f} points of average precision" in lines[2]
    assert [one.bound for one in tuning.candidates] == sorted(
        (one.bound for one in tuning.candidates), reverse=True
    )
    assert tuning.candidates[0].setting == tuning.after


# --- queries and labels in other forms ------------------------------------------------------------


def test_own_ids_change_nothing(curves, tuned):
    X, labels, Q, query_labels = curves
    names = np.array([f"item {i}" for i in range(len(X))])
    relevant = [set(names[row]) for row in relevant_of(labels, query_labels[:20])]
    assert Reranker().fit(X, ids=names).tune(Q[:20], relevant) == tuned[1]


def test_the_order_of_labelled_queries_changes_nothing(curves, tuned):
    X, labels, Q, query_labels = curves
    order = np.random.default_rng(1).permutation(20)
    relevant = relevant_of(labels, query_labels[order])
    assert Reranker().fit(X).tune(Q[order], relevant) == tuned[1]


def test_hits_stand_for_queries(curves, tuned):
    X, labels, Q, query_labels = curves
    s = (Q[:20] / np.linalg.norm(Q[:20], axis=1, keepdims=True)) @ (
        X / np.linalg.norm(X, axis=1, keepdims=True)
    ).T
    ids = np.argsort(-s, axis=1)
    relevant = relevant_of(labels, query_labels[:20])
    ranker = Reranker().fit(X)
    tuning = ranker.tune(hits=(np.take_along_axis(s, ids, 1), ids), relevant=relevant)
    assert tuning.after == tuned[1].after
    assert tuning.gain == pytest.approx(tuned[1].gain)


@pytest.mark.parametrize("metric", ["cosine", "euclidean", "inner_product"])
def test_items_as_queries_are_queries_from_outside(curves, metric):
    X, labels, _, _ = curves
    own = np.arange(0, 360, 45)
    kept = np.setdiff1d(np.arange(360), own)
    exact = {"metric": metric, "solver": diffusion.CG(tol=1e-9, max_iter=2000)}
    labelled = Labelled.of(
        Reranker(**exact).fit(X), own, relevant_of(labels, labels[own]), None, complete=True, k=300
    )
    outside = Labelled.of(
        Reranker(**exact).fit(X[kept], ids=kept),
        X[own],
        [np.setdiff1d(row, own) for row in relevant_of(labels, labels[own])],
        None,
        complete=True,
        k=300,
    )
    np.testing.assert_allclose(judged(labelled).table, judged(outside).table, rtol=1e-6)


def test_an_item_is_found_by_its_copies_and_not_by_itself():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((80, 8))
    X[40:] = X[:40]
    ranker = Reranker().fit(X)
    labelled = Labelled.of(ranker, [1, 2, 3], [[41], [2, 42], [43]], None, complete=True, k=None)
    np.testing.assert_allclose(labelled.precision(labelled.ranker), 100)


def test_items_of_a_collection_without_vectors(curves):
    X, labels, _, _ = curves
    scores, ids = diffusion.nearest_neighbors(X, 60)
    ranker = Reranker().fit_neighbors(scores, ids)
    own = np.arange(0, 360, 30)
    tuning = ranker.tune(own, relevant_of(labels, labels[own]))
    assert tuning.parameters["granularity"] == "instance"
    assert {one.setting.granularity for one in tuning.candidates} == {"instance", "mixed"}
    assert tuning.notes[0].startswith("'category' was not tried: its lists are longer than those")
    fresh = Reranker(**tuning.parameters).fit_neighbors(scores, ids)
    assert (ranker.graph_.W != fresh.graph_.W).nnz == 0


def test_lists_that_are_too_short_with_the_queries_are_used_as_far_as_they_go(curves, monkeypatch):
    # Of 60 items, 56 neighbours each are kept, which is all of them without the queries.
    X = curves[0][:60]
    scores, ids = diffusion.nearest_neighbors(X, 56)
    ranker = Reranker().fit_neighbors(scores, ids)
    labelled = Labelled.of(ranker, [0, 1, 2, 3], [[5], [6], [7], [8]], None, complete=True, k=None)
    best = judged(labelled).settings.index(Setting("category", Fusion().weight, 10))
    monkeypatch.setattr(
        diffusion.tuning, "choose", lambda table: Choice(best, table[:, 0], 1.0, (0.5, 1.5), None)
    )
    ranker.tune([0, 1, 2, 3], [[5], [6], [7], [8]])
    fresh = Reranker(granularity="category").fit_neighbors(scores, ids)
    assert ranker.fitted().parameters == fresh.fitted().parameters
    assert (ranker.graph_.W != fresh.graph_.W).nnz == 0


def test_lists_of_other_vectors_are_not_continued_by_these(curves):
    X, labels, Q, query_labels = curves
    relevant = relevant_of(labels, query_labels[:20])
    scores, ids = diffusion.nearest_neighbors(X[:, :4], 60)
    other = Reranker().fit_neighbors(scores, ids, X).tune(Q[:20], relevant)
    assert {one.setting.granularity for one in other.candidates} == {"instance", "mixed"}
    scores, ids = diffusion.nearest_neighbors(X, 60)
    own = Reranker().fit_neighbors(scores, ids, X).tune(Q[:20], relevant)
    assert {one.setting.granularity for one in own.candidates} == {"instance", "mixed", "category"}


def test_a_smaller_k_cuts_the_scales_of_all_granularities(curves):
    X, labels, Q, query_labels = curves
    relevant = relevant_of(labels, query_labels[:4])
    ranker = Reranker(k=50).fit(X)
    settings, table, _ = judged(Labelled.of(ranker, Q[:4], relevant, None, complete=True, k=None))
    row = settings.index(Setting("category", Fusion().weight, 10))
    fresh = Reranker(k=50, granularity="category").fit(X)
    hits = labels[fresh.search(Q[:4], len(X))[1]] == query_labels[:4, None]
    expected = diffusion.metrics.average_precision(hits, [len(r) for r in relevant])
    np.testing.assert_allclose(table[row], 100 * expected)


def test_a_context_keeps_its_scales(curves):
    X, labels, Q, query_labels = curves
    context = Context(scales=(5, 20))
    tuning = Reranker(affinity=context).fit(X).tune(Q[:5], relevant_of(labels, query_labels[:5]))
    assert {one.setting.granularity for one in tuning.candidates} == {None}
    assert len(tuning.candidates) == 9
    assert str(tuning).endswith("the scales are those of a Context")


def test_another_score_has_no_weight(curves):
    X, labels, Q, query_labels = curves
    ranker = Reranker(score="diffusion").fit(X)
    tuning = ranker.tune(Q[:20], relevant_of(labels, query_labels[:20]))
    assert len(tuning.candidates) == 9
    assert set(tuning.parameters) <= {"granularity", "query_k"}
    assert ranker.score == "diffusion"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "queries, hits: expected one of them"),
        ({"queries": [0, 1], "hits": ([[0.5]], [[0]])}, "queries, hits: expected one of them"),
        ({"queries": [[0.0] * 11] * 2, "relevant": [[0], [1]]}, "Q: expected"),
        ({"queries": [0, 1], "relevant": None}, "relevant: expected for each query a sequence"),
        ({"queries": [0, 1], "relevant": "ab"}, "relevant: expected for each query a sequence"),
        ({"queries": [0, 1], "relevant": {0: [5], 1: [6]}}, "relevant: expected for each query"),
        ({"queries": [0, 1], "relevant": {5, 6}}, "relevant: expected for each query a sequence"),
        ({"queries": [0, 1], "relevant": np.array(5)}, "relevant: expected for each query a"),
        ({"queries": [0, 1], "relevant": [[2]]}, "relevant: expected those of 2 queries, .* got 1"),
        ({"queries": [0, 1, 2], "relevant": [[5], [], []]}, "none for query 1, 2"),
        ({"queries": [0, 1], "relevant": [[5], [360]]}, "relevant: expected ids .* row 1 has 360"),
        ({"queries": [0, 1], "relevant": [[1, 0], [7]]}, "not itself a query .* for query 0"),
        ({"queries": [0, 0], "relevant": [[5], [6]]}, "queries: expected each id once"),
        ({"queries": [0, 360], "relevant": [[5], [6]]}, "queries: expected ids of the collection"),
        ({"queries": [3], "relevant": [[5]]}, "queries: expected at least 2 labelled queries"),
        ({"hits": 3, "relevant": [[5], [6]]}, "hits: expected a pair of scores and ids"),
        ({"hits": {"scores": 1, "ids": 2}, "relevant": [[5], [6]]}, "hits: expected a pair of"),
        ({"queries": [0, 1], "relevant": [[5], [6]], "complete": "no"}, "complete: expected True"),
        ({"queries": [0, 1], "relevant": [[5], [6]], "k": 0}, "k: expected an integer"),
        ({"queries": [0, 1], "relevant": [[5], [6]], "complete": 0.5}, "complete: expected True"),
    ],
)
def test_bad_arguments_are_named_and_change_nothing(curves, arguments, message):
    ranker = Reranker().fit(curves[0])
    fitted = ranker.fitted()
    with pytest.raises(DiffusionError, match=message):
        ranker.tune(**arguments)
    assert ranker.fitted() is fitted


def test_it_wants_a_contextual_affinity_that_has_been_fitted(curves):
    X = curves[0]
    with pytest.raises(DiffusionError, match="Reranker: not fitted yet"):
        Reranker().tune(X[:2], [[0], [1]])
    with pytest.raises(DiffusionError, match=r"tune: expected affinity='context', got .*'cosine'"):
        Reranker(affinity="cosine").fit(X).tune(X[:2], [[0], [1]])
    ranker = Reranker().fit(X).set_params(alpha=0.9)
    with pytest.raises(DiffusionError, match="tune: parameters were set after the fit"):
        ranker.tune(X[:2], [[0], [1]])


def test_queries_that_an_index_cannot_answer_are_named(curves):
    X = curves[0]

    class Engine:
        def search(self, Q, k):
            return diffusion.expansion.search(Q, X / np.linalg.norm(X, axis=1)[:, None], k)

    with pytest.raises(DiffusionError, match=r"queries: items .* expected vectors, or hits"):
        Reranker().fit(X, index=Engine()).tune([0, 1], [[5], [6]])
    lists = Reranker().fit_neighbors(*diffusion.nearest_neighbors(X, 60))
    with pytest.raises(DiffusionError, match=r"queries: this index .* expected ids of items"):
        lists.tune(X[:2], [[5], [6]])


def test_names_may_be_in_lists(curves):
    X, labels, _, _ = curves
    names = [f"item {i}" for i in range(len(X))]
    own = list(range(0, 360, 45))
    relevant = relevant_of(labels, labels[own])
    expected = Reranker().fit(X).tune(own, relevant)
    named = Reranker().fit(X, ids=names)
    assert (
        named.tune([names[i] for i in own], [[names[i] for i in r] for r in relevant]) == expected
    )
    pairs = [names[row[-1]] for row in relevant]
    queries = Reranker().fit(X, ids=names).tune(X[own] + 0.01, pairs)
    assert queries == Reranker().fit(X).tune(X[own] + 0.01, [row[-1] for row in relevant])


def test_items_added_meanwhile_are_not_lost(curves, monkeypatch):
    X, labels, Q, query_labels = curves
    ranker = Reranker().fit(X)
    adding = threading.Thread(target=lambda: ranker.add(Q[20:30]))

    def tuned_beside(labelled):
        tuning = tuned_by_rule(labelled)
        adding.start()
        adding.join(0.5)  # it waits for the end of the call
        return tuning

    tuned_by_rule = diffusion.reranker.tuned
    monkeypatch.setattr(diffusion.reranker, "tuned", tuned_beside)
    tuning = ranker.tune(Q[:20], relevant_of(labels, query_labels[:20]))
    adding.join()
    assert "granularity" in tuning.parameters
    expected = Reranker(**tuning.parameters).fit(np.concatenate([X, Q[20:30]]))
    assert (ranker.graph_.W != expected.graph_.W).nnz == 0
    same_rankings(ranker, expected, Q)
