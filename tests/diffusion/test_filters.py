"""Filtered answers equal those of ranking everything and leaving out what is not allowed."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import diffusion
from diffusion import DiffusionError, Reranker
from diffusion.solvers import CG


def collection(n, centres, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((centres, 8))[rng.integers(0, centres, n)]
    X = X + 0.5 * rng.standard_normal((n, 8))
    return X, X[rng.choice(n, 6, replace=False)] + 0.1 * rng.standard_normal((6, 8))


X, Q = collection(300, 9)
EXACT = CG(tol=1e-12, max_iter=1000)
VARIANTS = {
    "exact": {},
    "cosine": {"affinity": "cosine"},
    "euclidean": {"metric": "euclidean"},
    "ivf": {"neighbors": diffusion.IVF(nlist=5, nprobe=5)},
    "hnsw": {"neighbors": "hnsw"},
    "nndescent": {"neighbors": "nndescent"},
}


@functools.cache
def fitted(variant):
    return Reranker(k=7, query_k=4, solver=EXACT, **VARIANTS[variant]).fit(X)


def filtered(scores, ids, mask, k):
    """Return the first k allowed of each list of everything."""
    out = np.full((len(ids), k), -np.inf), np.full((len(ids), k), -1)
    for row in range(len(ids)):
        kept = [e for e in range(ids.shape[1]) if ids[row, e] >= 0 and mask[ids[row, e]]][:k]
        out[0][row, : len(kept)], out[1][row, : len(kept)] = scores[row, kept], ids[row, kept]
    return out


def assert_alike(found, expected, atol=1e-5):
    np.testing.assert_allclose(found[0], expected[0], atol=atol)
    assert ((found[1] >= 0) == (expected[1] >= 0)).all()
    assert (found[1] != expected[1]).mean() < 0.02  # where scores are close


@pytest.mark.parametrize("variant", VARIANTS)
@settings(max_examples=12)  # for each of the variants
@given(
    share=st.sampled_from([0, 0.004, 0.03, 0.3, 1]), seed=st.integers(0, 999), k=st.integers(1, 40)
)
def test_search_equals_filtering_everything(variant, share, seed, k):
    ranker = fitted(variant)
    rng = np.random.default_rng(seed)
    mask = rng.random(300) < share
    everything = ranker.search(Q, 300)
    found = ranker.search(Q, k, allow=mask)
    assert (np.count_nonzero(found[1] >= 0, axis=1) == min(k, mask.sum())).all()
    assert_alike(found, filtered(*everything, mask, k))
    allowed = np.flatnonzero(mask)
    for allow in (
        allowed,
        set(allowed.tolist()),
        [*allowed.tolist(), 300, -5],
        lambda ids: mask[ids],
    ):
        again = ranker.search(Q, k, allow=allow)
        assert (again[1] == found[1]).all()
        assert (again[0] == found[0]).all()


@given(st.integers(0, 999), st.integers(1, 60), st.booleans())
def test_rerank_equals_filtering_everything(seed, k, restrict):
    ranker = fitted("exact")
    mask = np.random.default_rng(seed).random(300) < 0.2
    hits = ranker.fitted().index.search(ranker.fitted().searched(Q)[1], 50)
    everything = ranker.rerank(*hits, 300, restrict_to_candidates=restrict)
    found = ranker.rerank(*hits, k, restrict_to_candidates=restrict, allow=mask)
    assert_alike(found, filtered(*everything, mask, k))


@pytest.mark.parametrize("solver", ["auto", "local", "cg"])
@pytest.mark.parametrize("kind", ["few", "far", "half"])
def test_default_solvers_go_as_deep_as_a_filter_needs(solver, kind):
    """What is allowed may be rare, or far from every query."""
    many, queries = collection(3000, 12, seed=1)
    exact = Reranker(k=12, solver=EXACT).fit(many)
    ranker = Reranker(k=12, solver=solver).fit(many)
    rng = np.random.default_rng(2)
    scores, ids = exact.search(queries, 3000)
    mask = rng.random(3000) < {"few": 0.01, "half": 0.5, "far": 0.3}[kind]
    if kind == "far":
        mask[ids[:, :400]] = False
    expected = filtered(scores, ids, mask, 20)[1]
    found = ranker.search(queries, 20, allow=mask)[1]
    assert (found >= 0).all()
    shared = [len(np.intersect1d(a, b)) for a, b in zip(found, expected, strict=True)]
    assert np.mean(shared) / 20 >= 0.98


def test_a_filter_that_allows_nothing_is_an_empty_answer(vectors):
    ranker = Reranker(k=8).fit(vectors)
    for allow in ([], set(), np.zeros(120, bool), lambda ids: np.zeros(len(ids), bool), [7000]):
        scores, ids = ranker.search(vectors[:2], 5, allow=allow)
        assert (ids == -1).all()
        assert (scores == -np.inf).all()
        assert (ranker.rerank([0.9, 0.5], [3, 4], 5, allow=allow)[1] == -1).all()


def test_filters_speak_ids(vectors):
    names = np.array([f"{'ab'[i % 2]}{i}" for i in range(120)])
    named, plain = Reranker(k=8).fit(vectors, ids=names), Reranker(k=8).fit(vectors)
    expected = names[plain.search(vectors[:4], 9, allow=np.arange(120) % 2 == 1)[1]]
    for allow in (
        names[1::2],
        set(names[1::2]),
        (*names[1::2], "nobody"),
        np.char.startswith(names, "b"),
        (np.arange(120) % 2 == 1).tolist(),
        lambda ids: np.array([item[0] == "b" for item in ids]),
        np.vectorize(lambda item: item[0] == "b", otypes=[bool]),
    ):
        assert (named.search(vectors[:4], 9, allow=allow)[1] == expected).all()


@pytest.mark.parametrize(
    ("allow", "message"),
    [
        (np.ones(5, bool), r"allow: expected a mask of shape \(120,\), .*, got \(5,\)"),
        ([True, False], r"allow: expected a mask of shape \(120,\)"),
        (7, "allow: expected ids, a mask or a function of ids, got 7"),
        ("abc", "allow: expected ids, a mask or a function of ids, got 'abc'"),
        (["abc"], "allow: expected integers"),
        ([1.5], "allow: expected integers"),
        ([[1, 2]], r"allow: expected a list of ids, got shape \(1, 2\)"),
        (lambda ids: True, "allow: expected a function that takes an array .* got bool of shape"),
        (lambda ids: ids, "allow: expected a function that takes an array .* got int64"),
        (lambda ids: ids.startswith("a"), "np.vectorize.* it raised AttributeError"),
    ],
)
def test_bad_filters_are_named(vectors, allow, message):
    ranker = Reranker(k=8).fit(vectors)
    for call in (
        lambda: ranker.search(vectors[:2], allow=allow),
        lambda: ranker.rerank([0.5], [3], allow=allow),
    ):
        with pytest.raises(DiffusionError, match=message):
            call()


class Listed:
    """An index of the caller, with exact lists."""

    def search(self, queries, k):
        similar = queries @ self.X.T
        ids = np.argsort(-similar, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(similar, ids, axis=1), ids


def test_an_index_of_the_callers_is_searched_until_enough_is_allowed():
    own = Listed()
    own.X = X / np.linalg.norm(X, axis=1, keepdims=True)
    ranker = Reranker(k=7, query_k=4, solver=EXACT, affinity="cosine").fit(X, index=own)
    mask = np.arange(300) % 50 == 3
    found = ranker.search(Q, 10, allow=mask)
    assert_alike(found, filtered(*ranker.search(Q, 300), mask, 10))


def test_filtering_the_hits_is_worse_than_filtering_the_answer():
    """A filter of the hits breaks the chains of neighbours that diffusion follows."""
    rng, angle = np.random.default_rng(0), np.linspace(0, np.pi, 300)
    upper = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    moons = np.concatenate([upper, [1, 0.5] - upper]) + 0.03 * rng.standard_normal((600, 2))
    ranker = Reranker(metric="euclidean").fit(moons)
    mask, asked = rng.random(600) < 0.1, rng.choice(600, 40, replace=False)
    queries = moons[asked] + 0.01 * rng.standard_normal((40, 2))
    relevant = mask & (asked[:, None] // 300 == np.arange(600) // 300)

    def mean_ap(ids):
        hits = np.take_along_axis(relevant, np.maximum(ids, 0), axis=1) & (ids >= 0)
        return diffusion.metrics.average_precision(hits, relevant.sum(axis=1)).mean()

    k = int(mask.sum())
    # What a store returns that is asked for the nearest with the filter.
    distances = ((queries[:, None] - moons[mask]) ** 2).sum(axis=2)
    order = np.argsort(distances, axis=1)
    scores, ids = -np.take_along_axis(distances, order, axis=1), np.flatnonzero(mask)[order]

    def reranked(length):
        hits = scores[:, :length], ids[:, :length]
        return mean_ap(ranker.rerank(*hits, k, restrict_to_candidates=True)[1])

    assert mean_ap(ranker.search(queries, k, allow=mask)[1]) > 0.98  # 0.99
    assert mean_ap(ids) < 0.85  # 0.80
    assert reranked(20) < 0.5  # 0.44
    assert reranked(k) < 0.9  # 0.85
