from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

import diffusion
from diffusion import metrics

HITS = np.array([[1, 0, 1, 0, 0], [0, 0, 0, 0, 0], [1, 1, 0, 0, 1], [0, 1, 0, 0, 0]], bool)
RELEVANT = np.array([3, 2, 3, 0])


def test_average_precision_by_hand():
    expected = [(1 + 2 / 3) / 3, 0, (1 + 1 + 3 / 5) / 3, np.nan]
    np.testing.assert_allclose(metrics.average_precision(HITS, RELEVANT), expected)


def test_trapezoidal_average_precision_by_hand():
    # Each hit at rank r: (precision at r - 1 + precision at r) / 2, the first preceded by 1.
    expected = [
        ((1 + 1) / 2 + (1 / 2 + 2 / 3) / 2) / 3,
        0,
        ((1 + 1) / 2 + (1 + 1) / 2 + (2 / 4 + 3 / 5) / 2) / 3,
        np.nan,
    ]
    np.testing.assert_allclose(metrics.trapezoidal_average_precision(HITS, RELEVANT), expected)


def test_trapezoidal_average_precision_is_the_area_under_the_curve(rng):
    # The published evaluation walks over all ranks and sums trapezoids of recall and precision.
    hits = rng.random((20, 40)) < 0.3
    relevant = hits.sum(axis=1) + rng.integers(1, 4, 20)
    for row, (found, total) in enumerate(zip(hits, relevant, strict=True)):
        area, recall, precision, seen = 0.0, 0.0, 1.0, 0
        for rank, hit in enumerate(found, 1):
            seen += hit
            new_recall, new_precision = seen / total, seen / rank
            area += (new_recall - recall) * (new_precision + precision) / 2
            recall, precision = new_recall, new_precision
        ours = metrics.trapezoidal_average_precision(hits, relevant)[row]
        np.testing.assert_allclose(ours, area)


@given(st.integers(0, 10_000), st.integers(2, 50))
def test_average_precision_equals_scikit_learns(seed, n):
    rng = np.random.default_rng(seed)
    hits = rng.random((1, n)) < 0.4
    hits[0, rng.integers(n)] = True
    expected = average_precision_score(hits[0], -np.arange(n))
    np.testing.assert_allclose(metrics.average_precision(hits, hits.sum(axis=1)), [expected])


def test_precision_and_recall_by_hand():
    np.testing.assert_allclose(metrics.precision_at(HITS, RELEVANT, 2), [0.5, 0, 1, np.nan])
    np.testing.assert_allclose(metrics.precision_at(HITS, RELEVANT, 10), [0.2, 0, 0.3, np.nan])
    np.testing.assert_allclose(metrics.recall_at(HITS, RELEVANT, 3), [2 / 3, 0, 2 / 3, np.nan])
    np.testing.assert_allclose(metrics.recall_at(HITS, RELEVANT, 99), [2 / 3, 0, 1, np.nan])


def test_precision_of_the_revisited_benchmarks():
    # All three relevant items found by rank 5: with k = 10 the last one's rank takes k's place.
    values = metrics.precision_at(HITS, RELEVANT, 10, revisited=True)
    np.testing.assert_allclose(values, [0.2, 0, 3 / 5, np.nan])
    np.testing.assert_allclose(
        metrics.precision_at(HITS, RELEVANT, 2, revisited=True), [0.5, 0, 1, np.nan]
    )


def test_hits_from_labels():
    ids = np.array([[0, 1, 2, -1], [3, 2, 1, 0]])
    hits, relevant = metrics.hits_from_labels(ids, [7, 8, 7, 9], [7, 5])
    assert hits.tolist() == [[True, False, True, False], [False] * 4]
    assert relevant.tolist() == [2, 0]
    hits, relevant = metrics.hits_from_labels(ids, ["a", "b", "a", "z"], ["b", "zz"])
    assert hits.tolist() == [[False, True, False, False], [False] * 4]
    assert relevant.tolist() == [1, 0]


def test_junk_is_taken_out_before_counting():
    ids = [[5, 1, 6, 2, -1]]
    hits, relevant = metrics.hits_from_lists(ids, [[1, 2, 9]], [[5, 6]])
    assert hits.tolist() == [[True, True, False, False, False]]
    assert relevant.tolist() == [3]
    hits, _ = metrics.hits_from_lists(ids, [[1, 2, 9]])
    assert hits.tolist() == [[False, True, False, True, False]]


def test_no_results_and_lists_of_different_lengths():
    hits, relevant = metrics.hits_from_lists([[], [4, 2], [2]], [[2], [2], [2]])
    assert metrics.average_precision(hits, relevant).tolist() == [0, 0.5, 1]
    hits, relevant = metrics.hits_from_labels([[], [1]], ["a", "b"], ["a", "b"])
    assert metrics.recall_at(hits, relevant, 5).tolist() == [0, 1]
    nothing = np.empty((2, 0), bool)
    assert metrics.trapezoidal_average_precision(nothing, [1, 3]).tolist() == [0, 0]
    assert metrics.precision_at(nothing, [1, 3], 5, revisited=True).tolist() == [0, 0]


def test_a_perfect_and_a_worst_ranking():
    hits = np.array([[1, 1, 0, 0], [0, 0, 0, 0]], bool)
    for metric in (metrics.average_precision, metrics.trapezoidal_average_precision):
        assert metric(hits, [2, 2]).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.hits_from_labels([[0]], [1, 2], [1, 2]), "query_labels: expected shape"),
        (lambda: metrics.hits_from_labels([[5]], [1, 2], [1]), r"ids: expected values in \[-1, 2"),
        (lambda: metrics.hits_from_labels([[0.5]], [1, 2], [1]), "ids: expected integers"),
        (lambda: metrics.hits_from_labels([[0]], [[1]], [1]), "gallery_labels: expected shape"),
        (lambda: metrics.hits_from_lists([[0]], [[1], [2]]), r"ids: expected shape \(2, k\)"),
        (lambda: metrics.average_precision([True], [1]), "hits, n_relevant: expected shapes"),
        (
            lambda: metrics.hits_from_labels([[0, 0]], [1, 2], [1]),
            "ids: expected each item",
        ),
        (lambda: metrics.hits_from_lists([[3, 3]], [[3]]), "ids: expected each item"),
        (lambda: metrics.hits_from_lists([[3]], [[3]], []), "junk: expected 1 collections"),
        (lambda: metrics.precision_at([[True]], [1], 0), "k: expected an integer"),
        (lambda: metrics.hits_from_lists([[3, 3]], [[3]]), "row 0 has 3 at places 0 and 1"),
        (lambda: metrics.hits_from_lists([[3]], [["a"]]), "relevant: expected collections of ids"),
        (lambda: metrics.hits_from_lists([[3]], [[3]], [None]), "junk: expected collections of id"),
        (lambda: metrics.hits_from_labels([[0]], [[1], [2, 3]], [1]), "gallery_labels: expected a"),
        (lambda: metrics.hits_from_labels([[0]], [1, None], [1]), "query_labels: expected labels"),
        (
            lambda: metrics.hits_from_labels([[0]], np.array([1], "M8[D]"), [1]),
            "query_labels: expected labels",
        ),
        (lambda: metrics.average_precision([[True], []], [1, 1]), "hits: expected an array"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(diffusion.DiffusionError, match=message):
        call()
