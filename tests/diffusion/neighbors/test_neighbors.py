from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import diffusion
from diffusion import HNSW, IVF, Exact, NNDescent, nearest_neighbors
from diffusion.neighbors import NeighborIndex
from diffusion.validation import METRICS, as_vectors
from tests.support.oracles import similarity


def check_lists(X, scores, ids, metric, k):
    """Exact lists, ties allowed: the right scores, and each id worth its score."""
    n = len(X)
    full = similarity(X, X, metric)
    scale = max(1.0, np.abs(full).max())
    for i in range(n):
        others = np.delete(full[i], i)
        best = np.sort(others)[::-1][:k]
        real = ids[i] >= 0
        assert real.sum() == len(best)
        assert (ids[i][~real] == -1).all()
        assert (scores[i][~real] == -np.inf).all()
        assert i not in ids[i]
        assert len(set(ids[i][real])) == real.sum()
        np.testing.assert_allclose(scores[i][real], best, atol=1e-5 * scale)
        np.testing.assert_allclose(full[i, ids[i][real]], best, atol=1e-5 * scale)


@given(
    st.integers(1, 30),
    st.integers(1, 40),
    st.sampled_from(METRICS),
    st.integers(0, 10_000),
    st.booleans(),
)
def test_exact_equals_brute_force(n, k, metric, seed, duplicates):
    rng = np.random.default_rng(seed)
    X = rng.integers(-2, 3, (n, 3)).astype(float)  # ties and zero vectors
    if duplicates:
        X = X[rng.integers(0, n, n)]
    scores, ids = nearest_neighbors(X, k, metric=metric)
    assert scores.shape == ids.shape == (n, k)
    assert scores.dtype == np.float32
    check_lists(X, scores, ids, metric, k)


def test_equal_scores_come_by_ascending_id():
    X = np.ones((6, 2))
    scores, ids = nearest_neighbors(X, 5, metric="inner_product")
    assert ids.tolist() == [[j for j in range(6) if j != i] for i in range(6)]
    assert (scores == 2).all()


def test_more_duplicates_than_k_never_list_themselves():
    _, ids = nearest_neighbors(np.ones((50, 3)), 4)
    assert (ids >= 0).all()
    assert not (ids == np.arange(50)[:, None]).any()


def test_one_item_and_zero_vectors():
    scores, ids = nearest_neighbors([[1.0, 2.0]], 3)
    assert ids.tolist() == [[-1, -1, -1]]
    assert (scores == -np.inf).all()
    scores, _ = nearest_neighbors([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]], 2)
    assert (scores[0] == 0).all()


@pytest.mark.parametrize(
    ("metric", "method", "least_recall"),
    [
        (metric, method, least_recall)
        for metric in METRICS
        for method, least_recall in [
            (IVF(nlist=10, nprobe=5), 0.85),
            (IVF(nlist=10, nprobe=10), 1.0),
            (HNSW(), 0.97),
            (NNDescent(), 0.93),
        ]
        if (metric, method) != ("inner_product", NNDescent())
    ],
)
def test_approximate_methods_against_exact(rng, metric, method, least_recall):
    X = rng.standard_normal((1500, 8))
    if metric == "inner_product":  # the unit sphere, where graphs for it are navigable
        X /= np.linalg.norm(X, axis=1, keepdims=True)
    k = 10
    _, exact_ids = nearest_neighbors(X, k, metric=metric)
    scores, ids = nearest_neighbors(X, k, metric=metric, method=method)
    recall = np.mean([len(set(a) & set(b)) / k for a, b in zip(ids, exact_ids, strict=True)])
    assert recall >= least_recall
    assert not (ids == np.arange(len(X))[:, None]).any()
    full = similarity(X, X, metric)
    real = ids >= 0
    rows = np.nonzero(real)[0]
    np.testing.assert_allclose(scores[real], full[rows, ids[real]], atol=1e-4)
    assert (np.diff(scores, axis=1)[real[:, 1:]] <= 0).all()


def test_ivf_over_all_cells_and_exact_search_agree_on_queries(rng):
    X, Q = (as_vectors(rng.standard_normal((n, 6)), "X", metric="cosine") for n in (300, 20))
    exact = NeighborIndex(X, "cosine", Exact()).search(Q, 400)
    ivf = NeighborIndex(X, "cosine", IVF(nlist=4, nprobe=4)).search(Q, 400)
    assert exact[1].dtype == np.int64
    assert (exact[1][:, 300:] == -1).all()
    np.testing.assert_allclose(ivf[0], exact[0], atol=1e-6)


def test_a_search_by_hnsw_leaves_nothing_to_the_next_one(rng):
    """Threads share the index, so a search may not set how far the searches of others go."""
    X = as_vectors(rng.standard_normal((2000, 16)).astype(np.float32), "X", metric="cosine")
    index = NeighborIndex(X, "cosine", HNSW(m=4, ef_construction=20, ef_search=4), k=1)
    effort = index._faiss.hnsw.efSearch
    short = index.search(X[:200] + np.float32(0.3), 1)[1]
    deep = index.search(X[:200] + np.float32(0.3), 500)[1][:, :1]
    again = index.search(X[:200] + np.float32(0.3), 1)[1]
    assert index._faiss.hnsw.efSearch == effort
    np.testing.assert_array_equal(short, again)
    assert (short != deep).any(), "the depth has no effect, so that nothing was tested"


def test_blocks_do_not_change_the_lists(rng, monkeypatch):
    X = rng.standard_normal((100, 5))
    whole = nearest_neighbors(X, 7)
    monkeypatch.setattr("diffusion.neighbors.progress.BLOCK", 33)
    blocks = nearest_neighbors(X, 7)
    assert (whole[1] == blocks[1]).all()


@given(
    st.integers(1, 40),
    st.integers(1, 8),
    st.integers(0, 6),
    st.integers(0, 10_000),
)
def test_resolved_ties_are_those_of_the_lowest_ids(n, depth, more, seed):
    rng = np.random.default_rng(seed)
    X = rng.integers(-1, 2, (n, 3)).astype(np.float32)  # many items tie
    queries = rng.integers(-1, 2, (5, 3)).astype(np.float32)
    index = NeighborIndex(X, "inner_product", Exact())
    first = index.search(queries, depth + more)
    scores, ids = index.resolve_ties(queries, *first, depth)
    if more == 0:  # too short to tell: as they came
        np.testing.assert_array_equal(ids, first[1])
        return
    full = similarity(queries, X, "inner_product")
    best = np.argsort(-full, axis=1, kind="stable")[:, :depth]
    np.testing.assert_array_equal(ids[:, : best.shape[1]], best)
    np.testing.assert_array_equal(ids[:, best.shape[1] :], -1)
    np.testing.assert_array_equal(
        scores[:, : best.shape[1]], np.take_along_axis(full, best, axis=1)
    )


def test_ties_are_widened_up_to_a_limit(rng, monkeypatch):
    monkeypatch.setattr("diffusion.neighbors.index._WIDEST_TIE", 20)
    index = NeighborIndex(np.ones((100, 2), np.float32), "inner_product", Exact())
    queries = np.ones((1, 2), np.float32)
    widths = []
    search = NeighborIndex.search
    monkeypatch.setattr(
        NeighborIndex,
        "search",
        lambda self, Q, k: (widths.append(k), search(self, Q, k))[1],
    )
    index.resolve_ties(queries, *search(index, queries, 5), 4)
    assert widths == [10, 20]


def test_nearest_neighbours_of_few_items_by_descent_are_exact():
    X = np.eye(5)
    check_lists(X, *nearest_neighbors(X, 3, method="nndescent"), "cosine", 3)


class KilledError(Exception):
    pass


def test_a_killed_search_goes_on_where_it_was(rng, tmp_path, monkeypatch):
    monkeypatch.setattr("diffusion.neighbors.progress.BLOCK", 10)
    monkeypatch.setattr("diffusion.storage.rows._INTERVAL", 0.0)
    X = rng.standard_normal((95, 4)).astype(np.float32)
    index = NeighborIndex(X, "euclidean", Exact())
    expected = index.neighbors(6)
    searched = []
    search_block = NeighborIndex._search_block

    def until_killed(self, queries, k):
        if len(searched) == 4:
            raise KilledError
        searched.append(len(queries))
        return search_block(self, queries, k)

    monkeypatch.setattr(NeighborIndex, "_search_block", until_killed)
    with pytest.raises(KilledError):
        index.neighbors(6, checkpoint=tmp_path / "part")
    rest = []
    monkeypatch.setattr(
        NeighborIndex,
        "_search_block",
        lambda self, Q, k: (rest.append(len(Q)), search_block(self, Q, k))[1],
    )
    scores, ids = index.neighbors(6, checkpoint=tmp_path / "part")
    assert sum(rest) == 55  # the four blocks of the first run are not searched again
    assert (ids == expected[1]).all()
    assert (scores == expected[0]).all()
    # Other vectors start afresh.
    rest.clear()
    other = NeighborIndex(X + 1, "euclidean", Exact()).neighbors(6, checkpoint=tmp_path / "part")
    assert sum(rest) == 95
    np.testing.assert_allclose(other[0], expected[0], atol=1e-4)


def test_fit_removes_its_checkpoint_and_nothing_else(rng, tmp_path):
    X = rng.standard_normal((30, 4))
    diffusion.Reranker(k=3).fit(X, checkpoint=tmp_path / "part")
    assert not (tmp_path / "part").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(diffusion.DiffusionError, match=r"checkpoint: .* found 'thesis"):
        diffusion.Reranker(k=3).fit(X, checkpoint=tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"X": np.ones(3)}, r"X: expected shape \(n, d\)"),
        ({"X": np.ones((0, 3))}, r"X: expected shape"),
        ({"X": [["a", "b"]]}, "X: expected real numbers"),
        ({"X": np.ones((2, 2), complex)}, "X: expected real numbers"),
        ({"X": [[1.0, 2.0], [np.nan, 1.0]]}, "X: expected finite values, row 1 holds NaN"),
        ({"X": [[1.0, np.inf]]}, "X: expected finite values, row 0"),
        ({"X": [[1.0, 1], [1e30, 1]], "metric": "euclidean"}, "X: expected norms .* row 1"),
        ({"k": 0}, "k: expected an integer of at least 1, got 0"),
        ({"metric": "hamming"}, "metric: expected one of 'cosine', 'inner_product', 'euclidean'"),
        ({"method": "magic"}, "neighbors: expected one of 'auto', 'exact'"),
        (
            {"method": "nndescent", "metric": "inner_product"},
            "metric: .* not support 'inner_product'",
        ),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(diffusion.DiffusionError, match=message):
        nearest_neighbors(**{"X": np.eye(3), "k": 1, **arguments})


@pytest.mark.parametrize(
    "settings",
    [lambda: IVF(nlist=0), lambda: IVF(nprobe=0), lambda: HNSW(m=1), lambda: NNDescent(seed=-1)],
)
def test_bad_settings(settings):
    with pytest.raises(diffusion.DiffusionError, match="expected an integer of at least"):
        settings()


def test_a_cosine_is_at_most_one(rng):
    X = np.repeat(rng.standard_normal((40, 77)), 2, axis=0)
    scores, _ = nearest_neighbors(X, 3)
    assert scores.max() <= 1


def test_norms_near_the_limit_stay_finite():
    X = 3.9e18 * np.array([[1.0, 0], [-1, 0], [0, 1]])
    for metric in ("euclidean", "inner_product"):
        scores, ids = nearest_neighbors(X, 2, metric=metric)
        assert np.isfinite(scores).all()
        assert (ids >= 0).all()


def test_huge_float64_values_keep_their_direction():
    vectors = as_vectors([[1e300, 1e300], [3e-300, 4e-300]], "X", metric="cosine")
    np.testing.assert_allclose(vectors, [[0.5**0.5] * 2, [0.6, 0.8]], rtol=1e-6)
