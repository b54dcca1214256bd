"""The fused score against a dense evaluation of its formula."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

import diffusion
from diffusion import Context, DiffusionError, Fusion, Reranker
from diffusion.kernels.matrix import SparseRows, read_only
from diffusion.kernels.ranking import FirstStage, LocalScale
from tests.support.oracles import first_stage_evidence


@pytest.fixture(scope="module")
def parts():
    rng = np.random.default_rng(1)
    centers = rng.standard_normal((8, 10))
    X = centers[rng.integers(8, size=260)] + 0.7 * rng.standard_normal((260, 10))
    # Two far from all. No duplicates: whether their scores tie is up to an engine's rounding.
    X = np.concatenate([X, -X[:2]])
    return X[40:].astype(np.float32), X[:40].astype(np.float32)


def unit(X):
    return X / np.linalg.norm(X, axis=1, keepdims=True)


UNSCALED = LocalScale(0.0, read_only(np.empty(0, np.float32)), read_only(np.zeros(9, np.float32)))


def evidence(scores, ids=None, scale=UNSCALED):
    """e of candidates by the library."""
    scores = np.atleast_2d(np.asarray(scores, np.float32))
    places = np.where(scores > -np.inf, np.arange(scores.shape[1]), -1)
    return Fusion(1.0).evidence(FirstStage(scores, places if ids is None else ids), scale)


def dense_scores(ranker, Q, X, *, depth=500, weight=0.75, alpha=0.995, query_k=10):
    """Every item's score by matrices; J and A from the affinity, which has its own tests."""
    graph = ranker.graph_
    W = graph.W.toarray().astype(np.float64)
    # The same float32 scores: a rounding away, duplicates would tie otherwise.
    first, order = ranker.fitted().index.search(unit(Q).astype(np.float32), len(X))
    S = np.empty(first.shape, np.float32)
    np.put_along_axis(S, order, first, axis=1)
    depth_of_query = ranker.fitted().affinity.depth
    first, near = first[:, :depth_of_query], order[:, :depth_of_query]
    J = ranker.fitted().affinity.observe(first, near, 1).J.csr(len(X)).toarray()
    affinity, fused = ranker.fitted().affinity, np.zeros(S.shape)
    d = np.where(graph.degrees > 0, graph.degrees, 1)
    for q in range(len(Q)):

        def evidence_of(candidates, q=q):
            scores, e = S[q, candidates], np.zeros(len(X))
            local = affinity.local_scale[candidates].astype(np.float64)
            e[candidates] = first_stage_evidence(scores, scores - affinity.scaling * local)
            return e

        both, y = J[q] + evidence_of(near[q]), np.zeros(len(X))
        best = np.argsort(-both, kind="stable")[:query_k]
        y[best] = both[best]
        x = np.linalg.solve(np.eye(len(X)) - alpha * W, (1 - alpha) * y) / np.sqrt(d)
        x = np.maximum(x / (x.max() or 1), 0) ** 0.375
        fused[q] = x + weight * (J[q] + evidence_of(order[q, :depth]))
    return fused


@pytest.mark.parametrize("weight", [0.5, 0.0, 1.0])
def test_search_ranks_by_the_formula(parts, weight):
    X, Q = parts
    ranker = Reranker(score=Fusion(weight), solver=diffusion.CG(tol=1e-8)).fit(X)
    expected = dense_scores(ranker, Q, X, weight=weight)
    scores, ids = ranker.search(Q, len(X))
    for q in range(len(Q)):
        listed = ids[q][scores[q] > 0]
        np.testing.assert_allclose(
            scores[q][scores[q] > 0], expected[q][listed], rtol=2e-4, atol=2e-5
        )
        assert (np.delete(expected[q], listed) < 1e-4).all()
        assert sorted(ids[q]) == list(range(len(X)))


def test_lists_of_every_length_begin_alike(parts):
    X, Q = parts
    ranker = Reranker().fit(X)
    scores, ids = ranker.search(Q, 150)
    for k in (1, 10, 99):
        shorter = ranker.search(Q, k)
        np.testing.assert_array_equal(shorter[1], ids[:, :k])
        np.testing.assert_allclose(shorter[0], scores[:, :k], rtol=1e-6)


def test_rerank_of_the_first_stage_equals_search(parts):
    X, Q = parts
    ranker = Reranker().fit(X)
    scores, ids = ranker.rerank(
        *ranker.fitted().index.search(unit(Q).astype(np.float32), len(X)), 50
    )
    expected = ranker.search(Q, 50)
    np.testing.assert_allclose(scores, expected[0], rtol=1e-4, atol=1e-5)
    assert np.mean(ids == expected[1]) > 0.99  # all but near ties


def test_scale_and_offset_of_the_first_stage_do_not_matter(parts):
    X, Q = parts
    ranker = Reranker(metric="inner_product").fit(X)
    S = Q.astype(np.float64) @ X.T
    first = np.argsort(-S, axis=1, kind="stable")[:, :120]
    s = np.take_along_axis(S, first, axis=1)
    # The lists of the graph must be on the scale of the query's: of those, only the order counts.
    scaled = Reranker(metric="inner_product").fit(2 * X).rerank(4 * s, first, 60)
    expected = ranker.rerank(s, first, 60)
    assert np.mean(scaled[1] == expected[1]) > 0.99
    np.testing.assert_allclose(scaled[0], expected[0], rtol=1e-3, atol=1e-4)


def test_first_stage_by_hand():
    first = np.array([[3.0, 2.0, 2.0, 1.0], [5.0, 5.0, 5.0, -np.inf]], np.float32)
    units = np.array([1, 1 / 1.5**2, 1 / 1.5**2, 1 / 4]) - 1 / 4
    np.testing.assert_allclose(evidence(first), [units, [0, 0, 0, 0]], atol=1e-7)
    # Thirteen different scores: the twelfth, not the last, is one unit below the first.
    steps = -np.arange(13.0)
    expected = (1 - steps / 11) ** -2 - (1 + 12 / 11) ** -2
    np.testing.assert_allclose(evidence(steps)[0], expected, rtol=1e-6)


def test_local_scale_by_hand():
    # The second item is near everything: its local scale is higher by a unit of the list.
    scale = LocalScale(0.5, np.array([0, 2, 0], np.float32), np.array([7.0], np.float32))
    found = evidence([[3.0, 2.5, 2.0, 1.0]], np.array([[0, 1, 2, 3]]), scale)
    # The scale of the unknown item 3 is the query's.
    z = (3 - 3.5 - np.array([3 - 3.5, 1.5 - 3.5, 2 - 3.5, 1 - 7])) / 2
    np.testing.assert_allclose(found[0], (1 + z) ** -2 - (1 + z[3]) ** -2, rtol=1e-6)


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=30),
    st.floats(0.1, 9),
    st.floats(-5, 5),
    st.floats(0, 0.9),
)
def test_evidence_is_that_of_the_formula(steps, scale, offset, factor):
    scores = scale * np.sort(np.float32(steps))[::-1] + offset
    r = np.random.default_rng(len(steps)).uniform(0, 3, len(steps)).astype(np.float32)
    local = LocalScale(factor, r, np.ones(1, np.float32))
    scores = scores.astype(np.float32)
    scaled = scores.astype(float) - factor * (1 + r.astype(float))
    expected = first_stage_evidence(scores, scaled)
    ids = np.arange(len(scores))[None]
    np.testing.assert_allclose(evidence(scores, ids, local)[0], expected, atol=1e-5)


@pytest.mark.parametrize("solver", ["columns", "truncated", "local"])
def test_sparse_answers_are_fused_as_dense_ones(parts, solver):
    X, Q = parts
    ranker = Reranker(solver=solver).fit(X)
    expected = dense_scores(ranker, Q, X)
    _scores, ids = ranker.search(Q, 30)
    top = np.argsort(-expected, axis=1, kind="stable")[:, :30]
    overlap = np.mean([len(set(a) & set(b)) / 30 for a, b in zip(ids, top, strict=True)])
    assert overlap > 0.8
    x = sparse.csr_array(np.array([[0.0, 4.0, 1.0], [0.0, 0.0, 0.0]], np.float32))
    graph = Reranker(affinity="cosine").fit(np.eye(3)).graph_  # no edges: D^-1/2 is 1
    J = SparseRows.of_csr(sparse.csr_array(np.eye(3)[:2].astype(np.float32)))
    seen = diffusion.affinity.Observation(SparseRows.of_csr(x), J)
    first = np.array([[0.9, 0.5], [0.9, -np.inf]], np.float32), np.array([[0, 2], [1, -1]])
    first = FirstStage(*first)
    for form in (SparseRows.of_csr(x), x.toarray()):
        fused = Fusion(0.5).combine(form, seen, first, UNSCALED, graph)
        fused = fused if isinstance(fused, np.ndarray) else fused.csr(3).toarray()
        e = 0.5 * (1 - 1 / 4)
        np.testing.assert_allclose(fused, [[0.5 + e, 1, 0.25**0.375], [0, 0.5, 0]], rtol=1e-6)


def test_a_query_without_any_neighbourhood_keeps_the_first_stage_order():
    ids = np.array([[1], [0], [3], [2]])
    ranker = Reranker(affinity=Context(scales=[1])).fit_neighbors(np.full((4, 1), 0.9), ids)
    scores, ranked = ranker.rerank([[0.3, 0.2, 0.1]], [[2, 0, 1]], 4)
    assert ranked.tolist() == [[2, 0, 1, -1]]
    assert (np.diff(scores[0, :3]) < 0).all()


def test_the_score_alone_can_be_diffusion(parts):
    X, Q = parts
    ranker = Reranker(score="diffusion", solver=diffusion.CG(tol=1e-8)).fit(X)
    scores, ids = ranker.search(Q[:3], 5)
    W = ranker.graph_.W.toarray().astype(np.float64)
    J = ranker.fitted().affinity.observe(*ranker.fitted().index.search(unit(Q[:3]), 48), 10)
    x = np.linalg.solve(np.eye(len(X)) - 0.995 * W, 0.005 * J.y.csr(len(X)).toarray().T).T
    np.testing.assert_allclose(scores, np.take_along_axis(x, ids, axis=1), rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"score": "best"}, "score: expected one of 'fusion', 'diffusion' or a Fusion"),
        (
            {"score": "fusion", "affinity": "cosine"},
            "score: the fusion requires affinity='context'",
        ),
        ({"score": 3}, "score"),
    ],
)
def test_bad_settings(arguments, message, parts):
    with pytest.raises(DiffusionError, match=message):
        Reranker(**arguments).fit(parts[0])
    with pytest.raises(DiffusionError, match="weight"):
        Fusion(-1.0)


def test_saved_and_loaded_with_its_settings(parts, tmp_path):
    X, Q = parts
    ranker = Reranker(affinity=Context((4, 16), size=20), score=Fusion(0.8)).fit(X)
    ranker.save(tmp_path / "index")
    again = diffusion.load(tmp_path / "index", verify=True)
    assert again.get_params() == ranker.get_params()
    np.testing.assert_array_equal(again.search(Q, 20)[1], ranker.search(Q, 20)[1])


def test_embeddings_rank_by_the_normalised_diffusion(parts):
    X, Q = parts
    ranker = Reranker(solver=diffusion.Spectral(rank=300)).fit(X)
    by_product = ranker.embed(Q) @ ranker.embedding_.T
    exact = Reranker(score="diffusion", solver=diffusion.CG(tol=1e-8)).fit(X)
    scores, ids = exact.search(Q, len(X))
    d = exact.graph_.degrees
    for q in range(len(Q)):
        reached = scores[q] > 0
        x = scores[q][reached] / np.sqrt(np.where(d > 0, d, 1))[ids[q][reached]]
        np.testing.assert_allclose(by_product[q][ids[q][reached]], x, rtol=1e-2, atol=1e-5)
