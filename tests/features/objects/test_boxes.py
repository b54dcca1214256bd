"""Otsu's threshold against all thresholds, and boxes of drawn rectangles."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion import DiffusionError
from features.objects.boxes import clipped, find_boxes


def between(values, t):
    """Return the variance between the classes x <= t and x > t, in exact arithmetic."""
    low = [Fraction(x) for x in values if x <= t]
    high = [Fraction(x) for x in values if x > t]
    if not low or not high:
        return Fraction(0)
    gap = sum(high) / len(high) - sum(low) / len(low)
    return Fraction(len(low) * len(high), len(values) ** 2) * gap**2


@given(st.lists(st.integers(0, 30), min_size=1, max_size=40))
def test_threshold_is_the_best_of_all(values):
    best = max(between(values, t) for t in values)
    S = np.array(values, np.float64)[None]
    found = clipped(S)
    if best == 0:
        assert not found.any()
        return
    t = float((S - found)[found > 0][0])
    assert t in values
    np.testing.assert_array_equal(found, np.maximum(S - t, 0))
    assert between(values, t) == pytest.approx(best, rel=1e-9)


def test_the_smallest_of_equally_good_thresholds():
    np.testing.assert_array_equal(clipped([[0, 1, 2]]), [[0, 1, 2]])


def test_threshold_of_large_values_that_differ_little():
    np.testing.assert_array_equal(clipped([[1e9, 1e9 + 1, 1e9 + 8, 1e9 + 9]]), [[0, 0, 7, 8]])


def test_scale_of_the_map_does_not_matter():
    S = np.random.default_rng(0).random((8, 9)) ** 3
    small = clipped(2.0**-40 * S)
    assert small.dtype == np.float32
    np.testing.assert_allclose(small * 2.0**40, clipped(S), rtol=1e-5)


def test_boxes_of_rectangles():
    S = np.zeros((10, 14))
    S[1:4, 2:7] = 1  # 15 cells
    S[6:9, 9:14] = 2  # 15 cells of twice the value
    regions = find_boxes(S)
    assert regions.boxes.tolist() == [[9, 6, 14, 9], [2, 1, 7, 4]]
    np.testing.assert_allclose(regions.weights, [2 / 3, 1 / 3])
    assert regions.mixture is None
    assert regions.cells().tolist() == [[6, 9, 3, 5], [1, 2, 3, 5]]


def test_clipped_map_of_rectangles_keeps_their_boxes():
    S = np.full((12, 12), 0.1)
    S[3:8, 4:6] = 0.9
    assert find_boxes(clipped(S)).boxes.tolist() == [[4, 3, 6, 8]]


def test_objects_that_touch_are_split_at_the_saddle():
    S = np.zeros((5, 9))
    S[1:4, 1:8] = [5, 8, 10, 4, 9, 8, 6]
    # The saddle is 4: the lower peak, of 9, rises by 5, more than a tenth of 10.
    regions = find_boxes(S)
    assert len(regions) == 2
    assert regions.boxes[:, [1, 3]].tolist() == [[1, 4]] * 2
    assert sorted(regions.boxes[:, [0, 2]].tolist()) == [[1, 5], [5, 8]]
    S[1:4, 1:8] = [5, 8, 10, 8.2, 9, 8, 6]  # by 0.8 only
    assert find_boxes(S).boxes.tolist() == [[1, 1, 8, 4]]


def test_plateau_is_one_object():
    assert find_boxes(np.ones((6, 7))).boxes.tolist() == [[0, 0, 7, 6]]


@given(st.integers(0, 10**6), st.integers(1, 8), st.integers(1, 8))
def test_boxes_lie_in_the_map_by_descending_weight(seed, height, width):
    rng = np.random.default_rng(seed)
    S = np.maximum(rng.integers(0, 8, (height, width)) - 3, 0)
    regions = find_boxes(S)
    assert (len(regions) > 0) == S.any()
    if S.any():
        left, top, right, bottom = regions.boxes.T
        assert min(left.min(), top.min()) >= 0
        assert right.max() <= width
        assert bottom.max() <= height
        assert (np.diff(regions.weights) <= 0).all()
        assert regions.weights.sum() == pytest.approx(1)


def test_light_components_are_left_out():
    S = np.zeros((9, 9))
    S[1:5, 1:6] = 1  # 20 cells
    S[7, 7] = 1.9
    regions = find_boxes(S)
    assert regions.boxes.tolist() == [[1, 1, 6, 5]]
    assert regions.weights.tolist() == [1]
    S[7, 7] = 2
    np.testing.assert_allclose(find_boxes(S).weights, [20 / 22, 2 / 22])


def test_equal_components_keep_the_order_of_reading():
    S = np.zeros((5, 5))
    S[0, 4] = S[2, 2] = S[4, 0] = 1
    assert find_boxes(S).boxes[:, :2].tolist() == [[4, 0], [2, 2], [0, 4]]


def test_no_boxes():
    regions = find_boxes(np.zeros((4, 5)))
    assert len(regions) == 0
    assert regions.boxes.shape == (0, 4)
    assert regions.cells().shape == (0, 4)
    assert not clipped(np.zeros((4, 5))).any()
    assert not clipped(np.ones((4, 5))).any()


@pytest.mark.parametrize("function", [clipped, find_boxes])
@pytest.mark.parametrize("bad", [np.ones(3), -np.ones((2, 2)), [[np.nan]], "map"])
def test_bad_maps(function, bad):
    with pytest.raises(DiffusionError, match=r"^saliency: expected"):
        function(bad)
