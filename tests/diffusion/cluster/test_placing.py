"""The division of items into shards."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from diffusion.cluster import placing
from diffusion.cluster.numbering import positions_of, rows_of

from .shards import numbered


def ring(n, k, rng):
    """Lists of the k / 2 items before and after each on a ring, whose rows are in random order."""
    row = rng.permutation(n)
    steps = np.concatenate([np.arange(1, k // 2 + 1), -np.arange(1, k // 2 + 1)])
    steps = steps[np.argsort(np.abs(steps), kind="stable")]
    ids = np.empty((n, k), np.int32)
    ids[row] = row[(np.arange(n)[:, None] + steps) % n]
    return np.tile(1 - np.abs(steps, dtype=np.float32) / n, (n, 1)), ids


@pytest.mark.parametrize("count", [1, 2, 7])
def test_shards_hold_neighbours(tmp_path, rng, count):
    n, k = 3000, 8
    scores, ids = ring(n, k, rng)
    with numbered(tmp_path, scores, ids, count) as (stages, _):
        shards = stages.shards
    rows, positions = rows_of(shards), positions_of(shards)
    np.testing.assert_array_equal(rows[positions], np.arange(n))
    inside = 0
    for p in range(count):
        a, b = shards.bounds(p)
        found = shards.array("lists", p, "ids")
        np.testing.assert_array_equal(rows[found], ids[rows[a:b]])
        np.testing.assert_array_equal(shards.array("lists", p, "scores"), scores[rows[a:b]])
        inside += np.count_nonzero((found >= a) & (found < b))
        assert 0.5 * n / count < b - a < 2 * n / count
    assert inside > 0.8 * n * k  # at random, it would be one in `count`


def test_items_that_no_seed_reaches_are_divided_by_row(tmp_path):
    n = 50
    ids, scores = np.full((n, 3), -1, np.int32), np.full((n, 3), -np.inf, np.float32)
    with numbered(tmp_path, scores, ids, 5) as (stages, _):
        lengths = np.diff(stages.shards.starts)
    assert lengths.sum() == n
    assert lengths.max() <= 20


def test_one_large_cell_is_divided(tmp_path):
    """All lists begin with the same item, so that all join its cell."""
    n = 400
    ids = np.tile(np.arange(3, dtype=np.int32), (n, 1))
    ids[:3] = [[1, 2, -1], [0, 2, -1], [0, 1, -1]]
    scores = np.where(ids < 0, -np.inf, 1).astype(np.float32)
    with numbered(tmp_path, scores, ids, 4) as (stages, _):
        assert np.diff(stages.shards.starts).max() <= 0.6 * n


def test_regions_follow_a_chain(rng):
    """Of cells on a chain, each region is a stretch, and begins where the one before ends."""
    c = 12
    name = rng.permutation(c)
    ends = np.stack([name[:-1], name[1:]])
    links = sparse.coo_array((np.ones(c - 1), ends), shape=(c, c)).tocsr()
    order = placing._grown((links + links.T).tocsr(), np.full(c, 10), 30)
    assert sorted(order) == list(range(c))
    place = np.argsort(name)[order]
    start = place[0]
    # From its first cell on, everything seen is one stretch of the chain, at any time.
    for seen in range(1, c + 1):
        assert np.ptp(place[:seen]) == seen - 1, (start, place)


def test_a_region_takes_what_is_most_linked_to_it():
    """Two groups of three cells, joined by one weak link."""
    dense = np.zeros((6, 6))
    for one, other, count in [(0, 2, 9), (2, 4, 9), (0, 4, 9), (1, 3, 9), (3, 5, 9), (1, 5, 9)]:
        dense[one, other] = dense[other, one] = count
    dense[4, 1] = dense[1, 4] = 1
    order = placing._grown(sparse.csr_array(dense), np.full(6, 1), 3)
    assert [sorted(order[:3]), sorted(order[3:])] == [[0, 2, 4], [1, 3, 5]]
