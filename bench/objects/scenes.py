"""Images for `bench objects`: things pasted onto photos, drawn scenes, photos of one animal.

What is pasted, what lies about it and what is behind it are held apart: the textures of the
distractors are of pictures that are no object, the backgrounds parts of photos of none of the
classes that are objects, and no photo is behind two images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
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

# A background is this part of a photo's shorter side, enlarged: things that are near, and not
# the whole shelves that are in many photos.
_ENLARGED = (0.25, 0.5)
# A product picture is on white: what is as light and connected to the corner is not the product.
_WHITE = 240
_SIDES = Sides(33, 32, 1)


@dataclass(frozen=True)
class Picture:
    """An image, the true boxes in it in pixels, and the number of what it is of, -1: of nothing."""

    image: NDArray[np.uint8]
    boxes: NDArray[np.float64]
    label: int


@dataclass(frozen=True)
class Pictures:
    """A collection and its queries, each picture drawn or read when its turn comes."""

    name: str
    collection: Callable[[], Iterator[Picture]]
    n_images: int
    queries: Pictures | None = None


def drawn(background: str, n_objects: int, seed: int, sizes: Sizes = FULL) -> Pictures:
    """Return scenes of the shipped generator, nothing in them read from a file."""
    scenes = Scenes(n_objects, sizes.images, sizes.side, background=background, seed=seed)
    return Pictures(f"drawn, {background}", lambda: _of_scenes(scenes), len(scenes))


def pasted(grocery: Path, seed: int, sizes: Sizes = FULL) -> Pictures:
    """Return scenes of product pictures pasted onto photos, and queries of the same objects."""
    icons = [Path(file) for file in find_images(grocery / "iconic")]
    order = np.random.default_rng([seed, 1]).permutation(len(icons))
    objects = [icons[i] for i in order[: sizes.objects]]
    textures = [cut_out(grocery / "iconic" / icons[i]) for i in order[sizes.objects :]]
    kinds = {icon.parent for icon in objects}
    photos = [Path(file) for file in find_images(grocery / "test")]
    photos = [grocery / "test" / photo for photo in photos if photo.parent not in kinds]
    order = np.random.default_rng([seed, 2]).permutation(len(photos))
    collection = Scenes(
        len(objects),
        sizes.images,
        sizes.side,
        n_distractors=1,
        background=lambda rng, i, size: enlarged(rng, photos[order[i]], size),
        sprites=[cut_out(grocery / "iconic" / icon) for icon in objects],
        distractor=lambda rng, _: unrepeated(rng, textures),
        extent=(0.45, 0.7),
        seed=seed,
    )
    left = order[len(collection) :]
    queries = replace(
        collection.queries(sizes.queries),
        background=lambda rng, i, size: enlarged(rng, photos[left[i]], size),
    )
    asked = Pictures("queries", lambda: _of_scenes(queries), len(queries))
    return Pictures("pasted on photos", lambda: _of_scenes(collection), len(collection), asked)


def raccoons(folder: Path, grocery: Path, sizes: Sizes = FULL) -> Pictures:
    """Return the photos of raccoons with their boxes among photos of groceries without any."""
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
            yield Picture(read_image(file, scale), boxes * pixels, 0)
        for file in others:
            yield Picture(read_image(file, _fitted(file, sizes.side)), np.empty((0, 4)), -1)

    return Pictures("raccoons among groceries", collection, len(animals) + len(others))


def read_boxes(file: Path) -> NDArray[np.float64]:
    """Read the boxes (m, 4) of a Pascal VOC annotation: left, top, right, bottom in pixels."""
    corners = ("xmin", "ymin", "xmax", "ymax")
    boxes = ElementTree.parse(file).getroot().iterfind("object/bndbox")
    return np.array([[float(box.findtext(name, "nan")) for name in corners] for box in boxes])


# --- from photos to what scenes are made of -------------------------------------------------------


def cut_out(file: Path) -> Image:
    """Cut the product out of a picture on white; return it in a square, with its opacity."""
    image = read_image(file)
    light = np.pad(image.min(axis=2) >= _WHITE, 1, constant_values=True)
    labels, _ = ndimage.label(light)
    solid = ndimage.binary_erosion((labels != labels[0, 0])[1:-1, 1:-1])
    parts, count = ndimage.label(solid)
    if count > 1:  # crumbs and shadows beside it
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
    """Return a random square part of a photo, enlarged."""
    height, width = read_size(file)
    side = min(height, width) * rng.uniform(*_ENLARGED)
    top, left = rng.uniform(0, height - side) / height, rng.uniform(0, width - side) / width
    box = (top, left, top + side / height, left + side / width)
    return read_image(file, (size, size), box).astype(np.float32) / np.float32(255)


def unrepeated(rng: np.random.Generator, textures: list[Image]) -> Image:
    """Return a thing that is in no other image: part of a picture in an outline and colours new."""
    sprite = make_sprite(rng)
    texture = textures[rng.integers(len(textures))]
    part = SIDE // 2
    top, left = rng.integers(SIDE - part, size=2)
    window = _resized(np.rot90(texture, int(rng.integers(4)))[top : top + part, left : left + part])
    colours = window[..., rng.permutation(3)]
    # Where the product does not reach, what was drawn shows.
    sprite[..., :3] += window[..., 3:] * (colours - sprite[..., :3])
    return sprite


def _of_scenes(scenes: Scenes) -> Iterator[Picture]:
    for scene in scenes:
        yield Picture(scene.image, scene.boxes[:1].astype(float), int(scene.objects[0]))


def _resized(picture: Image) -> Image:
    pixels = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None]
    resized = functional.interpolate(pixels, (SIDE, SIDE), mode="bilinear", antialias=True)
    return resized[0].permute(1, 2, 0).clamp(0, 1).numpy()


def _fitted(file: Path, side: int) -> tuple[int, int]:
    """Return height and width at which the longer side is `side`, rounded for the network."""
    height, width = read_size(file)
    factor = side / max(height, width)
    return _SIDES.nearest(height * factor), _SIDES.nearest(width * factor)
