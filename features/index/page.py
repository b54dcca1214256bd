"""The page of a search: results before and after diffusion, and the chains of promoted photos.

A page is one file that loads nothing else. Each photo is in it once, however often it is shown.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from diffusion import DiffusionError, Reranker
from diffusion import page as results
from diffusion.storage.strings import printable

from ..images.boxes import Box, box_pixels
from ..images.reading import UnreadableImageError, read_image, read_size
from ..pages.rendering import photo_address

# Longer side of the photos on the page, and width of the line around a box, in pixels.
_SIDE, _LINE = 224, 2
# The yellow of the boxes on the page of `features discover`.
_COLOUR = (255, 210, 63)


def write_search_page(
    path: str | os.PathLike[str],
    ranker: Reranker,
    queries: Sequence[str],
    vectors: NDArray[np.float32],
    name_of: Callable[[int], str],
    path_of: Callable[[str], str | os.PathLike[str]],
    k: int = 100,
    boxes: Sequence[Box | None] | None = None,
) -> list[str]:
    """Write a page of the results of query photos. The file is complete or is not written at all.

    For each query, it shows the first results of the first stage beside those after diffusion, how
    each has moved, and for each photo the strongest chain of photos from the query to it
    (`Reranker.explain`), and the results for other values of `query_k` and of the weight of the
    fusion (`diffusion.page`).

    Parameters
    ----------
    path : path-like
    ranker : Reranker
        Fitted to the descriptors of the photos.
    queries : sequence of str
        The files of the query photos.
    vectors : ndarray, shape (nq, d)
        Their descriptors.
    name_of : callable
        Returns the name of a photo, given by its id.
    path_of : callable
        Returns the file of a photo, given by its name.
    k : int >= 1, default 100
        Length of the rankings, of which the page shows the first twelve.
    boxes : sequence of box or None, optional
        For each query, the part of the photo that was searched for, as left, top, right, bottom in
        pixels of the upright photo. The page marks it.

    Returns
    -------
    list of str
        Names of the photos that could not be read; the page shows an empty frame for each.

    Raises
    ------
    DiffusionError
        If none of the photos of the results is a file, or the page cannot be written.

    Notes
    -----
    A query takes about 0.35 MB of the file, nearly all of it for some forty photos: 17 MB for 50
    queries of 1,988 photos. A photo of several queries is in the file once. Photos are read one at
    a time while the page is written; what is kept in memory is about 60 kB per query.
    """
    data, ids = results.answers(ranker, vectors, queries, k=k, name_of=name_of)
    photos = [(name, os.fspath(path_of(name))) for name in map(name_of, ids)]
    if photos and not any(os.path.isfile(file) for _, file in photos):
        raise DiffusionError(
            f"none of the {len(photos)} photos of the results is where it was, such as "
            f"{printable(photos[0][0])}; expected the folder that was indexed (--photos FOLDER)"
        )
    missing: list[str] = []
    marked = [None] * len(queries) if boxes is None else boxes
    asked = [(query, query, box) for query, box in zip(queries, marked, strict=True)]

    def pictures() -> Iterator[str]:
        for name, file, box in [*asked, *((*photo, None) for photo in photos)]:
            try:
                yield _picture(file, box)
            except UnreadableImageError:
                missing.append(name)
                yield ""

    results.write(path, data, pictures())
    return missing


def _picture(file: str, box: Box | None = None) -> str:
    """Return the data URL of a photo, made smaller, with a box marked."""
    height, width = read_size(file)
    factor = min(1.0, _SIDE / max(height, width))
    pixels = read_image(file, (max(1, round(factor * height)), max(1, round(factor * width))))
    if box is not None:
        left, top, right, bottom = (factor * side for side in box_pixels(box, (height, width)))
        pixels = _marked(pixels, (round(left), round(top), round(right), round(bottom)))
    return photo_address(pixels)


def _marked(pixels: NDArray[np.uint8], box: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """Return a picture that is darker outside a box, with a line around the box."""
    left, top, right, bottom = box
    marked = pixels // 2
    marked[top:bottom, left:right] = pixels[top:bottom, left:right]
    image = Image.fromarray(marked)
    # The line is outside the box, which may be tiny, and inside the picture.
    high, wide = pixels.shape[:2]
    around = (
        max(left - _LINE, 0),
        max(top - _LINE, 0),
        min(right + _LINE, wide) - 1,
        min(bottom + _LINE, high) - 1,
    )
    ImageDraw.Draw(image).rectangle(around, outline=_COLOUR, width=_LINE)
    return np.array(image)
