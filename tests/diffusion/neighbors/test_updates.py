"""Neighbour lists after items are added and removed, beside those of a fit on the survivors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from diffusion import HNSW, IVF, DiffusionError, Exact, NNDescent
from diffusion.change import Change
from diffusion.kernels.threads import using_cores
from diffusion.neighbors import NeighborIndex
from diffusion.neighbors.given import GivenIndex
from diffusion.neighbors.index import without_items
from diffusion.neighbors.updates import changed_lists
from diffusion.validation import METRICS, as_vectors
from tests.support.oracles import similarity

EVERY = 10**6
METHODS = (Exact(), IVF(5, EVERY), HNSW(), NNDescent())


def without_direction(vectors, metric):
    return np.logical_and(metric != "euclidean", ~vectors.any(axis=1))


def fitted(vectors, metric, method, k):
    """Return an index and the lists of a fit."""
    index = NeighborIndex(vectors, metric, method)
    lists = index.neighbors(min(k, max(1, len(vectors) - 1)))
    return index, without_items(*lists, without_direction(vectors, metric))


def true_lists(vectors, metric, k):
    """Return the lists of a fit by brute force; a vector of zeros takes a place and is left out."""
    n = len(vectors)
    full = similarity(vectors, vectors, metric)
    zero = without_direction(vectors, metric)
    out = []
    for i in range(n):
        others = np.delete(np.arange(n), i)
        best = others[np.argsort(-full[i, others], kind="stable")][:k]
        out.append([] if zero[i] else [(full[i, j], j) for j in best if not zero[j]])
    return out


def check_lists(vectors, scores, ids, metric, k):
    """Check that lists are those of a fit, apart from which of equal scores end a list."""
    zero = without_direction(vectors, metric)
    for row, expected in enumerate(true_lists(vectors, metric, k)):
        listed = ids[row] >= 0
        size = listed.sum()
        assert listed[:size].all()
        assert (scores[row, size:] == -np.inf).all()
        own = ids[row, :size]
        assert row not in own
        assert len(set(own.tolist())) == size
        assert not zero[own].any()
        best = np.array([s for s, _ in expected])
        if zero.any() and len(best):
            # A zero vector may or may not be one of several that tie for the last place.
            sure = best[best > 1e-6] if best[-1] > -1e-6 else best[: min(size, len(best))]
            assert size >= len(sure)
            np.testing.assert_allclose(scores[row, : len(sure)], sure, atol=1e-5)
            continue
        assert size == len(best)
        np.testing.assert_allclose(scores[row, :size], best, atol=1e-5)
        if size:
            clear = {j for s, j in expected if s > best[-1] + 1e-4}
            assert clear <= set(own.tolist())
            tied = scores[row, 1:size] == scores[row, : size - 1]
            assert (own[1:] > own[:-1])[tied].all()


def check_dirty(dirty, old, new, change):
    """Check that exactly the lists that are not the old ones renumbered are said to be dirty."""
    target = np.append(change.target, -1)
    for row, source in enumerate(change.source):
        if source < 0 or old.shape[1] != new.shape[1]:
            assert dirty[row]
            continue
        renumbered = target[old[source]]
        gone = (old[source] >= 0) & (renumbered < 0)
        assert dirty[row] or (not gone.any() and (renumbered == new[row]).all())
        if not gone.any() and (renumbered == new[row]).all():
            assert not dirty[row]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
@settings(max_examples=15)
@given(st.sampled_from(METRICS), st.integers(1, 9), st.integers(0, 10_000), st.data())
def test_any_sequence_gives_the_lists_of_a_fit(method, metric, k, seed, data):
    assume((metric, method) != ("inner_product", NNDescent()))
    rng = np.random.default_rng(seed)
    kind = data.draw(st.sampled_from(["ties", "plain", "duplicates"]))

    def drawn(count):
        if kind == "plain":
            X = rng.standard_normal((count, 6))
        else:  # with ties and zeros
            X = rng.integers(-2, 3, (count, 4)).astype(float)
            X = X[rng.integers(0, count, count)] if kind == "duplicates" else X
        return as_vectors(X, "X", metric=metric)

    vectors = drawn(data.draw(st.integers(1, 60)))
    index, (scores, ids) = fitted(vectors, metric, method, k)
    for _ in range(data.draw(st.integers(1, 4))):
        n = len(vectors)
        if data.draw(st.booleans()):
            new = drawn(data.draw(st.integers(1, 30)))
            change = Change.addition(n, len(new))
        else:
            new = None
            gone = data.draw(st.integers(0, n - 1))
            change = Change.removal(n, rng.permutation(n)[:gone])
        before = {name: array.copy() for name, array in index.arrays().items()}
        kept = scores.copy(), ids.copy()
        after = index.changed(change, new)
        vectors = change.rows_of(vectors, new)
        new_scores, new_ids, dirty = changed_lists(after, scores, ids, change, k)
        check_lists(vectors, new_scores, new_ids, metric, k)
        check_dirty(dirty, ids, new_ids, change)
        assert after.size == len(vectors)
        np.testing.assert_array_equal(after.vectors_of(np.arange(after.size)), vectors)
        # What there was is as it was: other threads search it.
        for name, array in index.arrays().items():
            np.testing.assert_array_equal(array, before[name])
        np.testing.assert_array_equal(scores, kept[0])
        np.testing.assert_array_equal(ids, kept[1])
        index, scores, ids = after, new_scores, new_ids


@pytest.mark.parametrize("metric", METRICS)
def test_scores_and_lists_are_the_very_ones_of_a_fit(rng, metric):
    X = as_vectors(rng.standard_normal((2600, 24)), "X", metric=metric)
    X[rng.integers(0, 2600, 300)] = X[rng.integers(0, 2600, 300)]
    index, (scores, ids) = fitted(X[:2000], metric, Exact(), 10)
    vectors = X[:2000]
    for change, new in (
        (Change.addition(2000, 600), X[2000:]),
        (Change.removal(2600, rng.permutation(2600)[:400]), None),
    ):
        index = index.changed(change, new)
        vectors = change.rows_of(vectors, new)
        scores, ids, _ = changed_lists(index, scores, ids, change, 10)
        _, (expected, expected_ids) = fitted(vectors, metric, Exact(), 10)
        np.testing.assert_array_equal(scores, expected)
        inside = scores > scores[:, -1:]  # which of equal scores end a list is open
        np.testing.assert_array_equal(ids[inside], expected_ids[inside])


@pytest.mark.parametrize("metric", METRICS)
def test_only_rows_that_must_be_are_searched(rng, metric, monkeypatch):
    X = as_vectors(rng.standard_normal((900, 6)), "X", metric=metric)
    index, lists = fitted(X[:800], metric, Exact(), 8)
    searched = []
    neighbors_at = NeighborIndex.neighbors_at

    def recorded(self, rows, *rest, **named):
        searched.append(rows)
        return neighbors_at(self, rows, *rest, **named)

    monkeypatch.setattr(NeighborIndex, "neighbors_at", recorded)
    change = Change.addition(800, 100)
    index = index.changed(change, X[800:])
    *lists, _ = changed_lists(index, *lists, change, 8)
    assert searched.pop().tolist() == list(range(800, 900))
    change = Change.removal(900, rng.permutation(900)[:20])
    holds = np.isin(lists[1], change.removed).any(axis=1)
    index = index.changed(change)
    changed_lists(index, *lists, change, 8)
    assert searched.pop().tolist() == sorted(change.target[holds & (change.target >= 0)])


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(METRICS), st.integers(1, 6), st.integers(1, 4), st.integers(0, 10_000))
def test_spare_entries_keep_the_best_ones_right(metric, least, spare, seed):
    rng = np.random.default_rng(seed)
    vectors = as_vectors(rng.integers(-2, 3, (60, 4)), "X", metric=metric)
    k = least + spare
    index, (scores, ids) = fitted(vectors, metric, Exact(), k)
    for step in range(6):
        n, new = len(vectors), None
        if step % 2:
            new = as_vectors(rng.integers(-2, 3, (4, 4)), "X", metric=metric)
            change = Change.addition(n, 4)
        else:
            change = Change.removal(n, rng.permutation(n)[:4])
        index = index.changed(change, new)
        vectors = change.rows_of(vectors, new)
        scores, ids, _ = changed_lists(index, scores, ids, change, k, least=least)
        expected = true_lists(vectors, metric, k)
        for row, entries in enumerate(expected):
            best = [s for s, _ in entries][:least]
            if metric == "euclidean" or 0 not in np.round(best, 5):
                np.testing.assert_allclose(scores[row, : len(best)], best, atol=1e-5)


def test_lists_without_an_index_become_shorter():
    scores = np.array([[3, 2, 1], [3, 1, -np.inf], [2, 1, 0.5], [1, 1, 1]], np.float32)
    ids = np.array([[1, 2, 3], [0, 3, -1], [0, 1, 3], [0, 1, 2]], np.int32)
    new_scores, new_ids, dirty = changed_lists(None, scores, ids, Change.removal(4, [0]), 3)
    # The last item is now item 0, and of its equal scores the lower row comes first.
    assert new_ids.tolist() == [[1, 2, -1], [0, -1, -1], [1, 0, -1]]
    assert new_scores.tolist() == [[1, 1, -np.inf], [1, -np.inf, -np.inf], [1, 0.5, -np.inf]]
    assert dirty.tolist() == [True, True, True]


def test_the_order_of_equal_scores_follows_the_rows():
    scores = np.ones((4, 2), np.float32)
    ids = np.array([[2, 3], [2, 3], [1, 3], [1, 2]], np.int32)
    _, new_ids, dirty = changed_lists(None, scores, ids, Change.removal(4, [0]), 2)
    assert new_ids.tolist() == [[1, 2], [0, 2], [0, 1]]
    assert dirty.tolist() == [False, True, True]


@pytest.mark.parametrize("method", [Exact(), IVF(20, 4)])
def test_lists_do_not_depend_on_the_number_of_threads(rng, method):
    X = as_vectors(rng.standard_normal((3000, 12)), "X", metric="euclidean")
    index, lists = fitted(X[:2500], "euclidean", method, 10)
    out = []
    for cores in (1, 3):
        with using_cores(cores):
            change = Change.addition(2500, 500)
            out.append(changed_lists(index.changed(change, X[2500:]), *lists, change, 10))
    for one, three in zip(*out, strict=True):
        np.testing.assert_array_equal(one, three)


def test_an_index_of_the_caller_is_not_changed():
    X = np.eye(4, dtype=np.float32)

    class Own:
        def search(self, Q, k):
            return NeighborIndex(X, "cosine", Exact()).search(Q, k)

    index = GivenIndex(Own(), "cosine", X.shape)
    with pytest.raises(DiffusionError, match=r"index: .* not changed; expected fit\(X, index="):
        index.changed(Change.addition(4, 1), X[:1])
