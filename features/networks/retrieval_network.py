"""Networks that compute the descriptor of an image: a trunk, a pooling and a whitening."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffusion.validation import check_choice

from ..settings import check_scales
from .backbones import Backbone
from .pooling import POOLINGS, REGIONS, GeM, NeuralCodes, make_pooling, region_maxima

# The three image scales that multi-scale descriptors usually average.
MULTI_SCALE = (1.0, 1 / math.sqrt(2), 0.5)


class RetrievalNetwork(nn.Module):
    """A network that maps images to L2-normalised descriptors.

    The descriptor of an image x is y = normalise(pool(trunk(x))), or normalise(W y + b) if the
    network has a whitening.

    Parameters
    ----------
    backbone : Backbone
    pooling : str or torch.nn.Module, default "gem"
        "mac", "spoc", "crow", "gem" or "rmac"; the name of a fully connected layer of the trunk,
        such as "fc7"; or a module that takes maps (b, c, h, w) and returns descriptors (b, d).
    whiten : torch.nn.Linear, optional
        A whitening that is trained with the network. A whitening that
        `features.description.whitening` learns from descriptors is not part of the network.

    Attributes
    ----------
    backbone, pool, whiten
        The modules of the network.
    dimension : int
        Length of a descriptor.
    """

    def __init__(
        self,
        backbone: Backbone,
        pooling: str | nn.Module = "gem",
        whiten: nn.Linear | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.pool = make_pooling(pooling, backbone)
        self.whiten = whiten
        self.dimension = self._dimension()

    def _dimension(self) -> int:
        if self.whiten is not None:
            return self.whiten.out_features
        if isinstance(self.pool, tuple(POOLINGS.values())):
            return self.backbone.channels
        linear = [m for m in self._layers_of_codes() if isinstance(m, nn.Linear)]
        if linear:
            return linear[-1].out_features
        maps = torch.zeros(1, self.backbone.channels, 8, 8)
        with torch.no_grad():
            return int(self.pool(maps).shape[1])

    def _layers_of_codes(self) -> list[nn.Module]:
        return list(self.pool._head[0].modules()) if isinstance(self.pool, NeuralCodes) else []

    def forward(self, images: Tensor) -> Tensor:
        """Return unit descriptors (b, d) of images (b, 3, h, w), as `backbone.normalize` gives."""
        return self._finish(functional.normalize(self.pool(self.backbone(images))))

    def _finish(self, vectors: Tensor) -> Tensor:
        if self.whiten is None:
            return vectors
        return functional.normalize(self.whiten(vectors), dim=-1)

    def describe(self, images: Tensor, scales: Sequence[float] = (1.0,)) -> Tensor:
        """Return the descriptors of images, averaged over several scales.

        The images are resized to each scale, and the mean of the descriptors is normalised. For
        GeM without a whitening it is their generalised mean with the exponent of GeM.

        Parameters
        ----------
        images : Tensor, shape (b, 3, h, w), floating point
            As `backbone.normalize` returns them.
        scales : sequence of float > 0, default (1.0,)
            Factors of the image size. The sides are rounded to lengths that the trunk accepts.
            `MULTI_SCALE` holds the usual three scales.

        Returns
        -------
        Tensor, shape (b, dimension)
            Unit rows.
        """
        scales = check_scales(scales)
        if scales == (1.0,):
            return self(images)
        p: Any = self.pool.p if isinstance(self.pool, GeM) and self.whiten is None else 1.0
        total = sum(self(self.rescale(images, scale)).pow(p) for scale in scales)
        return functional.normalize((total / len(scales)).pow(1 / p))

    def describe_regions(
        self, images: Tensor, regions: str = "rmac", scales: Sequence[float] = (1.0,)
    ) -> tuple[Tensor, Tensor]:
        """Return descriptors of image regions, each the maximum over its part of the map.

        Parameters
        ----------
        images : Tensor, shape (b, 3, h, w), floating point
            As `backbone.normalize` returns them.
        regions : {"rmac", "grid"}, default "rmac"
            The regions of `rmac_regions` or `grid_regions`; the whole image comes first.
        scales : sequence of float > 0, default (1.0,)
            Factors of the image size. The regions are chosen on the map at the first scale, mapped
            to the same parts of the image at every scale, and their descriptors are averaged.

        Returns
        -------
        descriptors : Tensor, shape (b, r, dimension)
            Unit rows.
        boxes : Tensor, shape (r, 4)
            Each region as (top, left, bottom, right), relative to the image, in [0, 1].
        """
        find = REGIONS[check_choice(regions, "regions", tuple(REGIONS))]
        scales = check_scales(scales)
        boxes, total = None, None
        for scale in scales:
            maps = self.backbone(self.rescale(images, scale))
            size = torch.tensor(maps.shape[2:] * 2)
            if boxes is None:
                cells = torch.from_numpy(find(*maps.shape[2:]))
                boxes = torch.cat([cells[:, :2], cells[:, :2] + cells[:, 2:]], 1) / size
            # On the maps of other scales, a region covers every cell that it touches.
            start = (boxes[:, :2] * size[:2] + 1e-4).floor().long()
            end = (boxes[:, 2:] * size[:2] - 1e-4).ceil().long()
            cells = torch.cat([start, end - start], dim=1)
            maxima = functional.normalize(region_maxima(maps, cells.numpy()), dim=2)
            total = maxima if total is None else total + maxima
        assert boxes is not None
        assert total is not None
        return self._finish(functional.normalize(total, dim=2)), boxes

    def rescale(self, images: Tensor, scale: float) -> Tensor:
        """Resize images (b, 3, h, w) by a factor, to sides that the trunk accepts."""
        if scale == 1.0:
            return images
        size = [self.backbone.sides.nearest(side * scale) for side in images.shape[2:]]
        return functional.interpolate(images, size, mode="bilinear", align_corners=False)
