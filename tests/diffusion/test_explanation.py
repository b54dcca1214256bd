"""Explanations, compared with dense solves and with the results of searches."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

import diffusion
from diffusion import DiffusionError, Reranker
from diffusion.solvers import SOLVERS
from tests.diffusion.solvers.test_contract import EXACT
from tests.support.oracles import dense_diffusion, first_stage_evidence, similarity

ALPHA = 0.9

# Affinities, and the scores that they can have.
KINDS = {
    "fusion": {"affinity": "context"},
    "context, x alone": {"affinity": "context", "score": "diffusion"},
    "cosine": {"affinity": "cosine"},
    "gaussian": {"affinity": "gaussian", "metric": "euclidean"},
}


@pytest.fixture
def queries(vectors):
    return vectors[[3, 50]] + 0.3


def ranker_of(vectors, kind="fusion", solver="cg", **settings):
    settings = {"k": 8, "query_k": 4, "alpha": ALPHA, **KINDS[kind], **settings}
    return Reranker(solver=solver, **settings).fit(vectors)


def evidence(q, vectors, depth):
    """Return e of the nearest items of a query by `ranker_of`, 0 of all others."""
    similar = similarity(q[None], vectors, "cosine")[0]
    own = similarity(vectors, vectors, "cosine")
    np.fill_diagonal(own, -np.inf)
    # Lists hold eight: their last score is the local scale.
    scales = np.sort(own, axis=1)[:, -8]
    near = np.argsort(-similar, kind="stable")
    scaled = similar[near] - 0.3 * (similar[near[7]] + scales[near])
    e = np.zeros(len(vectors))
    e[near[:depth]] = first_stage_evidence(similar[near[:depth]], scaled[:depth])
    return e


def check_place(ranker, q, explanation, **how):
    """The rank and the score are those of a search."""
    scores, ids = ranker.search(q, explanation.depth, **how)
    assert ids[explanation.rank - 1] == explanation.id
    assert scores[explanation.rank - 1] == np.float32(explanation.score)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SOLVERS)
def test_rank_score_and_shares_are_those_of_a_search(vectors, queries, kind, name):
    ranker = ranker_of(vectors, kind, name)
    metric = ranker.metric
    for q in queries:
        found = ranker.search(q, 120)[1].tolist()
        first = np.argsort(-similarity(q[None], vectors, metric)[0], kind="stable").tolist()
        for item in [found[0], found[9], found[-1], 70, 119]:
            explanation = ranker.explain(q, item)
            check_place(ranker, q, explanation)
            assert explanation.first_rank == first.index(item) + 1
            expected = similarity(q[None], vectors[item][None], metric)[0, 0]
            assert explanation.first_score == pytest.approx(expected, rel=1e-4)
            if any(explanation.shares):
                assert sum(explanation.shares) == pytest.approx(explanation.score, rel=1e-5)
                assert min(explanation.shares) >= 0
            assert explanation.reached == (explanation.shares.diffusion > 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SOLVERS)
def test_the_flow_of_all_items_is_the_equation_of_diffusion(vectors, queries, kind, name):
    ranker = ranker_of(vectors, kind, EXACT[name])
    explanations = [ranker.explain(queries[0], item) for item in range(120)]
    x = np.array([explanation.x for explanation in explanations])
    own = np.array([explanation.own for explanation in explanations])
    W = ranker.graph_.W.toarray().astype(float)
    # The observation is what items have from the query directly.
    assert np.count_nonzero(own) == 4
    exact = dense_diffusion(W, own / (1 - ALPHA), ALPHA)[0]
    np.testing.assert_allclose(x, exact, rtol=1e-4, atol=1e-6 * exact.max())
    for item, explanation in enumerate(explanations):
        assert explanation.reached == (x[item] > 0)
        assert [part.id for part in explanation.flow if W[item, part.id] == 0] == []
        assert len(explanation.flow) == np.count_nonzero(W[item])
        amounts = [part.amount for part in explanation.flow]
        assert amounts == sorted(amounts, reverse=True)
        for part in explanation.flow:
            assert part.weight == W[item, part.id]
            assert part.amount == pytest.approx(ALPHA * part.weight * x[part.id], abs=1e-30)
        total = own[item] + sum(amounts)
        assert total == pytest.approx(x[item], rel=1e-4, abs=1e-6 * x.max())
        assert total + explanation.remainder == pytest.approx(x[item])


def test_what_the_shares_are_made_of(vectors, queries):
    ranker = ranker_of(vectors, alpha=0.95)
    explanations = [ranker.explain(queries[0], item) for item in range(120)]
    degrees = ranker.graph_.degrees
    scaled = np.array([e.x / np.sqrt(e.degree or 1) for e in explanations])
    np.testing.assert_array_equal([e.degree for e in explanations], degrees)
    diffusion_ = [e.shares.diffusion for e in explanations]
    np.testing.assert_allclose(diffusion_, (scaled / scaled.max()) ** 0.375, rtol=1e-5)
    # e of the best of the first stage, here of all, as the documentation of `Fusion` has it.
    e = evidence(queries[0], vectors, 500)
    np.testing.assert_allclose([x.shares.first_stage for x in explanations], 0.75 * e, atol=1e-5)
    # The items of the observation are those with the largest J + e, and y is this sum.
    J = np.array([x.shares.neighbourhood for x in explanations]) / 0.75
    both = J + evidence(queries[0], vectors, 8)
    own = np.array([x.own for x in explanations])
    expected = np.where(both >= np.sort(both)[-4], both, 0)
    np.testing.assert_allclose(own / 0.05, expected, rtol=1e-5)
    heavier = ranker_of(vectors, alpha=0.95, score=diffusion.Fusion(weight=1.5))
    again = heavier.explain(queries[0], 3).shares
    once = explanations[3].shares
    assert again == pytest.approx((once.diffusion, 2 * once.neighbourhood, 2 * once.first_stage))


@pytest.mark.parametrize("kind", KINDS)
def test_chains_begin_at_the_observation_and_carry_their_share(vectors, queries, kind):
    ranker = ranker_of(vectors, kind)
    own = [ranker.explain(queries[0], item).own for item in range(120)]
    W = ranker.graph_.W.toarray().astype(float)
    e = evidence(queries[0], vectors, 8)
    for item in range(0, 120, 11):
        explanation = ranker.explain(queries[0], item, n_chains=4)
        for chain in explanation.chains:
            assert chain.ids[-1] == item
            assert chain.observed == pytest.approx(own[chain.ids[0]] / (1 - ALPHA))
            steps = [W[a, b] for a, b in zip(chain.ids[:-1], chain.ids[1:], strict=True)]
            assert list(chain.weights) == steps
            term = own[chain.ids[0]] * ALPHA ** len(steps) * np.prod(steps)
            assert chain.share == pytest.approx(term / explanation.x)
            if kind.startswith(("fusion", "context")):
                assert chain.similarity + e[chain.ids[0]] == pytest.approx(chain.observed, rel=1e-5)
            else:
                assert chain.similarity is None
        shares = [chain.share for chain in explanation.chains]
        assert shares == sorted(shares, reverse=True)
        assert explanation.chains[:1] == ranker.explain(queries[0], item, n_chains=1).chains


def test_an_item_far_down_is_solved_for_as_deeply_as_it_takes():
    angle = np.linspace(0, 2 * np.pi, 3000, endpoint=False)
    X = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    ranker = Reranker(k=6, affinity="cosine", solver="local", query_k=3).fit(X)
    q = X[0] + [0, 1e-5]
    near = ranker.explain(q, 20)
    assert near.depth == 100
    assert near.first_rank in (40, 41)
    check_place(ranker, q, near)
    far = ranker.explain(q, 400)
    assert far.reached
    assert far.rank in (800, 801)
    assert far.depth > 800
    assert far.first_rank in (800, 801)
    check_place(ranker, q, far)
    # Each step goes as far as an edge can.
    assert set(np.diff(far.chains[0].ids[1:]).tolist()) == {3}


@pytest.mark.parametrize("kind", KINDS)
def test_items_with_equal_scores(vectors, queries, kind):
    ranker = ranker_of(np.repeat(vectors, 4, axis=0), kind)
    scores, ids = ranker.search(queries[0], 480)
    reached = 0
    for item in [*range(12, 24), *range(440, 452)]:
        explanation = ranker.explain(queries[0], item)
        assert scores[explanation.rank - 1] == np.float32(explanation.score)
        # A list of the first stage may end with any of the items that tie for its last place.
        assert ids[explanation.rank - 1] == item or not explanation.reached
        reached += explanation.reached
    assert reached >= 4


@pytest.fixture
def apart():
    """A ranker of two clusters and an item without neighbours, and a query near one of them."""
    rng = np.random.default_rng(0)
    X = np.eye(3)[np.repeat([0, 1, 2], [20, 20, 1])] + 0.05 * rng.random((41, 3))
    X[40] = [-0.1, -0.1, 1]
    return Reranker(k=5, affinity="cosine", query_k=2).fit(X), np.array([1, 0.1, 0.1])


def test_an_item_that_diffusion_does_not_reach_follows_by_its_first_stage_score(apart):
    ranker, q = apart
    scores, ids = ranker.search(q, 41)
    for item, why in ((25, "no chain leads to it from the query"), (40, "it is isolated")):
        explanation = ranker.explain(q, item)
        place = ids.tolist().index(item)
        assert explanation.rank == place + 1 > 20
        assert explanation.score == scores[place] <= 0
        assert not explanation.reached
        assert explanation.x == explanation.own == 0
        assert explanation.chains == ()
        assert explanation.shares == (0, 0, 0)
        assert why in str(explanation)
        assert "It follows by its first-stage score." in str(explanation)
        assert "Flow" not in str(explanation)
    assert explanation.degree == 0
    assert explanation.flow == ()


def test_an_item_that_no_stage_lists_has_no_rank(apart):
    ranker, _ = apart
    hits = [0.9, 0.8, 0.7], [1, 2, 25]
    explanation = ranker.explain(id=30, hits=hits)
    assert (explanation.first_rank, explanation.first_score) == (None, None)
    assert (explanation.rank, explanation.score) == (None, None)
    assert "First stage: not listed. After diffusion: not listed." in str(explanation)
    listed = ranker.explain(id=25, hits=hits)
    scores, ids = ranker.rerank(*hits, k=30)
    assert listed.first_rank == 3
    assert not listed.reached
    assert listed.score == scores[listed.rank - 1] < 0
    assert ids[listed.rank - 1] == 25


def test_an_item_with_evidence_beside_diffusion_that_has_none(vectors, queries):
    # Nothing diffuses with so small a support: neighbourhood and first stage remain.
    ranker = ranker_of(vectors, solver=diffusion.Columns(size=4, keep=2))
    unreached = [
        explanation
        for explanation in (ranker.explain(queries[0], item) for item in range(40))
        if not explanation.reached and explanation.shares.neighbourhood > 0
    ]
    assert unreached
    for explanation in unreached:
        check_place(ranker, queries[0], explanation)
        assert sum(explanation.shares) == pytest.approx(explanation.score, rel=1e-5)
        assert "Diffusion does not reach it: no chain" in str(explanation)


def test_hits_in_place_of_a_query(vectors, queries):
    ranker = ranker_of(vectors)
    scores0, ids0 = diffusion.nearest_neighbors(np.vstack([queries[:1], vectors]), 60)
    hits = scores0[0], ids0[0] - 1
    scores, ids = ranker.rerank(*hits, k=120)
    explanation = ranker.explain(id=int(ids[30]), hits=hits)
    assert explanation.rank == 31
    assert explanation.score == scores[30]
    outside = next(item for item in range(120) if item not in hits[1])
    assert ranker.explain(id=outside, hits=hits).first_rank is None
    by_query = ranker.explain(queries[0], int(ids[30]))
    assert explanation.x == pytest.approx(by_query.x, rel=1e-5)
    lists_only = Reranker(k=8, solver="cg").fit_neighbors(*diffusion.nearest_neighbors(vectors, 8))
    assert lists_only.explain(id=5, hits=hits).reached
    with pytest.raises(DiffusionError, match="holds no vectors"):
        lists_only.explain(queries[0], 5)


@pytest.mark.parametrize("ids", [np.arange(120)[::-1] * 10**12, [f"item {i}" for i in range(120)]])
def test_an_explanation_speaks_the_ids_of_the_items(vectors, queries, ids):
    plain = ranker_of(vectors).explain(queries[0], 9)
    own = Reranker(k=8, query_k=4, alpha=ALPHA, solver="cg").fit(vectors, ids=ids)
    explanation = own.explain(queries[0], ids[9])
    assert explanation.id == ids[9]
    assert [c.ids for c in explanation.chains] == [
        tuple(ids[i] for i in chain.ids) for chain in plain.chains
    ]
    assert [part.id for part in explanation.flow] == [ids[part.id] for part in plain.flow]
    assert (explanation.rank, explanation.score) == (plain.rank, plain.score)
    assert json.loads(json.dumps(explanation.as_dict()))["id"] == ids[9]
    with pytest.raises(DiffusionError, match="id: expected"):
        own.explain(queries[0], 9)


def test_a_collection_that_has_changed(vectors, queries):
    ranker = ranker_of(vectors[:100])
    ranker.remove(range(0, 60, 5))
    ranker.add(vectors[100:])
    for item in ranker.search(queries[0], 108)[1][[0, 8, 50, 107]].tolist():
        explanation = ranker.explain(queries[0], item)
        check_place(ranker, queries[0], explanation)
        total = explanation.own + sum(part.amount for part in explanation.flow)
        assert total == pytest.approx(explanation.x, rel=1e-4, abs=1e-9)
        # Of the items that are there, and steps that are there.
        W, ids = ranker.graph_.W.toarray(), ranker.ids_.tolist()
        for chain in explanation.chains:
            rows = [ids.index(i) for i in chain.ids]
            steps = [W[a, b] for a, b in itertools.pairwise(rows)]
            assert list(chain.weights) == steps
    with pytest.raises(DiffusionError, match="id: expected the id of an item, got 5"):
        ranker.explain(queries[0], 5)


@pytest.mark.parametrize("kind", KINDS)
def test_hits_that_the_collection_does_not_have_count_in_the_ranking(vectors, queries, kind):
    ranker = ranker_of(vectors, kind)
    scores0, ids0 = ranker.fitted().index.search(queries[:1].astype(np.float32), 60)
    ids0 = np.where(np.arange(60) % 3 == 1, ids0 + 1000, ids0)
    hits = scores0[0], ids0[0]
    # As long that no place is taken by an unknown hit that would be cut off.
    scores, ids = ranker.rerank(*hits, k=140)
    for rank, (score, item) in enumerate(zip(scores, ids, strict=True), 1):
        if 0 <= item < 120:
            explanation = ranker.explain(id=int(item), hits=hits)
            assert (explanation.rank, np.float32(explanation.score)) == (rank, score)
            if any(explanation.shares):
                assert sum(explanation.shares) == pytest.approx(explanation.score, rel=1e-5)
    with pytest.raises(DiffusionError, match="id: expected the id of an item"):
        ranker.explain(id=int(ids0[0, 1]), hits=hits)


@pytest.mark.parametrize("solver", ["auto", "spectral", "chebyshev"])
def test_other_transfer_functions_have_chains_on_w_and_no_flow(vectors, queries, solver):
    transfer = diffusion.HeatKernel(3.0)
    ranker = ranker_of(vectors, "cosine", solver, transfer=transfer)
    walk = ranker_of(vectors, "cosine").explain(queries[0], 7)
    explanation = ranker.explain(queries[0], 7)
    check_place(ranker, queries[0], explanation)
    assert (explanation.flow, explanation.own, explanation.remainder) == ((), None, None)
    assert explanation.chains
    assert all(chain.share is None for chain in explanation.chains)
    assert "Flow" not in str(explanation)
    assert "%" not in str(explanation)
    assert {chain.ids[0] for chain in explanation.chains} <= set(range(120))
    assert explanation.chains[0].observed > 0
    assert explanation.degree == walk.degree
    custom = ranker_of(vectors, "cosine", "chebyshev", transfer=diffusion.CustomTransfer(np.cos))
    assert custom.explain(queries[0], 7).own is None


def test_a_query_of_zeros_has_nothing_to_start_from(vectors):
    ranker = ranker_of(vectors)
    explanation = ranker.explain(np.zeros(12), 5)
    assert not explanation.reached
    assert explanation.chains == ()
    assert "no chain leads to it" in str(explanation)
    _, ids = ranker.search(np.zeros(12), 120)
    assert ids[explanation.rank - 1] == 5


class Short:
    """An index of the caller that refuses lists longer than those that a search asks for."""

    def __init__(self, X):
        self.X = X / np.linalg.norm(X, axis=1, keepdims=True)

    def search(self, Q, k):
        if k > 500:
            raise RuntimeError("at most 500")
        scores = Q @ self.X.T
        ids = np.argsort(-scores, axis=1)[:, :k]
        return np.take_along_axis(scores, ids, axis=1), ids


def test_an_index_that_refuses_long_lists(vectors, queries):
    X = np.concatenate([vectors + shift for shift in np.linspace(0, 0.5, 6)])
    ranker = Reranker(k=8).fit(X, index=Short(X))
    last = int(np.argmin(similarity(queries[:1], X, "cosine")))
    assert ranker.search(queries[0], 100)[1].shape == (100,)
    explanation = ranker.explain(queries[0], last)
    assert explanation.first_rank is None
    assert "First stage: not listed." in str(explanation)
    assert "rank none -> " in repr(explanation)


def test_a_loaded_index_explains_the_same(vectors, queries, tmp_path):
    ranker = ranker_of(vectors)
    ranker.save(tmp_path / "index")
    loaded = diffusion.load(tmp_path / "index")
    assert loaded.explain(queries[1], 44) == ranker.explain(queries[1], 44)


def test_the_forms_of_an_explanation(vectors, queries):
    explanation = ranker_of(vectors).explain(queries[0], 4)
    made = json.loads(json.dumps(explanation.as_dict(), allow_nan=False))
    assert made["id"] == 4
    assert made["shares"] == pytest.approx(explanation.shares._asdict())
    assert made["chains"][0]["ids"] == list(explanation.chains[0].ids)
    assert made["flow"][0]["amount"] == explanation.flow[0].amount
    ranks = f"rank {explanation.first_rank} -> {explanation.rank}"
    assert repr(explanation) == f"Explanation(4, {ranks}, 3 chains)"
    lines = str(explanation).splitlines()
    assert lines[0] == "Item 4, of 120."
    assert f"First stage: rank {explanation.first_rank} with" in lines[1]
    assert f"After diffusion: rank {explanation.rank} with" in lines[1]
    chains = [line for line in lines if line.startswith("  query -(J ")]
    assert len(chains) == 3
    assert all("% of x" in line for line in chains)
    shares = [float(line.split("%")[0]) for line in lines[lines.index(chains[-1]) + 2 :]]
    assert sum(shares) == pytest.approx(100, abs=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"id": 120}, "id: expected the id of an item, got 120"),
        ({"id": -1}, "id: expected"),
        ({"id": "a"}, "id: expected int64 ids, as the items have, got 'a'"),
        ({"id": [3, 4]}, "id: expected"),
        ({"id": 3.0}, "id: expected"),
        ({"id": True}, "id: expected"),
        ({"id": None}, "id: expected"),
        ({"q": None}, "q: expected either a query or hits"),
        ({"hits": ([0.5], [1])}, "q: expected either a query or hits"),
        ({"q": np.ones((2, 12))}, "q: expected one query, got 2"),
        ({"q": np.ones(5)}, "dimension 12"),
        ({"q": None, "hits": (np.ones((2, 3)), [[0, 1, 2]] * 2)}, "hits: expected one query"),
        ({"q": None, "hits": ([0.5], ["a"])}, "ids0: expected"),
        ({"q": None, "hits": 3}, "hits: expected"),
        ({"k": 0}, "k: expected"),
        ({"n_chains": 0}, "n_chains: expected"),
    ],
)
def test_bad_arguments(vectors, arguments, message):
    ranker = ranker_of(vectors)
    with pytest.raises(DiffusionError, match=message):
        ranker.explain(**{"q": np.ones(12), "id": 3, **arguments})


def test_nothing_to_explain_before_a_fit():
    with pytest.raises(DiffusionError, match="not fitted"):
        Reranker().explain(np.ones(3), 0)
