"""Clips, as folders of frames: drawn objects that move, and views that move over photos."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffusion.validation import check_integer

from .textures import make_background, make_sprite

Frames = NDArray[np.uint8]

# How far a view moves over a photo, as a part of its own side, its side as a part of the shorter
# side of the photo, the factor by which it zooms, and the angle by which it turns.
_PATH, _VIEW, _ZOOM, _TURN = 0.35, (0.55, 0.75), 1.25, np.deg2rad(10)
# Side of a drawn object as a part of the side of the frames, and the factor by which it grows.
_OBJECT, _GROWTH = (0.45, 0.6), 1.2


def pan(photo: Frames, rng: np.random.Generator, frames: int = 6, side: int = 192) -> Frames:
    """Move a square view over a photo, while it zooms and turns a little.

    Parameters
    ----------
    photo : ndarray, shape (h, w, 3), uint8
    rng : numpy.random.Generator
    frames : int >= 2, default 6
    side : int >= 1, default 192
        Side of the frames in pixels.

    Returns
    -------
    ndarray, shape (frames, side, side, 3), uint8
    """
    frames = check_integer(frames, "frames", low=2)
    side = check_integer(side, "side", low=1)
    height, width = photo.shape[:2]
    view = rng.uniform(*_VIEW) * min(height, width)
    zoom = _ZOOM ** rng.uniform(-1, 1)
    turn = rng.uniform(-_TURN, _TURN)
    way = rng.uniform(0, 2 * np.pi)
    step = _PATH * view * np.array([np.cos(way), np.sin(way)])
    # The views at both ends stay within the photo as far as it is large enough.
    reach = view * max(1, zoom) * (np.cos(turn) + abs(np.sin(turn))) / 2
    free = np.maximum(0, np.array([width, height]) / 2 - reach - np.abs(step) / 2)
    middle = np.array([width, height]) / 2 + rng.uniform(-free, free)
    source, found = Image.fromarray(photo), np.empty((frames, side, side, 3), np.uint8)
    for number, t in enumerate(np.linspace(-0.5, 0.5, frames)):
        scale = view * zoom ** (t + 0.5) / side
        cos, sin = scale * np.cos(turn * t), scale * np.sin(turn * t)
        x, y = middle + step * t
        centre = side / 2
        affine = (
            cos, -sin, x - (cos - sin) * centre,
            sin, cos, y - (sin + cos) * centre,
        )  # fmt: skip
        view_of_photo = source.transform(
            (side, side), Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR
        )
        found[number] = np.asarray(view_of_photo)
    return found


def moving_object(
    sprite: NDArray[np.float32],
    background: NDArray[np.float32],
    rng: np.random.Generator,
    frames: int = 6,
) -> Frames:
    """Draw an object that moves over a background and grows or shrinks on its way.

    Parameters
    ----------
    sprite : ndarray, shape (s, s, 4), float32 in [0, 1]
        As `features.datasets.textures.make_sprite` draws it.
    background : ndarray, shape (side, side, 3), float32 in [0, 1]
    rng : numpy.random.Generator
    frames : int >= 1, default 6

    Returns
    -------
    ndarray, shape (frames, side, side, 3), uint8
    """
    frames = check_integer(frames, "frames", low=1)
    side = len(background)
    size = rng.uniform(*_OBJECT) * side
    growth = _GROWTH ** rng.uniform(-1, 1)
    room = side - size * max(1, growth)
    start, end = rng.uniform(0, room, 2), rng.uniform(0, room, 2)
    drawn = Image.fromarray(np.rint(255 * sprite).astype(np.uint8), "RGBA")
    ground = np.rint(255 * background).astype(np.uint8)
    found = np.empty((frames, side, side, 3), np.uint8)
    for number, t in enumerate(np.linspace(0, 1, frames)):
        pixels = max(1, round(size * growth**t))
        left, top = np.rint(start + t * (end - start)).astype(int).tolist()
        small = drawn.resize((pixels, pixels), Image.Resampling.BILINEAR)
        frame = Image.fromarray(ground)
        frame.paste(small, (left, top), small)
        found[number] = np.asarray(frame)
    return found


def make_object_clip(rng: np.random.Generator, frames: int = 6, side: int = 128) -> Frames:
    """Draw a clip of a new object over a new background: shape (frames, side, side, 3), uint8."""
    return moving_object(make_sprite(rng, side), make_background(rng, "leaves", side), rng, frames)


def write_clip(folder: str | os.PathLike[str], frames: Frames) -> None:
    """Write frames (n, h, w, 3) to a folder, which is made, as JPEG files named in their order."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{number:03}.jpg", quality=92)
