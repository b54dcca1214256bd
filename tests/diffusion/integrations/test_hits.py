"""Hits of any engine, compared with calls of the Reranker for one query at a time."""

from __future__ import annotations

import json
import uuid

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion import DiffusionError, Reranker
from diffusion.integrations import hits
from diffusion.solvers import CG

N = 40
FAR = 1000  # ids from here on are not in the collection


def made(ids=None, **parameters):
    rng = np.random.default_rng(5)
    X = rng.standard_normal((4, 6))[np.arange(N) % 4] + 0.5 * rng.standard_normal((N, 6))
    solver = CG(tol=1e-12, max_iter=1000)
    return Reranker(k=5, query_k=3, solver=solver, **parameters).fit(X, ids=ids)


def text(number):
    return str(uuid.UUID(int=number + 1))


RANKERS = {False: made(), True: made([text(i) for i in range(N)])}
DISTANT = made(metric="euclidean")

# How ids may come: of one list, and of several.
FORMS = {
    "lists": list,
    "tuples": tuple,
    "arrays": np.array,
    "scalars": lambda values: list(np.array(values)),
    "objects": lambda values: np.array(values, object),
    "arrow": pa.array,
}


@st.composite
def calls(draw):
    """Draw numbers of hits and scores of some queries, and the arguments of a call."""
    count = draw(st.integers(1, 4))
    numbers = st.integers(0, N - 1) | st.integers(FAR, FAR + 5)
    ids = [draw(st.lists(numbers, max_size=9, unique=True)) for _ in range(count)]
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    scores = [np.sort(rng.random(len(row)))[::-1].tolist() for row in ids]
    allow = draw(st.none() | st.sets(numbers, min_size=1, max_size=30))
    arguments = {"restrict_to_candidates": draw(st.booleans()), "k": draw(st.none() | st.just(4))}
    return ids, scores, allow, arguments


def expected(ranker, ids, scores, k, **arguments):
    """Return what the Reranker answers to one query, without padding, as pairs."""
    if not ids:
        return []
    k = len(ids) if k is None else k
    found = ranker.rerank(np.array(scores), np.array(ids, type(ids[0])), k, **arguments)
    return [(i, s) for s, i in zip(*found, strict=True) if i is not None and i != -1]


@settings(max_examples=150)
@given(calls(), st.booleans(), st.sampled_from(list(FORMS)))
def test_each_query_is_answered_as_by_the_reranker_alone(call, named, form):
    ids, scores, allow, arguments = call
    ranker, convert = RANKERS[named], text if named else int
    ids = [[convert(i) for i in row] for row in ids]
    arguments["allow"] = allow if allow is None else {convert(i) for i in allow}
    given_ids = [FORMS[form](row) if row else [] for row in ids]
    out = hits.rerank(ranker, given_ids, scores, **arguments)
    assert len(out.ids) == len(ids)
    for *lists, own, own_scores in zip(*out, ids, scores, strict=True):
        answer = expected(ranker, own, own_scores, **arguments)
        assert lists[0] == [i for i, _ in answer]
        np.testing.assert_allclose(lists[1], [s for _, s in answer], atol=1e-5)
        assert lists[2] == [i not in own for i in lists[0]]
        one = hits.rerank(ranker, own, own_scores, **arguments)
        assert (one.ids, one.new) == (lists[0], lists[2])
    assert json.loads(json.dumps(out)) == [list(part) for part in out]
    flat = [
        i
        for row, new in zip(out.ids, out.new, strict=True)
        for i, n in zip(row, new, strict=True)
        if n
    ]
    assert out.new_ids == sorted(set(flat), key=flat.index)


@pytest.mark.parametrize("named", [False, True])
def test_padding_is_no_hit(named):
    ranker = RANKERS[named]
    row = [text(3), text(8)] if named else [3, 8]
    bare = hits.rerank(ranker, row, [0.9, 0.8])
    for padding in (None, "") if named else (-1,):
        padded = hits.rerank(ranker, [*row, padding], [0.9, 0.8, 0.0])
        assert padded == bare
        assert hits.rerank(
            ranker, np.array([[*row, padding]], object if named else int), [[0.9, 0.8, 0.0]]
        ) == tuple([part] for part in bare)
    assert len(bare.ids) == 2


def test_results_are_python_values():
    for named, ranker in RANKERS.items():
        row = np.array([text(3), text(8)]) if named else np.array([3, 8], np.uint16)
        out = hits.rerank(ranker, row, np.array([0.9, 0.8], np.float16), k=6)
        assert {type(i) for i in out.ids} == {str if named else int}
        assert {type(s) for s in out.scores} == {float}
        assert {type(n) for n in out.new} == {bool}
        assert out.new_ids == [i for i in out.ids if i not in row.tolist()]


def test_uuids_stand_for_their_text_if_ids_are_text():
    row = [uuid.UUID(text(i)) for i in (3, 8, 20)]
    names = list(map(str, row))
    allow = [uuid.UUID(text(i)) for i in range(25)]
    plain = hits.rerank(RANKERS[True], names, [0.9, 0.8, 0.1], k=9, allow=list(map(str, allow)))
    assert not set(plain.ids) - set(map(str, allow))
    for given_ids in (row, np.array(row), [row[0], *names[1:]]):
        for filtered in (allow, set(allow)):
            assert (
                hits.rerank(RANKERS[True], given_ids, [0.9, 0.8, 0.1], k=9, allow=filtered) == plain
            )
    with pytest.raises(DiffusionError, match=r"ids: .*UUID"):
        hits.rerank(RANKERS[False], row, [0.9, 0.8, 0.1])


def test_distances():
    row, near = [[3, 8], [5]], [[0.1, 0.4], [0.2]]
    same = hits.rerank(RANKERS[False], row, [[0.9, 0.6], [0.8]])
    assert hits.rerank(RANKERS[False], row, distances=near).ids == same.ids
    squares = hits.rerank(DISTANT, row, distances=[[0.01, 0.16], [0.04]], squared=True)
    roots = hits.rerank(DISTANT, row, distances=near, squared=False)
    assert squares.ids == roots.ids
    np.testing.assert_allclose(squares.scores[0], roots.scores[0], rtol=1e-5)
    with pytest.raises(DiffusionError, match=r"squared: .*whether distances are squared"):
        hits.rerank(DISTANT, row, distances=near)


@pytest.mark.parametrize(
    ("ids", "scores", "empty"),
    [
        ([], [], []),
        ([[]], [[]], [[]]),
        ([[], []], [[], []], [[], []]),
        (np.empty(0, int), np.empty(0), []),
        (np.empty((0, 5), int), np.empty((0, 5)), []),
        ([-1, -1], [0.0, 0.0], []),
    ],
)
def test_queries_without_hits(ids, scores, empty):
    out = hits.rerank(RANKERS[False], ids, scores)
    assert out == (empty, empty, empty)
    assert out.new_ids == []


def test_a_longer_list_beside_it_pushes_no_unknown_hit_out():
    ids, scores = [list(range(10)), [0, FAR]], [np.linspace(1, 0.5, 10), [1.0, 0.1]]
    out = hits.rerank(RANKERS[False], ids, scores)
    assert out.ids[1] == [0, FAR]
    wide = hits.rerank(RANKERS[False], ids[1], scores[1], k=10)
    assert wide.ids[:2] == [0, wide.new_ids[0]]  # what a cut of the longer list would give


def test_new_ids_of_several_queries_are_given_once():
    first = hits.rerank(RANKERS[False], [0], [0.9], k=5)
    both = hits.rerank(RANKERS[False], [[0], [0]], [[0.9], [0.9]], k=5)
    assert first.new_ids
    assert both.new_ids == first.new_ids
    assert both.new == [first.new, first.new]


def test_nothing_given_is_changed():
    row, scores, allow = [3, -1, 8], [0.9, 0.0, 0.8], {3, 8, 9}
    hits.rerank(RANKERS[False], row, scores, allow=allow)
    assert (row, scores, allow) == ([3, -1, 8], [0.9, 0.0, 0.8], {3, 8, 9})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ids": [1], "scores": None}, "scores, distances: expected one of them"),
        ({"ids": [1], "scores": [0.5], "distances": [0.5]}, "scores, distances: .*both"),
        ({"ids": [1, 2], "scores": [0.5]}, r"scores: .*ids"),
        ({"ids": [[1], [2, 3]], "scores": [[0.5], [0.4]]}, "scores: row 1: expected 2"),
        ({"ids": [1, 1], "scores": [0.5, 0.4]}, "ids: .*1 at places 0 and 1"),
        ({"ids": [1, [2]], "scores": [0.5, 0.4]}, "ids: .*place 1 has a list, place 0 has 1"),
        ({"ids": [0.9, 0.8], "scores": [1, 2]}, "ids: expected integers"),
        ({"ids": ["a"], "scores": [0.5]}, "ids: "),
        ({"ids": "ab", "scores": [0.5, 0.4]}, "ids: expected a list"),
        ({"ids": None, "scores": [0.5]}, "ids: expected a list"),
        ({"ids": {3: 0.5}, "scores": [0.5]}, "ids: expected a list"),
        ({"ids": (i for i in [3]), "scores": [0.5]}, "ids: expected a list"),
        ({"ids": [3], "scores": (s for s in [0.5])}, "scores: "),
        ({"ids": [3, 4], "scores": [0.5, np.nan]}, "scores: .*finite"),
        ({"ids": [3, 4], "distances": [0.5, -2.0]}, "distances: "),
        ({"ids": [3], "scores": [0.5], "squared": True}, "squared: expected None"),
        ({"ids": [3], "scores": [0.5], "k": 0}, "k: expected an integer of at least 1, got 0"),
        ({"ids": [3], "scores": [0.5], "allow": 7}, "allow: "),
        ({"ids": [3], "scores": [0.5], "restrict_to_candidates": "no"}, "restrict_to_candidates"),
    ],
)
def test_errors_name_the_argument(arguments, message):
    with pytest.raises(DiffusionError, match=message) as caught:
        hits.rerank(RANKERS[False], **arguments)
    assert not {"ids0", "scores0", "distances0"} & set(str(caught.value).replace(",", " ").split())


def test_only_a_fitted_reranker_can_rerank():
    with pytest.raises(DiffusionError, match="ranker: expected a Reranker, got list"):
        hits.rerank([[1.0]], [3], [0.5])
