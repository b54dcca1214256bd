"""The pixels of a box, beside those that are found one by one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion import DiffusionError
from features.images.boxes import as_box, box_pixels

SIDES = st.floats(-20, 30) | st.integers(-5, 20)


@given(SIDES, SIDES, SIDES, SIDES)
def test_the_pixels_are_those_that_the_box_touches(left, top, right, bottom):
    height, width = 7, 12
    across = [x for x in range(width) if max(x, left) < min(x + 1, right)]
    down = [y for y in range(height) if max(y, top) < min(y + 1, bottom)]
    if across and down:
        expected = (across[0], down[0], across[-1] + 1, down[-1] + 1)
        assert box_pixels((left, top, right, bottom), (height, width)) == expected
    else:
        with pytest.raises(DiffusionError, match=r"^box: expected"):
            box_pixels((left, top, right, bottom), (height, width))


def test_arrays_are_boxes():
    assert box_pixels(np.array([1.5, 2, 3, 4.25], np.float32), (9, 9)) == (1, 2, 3, 5)


@pytest.mark.parametrize(
    "box",
    [(0, 0, 1), (0, 0, 1, 1, 1), "0123x", (0, 0, "a", 1), 5, (0, 0, None, 1), (0, 0, 10**400, 1)],
)
def test_what_is_not_four_numbers_is_refused(box):
    with pytest.raises(DiffusionError, match=r"^box: expected four numbers, left, top, right"):
        as_box(box)


@pytest.mark.parametrize(
    "box",
    [(3, 0, 3, 1), (3, 0, 2, 1), (0, 5, 1, 5), (0, 0, math.inf, 1), (math.nan, 0, 1, 1)],
)
def test_boxes_without_area_and_without_bounds_are_refused(box):
    with pytest.raises(
        DiffusionError, match=r"^box: expected finite left < right and top < bottom"
    ):
        as_box(box)
