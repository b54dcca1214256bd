"""Collections of tiles, against a brute-force search in the whole periodic box."""

from __future__ import annotations

import numpy as np
import pytest

from bench.cluster.permutation import Permutation
from bench.cluster.tiles import Tiles


def distances(x, y, sides):
    """Distances (m, n) between points of a periodic box."""
    apart = np.abs(x[:, None] - y[None])
    return np.sqrt((np.minimum(apart, sides - apart) ** 2).sum(axis=-1))


@pytest.fixture(scope="module")
def tiles():
    return Tiles(9000, k=10, points=1500)


def test_the_grid_holds_the_items(tiles):
    assert tiles.n == 9000
    assert sorted(tiles.grid) == [1, 1, 2, 3]
    assert Tiles(1_000_001).n == 1_004_000
    assert sorted(Tiles(1_000_000).grid) == [2, 5, 5, 5]


def test_lists_are_those_of_a_brute_force_search(tiles):
    scores, ids = tiles.lists(0, tiles.n)
    assert scores.dtype == np.float32
    assert ids.dtype == np.int32
    positions = tiles.positions(np.arange(tiles.n))
    chosen = np.random.default_rng(0).choice(tiles.n, 200, replace=False)
    found = distances(positions[chosen], positions, np.array(tiles.grid))
    found[np.arange(200), chosen] = np.inf
    np.testing.assert_array_equal(ids[chosen], np.argsort(found, axis=1)[:, :10])
    expected = np.exp(-(np.sort(found, axis=1)[:, :10] ** 2) / (2 * 0.15**2))
    np.testing.assert_allclose(scores[chosen], expected, rtol=1e-5)


def test_scores_are_symmetric_and_distinct(tiles):
    scores, ids = tiles.lists(0, tiles.n)
    assert (np.diff(scores, axis=1) < 0).all()
    assert 0 < scores.min() < scores.max() <= 1
    pairs = {}
    for i, (row, others) in enumerate(zip(scores.tolist(), ids.tolist(), strict=True)):
        pairs.update({(i, j): score for j, score in zip(others, row, strict=True)})
    mutual = [pair for pair in pairs if pair[::-1] in pairs]
    assert len(mutual) > len(pairs) / 2
    assert all(pairs[i, j] == pairs[j, i] for i, j in mutual)


def test_a_range_is_that_of_the_whole(tiles):
    whole, part = tiles.lists(0, tiles.n), tiles.lists(700, 950)
    for one, other in zip(whole, part, strict=True):
        np.testing.assert_array_equal(one[700:950], other)


def test_files_hold_the_lists(tiles, tmp_path, monkeypatch):
    monkeypatch.setattr("bench.cluster.tiles._ROWS", 1000)
    tiles.write(tmp_path, 7)
    assert len(list(tmp_path.iterdir())) == 14
    for name, array in zip(("scores", "ids"), tiles.lists(0, tiles.n), strict=True):
        files = sorted(tmp_path.glob(f"{name}_*.npy"))
        np.testing.assert_array_equal(np.concatenate([np.load(file) for file in files]), array)


def test_queries_are_near_their_items(tiles):
    rows = np.array([5, 17, 8999])
    _, ids = tiles.queries(rows, k=12, noise=0.0)
    _, lists = tiles.lists(0, tiles.n)
    np.testing.assert_array_equal(ids[:, 0], rows)
    np.testing.assert_array_equal(ids[:, 1:11], lists[rows])
    moved, _ = tiles.queries(rows, k=12)
    assert (moved[:, 0] < 1).all()
    assert (np.diff(moved, axis=1) <= 0).all()


def test_lists_that_reach_around_a_tile_are_refused():
    with pytest.raises(ValueError, match="at most a hundredth of 60 points"):
        Tiles(60, k=50, points=60).lists(0, 1)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 64, 1000, 4097])
def test_a_permutation_is_a_bijection(n):
    order = Permutation(n, seed=3)
    images = order(np.arange(n))
    np.testing.assert_array_equal(np.sort(images), np.arange(n))
    np.testing.assert_array_equal(order.inverse(images), np.arange(n))


def test_a_permutation_is_without_order():
    n = 100_000
    images = Permutation(n)(np.arange(n))
    assert abs(np.corrcoef(np.arange(n), images)[0, 1]) < 0.02
    # Neighbours of a random order are a third of its length apart on average.
    assert np.abs(np.diff(images)).mean() == pytest.approx(n / 3, rel=0.02)
