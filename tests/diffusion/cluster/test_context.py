"""The arrays that an affinity is made of, against those of `Context.edges`."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion.affinity import Context
from diffusion.cluster import context
from diffusion.cluster.final import Source
from tests.support.oracles import neighbor_lists

from .shards import numbered


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr("diffusion.cluster.shards.CHUNK", 7)


def by_shards(folder, scores, ids, affinity, count):
    """Return the arrays of an affinity, and the edges by row, made by shards."""
    with numbered(folder, scores, ids, count) as (stages, final):
        arrays = context.make_edges(stages, affinity, final)
        weights = {"weights": Source("edges", "weights")}
        final.by_row({"edge_ids": Source("edges", "ids", items=True), **weights})
    written = {name.removeprefix("affinity_"): final.array(name) for name in final.names()}
    joined = written.pop("edge_ids")
    return {**arrays, **written}, joined


def check(folder, scores, ids, affinity, count):
    found, joined = by_shards(folder, scores, ids, affinity, count)
    expected_ids, weights = affinity.edges(scores, ids)
    expected = affinity.arrays()
    np.testing.assert_array_equal(joined, expected_ids)
    np.testing.assert_array_equal(found.pop("weights"), weights)
    assert found.keys() == expected.keys()
    ragged = {"starts", "stops", "holders", "holders_high"}
    for name in expected:
        assert found[name].dtype == expected[name].dtype, name
        if name not in ragged:
            np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    for i in range(len(ids)):  # the items of an inverted list are in no order
        one, other = (
            sorted(
                zip(
                    arrays["holders_high"][arrays["starts"][i] : arrays["stops"][i]].tolist(),
                    arrays["holders"][arrays["starts"][i] : arrays["stops"][i]].tolist(),
                    strict=True,
                )
            )
            for arrays in (found, expected)
        )
        assert one == other


def sorted_lists(lists):
    """Turn weights into scores: in descending order with ties, padded with -inf."""
    ids, weights = lists
    padded = ids < 0
    scores = np.where(padded, -np.inf, np.round(weights, 1)).astype(np.float32)
    order = np.argsort(-scores, axis=1, kind="stable")
    take = (np.take_along_axis(array, order, axis=1) for array in (scores, ids))
    return tuple(map(np.ascontiguousarray, take))


@settings(max_examples=6)
@given(
    neighbor_lists(),
    st.sampled_from([1, 2, 7]),
    st.sampled_from([Context(), Context((1, 2), 3, scaling=0.0), Context((2,), 4)]),
)
def test_any_lists(tmp_path_factory, lists, count, affinity):
    scores, ids = sorted_lists(lists)
    affinity = Context(affinity.scales, affinity.size, scaling=affinity.scaling)
    check(tmp_path_factory.mktemp("work"), scores, ids, affinity, count)


@pytest.mark.parametrize(
    "affinity", [Context(), Context((3, 6, 12), 20, scaling=0.0), Context(tuple(range(1, 20)))]
)
def test_longer_lists(tmp_path, rng, affinity):
    """Lists of a random graph, which refer to all shards, with many equal scores."""
    n, k = 90, 30
    ids = np.stack([rng.choice(np.delete(np.arange(n), i), k, replace=False) for i in range(n)])
    scores = -np.sort(-np.round(rng.random((n, k)), 1), axis=1).astype(np.float32)
    check(tmp_path, scores, ids.astype(np.int32), affinity, 4)


def test_spare_entries(tmp_path, rng):
    n, k = 70, 12
    ids = np.full((n, k), -1, np.int32)
    for i, row in enumerate(ids):
        count = rng.integers(0, k + 1)
        row[:count] = rng.choice(np.delete(np.arange(n), i), count, replace=False)
    scores = np.where(ids < 0, -np.inf, -np.arange(k)).astype(np.float32)
    check(tmp_path, scores, ids, Context((2, 4)), 3)
