"""Pictures of what a collection shows: an image, its saliency maps and their regions, side by side.

One file that needs no other, no script and no network; light and dark, wide and narrow. A map is
stored at its own few cells and smoothed by the browser, boxes are drawn by it, so that a row
weighs little more than its photo.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..networks.frame import Frame
from ..pages import rendering
from .discovery import ObjectDiscovery
from .egm import Regions
from .maps import Map, as_activations, feature_saliency

# What the page's text says of its boxes.
LEGEND = "Yellow boxes are regions, the brighter the heavier."

# Photos are shown at this longer side.
_SIDE = 360

# From cold to hot, evenly spaced: dark enough for light regions to stand out on. These are eight
# colours of matplotlib's inferno, which is not worth a dependency for them.
_HEAT = np.array(
    [[0, 0, 4], [40, 11, 84], [101, 21, 110], [159, 42, 99], [212, 72, 66], [245, 125, 21],
     [250, 193, 39], [252, 255, 164]], float
)  # fmt: skip


@dataclass(frozen=True)
class Picture:
    """An image with its feature saliency and object saliency.

    Attributes
    ----------
    caption : str
    image : ndarray, shape (h, w, 3), uint8
    frame : Frame
        Where the maps' cells lie in it.
    features, objects : ndarray, shape (h', w')
        The maps.
    feature_regions, object_regions : Regions
    truth : ndarray, shape (m, 4), optional
        True boxes in pixels, where they are known.
    """

    caption: str
    image: NDArray[np.uint8]
    frame: Frame
    features: Map
    feature_regions: Regions
    objects: Map
    object_regions: Regions
    truth: NDArray[np.float64] | None = None


def make_picture(
    caption: str,
    image: NDArray[np.uint8],
    activations: Any,
    frame: Frame,
    discovery: ObjectDiscovery,
    number: int | None = None,
    truth: NDArray[np.float64] | None = None,
) -> Picture:
    """Put an image's maps and regions beside it.

    Parameters
    ----------
    caption : str
    image : ndarray, shape (h, w, 3), uint8
    activations : array_like or torch.Tensor, shape (c, h', w'), >= 0
        Of this image, from the network that the discovery was fitted with.
    frame : Frame
        Where their cells lie in the image.
    discovery : ObjectDiscovery
        Fitted.
    number : int, optional
        Of the image in the collection, where it is in it.
    truth : ndarray, shape (m, 4), optional
        True boxes in pixels of the image: left, top, right, bottom.
    """
    A = as_activations(activations)
    features, objects = feature_saliency(A), discovery.saliency(A, number)
    return Picture(
        caption,
        image,
        frame,
        features,
        discovery.feature_egm.regions(features),
        objects,
        discovery.regions(objects),
        truth,
    )


def write_page(
    path: str | os.PathLike[str],
    title: str,
    paragraphs: Sequence[str],
    pictures: Iterable[Picture],
) -> None:
    """Write a page of pictures; the file appears whole or not at all.

    Parameters
    ----------
    path : path-like
    title : str
    paragraphs : sequence of str
        Plain text above the pictures.
    pictures : iterable of Picture
    """
    rendering.write(
        path,
        "features.objects",
        "objects.html",
        title=title,
        paragraphs=paragraphs,
        pictures=map(_prepared, pictures),
    )


class _Box(NamedTuple):
    """A rectangle in the pixels of its image."""

    left: float
    top: float
    right: float
    bottom: float
    opacity: float = 1.0


def _prepared(picture: Picture) -> dict[str, Any]:
    """Return what the template draws of a picture."""
    height, width = picture.image.shape[:2]
    photo = Image.fromarray(picture.image)
    photo.thumbnail((_SIDE, _SIDE), Image.Resampling.BILINEAR)
    return {
        "caption": picture.caption,
        "width": width,
        "height": height,
        "photo": np.asarray(photo),
        "truth": [] if picture.truth is None else [_Box(*box) for box in picture.truth],
        "maps": [
            {
                "name": name,
                "colours": _colours(saliency),
                "extent": _extent(saliency, picture.frame),
                "regions": _boxes(regions, picture.frame),
            }
            for name, saliency, regions in (
                ("feature saliency", picture.features, picture.feature_regions),
                ("object saliency", picture.objects, picture.object_regions),
            )
        ],
    }


def _extent(saliency: Map, frame: Frame) -> _Box:
    """Return the box around all cells of a map, which may reach out of the image."""
    return _Box(*frame.to_pixels(np.array([[0.0, 0.0, *saliency.shape[::-1]]]))[0])


def _colours(saliency: Map) -> NDArray[np.uint8]:
    """Show a map (h, w) as colours (h, w, 3), its largest value as the hottest."""
    level = np.asarray(saliency, float) / (float(np.max(saliency)) or 1.0)
    places = np.linspace(0, 1, len(_HEAT))
    channels = [np.interp(level, places, shades) for shades in _HEAT.T]
    return np.round(np.stack(channels, axis=-1)).astype(np.uint8)


def _boxes(regions: Regions, frame: Frame) -> list[_Box]:
    """Return the boxes of regions, fainter those of less weight; the heaviest last, on top."""
    if not len(regions):
        return []
    opacity = 0.35 + 0.65 * regions.weights / regions.weights.max()
    boxes = np.column_stack([frame.to_pixels(regions.boxes), opacity])
    return [_Box(*box) for box in reversed(boxes)]
