"""Boxes in photos: the part of a photo that a query is about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from diffusion.errors import DiffusionError

# Left, top, right, bottom in pixels of the upright photo.
Box: TypeAlias = Sequence[float] | NDArray[np.floating]


def as_box(box: Box) -> tuple[float, float, float, float]:
    """Return a box as four numbers.

    Raises
    ------
    DiffusionError
        Unless it is four finite numbers, left, top, right and bottom, with left < right and
        top < bottom.
    """
    try:
        left, top, right, bottom = (float(side) for side in box)
    except (TypeError, ValueError, OverflowError):
        raise DiffusionError(
            f"box: expected four numbers, left, top, right and bottom, got {box!r}"
        ) from None
    sides = (left, top, right, bottom)
    if not np.isfinite(sides).all() or left >= right or top >= bottom:
        raise DiffusionError(
            "box: expected finite left < right and top < bottom, got left, top, right, bottom = "
            f"{_shown(sides)}"
        )
    return sides


def box_pixels(box: Box, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the pixels of a photo that a box touches; what lies outside the photo is cut off.

    Parameters
    ----------
    box : sequence of float
        Left, top, right, bottom in pixels of the upright photo.
    size : tuple of int
        Height and width of the upright photo.

    Returns
    -------
    left, top, right, bottom : int
        0 <= left < right <= width and 0 <= top < bottom <= height.

    Raises
    ------
    DiffusionError
        If it is no box, or lies outside the photo.
    """
    sides, (height, width) = as_box(box), size
    left, top = max(sides[0], 0.0), max(sides[1], 0.0)
    right, bottom = min(sides[2], float(width)), min(sides[3], float(height))
    if left >= right or top >= bottom:
        raise DiffusionError(
            f"box: expected a part of the photo, which is {width} pixels wide and {height} high, "
            f"got left, top, right, bottom = {_shown(sides)}"
        )
    return int(left), int(top), int(np.ceil(right)), int(np.ceil(bottom))


def _shown(sides: tuple[float, ...]) -> str:
    return ", ".join(f"{side:g}" for side in sides)
