"""The way of one query from first-stage hits to a ranked list."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

import diffusion
from diffusion import Reranker
from diffusion.kernels import threads


def around(n):
    """Points around a closed curve."""
    rng = np.random.default_rng(0)
    t = rng.random(n) * 2 * np.pi
    curve = np.stack([np.cos(t), np.sin(t), np.sin(2 * t)], axis=1)
    return curve + 0.05 * rng.standard_normal((n, 3))


@pytest.fixture(scope="module")
def ranker():
    """An index whose graph is too large to be solved whole for every query."""
    return Reranker().fit(around(2000))


@pytest.fixture(scope="module")
def hits(ranker):
    Q = np.random.default_rng(1).standard_normal((20, 3)).astype(np.float32)
    return ranker.fitted().index.search(Q / np.linalg.norm(Q, axis=1, keepdims=True), 100)


def test_one_query_wakes_no_thread_and_makes_no_scipy_array(ranker, hits, monkeypatch):
    expected = ranker.rerank(hits[0][0], hits[1][0])

    def refuse(*arguments, **options):
        raise AssertionError("not for one query")

    monkeypatch.setattr(threads._pool, "submit", refuse)
    monkeypatch.setattr(sparse.csr_array, "__init__", refuse)
    scores, ids = ranker.rerank(hits[0][0], hits[1][0])
    assert ranker.report_.solver == "local"
    np.testing.assert_array_equal(ids, expected[1])
    np.testing.assert_array_equal(scores, expected[0])
    # Both would be noticed.
    with pytest.raises(AssertionError, match="not for one query"):
        sparse.csr_array((2, 2))
    with threads.using_cores(2), pytest.raises(AssertionError, match="not for one query"):
        ranker.rerank(*hits)


def test_what_one_query_allocates_does_not_grow_with_the_collection(ranker, monkeypatch):
    larger = Reranker().fit(around(10_000))
    sizes = []
    for name in ("empty", "zeros", "ones", "full", "arange", "sqrt", "where", "concatenate"):
        function = getattr(np, name)

        def watched(*arguments, function=function, **options):
            result = function(*arguments, **options)
            sizes.append(np.size(result))
            return result

        monkeypatch.setattr(np, name, watched)
    totals = []
    for index in (ranker, larger):
        index.search([1.0, 0.0, 0.0])
        sizes.clear()
        index.search([1.0, 0.1, 0.0])
        totals.append(sum(sizes))
    assert totals[0] > 1000
    assert totals[1] < 1.5 * totals[0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint64])
def test_hits_of_every_type_and_order_give_one_answer(ranker, hits, dtype, kind):
    scores, ids = hits[0].astype(dtype), hits[1].astype(kind)
    expected = ranker.rerank(*hits)
    order = np.random.default_rng(2).permutation(100)
    padded = np.pad(scores, ((0, 0), (0, 3))), np.pad(hits[1], ((0, 0), (0, 3)), constant_values=-1)
    forms = [
        (scores, ids),
        (scores[:, order], ids[:, order]),
        (scores.tolist(), ids.tolist()),
        (list(scores), list(ids)),
        padded,
        (np.asfortranarray(scores), np.asfortranarray(ids)),
    ]
    for form in forms:
        answer = ranker.rerank(*form)
        np.testing.assert_array_equal(answer[1], expected[1])
        np.testing.assert_array_equal(answer[0], expected[0])


def test_a_short_list_is_answered_alike_alone_and_beside_longer_ones(ranker, hits):
    short = [hits[0][0][:7], *hits[0][1:]], [hits[1][0][:7], *hits[1][1:]]
    alone = ranker.rerank(short[0][0], short[1][0])
    among = diffusion.Reranker.rerank(ranker, *short)
    np.testing.assert_allclose(among[0][0][:50], alone[0][:50], rtol=0.02)
    assert len(np.intersect1d(among[1][0], alone[1])) >= 99
