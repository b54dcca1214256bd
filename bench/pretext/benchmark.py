"""The benchmark `pretext`: learning without labels from drawn objects, and from photos."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from features.datasets.clips import moving_object, pan, write_clip
from features.datasets.textures import make_background, make_sprite
from features.images.reading import find_images, read_image

from ..data.collections import data_folder
from ..table import Table, show
from .learning import Lesson, compare

# Clips that are drawn, and objects of which none is in them, with pictures of each.
_CLIPS, _OBJECTS, _PICTURES = 48, 20, 6
_SIDE, _FRAMES = 128, 4
# Of the photos of groceries: those that are learned from, and those that are judged by.
_LEARNED, _JUDGED = slice(None, None, 3), slice(None, None, 4)


def run(*, long: bool = False) -> list[Table]:
    """Learn from drawn clips; with `long` from photos of groceries instead, if they are there."""
    with tempfile.TemporaryDirectory() as folder:
        if not long:
            return [show(drawn(Path(folder)))]
        photos = data_folder() / "grocery"
        weights = data_folder() / "weights" / "mobilenet_v2.safetensors"
        if not photos.exists() or not weights.exists():
            print("pretext: skipped, grocery and MobileNetV2's weights are not in DIFFUSION_DATA")
            return []
        return [show(groceries(photos, weights, Path(folder)))]


def drawn(scratch: Path) -> Table:
    """Learn from objects that move over backgrounds; search for others, before new backgrounds."""
    for number in range(_CLIPS):
        write_clip(scratch / "clips" / f"{number:03}", _clip(0, number, 0, _FRAMES))
    for number in range(_OBJECTS):
        pictures = [_clip(1, number, picture, 1) for picture in range(_PICTURES)]
        write_clip(scratch / "judged" / f"{number:02}", np.concatenate(pictures))
    lesson = Lesson(
        photos=scratch / "clips",
        clips=scratch / "clips",
        judged=scratch / "judged",
        size=129,
        puzzle=129,
        patch=65,
        epochs={"tracks": 6, "context": 2, "jigsaw": 2, "mining": 1},
    )
    title = (
        f"**Drawn objects**: learned from {_CLIPS} clips of {_FRAMES} frames; {_OBJECTS} other "
        f"objects, {_PICTURES} pictures of each, every picture a query"
    )
    return compare(title, lesson, scratch, None)


def _clip(part: int, number: int, picture: int, frames: int) -> np.ndarray:
    sprite = make_sprite(np.random.default_rng([part, number]), _SIDE)
    rng = np.random.default_rng([part, number, picture, 1])
    return moving_object(sprite, make_background(rng, "leaves", _SIDE), rng, frames)


def groceries(photos: Path, weights: Path, scratch: Path) -> Table:
    """Learn from photos of train/Packages, and views that move over them; search test/Packages."""
    learned, judged = scratch / "photos", scratch / "judged"
    sources = photos / "train" / "Packages"
    files = find_images(sources)[_LEARNED]
    learned.mkdir()
    for number, file in enumerate(files):
        (learned / f"{number:03}.jpg").symlink_to((sources / file).resolve())
        frames = pan(read_image(sources / file), np.random.default_rng([0, number]), 3, 160)
        write_clip(scratch / "clips" / f"{number:03}", frames)
    queries = find_images(photos / "test" / "Packages")[_JUDGED]
    for file in queries:
        (judged / file).parent.mkdir(parents=True, exist_ok=True)
        (judged / file).symlink_to((photos / "test" / "Packages" / file).resolve())
    lesson = Lesson(
        photos=learned,
        clips=scratch / "clips",
        judged=judged,
        size=161,
        puzzle=129,
        patch=65,
        epochs={"tracks": 7, "context": 1, "jigsaw": 1, "mining": 1},
    )
    title = (
        f"**Groceries**: learned from {len(files)} photos of train/Packages without their labels; "
        f"{len(queries)} photos of test/Packages, every photo a query"
    )
    return compare(title, lesson, scratch, weights)
