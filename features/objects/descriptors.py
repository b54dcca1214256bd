"""One descriptor per image, from its salient regions or from its saliency map.

All descriptors are of length c, L2-normalised and not whitened: a whitening learned from the
collection is applied afterwards, as after R-MAC.

Source: Siméoni, Iscen, Tolias, Avrithis, Chum. Unsupervised (deep) object discovery for instance
recognition. WACV 2018 (OS.EGM and OS.EGM-Δ). The sum weighted by π and the map-weighted MAC are
not in the paper.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffusion.errors import DiffusionError
from diffusion.validation import check_choice

from ..networks.pooling import region_maxima, rmac_regions
from .egm import Regions
from .maps import Map, as_activations, as_saliency

# Number of scales of the uniform sampling inside a region.
_LEVELS = 2

SUMS = ("plain", "weighted")


def sum_of_regions(
    activations: Any, regions: Regions, *, weights: str = "plain", uniform: bool = False
) -> Map:
    """Sum the L2-normalised MACs of an image's regions: OS.EGM, FS.EGM, and OS.EGM-Δ.

    Parameters
    ----------
    activations : array_like or torch.Tensor, shape (c, h, w), >= 0
    regions : Regions
        Regions of one of its saliency maps. If there are none, the whole map is the only region.
    weights : {"plain", "weighted"}, default "plain"
        `"plain"` is the paper's sum. `"weighted"` multiplies each region by its π, so that minor
        regions count less than the main one.
    uniform : bool, default False
        Sample regions uniformly at two scales inside each region, as R-MAC does in the whole
        image. This is Δ in the paper.

    Returns
    -------
    ndarray, shape (c,), float32
    """
    A = as_activations(activations)
    check_choice(weights, "weights", SUMS)
    cells, shares = regions.cells(), regions.weights
    if not len(cells):
        cells, shares = np.array([[0, 0, *A.shape[1:]]]), np.ones(1)
    if weights == "plain":
        shares = np.ones(len(cells))
    if uniform:
        inside = [rmac_regions(h, w, levels=_LEVELS) for _, _, h, w in cells.tolist()]
        shares = np.repeat(shares, [len(part) for part in inside])
        cells = np.concatenate(
            [
                part + np.array([top, left, 0, 0])
                for part, (top, left, _, _) in zip(inside, cells, strict=True)
            ]
        )
    maxima = region_maxima(torch.from_numpy(A)[None], cells)[0].numpy()
    norms = np.linalg.norm(maxima, axis=1)
    scale = np.divide(shares, norms, out=np.zeros(len(norms)), where=norms > 0)
    return _normalized(scale @ maxima)


def weighted_mac(activations: Any, saliency: Any) -> Map:
    """Pool each channel by its largest value times saliency: max over p of S(p) A_k(p).

    Parameters
    ----------
    activations : array_like or torch.Tensor, shape (c, h, w), >= 0
    saliency : array_like, shape (h, w), >= 0
        If it is zero everywhere, the descriptor is MAC.

    Returns
    -------
    ndarray, shape (c,), float32
    """
    A, S = as_activations(activations), as_saliency(saliency)
    if S.shape != A.shape[1:]:
        raise DiffusionError(
            f"saliency: expected the shape of the map, {A.shape[1:]}, got {S.shape}"
        )
    weights = S / S.max() if S.any() else np.ones_like(S)
    return _normalized((A * weights.astype(np.float32)).max(axis=(1, 2)))


def _normalized(vector: NDArray[Any]) -> Map:
    norm = np.linalg.norm(vector)
    return (vector / norm if norm > 0 else vector).astype(np.float32)
