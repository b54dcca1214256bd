from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from diffusion.cluster import graph
from diffusion.cluster.shards import Shards, save
from diffusion.cluster.shuffle import records_of
from diffusion.graph import Graph
from tests.support.oracles import breadth_first_components, dense_graph, neighbor_lists


@pytest.fixture(autouse=True)
def _unsynced(monkeypatch):
    """Thousands of small files need not be durable here."""
    monkeypatch.setattr("diffusion.storage.results._sync", lambda path: None)


def by_shards(folder, ids, weights, count):
    n = len(ids)
    shards = Shards(str(folder), tuple(n * p // count for p in range(count + 1)))
    for stage in ("weighed", "edges", "nodes", "matrix", "components"):
        (folder / stage).mkdir()
    for p in range(count):
        a, b = shards.bounds(p)
        sent = records_of(ids[a:b], weights[a:b], a, shards)
        save(shards.folder("weighed", p), {"ids": ids[a:b], "weights": weights[a:b], **sent})
    for p in range(count):
        graph.mutual_edges(str(shards.folder("edges", p)), shards, p, "weighed")
    for task, stage in ((graph.nodes, "nodes"), (graph.matrix, "matrix")):
        for p in range(count):
            task(str(shards.folder(stage, p)), shards, p)
    graph.components(str(shards.folder("components", 0)), shards)
    parts = graph.graph_parts(shards).items()
    return {name: np.concatenate([part(p) for p in range(count)]) for name, part in parts}


@settings(max_examples=8)
@given(neighbor_lists(), st.sampled_from([1, 7, 25]))
def test_equals_the_graph_of_one_process(tmp_path_factory, lists, count):
    ids, weights = lists
    n = len(ids)
    found = by_shards(tmp_path_factory.mktemp("work"), ids, weights, count)
    expected = Graph.from_neighbors(ids, weights)
    np.testing.assert_array_equal(found["degrees"], expected.degrees)
    np.testing.assert_array_equal(found["components"], expected.components)
    for name, array in found.items():
        assert array.dtype == getattr(expected, name).dtype
    indptr = np.append(found["starts"], len(found["indices"]))
    np.testing.assert_array_equal(found["stops"], indptr[1:])
    stored = sparse.csr_array((found["weights"], found["indices"], indptr), shape=(n, n))
    assert stored.has_canonical_format
    position = found["position"]
    np.testing.assert_array_equal(found["order"][position], np.arange(n))
    W = stored.toarray()[position][:, position]
    np.testing.assert_array_equal(W, expected.W.toarray())
    # A shard is stored where its rows are.
    for p in range(count):
        a, b = n * p // count, n * (p + 1) // count
        assert sorted(found["order"][a:b]) == list(range(a, b))


@settings(max_examples=8)
@given(neighbor_lists(), st.sampled_from([2, 5]))
def test_components_are_those_of_a_plain_search(tmp_path_factory, lists, count):
    ids, weights = lists
    found = by_shards(tmp_path_factory.mktemp("work"), ids, weights, count)["components"]
    label = breadth_first_components(dense_graph(ids, weights)[0])
    assert len(set(zip(found.tolist(), label, strict=True))) == max(label) + 1
    assert (np.diff(np.bincount(found)) <= 0).all()


def test_a_chain_through_all_shards_is_one_component(tmp_path):
    n = 12
    ids = np.stack([np.arange(n) - 1, np.arange(1, n + 1)], axis=1).astype(np.int32)
    ids[-1, 1] = -1
    weights = (ids >= 0).astype(np.float32)
    ids[0], weights[0] = [1, -1], [1, 0]
    found = by_shards(tmp_path, ids, weights, 12)
    assert not found["components"].any()
    assert found["order"].tolist() == list(range(n))
