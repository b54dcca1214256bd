"""Boxes around the salient parts of a map: Otsu's threshold and connected components."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .egm import Regions
from .maps import Map, as_saliency

# Components with less than this share of the heaviest one's mass are no objects.
_LEAST_SHARE = 0.1


def clipped(saliency: Any) -> Map:
    """Subtract Otsu's threshold t from a map: max(x - t, 0).

    t separates the values of the map into two classes x <= t and x > t with the largest variance
    between their means, exactly: it is one of the values, and the smallest one if several are
    equally good.

    Parameters
    ----------
    saliency : array_like, shape (h, w), >= 0

    Returns
    -------
    ndarray, shape (h, w), float32
        Zeros for a constant map.

    References
    ----------
    Otsu. A Threshold Selection Method from Gray-Level Histograms. IEEE Transactions on Systems,
    Man, and Cybernetics, 1979.
    """
    S = as_saliency(saliency)
    return np.maximum(S - _otsu(S.ravel()), 0).astype(np.float32)


def _otsu(values: NDArray[np.float64]) -> float:
    """Return Otsu's threshold, the largest value of the lower class."""
    x = np.sort(values)
    ends = np.flatnonzero(x[1:] > x[:-1])  # the last of each value but the largest
    if not len(ends):
        return float(x[-1])
    below, n = ends + 1.0, len(x)
    # Deviations from the mean, so that sums of large values that differ little stay exact.
    sums = np.cumsum(x - x.mean())[ends]
    between = sums**2 / (below * (n - below))
    return float(x[ends[np.argmax(between)]])


def find_boxes(saliency: Any) -> Regions:
    """Find the boxes of the objects of a map that is zero elsewhere, as `clipped` returns it.

    Each connected component of positive cells is an object (cells that share a corner are
    connected), and the smallest box that contains it its box. Its weight is its share of the mass
    of the map. Components with less than a tenth of the heaviest one's mass are left out.

    Parameters
    ----------
    saliency : array_like, shape (h, w), >= 0

    Returns
    -------
    Regions
        By descending weight; none for a map of zeros. The weights sum to 1.
    """
    S = as_saliency(saliency)
    labels, count = ndimage.label(S > 0, structure=np.ones((3, 3), bool))
    if not count:
        return Regions(np.empty((0, 4)), np.empty(0))
    mass = np.bincount(labels.ravel(), S.ravel(), count + 1)[1:]
    boxes = np.array(
        [[x.start, y.start, x.stop, y.stop] for y, x in ndimage.find_objects(labels)], np.float64
    )
    order = np.argsort(-mass, kind="stable")
    order = order[mass[order] >= _LEAST_SHARE * mass.max()]
    return Regions(boxes[order], mass[order] / mass[order].sum())
