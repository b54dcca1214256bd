"""Pictures of what a collection shows: an image, its saliency maps and their regions, side by side.

One file that needs no other, no script and no network; light and dark, wide and narrow. A map is
stored at its own few cells and smoothed by the browser, boxes are drawn by it, so that a row
weighs little more than its photo.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from diffusion.storage import replacing

from ..images.png import data_address
from ..networks.frame import Frame
from .discovery import ObjectDiscovery
from .egm import Regions
from .maps import Map, as_activations, feature_saliency

# What the page's text says of its boxes.
LEGEND = "Yellow boxes are regions, the brighter the heavier."

# Photos are shown at this longer side.
_SIDE = 360

# From cold to hot, evenly spaced: dark enough for light regions to stand out on.
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
    text = "".join(f"<p>{escape(paragraph)}</p>\n" for paragraph in paragraphs)
    with replacing(path) as file:
        file.write(_HEAD.format(title=escape(title), style=_STYLE, text=text).encode())
        for number, picture in enumerate(pictures):
            file.write(_row(picture, number).encode())
        file.write(_TAIL.encode())


def _row(picture: Picture, number: int) -> str:
    h, w = picture.image.shape[:2]
    photo = f"photo{number}"
    address = data_address(_shrunk(picture.image))
    image = (
        f'<image id="{photo}" href="{address}" width="{w}" height="{h}" '
        'preserveAspectRatio="none"/>'
    )
    truth = "" if picture.truth is None else _rectangles(picture.truth, "truth", None)
    use = f'<use href="#{photo}"/>'
    figures = [
        _figure(picture, "image", image + truth, f"{picture.caption}: the image"),
        _figure(picture, "feature saliency", _heat(picture, picture.features), "Feature saliency"),
        _figure(
            picture,
            _counted(picture.feature_regions),
            use + _regions(picture, picture.feature_regions),
            "Regions of feature saliency",
        ),
        _figure(picture, "object saliency", _heat(picture, picture.objects), "Object saliency"),
        _figure(
            picture,
            _counted(picture.object_regions),
            use + _regions(picture, picture.object_regions),
            "Regions of object saliency",
        ),
    ]
    return (
        f'<section class="row"><h2>{escape(picture.caption)}</h2>\n<div class="panels">\n'
        f"{''.join(figures)}</div></section>\n"
    )


def _counted(regions: Regions) -> str:
    return "its region" if len(regions) == 1 else f"its {len(regions)} regions"


def _figure(picture: Picture, caption: str, content: str, alternative: str) -> str:
    h, w = picture.image.shape[:2]
    return (
        f'<figure><svg viewBox="0 0 {w} {h}" role="img" aria-label="{escape(alternative)}">'
        f"{content}</svg><figcaption>{escape(caption)}</figcaption></figure>\n"
    )


def _heat(picture: Picture, saliency: Map) -> str:
    """Show a map as colours over the frame's cells, which may reach out of the image."""
    largest = float(np.max(saliency))
    level = np.asarray(saliency, float) / (largest or 1.0) * (len(_HEAT) - 1)
    low = np.minimum(level.astype(int), len(_HEAT) - 2)
    part = (level - low)[..., None]
    colours = np.round((1 - part) * _HEAT[low] + part * _HEAT[low + 1]).astype(np.uint8)
    cells = np.array([[0, 0, saliency.shape[1], saliency.shape[0]]], float)
    ((left, top, right, bottom),) = picture.frame.to_pixels(cells)
    return (
        f'<image href="{data_address(colours)}" x="{left:.1f}" y="{top:.1f}" '
        f'width="{right - left:.1f}" height="{bottom - top:.1f}" preserveAspectRatio="none"/>'
    )


def _regions(picture: Picture, regions: Regions) -> str:
    if not len(regions):
        return ""
    share = regions.weights / regions.weights.max()
    return _rectangles(picture.frame.to_pixels(regions.boxes), "region", share)


def _rectangles(boxes: NDArray[np.float64], kind: str, share: NDArray[np.float64] | None) -> str:
    """Draw boxes, lighter lines for those of less weight; the heaviest last, on top."""
    drawn = []
    for k in reversed(range(len(boxes))):
        left, top, right, bottom = boxes[k]
        opacity = 1.0 if share is None else 0.35 + 0.65 * float(share[k])
        drawn.append(
            f'<rect class="{kind}" x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" '
            f'height="{bottom - top:.1f}" opacity="{opacity:.2f}"/>'
        )
    return "".join(drawn)


def _shrunk(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    h, w = image.shape[:2]
    factor = _SIDE / max(h, w)
    if factor >= 1:
        return image
    size = [max(1, round(side * factor)) for side in (h, w)]
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
    small = functional.interpolate(pixels, size, mode="bilinear", antialias=True)
    return small[0].permute(1, 2, 0).round().clamp(0, 255).to(torch.uint8).numpy()


_STYLE = """
:root {
  color-scheme: light dark;
  --page: #f6f5f1; --ink: #1d1f21; --faint: #5c6166; --line: #dcdad2;
}
@media (prefers-color-scheme: dark) {
  :root { --page: #16181a; --ink: #e8e6e1; --faint: #a5abb0; --line: #373b3f; }
}
* { box-sizing: border-box; }
body {
  margin: 0; padding: 2rem 1rem 3rem; background: var(--page); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif;
}
main { max-width: 84rem; margin: 0 auto; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .75rem; text-wrap: balance; }
h2 { font-size: .9rem; font-weight: 400; color: var(--faint); margin: 0 0 .4rem; }
p { margin: 0 0 .75rem; max-width: 44rem; }
.row { border-top: 1px solid var(--line); padding: .9rem 0; }
.panels { display: grid; gap: .6rem; grid-template-columns: repeat(5, minmax(0, 1fr)); }
figure { margin: 0; }
figcaption { font-size: .8rem; color: var(--faint); margin-top: .2rem; }
svg { display: block; width: 100%; border-radius: 5px; background: #000; }
rect { fill: none; vector-effect: non-scaling-stroke; }
.region { stroke: #ffd23f; stroke-width: 2px; }
.truth { stroke: #3ddc97; stroke-width: 2px; stroke-dasharray: 5 3; }
@media (max-width: 44rem) {
  body { padding-top: 1.25rem; }
  .panels { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  figure:first-child { grid-column: 1 / -1; }
}
"""

_HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{text}"""

_TAIL = """</main>
</body>
</html>
"""
