from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion import IVF, nearest_neighbors
from diffusion.kernels.threads import using_cores
from diffusion.neighbors import Exact, NeighborIndex, cells
from diffusion.validation import METRICS, as_vectors
from tests.support.graphs import scattered
from tests.support.oracles import similarity

EVERY = 10**6


def check_order(X, scores, ids, metric):
    """Check order, ties, padding, true scores, and that no item is twice or in its own list."""
    n = len(ids)
    full = similarity(X, X, metric)
    real = ids >= 0
    assert (real[:, :-1] >= real[:, 1:]).all()
    assert (scores[~real] == -np.inf).all()
    assert (ids[~real] == -1).all()
    assert not (ids == np.arange(n)[:, None]).any()
    for row in ids:
        assert len(set(row[row >= 0])) == (row >= 0).sum()
    both = real[:, 1:]
    assert (scores[:, :-1] >= scores[:, 1:])[both].all()
    tied = both & (scores[:, :-1] == scores[:, 1:])
    assert (ids[:, :-1] < ids[:, 1:])[tied].all()
    rows = np.nonzero(real)[0]
    scale = max(1.0, np.abs(full).max())
    np.testing.assert_allclose(scores[real], full[rows, ids[real]], atol=1e-5 * scale)


def clustered(rng, n, d=12, clusters=30):
    centers = rng.standard_normal((clusters, d))
    X = centers[rng.integers(clusters, size=n)] + 0.4 * rng.standard_normal((n, d))
    return X.astype(np.float32)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 400),
    st.integers(1, 60),
    st.integers(1, 9),
    st.integers(1, 4),
    st.sampled_from(METRICS),
    st.sampled_from(["plain", "ties", "duplicates", "zeros"]),
    st.integers(0, 10_000),
)
def test_lists_keep_their_contract(n, k, nlist, nprobe, metric, kind, seed):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, 5))
    if kind == "ties":
        X = rng.integers(-1, 2, (n, 3)).astype(float)
    elif kind == "duplicates":
        X = X[rng.integers(0, max(1, n // 20), n)]
    elif kind == "zeros":
        X[rng.random(n) < 0.5] = 0
    scores, ids = nearest_neighbors(X, k, metric=metric, method=IVF(nlist, nprobe))
    check_order(X, scores, ids, metric)
    # In all cells, nothing is missed.
    scores, ids = nearest_neighbors(X, k, metric=metric, method=IVF(nlist, EVERY))
    check_order(X, scores, ids, metric)
    assert ((ids >= 0).sum(axis=1) == min(k, n - 1)).all()
    full = similarity(X, X, metric)
    np.fill_diagonal(full, -np.inf)
    best = -np.sort(-full, axis=1)[:, : min(k, n - 1)]
    scale = max(1.0, np.abs(full[np.isfinite(full)]).max(initial=0))
    np.testing.assert_allclose(scores[:, : best.shape[1]], best, atol=1e-5 * scale)


@pytest.mark.parametrize("metric", METRICS)
def test_lists_do_not_depend_on_the_number_of_threads(rng, metric, monkeypatch):
    monkeypatch.setattr(cells, "BLOCK", 64)
    X = clustered(rng, 3000)
    one, three = [], []
    for cores, out in ((1, one), (3, three)):
        with using_cores(cores):
            index = NeighborIndex(as_vectors(X, "X", metric=metric), metric, IVF(50, 4))
            out += [*index.neighbors(10), *index.search(index.arrays()["vectors"][:100], 10)]
    for own, other in zip(one, three, strict=True):
        np.testing.assert_array_equal(own, other)


@pytest.mark.parametrize("k", [1, 30, 100, 700])
def test_equal_scores_at_the_end_of_a_list_do_not_depend_on_other_queries(rng, k):
    """Whole numbers have few scores; most lists end among equal ones, after many prunings."""
    X = rng.integers(-2, 3, (4000, 6)).astype(np.float32)
    Q = rng.integers(-2, 3, (40, 6)).astype(np.float32)
    index = NeighborIndex(X, "inner_product", IVF(40, 10), k=5)
    scores, ids = index.search(Q, k)
    np.testing.assert_array_equal(scores, np.take_along_axis(Q @ X.T, ids, axis=1))
    assert all(len(set(row)) == k for row in ids)
    for a in range(0, 40, 7):
        alone = index.search(Q[a : a + 1], k)
        np.testing.assert_array_equal(alone[0][0], scores[a])
        np.testing.assert_array_equal(alone[1][0], ids[a])
    every = NeighborIndex(X, "inner_product", IVF(40, 40), k=5).search(Q, k)[0]
    np.testing.assert_array_equal(every, -np.sort(-(Q @ X.T), axis=1)[:, :k])


@pytest.mark.parametrize("metric", METRICS)
def test_a_pair_has_one_score(rng, metric):
    X = clustered(rng, 2000, d=37)
    scores, ids = nearest_neighbors(X, 20, metric=metric, method=IVF(20, 6))
    of_pair = {}
    for i in range(len(X)):
        for s, j in zip(scores[i], ids[i], strict=True):
            assert of_pair.setdefault((min(i, j), max(i, j)), s) == s


def test_cells_have_limited_sizes_even_for_duplicates():
    X = np.ones((5000, 3), np.float32)
    X[4000:] += np.random.default_rng(0).standard_normal((1000, 3)).astype(np.float32)
    parts = cells.partition(X, 100, progress=False)
    assert np.diff(parts.offsets).max() <= 16 * 50
    assert np.diff(parts.offsets).sum() == 5000
    assert sorted(parts.order.tolist()) == list(range(5000))
    assert len(parts.centroids) == len(parts.offsets) - 1 == parts.groups[-1]


def test_each_vector_is_in_the_cell_of_its_nearest_centroid(rng):
    X = clustered(rng, 4000)
    parts = cells.partition(X, 40, progress=False)
    own = np.repeat(np.arange(40), np.diff(parts.offsets))
    distances = -similarity(X[parts.order], parts.centroids, "euclidean")
    nearest = distances[np.arange(4000), own] <= distances.min(axis=1) + 1e-4
    assert nearest.mean() > 0.99  # the nearest groups are searched, not all
    spread = ((X - X.mean(axis=0)) ** 2).sum(axis=1).mean()
    assert distances[np.arange(4000), own].mean() < 0.4 * spread


@pytest.mark.parametrize("metric", METRICS)
def test_cells_with_gaps_are_the_same_cells(rng, metric):
    X, Q = clustered(rng, 3000), clustered(rng, 50)
    whole = cells.partition(X, 40, progress=False).cells(X)
    start, stop, vectors, ids = scattered(whole.starts, whole.stops, whole.vectors, whole.ids)
    gaps = cells.Cells.of(vectors, ids, start, stop, whole.centroids, whole.groups)
    found, expected = (some.search(Q, 20, 5, metric) for some in (gaps, whole))
    for own, other in zip([*found, *gaps.packed()], [*expected, *whole], strict=True):
        np.testing.assert_array_equal(own, other)


def test_the_nearest_cells_of_a_query(rng):
    X, Q = clustered(rng, 3000), clustered(rng, 20)
    parts = cells.partition(X, 70, progress=False)
    for metric, measure in (("euclidean", "euclidean"), ("cosine", "euclidean")):
        full = similarity(Q, parts.centroids, measure)
        expected = np.argsort(-full, axis=1, kind="stable")
        np.testing.assert_array_equal(parts.probe(Q, 70, metric), expected)
    full = Q.astype(float) @ parts.centroids.T
    expected = np.argsort(-full, axis=1, kind="stable")
    np.testing.assert_array_equal(parts.probe(Q, 70, "inner_product"), expected)


class KilledError(Exception):
    pass


def test_a_killed_search_of_cells_is_resumed(rng, tmp_path, monkeypatch):
    monkeypatch.setattr(cells, "CHUNK", 100)
    monkeypatch.setattr("diffusion.storage.rows._INTERVAL", 0.0)
    index = NeighborIndex(clustered(rng, 950), "euclidean", IVF(20, 3))
    expected = index.neighbors(6)
    searched, search_own = [], cells.Cells.search_own

    def until_killed(self, rows, *rest):
        if len(searched) == 4:
            raise KilledError
        searched.append(rows)
        return search_own(self, rows, *rest)

    monkeypatch.setattr(cells.Cells, "search_own", until_killed)
    with pytest.raises(KilledError):
        index.neighbors(6, checkpoint=tmp_path / "part")
    searched = [None] * 5
    scores, ids = index.neighbors(6, checkpoint=tmp_path / "part")
    assert len(searched) == 5 + 6  # of ten blocks, four had been searched
    np.testing.assert_array_equal(scores, expected[0])
    np.testing.assert_array_equal(ids, expected[1])


def test_an_index_of_an_earlier_version_is_restored(rng):
    X = clustered(rng, 900)
    centroids = X[rng.choice(900, 12, replace=False)]
    distances = -similarity(X, centroids, "euclidean")
    arrays = {
        "vectors": X,
        "ivf_centroids": centroids,
        "ivf_cells": np.argmin(distances, axis=1),
    }
    index = NeighborIndex.restore(arrays, "euclidean", IVF(12, EVERY), X.shape)
    Q = clustered(rng, 30)
    scores, ids = index.search(Q, 15)
    exact = NeighborIndex(X, "euclidean", Exact()).search(Q, 15)
    np.testing.assert_array_equal(ids, exact[1])
    np.testing.assert_allclose(scores, exact[0], atol=1e-4)
    few = NeighborIndex.restore(arrays, "euclidean", IVF(12, 1), X.shape).search(Q, 15)[1]
    own = arrays["ivf_cells"][few[few >= 0]]
    nearest = np.argmin(-similarity(Q, centroids, "euclidean"), axis=1)
    assert (own == np.repeat(nearest, (few >= 0).sum(axis=1))).all()
    # It is stored again as it was read.
    assert index.arrays().keys() == arrays.keys()


def test_blas_has_its_threads_back(rng):
    from threadpoolctl import ThreadpoolController

    def threads():
        blas = ThreadpoolController().select(user_api="blas")
        return [library.num_threads for library in blas.lib_controllers]

    nearest_neighbors(clustered(rng, 500), 3, method=IVF(10, 2))
    before = threads()
    nearest_neighbors(clustered(rng, 500), 3, method=IVF(10, 2))
    assert threads() == before
