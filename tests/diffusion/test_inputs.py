"""Inputs at the edges: nothing, disorder, zero vectors, extreme numbers, many threads."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import diffusion
from diffusion import DiffusionError, RegionalReranker, Reranker
from diffusion.baselines import expansion
from diffusion.solvers import SOLVERS

METRICS = ("cosine", "inner_product", "euclidean")


@pytest.fixture(scope="module")
def cloud():
    return np.random.default_rng(3).standard_normal((60, 6))


@pytest.fixture(scope="module")
def ranker(cloud):
    return Reranker(k=8).fit(cloud)


def first_stage(ranker, Q, m=20):
    Q = Q / np.linalg.norm(Q, axis=1, keepdims=True)
    return ranker.fitted().index.search(Q.astype(np.float32), m)


# --- order --------------------------------------------------------------------------------------


@pytest.mark.parametrize("affinity", ["context", "cosine"])
def test_hits_in_any_order_are_those_in_order(cloud, affinity, rng):
    ranker = Reranker(k=8, affinity=affinity).fit(cloud)
    scores, ids = first_stage(ranker, cloud[:9] + 0.1)
    expected = ranker.rerank(scores, ids, 30)
    order = rng.permuted(np.tile(np.arange(20), (9, 1)), axis=1)
    shuffled = (np.take_along_axis(a, order, axis=1) for a in (scores, ids))
    for found, wanted in zip(ranker.rerank(*shuffled, 30), expected, strict=True):
        assert (found == wanted).all()


def test_neighbour_lists_in_any_order_make_the_same_graph(cloud, rng):
    scores, ids = diffusion.nearest_neighbors(cloud, 10)
    order = rng.permuted(np.tile(np.arange(10), (60, 1)), axis=1)
    shuffled = [np.take_along_axis(a, order, axis=1) for a in (scores, ids)]
    expected = Reranker(k=8).fit_neighbors(scores, ids).graph_.W
    assert (expected != Reranker(k=8).fit_neighbors(*shuffled).graph_.W).nnz == 0


# --- nothing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("affinity", ["context", "cosine"])
def test_empty_in_empty_out(cloud, solver, affinity):
    ranker = Reranker(k=8, solver=solver, affinity=affinity).fit(cloud)
    for scores0, ids0, shape in [
        ([], [], (5,)),
        ([[]], [[]], (1, 5)),
        (np.empty((2, 0)), np.empty((2, 0), int), (2, 5)),
        (np.empty((0, 7)), np.empty((0, 7), int), (0, 5)),
    ]:
        for restrict in (False, True):
            scores, ids = ranker.rerank(scores0, ids0, 5, restrict_to_candidates=restrict)
            assert scores.shape == ids.shape == shape
            assert (ids == -1).all()
            assert (scores == -np.inf).all()
            assert len(ranker.report_.observed) == (1 if len(shape) == 1 else shape[0])
            assert not ranker.report_.observed.any()
    scores, ids = ranker.search(np.empty((0, 6)), 5)
    assert scores.shape == ids.shape == (0, 5)
    assert ranker.report_.residual.shape == (0,)
    # A query without hits beside one with hits changes nothing.
    alone = ranker.rerank([0.9, 0.8], [4, 2], 60)
    both = ranker.rerank([[], [0.9, 0.8]], [[], [4, 2]], 60)
    assert (both[1][0] == -1).all()
    assert (both[1][1] == alone[1]).all()
    assert ranker.rerank([[], [0.9, 0.8]], [[], [4, 2]], None)[1].shape == (2, 2)
    assert ranker.rerank([], [], None)[1].tolist() == [-1]


def test_no_queries_elsewhere(cloud):
    spectral = Reranker(k=8, solver=diffusion.Spectral(rank=30, dense_nodes=1)).fit(cloud)
    assert spectral.embed(np.empty((0, 6))).shape == (0, 31)
    assert expansion.average(np.empty((0, 6)), cloud, np.empty((0, 3)), np.empty((0, 3))).shape == (
        0,
        6,
    )
    assert expansion.discriminative(np.empty((0, 6)), cloud, np.empty((0, 3))).shape == (0, 6)
    assert diffusion.reciprocal.search(np.empty((0, 6)), cloud, 4)[1].shape == (0, 4)


def test_queries_without_regions(cloud):
    images = np.arange(60) // 3
    ranker = RegionalReranker(k=8).fit(cloud, images)
    for search in (
        lambda *queries: ranker.search(np.empty((0, 6)), *queries, k=4),
        lambda *queries: diffusion.r_match(np.empty((0, 6)), cloud, images, *queries, k=4),
    ):
        scores, ids = search()
        assert ids.tolist() == [-1] * 4  # one query, which has no region
        assert (scores == -np.inf).all()
        assert search([])[1].shape == (0, 4)
    assert ranker.report_.residual.shape == (0,)


def test_items_without_neighbours():
    for ids in (np.full((5, 2), -1), np.empty((5, 0), int), [[], [], [], [], []]):
        ranker = Reranker(k=8).fit_neighbors(np.zeros(np.shape(ids)), ids)
        assert ranker.graph_.n_isolated == 5
        scores, found = ranker.rerank([[0.9, 0.4]], [[3, 1]], k=4)
        assert found.tolist() == [[3, 1, -1, -1]]
        assert np.isfinite(scores[0, :2]).all()
    ragged = Reranker(k=8).fit_neighbors([[0.9], [0.9, 0.5], []], [[1], [0, 2], []])
    assert ragged.graph_.n_isolated == 1
    with pytest.raises(DiffusionError, match="ids: expected a list for each item"):
        Reranker().fit_neighbors([], [])


def test_lists_of_another_length_than_the_queries(cloud):
    with pytest.raises(DiffusionError, match="ids: expected 2 lists, one for each query, got 1"):
        expansion.average(cloud[:2], cloud, [[0.5]], [[1]])
    with pytest.raises(DiffusionError, match=r"ids: expected shape \(2, k\), one list for each"):
        expansion.discriminative(cloud[:2], cloud, [[1, 2]])
    with pytest.raises(DiffusionError, match=r"ids: expected ids in \[-1, 60\); row 0 has 60"):
        expansion.discriminative(cloud[:1], cloud, [[1, 60]])


# --- zero vectors -------------------------------------------------------------------------------


@pytest.mark.parametrize("affinity", ["context", "cosine"])
@pytest.mark.parametrize("metric", ["cosine", "inner_product"])
def test_zero_vectors_are_isolated_and_change_nothing_else(cloud, affinity, metric):
    zero = np.array([0, 5, 17, 40, 63])
    X = np.insert(cloud, zero - np.arange(5), 0.0, axis=0)
    assert (~X.any(axis=1)).nonzero()[0].tolist() == zero.tolist()
    settings = {"k": 200, "affinity": affinity, "metric": metric}
    # Each a node: they are copies of each other.
    ranker, plain = Reranker(**settings).fit_rows(X), Reranker(**settings).fit(cloud)
    W = ranker.graph_.W.toarray()
    assert not W[zero].any()
    assert not W[:, zero].any()
    others = np.delete(np.arange(65), zero)
    np.testing.assert_array_equal(W[np.ix_(others, others)], plain.graph_.W.toarray())
    assert ranker.graph_.n_isolated == 5 + plain.graph_.n_isolated
    # Queries do not reach them either: neither by the graph nor by similar neighbourhoods.
    index = ranker.fitted().index
    near = index.search(np.asarray(X[:20] + 0.01, np.float32), 65)
    observed = ranker.fitted().affinity.observe(*near, 65)
    assert not observed.y.csr(65)[:, zero].toarray().any()
    if observed.J is not None:
        assert not observed.J.csr(65)[:, zero].toarray().any()
    # Lists that were computed elsewhere may name them.
    lists = diffusion.nearest_neighbors(X, 64, metric=metric)
    given = Reranker(**settings).fit_neighbors(*lists, X)
    np.testing.assert_array_equal(given.graph_.W.toarray(), W)


@pytest.mark.parametrize("method", ["exact", "ivf", "hnsw"])
def test_zero_vectors_are_isolated_whatever_finds_the_neighbours(cloud, method, tmp_path):
    X = np.concatenate([cloud, np.zeros((3, 6)), cloud + 0.01])
    ranker = Reranker(k=10, neighbors=method).fit_rows(X, checkpoint=tmp_path / "part")
    assert not ranker.graph_.W[60:63].nnz
    assert not (ranker.fitted().affinity.lists(slice(60))[0] // 3 == 20).any()


def test_the_origin_is_a_point_like_any_other(cloud):
    X = np.concatenate([np.zeros((1, 6)), 0.1 * cloud])
    assert Reranker(k=8, metric="euclidean").fit(X).graph_.W[:1].nnz > 0


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_zero_query_says_that_it_knows_nothing(cloud, solver):
    ranker = Reranker(k=8, solver=solver).fit(cloud)
    Q = np.stack([cloud[3] + 0.1, np.zeros(6), cloud[9] + 0.1])
    scores, ids = ranker.search(Q, 12)
    assert (scores[1] == 0).all()
    assert ids[1].tolist() == list(range(12))  # the first stage: all are equally similar
    assert (ranker.report_.observed > 0).tolist() == [True, False, True]
    assert (ids[::2] == ranker.search(Q[::2], 12)[1]).all()


@pytest.mark.parametrize("metric", ["cosine", "inner_product"])
@pytest.mark.parametrize("affinity", ["context", "cosine"])
def test_a_zero_query_with_every_affinity(cloud, metric, affinity):
    ranker = Reranker(k=8, metric=metric, affinity=affinity).fit(cloud)
    scores, ids = ranker.search(np.zeros(6), 7)
    assert scores.tolist() == [0] * 7
    assert ids.tolist() == list(range(7))
    assert ranker.report_.observed.tolist() == [0]
    euclidean = Reranker(k=8, metric="euclidean").fit(cloud)
    assert (euclidean.search(np.zeros(6), 7)[0] > 0).all()


def test_a_zero_query_has_no_embedding(cloud):
    ranker = Reranker(k=8, solver=diffusion.Spectral(rank=30, dense_nodes=1)).fit(cloud)
    assert not ranker.embed(np.zeros(6)).any()
    assert ranker.embed(cloud[0]).any()


def test_an_image_of_zero_regions(cloud):
    ranker = RegionalReranker(k=8).fit(cloud, np.arange(60) // 3)
    scores, _ = ranker.search(np.zeros((2, 6)), k=5)
    assert (scores == 0).all()
    assert ranker.report_.observed.tolist() == [0]


def test_the_report_counts_the_items_of_the_observation(cloud):
    ranker = Reranker(k=8, affinity="cosine", query_k=4).fit(cloud)
    ranker.rerank([[0.9, 0.5, 0.0, -0.1], [0.9, 0.8, 0.7, 0.6]], [[1, 2, 3, 4]] * 2)
    assert ranker.report_.observed.tolist() == [2, 4]
    assert diffusion.katz(ranker.graph_).report.observed.tolist() == [60]


# --- extreme numbers ----------------------------------------------------------------------------

TINY, HUGE = float(np.finfo(np.float32).smallest_subnormal), float(np.finfo(np.float32).max)


@st.composite
def extreme_lists(draw):
    """Neighbour lists with scores of every size that float32 holds."""
    n, k = draw(st.integers(2, 9)), draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["wide", "huge", "tiny", "edges"]))
    sizes = {
        "wide": 10.0 ** rng.uniform(-45, 38.5, (n, k)),
        "huge": 10.0 ** rng.uniform(30, 38.5, (n, k)),
        "tiny": 10.0 ** rng.uniform(-45, -30, (n, k)),
        "edges": rng.choice([0.0, TINY, 1e-38, 1.0, 1e30, HUGE], (n, k)),
    }[kind]
    signs = rng.choice([-1.0, 1.0], (n, k), p=[0.2, 0.8])
    scores = -np.sort(-np.float32(signs * sizes), axis=1)
    ids = np.stack([rng.permutation(n + 5)[:k] for _ in range(n)])
    ids[ids >= n] = -1
    return scores, ids


@given(
    extreme_lists(),
    st.sampled_from(
        [("cosine", "cosine"), ("inner_product", "cosine"), ("euclidean", "gaussian")]
        + [(metric, "context") for metric in METRICS]
    ),
    st.sampled_from([1e-300, 1e-3, 1.0, 3.0, 100.0, 1e300]),
)
def test_no_finite_score_makes_nan_or_infinity(lists, kind, gamma):
    (scores, ids), (metric, affinity) = lists, kind
    if metric == "euclidean":
        scores = -np.sort(np.abs(scores), axis=1)
    ranker = Reranker(k=5, metric=metric, affinity=affinity, gamma=gamma)
    ranker.fit_neighbors(scores, ids)
    W = ranker.graph_.W.toarray()
    assert np.isfinite(W).all()
    assert (W >= 0).all()
    np.testing.assert_array_equal(W, W.T)
    # The graph's random walk loses nothing: √d is a fixed point of W, unless a node is isolated.
    root = np.sqrt(ranker.graph_.degrees)
    np.testing.assert_allclose(W @ root, root, rtol=1e-4)
    for restrict in (False, True):
        found, listed = ranker.rerank(scores, ids, 9, restrict_to_candidates=restrict)
        assert np.isfinite(found[listed >= 0]).all()
        assert (found[listed < 0] == -np.inf).all()
        assert (found[:, 1:] <= found[:, :-1]).all()
        assert np.isfinite(ranker.report_.residual).all()
        for row, candidates in zip(listed, ids, strict=True):
            assert set(candidates[candidates >= 0]) <= set(row)


@given(st.integers(0, 10**6), st.integers(-100, 100))
def test_the_graph_does_not_depend_on_the_unit_of_the_scores(seed, exponent):
    # Powers of two scale without rounding.
    rng = np.random.default_rng(seed)
    scores, ids = diffusion.nearest_neighbors(rng.random((12, 3)), 6, metric="inner_product")
    for metric, affinity, sign in [
        ("inner_product", "cosine", 1),
        ("euclidean", "gaussian", -1),
        ("cosine", "context", 1),
        ("cosine", "context", -1),
    ]:
        ranker = Reranker(k=6, metric=metric, affinity=affinity)
        signed = scores if sign > 0 else -scores[:, ::-1]
        expected = ranker.fit_neighbors(signed, ids).graph_.W.toarray()
        scaled = ranker.fit_neighbors(np.float32(signed * 2.0**exponent), ids).graph_.W.toarray()
        np.testing.assert_array_equal(scaled, expected)


def test_similar_neighbourhoods_without_scaling_depend_on_the_order_of_the_scores_alone(cloud):
    scores, ids = diffusion.nearest_neighbors(cloud, 12)
    ranks = np.unique(scores, return_inverse=True)[1].reshape(scores.shape)
    by_order = Reranker(k=12, affinity=diffusion.Context(scaling=0))
    expected = by_order.fit_neighbors(scores, ids).fitted().affinity.arrays()
    for transformed in (ranks - 10_000, ranks.astype(np.float64) ** 5, np.exp(scores)):
        found = by_order.fit_neighbors(transformed, ids).fitted().affinity.arrays()
        for name in ("ids", "levels", "holders", "similar", "overlaps"):
            np.testing.assert_array_equal(found[name], expected[name])


def test_the_contextual_graph_depends_on_differences_of_scores_alone(cloud):
    scores, ids = diffusion.nearest_neighbors(cloud, 12)
    scores = np.round(1024 * scores)  # integers, of which all scaled differences are exact
    ranker = Reranker(k=12, affinity=diffusion.Context(scaling=0.25))
    expected = ranker.fit_neighbors(scores, ids).graph_.W.toarray()
    for transformed in (scores / 8, scores - 2048, 4 * scores + 512):
        found = ranker.fit_neighbors(transformed, ids).graph_.W.toarray()
        np.testing.assert_array_equal(found, expected)
    other = ranker.fit_neighbors(scores**3, ids).graph_.W.toarray()
    assert not np.array_equal(other, expected)


def test_the_unit_of_the_first_stage_does_not_matter(cloud):
    lists = diffusion.nearest_neighbors(cloud, 12)
    query = first_stage(Reranker(k=12).fit(cloud), cloud[:6] + 0.1)
    expected = Reranker(k=12).fit_neighbors(*lists).rerank(*query, 40)
    for unit in (2.0**-100, 2.0**100):
        ranker = Reranker(k=12).fit_neighbors(lists[0] * unit, lists[1])
        found = ranker.rerank(query[0] * np.float32(unit), query[1], 40)
        assert (found[1] == expected[1]).all()
        reached = expected[0] > 0
        assert (found[0][reached] == expected[0][reached]).all()


def test_hits_in_tensors(cloud, ranker):
    torch = pytest.importorskip("torch")
    scores, ids = first_stage(ranker, cloud[:3])
    expected = ranker.rerank(scores, ids, 9)
    tensors = torch.tensor(scores, requires_grad=True), torch.tensor(ids)
    assert (ranker.rerank(*tensors, 9)[1] == expected[1]).all()
    assert (ranker.rerank(tensors[0][0], tensors[1][0], 9)[1] == expected[1][0]).all()
    query = torch.tensor(cloud[0], requires_grad=True)
    assert (ranker.search(query, 9)[1] == ranker.search(cloud[0], 9)[1]).all()


def test_scores_that_are_all_equal_or_not_positive(cloud):
    _, ids = diffusion.nearest_neighbors(cloud, 6)
    equal = Reranker(k=6).fit_neighbors(np.zeros(ids.shape), ids)
    np.testing.assert_array_equal(
        equal.graph_.W.toarray(),
        Reranker(k=6).fit_neighbors(np.full(ids.shape, 7.0), ids).graph_.W.toarray(),
    )
    assert equal.graph_.n_edges > 0
    # A power of a similarity needs positive ones; the results are those of the first stage.
    negative = Reranker(k=6, affinity="cosine").fit_neighbors(np.full(ids.shape, -0.5), ids)
    assert negative.graph_.n_isolated == 60
    scores, found = negative.rerank([[-1.0, -2.0]], [[9, 4]], 3)
    assert found.tolist() == [[9, 4, -1]]
    assert scores[0, :2].tolist() == [0.0, -1.0]


def test_a_score_of_1e30_is_a_weight():
    ranker = Reranker(k=2, affinity="cosine")
    ranker.fit_neighbors([[1e30, 1.0], [1e30, 1e29], [1e29, 1.0]], [[1, 2], [0, 2], [1, 0]])
    # By hand: A_01 = 1, A_12 = 1e-3 in units of the largest; A_02 vanishes beside them.
    W = ranker.graph_.W.toarray()
    np.testing.assert_allclose(W[0, 1], 1 / np.sqrt(1.001), rtol=1e-6)
    np.testing.assert_allclose(W[1, 2], 1e-3 / np.sqrt(1.001 * 1e-3), rtol=1e-6)


def test_the_whole_range_of_float32_is_ranked(cloud):
    ranker = Reranker(k=5, affinity="cosine").fit(cloud)
    scores, ids = ranker.rerank([[HUGE, 1.0, -HUGE]], [[3, 1, 2]], 3, restrict_to_candidates=True)
    assert np.isfinite(scores).all()
    assert sorted(ids[0]) == [1, 2, 3]
    with pytest.raises(DiffusionError, match=r"scores0: expected finite float32 .*has 1e\+300 at"):
        ranker.rerank([[1e300]], [[1]])


@pytest.mark.parametrize("alpha", [0.0, 3.0, 1e300])
def test_query_expansion_of_extreme_scores(alpha):
    X = np.eye(3)
    for scores in ([HUGE, 1e30, TINY], [1e-40, TINY, 0.0], [3.0, -1.0, -HUGE]):
        expanded = expansion.average(X[:1], X, [scores], [[0, 1, 2]], alpha=alpha)
        np.testing.assert_allclose(np.linalg.norm(expanded), 1, rtol=1e-6)


# --- threads ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Reranker, RegionalReranker])
def test_each_thread_sees_the_report_of_its_own_search(cloud, kind):
    fitted = kind(k=8).fit(cloud, np.arange(60) // 3)
    meet = threading.Barrier(4, timeout=60)
    seen = {}

    def search(thread):
        assert not hasattr(fitted, "report_")
        for size in range(1, 4):
            queries = cloud[: thread * 4 + size]
            if kind is Reranker:
                fitted.search(queries, 5)
            else:
                fitted.search(queries, np.arange(len(queries)), 5)
            meet.wait()  # all have searched
            seen[thread, size] = len(fitted.report_.residual)
            meet.wait()

    threads = [threading.Thread(target=search, args=(t,)) for t in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert seen == {(t, size): t * 4 + size for t in range(4) for size in range(1, 4)}
    with pytest.raises(AttributeError, match="report_: this thread has not searched"):
        _ = fitted.report_


def test_a_new_fit_forgets_the_reports(cloud):
    ranker = Reranker(k=8).fit(cloud)
    ranker.search(cloud[0])
    assert ranker.report_.observed.tolist() == [10]
    ranker.fit(cloud)
    assert not hasattr(ranker, "report_")


# --- progress -----------------------------------------------------------------------------------


def test_a_bar_is_shown_where_it_can_move(cloud, capsys, monkeypatch):
    ranker = Reranker(k=8, progress=True).fit(cloud)
    regional = RegionalReranker(k=8, progress=True).fit(cloud, np.arange(60) // 3)
    capsys.readouterr()
    ranker.search(cloud[0])
    ranker.search(cloud)
    regional.search(cloud[:2])
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("diffusion.fitted._BATCH_QUERIES", 32)
    monkeypatch.setattr("diffusion.neighbors.progress.BLOCK", 32)
    monkeypatch.setattr("diffusion.regional._BATCH_VALUES", 32 * 60)
    found = ranker.search(cloud)
    assert "60/60" in capsys.readouterr().err
    regional.search(cloud, np.arange(60))
    assert "60/60" in capsys.readouterr().err
    assert (ranker.set_params(progress=False).search(cloud)[1] == found[1]).all()
    assert capsys.readouterr().err == ""
