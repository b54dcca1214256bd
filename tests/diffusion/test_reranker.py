from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import diffusion
from diffusion import DiffusionError, Reranker
from tests.support.oracles import dense_diffusion, dense_graph, similarity


def dense_pipeline(X, Q, k, query_k, alpha, gamma):
    """The whole of fit and search in float64 by brute force: diffused scores (nq, n)."""
    s = similarity(X, X, "cosine")
    n = len(X)
    np.fill_diagonal(s, -np.inf)
    ids = np.argsort(-s, axis=1, kind="stable")[:, : min(k, n - 1)]
    weights = np.maximum(np.take_along_axis(s, ids, axis=1), 0) ** gamma
    _, W = dense_graph(ids, weights)
    sq = similarity(Q, X, "cosine")
    y = np.zeros_like(sq)
    for row, best in enumerate(np.argsort(-sq, axis=1, kind="stable")[:, :query_k]):
        y[row, best] = np.maximum(sq[row, best], 0) ** gamma
    return dense_diffusion(W, y, alpha), sq


@given(st.integers(0, 10_000), st.integers(2, 40), st.integers(1, 12), st.integers(1, 6))
def test_search_equals_the_dense_pipeline(seed, n, k, query_k):
    rng = np.random.default_rng(seed)
    X, Q = rng.standard_normal((n, 4)), rng.standard_normal((3, 4))
    ranker = Reranker(
        affinity="cosine", k=k, query_k=query_k, alpha=0.9, solver=diffusion.CG(tol=1e-10)
    ).fit(X)
    scores, ids = ranker.search(Q, k=n)
    x, first = dense_pipeline(X, Q, k, query_k, 0.9, 3.0)
    for row in range(3):
        assert sorted(ids[row]) == list(range(n))
        reached = scores[row] > 0
        np.testing.assert_allclose(scores[row][reached], x[row][ids[row][reached]], rtol=1e-4)
        # Nothing that could be reached is missing, beyond what float32 holds.
        assert (x[row][ids[row][~reached]] < 1e-12).all()
        # The rest follows by its first-stage similarity.
        assert (np.diff(first[row][ids[row][~reached]]) <= 1e-6).all()
        assert (np.diff(scores[row]) <= 0).all()


def test_finds_the_far_end_of_a_manifold():
    # Two half circles; from one end of the first, its other end is farther than the second.
    t = np.linspace(0, np.pi, 80)
    first = np.stack([np.cos(t), np.sin(t), np.full_like(t, 0.3)], axis=1)
    second = np.stack([np.cos(t), np.sin(t), np.full_like(t, -0.3)], axis=1)
    X = np.concatenate([first, second])
    ranker = Reranker(affinity="cosine", k=4, query_k=2).fit(X)
    _, ids = ranker.search(first[0], k=80)
    assert set(ids) == set(range(80))
    plain = np.argsort(-similarity(first[:1], X, "cosine")[0])[:80]
    assert set(plain) != set(range(80))


def test_shapes_and_dtypes(vectors):
    ranker = Reranker(k=5).fit(vectors)
    scores, ids = ranker.search(vectors[:4], k=7)
    assert scores.shape == ids.shape == (4, 7)
    assert scores.dtype == np.float32
    assert ids.dtype == np.int64
    one_scores, one_ids = ranker.search(vectors[0], k=7)
    assert one_scores.shape == one_ids.shape == (7,)
    assert (one_ids == ids[0]).all()
    more_scores, more = ranker.search(vectors[:2], k=130)
    assert (more[:, 120:] == -1).all()
    assert (more_scores[:, 120:] == -np.inf).all()
    assert sorted(more[0, :120]) == list(range(120))
    assert len(ranker.report_.residual) == 2


def test_search_is_rerank_of_the_first_stage(vectors, rng):
    ranker = Reranker(k=10).fit(vectors)
    Q = rng.standard_normal((5, 12))
    s = similarity(Q, vectors, "cosine")
    ids0 = np.argsort(-s, axis=1)
    scores0 = np.take_along_axis(s, ids0, axis=1)
    expected = ranker.search(Q, k=50)
    for ids in (ids0, ids0.astype(np.int32)):
        scores, found = ranker.rerank(scores0, ids, k=50)
        assert (found == expected[1]).all()
        np.testing.assert_allclose(scores, expected[0], rtol=1e-4, atol=1e-9)


def test_restricted_rerank_is_the_full_one_without_the_others(vectors):
    ranker = Reranker(k=10).fit(vectors)
    s = similarity(vectors[:3], vectors, "cosine")
    ids0 = np.argsort(-s, axis=1)[:, :30]
    scores0 = np.take_along_axis(s, ids0, axis=1)
    full_scores, full_ids = ranker.rerank(scores0, ids0, k=120)
    scores, ids = ranker.rerank(scores0, ids0, k=40, restrict_to_candidates=True)
    assert (ids[:, 30:] == -1).all()
    for row in range(3):
        inside = np.isin(full_ids[row], ids0[row])
        assert ids[row, :30].tolist() == full_ids[row][inside].tolist()
        np.testing.assert_array_equal(scores[row, :30], full_scores[row][inside])
    assert ranker.rerank(scores0, ids0, k=None, restrict_to_candidates=True)[1].shape == (3, 30)


def test_padded_candidates(vectors):
    ranker = Reranker(affinity="cosine", k=10).fit(vectors)
    plain = ranker.rerank([[0.9, 0.8, 0.7]], [[4, 9, 2]], k=20)
    padded = ranker.rerank([[0.9, np.nan, 0.8, 0.7, 0]], [[4, -1, 9, 2, -1]], k=20)
    assert (plain[1] == padded[1]).all()
    scores, ids = ranker.rerank([[0.0, 0.0]], [[-1, -1]], k=3)
    assert (ids == -1).all()
    assert (scores == -np.inf).all()


def test_what_diffusion_does_not_reach_follows_in_first_stage_order():
    # Two pairs and two isolated items.
    X = np.array([[1, 0, 0], [1, 0.1, 0], [0, 1, 0], [0, 1, 0.1], [0, 0, 1], [-1, -1, -1]])
    ranker = Reranker(affinity="cosine", k=1, query_k=1).fit(X)
    assert ranker.graph_.n_isolated == 2
    scores, ids = ranker.search([1, 0.02, 0.5], k=6)
    assert ids.tolist() == [0, 1, 4, 3, 2, 5]
    assert (scores[:2] > 0).all()
    assert (scores[2:] <= 0).all()
    assert (np.diff(scores) < 0).all()


def test_a_query_without_a_positive_similarity_keeps_its_first_stage(vectors):
    ranker = Reranker(affinity="cosine", k=5).fit(vectors)
    scores, ids = ranker.rerank([[-0.1, -0.2, -0.3]], [[7, 3, 90]], k=5)
    assert ids.tolist() == [[7, 3, 90, -1, -1]]
    np.testing.assert_allclose(scores[0, :3], [0, -0.1, -0.2], atol=1e-7)
    assert ranker.report_.converged.all()


def test_ties_are_stable():
    X = np.repeat(np.eye(3), 4, axis=0)
    ranker = Reranker(k=3, query_k=4).fit(X)
    _, ids = ranker.search(np.eye(3), k=4)
    assert ids.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def test_duplicates_keep_each_other(vectors):
    # Where rows are nodes: `fit` makes one node of both.
    ranker = Reranker(k=10).fit_rows(np.concatenate([vectors, vectors]))
    W = ranker.graph_.W.toarray()
    assert (W[np.arange(120), np.arange(120) + 120] > 0).all()


def test_a_single_item_and_more_neighbours_than_items():
    ranker = Reranker(affinity="cosine").fit([[1.0, 2.0]])
    scores, ids = ranker.search([[1.0, 2.0]], k=2)
    assert ids.tolist() == [[0, -1]]
    np.testing.assert_allclose(scores[0, 0], 0.01, rtol=1e-5)  # (1 - α) y, isolated
    ranker = Reranker(affinity="cosine", k=100).fit(np.eye(4) + 0.5)
    assert ranker.graph_.n_edges == 6


def test_fit_neighbors_equals_fit(vectors):
    fitted = Reranker(k=8).fit(vectors)
    scores, ids = diffusion.nearest_neighbors(vectors, 12)
    # With the item itself first, as most engines list it.
    own = np.arange(120)[:, None]
    scores = np.concatenate([np.ones_like(own, dtype=float), scores], axis=1)
    lists = Reranker(k=8).fit_neighbors(scores, np.concatenate([own, ids], axis=1))
    assert (lists.graph_.W.toarray() == fitted.graph_.W.toarray()).all()
    with pytest.raises(DiffusionError, match="search: this index was fitted from neighbour lists"):
        lists.search(vectors)
    with_vectors = Reranker(k=8).fit_neighbors(scores, np.concatenate([own, ids], axis=1), vectors)
    assert (with_vectors.search(vectors[:3])[1] == fitted.search(vectors[:3])[1]).all()


@pytest.mark.parametrize(
    ("metric", "method"),
    [
        (metric, method)
        for metric in ("cosine", "inner_product", "euclidean")
        for method in ("exact", "ivf", "hnsw", "nndescent")
        if (metric, method) != ("inner_product", "nndescent")
    ],
)
def test_every_metric_and_method_ranks_the_querys_cluster_first(vectors, metric, method):
    affinity = "gaussian" if metric == "euclidean" else "cosine"
    neighbors = diffusion.IVF(nlist=2, nprobe=2) if method == "ivf" else method
    ranker = Reranker(k=10, metric=metric, affinity=affinity, neighbors=neighbors).fit(vectors)
    _, ids = ranker.search(vectors[[0, 50, 100]], k=30)
    assert (ids // 40 == np.array([[0], [1], [2]])).mean() > 0.9


def test_euclidean_rerank_wants_negative_distances(vectors):
    ranker = Reranker(metric="euclidean", affinity="gaussian").fit(vectors)
    with pytest.raises(DiffusionError, match="scores0: metric='euclidean' expects negative"):
        ranker.rerank([[3.0, 2.0]], [[0, 1]])
    assert ranker.rerank([[-2.0, -3.0]], [[0, 1]], k=2)[1].shape == (1, 2)


def test_parameters():
    ranker = Reranker(k=7, solver=diffusion.CG(tol=1e-3))
    assert ranker.get_params()["k"] == 7
    assert Reranker(**ranker.get_params()).get_params() == ranker.get_params()
    solver = "CG(tol=0.001, max_iter=200, block_size=32, device='cpu')"
    assert repr(ranker) == f"Reranker(k=7, solver={solver})"
    assert ranker.set_params(k=3) is ranker
    assert ranker.k == 3
    with pytest.raises(DiffusionError, match="kay: no such parameter"):
        ranker.set_params(kay=3)


def test_transfer_takes_the_place_of_alpha(vectors):
    by_alpha = Reranker(k=5, alpha=0.5).fit(vectors).search(vectors[:2])
    transfer = diffusion.RegularizedLaplacian(0.5)
    by_transfer = Reranker(k=5, transfer=transfer).fit(vectors).search(vectors[:2])
    assert (by_alpha[0] == by_transfer[0]).all()


def test_query_k_acts_at_once(vectors):
    ranker = Reranker(k=5, query_k=1).fit(vectors)
    one = ranker.search(vectors[3] + 0.2)[0]
    many = ranker.set_params(query_k=20).search(vectors[3] + 0.2)[0]
    again = Reranker(k=5, query_k=20).fit(vectors).search(vectors[3] + 0.2)[0]
    assert (many == again).all()
    assert (one != many).any()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"k": 0}, "k: expected an integer of at least 1"),
        ({"k": 5.0}, "k: expected an integer"),
        ({"query_k": 0}, "query_k"),
        ({"alpha": 1.0}, "alpha: expected a number in"),
        ({"gamma": -1}, "gamma"),
        ({"affinity": "magic"}, "affinity"),
        ({"solver": "magic"}, "solver: expected one of 'auto'"),
        ({"transfer": 3}, "transfer: expected None or one of RegularizedLaplacian"),
        ({"metric": "magic"}, "metric"),
        ({"neighbors": 3}, "neighbors"),
    ],
)
def test_bad_parameters_are_named_by_fit(vectors, parameters, message):
    with pytest.raises(DiffusionError, match=message):
        Reranker(**parameters).fit(vectors)


@pytest.mark.parametrize(
    ("scores", "ids", "message"),
    [
        ([[0.5], [0.5]], [[1], [2]], r"ids: expected ids in \[-1, 2\); row 1"),
        ([[0.5], [0.5]], [[1], [-2]], r"ids: expected ids"),
        ([[0.5], [np.nan]], [[1], [0]], "scores: expected finite float32 values; row 1"),
        ([[0.5], [1e39]], [[1], [0]], "scores: expected finite float32 values; row 1"),
        ([[0.5, 0.6, 0.7]] * 5, [[1, 2, 3]] * 5, "scores: expected similarities, best first"),
        ([[0.5, -1, 0.6, 0.7]] * 5, [[1, -1, 2, 3]] * 5, "for distances pass their negatives"),
        (
            [[0.5, 0.5]] * 3,
            [[1, 1], [0, 2], [0, 1]],
            "ids: expected each item at most once",
        ),
        ([[0.5]], [[0, 1]], r"scores: expected the shape of ids, \(1, 2\)"),
        ([0.5], [0], r"ids: expected shape \(m, k\)"),
        ([[0.5]], [[0.0]], "ids: expected integers"),
        ([["x"]], [[0]], "scores: expected real numbers"),
    ],
)
def test_bad_lists_are_named(scores, ids, message):
    with pytest.raises(DiffusionError, match=message):
        Reranker(k=2).fit_neighbors(scores, ids)


def test_bad_queries_are_named(vectors):
    ranker = Reranker(k=5).fit(vectors)
    with pytest.raises(DiffusionError, match="Q: expected vectors of dimension 12"):
        ranker.search(np.ones((2, 5)))
    with pytest.raises(DiffusionError, match="Q: expected finite values, row 1"):
        ranker.search(np.array([np.ones(12), np.full(12, np.nan)]))
    with pytest.raises(DiffusionError, match="k: expected an integer"):
        ranker.search(vectors[:1], k=0)
    with pytest.raises(DiffusionError, match="ids0: expected each item at most once"):
        ranker.rerank([[1.0, 1.0]], [[3, 3]])
    with pytest.raises(DiffusionError, match="X: expected 1 rows"):
        Reranker().fit_neighbors([[0.5]], [[-1]], vectors)
    with pytest.raises(DiffusionError, match="not fitted yet"):
        Reranker().search(vectors)


def test_searches_from_many_threads_agree(vectors):
    ranker = Reranker(k=10).fit(vectors)
    expected = ranker.search(vectors)[1]
    with ThreadPoolExecutor(4) as pool:
        for _, ids in pool.map(lambda _: ranker.search(vectors), range(12)):
            assert (ids == expected).all()


def test_import_is_light():
    code = "import diffusion, sys; print([m for m in ('torch', 'faiss', 'sklearn', 'pynndescent') "
    code += "if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_query_however_weak_or_strong_is_ranked_alike(vectors):
    ranker = Reranker(affinity="cosine", k=10, metric="inner_product").fit(vectors)
    expected = ranker.search(vectors[:20], k=120)[1]
    for scale in (1e-14, 1e-6, 1e6, 1e12):
        scores, ids = ranker.search(vectors[:20] * scale, k=120)
        assert np.isfinite(scores).all()
        assert (ids[:, :10] == expected[:, :10]).mean() > 0.99
    cosine = Reranker(affinity="cosine", k=10).fit(vectors)
    weak = cosine.rerank([[1e-9, 0.9e-9]], [[3, 5]], k=10)[1]
    strong = cosine.rerank([[1.0, 0.9]], [[3, 5]], k=10)[1]
    assert (weak == strong).all()


def test_a_euclidean_query_from_afar_still_diffuses(vectors):
    ranker = Reranker(k=10, metric="euclidean", affinity="gaussian").fit(vectors)
    scores, _ = ranker.search(vectors[0] + 1000, k=30)
    assert (scores > 0).all()


@pytest.mark.parametrize("offset", [1e3, 1e5])
def test_euclidean_neighbours_far_from_the_origin(rng, offset):
    X = rng.standard_normal((600, 128))
    near = diffusion.nearest_neighbors(X, 10, metric="euclidean")[1]
    far = diffusion.nearest_neighbors(X + offset, 10, metric="euclidean")[1]
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(near, far, strict=True)]) > 0.99
    ranker = Reranker(k=10, metric="euclidean", affinity="gaussian").fit(X + offset)
    assert (
        ranker.search(
            X[:50] + offset,
            k=1,
        )[1]
        >= 0
    ).all()
    index = ranker.fitted().index
    first = index.search((X[:50] + offset - index.center).astype(np.float32), 1)[1]
    assert first[:, 0].tolist() == list(range(50))


def test_the_length_of_the_list_does_not_change_its_beginning(rng):
    # Products of binary vectors: whole plateaus tie for the last place in the observation.
    X = rng.integers(0, 2, (300, 6)).astype(float)
    Q = rng.integers(0, 2, (60, 6)).astype(float)
    ranker = Reranker(k=10, query_k=7, metric="inner_product").fit(X)
    long = ranker.search(Q, k=200)
    for k in (1, 3, 20):
        scores, ids = ranker.search(Q, k=k)
        # Beyond what diffusion reaches, ties at the end of the first stage are the engine's.
        reached = scores > 0
        assert (ids == long[1][:, :k])[reached].all()
        assert (scores == long[0][:, :k])[reached].all()


def test_numpy_scalars_are_numbers(vectors, tmp_path):
    ranker = Reranker(
        k=np.int64(5),
        query_k=np.int32(4),
        alpha=np.float32(0.9),
        solver=diffusion.CG(max_iter=np.int64(100)),
        neighbors=diffusion.IVF(nlist=np.int64(3), nprobe=np.int64(3)),
    ).fit(vectors)
    ids = ranker.search(vectors, k=np.int64(6))[1]
    ranker.save(tmp_path / "index")
    assert (diffusion.load(tmp_path / "index").search(vectors, k=6)[1] == ids).all()


@pytest.mark.parametrize("affinity", ["cosine", "context"])
def test_the_exact_search_takes_a_k_of_numpy(vectors, affinity):
    expected = Reranker(k=5, affinity=affinity).fit(vectors[:100]).add(vectors[100:])
    ranker = Reranker(k=np.int64(5), affinity=affinity).fit(vectors[:100]).add(vectors[100:])
    assert (ranker.graph_.W != expected.graph_.W).nnz == 0


def test_more_neighbours_asked_for_than_there_are(vectors):
    ranker = Reranker(k=2_000_000_000, query_k=2_000_000_000).fit(vectors)
    assert ranker.graph_.W.nnz <= 120 * 119
    assert sorted(ranker.search(vectors[0], k=120)[1]) == list(range(120))
    with pytest.raises(DiffusionError, match="k: expected an integer of at most"):
        Reranker(k=10**30).fit(vectors)


def test_query_k_in_effect_is_saved(vectors, tmp_path):
    ranker = Reranker(k=5, query_k=2).fit(vectors).set_params(query_k=20)
    ranker.save(tmp_path / "index")
    loaded = diffusion.load(tmp_path / "index")
    assert (loaded.search(vectors)[1] == ranker.search(vectors)[1]).all()


def test_batches_do_not_change_the_answer(vectors, monkeypatch):
    ranker = Reranker(k=5).fit(vectors)
    whole = ranker.search(vectors, k=20)
    monkeypatch.setattr("diffusion.fitted._BATCH_VALUES", 1)
    parts = ranker.search(vectors, k=20)
    assert (whole[1] == parts[1]).all()
    assert len(ranker.report_.residual) == 120


def test_padding_before_candidates_is_passed_over(vectors):
    ranker = Reranker(affinity="cosine", k=5, query_k=2).fit(vectors)
    plain = ranker.rerank([[0.9, 0.8]], [[4, 9]], k=20)
    with_padding = ranker.rerank([[1e300, 0.9, 1e300, 0.8]], [[-1, 4, -1, 9]], k=20)
    assert (plain[1] == with_padding[1]).all()


def test_restricted_ties_keep_their_first_stage_order():
    X = np.repeat(np.eye(2), 3, axis=0)
    ranker = Reranker(k=2, query_k=3).fit(X)
    _, ids = ranker.rerank([[1.0, 1.0, 1.0]], [[2, 0, 1]], k=3, restrict_to_candidates=True)
    assert ids.tolist() == [[2, 0, 1]]
