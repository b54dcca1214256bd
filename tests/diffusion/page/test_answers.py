"""Answers in advance: those of the library, for every setting of the sliders."""

from __future__ import annotations

import json

import numpy as np
import pytest

import diffusion
from diffusion import Fusion, page

SHOWN = 12


def rank_in(ranking, item):
    return ranking.index(item) + 1 if item in ranking else 0


def test_every_setting_has_the_answers_of_a_ranker_with_these_parameters(ranker, arcs, names):
    X, Q = arcs
    answers = page.answers(ranker, Q, ["one", "two"], k=30)
    data = answers.data
    assert data["query_k"] == [1, 2, 4, 8, 16]
    assert data["weight"] == [0, 0.375, 0.75, 1.5, 3]
    assert answers.ids == data["items"]
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (X, Q)]
    first = np.argsort(-(unit[1] @ unit[0].T), axis=1, kind="stable")
    orders = set()
    for number, query in enumerate(data["queries"]):
        near = [names[item] for item in first[number]]
        for place, answer in enumerate(query["answers"]):
            query_k, weight = data["query_k"][place // 5], data["weight"][place % 5]
            other = diffusion.Reranker(k=12, query_k=query_k, score=Fusion(weight))
            last = other.fit(X, ids=names).search(Q[number], 30)[1].tolist()
            after = [data["items"][item] for item in answer["after"]]
            before = [data["items"][item] for item in answer["before"]]
            assert after == last[:SHOWN]
            assert before == near[:SHOWN]
            assert answer["was"] == [rank_in(near, name) for name in after]
            assert answer["went"] == [rank_in(last, name) for name in before]
            assert answer["confidence"] == pytest.approx(other.report_.confidence[0], abs=1e-3)
            assert answer["relevant"] == other.report_.relevant[0]
            orders.add(tuple(after))
    assert len(orders) > 10
    assert data["own"] == 12


def test_explanations_are_those_of_the_library(ranker, arcs):
    data = page.answers(ranker, arcs[1], ["one", "two"]).data
    steps = set()
    for q, query in zip(arcs[1], data["queries"], strict=True):
        own = query["answers"][data["own"]]
        assert set(query["explanations"]) == set(map(str, own["before"] + own["after"]))
        for number, told in query["explanations"].items():
            expected = ranker.explain(q, data["items"][int(number)], n_chains=1)
            assert (told["first_rank"], told["rank"]) == (expected.first_rank, expected.rank)
            assert told["shares"] == pytest.approx(expected.shares._asdict(), rel=1e-3)
            for chain, wanted in zip(told["chains"], expected.chains, strict=True):
                assert tuple(data["items"][item] for item in chain["ids"]) == wanted.ids
                assert chain["weights"] == pytest.approx(wanted.weights, rel=1e-3)
                assert chain["similarity"] == pytest.approx(wanted.similarity, rel=1e-3)
                assert chain["share"] == pytest.approx(wanted.share, rel=1e-3)
                steps.add(len(chain["ids"]))
    assert steps > {1, 2}


def test_the_ranker_is_not_changed(ranker, arcs):
    ranker.search(arcs[1], 3)
    report, parameters = ranker.report_, ranker.get_params()
    page.answers(ranker, arcs[1], ["one", "two"], k=3)
    assert ranker.report_ is report
    assert ranker.get_params() == parameters


def test_what_is_not_a_fusion_has_no_weight(arcs):
    ranker = diffusion.Reranker(k=8, affinity="cosine", query_k=1).fit(arcs[0])
    data = page.answers(ranker, arcs[1][:1], ["one"], name_of="no. {}".format).data
    assert data["weight"] == []
    assert data["query_k"] == [1, 2, 4]
    assert data["own"] == 0
    assert len(data["queries"][0]["answers"]) == 3
    assert "confidence" not in data["queries"][0]["answers"][0]
    found = ranker.search(arcs[1][0], SHOWN)[1]
    after = data["queries"][0]["answers"][0]["after"]
    assert [data["items"][item] for item in after] == [f"no. {item}" for item in found]


def test_a_weight_of_nothing_and_a_small_collection_with_copies():
    X = np.eye(4, dtype=np.float32)[[0, 0, 1, 1, 2]] + 0.1
    ranker = diffusion.Reranker(k=2, score=Fusion(0.0)).fit(X)
    data = page.answers(ranker, X[:1], ["one"], k=9).data
    assert data["weight"] == [0, 0.25, 0.5, 0.75, 1.5]
    assert data["complete"]
    for answer in data["queries"][0]["answers"]:
        assert sorted(answer["after"]) == sorted(answer["before"]) == [0, 1, 2, 3, 4]
        assert all(answer["was"] + answer["went"])
    json.dumps(data, allow_nan=False)


def test_no_query_and_no_result(ranker):
    data = page.answers(ranker, np.zeros((0, 3)), []).data
    assert (data["queries"], data["items"]) == ([], [])
    data = page.answers(ranker, np.zeros((1, 3)), ["nowhere"], k=5).data
    assert len(data["queries"][0]["answers"][data["own"]]["after"]) == 5
    json.dumps(data, allow_nan=False)


def test_a_cautious_ranker_answers_cautiously(arcs, names):
    ranker = diffusion.Reranker(k=12, query_k=4, cautious=True).fit(arcs[0], ids=names)
    data = page.answers(ranker, arcs[1], ["one", "two"]).data
    bold = ranker.with_parameters(None, cautious=False)
    differ = False
    for q, query in zip(arcs[1], data["queries"], strict=True):
        found = ranker.search(q, SHOWN)[1].tolist()
        assert [data["items"][item] for item in query["answers"][data["own"]]["after"]] == found
        differ |= bold.search(q, SHOWN)[1].tolist() != found
    assert differ
