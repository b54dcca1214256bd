from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import diffusion
from diffusion.baselines import reciprocal
from tests.support.oracles import similarity


def naive(Q, X, k1, k2, lambda_):
    """1 - d* (nq, n) by the book: dense distances, Python sets, one loop after another."""
    vectors = np.concatenate([Q, X]).astype(float)
    n, nq = len(vectors), len(Q)
    d = (2 - 2 * np.minimum(similarity(vectors, vectors, "cosine"), 1)) ** 2
    largest = d.max(axis=1, keepdims=True)
    d = d / np.where(largest > 0, largest, 1)
    np.fill_diagonal(d, 0)
    # Lists are the library's own, since which of several equally near items end one is open. An
    # item comes first in its own, whatever its duplicates' ids.
    _, lists = diffusion.nearest_neighbors(vectors, max(k1, k2 - 1))
    ranked = [[i, *(j for j in lists[i] if j >= 0)] for i in range(n)]
    for i in range(n):
        np.testing.assert_allclose(d[i, ranked[i]], np.sort(d[i])[: len(ranked[i])], atol=1e-5)

    def reciprocal_sets(k):
        near = [set(row[: k + 1]) for row in ranked]
        return [{j for j in near[i] if i in near[j]} for i in range(n)]

    V = np.zeros((n, n))
    half = reciprocal_sets(round(k1 / 2))
    for i, own in enumerate(reciprocal_sets(k1)):
        expanded = set(own)
        for g in own:
            if 3 * len(half[g] & own) > 2 * len(half[g]):
                expanded |= half[g]
        for j in expanded:
            V[i, j] = np.exp(-d[i, j])
        V[i] /= V[i].sum()
    V = np.array([V[ranked[i][:k2]].mean(axis=0) for i in range(n)])
    least = np.minimum(V[:nq, None], V[None, nq:]).sum(axis=2)
    most = np.maximum(V[:nq, None], V[None, nq:]).sum(axis=2)
    return 1 - (1 - lambda_) * (1 - least / most) - lambda_ * d[:nq, nq:]


def assert_ranks_by(expected, scores, ids):
    """Scores and order are the reference's, up to ties."""
    np.testing.assert_allclose(np.take_along_axis(expected, ids, axis=1), scores, atol=1e-6)
    k = ids.shape[1]
    np.testing.assert_allclose(-np.sort(-expected, axis=1)[:, :k], scores, atol=1e-6)
    assert all(len(set(row)) == k for row in ids)
    tied = scores[:, 1:] == scores[:, :-1]
    assert (ids[:, 1:] > ids[:, :-1])[tied].all()


@st.composite
def signs(draw):
    """Vectors whose cosines are exact multiples of 1/4, with ties, duplicates and zero vectors."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    pool = rng.choice([-1.0, 1.0], (draw(st.integers(1, 30)), 5))
    pool[np.arange(len(pool)), rng.integers(5, size=len(pool))] = 0
    pool[rng.random(len(pool)) < 0.05] = 0
    nq, n = draw(st.integers(1, 5)), draw(st.integers(1, 30))
    vectors = pool[rng.integers(len(pool), size=nq + n)]
    return vectors[:nq], vectors[nq:]


@given(signs(), st.integers(1, 14), st.integers(1, 9), st.sampled_from([0.0, 0.3, 0.8]))
def test_equals_the_dense_reference_with_ties_and_duplicates(data, k1, k2, lambda_):
    Q, X = data
    scores, ids = reciprocal.search(Q, X, len(X), k1=k1, k2=k2, lambda_=lambda_)
    assert_ranks_by(naive(Q, X, k1, k2, lambda_), scores, ids)


def test_equals_the_dense_reference_at_the_published_settings(vectors):
    Q, X = vectors[::7], np.delete(vectors, np.s_[::7], axis=0)
    expected = naive(Q, X, 20, 6, 0.3)
    assert_ranks_by(expected, *reciprocal.search(Q, X, 15))
    assert_ranks_by(expected, *reciprocal.search(Q, X, 15, method=diffusion.HNSW(ef_search=200)))


# Neighbourhoods of one, not averaged.
ALONE = {"k1": 1, "k2": 1}


def test_a_pair_by_hand():
    # Orthogonal pairs of duplicates: R*(i) is the pair and V_i halves it. The query shares all
    # with its duplicate and nothing with the rest, which are as far as anything is.
    scores, ids = reciprocal.search([[1, 0, 0]], np.eye(3)[[1, 0, 1]], 3, **ALONE)
    assert ids.tolist() == [[1, 0, 2]]
    np.testing.assert_allclose(scores, [[1, 0, 0]], atol=1e-6)


def test_opposite_vectors_are_farthest():
    # Nobody's nearest, the query shares nothing. d is 16/16 for the first and 4/16 for the others.
    scores, ids = reciprocal.search([[1.0, 0.0]], [[-1.0, 0.0], [0.0, 1.0], [0.0, 1.0]], 3, **ALONE)
    assert ids.tolist() == [[1, 2, 0]]
    np.testing.assert_allclose(scores, [[0.3 * 0.75, 0.3 * 0.75, 0]], atol=1e-6)


def test_blocks_do_not_change_the_answer(vectors, monkeypatch):
    whole = reciprocal.search(vectors[:9], vectors[9:], 20)
    monkeypatch.setattr(reciprocal, "_BLOCK_VALUES", 250)
    scores, ids = reciprocal.search(vectors[:9], vectors[9:], 20)
    np.testing.assert_array_equal(ids, whole[1])
    np.testing.assert_allclose(scores, whole[0], atol=1e-6)


def test_lists_longer_than_the_collection_are_padded():
    scores, ids = reciprocal.search(np.eye(2), np.eye(2), 4)
    assert ids[:, 2:].tolist() == [[-1, -1]] * 2
    assert (scores[:, 2:] == -np.inf).all()
    assert ids[:, 0].tolist() == [0, 1]


def test_memory_is_linear(rng):
    X = rng.standard_normal((2000, 4))
    reciprocal.search(X[:5], X[:500], 10)  # compiles, which is slow while memory is traced

    def peak(n):
        tracemalloc.start()
        reciprocal.search(X[:5], X[:n], 10)
        bytes_ = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return bytes_

    assert peak(2000) < 6 * peak(500)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "k: expected an integer"),
        ({"k1": 0}, "k1: expected an integer"),
        ({"k2": 0.5}, "k2: expected an integer"),
        ({"lambda_": 1.0}, "lambda_: expected a number"),
        ({"method": "flat"}, "neighbors: expected one of"),
        ({"X": np.eye(3)}, "X: expected vectors of dimension 2"),
        ({"Q": [[np.nan, 1.0]]}, "Q: expected finite"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(diffusion.DiffusionError, match=message):
        reciprocal.search(**{"Q": np.eye(2), "X": np.eye(2), "k": 1, **arguments})
