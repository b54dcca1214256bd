"""From a feature map to a descriptor: MAC, SPoC, CroW, GeM, R-MAC, neural codes.

Each pooling is a module that takes maps (b, c, h, w) and returns descriptors (b, d), not
normalised: `features.RetrievalNetwork` does so after it.
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

# Neighbouring regions of R-MAC overlap by as near to this share as whole numbers of them allow.
_OVERLAP = 0.4
# The most regions that the longer side is given at the coarsest scale.
_MOST = 7


class MAC(nn.Module):
    """Maximum activation of convolutions: the largest value of each channel.

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
    """Cross-dimensional weighting: a sum weighted by position, each channel weighted after.

    y_k = log(Σ_j a_j / a_k) Σ_p (S_p / ||S||_2)^½ x_kp, with S the sum of the map over its
    channels, negative sums counted as 0, and a_k the share of positions at which channel k is
    above zero. A channel that is zero everywhere stays zero.

    References
    ----------
    Kalantidis, Mellina, Osindero. Cross-dimensional Weighting for Aggregated Deep Convolutional
    Features. ECCV Workshops 2016.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """Pool maps (b, c, h, w) to (b, c)."""
        sums = check_maps(maps).sum(dim=1, keepdim=True).clamp(min=0)
        tiny = torch.finfo(maps.dtype).tiny
        # A root's derivative is infinite at 0; the clamp's is 0 there.
        norms = sums.square().sum(dim=(2, 3), keepdim=True).clamp(min=tiny).sqrt()
        places = (sums / norms).clamp(min=tiny).sqrt()
        weighted = (maps * places).sum(dim=(2, 3))
        shares = (maps > 0).to(maps.dtype).mean(dim=(2, 3))
        total = shares.sum(dim=1, keepdim=True)
        rarity = torch.where(shares > 0, (total / shares.clamp(min=tiny)).log(), 0)
        return weighted * rarity


class GeM(nn.Module):
    """Generalised mean: (mean over positions of max(x, ε)^p)^(1/p), between SPoC and MAC.

    Parameters
    ----------
    p : float > 0, default 3.0
    channels : int >= 1, optional
        A p for each of so many channels; without it one for all.
    learned : bool, default False
        p is a parameter that training moves; else it is stored with the weights alone.
    epsilon : float > 0, default 1e-6

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
        Scales L of the regions.

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
    """The activations of a fully connected layer of the network's own head.

    Parameters
    ----------
    head : torch.nn.Module
        Leads from the maps to the activations, as `Backbone.head(layer)` does.

    References
    ----------
    Babenko, Slesarev, Chigorin, Lempitsky. Neural Codes for Image Retrieval. ECCV 2014.
    """

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        # In a tuple, which hides it from torch: its parameters are the trunk's and stand there.
        self._head = (head,)

    def forward(self, maps: Tensor) -> Tensor:
        """Turn maps (b, c, h, w) into codes (b, d)."""
        return self._head[0](check_maps(maps)).flatten(1)


POOLINGS = {"mac": MAC, "spoc": SPoC, "crow": CroW, "gem": GeM, "rmac": RMAC}


def make_pooling(pooling: str | nn.Module, backbone: Backbone) -> nn.Module:
    """Return a pooling by name, one of `POOLINGS` or a layer of the trunk's `codes`."""
    if isinstance(pooling, nn.Module):
        return pooling
    name = check_choice(pooling, "pooling", (*POOLINGS, *backbone.codes))
    return NeuralCodes(backbone.head(name)) if name in backbone.codes else POOLINGS[name]()


def rmac_regions(height: int, width: int, *, levels: int = 3) -> NDArray[np.int64]:
    """Return the regions of R-MAC on a map: the whole, then squares at several scales.

    At scale l = 1, 2, ... the squares are floor(2 min(w, h) / (l + 1)) wide; l of them cover the
    shorter side and l + m the longer, evenly spaced, with m such that two that are neighbours at
    scale 1 overlap by as near to 40 % as possible.

    Parameters
    ----------
    height, width : int >= 1
        Of the map, in cells.
    levels : int >= 1, default 3

    Returns
    -------
    ndarray, shape (r, 4), int64
        Rows of (top, left, height, width). On a square map the first square is the whole again,
        as in the papers.

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
    """Spread `count` intervals of one length over a longer one, from end to end."""
    if count == 1:
        return [0]
    return [math.floor(i * (length - side) / (count - 1)) for i in range(count)]


def grid_regions(height: int, width: int, *, cells: int = 3) -> NDArray[np.int64]:
    """Return the whole of a map and its division into `cells` x `cells` parts.

    Parameters
    ----------
    height, width : int >= 1
        Of the map. A side shorter than `cells` is divided into as many parts as it has cells.
    cells : int >= 1, default 3

    Returns
    -------
    ndarray, shape (r, 4), int64
        Rows of (top, left, height, width), the whole first.
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
        If a region, (top, left, height, width), is empty or leaves the map.
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
    """Raise unless maps are (b, c, h, w), none of them 0, and floating point."""
    if maps.ndim != 4 or 0 in maps.shape or not maps.is_floating_point():
        raise DiffusionError(
            f"maps: expected floating-point shape (b, c, h, w), none of them 0, got {maps.dtype} "
            f"{tuple(maps.shape)}"
        )
    return maps
