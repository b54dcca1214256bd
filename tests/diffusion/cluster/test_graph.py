from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from diffusion.cluster import graph
from diffusion.cluster.numbering import rows_of
from diffusion.cluster.shards import save
from diffusion.cluster.shuffle import records_of
from diffusion.graph import Graph
from tests.support.oracles import breadth_first_components, dense_graph, neighbor_lists

from .shards import numbered


def by_shards(folder, ids, weights, count):
    with numbered(folder, weights, ids, count) as (stages, final):
        stages.run("weighed", weighed)
        stages.run("edges", graph.mutual_edges, "weighed")
        return graph.make_graph(stages, final), stages.shards


def weighed(path, shards, p):
    ids, weights = (shards.array("lists", p, name) for name in ("ids", "scores"))
    sent = records_of(ids, weights, shards.bounds(p)[0], shards)
    return save(path, {"ids": ids, "weights": weights, **sent})


@settings(max_examples=8)
@given(neighbor_lists(), st.sampled_from([1, 7, 25]))
def test_equals_the_graph_of_one_process(tmp_path_factory, lists, count):
    ids, weights = lists
    n = len(ids)
    found, shards = by_shards(tmp_path_factory.mktemp("work"), ids, weights, count)
    expected = Graph.from_neighbors(ids, weights)
    np.testing.assert_array_equal(found.degrees, expected.degrees)
    np.testing.assert_array_equal(found.components, expected.components)
    names = ("starts", "stops", "indices", "weights", "order", "position", "degrees", "components")
    for name in names:
        assert getattr(found, name).dtype == getattr(expected, name).dtype
    sizes = ("n_edges", "n_components", "n_isolated")
    assert [getattr(found, name) for name in sizes] == [getattr(expected, name) for name in sizes]
    indptr = np.append(found.starts, len(found.indices))
    np.testing.assert_array_equal(found.stops, indptr[1:])
    stored = sparse.csr_array((found.weights, found.indices, indptr), shape=(n, n))
    assert stored.has_canonical_format
    np.testing.assert_array_equal(found.order[found.position], np.arange(n))
    W = stored.toarray()[found.position][:, found.position]
    np.testing.assert_array_equal(W, expected.W.toarray())
    # The nodes of a shard are stored together.
    for p in range(count):
        a, b = shards.bounds(p)
        assert sorted(found.order[a:b]) == sorted(rows_of(shards)[a:b])


@settings(max_examples=8)
@given(neighbor_lists(), st.sampled_from([2, 5]))
def test_components_are_those_of_a_plain_search(tmp_path_factory, lists, count):
    ids, weights = lists
    found = by_shards(tmp_path_factory.mktemp("work"), ids, weights, count)[0].components
    label = breadth_first_components(dense_graph(ids, weights)[0])
    assert len(set(zip(found.tolist(), label, strict=True))) == max(label) + 1
    assert (np.diff(np.bincount(found)) <= 0).all()


def test_a_chain_through_all_shards_is_one_component(tmp_path):
    n = 12
    ids = np.stack([np.arange(n) - 1, np.arange(1, n + 1)], axis=1).astype(np.int32)
    ids[-1, 1] = -1
    weights = (ids >= 0).astype(np.float32)
    ids[0], weights[0] = [1, -1], [1, 0]
    found, _ = by_shards(tmp_path, ids, weights, 12)
    assert not found.components.any()
    assert sorted(found.order) == list(range(n))
