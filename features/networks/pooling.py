"""Pooling of feature maps into descriptors: MAC, SPoC, CroW, GeM, R-MAC and neural codes.

Each pooling is a module that takes maps (b, c, h, w) and returns descriptors (b, d), which are not
normalised; `features.RetrievalNetwork` normalises them.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from diffusion.errors import DiffusionError
from diffusion.validation import check_choice, check_integer, check_real

from .backbones.base import Backbone

# The overlap that neighbouring R-MAC regions approximate, as a share of their width.
_OVERLAP = 0.4
# The most regions along the longer side at the coarsest scale.
_MOST = 7


class MAC(nn.Module):
    """Maximum activations of convolutions: the largest value of each channel.

    References
    ----------
    Tolias, Sicre, Jégou. Particular Object Retrieval with Integral Max-Pooling of CNN
    Activations. ICLR 2016.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """Pool maps (b, c, h, w) to (b, c)."""
        return check_maps(maps).amax(dim=(2, 3))


class SPoC(nn.Module):
    """Sum-pooled convolutional features: the mean of each channel.

    References
    ----------
    Babenko, Lempitsky. Aggregating Deep Convolutional Features for Image Retrieval. ICCV 2015.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """Pool maps (b, c, h, w) to (b, c)."""
        return check_maps(maps).mean(dim=(2, 3))


class CroW(nn.Module):
    """Cross-dimensional weighting: a sum weighted by position and by channel.

    y_k = log(Σ_j a_j / a_k) Σ_p (S_p / ||S||_2)^½ x_kp, where S is the sum of the map over its
    channels, with negative sums set to 0, and a_k is the share of positions at which channel k is
    positive. The output of a channel that is zero everywhere is 0.

    References
    ----------
    Kalantidis, Mellina, Osindero. Cross-dimensional Weighting for Aggregated Deep Convolutional
    Features. ECCV Workshops 2016.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """Pool maps (b, c, h, w) to (b, c)."""
        sums = check_maps(maps).sum(dim=1, keepdim=True).clamp(min=0)
        tiny = torch.finfo(maps.dtype).tiny
        # The derivative of the root is infinite at 0; that of the clamp is 0 there.
        norms = sums.square().sum(dim=(2, 3), keepdim=True).clamp(min=tiny).sqrt()
        places = (sums / norms).clamp(min=tiny).sqrt()
        weighted = (maps * places).sum(dim=(2, 3))
        shares = (maps > 0).to(maps.dtype).mean(dim=(2, 3))
        total = shares.sum(dim=1, keepdim=True)
        rarity = torch.where(shares > 0, (total / shares.clamp(min=tiny)).log(), 0)
        return weighted * rarity


class GeM(nn.Module):
    """Generalised mean (mean over positions of max(x, ε)^p)^(1/p): SPoC for p = 1, MAC for p = ∞.

    Parameters
    ----------
    p : float > 0, default 3.0
    channels : int >= 1, optional
        Number of channels, each with an exponent of its own; by default all share one exponent.
    learned : bool, default False
        Whether training updates p. Otherwise p is only stored with the weights.
    epsilon : float > 0, default 1e-6
        Lower bound of the activations.

    References
    ----------
    Radenović, Tolias, Chum. Fine-tuning CNN Image Retrieval with No Human Annotation. TPAMI 2018.
    """

    def __init__(
        self,
        p: float = 3.0,
        *,
        channels: int | None = None,
        learned: bool = False,
        epsilon: float = 1e-6,
    ) -> None:
        super().__init__()
        p = check_real(p, "p", low=0.0, strict=True)
        self.epsilon = check_real(epsilon, "epsilon", low=0.0, strict=True)
        count = 1 if channels is None else check_integer(channels, "channels", low=1)
        self.p = nn.Parameter(torch.full((count,), p), requires_grad=bool(learned))

    def forward(self, maps: Tensor) -> Tensor:
        """Pool maps (b, c, h, w) to (b, c)."""
        p = self.p.view(1, -1, 1, 1)
        means = check_maps(maps).clamp(min=self.epsilon).pow(p).mean(dim=(2, 3))
        return means.pow(1 / self.p)


class RMAC(nn.Module):
    """Regional MAC: the sum of the L2-normalised MACs of `rmac_regions`.

    Parameters
    ----------
    levels : int >= 1, default 3
        Number of scales of the regions.

    References
    ----------
    Tolias, Sicre, Jégou. Particular Object Retrieval with Integral Max-Pooling of CNN
    Activations. ICLR 2016.
    """

    def __init__(self, levels: int = 3) -> None:
        super().__init__()
        self.levels = check_integer(levels, "levels", low=1)

    def forward(self, maps: Tensor) -> Tensor:
        """Pool maps (b, c, h, w) to (b, c)."""
        regions = rmac_regions(*check_maps(maps).shape[2:], levels=self.levels)
        return functional.normalize(region_maxima(maps, regions), dim=2).sum(dim=1)


class NeuralCodes(nn.Module):
    """Neural codes: the activations of a fully connected layer of the network's head.

    Parameters
    ----------
    head : torch.nn.Module
        Module that computes the activations from the maps, such as `Backbone.head(layer)`.

    References
    ----------
    Babenko, Slesarev, Chigorin, Lempitsky. Neural Codes for Image Retrieval. ECCV 2014.
    """

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        # The tuple hides the module from torch, since its parameters already belong to the trunk.
        self._head = (head,)

    def forward(self, maps: Tensor) -> Tensor:
        """Compute the codes (b, d) of maps (b, c, h, w)."""
        return self._head[0](check_maps(maps)).flatten(1)


POOLINGS = {"mac": MAC, "spoc": SPoC, "crow": CroW, "gem": GeM, "rmac": RMAC}


def make_pooling(pooling: str | nn.Module, backbone: Backbone) -> nn.Module:
    """Return the pooling of a name: one of `POOLINGS`, or a layer in the `codes` of the trunk."""
    if isinstance(pooling, nn.Module):
        return pooling
    name = check_choice(pooling, "pooling", (*POOLINGS, *backbone.codes))
    return NeuralCodes(backbone.head(name)) if name in backbone.codes else POOLINGS[name]()


def rmac_regions(height: int, width: int, *, levels: int = 3) -> NDArray[np.int64]:
    """Return the regions of R-MAC on a map: the whole map, then squares at several scales.

    At scale l = 1, 2, ... the squares are floor(2 min(w, h) / (l + 1)) wide. Evenly spaced, l of
    them cover the shorter side and l + m the longer side, where m is chosen so that the overlap of
    neighbouring squares at scale 1 is as close to 40 % as possible.

    Parameters
    ----------
    height, width : int >= 1
        Size of the map in cells.
    levels : int >= 1, default 3
        Number of scales.

    Returns
    -------
    ndarray, shape (r, 4), int64
        Rows of (top, left, height, width). On a square map the first square is the whole map a
        second time, as in the paper.

    Examples
    --------
    >>> rmac_regions(4, 4, levels=1).tolist()
    [[0, 0, 4, 4], [0, 0, 4, 4]]
    """
    height = check_integer(height, "height", low=1)
    width = check_integer(width, "width", low=1)
    levels = check_integer(levels, "levels", low=1)
    short, long = sorted((height, width))
    more = 0
    if long > short:
        gaps = [(long - short) / (count - 1) for count in range(2, _MOST + 1)]
        more = 1 + int(np.argmin([abs(1 - gap / short - _OVERLAP) for gap in gaps]))
    regions = [(0, 0, height, width)]
    for level in range(1, levels + 1):
        side = 2 * short // (level + 1)
        if side == 0:
            break
        down = _starts(height, side, level + (more if height > width else 0))
        across = _starts(width, side, level + (more if width > height else 0))
        regions += [(top, left, side, side) for top in down for left in across]
    return np.array(regions, dtype=np.int64)


def _starts(length: int, side: int, count: int) -> list[int]:
    """Return the starts of `count` intervals of length `side`, spread evenly over `length`."""
    if count == 1:
        return [0]
    return [math.floor(i * (length - side) / (count - 1)) for i in range(count)]


def grid_regions(height: int, width: int, *, cells: int = 3) -> NDArray[np.int64]:
    """Return the whole map and the parts of a `cells` x `cells` grid on it.

    Parameters
    ----------
    height, width : int >= 1
        Size of the map in cells. A side shorter than `cells` is divided into single cells.
    cells : int >= 1, default 3
        Number of parts along each side.

    Returns
    -------
    ndarray, shape (r, 4), int64
        Rows of (top, left, height, width), the whole map first.
    """
    height = check_integer(height, "height", low=1)
    width = check_integer(width, "width", low=1)
    cells = check_integer(cells, "cells", low=1)
    down, across = (
        [i * length // min(cells, length) for i in range(min(cells, length) + 1)]
        for length in (height, width)
    )
    parts = [
        (top, left, bottom - top, right - left)
        for top, bottom in pairwise(down)
        for left, right in pairwise(across)
    ]
    return np.array([(0, 0, height, width), *parts], dtype=np.int64)


REGIONS: dict[str, Any] = {"rmac": rmac_regions, "grid": grid_regions}


def region_maxima(maps: Tensor, regions: NDArray[np.int64]) -> Tensor:
    """Return the MAC of each region, shape (b, r, c), of maps (b, c, h, w).

    Raises
    ------
    DiffusionError
        If a region, given as (top, left, height, width), is empty or not inside the map.
    """
    height, width = check_maps(maps).shape[2:]
    regions = np.asarray(regions)
    inside = regions.ndim == 2 and regions.shape[1] == 4 and len(regions) > 0
    if inside:
        start, size = regions[:, :2], regions[:, 2:]
        inside = bool(((start >= 0) & (size > 0) & (start + size <= [height, width])).all())
    if not inside:
        raise DiffusionError(
            f"regions: expected rows of (top, left, height, width) inside a map of {height} x "
            f"{width} cells"
        )
    return torch.stack(
        [
            maps[:, :, top : top + high, left : left + wide].amax(dim=(2, 3))
            for top, left, high, wide in regions.tolist()
        ],
        dim=1,
    )


def check_maps(maps: Tensor) -> Tensor:
    """Raise unless maps are floating point, of shape (b, c, h, w), with no dimension of 0."""
    if maps.ndim != 4 or 0 in maps.shape or not maps.is_floating_point():
        raise DiffusionError(
            f"maps: expected floating point of shape (b, c, h, w), none of them 0, got "
            f"{maps.dtype} {tuple(maps.shape)}"
        )
    return maps
