"""Boxes around the salient parts of a map: Otsu's threshold and connected components."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .egm import Regions
from .maps import Map, as_saliency

# Objects with less than this share of the heaviest one's mass are left out.
_LEAST_SHARE = 0.1
# Peaks of one component are two objects if each rises above the saddle between them by this share
# of the component's maximum.
_PROMINENCE = 0.1


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

    The positive cells are split into connected components (cells that share a corner are
    connected), and a component into the basins of its peaks: two peaks are two objects if both
    rise above the saddle between them by a tenth of the component's maximum or more. Each box is
    the smallest one that contains its object. Its weight is its share of the mass of the map.
    Objects with less than a tenth of the heaviest one's mass are left out.

    Parameters
    ----------
    saliency : array_like, shape (h, w), >= 0

    Returns
    -------
    Regions
        By descending weight; none for a map of zeros. The weights sum to 1.

    Notes
    -----
    Both shares were chosen on composed photos with one and with three objects. With three objects
    a photo, the split raised the share of heaviest boxes with an overlap of .5 or more from .48 to
    .64, and the share of objects found from .22 to .34; with one, the former stayed at .85.

    References
    ----------
    Chazal, Guibas, Oudot, Skraba. Persistence-Based Clustering in Riemannian Manifolds. Journal of
    the ACM, 2013.
    """
    S = as_saliency(saliency)
    labels, count = _basins(S)
    if not count:
        return Regions(np.empty((0, 4)), np.empty(0))
    mass = np.bincount(labels.ravel(), S.ravel(), count + 1)[1:]
    boxes = np.array(
        [[x.start, y.start, x.stop, y.stop] for y, x in ndimage.find_objects(labels)], np.float64
    )
    order = np.argsort(-mass, kind="stable")
    order = order[mass[order] >= _LEAST_SHARE * mass.max()]
    return Regions(boxes[order], mass[order] / mass[order].sum())


def _basins(S: NDArray[np.float64]) -> tuple[NDArray[np.int64], int]:
    """Label the positive cells by the prominent peak whose basin they belong to, from 1 on."""
    components, count = ndimage.label(S > 0, structure=np.ones((3, 3), bool))
    if not count:
        return components, 0
    top = ndimage.maximum(S, components, np.arange(1, count + 1))
    wide = S.shape[1] + 2
    # With a border of zeros, neighbours are at fixed distances.
    values = np.pad(S, 1).ravel()
    least = np.pad(np.concatenate([[0], _PROMINENCE * top])[components], 1).ravel().tolist()
    order = np.argsort(-values, kind="stable")[: np.count_nonzero(values)].tolist()
    near = [dy * wide + dx for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx]
    height = values.tolist()
    parent = [-1] * len(height)  # leads to the peak of a cell; -1 for cells not yet reached

    def peak_of(cell: int) -> int:
        while parent[cell] != cell:
            parent[cell] = parent[parent[cell]]
            cell = parent[cell]
        return cell

    # In descending order, a cell joins the basin of its highest neighbour. Where basins meet, those
    # of peaks that rise too little above the cell are joined to the one of the highest peak.
    for cell in order:
        around = [cell + step for step in near if parent[cell + step] >= 0]
        if not around:
            parent[cell] = cell
            continue
        parent[cell] = peak_of(max(around, key=height.__getitem__))
        peaks = {peak_of(other) for other in around}
        highest = max(peaks, key=lambda peak: (height[peak], -peak))
        for peak in peaks:
            if peak != highest and height[peak] - height[cell] < least[cell]:
                parent[peak] = highest
    roots = np.full(len(height), -1)
    roots[order] = [peak_of(cell) for cell in order]
    inside = roots.reshape(-1, wide)[1:-1, 1:-1]
    found, labels = np.unique(inside, return_inverse=True)
    outside = int(found[0] < 0)
    return labels.reshape(S.shape).astype(np.int64) + (1 - outside), len(found) - outside
