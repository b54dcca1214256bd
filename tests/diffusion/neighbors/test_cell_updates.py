"""Cells of an inverted file after vectors come and go, and what a tuned index does then."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion import HNSW, IVF, Exact
from diffusion.change import Change
from diffusion.neighbors import Auto, NeighborIndex, auto, cells
from diffusion.neighbors.cell_updates import changed_cells, fits, places_of
from diffusion.neighbors.updates import changed_lists
from diffusion.validation import as_vectors


def clustered(rng, n, d=12, clusters=60):
    centers = rng.standard_normal((clusters, d))
    X = centers[rng.integers(clusters, size=n)] + 0.4 * rng.standard_normal((n, d))
    return as_vectors(X, "X", metric="cosine")


def recall_of(ids, vectors, k):
    rows = np.arange(0, len(vectors), 3)
    _, true = cells.nearest_others(vectors, rows, "cosine", k, False)
    pairs = zip(ids[rows], true, strict=True)
    return np.mean([len(set(own) & set(other)) / k for own, other in pairs])


def cell_of(index_cells, n):
    taken = index_cells.stops - index_cells.starts
    own = np.empty(n, int)
    places = np.concatenate(
        [np.arange(a, b) for a, b in zip(index_cells.starts, index_cells.stops, strict=True)]
    )
    own[index_cells.ids[places]] = np.repeat(np.arange(len(taken)), taken)
    return own


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.lists(st.integers(-150, 150), min_size=1, max_size=8))
def test_every_vector_is_in_one_cell_and_few_move(seed, steps):
    rng = np.random.default_rng(seed)
    vectors = clustered(rng, 400)
    now = cells.partition(vectors, 12, progress=False).cells(vectors)
    for step in steps:
        n, new = len(vectors), None
        own = cell_of(now, n)
        if step > 0:
            new = clustered(rng, step)
            change = Change.addition(n, step)
        else:
            change = Change.removal(n, rng.permutation(n)[: min(-step, n - 1)])
        kept = [array.copy() for array in now]
        after = changed_cells(now, change, new)
        for array, before in zip(now, kept, strict=True):
            np.testing.assert_array_equal(array, before)
        vectors = change.rows_of(vectors, new)
        n = len(vectors)
        np.testing.assert_array_equal(after.vectors[places_of(after, n)], vectors)
        assert (after.stops - after.starts).sum() == n
        # Rows overlap nowhere.
        order = np.lexsort((after.stops, after.starts))
        assert (after.starts[order][1:] >= after.stops[order][:-1]).all()
        assert len(after.vectors) <= 1.5 * n + 2 * len(after.starts)
        # Survivors stay in their cells, and added vectors go where a partition puts them.
        moved = cell_of(after, n)
        old = change.source >= 0
        np.testing.assert_array_equal(moved[old], own[change.source[old]])
        if new is not None:
            expected = cells.assigned(now.centroids, now.groups, now.means, new)
            np.testing.assert_array_equal(moved[~old], expected)
        elif len(after.vectors) == len(now.vectors):
            differ = (after.vectors != now.vectors).any(axis=1).sum()
            assert differ <= len(change.removed)
        now = after


def test_room_is_used_and_made_again(rng):
    vectors = clustered(rng, 3000)
    now = cells.partition(vectors, 40, progress=False).cells(vectors)
    first = changed_cells(now, Change.addition(3000, 1), vectors[:1])
    assert len(first.vectors) < 3000 + 400  # one cell has moved behind the others
    assert (first.vectors[:3000] == now.vectors).all()
    second = changed_cells(first, Change.addition(3001, 1), vectors[:1])
    assert len(second.vectors) == len(first.vectors)  # there was room
    assert (second.vectors != first.vectors).any(axis=1).sum() == 1


def test_cells_that_no_longer_fit_are_made_again(rng):
    X = clustered(rng, 9000)
    index = NeighborIndex(X[:1500], "cosine", IVF(nprobe=3))
    before = len(index.arrays()["ivf_centroids"])
    small = index.changed(Change.addition(1500, 300), X[1500:1800])
    assert len(small.arrays()["ivf_centroids"]) == before
    large = index.changed(Change.addition(1500, 7500), X[1500:])
    assert len(large.arrays()["ivf_centroids"]) > 2 * before
    # One cell gets everything.
    many = np.repeat(X[:1], 2000, axis=0)
    parts = cells.partition(X, 200, progress=False).cells(X)
    crowded = changed_cells(parts, Change.addition(9000, 2000), many)
    assert fits(parts, 200)
    assert not fits(crowded, 200)


@pytest.mark.parametrize("method", [IVF(nlist=60, nprobe=4), HNSW(m=16, ef_construction=40)])
@pytest.mark.parametrize("drift", [False, True])
def test_the_recall_of_a_runbook_is_that_of_a_rebuild(rng, method, drift):
    """Ten rounds of 2 % out and 2 % in, with new items from anywhere or from new regions."""
    n, k, rounds = 3000, 10, 10 if isinstance(method, IVF) else 3
    X = clustered(rng, n + rounds * 60, d=8)
    if drift:
        X = X[np.argsort(X[:, 0])]
    index = NeighborIndex(X[:n], "cosine", method)
    lists, vectors = index.neighbors(k), X[:n]
    for start in range(n, len(X), 60):
        for change, new in (
            (Change.removal(n, rng.permutation(n)[:60]), None),
            (Change.addition(n - 60, 60), X[start : start + 60]),
        ):
            index = index.changed(change, new)
            vectors = change.rows_of(vectors, new)
            *lists, _ = changed_lists(index, *lists, change, k)
    rebuilt = NeighborIndex(vectors, "cosine", method).neighbors(k)[1]
    assert recall_of(lists[1], vectors, k) >= recall_of(rebuilt, vectors, k) - 0.01


def test_auto_chooses_again(rng, monkeypatch):
    monkeypatch.setattr(auto, "exact_is_better", lambda n, d: n < 2500)
    X = clustered(rng, 12_000)
    index = NeighborIndex(X[:2400], "cosine", Auto(), k=10)
    assert index.method == Exact()
    grown = index.changed(Change.addition(2400, 200), X[2400:2600])
    assert isinstance(grown.method, IVF)
    assert 0.95 < grown.recall < 1
    more = grown.changed(Change.addition(2600, 100), X[2600:2700])
    assert more.method == grown.method
    much = grown.changed(Change.addition(2600, 9400), X[2600:])
    assert much.method.nlist > 1.4 * grown.method.nlist
    few = grown.changed(Change.removal(2600, np.arange(2000)))
    assert few.method == Exact()
    # A method that the user has chosen stays.
    chosen = NeighborIndex(X[:2400], "cosine", Exact())
    assert chosen.changed(Change.addition(2400, 200), X[2400:2600]).method == Exact()


def test_exact_search_is_not_reconsidered_at_every_change(monkeypatch):
    monkeypatch.setattr(auto, "exact_is_better", lambda n, d: n < 1000)
    assert not auto.outgrown(900, 990, 8)
    assert auto.outgrown(900, 1001, 8)
    assert not auto.outgrown(1030, 1500, 8)
    assert auto.outgrown(1500, 2100, 8)


def test_the_recall_after_a_change_is_that_of_old_and_new_items(rng, monkeypatch):
    monkeypatch.setattr(auto, "exact_is_better", lambda n, d: False)
    X = clustered(rng, 4000)
    index = NeighborIndex(X, "cosine", Auto(), k=10)
    # Items without structure, half as many.
    noise = as_vectors(rng.standard_normal((1200, 12)), "X", metric="cosine")
    changed = index.changed(Change.addition(4000, 1200), noise)
    vectors = np.concatenate([X, noise])
    reached = recall_of(changed.neighbors(10)[1], vectors, 10)
    assert abs(changed.recall - reached) < 0.03
    scores = np.array([[3, 2, 1], [3, 3, -np.inf]], np.float32)
    assert auto.share_found(np.array([[3, 1, 0], [3, 0, 0]], np.float32), scores) == pytest.approx(
        (2 / 3 + 1 / 2) / 2
    )
    # Below the target, settings are chosen again.
    assert Auto(0.9).missed(0.9, 0.85)
    assert not Auto(0.9).missed(0.85, 0.8)
    assert not Auto(0.9).missed(0.95, 0.895)
