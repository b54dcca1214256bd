"""Images for the benchmark `objects`: pasted objects, one or three a photo, drawn scenes, raccoons.

Objects, distractors and backgrounds share no source: the distractors take their textures from
pictures of products that are not objects, the backgrounds are parts of photos of other classes than
the objects', and each photo is the background of at most one image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch.nn import functional

from features.datasets.scenes import Scenes
from features.datasets.textures import SIDE, Image, make_sprite
from features.images.reading import find_images, read_image, read_size
from features.networks.backbones.base import Sides


@dataclass(frozen=True)
class Sizes:
    """How large the collections are; the defaults are those of the printed tables.

    Attributes
    ----------
    side : int
        Pixels of an image's longer side: 17 cells of 32, and one.
    objects, images, queries : int
        Pasted objects, and images and queries per object.
    others : int
        Photos of groceries among those of raccoons.
    """

    side: int = 513
    objects: int = 40
    images: int = 12
    queries: int = 2
    others: int = 400


FULL = Sizes()

# A background is an enlarged square of this share of a photo's shorter side: many photos show whole
# shelves, of which a few items at close range are wanted.
_ENLARGED = (0.25, 0.5)
# Product pictures are on white: pixels as light as this and connected to the corner are background.
_WHITE = 240
_SIDES = Sides(33, 32, 1)


@dataclass(frozen=True)
class Picture:
    """An image with its true boxes (m, 4) in pixels and the number of the object in each of them.

    The first object is that of the image: the one that it shares with the images before and after.
    """

    image: NDArray[np.uint8]
    boxes: NDArray[np.float64]
    objects: NDArray[np.int64]


@dataclass(frozen=True)
class Pictures:
    """A collection and its queries; each picture is drawn or read when it is iterated over."""

    name: str
    collection: Callable[[], Iterator[Picture]]
    n_images: int
    queries: Pictures | None = None


def drawn(background: str, n_objects: int, seed: int, sizes: Sizes = FULL) -> Pictures:
    """Return scenes of the generator in `features.datasets`, which need no files."""
    scenes = Scenes(n_objects, sizes.images, sizes.side, background=background, seed=seed)
    return Pictures(f"drawn, {background}", lambda: _of_scenes(scenes), len(scenes))


def pasted(grocery: Path, seed: int, sizes: Sizes = FULL) -> Pictures:
    """Return scenes of product pictures pasted onto photos, and queries of the same objects."""
    sources = _sources(grocery, seed, sizes.objects)
    collection = _pasted(sources, sizes, objects_per_image=1, extent=(0.45, 0.7), seed=seed)
    left = sources.photos[len(collection) :]
    queries = replace(collection.queries(sizes.queries), background=_enlarged_of(left))
    asked = Pictures("queries", lambda: _of_scenes(queries), len(queries))
    return Pictures("pasted on photos", lambda: _of_scenes(collection), len(collection), asked)


def several(grocery: Path, seed: int, sizes: Sizes = FULL) -> Pictures:
    """Return scenes of three smaller product pictures pasted onto one photo."""
    sources = _sources(grocery, seed, sizes.objects)
    collection = _pasted(sources, sizes, objects_per_image=3, extent=(0.3, 0.45), seed=seed)
    return Pictures("three objects a photo", lambda: _of_scenes(collection), len(collection))


def raccoons(folder: Path, grocery: Path, sizes: Sizes = FULL) -> Pictures:
    """Return photos of raccoons with their boxes, among photos of groceries without boxes."""
    animals = [folder / "images" / file for file in find_images(folder / "images")]
    files = find_images(grocery / "test")
    chosen = np.random.default_rng(0).permutation(len(files))[: sizes.others]
    others = [grocery / "test" / files[i] for i in chosen]

    def collection() -> Iterator[Picture]:
        for file in animals:
            boxes, scale = (
                read_boxes(folder / "annotations" / f"{file.stem}.xml"),
                _fitted(file, sizes.side),
            )
            height, width = read_size(file)
            pixels = np.array([scale[1] / width, scale[0] / height] * 2)
            animal = np.zeros(len(boxes), np.int64)
            yield Picture(read_image(file, scale), boxes * pixels, animal)
        for file in others:
            scale = _fitted(file, sizes.side)
            yield Picture(read_image(file, scale), np.empty((0, 4)), np.empty(0, np.int64))

    return Pictures("raccoons among groceries", collection, len(animals) + len(others))


def read_boxes(file: Path) -> NDArray[np.float64]:
    """Read the boxes (m, 4) of a Pascal VOC annotation: left, top, right, bottom in pixels."""
    corners = ("xmin", "ymin", "xmax", "ymax")
    boxes = ElementTree.parse(file).getroot().iterfind("object/bndbox")
    return np.array([[float(box.findtext(name, "nan")) for name in corners] for box in boxes])


# --- from photos to the parts of scenes -------------------------------------------------------


@dataclass(frozen=True)
class _Sources:
    """Pictures of the objects, those that distractors are made of, and photos in random order."""

    objects: list[Path]
    textures: list[Path]
    photos: list[Path]


def _sources(grocery: Path, seed: int, n_objects: int) -> _Sources:
    icons = find_images(grocery / "iconic")
    order = np.random.default_rng([seed, 1]).permutation(len(icons))
    pictures = [grocery / "iconic" / icons[i] for i in order]
    kinds = {picture.parent.relative_to(grocery / "iconic") for picture in pictures[:n_objects]}
    files = [Path(file) for file in find_images(grocery / "test")]
    photos = [grocery / "test" / file for file in files if file.parent not in kinds]
    order = np.random.default_rng([seed, 2]).permutation(len(photos))
    return _Sources(pictures[:n_objects], pictures[n_objects:], [photos[i] for i in order])


def _pasted(sources: _Sources, sizes: Sizes, **settings: Any) -> Scenes:
    """Return scenes of the objects above one distractor each, on the photos in their order."""
    textures = [cut_out(picture) for picture in sources.textures]
    return Scenes(
        len(sources.objects),
        sizes.images,
        sizes.side,
        n_distractors=1,
        background=_enlarged_of(sources.photos),
        sprites=[cut_out(picture) for picture in sources.objects],
        distractor=lambda rng, _: unrepeated(rng, textures),
        **settings,
    )


def _enlarged_of(photos: list[Path]) -> Callable[[np.random.Generator, int, int], Image]:
    return lambda rng, i, size: enlarged(rng, photos[i], size)


def cut_out(file: Path) -> Image:
    """Return the product of a picture on white as a square (h, w, 4), with its opacity."""
    image = read_image(file)
    light = np.pad(image.min(axis=2) >= _WHITE, 1, constant_values=True)
    labels, _ = ndimage.label(light)
    solid = ndimage.binary_erosion((labels != labels[0, 0])[1:-1, 1:-1])
    parts, count = ndimage.label(solid)
    if count > 1:  # crumbs and shadows beside the product
        solid = parts == 1 + np.argmax(ndimage.sum(solid, parts, range(1, count + 1)))
    rows, columns = np.flatnonzero(solid.any(axis=1)), np.flatnonzero(solid.any(axis=0))
    inside = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = solid[inside].shape
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    square = np.zeros((side, side, 4), np.float32)
    square[top : top + height, left : left + width, :3] = image[inside] / 255
    square[top : top + height, left : left + width, 3] = solid[inside]
    return _resized(square)


def enlarged(rng: np.random.Generator, file: Path, size: int) -> Image:
    """Return a random square part of a photo, enlarged to (size, size)."""
    height, width = read_size(file)
    side = min(height, width) * rng.uniform(*_ENLARGED)
    top, left = rng.uniform(0, height - side) / height, rng.uniform(0, width - side) / width
    box = (top, left, top + side / height, left + side / width)
    return read_image(file, (size, size), box).astype(np.float32) / np.float32(255)


def unrepeated(rng: np.random.Generator, textures: list[Image]) -> Image:
    """Return a unique distractor: part of a picture in a new outline and with permuted colours."""
    sprite = make_sprite(rng)
    texture = textures[rng.integers(len(textures))]
    part = SIDE // 2
    top, left = rng.integers(SIDE - part, size=2)
    window = _resized(np.rot90(texture, int(rng.integers(4)))[top : top + part, left : left + part])
    colours = window[..., rng.permutation(3)]
    # The drawn sprite shows where the product does not reach.
    sprite[..., :3] += window[..., 3:] * (colours - sprite[..., :3])
    return sprite


def _of_scenes(scenes: Scenes) -> Iterator[Picture]:
    for scene in scenes:
        yield Picture(scene.image, scene.boxes.astype(float), scene.objects)


def _resized(picture: Image) -> Image:
    pixels = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None]
    resized = functional.interpolate(pixels, (SIDE, SIDE), mode="bilinear", antialias=True)
    return resized[0].permute(1, 2, 0).clamp(0, 1).numpy()


def _fitted(file: Path, side: int) -> tuple[int, int]:
    """Return height and width at which the longer side is `side`, rounded for the network."""
    height, width = read_size(file)
    factor = side / max(height, width)
    return _SIDES.nearest(height * factor), _SIDES.nearest(width * factor)
