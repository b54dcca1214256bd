"""How a saliency map and the boxes found on it agree with the true boxes of an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.networks.frame import Frame
from features.objects.egm import Regions
from features.objects.maps import coverage

# Overlap from which a box is right, as in PASCAL VOC.
RIGHT = 0.5


@dataclass(frozen=True)
class Place:
    """A saliency map (h, w), the frame of its cells, and the boxes found on it, in its cells."""

    saliency: NDArray[Any]
    frame: Frame
    boxes: Regions


@dataclass(frozen=True)
class Agreement:
    """What one image tells of a map and its boxes.

    Attributes
    ----------
    precision : float
        Share of the saliency that is inside the true boxes; 0 for a map of zeros.
    pointing : float
        1 if the centre of the cell with the largest value is inside a true box, otherwise 0; the
        mean over cells that share the largest value, and 0 for a map of zeros.
    best : bool
        Whether the heaviest box is right: it overlaps a true one by one half or more.
    right, found : int
        Boxes that are right, and all boxes.
    recalled, true : int
        True boxes that a box overlaps by one half or more, and all true boxes.
    """

    precision: float
    pointing: float
    best: bool
    right: int
    found: int
    recalled: int
    true: int


def agreement(place: Place, true: NDArray[np.float64]) -> Agreement:
    """Compare a map and its boxes with the true boxes (m, 4) in pixels."""
    cells = place.frame.to_cells(true)
    overlap = overlaps(place.boxes.boxes, cells) >= RIGHT
    return Agreement(
        precision(place.saliency, coverage(cells, place.saliency.shape, 1, 0)),
        pointing(place.saliency, cells),
        bool(overlap[:1].any()),
        int(overlap.any(axis=1).sum()),
        len(overlap),
        int(overlap.any(axis=0).sum()),
        len(true),
    )


def precision(saliency: NDArray[Any], inside: NDArray[np.float64]) -> float:
    """Return the share of the saliency that is inside the boxes; 0 for a map of zeros."""
    total = float(saliency.sum())
    return float((saliency * inside).sum()) / total if total > 0 else 0.0


def pointing(saliency: NDArray[Any], boxes: NDArray[np.float64]) -> float:
    """Return the share of the cells with the largest value whose centre is in a box (in cells)."""
    if not saliency.any():
        return 0.0
    y, x = np.nonzero(saliency == saliency.max())
    left, top, right, bottom = boxes.T
    inside = (x[:, None] + 0.5 >= left) & (x[:, None] + 0.5 < right)
    inside &= (y[:, None] + 0.5 >= top) & (y[:, None] + 0.5 < bottom)
    return float(inside.any(axis=1).mean())


def overlaps(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return intersection over union (k, m) of boxes (k, 4) and (m, 4)."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (first, second)]
    return shared / (areas[0][:, None] + areas[1][None] - shared)
