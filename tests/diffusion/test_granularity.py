"""The granularity of the contextual affinity: scales by name, and how many neighbours they need."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.base import clone

import diffusion
from diffusion import Context, DiffusionError, Reranker
from diffusion.affinity import GRANULARITIES

# By name, what the documentation promises.
SCALES = {
    "instance": ((2, 4, 8, 16), 50),
    "mixed": ((3, 6, 12, 24, 48), 50),
    "category": ((6, 12, 24, 48, 96), 100),
}


@pytest.fixture(scope="module")
def vectors():
    rng = np.random.default_rng(0)
    return (rng.standard_normal((6, 16))[:, None] + rng.standard_normal((6, 50, 16))).reshape(
        -1, 16
    )


def same(ranker, other, Q):
    assert (ranker.graph_.W != other.graph_.W).nnz == 0
    for found, expected in zip(ranker.search(Q, 40), other.search(Q, 40), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_there_is_a_test_of_every_name():
    assert set(GRANULARITIES) == set(SCALES)


@pytest.mark.parametrize("name", SCALES)
def test_a_name_stands_for_scales_and_needs_no_k(vectors, name):
    scales, size = SCALES[name]
    ranker = Reranker(granularity=name).fit(vectors)
    assert ranker.fitted().affinity.depth == scales[-1]
    same(ranker, Reranker(affinity=Context(scales, size), k=200).fit(vectors), vectors[::40] + 0.1)


def test_the_default_is_mixed(vectors):
    same(Reranker(granularity="mixed").fit(vectors), Reranker().fit(vectors), vectors[::40] + 0.1)


def test_the_scales_of_a_context_need_no_k(vectors):
    assert Reranker(affinity=Context((3, 80))).fit(vectors).fitted().affinity.depth == 80


def test_a_smaller_k_cuts_the_scales(vectors):
    ranker = Reranker(granularity="category", k=30).fit(vectors)
    expected = Reranker(affinity=Context((6, 12, 24, 30), 100), k=30).fit(vectors)
    assert ranker.fitted().affinity.depth == 30
    same(ranker, expected, vectors[::40] + 0.1)


def test_lists_of_other_affinities_have_50_neighbours(vectors):
    default = Reranker(affinity="cosine").fit(vectors)
    same(default, Reranker(affinity="cosine", k=50).fit(vectors), vectors[::40] + 0.1)


def test_lists_from_elsewhere_are_used_as_far_as_they_go(vectors):
    scores, ids = diffusion.nearest_neighbors(vectors, 120)
    ranker = Reranker(granularity="category").fit_neighbors(scores, ids, vectors)
    same(ranker, Reranker(granularity="category").fit(vectors), vectors[::40] + 0.1)
    short = Reranker(granularity="category").fit_neighbors(scores[:, :60], ids[:, :60], vectors)
    assert short.fitted().affinity.depth == 60


def test_it_is_stored(vectors, tmp_path):
    ranker = Reranker(granularity="category").fit(vectors)
    ranker.save(tmp_path / "index")
    loaded = diffusion.load(tmp_path / "index")
    assert loaded.get_params() == ranker.get_params()
    same(loaded, ranker, vectors[::40] + 0.1)
    same(loaded.fit(vectors), ranker, vectors[::40] + 0.1)


def test_an_index_of_an_earlier_version_is_mixed(vectors):
    ranker = Reranker(k=50, affinity=Context(scaling=0)).fit(vectors)
    state = ranker.state()
    parameters = {k: v for k, v in state.parameters.items() if k != "granularity"}
    parameters["affinity"] = {k: v for k, v in parameters["affinity"].items() if k != "scaling"}
    loaded = Reranker.from_state(replace(state, parameters=parameters))
    assert (loaded.granularity, loaded.affinity) == ("mixed", Context(scaling=0))
    same(loaded, ranker, vectors[::40] + 0.1)
    for other in (Reranker(k=30), Reranker(k=50, affinity="cosine")):
        state = other.fit(vectors).state()
        parameters = {k: v for k, v in state.parameters.items() if k != "granularity"}
        assert Reranker.from_state(replace(state, parameters=parameters)).k == other.k


def test_an_index_keeps_its_scales_if_a_name_stands_for_others_later(vectors):
    ranker = Reranker(granularity="category").fit(vectors)
    state = ranker.state()
    settings = {**state.parameters["affinity"], "scales": (3, 6, 96)}
    arrays = Reranker(affinity=Context((3, 6, 96), 100)).fit(vectors).state().arrays
    parameters = {**state.parameters, "affinity": settings}
    loaded = Reranker.from_state(replace(state, parameters=parameters, arrays=arrays))
    assert loaded.get_params()["affinity"] == Context((3, 6, 96), 100)
    assert loaded.granularity == "mixed"
    loaded.fit(vectors)


def test_scikit_learn_clones_it():
    copied = clone(Reranker(granularity="category", query_k=3))
    assert copied.get_params()["granularity"] == "category"
    assert copied.get_params()["k"] is None


def test_a_collection_that_changes_is_that_of_a_fit(vectors):
    settings = {"granularity": "category", "solver": diffusion.CG(tol=1e-10, max_iter=2000)}
    ranker = Reranker(**settings).fit(vectors[:-20])
    ranker.add(vectors[-20:])
    same(ranker, Reranker(**settings).fit(vectors), vectors[::40] + 0.1)
    ranker.remove(np.arange(280, 300))
    same(ranker, Reranker(**settings).fit(vectors[:280]), vectors[::40] + 0.1)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"granularity": "objects"}, "granularity: expected one of 'instance', 'mixed', 'cat"),
        ({"granularity": 3}, "granularity: expected one of"),
        (
            {"granularity": "category", "affinity": Context((3, 6))},
            r"granularity: 'category' names the scales of affinity='context', but affinity=Cont",
        ),
        (
            {"granularity": "instance", "affinity": "cosine"},
            "granularity: 'instance' names the scales .* affinity='cosine' was given; expected 'mi",
        ),
        (
            {"granularity": "category", "affinity": "gaussian", "metric": "euclidean"},
            "granularity: 'category'",
        ),
        ({"k": 0}, "k: expected an integer of at least 1"),
    ],
)
def test_what_does_not_go_together_is_an_error(vectors, parameters, message):
    ranker = Reranker(**parameters)
    with pytest.raises(DiffusionError, match=message):
        ranker.fit(vectors)
    assert not hasattr(ranker, "graph_")
