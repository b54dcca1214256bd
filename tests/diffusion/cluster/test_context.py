"""The arrays that an affinity is made of, against those of `Context.edges`."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion.affinity import Context
from diffusion.cluster import context
from diffusion.cluster.executors import open_executor
from diffusion.cluster.shards import Shards, save
from diffusion.cluster.stages import Stages
from tests.support.oracles import neighbor_lists


@pytest.fixture(autouse=True)
def _unsynced(monkeypatch):
    """Thousands of small files need not be durable here."""
    monkeypatch.setattr("diffusion.storage.results._sync", lambda path: None)
    monkeypatch.setattr("diffusion.cluster.shards.CHUNK", 7)


def by_shards(folder, scores, ids, affinity, count):
    """Return the arrays of an affinity, and the edges, made by shards."""
    n = len(ids)
    shards = Shards(str(folder), tuple(n * p // count for p in range(count + 1)))
    (folder / "lists").mkdir()
    for p in range(count):
        a, b = shards.bounds(p)
        save(shards.folder("lists", p), {"scores": scores[a:b], "ids": ids[a:b]})
    with open_executor("threads:1") as executor:
        whole, parts = context.make_edges(Stages(shards, executor, False), affinity)
    edges = parts | context.parts_of_stage(shards, "edges", ("ids", "weights"))
    arrays = {
        name: np.concatenate([part(p) for p in range(count)])
        for name, part in edges.items()
        if name != "ids"
    }
    lists = [shards.array("ranked", p, "ids") for p in range(count)]
    joined = [shards.array("edges", p, "ids") for p in range(count)]
    return {**whole, **arrays, "ids": np.concatenate(lists)}, np.concatenate(joined)


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
