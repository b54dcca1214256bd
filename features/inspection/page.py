"""The page of an inspection: a row per channel, with crops, activation map and occlusion map."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..pages import rendering

# Longer sides of the photos and of the crops on the page, and of the maps, in pixels.
_PHOTO, _CROP, _MAP = 480, 160, 160
# Crops up to this size are stored as they are; JPEG would blur what the unit sees.
_SMALL = 64
# Colours of active places, and of those whose cover makes the response weaker, and stronger.
_ACTIVE, _WEAKER, _STRONGER = (255, 210, 63), (214, 40, 40), (40, 110, 214)
_MOST_OPAQUE = 0.85

# What the page says of its pictures.
LEGEND = (
    "Crops are the receptive fields of the strongest units, one per photo, with their activation. "
    "Below is the photo of the first crop, with its receptive field in yellow; the same photo, "
    "yellow where the channel is active; and its occlusion map: red where a grey square over the "
    "place makes the response weaker, blue where it makes it stronger."
)


class Crop(NamedTuple):
    """A photo, the activation of its strongest unit, and the box (4,) of its receptive field."""

    caption: str
    value: float
    image: NDArray[np.uint8]
    box: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Shown:
    """What the page shows of a channel.

    Attributes
    ----------
    channel : int
    crops : list of Crop
        By descending activation; the maps are those of the first.
    activations : ndarray, shape (h', w')
    frame : tuple of float
        Left and top edge of the first cell, and width and height of a cell, in pixels.
    drops : ndarray, shape (r, s)
        The occlusion map.
    stride : int
        Distance of its places in pixels.
    """

    channel: int
    crops: list[Crop]
    activations: NDArray[np.float32]
    frame: tuple[float, float, float, float]
    drops: NDArray[np.float32]
    stride: int


def write_page(
    path: str | os.PathLike[str], title: str, paragraphs: Sequence[str], channels: Iterable[Shown]
) -> None:
    """Write a page of channels, which are consumed one at a time. It is complete or not written."""
    rendering.write(
        path,
        "features.inspection",
        "inspection.html",
        title=title,
        paragraphs=paragraphs,
        channels=map(_prepared, channels),
    )


def _prepared(shown: Shown) -> dict[str, Any]:
    """Return a channel as the template draws it."""
    best = shown.crops[0]
    height, width = best.image.shape[:2]
    rows, columns = shown.drops.shape
    active, step = _reduced(shown.activations)
    left, top, across, down = shown.frame
    extent = (left, top, across * step * active.shape[1], down * step * active.shape[0])
    return {
        "number": shown.channel,
        "crops": [
            {"caption": crop.caption, "value": f"{crop.value:.3g}", "address": _crop(crop)}
            for crop in shown.crops
        ],
        "caption": best.caption,
        "width": width,
        "height": height,
        "photo": rendering.photo_address(_thumbnail(best.image, _PHOTO)),
        "box": best.box.tolist(),
        "activations": rendering.data_address(_light(active)),
        "extent": dict(zip(("left", "top", "width", "height"), extent, strict=True)),
        "drops": rendering.data_address(_signed(shown.drops)),
        "across": columns * shown.stride,
        "down": rows * shown.stride,
        "drop": f"{float(shown.drops.max()):.3g}",
    }


def _crop(crop: Crop) -> str:
    """Return the address of the pixels in the box of a crop, of one pixel at least."""
    height, width = crop.image.shape[:2]
    left, top, right, bottom = crop.box.tolist()
    left, top = min(left, width - 1), min(top, height - 1)
    pixels = crop.image[top : max(bottom, top + 1), left : max(right, left + 1)]
    if max(pixels.shape) <= _SMALL:
        return rendering.data_address(np.ascontiguousarray(pixels))
    return rendering.photo_address(_thumbnail(pixels, _CROP))


def _thumbnail(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.thumbnail((side, side), Image.Resampling.BILINEAR)
    return np.asarray(image)


def _light(activations: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return yellow pixels (h, w, 4), the more opaque the larger a value above 0."""
    positive = np.maximum(activations, 0)
    return _coloured(np.array(_ACTIVE), positive / (float(positive.max()) or 1.0))


def _signed(drops: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return red pixels (h, w, 4) for positive values and blue ones for negative values."""
    level = drops / (float(np.abs(drops).max()) or 1.0)
    return _coloured(np.where(level[..., None] >= 0, _WEAKER, _STRONGER), np.abs(level))


def _coloured(colours: NDArray[Any], level: NDArray[Any]) -> NDArray[np.uint8]:
    """Return pixels (h, w, 4) of one colour or of one each, as opaque as levels in [0, 1] say."""
    opacity = np.round(255 * _MOST_OPAQUE * level)[..., None]
    return np.concatenate([np.broadcast_to(colours, (*level.shape, 3)), opacity], axis=2).astype(
        np.uint8
    )


def _reduced(activations: NDArray[np.float32]) -> tuple[NDArray[np.float32], int]:
    """Return the maxima of squares of cells, and their side, 1 unless there are many cells."""
    height, width = activations.shape
    step = -(-max(height, width) // _MAP)
    padded = np.pad(activations, ((0, -height % step), (0, -width % step)), mode="edge")
    blocks = padded.reshape(padded.shape[0] // step, step, padded.shape[1] // step, step)
    return blocks.max(axis=(1, 3)), step
