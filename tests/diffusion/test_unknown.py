"""Hits that are not in the collection, and distances in the place of scores."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import diffusion
from diffusion import DiffusionError, Reranker
from diffusion.solvers import CG
from tests.support.oracles import first_stage_evidence, similarity

N = 40
FAR = 10**12  # ids from here on are not in the collection


def collection():
    rng = np.random.default_rng(3)
    centres = rng.standard_normal((4, 6))
    return centres[np.arange(N) % 4] + 0.5 * rng.standard_normal((N, 6))


X = collection()
# The local scales: lists hold five, and no twelfth.
SCALES = np.sort(similarity(X, X, "cosine") - 9 * np.eye(N), axis=1)[:, -5]


def made(affinity, ids=None, copies=1):
    solver = CG(tol=1e-12, max_iter=1000)
    ranker = Reranker(k=5, query_k=3, affinity=affinity, solver=solver)
    return ranker.fit(np.concatenate([X] * copies), ids=ids)


RANKERS = {affinity: made(affinity) for affinity in ("context", "cosine")}


def evidence(scores, ids):
    """Return e of the descending scores of a list, from its definition."""
    # The best five known hits make the list of the query. Unknown hits have its local scale.
    known = [s for s, i in zip(scores, ids, strict=True) if i < FAR][:5]
    query = known[-1] if known else 0.0
    of_items = np.append(SCALES, query)[np.minimum(ids, N)]
    return first_stage_evidence(scores, np.asarray(scores) - 0.3 * (query + of_items))


def expected(ranker, scores, ids, k, *, restrict, allowed):
    """Return the list of a query with unknown hits, by sorting Python tuples."""
    known = [(s, i) for s, i in zip(scores, ids, strict=True) if i < FAR]
    weight = 0.75 if ranker.affinity == "context" else 0.0
    base = {}
    if known:
        found = ranker.rerank(*map(np.array, zip(*known, strict=True)), N)
        own = dict(zip([i for _, i in known], evidence(*zip(*known, strict=True)), strict=True))
        for score, item in zip(*found, strict=True):
            if item >= 0:
                base[item] = max(score, 0) - (weight * own.get(item, 0) if score > 0 else 0)
    for item, e in zip(ids, evidence(scores, ids), strict=True):
        base[item] = base.get(item, 0) + weight * e
    place = {item: number for number, item in enumerate(ids)}
    candidates = [i for i in ids if i in allowed]
    entries = []
    for item, score in base.items():
        if item in allowed and (item in place or not restrict):
            if score > 1e-9:
                entries.append((-score, item >= FAR, place.get(item, 0), item))
            elif item in place:
                entries.append((scores[0] - scores[place[item]], 2, place[item], item))
    reached = sorted(e for e in entries if e[1] < 2)
    entries = reached + sorted((e for e in entries if e[1] == 2), key=lambda e: e[2])
    kept = {i for i in candidates[:k] if i >= FAR}
    while len(entries) > k:
        entries.remove(next(e for e in reversed(entries) if e[3] not in kept))
    return [(-e[0], e[3]) for e in entries]


@st.composite
def hits(draw):
    m = draw(st.integers(1, 25))
    unknown = st.integers(FAR, FAR + 60)
    ids = draw(st.lists(st.integers(0, N - 1) | unknown, min_size=m, max_size=m, unique=True))
    seed = draw(st.integers(0, 1 << 16))
    scores = -np.sort(-np.random.default_rng(seed).uniform(0.1, 0.9, m).round(4))
    scores = np.unique(scores)[::-1]
    return scores, np.array(ids[: len(scores)])


@given(
    st.sampled_from(list(RANKERS)),
    st.lists(hits(), min_size=1, max_size=3),
    st.integers(1, 50),
    st.booleans(),
    st.sampled_from(["none", "mask", "ids", "function"]),
)
def test_unknown_hits_follow_by_their_first_stage_score(affinity, queries, k, restrict, kind):
    ranker = RANKERS[affinity]
    mask = np.arange(N) % 3 > 0
    allowed = {*range(N), *range(FAR, FAR + 61)}
    allow = None
    if kind == "mask":
        allow, allowed = mask, set(np.flatnonzero(mask).tolist())
    elif kind == "function":
        allow, allowed = (lambda ids: ids % 3 > 0), {i for i in allowed if i % 3 > 0}
    elif kind == "ids":
        allowed = {i for i in allowed if i % 3 > 0}
        allow = allowed
    lists = [q[0].tolist() for q in queries], [q[1].tolist() for q in queries]
    found = ranker.rerank(*lists, k, restrict_to_candidates=restrict, allow=allow)
    assert (ranker.report_.unknown == [(q[1] >= FAR).sum() for q in queries]).all()
    for row, (scores, ids) in enumerate(queries):
        wanted = expected(
            ranker, scores.tolist(), ids.tolist(), k, restrict=restrict, allowed=allowed
        )
        real = found[1][row] != -1
        assert np.count_nonzero(real) == len(wanted)
        np.testing.assert_allclose(found[0][row][real], [s for s, _ in wanted], atol=2e-4)
        assert (np.diff(found[0][row][real]) <= 0).all()
        # Items whose scores are close may stand for each other, unknown ones may not be missing.
        got = found[1][row][real]
        differ = [a for a, (_, b) in zip(got.tolist(), wanted, strict=True) if a != b]
        assert len(differ) <= 2
        assert {i for i in got if i >= FAR} == {i for _, i in wanted if i >= FAR}


def test_a_fresh_best_hit_does_not_sink(vectors):
    ranker = Reranker(k=8).fit(vectors)
    scores, ids = ranker.fitted().index.search(ranker.fitted().searched(vectors[:1])[1], 60)
    ids[0, 0] = FAR
    found = ranker.rerank(scores, ids, 121)[1][0].tolist()
    # Before all items of the other clusters.
    place = found.index(FAR)
    assert place < 40
    assert max(found[:place]) < 40
    scores, ids = np.linspace(0.9, 0.5, 20), np.arange(20)
    ids[0] = FAR
    assert RANKERS["cosine"].rerank(scores, ids, 10)[1][-1] == FAR  # the last place is kept


@pytest.mark.parametrize("affinity", RANKERS)
def test_only_unknown_hits_are_returned_as_they_are(affinity):
    ids = FAR + np.array([5, 3, 9, 1])
    for scores in ([0.9, 0.8, 0.7, 0.6], [0.9, 0.8, 0.8, 0.8], [0.5, 0.5, 0.5, 0.5]):
        found = RANKERS[affinity].rerank(scores, ids, 6)
        assert found[1].tolist() == [*ids, -1, -1]
        assert RANKERS[affinity].report_.unknown.tolist() == [4]
        assert RANKERS[affinity].report_.observed.tolist() == [0]


def test_copies_do_not_change_the_score_of_an_unknown_hit():
    ranker = made("context", copies=3)
    scores, ids = np.linspace(0.9, 0.5, 20), np.arange(20)
    ids[6] = FAR
    everything = ranker.rerank(scores, ids, 3 * N + 1)
    place = everything[1].tolist().index(FAR)
    assert place > 10
    # With the copies of better items alone, it has no place but the one that is kept for it.
    fewer = ranker.rerank(scores, ids, 10)
    assert fewer[1][-1] == FAR
    assert fewer[0][-1] == everything[0][place]


def test_any_number_may_be_unknown_and_none_twice():
    ranker = RANKERS["context"]
    odd = [-(2**63), -7, 2**63 - 1, N, 3]
    assert set(odd) <= set(ranker.rerank([5.0, 4, 3, 2, 1], odd, 5)[1].tolist()) | {3}
    with pytest.raises(DiffusionError, match="row 0 has -7 at places 0 and 2"):
        ranker.rerank([0.9, 0.8, 0.7], [-7, 3, -7])
    assert ranker.report_.unknown.tolist() == [4]


def test_unknown_names():
    names = [f"{i}.jpg" for i in range(N)]
    own, plain = made("context", names), RANKERS["context"]
    scores, ids = np.linspace(0.9, 0.5, 12), np.arange(12)
    ids[[0, 5, 6]] = FAR + np.array([2, 0, 1])  # in the order of their names
    rows = plain.rerank(scores, ids, 20)
    listed = [names[i] if i < FAR else f"new {'caz'[i - FAR]}".replace("c", "b") for i in ids]
    translated = dict(zip(ids.tolist(), listed, strict=True))
    found = own.rerank(scores, listed, 20)
    np.testing.assert_array_equal(found[0], rows[0])
    assert found[1].tolist() == [translated.get(i, f"{i}.jpg") for i in rows[1].tolist()]
    assert own.rerank(scores, listed, 20, allow=["new b", "3.jpg"])[1][:3].tolist() in (
        [["new b", "3.jpg", None], ["3.jpg", "new b", None]]
    )
    with pytest.raises(DiffusionError, match="row 0 has 'nobody' at places 0 and 1"):
        own.rerank([0.9, 0.8], ["nobody", "nobody"])


def test_search_has_no_unknown_hits(vectors):
    ranker = Reranker(k=8).fit(vectors)
    ranker.search(vectors[:3], 4)
    assert ranker.report_.unknown.tolist() == [0, 0, 0]


# --- distances ------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_distances_rank_as_their_similarities(vectors, metric):
    ranker = Reranker(k=8, metric=metric).fit(vectors)
    index, queries = ranker.fitted().searched(vectors[:4] + 0.1)
    scores, ids = index.search(queries, 30)
    expected = ranker.rerank(scores, ids, 20)
    if metric == "cosine":
        forms = [(1 - scores.astype(float), {})]
    else:
        forms = [
            (-scores.astype(float), {"squared": True}),
            (np.sqrt(-scores.astype(float)), {"squared": False}),
        ]
    for distances, options in forms:
        for form in (distances, distances.tolist()):
            found = ranker.rerank(ids0=ids, k=20, distances0=form, **options)
            np.testing.assert_array_equal(found[1], expected[1])
        one = ranker.rerank(ids0=ids[0], k=20, distances0=distances[0], **options)
        np.testing.assert_array_equal(one[1], expected[1][0])
        ragged = [distances[0].tolist(), [-99.0]], [ids[0].tolist(), [-1]]
        several = ranker.rerank(ids0=ragged[1], k=20, distances0=ragged[0], **options)
        np.testing.assert_array_equal(several[1][0], expected[1][0])


@pytest.mark.parametrize(
    ("metric", "arguments", "message"),
    [
        ("cosine", {}, "scores0, distances0: expected one of them, got neither"),
        ("cosine", {"scores0": [0.5], "distances0": [0.5]}, "scores0, distances0: .* got both"),
        (
            "cosine",
            {"scores0": [0.5], "ids0": None},
            "ids0: expected the ids of the hits",
        ),
        (
            "cosine",
            {"distances0": [2.1]},
            "from 0 to 2, 1 - cosine; row 0 has 2.1 at place 0",
        ),
        ("cosine", {"distances0": [-0.1]}, "distances0: expected distances from 0 to 2"),
        ("cosine", {"distances0": [[0.1, np.nan]], "ids0": [[2, 1]]}, "row 0 has nan at place 1"),
        ("cosine", {"distances0": [0.1], "squared": False}, "squared: expected None, got False"),
        ("cosine", {"distances0": [0.1, 0.2]}, r"distances0: expected the shape of ids0, \(1,\)"),
        ("euclidean", {"distances0": [0.1]}, "squared: expected True or False, got None"),
        (
            "euclidean",
            {"distances0": [-3.0], "squared": True},
            "distances of at least 0; row 0",
        ),
        ("euclidean", {"distances0": [np.inf], "squared": True}, "finite distances of at least 0"),
        ("inner_product", {"distances0": [0.1]}, "distances0: metric='inner_product' has no dist"),
        (
            "cosine",
            {"distances0": [np.linspace(0.99, 0.1, 30)], "ids0": [range(30)]},
            "distances0: expected distances, nearest first",
        ),
    ],
)
def test_bad_distances_are_named(vectors, metric, arguments, message):
    ranker = Reranker(k=8, metric=metric, affinity="context").fit(vectors)
    with pytest.raises(DiffusionError, match=message):
        ranker.rerank(**{"ids0": [3], **arguments})


def test_rounding_of_distances_is_forgiven(vectors):
    ranker = Reranker(k=8).fit(vectors)
    exact = ranker.rerank([1.0, 0.5], [4, 9], 10)
    near = ranker.rerank(ids0=[4, 9], k=10, distances0=[-3e-8, 0.5])
    np.testing.assert_array_equal(near[1], exact[1])
    assert diffusion.Reranker(k=8).fit(vectors).rerank(ids0=[4], distances0=[2.0000001])[1][0] >= 0
