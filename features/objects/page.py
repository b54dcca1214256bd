"""Pages of pictures: each row shows an image, its saliency maps and its boxes side by side.

A page is one file that loads nothing else. Maps are stored with one pixel per cell and enlarged by
the browser, which also draws the boxes, so that a row needs little more space than its photo.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..networks.frame import Frame, ImageActivations
from ..pages import rendering
from .discovery import ObjectDiscovery
from .egm import Regions
from .maps import Map, feature_saliency

# A sentence for the page's text that explains the boxes.
LEGEND = "Yellow boxes are the objects that were found; brighter boxes have a larger weight."

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
    """An image with its feature saliency, the peaks of its objects and the whole objects.

    Attributes
    ----------
    caption : str
    image : ndarray, shape (h, w, 3), uint8
    frame : Frame
        Position of the cells of the first two maps in the image.
    features, peaks : ndarray, shape (h', w')
        Feature saliency, and the object saliency of single cells.
    object_frame : Frame
        Position of the cells of the last map.
    objects : ndarray, shape (h'', w'')
        Object saliency of whole objects.
    boxes : Regions
        The boxes of these.
    truth : ndarray, shape (m, 4), optional
        True boxes in pixels (left, top, right, bottom), if they are known.
    """

    caption: str
    image: NDArray[np.uint8]
    frame: Frame
    features: Map
    peaks: Map
    object_frame: Frame
    objects: Map
    boxes: Regions
    truth: NDArray[np.float64] | None = None


def make_picture(
    caption: str,
    image: NDArray[np.uint8],
    activations: ImageActivations,
    discovery: ObjectDiscovery,
    number: int | None = None,
    truth: NDArray[np.float64] | None = None,
) -> Picture:
    """Make the picture of an image from its activations.

    Parameters
    ----------
    caption : str
    image : ndarray, shape (h, w, 3), uint8
    activations : ImageActivations
        Of this image, from the network that the discovery was fitted with.
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
    peaks, objects = discovery.maps(activations, number)
    return Picture(
        caption,
        image,
        activations.frame,
        feature_saliency(activations.maps),
        peaks,
        discovery.frame_of(activations),
        objects,
        discovery.boxes(objects),
        truth,
    )


def write_page(
    path: str | os.PathLike[str],
    title: str,
    paragraphs: Sequence[str],
    pictures: Iterable[Picture],
    groups: Iterable[Mapping[str, Any]] = (),
) -> None:
    """Write a page of pictures, and of groups of boxes that show the same object.

    The file is complete or is not written at all.

    Parameters
    ----------
    path : path-like
    title : str
    paragraphs : sequence of str
        Plain text above the pictures.
    pictures : iterable of Picture
        They are consumed one at a time.
    groups : iterable of mapping
        As `features.objects.group_page.group_rows` yields them; shown before the pictures.
    """
    rendering.write(
        path,
        "features.objects",
        "objects.html",
        title=title,
        paragraphs=paragraphs,
        groups=groups,
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
            {"name": name, "colours": _colours(saliency), "extent": _extent(saliency, frame)}
            for name, saliency, frame in (
                ("feature saliency", picture.features, picture.frame),
                ("peaks of objects", picture.peaks, picture.frame),
                ("object saliency", picture.objects, picture.object_frame),
            )
        ],
        "boxes": _boxes(picture.boxes, picture.object_frame),
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
    """Return boxes by ascending weight, with an opacity that grows with it."""
    if not len(regions):
        return []
    opacity = 0.35 + 0.65 * regions.weights / regions.weights.max()
    boxes = np.column_stack([frame.to_pixels(regions.boxes), opacity])
    return [_Box(*box) for box in reversed(boxes)]
