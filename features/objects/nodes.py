"""Nodes of the graph of a collection: what single photos contribute to object discovery.

A node is a place in a photo in which features are strong, with the largest activation of each
channel there as its descriptor. Nodes are dense, on a regular grid over the strong features, or, as
in the paper, the regions of a Gaussian mixture on feature saliency.

Source: Siméoni, Iscen, Tolias, Avrithis, Chum. Unsupervised (deep) object discovery for instance
recognition. WACV 2018 (regions).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..networks.frame import ImageActivations
from ..networks.pooling import region_maxima
from ..settings import DiscoverySettings
from .egm import EGM
from .maps import Map, as_activations, feature_saliency
from .patches import patch_maxima

# Distance between neighbouring dense nodes, in cells.
_STEP = 2

# Cells of the fine map that are kept of each photo, to learn the whitening of such cells.
_FINE_CELLS = 12


@dataclass(frozen=True, eq=False)
class ImageNodes:
    """The nodes of one photo.

    Attributes
    ----------
    cells : ndarray, shape (k, 4), int64
        Top, left, height and width on the coarse map of what each node describes: the patch around
        a dense node, clipped to the map, or a region.
    saliency : ndarray, shape (k,), float32
        f: feature saliency at the dense node, or its mean over the region.
    vectors : ndarray, shape (k, c), float32
        The largest activation of each channel in these cells.
    fine : ndarray, shape (m, c'), float32
        A fixed sample of at most 12 cells of the fine map; (0, 0) if there is none.
    """

    cells: NDArray[np.int64]
    saliency: NDArray[np.float32]
    vectors: NDArray[np.float32]
    fine: NDArray[np.float32]


def find_nodes(activations: Any, settings: DiscoverySettings) -> ImageNodes:
    """Find the nodes of a photo.

    Parameters
    ----------
    activations : ImageActivations, or array_like or torch.Tensor, shape (c, h, w), >= 0
    settings : DiscoverySettings
        `nodes`, `feature_threshold`, `patch` and `feature_egm` are used.

    Returns
    -------
    ImageNodes
        Without any node if no feature responds.

    Raises
    ------
    DiffusionError
        If the activations are not as described.
    """
    A, fine = split(activations)
    F = feature_saliency(A)
    find = _dense if settings.nodes == "dense" else _regions
    cells, saliency, vectors = find(A, F, settings)
    return ImageNodes(cells, saliency, vectors, _sampled(fine))


def split(activations: Any) -> tuple[Map, Map | None]:
    """Return the validated coarse map (c, h, w) of a photo, and the fine one if there is one."""
    if not isinstance(activations, ImageActivations):
        return as_activations(activations), None
    if activations.fine is None or activations.fine_frame is None:
        return as_activations(activations.maps), None
    return as_activations(activations.maps), as_activations(activations.fine, signed=True)


def _dense(
    A: Map, F: Map, settings: DiscoverySettings
) -> tuple[NDArray[np.int64], Map, NDArray[np.float32]]:
    """Return cells, saliency and vectors of every second position with strong features."""
    strong = (settings.feature_threshold * F.max() <= F) & (F > 0)
    grid = np.zeros_like(strong)
    grid[::_STEP, ::_STEP] = strong[::_STEP, ::_STEP]
    if not grid.any() and strong.any():  # all strong features lie between the grid's positions
        grid[np.unravel_index(F.argmax(), F.shape)] = True
    places = np.argwhere(grid)
    reach = settings.patch // 2
    low = np.maximum(places - reach, 0)
    high = np.minimum(places + reach + 1, F.shape)
    cells = np.concatenate([low, high - low], axis=1).astype(np.int64)
    if not len(places):
        return cells, np.empty(0, np.float32), np.empty((0, len(A)), np.float32)
    vectors = np.ascontiguousarray(patch_maxima(A, settings.patch)[:, grid].T)
    return cells, F[grid].astype(np.float32), vectors


def _regions(
    A: Map, F: Map, settings: DiscoverySettings
) -> tuple[NDArray[np.int64], Map, NDArray[np.float32]]:
    """Return cells, saliency and vectors of the regions of feature saliency."""
    regions = EGM(**asdict(settings.feature_egm)).regions(F)
    if not len(regions):
        nothing = np.empty((0, 4), np.int64), np.empty(0, np.float32)
        return *nothing, np.empty((0, len(A)), np.float32)
    cells = regions.cells()
    f = [F[top : top + h, left : left + w].mean() for top, left, h, w in cells.tolist()]
    vectors = region_maxima(torch.from_numpy(A)[None], cells)[0].numpy()
    return cells, np.array(f, np.float32), vectors


def _sampled(fine: Map | None) -> NDArray[np.float32]:
    """Return the vectors of a few cells of the fine map, which its shape alone determines."""
    if fine is None:
        return np.empty((0, 0), np.float32)
    _, height, width = fine.shape
    count = min(_FINE_CELLS, height * width)
    rng = np.random.default_rng([height, width])
    chosen = np.sort(rng.choice(height * width, count, replace=False))
    return np.ascontiguousarray(fine.reshape(len(fine), -1)[:, chosen].T)
