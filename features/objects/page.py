"""Pages of pictures: each row shows an image, its saliency maps and their regions side by side.

A page is one file that loads nothing else. Maps are stored with one pixel per cell and enlarged by
the browser, which also draws the boxes, so that a row needs little more space than its photo.
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

# A sentence for the page's text that explains the boxes.
LEGEND = "Yellow boxes are regions; brighter boxes have a larger weight."

# Longer side of the photos on the page, in pixels.
_SIDE = 360

# Evenly spaced colours for values from 0 to the largest. They are eight of matplotlib's inferno; a
# dependency on it would serve nothing else here.
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
        Position of the maps' cells in the image.
    features, objects : ndarray, shape (h', w')
        Feature saliency and object saliency.
    feature_regions, object_regions : Regions
    truth : ndarray, shape (m, 4), optional
        True boxes in pixels (left, top, right, bottom), if they are known.
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
    """Make the picture of an image from its activations.

    Parameters
    ----------
    caption : str
    image : ndarray, shape (h, w, 3), uint8
    activations : array_like or torch.Tensor, shape (c, h', w'), >= 0
        Activations of this image, from the network that the discovery was fitted with.
    frame : Frame
        Position of their cells in the image.
    discovery : ObjectDiscovery
        A fitted discovery.
    number : int, optional
        The image's number in the collection, if it belongs to it.
    truth : ndarray, shape (m, 4), optional
        True boxes in pixels of the image: left, top, right, bottom.

    Returns
    -------
    Picture
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
    """Write a page of pictures. The file is complete or is not written at all.

    Parameters
    ----------
    path : path-like
    title : str
    paragraphs : sequence of str
        Plain text above the pictures.
    pictures : iterable of Picture
        They are consumed one at a time.
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
    """Return a picture as the template draws it: colours, and boxes in pixels."""
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
    """Return the box around all cells of a map, which may extend beyond the image."""
    return _Box(*frame.to_pixels(np.array([[0.0, 0.0, *saliency.shape[::-1]]]))[0])


def _colours(saliency: Map) -> NDArray[np.uint8]:
    """Return the colours (h, w, 3) of a map (h, w), the last colour for its largest value."""
    level = np.asarray(saliency, float) / (float(np.max(saliency)) or 1.0)
    places = np.linspace(0, 1, len(_HEAT))
    channels = [np.interp(level, places, shades) for shades in _HEAT.T]
    return np.round(np.stack(channels, axis=-1)).astype(np.uint8)


def _boxes(regions: Regions, frame: Frame) -> list[_Box]:
    """Return the boxes of regions by ascending weight, with an opacity that grows with it."""
    if not len(regions):
        return []
    opacity = 0.35 + 0.65 * regions.weights / regions.weights.max()
    boxes = np.column_stack([frame.to_pixels(regions.boxes), opacity])
    return [_Box(*box) for box in reversed(boxes)]
