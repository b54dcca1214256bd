"""Positions of feature map cells in the image, and maps without border artefacts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffusion.errors import DiffusionError
from diffusion.validation import check_integer

from .backbones.base import Backbone


@dataclass(frozen=True)
class Frame:
    """The grid of a feature map in the pixels of its image.

    Cell p covers the pixels [offset + stride p, offset + stride (p + 1)).

    Attributes
    ----------
    stride : float
        Distance between neighbouring cells in pixels.
    offset_x, offset_y : float
        Pixel at which the first cell begins, negative if the cell extends beyond the image.
    """

    stride: float
    offset_x: float
    offset_y: float

    def to_pixels(self, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
        """Convert boxes (k, 4), each left, top, right, bottom, from cells to pixels."""
        shift = np.array([self.offset_x, self.offset_y] * 2)
        return np.asarray(boxes, np.float64) * self.stride + shift

    def to_cells(self, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
        """Convert boxes (k, 4), each left, top, right, bottom, from pixels to cells."""
        shift = np.array([self.offset_x, self.offset_y] * 2)
        return (np.asarray(boxes, np.float64) - shift) / self.stride


class FramedTrunk:
    """A trunk that pads images by reflection, so that its maps have no border artefacts.

    The zero padding of convolutions leaves the same pattern along the border of every image, and
    object discovery would find that pattern as the most frequent object. This class extends the
    image by its mirror image for `margin` cells on each side and crops the map to the cells of the
    image. The cost grows by the factor (1 + 2 margin / cells)², 2.2 for 17 x 17 cells. With half
    the margin the factor is 1.5, but the two outermost cells of MobileNetV2, the corners above all,
    keep the pattern, which then has the highest centrality on smooth backgrounds.

    Parameters
    ----------
    trunk : callable
        A `Backbone` or any callable that takes images, a Tensor (b, 3, h, w), and returns maps
        (b, c, h', w').
    stride : int >= 1, optional
        Distance between neighbouring cells in pixels; by default the `stride` of the trunk.
    margin : int >= 0, default 4
        Width of the mirrored border in cells.
    centred : bool, optional
        True if the cells are spread evenly over the image, as with pooling windows that do not
        overlap; False if the first cell is centred on the first pixel, as with a chain of odd
        kernels with symmetric padding. Both are the same for sides of k stride + 1 pixels. By
        default False for trunks whose name contains "resnet", True for all others.
    """

    def __init__(
        self,
        trunk: Callable[[Tensor], Tensor],
        stride: int | None = None,
        *,
        margin: int = 4,
        centred: bool | None = None,
    ) -> None:
        if stride is None:
            if not isinstance(trunk, Backbone):
                raise DiffusionError(
                    "stride: expected an integer, since the trunk is not a Backbone"
                )
            stride = trunk.stride
        self.trunk = trunk
        self.stride = check_integer(stride, "stride", low=1)
        self.margin = check_integer(margin, "margin", low=0)
        self.centred = "resnet" not in getattr(trunk, "name", "") if centred is None else centred

    def __call__(self, images: Tensor) -> Tensor:
        """Return the maps (b, c, h', w') of normalised images (b, 3, h, w)."""
        pad, cut = self.margin * self.stride, self.margin
        rows, columns = (mirrored(length, pad).to(images.device) for length in images.shape[2:])
        maps = self.trunk(images[:, :, rows][:, :, :, columns])
        height, width = maps.shape[2:]
        if min(height, width) <= 2 * cut:
            raise DiffusionError(
                f"images: expected maps of more than {2 * cut} cells with a margin of {cut}, got "
                f"{height} x {width}; is the stride {self.stride}?"
            )
        return maps[:, :, cut : height - cut, cut : width - cut]

    def frame(self, image: tuple[int, ...], cells: tuple[int, ...]) -> Frame:
        """Return the frame of a map of (h', w') cells in an image of (h, w) pixels."""
        offsets = [
            (side - self.stride * count) / 2 if self.centred else (1 - self.stride) / 2
            for side, count in zip(image, cells, strict=True)
        ]
        return Frame(self.stride, offsets[1], offsets[0])


def mirrored(length: int, pad: int) -> Tensor:
    """Return the indices 0 to length - 1, extended by reflection by `pad` on both sides.

    Examples
    --------
    >>> mirrored(3, 4).tolist()
    [0, 1, 2, 1, 0, 1, 2, 1, 0, 1, 2]
    """
    period = max(1, 2 * (length - 1))
    position = torch.arange(-pad, length + pad) % period
    return torch.minimum(position, period - position)
