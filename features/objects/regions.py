"""Salient regions of one image, with their descriptors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..networks.pooling import region_maxima
from .egm import EGM
from .maps import as_activations, feature_saliency


@dataclass(frozen=True, eq=False)
class ImageRegions:
    """The regions of one image, by descending weight.

    Attributes
    ----------
    cells : ndarray, shape (k, 4), int64
        Top, left, height and width on the map.
    weights : ndarray, shape (k,), float64
        π of the mixture's components.
    saliency : ndarray, shape (k,), float32
        Mean feature saliency in the region, f in the paper.
    vectors : ndarray, shape (k, c), float32
        The largest activation of each channel in the region.
    """

    cells: NDArray[np.int64]
    weights: NDArray[np.float64]
    saliency: NDArray[np.float32]
    vectors: NDArray[np.float32]


def find_regions(activations: Any, egm: EGM) -> ImageRegions:
    """Find the regions of an image in which features are strong.

    Parameters
    ----------
    activations : array_like or torch.Tensor, shape (c, h, w), >= 0
    egm : EGM
        Settings for the feature saliency map.

    Returns
    -------
    ImageRegions
    """
    A = as_activations(activations)
    F = feature_saliency(A)
    regions = egm.regions(F)
    if not len(regions):
        return ImageRegions(
            np.empty((0, 4), np.int64),
            np.empty(0),
            np.empty(0, np.float32),
            np.empty((0, len(A)), np.float32),
        )
    cells = regions.cells()
    f = [F[top : top + h, left : left + w].mean() for top, left, h, w in cells.tolist()]
    vectors = region_maxima(torch.from_numpy(A)[None], cells)[0].numpy()
    return ImageRegions(cells, regions.weights, np.array(f, np.float32), vectors)
