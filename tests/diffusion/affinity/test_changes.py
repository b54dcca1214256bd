"""Affinities and graphs of changed collections against those that are made from nothing."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import diffusion
from diffusion import Context, DiffusionError
from diffusion.affinity import GaussianAffinity, PowerAffinity
from diffusion.change import Ages, Change
from diffusion.graph import Graph
from diffusion.kernels.threads import using_cores


def lists_of(X, k, metric="cosine"):
    scores, ids = diffusion.nearest_neighbors(X, k, metric=metric)
    return scores, ids.astype(np.int32)


def vectors(rng, kinds, n, coarse):
    """Clusters; where coarse, of integers, with many equal scores, duplicates and zeros."""
    X = kinds[rng.integers(len(kinds), size=n)] + 0.3 * rng.standard_normal((n, kinds.shape[1]))
    return (np.round(X) if coarse else X).astype(np.float32)


def step(rng, X, kinds, coarse):
    """Return a change of a few items, nearly all of one cluster or of any, and the new vectors."""
    n = len(X)
    few = int(rng.integers(1, max(2, n // 8)))
    if rng.random() < 0.5 or n < 2:
        alike = kinds[rng.integers(len(kinds))][None] if rng.random() < 0.7 else kinds
        return Change.addition(n, few), np.concatenate([X, vectors(rng, alike, few, coarse)])
    distances = np.linalg.norm(X - X[rng.integers(n)], axis=1)
    near = np.argsort(distances, kind="stable") if rng.random() < 0.7 else rng.permutation(n)
    change = Change.removal(n, near[: min(few, n - 1)])
    return change, X[change.source]


def dirty_rows(change, old, new):
    """Mark the items whose lists have changed other than by numbers."""
    dirty = np.ones(change.after, bool)
    for row, source in enumerate(change.source):
        if source >= 0:
            listed = [change.target[j] if j >= 0 else -1 for j in old[1][source]]
            dirty[row] = listed != new[1][row].tolist() or (old[0][source] != new[0][row]).any()
    return dirty


def inverted(arrays):
    items = arrays["holders_high"].astype(np.int64) << 16 | arrays["holders"] >> 16
    entries = np.stack([items, arrays["holders"] & 0xFFFF], axis=1)
    rows = zip(arrays["starts"], arrays["stops"], strict=True)
    return [sorted(entries[start:stop].tolist()) for start, stop in rows]


def check_affinity(found, expected):
    found, expected = found.arrays(), expected.arrays()
    assert found.keys() == expected.keys()
    if "holders" in found:
        assert inverted(found) == inverted(expected)
    for name in found.keys() - {"starts", "stops", "holders", "holders_high"}:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
        assert found[name].dtype == expected[name].dtype


def check_graph(found, expected):
    for name in ("indptr", "indices", "data"):
        np.testing.assert_array_equal(getattr(found.W, name), getattr(expected.W, name))
    np.testing.assert_array_equal(found.degrees, expected.degrees)
    np.testing.assert_array_equal(found.component_sizes, expected.component_sizes)
    pairs = set(zip(found.components.tolist(), expected.components.tolist(), strict=True))
    assert len(pairs) == found.n_components == expected.n_components
    assert (found.n_edges, found.n_isolated) == (expected.n_edges, expected.n_isolated)
    n = found.n_nodes
    assert (found.order[found.position] == np.arange(n)).all()
    for start, stop in zip(found.starts, found.stops, strict=True):
        assert (np.diff(found.indices[start:stop]) > 0).all()  # columns ascend


def check_touched(touched, change, old, new):
    """Compare with the dense rows of the old graph, moved."""
    stayed = change.source >= 0
    source = change.source[stayed]
    old, new = old.W.toarray(), new.W.toarray()
    W = np.zeros_like(new)
    W[np.ix_(stayed, stayed)] = old[np.ix_(source, source)]
    differs = (new != W).any(axis=1) | ~stayed
    differs[stayed] |= old[:, change.removed].any(axis=1)[source]
    assert (touched == differs).all()


def ages_of(affinity, change, later=()):
    """Return ages as before, but those of the items `later` (after,) are those of the next."""
    before = np.arange(change.before, dtype=np.int32) if affinity.ages is None else affinity.ages
    after = change.ages_of(before)
    aged = np.array(sorted(later, key=after.__getitem__), int)
    after[aged] = np.append(after[aged[1:]], after.max() + 1)[: len(aged)]
    return Ages(before, after)


def check_steps(affinity, seed, k, n, coarse, steps, metric="cosine"):
    """Return how many steps have not computed everything."""
    rng = np.random.default_rng(seed)
    kinds = rng.standard_normal((max(1, n // 12), 3)) * 3
    X = vectors(rng, kinds, n, coarse)
    graph = Graph.from_neighbors(*affinity.edges(*lists_of(X, k, metric)))
    parts = 0
    for _ in range(steps):
        change, X = step(rng, X, kinds, coarse)
        new = lists_of(X, k, metric)
        old = affinity.neighbor_lists()
        width = old[1].shape[1]
        dirty = dirty_rows(change, old, (new[0][:, :width], new[1][:, :width]))
        before = copy.deepcopy((affinity.arrays(), graph.W, graph.order, graph.degrees))

        kept = np.flatnonzero(change.source >= 0)
        ages = ages_of(affinity, change, rng.permutation(kept)[: rng.integers(4)])
        changed, edges = affinity.changed(*new, dirty, change, ages)
        changed_graph, touched = graph.changed(change, edges)
        fresh = copy.copy(changed)  # with the same ages
        check_graph(changed_graph, Graph.from_neighbors(*fresh.edges(*new)))
        check_affinity(changed, fresh)
        if edges.rows is None:
            assert touched.all()
        else:
            check_touched(touched, change, graph, changed_graph)
            parts += 1

        for name, array in affinity.arrays().items():
            np.testing.assert_array_equal(array, before[0][name])
        assert (before[1] != graph.W).nnz == 0
        assert (graph.order == before[2]).all()
        assert (graph.degrees == before[3]).all()
        affinity, graph = changed, changed_graph
    return parts


def test_equal_sums_are_ordered_by_age():
    """The rows of items do not matter: as in a fit of the items in the order of their ages."""
    rng = np.random.default_rng(0)
    X = vectors(rng, rng.standard_normal((10, 3)) * 3, 300, False)
    change = Change.removal(300, rng.permutation(300)[:40])
    affinity = Context((2, 4, 8), 12)
    affinity.edges(*lists_of(X, 8))
    left = lists_of(X[change.source], 8)
    ages = ages_of(affinity, change)
    moved, edges = affinity.changed(*left, np.ones(260, bool), change, ages)
    by_age = np.argsort(change.source)
    fresh = Context((2, 4, 8), 12)
    expected = Graph.from_neighbors(*fresh.edges(*lists_of(X[np.sort(change.source)], 8)))
    found = Graph.from_neighbors(edges.ids, edges.weights)
    assert (found.W[by_age][:, by_age] != expected.W).nnz == 0
    # The same ties by row give another graph.
    by_row = Graph.from_neighbors(*Context((2, 4, 8), 12).edges(*left))
    assert (by_row.W[by_age][:, by_age] != expected.W).nnz > 0
    restored = Context((2, 4, 8), 12)
    restored.restore(moved.arrays(), 260)
    assert (restored.arrays()["ages"] == moved.arrays()["ages"]).all()


seeds = st.integers(0, 2**32 - 1)
lengths = st.integers(1, 14)
sizes = st.integers(2, 150)


@settings(max_examples=60, deadline=None)
@given(
    seeds,
    lengths,
    sizes,
    st.booleans(),
    st.lists(st.integers(1, 20), min_size=1, max_size=4),
    st.sampled_from([3, 12, 50]),
    st.sampled_from([0.5, 1.0]),
    st.sampled_from([0.0, 0.3, 0.9]),
)
@example(260389044, 2, 94, False, [7], 3, 1.0, 0.0)  # nothing is left of any list
def test_contextual(seed, k, n, coarse, scales, size, most, scaling):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffusion.affinity.context._MOST_CHANGED", most)
        check_steps(Context(scales, size, scaling=scaling), seed, k, n, coarse, 3)


@pytest.mark.parametrize("coarse", [False, True])
def test_contextual_with_the_default_scales(coarse, monkeypatch):
    monkeypatch.setattr("diffusion.affinity.context._MOST_CHANGED", 1.0)
    assert check_steps(Context(), 3, 50, 400, coarse, 4) == 4


def test_a_local_change_computes_a_part():
    assert check_steps(Context((3, 6)), 5, 6, 400, False, 5) >= 3


@settings(max_examples=60, deadline=None)
@given(seeds, lengths, sizes, st.booleans(), st.sampled_from(["cosine", "inner_product"]))
def test_powers(seed, k, n, coarse, metric):
    affinity = PowerAffinity(3.0, bounded=metric == "cosine")
    check_steps(affinity, seed, k, n, coarse, 3, metric)


@settings(max_examples=20, deadline=None)
@given(seeds, lengths, sizes, st.booleans())
def test_gaussians(seed, k, n, coarse):
    check_steps(GaussianAffinity(3.0), seed, k, n, coarse, 3, "euclidean")


def test_powers_of_a_bounded_similarity_are_weighed_in_part():
    assert check_steps(PowerAffinity(3.0), 1, 5, 150, False, 4) == 4


def test_the_result_does_not_depend_on_the_number_of_threads():
    for cores in (1, 4):
        with using_cores(cores):
            assert check_steps(Context((3, 6)), 5, 6, 3000, False, 1) == 1


def read_only(arrays):
    for array in arrays.values():
        array.flags.writeable = False
    return arrays


@pytest.mark.parametrize("affinity", [Context((3, 6)), PowerAffinity(3.0)])
def test_a_restored_affinity_and_graph_can_be_changed(affinity):
    rng = np.random.default_rng(2)
    kinds = 5 * rng.standard_normal((20, 4))
    X = np.repeat(kinds, 10, axis=0) + rng.standard_normal((200, 4))
    change = Change.removal(200, np.arange(50, 60))
    lists, new = lists_of(X, 6), lists_of(X[change.source], 6)
    graph = Graph.from_neighbors(*affinity.edges(*lists))
    restored = copy.copy(affinity)
    restored.restore(read_only(copy.deepcopy(affinity.arrays())), 200)
    stored = {name: value for name, value in vars(graph).items() if isinstance(value, np.ndarray)}
    mapped = dataclasses.replace(graph, **read_only(copy.deepcopy(stored)))
    dirty, ages = dirty_rows(change, lists, new), ages_of(affinity, change)
    changed, edges = restored.changed(*new, dirty, change, ages)
    assert edges.rows is not None
    fresh = copy.copy(changed)  # with the same ages
    expected = Graph.from_neighbors(*fresh.edges(*new))
    check_graph(mapped.changed(change, edges)[0], expected)
    check_affinity(changed, fresh)


@pytest.mark.parametrize("affinity", [Context((3, 6), scaling=0), PowerAffinity(3.0)])
def test_without_lists_everything_is_made_anew(affinity):
    X = np.random.default_rng(0).standard_normal((40, 3))
    lists = lists_of(X, 6)
    affinity.edges(*lists)
    kept = ("scores", "similar", "overlaps", *(() if affinity.depth else ("ids",)))
    earlier = {name: array for name, array in affinity.arrays().items() if name not in kept}
    restored = copy.copy(affinity)
    restored.restore(earlier, 40)
    assert restored.neighbor_lists() is None
    assert restored.arrays().keys() == earlier.keys()
    change = Change.addition(40, 0)
    ages = ages_of(affinity, change)
    changed, edges = restored.changed(*lists, np.zeros(40, bool), change, ages)
    assert edges.rows is None
    check_affinity(changed, affinity)


@pytest.mark.parametrize(
    ("affinity", "name", "value"),
    [
        (Context((3, 6)), "similar", 40),
        (Context((3, 6)), "similar", -2),
        (Context((3, 6)), "scores", np.nan),
        (Context((3, 6)), "ids", 40),
        (Context((3, 6)), "order", 6),
        (PowerAffinity(3.0), "ids", 40),
        (PowerAffinity(3.0), "scores", np.inf),
    ],
)
def test_forged_lists_are_found_when_they_are_used(affinity, name, value):
    affinity.edges(*lists_of(np.random.default_rng(0).standard_normal((40, 3)), 6))
    arrays = copy.deepcopy(affinity.arrays())
    arrays[name][7, 2] = value
    affinity.restore(arrays, 40)
    with pytest.raises(DiffusionError, match=f"altered, {name}: expected"):
        affinity.neighbor_lists()


@pytest.mark.parametrize("affinity", [Context((3, 6)), PowerAffinity(3.0)])
def test_lists_of_another_width_make_everything_anew(affinity):
    X = np.random.default_rng(0).standard_normal((40, 3)).astype(np.float32)
    affinity.edges(*lists_of(X[:30], 4))
    new = lists_of(X, 5)
    change = Change.addition(30, 10)
    ages = ages_of(affinity, change)
    changed, edges = affinity.changed(*new, np.ones(40, bool), change, ages)
    assert edges.rows is None
    expected = copy.copy(affinity)
    for found, wanted in zip(edges[:2], expected.edges(*new), strict=True):
        np.testing.assert_array_equal(found, wanted)
    check_affinity(changed, expected)


def test_ages_that_are_counted_anew_make_everything_anew():
    X = np.random.default_rng(0).standard_normal((200, 3)).astype(np.float32)
    affinity, change = Context((3, 6)), Change.removal(200, np.array([7]))
    affinity.edges(*lists_of(X, 6))
    new, dirty = lists_of(X[change.source], 6), np.zeros(199, bool)
    ages = ages_of(affinity, change)
    assert affinity.changed(*new, dirty, change, ages)[1].rows is not None
    anew = ages._replace(after=np.argsort(np.argsort(ages.after)).astype(np.int32))
    again, edges = affinity.changed(*new, dirty, change, anew)
    assert edges.rows is None
    assert (again.ages == anew.after).all()


def test_overlaps_give_the_similarity_back():
    # Different overlaps are different similarities in float32, so that ranks by both are the same.
    overlaps = np.arange(65536)
    assert len(np.unique((overlaps / (2 * 65535.0 - overlaps)).astype(np.float32))) == 65536
