from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import diffusion
from diffusion import Context, DiffusionError, RegionalReranker, Reranker, metrics
from diffusion.index_state import save_state
from diffusion.kernels.ranking import FirstStage
from diffusion.scoring.fusion import Fusion
from diffusion.solvers import SOLVERS
from tests.support.oracles import dense_diffusion, dense_graph, similarity


def papers(**settings):
    """Return a RegionalReranker with the settings of the paper."""
    return RegionalReranker(affinity="cosine", **settings)


@st.composite
def collections(draw):
    """Regions of images and of queries: ragged, in any order, image numbers with gaps."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, nq = draw(st.integers(1, 8)), draw(st.integers(1, 4))
    numbers = rng.choice(50, n, replace=False)
    images = rng.permutation(np.repeat(numbers, rng.integers(1, 6, n)))
    queries = rng.permutation(np.repeat(np.arange(nq), rng.integers(1, 5, nq)))
    d = draw(st.integers(2, 6))
    X, Q = rng.standard_normal((len(images), d)), rng.standard_normal((len(queries), d))
    return X, images, Q, queries


def dense_weights(X, images, ridge):
    """Generalised max pooling, an image at a time, by the inverse."""
    X = np.asarray(X, float)
    X = X / np.maximum(np.linalg.norm(X, axis=1, keepdims=True), 1e-300)
    weights = np.empty(len(X))
    for image in set(images):
        own = np.asarray(images) == image
        gram = X[own] @ X[own].T
        weights[own] = np.linalg.inv(gram + ridge * np.eye(len(gram))).sum(axis=1)
    return weights


def dense_pipeline(X, images, Q, queries, k, query_k, alpha, pooling):
    """Everything in float64 by brute force: scores (nq, n) of the images, ascending number."""
    s = similarity(X, X, "cosine")
    m = len(X)
    np.fill_diagonal(s, -np.inf)
    ids = np.argsort(-s, axis=1, kind="stable")[:, : min(k, m - 1)]
    _, W = dense_graph(ids, np.maximum(np.take_along_axis(s, ids, axis=1), 0) ** 3)
    sq = similarity(Q, X, "cosine")
    y = np.zeros((queries.max() + 1, m))
    for row, query in enumerate(queries):
        near = np.argsort(-sq[row], kind="stable")[: max(k, query_k)]
        y[query, near] += np.maximum(sq[row, near], 0) ** 3
    for row in y:
        row[np.argsort(-row, kind="stable")[query_k:]] = 0
    x = dense_diffusion(W, y, alpha)
    w = dense_weights(X, images, 1.0) if pooling == "gmp" else np.ones(m)
    names = np.unique(images)
    pairs = np.full((len(y), len(names)), -np.inf)
    np.maximum.at(pairs, (queries[:, None], np.searchsorted(names, images)[None]), sq)
    return np.stack([(w * x)[:, images == name].sum(axis=1) for name in names], axis=1), pairs


@given(collections(), st.integers(1, 12), st.integers(1, 12), st.sampled_from(["gmp", "sum"]))
def test_search_equals_the_dense_pipeline(collection, k, query_k, pooling):
    X, images, Q, queries = collection
    ranker = papers(
        k=k, query_k=query_k, alpha=0.9, pooling=pooling, solver=diffusion.CG(tol=1e-10)
    ).fit(X, images)
    names = np.unique(images)
    assert ranker.n_images_ == len(names)
    assert ranker.n_regions_ == len(X)
    scores, ids = ranker.search(Q, queries, k=len(names))
    expected, pairs = dense_pipeline(X, images, Q, queries, k, query_k, 0.9, pooling)
    for row in range(len(expected)):
        assert sorted(ids[row]) == names.tolist()
        where = np.searchsorted(names, ids[row])
        reached = scores[row] > 0
        np.testing.assert_allclose(
            scores[row][reached], expected[row][where[reached]], rtol=1e-4, atol=1e-9
        )
        # Nothing that could be reached is missing, beyond what float32 holds.
        assert (expected[row][where[~reached]] < 1e-7).all()
        # The rest follows by its best pair of regions.
        assert (np.diff(pairs[row][where[~reached]]) <= 1e-6).all()
        assert (np.diff(scores[row]) <= 0).all()


def test_similarities_are_raised_before_they_are_summed():
    # Two regions of a query at cosine 0.6 from one region, one of them at 0.8 from another:
    # 2 x 0.6³ = 0.432 is less than 0.8³ = 0.512, though (2 x 0.6)³ is more.
    X = np.eye(3)
    Q = [[0.6, 0.8, 0.0], [0.6, 0.0, 0.8]]
    ranker = papers(k=2, query_k=3, pooling="sum").fit(X, [0, 1, 2])
    scores, ids = ranker.search(Q, k=3)
    assert ids.tolist() == [1, 2, 0]
    # No region is like another: each is alone in the graph, x = (1 - α) y.
    np.testing.assert_allclose(scores, [0.00512, 0.00512, 0.00432], rtol=1e-5)


def test_the_largest_sums_are_kept_not_the_largest_terms():
    X = np.eye(3)
    Q = [[0.7, 0.714, 0.0], [0.7, 0.0, 0.714]]
    ranker = papers(k=3, query_k=1).fit(X, [0, 1, 2])
    scores, ids = ranker.search(Q, k=3)
    assert ids[0] == 0
    assert (scores[1:] <= 0).all()


@pytest.mark.parametrize("pooling", ["gmp", "sum"])
@pytest.mark.parametrize("solver", [*SOLVERS])
def test_one_region_an_image_is_the_reranker(vectors, rng, solver, pooling):
    names = rng.permutation(1000)[: len(vectors)]
    Q = vectors[:7] + 0.1
    plain = Reranker(k=8, query_k=5, solver=solver, affinity="cosine").fit(vectors)
    regional = papers(k=8, query_k=5, solver=solver, pooling=pooling)
    regional.fit(vectors, names)
    expected_scores, expected = plain.search(Q, k=30)
    scores, ids = regional.search(Q, np.arange(7), k=30)
    if solver == "truncated":
        # Its shortlist holds regions that the query is unlike: nothing orders them.
        assert (ids[:, :10] == names[expected[:, :10]]).all()
        return
    assert (ids == names[expected]).all()
    # w = 1 / (1 + λ) for a region alone.
    factor = np.where(expected_scores > 0, 0.5 if pooling == "gmp" else 1, 1)
    np.testing.assert_allclose(scores, factor * expected_scores, rtol=2e-6)


@given(collections(), st.sampled_from([0.01, 1.0, 30.0]))
def test_weights_solve_the_normal_equations(collection, ridge):
    X, images, _, _ = collection
    weights = diffusion.generalized_max_pooling(X, images, regularization=ridge)
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights, dense_weights(X, images, ridge), rtol=1e-4, atol=1e-5)


def test_weights_by_hand():
    # Regions a, a and b, <a, b> = 0.6: (2 + λ) u + 0.6 v = 1 and 1.2 u + (1 + λ) v = 1.
    X = [[1, 0], [5, 0], [0.6, 0.8]]
    weights = diffusion.generalized_max_pooling(X, [3, 3, 3])
    np.testing.assert_allclose(weights, [1.4 / 5.28, 1.4 / 5.28, 1.8 / 5.28], rtol=1e-6)
    # A region of zeros is like none, itself included.
    assert diffusion.generalized_max_pooling([[0.0, 0.0]], [0])[0] == 1
    strong = diffusion.generalized_max_pooling(X, [3, 3, 3], regularization=1e6)
    np.testing.assert_allclose(strong, 1e-6, rtol=1e-5)


def test_repeated_regions_share_their_vote(rng):
    a, b = rng.standard_normal((2, 5))
    few = diffusion.generalized_max_pooling([a, b], [0, 0], regularization=1e-6)
    many = diffusion.generalized_max_pooling([a] * 50 + [b], [0] * 51, regularization=1e-6)
    assert many[:50].sum() == pytest.approx(few[0], rel=1e-3)
    assert many[50] == pytest.approx(few[1], rel=1e-3)


@given(collections(), st.integers(1, 10), st.sampled_from(["sum", "max"]))
def test_r_match_equals_loops(collection, k, pooling):
    X, images, Q, queries = collection
    scores, ids = diffusion.r_match(Q, X, images, queries, k, pooling=pooling)
    assert scores.dtype == np.float32
    assert ids.dtype == np.int64
    s = similarity(Q, X, "cosine")
    names = np.unique(images)
    for query in range(queries.max() + 1):
        expected = {}
        for name in names:
            best = [
                max(s[q, images == name]) for q in np.flatnonzero(queries == query)
            ]  # fmt: skip
            expected[name] = sum(best) if pooling == "sum" else max(best)
        real = ids[query] >= 0
        assert real.sum() == min(k, len(names))
        assert (scores[query][~real] == -np.inf).all()
        found = [expected[name] for name in ids[query][real]]
        np.testing.assert_allclose(scores[query][real], found, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(
            found, sorted(expected.values(), reverse=True)[:k], rtol=1e-5, atol=1e-6
        )


def test_r_match_in_blocks(rng, monkeypatch):
    X, images = rng.standard_normal((60, 4)), np.repeat(np.arange(12), 5)
    Q, queries = rng.standard_normal((9, 4)), np.repeat([0, 1], [7, 2])
    whole = diffusion.r_match(Q, X, images, queries, 12)
    monkeypatch.setattr("diffusion.baselines.r_match._BLOCK_VALUES", 120)
    parts = diffusion.r_match(Q, X, images, queries, 12)
    assert (whole[1] == parts[1]).all()
    np.testing.assert_allclose(whole[0], parts[0], rtol=1e-6)
    one = diffusion.r_match(Q[7:], X, images, k=3)
    assert one[1].tolist() == whole[1][1, :3].tolist()


def scenes(rng, n_objects=12, views=8, clutter=4):
    """Images of an object's region, drifting from view to view, among regions of clutter."""
    d = 48
    start, end = rng.standard_normal((2, n_objects, 1, d))
    turn = np.linspace(0, 1, views)[None, :, None]
    objects = ((1 - turn) * start + turn * end).reshape(-1, d)
    images = np.arange(n_objects * views)
    X = np.concatenate([objects, 1.2 * rng.standard_normal((len(images) * clutter, d))])
    X += 0.3 * rng.standard_normal(X.shape)
    owner = np.concatenate([images, np.repeat(images, clutter)])
    return X, owner, images // views, turn


def mean_average_precision(ids, labels, asked):
    return np.mean(metrics.average_precision(*metrics.hits_from_labels(ids, labels, asked)))


def region_lists(S, own, asked, width):
    """The width best regions for each region, without those of its own image, in plain Python."""
    lists = []
    for row, s in enumerate(S):
        others = [j for j in range(len(s)) if asked is None or own[j] != asked[row]]
        lists.append(sorted(others, key=lambda j: (-s[j], j))[:width])
    return lists


def match_lists(S, lists, own, asked):
    """The mean of each image's best similarity, at least that of the last in a region's list."""
    names = range(own.max() + 1)
    lists_of_images = []
    for query in range(asked.max() + 1):
        rows = np.flatnonzero(asked == query)
        scores = {}
        for image in names:
            best = [max([S[r, j] for j in lists[r] if own[j] == image], default=None) for r in rows]
            if any(b is not None for b in best):
                floors = [S[r, lists[r][-1]] for r in rows]
                mean = [f if b is None else b for b, f in zip(best, floors, strict=True)]
                scores[image] = np.mean(mean)
        lists_of_images.append(sorted(scores.items(), key=lambda pair: (-pair[1], pair[0])))
    width = max(map(len, lists_of_images))
    out = (
        np.full((len(lists_of_images), width), -np.inf),
        np.full((len(lists_of_images), width), -1),
    )
    for row, pairs in enumerate(lists_of_images):
        for place, (image, score) in enumerate(pairs):
            out[0][row, place], out[1][row, place] = score, image
    return out


def padded_lists(S, lists):
    width = max(map(len, lists))
    ids = np.array([[*row, *[-1] * (width - len(row))] for row in lists])
    return np.where(ids >= 0, np.take_along_axis(S, ids, axis=1), -np.inf), ids


def dense_fusion(X, owner, Q, queries, pooling, settings):
    """The fused scores of all images, by matrices; A, J and e have tests of their own."""
    s, sq = similarity(X, X, "cosine"), similarity(Q, X, "cosine")
    lists, found = region_lists(s, owner, owner, 100), region_lists(sq, owner, None, 100)
    of_images = match_lists(s, lists, owner, owner)
    near_images = match_lists(sq, found, owner, queries)
    scores, ids = match_lists(sq, region_lists(sq, owner, None, 500), owner, queries)
    first = FirstStage(scores.astype(np.float32), ids)
    n, m, nq, alpha = owner.max() + 1, len(X), queries.max() + 1, settings["alpha"]
    w = dense_weights(X, owner, 1.0) if pooling == "gmp" else np.ones(m)
    pool = (owner == np.arange(n)[:, None]) * w
    out = np.zeros((nq, n))
    for lists_of, asked, P in (
        (padded_lists(s, lists), padded_lists(sq, found), pool),
        (of_images, near_images, np.eye(n)),
    ):
        ranker = Reranker(**settings).fit_neighbors(*lists_of)
        affinity, graph = ranker.fitted().affinity, ranker.graph_
        near = [np.ascontiguousarray(part[:, : affinity.depth]) for part in asked]
        near[0] = near[0].astype(np.float32)
        seen = affinity.observe(*near, 10)
        y, J = (part.csr(P.shape[1]).toarray() for part in (seen.y, seen.J))
        if P is pool:
            y = np.stack([y[queries == q].sum(axis=0) for q in range(nq)])
            best = np.stack([J[:, owner == i].max(axis=1) for i in range(n)], axis=1)
            J = np.stack([best[queries == q].mean(axis=0) for q in range(nq)])
        x = dense_diffusion(graph.W.toarray(), y, alpha)
        x = x / np.sqrt(np.where(graph.degrees > 0, graph.degrees, 1)) @ P.T
        x = np.maximum(x, 0) / np.maximum(x.max(axis=1, keepdims=True), 1e-30)
        out += (x**0.375 + 0.75 * J) / 2
    # The last round was that of the images, whose local scales are those of e.
    e = Fusion(weight=0.75).evidence(first, affinity.scale_of(near[0])) * (ids >= 0)
    np.add.at(out, (np.arange(nq)[:, None], ids), e)
    return out


@pytest.mark.parametrize("pooling", ["gmp", "sum"])
def test_context_equals_the_dense_pipeline(rng, pooling):
    X, owner, _, _ = scenes(rng, n_objects=6)
    order = rng.permutation(len(X))
    X, owner = X[order], owner[order]
    Q, queries = rng.standard_normal((9, 48)), np.array([2, 0, 1, 2, 1, 1, 0, 2, 0])
    Q[:5] += 3 * X[:5]
    settings = {"alpha": 0.9, "affinity": Context(scales=(3, 6, 12)), "k": 12}
    ranker = RegionalReranker(**settings, pooling=pooling, solver=diffusion.CG(tol=1e-10))
    scores, ids = ranker.fit(X, 3 * owner).search(Q, queries, 48)
    expected = dense_fusion(X, owner, Q, queries, pooling, settings)
    assert (np.sort(ids, axis=1) == 3 * np.arange(48)).all()
    found = np.take_along_axis(expected, ids // 3, axis=1)
    reached = scores > 0
    np.testing.assert_allclose(scores[reached], found[reached], rtol=1e-3, atol=1e-4)
    assert (found[~reached] < 1e-4).all()


@given(collections(), st.integers(1, 12), st.sampled_from(["gmp", "sum"]))
def test_every_image_is_ranked_by_context(collection, k, pooling):
    X, images, Q, queries = collection
    ranker = RegionalReranker(k=k, pooling=pooling, solver="cg").fit(X, images)
    names = np.unique(images)
    scores, ids = ranker.search(Q, queries, k=len(names) + 1)
    assert (np.sort(ids[:, :-1], axis=1) == names).all()
    assert (ids[:, -1] == -1).all()
    assert (np.diff(scores[:, :-1]) <= 0).all()
    short = ranker.search(Q, queries, k=2)
    assert (short[1] == np.pad(ids, ((0, 0), (0, 2)), constant_values=-1)[:, :2]).all()


@pytest.mark.parametrize("pooling", ["gmp", "sum"])
@pytest.mark.parametrize("solver", [None, diffusion.CG(tol=1e-8), "local"])
def test_one_region_an_image_is_the_reranker_by_context(vectors, rng, solver, pooling):
    # In the order of the rows, by which ties are resolved.
    names = np.sort(rng.permutation(1000)[: len(vectors)])
    Q = vectors[:7] + 0.1
    expected_scores, expected = Reranker(solver=solver or "auto").fit(vectors).search(Q, k=30)
    ranker = RegionalReranker(solver=solver, pooling=pooling).fit(vectors, names)
    scores, ids = ranker.search(Q, np.arange(7), k=30)
    assert (ids == names[expected]).all()
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-5)


def test_regions_of_one_image_are_in_no_list_of_each_other(rng):
    X, owner, _, _ = scenes(rng, n_objects=4)
    ranker = RegionalReranker().fit(X, owner)
    ids = ranker.ranker_.fitted().affinity.neighbor_lists()[1]
    assert (ids >= 0).all()
    assert (owner[ids] != owner[:, None]).all()
    whole = ranker.whole_.fitted().affinity.neighbor_lists()[1]
    assert (whole != np.arange(32)[:, None]).all()


def test_a_search_begins_like_a_longer_one(rng):
    X, owner, _, _ = scenes(rng)
    Q, queries = rng.standard_normal((9, 48)), np.repeat([0, 1, 2], 3)
    ranker = RegionalReranker().fit(X, owner)
    scores, ids = ranker.search(Q, queries, 90)
    for k in (1, 10):
        shorter = ranker.search(Q, queries, k)
        assert (shorter[1] == ids[:, :k]).all()
        np.testing.assert_allclose(shorter[0], scores[:, :k], rtol=1e-6)


def test_settings_follow_the_affinity(rng):
    X, owner, _, _ = scenes(rng, n_objects=3)
    for affinity, expected in (
        ("context", (50, 10, "auto")),
        (Context(scales=(3, 80)), (80, 10, "auto")),
        ("cosine", (200, 200, "cg")),
    ):
        ranker = RegionalReranker(affinity=affinity).fit(X, owner)
        ranker.search(X[:2])
        inner = ranker.ranker_
        assert (inner.k, inner.query_k, inner.solver_.name) == expected
    assert RegionalReranker(affinity="cosine").fit(X, owner).whole_ is None


def test_small_objects_are_found_by_their_regions(rng):
    X, owner, labels, _ = scenes(rng)
    Q, n = X[: len(labels) : 8] + 0.1, len(labels)
    whole = np.zeros((n, X.shape[1]))
    np.add.at(whole, owner, X / np.linalg.norm(X, axis=1, keepdims=True))
    asked = labels[::8]
    by_whole = Reranker(k=10, query_k=5, affinity="cosine").fit(whole).search(Q, n)[1]
    by_match = diffusion.r_match(Q, X, owner, np.arange(len(Q)), n)[1]
    regional = papers(k=10, query_k=5).fit(X, owner)
    by_region = regional.search(Q, np.arange(len(Q)), n)[1]
    figures = [
        mean_average_precision(ids, labels, asked) for ids in (by_whole, by_match, by_region)
    ]
    assert figures[0] + 0.1 < figures[1] < figures[2] - 0.05


def test_the_order_of_regions_is_of_no_account(rng):
    X, owner, _, _ = scenes(rng, n_objects=4)
    Q, queries = rng.standard_normal((9, 48)), np.array([2, 0, 1, 2, 1, 1, 0, 2, 0])
    expected = papers(k=9, query_k=6).fit(X, owner).search(Q, queries, 32)
    order, asked = rng.permutation(len(X)), rng.permutation(len(Q))
    ranker = papers(k=9, query_k=6).fit(X[order], owner[order])
    scores, ids = ranker.search(Q[asked], queries[asked], 32)
    assert (ids == expected[1]).all()
    np.testing.assert_allclose(scores, expected[0], rtol=1e-4)


def test_images_that_diffusion_does_not_reach_follow_by_their_best_pair():
    # Image 4 has the query's object; 9 is near it by one region, 2 by none, 7 is far.
    X = np.array([[1, 0, 0], [1, 0.1, 0], [0, 1, 0], [0.5, 0, 1], [0, 1, 0.2], [-1, 0, 0]])
    images = [4, 4, 9, 9, 2, 7]
    for solver in ("cg", "local"):
        ranker = papers(k=1, query_k=1, solver=solver).fit(X, images)
        scores, ids = ranker.search([[1, 0, 0.1], [1, 0.02, 0]], k=6)
        assert ids.tolist() == [4, 9, 2, 7, -1, -1]
        assert scores[0] > 0
        assert (scores[1:4] <= 0).all()
        assert (scores[4:] == -np.inf).all()
        # Its distance below the best pair of the query's regions.
        cosine = similarity([[1, 0, 0.1], [1, 0.02, 0]], X, "cosine")
        np.testing.assert_allclose(scores[1], cosine[:, 3].max() - cosine.max(), atol=1e-6)


def test_shapes_and_dtypes(rng):
    X, owner, _, _ = scenes(rng, n_objects=3)
    ranker = papers(k=5, query_k=5).fit(X, owner)
    scores, ids = ranker.search(X[:6], [0, 1, 0, 1, 2, 2], k=7)
    assert scores.shape == ids.shape == (3, 7)
    assert scores.dtype == np.float32
    assert ids.dtype == np.int64
    assert len(ranker.report_.residual) == 3
    assert ranker.report_.converged.all()
    alone = ranker.search(X[[0, 2]], k=7)
    assert alone[1].shape == (7,)
    assert (alone[1] == ids[0]).all()
    assert (ranker.search(X[0], k=7)[1] == ranker.search(X[:1], [0], k=7)[1][0]).all()
    assert (ranker.search(X[:1], [0], k=40)[1][0, 24:] == -1).all()


@pytest.mark.parametrize("affinity", ["cosine", "context"])
def test_batches_do_not_change_the_answer(rng, monkeypatch, affinity):
    X, owner, _, _ = scenes(rng, n_objects=4)
    ranker = RegionalReranker(k=4, query_k=3, solver="local", affinity=affinity).fit(X, owner)
    Q, queries = rng.standard_normal((50, 48)), rng.permutation(np.repeat(np.arange(10), 5))
    whole = ranker.search(Q, queries, k=32)
    monkeypatch.setattr("diffusion.regional._BATCH_ENTRIES", 1000)
    parts = ranker.fit(X, owner).search(Q, queries, k=32)
    assert (whole[1] == parts[1]).all()
    np.testing.assert_allclose(whole[0], parts[0], rtol=1e-5, atol=1e-7)
    assert len(ranker.report_.residual) == 10


def test_images_of_equal_regions_have_no_positive_distance(rng):
    # The mean of the distances, all 0, is not to become positive by rounding.
    regions = rng.standard_normal((9, 4))
    X, images = np.concatenate([regions, regions, regions[:6]]), np.repeat(np.arange(8), 3)
    ranker = RegionalReranker(metric="euclidean").fit(X, images)
    assert sorted(ranker.search(regions[:3], k=3)[1].tolist()) == [0, 3, 6]


@pytest.mark.parametrize("affinity", ["cosine", "context", Context(scales=(2, 5))])
@pytest.mark.parametrize("solver", [*SOLVERS, None])
def test_what_is_saved_is_loaded(rng, tmp_path, solver, affinity):
    X, owner, _, _ = scenes(rng, n_objects=4)
    owner = owner + 5
    own = {"k": 6, "query_k": 4, "solver": solver, "affinity": affinity}
    ranker = RegionalReranker(**own, regularization=0.5, alpha=0.9)
    ranker.fit(X, owner).set_params(query_k=3, pooling="sum").save(tmp_path / "index")
    loaded = RegionalReranker.load(tmp_path / "index", verify=True)
    assert repr(loaded) == repr(ranker)
    assert loaded.n_images_ == 32
    expected = ranker.search(X[:6], [0, 1, 0, 1, 2, 2], k=20)
    scores, ids = loaded.search(X[:6], [0, 1, 0, 1, 2, 2], k=20)
    assert (ids == expected[1]).all()
    assert (scores == expected[0]).all()
    gmp = ranker.set_params(pooling="gmp").search(X[:6], k=20)
    assert (loaded.set_params(pooling="gmp").search(X[:6], k=20)[0] == gmp[0]).all()


def test_an_index_of_an_earlier_version_is_loaded(rng, tmp_path):
    X, owner, _, _ = scenes(rng, n_objects=4)
    ranker = papers().fit(X, owner)
    state = ranker.state()
    parameters = {name: value for name, value in state.parameters.items() if name != "unset"}
    save_state(tmp_path / "index", replace(state, parameters=parameters))
    loaded = RegionalReranker.load(tmp_path / "index", verify=True)
    assert (loaded.k, loaded.query_k, loaded.solver) == (200, 200, "cg")
    assert (loaded.search(X[:3])[1] == ranker.search(X[:3])[1]).all()


def test_an_index_is_opened_by_its_own_kind(rng, vectors, tmp_path):
    Reranker(k=5).fit(vectors).save(tmp_path / "plain")
    papers(k=5).fit(vectors, np.arange(120) // 3).save(tmp_path / "regional")
    with pytest.raises(DiffusionError, match=r"expected RegionalReranker\.load"):
        diffusion.load(tmp_path / "regional")
    with pytest.raises(DiffusionError, match=r"expected diffusion\.load"):
        RegionalReranker.load(tmp_path / "plain")


@pytest.mark.parametrize(
    "damage", ["kind", "array", "length", "parameter", "unset", "whole", "images"]
)
def test_a_damaged_index_is_refused(vectors, tmp_path, damage):
    state = RegionalReranker(k=5).fit(vectors, np.arange(120) // 3).state()
    arrays, parameters, sizes = dict(state.arrays), dict(state.parameters), dict(state.sizes)
    if damage == "array":
        del arrays["region_weights"]
    elif damage == "length":
        arrays["region_images"] = arrays["region_images"][:-1]
    elif damage == "parameter":
        del parameters["pooling"]
    elif damage == "unset":
        parameters["unset"] = ["pooling"]
    elif damage == "whole":
        del arrays["whole_affinity_ids"]
    elif damage == "images":
        sizes["images"] = 41
    kind = "other" if damage == "kind" else state.kind
    changed = replace(state, kind=kind, arrays=arrays, parameters=parameters, sizes=sizes)
    save_state(tmp_path / "index", changed)
    message = "diffusion.load" if damage == "kind" else "altered, its manifest does not describe"
    with pytest.raises(DiffusionError, match=message):
        RegionalReranker.load(tmp_path / "index")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"k": 0}, "k: expected an integer"),
        ({"query_k": 0}, "query_k"),
        ({"affinity": "euclid"}, "affinity: expected one of 'context', 'cosine', 'gaussian'"),
        ({"pooling": "max"}, "pooling: expected one of 'gmp', 'sum', got 'max'"),
        ({"regularization": 0}, "regularization: expected a number"),
        ({"solver": "magic"}, "solver"),
    ],
)
def test_bad_parameters_are_named_by_fit(vectors, parameters, message):
    with pytest.raises(DiffusionError, match=message):
        RegionalReranker(**parameters).fit(vectors, np.zeros(120, int))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros(119, int), r"images: expected integers of shape \(120,\)"),
        (np.zeros(120), "images: expected integers"),
        (np.full(120, -1), "images: expected int64 of at least 0, row 0 is -1"),
        (3, "images: expected integers"),
    ],
)
def test_bad_images_are_named(vectors, images, message):
    with pytest.raises(DiffusionError, match=message):
        RegionalReranker().fit(vectors, images)
    with pytest.raises(DiffusionError, match=message):
        diffusion.generalized_max_pooling(vectors, images)
    with pytest.raises(DiffusionError, match=message):
        diffusion.r_match(vectors[:3], vectors, images)


def test_bad_queries_are_named(vectors):
    ranker = papers(k=5).fit(vectors, np.arange(120) // 4)
    with pytest.raises(DiffusionError, match=r"queries: expected integers of shape \(3,\)"):
        ranker.search(vectors[:3], [0, 1])
    with pytest.raises(DiffusionError, match="queries: expected every number from 0 to 3, 1 is"):
        ranker.search(vectors[:3], [0, 3, 2])
    with pytest.raises(DiffusionError, match="Q: expected vectors of dimension 12"):
        ranker.search(vectors[:3, :5])
    with pytest.raises(DiffusionError, match="k: expected an integer"):
        ranker.search(vectors[:3], k=0)
    with pytest.raises(DiffusionError, match="pooling: expected one of"):
        ranker.set_params(pooling="mean").search(vectors[:3])
    with pytest.raises(DiffusionError, match="not fitted yet"):
        RegionalReranker().search(vectors)
    with pytest.raises(DiffusionError, match="kay: no such parameter"):
        ranker.set_params(kay=1)
    with pytest.raises(DiffusionError, match=r"X: expected shape \(m, d\)"):
        diffusion.generalized_max_pooling([1.0], [0])


def test_a_checkpoint_is_gone_after_the_fit(vectors, tmp_path):
    images = np.arange(120) // 4
    expected = papers(k=5).fit(vectors, images).search(vectors[:3])
    ranker = papers(k=5).fit(vectors, images, checkpoint=tmp_path / "partial")
    assert (ranker.search(vectors[:3])[1] == expected[1]).all()
    assert not (tmp_path / "partial").exists()
