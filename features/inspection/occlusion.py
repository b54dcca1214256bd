"""Occlusion maps: how much the response of a channel drops when a part of the image is covered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffusion.errors import DiffusionError
from diffusion.validation import check_integer, check_real

from .units import (
    BATCH_PIXELS,
    Network,
    as_image,
    check_channels,
    check_layer,
    maps_of,
    prepared,
    trunk_of,
)

# The side of the square is an eighth of the longer side of the image.
_PART = 8
# The most covered images that the network is given at once.
_BATCH = 64

# Takes maps (b, c, h, w) and returns a number for each image, shape (b,).
Score = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Occlusion:
    """How much the score of an image drops when a square covers each place of it.

    Attributes
    ----------
    drops : ndarray, shape (h', w'), float32
        Score of the image minus score of the covered image; negative where covering excites.
    score : float
        Score of the image.
    size, stride : int
        Side of the square, and distance between neighbouring places, in pixels.
    image : tuple of int
        Height and width of the image.
    """

    drops: NDArray[np.float32]
    score: float
    size: int
    stride: int
    image: tuple[int, int]

    def box(self, row: int, column: int) -> tuple[int, int, int, int]:
        """Return left, top, right and bottom of the pixels that a place of the map covers."""
        height, width = self.image
        left, top = (_start(place, self.size, self.stride) for place in (column, row))
        right, bottom = left + self.size, top + self.size
        return max(left, 0), max(top, 0), min(right, width), min(bottom, height)


def occlusion(
    network: Network,
    image: Any,
    score: int | Score,
    layer: str | None = None,
    *,
    size: int | None = None,
    stride: int | None = None,
    fill: float | Sequence[float] | None = None,
) -> Occlusion:
    """Measure how much a channel responds less when a grey square covers each place of an image.

    With x the image, x_ij the image with a square over place (i, j), and a(x) the score, the map is

        D[i, j] = a(x) - a(x_ij).

    The places tile the image: place (i, j) is the `stride` x `stride` pixels from (i, j) `stride`
    on, and the square is centred on it and clipped to the image.

    Parameters
    ----------
    network : Backbone or RetrievalNetwork
        In evaluation mode.
    image : array_like or Tensor, shape (h, w, 3), uint8
    score : int or callable
        The number of a channel, whose largest activation is the score; or a callable that takes the
        maps of the layer, a Tensor (b, c, h', w'), and returns the scores (b,). Zeiler and Fergus
        take the sum of the map: ``lambda maps: maps[:, channel].sum(dim=(1, 2))``.
    layer : str, optional
        A stage of the trunk; by default the last one.
    size : int >= 1, optional
        Side of the square in pixels; by default an eighth of the longer side of the image.
    stride : int from 1 to `size`, optional
        Distance between neighbouring places in pixels; by default half of `size`.
    fill : float or three float in [0, 255], optional
        Value or colour of the square; by default the mean colour of the network's training images.

    Returns
    -------
    Occlusion
        With a map of ceil(h / stride) x ceil(w / stride) places.

    Raises
    ------
    DiffusionError
        If an argument is not as described.

    Notes
    -----
    The network sees one image per place.

    References
    ----------
    Zeiler, Fergus. Visualizing and Understanding Convolutional Networks. ECCV 2014, section 4.2.
    """
    trunk = trunk_of(network)
    stage = check_layer(trunk, layer)
    scored = score if callable(score) else _largest(check_channels(trunk, stage, [score])[0])
    pixels = as_image(image)
    height, width = pixels.shape[:2]
    side = max(1, round(max(height, width) / _PART))
    side = side if size is None else check_integer(size, "size", low=1)
    step = max(1, side // 2) if stride is None else check_integer(stride, "stride", low=1)
    if step > side:
        raise DiffusionError(
            f"stride: expected at most the size {side}, so that every pixel is covered, got {step}"
        )
    ready = prepared(trunk, torch.tensor(pixels)[None])
    # Where the mean is the mean colour of the training images, it becomes 0.
    colour = torch.zeros(3, 1, 1) if fill is None else trunk.normalize(_colour(fill) / 255)
    colour = colour.to(ready)

    def scores_of(images: Tensor) -> NDArray[np.float32]:
        found = scored(maps_of(trunk, images, stage))
        if not isinstance(found, Tensor) or found.shape != (len(images),):
            raise DiffusionError(
                "score: expected a callable that returns a Tensor of one number for each image"
            )
        return found.float().cpu().numpy()

    whole = scores_of(ready)[0]
    rows, columns = -(-height // step), -(-width // step)
    drops = np.empty(rows * columns, np.float32)
    count = max(1, min(_BATCH, BATCH_PIXELS // (height * width)))
    for begin in range(0, len(drops), count):
        places = range(begin, min(begin + count, len(drops)))
        covered = ready.repeat(len(places), 1, 1, 1)
        for one, place in zip(covered, places, strict=True):
            top, left = (_start(p, side, step) for p in divmod(place, columns))
            one[:, max(top, 0) : top + side, max(left, 0) : left + side] = colour
        drops[places.start : places.stop] = whole - scores_of(covered)
    return Occlusion(drops.reshape(rows, columns), float(whole), side, step, (height, width))


def _start(place: int, size: int, stride: int) -> int:
    """Return the first pixel of a square along one axis, negative before it is clipped."""
    return place * stride - (size - stride) // 2


def _colour(fill: Any) -> Tensor:
    """Return a value or a colour in [0, 255] as a Tensor (3, 1, 1)."""
    values = fill if isinstance(fill, Sequence | np.ndarray) else [fill] * 3
    if len(values) != 3:
        raise DiffusionError(f"fill: expected a number or three, got {fill!r}")
    checked = [
        check_real(value, "fill", low=0.0, high=np.nextafter(255.0, 256.0)) for value in values
    ]
    return torch.tensor(checked).view(3, 1, 1)


def _largest(channel: int) -> Score:
    return lambda maps: maps[:, channel].amax(dim=(1, 2))
