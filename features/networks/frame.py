"""Positions of feature map cells in the image, and maps without border artefacts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffusion.errors import DiffusionError
from diffusion.validation import check_integer

from .backbones.base import Backbone
from .parts import in_parts


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


@dataclass(frozen=True, eq=False)
class ImageActivations:
    """The activations of one image: of the last convolution, and of a stage with finer cells.

    Attributes
    ----------
    maps : ndarray, shape (c, h, w), float32
        Of the last convolution.
    frame : Frame
        Positions of their cells in the image.
    fine : ndarray, shape (c', h', w'), float32, or None
        Of the stage `Backbone.fine`, if the network has one.
    fine_frame : Frame or None
        Positions of its cells.
    """

    maps: NDArray[np.float32]
    frame: Frame
    fine: NDArray[np.float32] | None = None
    fine_frame: Frame | None = None


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
        return self._cut(in_parts(self.trunk, self._surrounded(images)), self.stride)

    def maps(self, images: Tensor, stages: Sequence[str]) -> dict[str, Tensor]:
        """Return the maps of several stages of a `Backbone`, computed in one pass.

        Parameters
        ----------
        images : Tensor, shape (b, 3, h, w)
            Normalised images.
        stages : sequence of str
            Their strides divide the width of the mirrored border, `margin` times `stride`.
        """
        trunk = self._backbone()

        def found(part: Tensor) -> tuple[Tensor, ...]:
            maps = trunk.maps(part, stages)
            return tuple(maps[stage] for stage in stages)

        whole = in_parts(found, self._surrounded(images))
        return {
            stage: self._cut(maps, trunk.stages[stage].stride)
            for stage, maps in zip(stages, whole, strict=True)
        }

    def activations(self, images: Tensor) -> list[ImageActivations]:
        """Return what a `Backbone` computes for normalised images (b, 3, h, w), image by image."""
        trunk, size = self._backbone(), tuple(images.shape[2:])
        maps = self.maps(images, [stage for stage in (trunk.fine, trunk.last) if stage is not None])
        arrays = {stage: part.float().cpu().contiguous().numpy() for stage, part in maps.items()}
        frames = {stage: self.frame(size, a.shape[2:], stage) for stage, a in arrays.items()}
        last = arrays[trunk.last], frames[trunk.last]
        if trunk.fine is None:
            return [ImageActivations(A, last[1]) for A in last[0]]
        fine = arrays[trunk.fine], frames[trunk.fine]
        return [
            ImageActivations(A, last[1], B, fine[1]) for A, B in zip(last[0], fine[0], strict=True)
        ]

    def frame(
        self, image: tuple[int, ...], cells: tuple[int, ...], stage: str | None = None
    ) -> Frame:
        """Return the frame of a map of (h', w') cells in an image of (h, w) pixels.

        `stage` names the stage of a `Backbone` whose map it is, by default the last one.
        """
        stride = self.stride if stage is None else self._backbone().stages[stage].stride
        offsets = [
            (side - stride * count) / 2 if self.centred else (1 - stride) / 2
            for side, count in zip(image, cells, strict=True)
        ]
        return Frame(stride, offsets[1], offsets[0])

    def _backbone(self) -> Backbone:
        if not isinstance(self.trunk, Backbone):
            raise DiffusionError("trunk: expected a Backbone, which has stages")
        return self.trunk

    def _surrounded(self, images: Tensor) -> Tensor:
        """Return images with their mirrored borders."""
        pad = self.margin * self.stride
        rows, columns = (mirrored(length, pad).to(images.device) for length in images.shape[2:])
        return images[:, :, rows][:, :, :, columns]

    def _cut(self, maps: Tensor, stride: int) -> Tensor:
        """Return maps whose cells are `stride` apart without those of the mirrored borders."""
        cut, rest = divmod(self.margin * self.stride, stride)
        height, width = maps.shape[2:]
        if rest or min(height, width) <= 2 * cut:
            raise DiffusionError(
                f"images: expected maps of more than {2 * cut} cells with a margin of {cut}, got "
                f"{height} x {width}; is the stride {stride}?"
            )
        return maps[:, :, cut : height - cut, cut : width - cut]


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
