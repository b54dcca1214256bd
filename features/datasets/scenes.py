"""Synthetic scenes with known objects: recurring textured objects among unique distractors.

The layout is that of INSTRE (Wang and Jiang, ACM TOMM 2015): each object appears in many images,
at random scale, place, rotation and perspective, among distractors, and its boxes and masks are
known exactly. Everything is drawn from a seed, so that no files are needed.

Examples
--------
>>> scenes = Scenes(n_objects=2, images_per_object=3, size=64)
>>> len(scenes), scenes[0].image.shape, scenes[0].objects.tolist()
(6, (64, 64, 3), [0])
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from diffusion.errors import DiffusionError
from diffusion.validation import check_choice, check_integer, check_real

from .textures import BACKGROUNDS, Image, make_background, make_sprite

# Purposes of random numbers, so that no two draws share a stream.
_OBJECT, _SCENE, _DISTRACTOR, _QUERY = range(4)

# Objects kept in memory, 1 MiB each.
_SPRITES_KEPT = 256


@dataclass(frozen=True)
class Scene:
    """An image with the boxes and masks of its objects.

    Attributes
    ----------
    image : ndarray, shape (h, w, 3), uint8
    objects : ndarray, shape (m,), int64
        Number of each box's object.
    boxes : ndarray, shape (m, 4), int64
        Left, top, right, bottom in pixels, right and bottom exclusive: the smallest box around
        the mask.
    masks : ndarray, shape (m, h, w), bool
        Where the object is visible: it covers more than half of the pixel, and no other object
        lies over it.
    """

    image: NDArray[np.uint8]
    objects: NDArray[np.int64]
    boxes: NDArray[np.int64]
    masks: NDArray[np.bool_]


@dataclass(frozen=True)
class Scenes(Sequence[Scene]):
    """A collection of scenes, each drawn when it is accessed.

    Image i shows object ``i // images_per_object`` and, if `objects_per_image` is above 1, others
    chosen at random. The background and the distractors of an image occur in no other image.

    Parameters
    ----------
    n_objects : int >= 1, default 40
    images_per_object : int >= 1, default 12
    size : int >= 16, default 513
        Height and width of the images in pixels.
    objects_per_image : int >= 1, default 1
        Objects of the collection in each image; none appears twice in an image.
    n_distractors : int >= 0, default 3
        Objects in each image that are in no other image. They lie under the collection's objects.
    background : {"leaves", "noise", "gradient"} or callable, default "leaves"
        `"leaves"` are overlapping shaded shapes of all sizes (the dead-leaves model, whose
        statistics are those of photographs), `"noise"` has the spectrum 1/f, `"gradient"` is
        smooth. A callable takes (random generator, image number, size) and returns an image
        (size, size, 3), float32 in [0, 1].
    sprites : sequence of ndarray (s, s, 4), optional
        Pictures of at least `n_objects` objects that replace the drawn ones, float32 in [0, 1].
        The last channel is the opacity.
    distractor : callable, optional
        Takes (random generator, number) and returns such a picture, which replaces a drawn one.
    rotation : float >= 0, default 30
        Largest rotation in either direction, in degrees.
    extent : tuple of two float, default (0.35, 0.65)
        Range of an object's longer side, as fractions of the image's side.
    seed : int >= 0, default 0

    Raises
    ------
    DiffusionError
        If a parameter is not as described.
    """

    n_objects: int = 40
    images_per_object: int = 12
    size: int = 513
    objects_per_image: int = 1
    n_distractors: int = 3
    background: str | Callable[[np.random.Generator, int, int], Image] = "leaves"
    sprites: Sequence[Image] | None = None
    distractor: Callable[[np.random.Generator, int], Image] | None = None
    rotation: float = 30.0
    extent: tuple[float, float] = (0.35, 0.65)
    seed: int = 0
    _stream: int = _SCENE

    def __post_init__(self) -> None:
        lows = {"n_objects": 1, "images_per_object": 1, "size": 16, "n_distractors": 0, "seed": 0}
        for name, low in lows.items():
            check_integer(getattr(self, name), name, low=low)
        if check_integer(self.objects_per_image, "objects_per_image", low=1) > self.n_objects:
            raise DiffusionError(
                f"objects_per_image: expected at most n_objects, {self.n_objects}, got "
                f"{self.objects_per_image}"
            )
        if not callable(self.background):
            check_choice(self.background, "background", BACKGROUNDS)
        check_real(self.rotation, "rotation", low=0.0)
        if len(self.extent) != 2 or not 0 < self.extent[0] <= self.extent[1] <= 0.7:
            raise DiffusionError(
                f"extent: expected 0 < smallest <= largest <= 0.7, got {self.extent!r}"
            )
        if self.sprites is not None:
            _check_sprites(self.sprites, self.n_objects)

    def queries(self, per_object: int = 1) -> Scenes:
        """Return further scenes of the same objects, none of which is an image of the collection.

        The first box of each scene is the query.
        """
        check_integer(per_object, "per_object", low=1)
        return replace(self, images_per_object=per_object, _stream=_QUERY)

    @property
    def labels(self) -> NDArray[np.int64]:
        """The first object of each image, shape (len(scenes),)."""
        return np.repeat(np.arange(self.n_objects), self.images_per_object)

    def __len__(self) -> int:
        return self.n_objects * self.images_per_object

    def __iter__(self) -> Iterator[Scene]:
        return (self[i] for i in range(len(self)))

    @overload
    def __getitem__(self, index: int) -> Scene: ...
    @overload
    def __getitem__(self, index: slice) -> list[Scene]: ...
    def __getitem__(self, index: int | slice) -> Scene | list[Scene]:
        """Draw image `index`."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"scene {index} of {len(self)}")
        return self._draw(index % len(self))

    def sprite(self, number: int) -> Image:
        """Return the picture of an object, shape (s, s, 4), float32 in [0, 1]."""
        if self.sprites is not None:
            return np.asarray(self.sprites[number], np.float32)
        return _drawn(self.seed, _OBJECT, number)

    def _draw(self, index: int) -> Scene:
        rng = np.random.default_rng([self.seed, self._stream, index])
        if callable(self.background):
            canvas = np.array(self.background(rng, index, self.size), np.float32)
            if canvas.shape != (self.size, self.size, 3):
                raise DiffusionError(
                    f"background: expected images of shape ({self.size}, {self.size}, 3), got "
                    f"{canvas.shape}"
                )
        else:
            canvas = make_background(rng, self.background, self.size)
        for k in range(self.n_distractors):
            number = (index * self.n_distractors + k) * 2 + (self._stream == _QUERY)
            own = np.random.default_rng([self.seed, _DISTRACTOR, number])
            sprite = make_sprite(own) if self.distractor is None else self.distractor(own, number)
            _paste(rng, canvas, sprite, self.extent, self.rotation)
        first = index // self.images_per_object
        others = np.delete(np.arange(self.n_objects), first)
        more = rng.choice(others, self.objects_per_image - 1, replace=False)
        # The image's own object is drawn last and lies on top.
        shown = np.array([*more[::-1], first])
        masks = np.zeros((len(shown), self.size, self.size), bool)
        for k, number in enumerate(shown):
            covered = _paste(rng, canvas, self.sprite(number), self.extent, self.rotation)
            masks[:k] &= ~covered
            masks[k] = covered
        keep = np.flatnonzero(masks.any(axis=(1, 2)))[::-1]
        image = np.round(255 * np.clip(canvas, 0, 1)).astype(np.uint8)
        boxes = np.array([_box(masks[k]) for k in keep], np.int64)
        return Scene(image, shown[keep], boxes, masks[keep])


@lru_cache(_SPRITES_KEPT)
def _drawn(*seed: int) -> Image:
    sprite = make_sprite(np.random.default_rng(seed))
    sprite.flags.writeable = False
    return sprite


def _check_sprites(sprites: Sequence[Any], n_objects: int) -> None:
    if len(sprites) < n_objects:
        raise DiffusionError(
            f"sprites: expected at least n_objects, {n_objects}, pictures, got {len(sprites)}"
        )
    for number, sprite in enumerate(sprites):
        shape = np.shape(sprite)
        if len(shape) != 3 or shape[0] != shape[1] or shape[2] != 4 or shape[0] < 2:
            raise DiffusionError(
                f"sprites: expected pictures of shape (s, s, 4), number {number} has {shape}"
            )


def _box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


# --- one object onto the canvas -------------------------------------------------------------------


def _paste(
    rng: np.random.Generator,
    canvas: Image,
    sprite: Image,
    extent: tuple[float, float],
    rotation: float,
) -> NDArray[np.bool_]:
    """Draw a sprite onto the canvas at a random place, and return the mask of what it covers.

    Its square is rotated and scaled, and its corners are moved by up to 12 % of the side, which
    gives a perspective view. Gain and offset of its colours vary like illumination.
    """
    size = len(canvas)
    angle = np.deg2rad(rng.uniform(-rotation, rotation))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    square = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], float)
    corners = (square - 0.5 + rng.uniform(-0.12, 0.12, (4, 2))) @ turn.T
    corners *= size * rng.uniform(*extent) / np.ptp(corners, axis=0).max()
    corners += rng.uniform(-corners.min(axis=0), size - 1 - corners.max(axis=0))
    gain, offset = rng.uniform(0.8, 1.15), rng.uniform(-0.08, 0.08)

    left, top = np.floor(corners.min(axis=0)).astype(int)
    right, bottom = np.ceil(corners.max(axis=0)).astype(int) + 1
    y, x = np.mgrid[top:bottom, left:right]
    u = np.stack([x, y, np.ones_like(x)], axis=-1) @ _homography(corners, square).T
    sampled = _sample(sprite, u[..., 0] / u[..., 2], u[..., 1] / u[..., 2], np.ptp(corners, axis=0))
    opacity = sampled[..., 3:]
    window = canvas[top:bottom, left:right]
    window += opacity * (np.clip(gain * sampled[..., :3] + offset, 0, 1) - window)
    covered = np.zeros(canvas.shape[:2], bool)
    covered[top:bottom, left:right] = opacity[..., 0] > 0.5
    return covered


def _homography(source: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the 3 x 3 matrix that maps four points (4, 2) to four others."""
    (x, y), (u, v) = source.T, target.T
    zero, one = np.zeros(4), np.ones(4)
    rows = np.concatenate(
        [
            np.stack([x, y, one, zero, zero, zero, -u * x, -u * y], axis=1),
            np.stack([zero, zero, zero, x, y, one, -v * x, -v * y], axis=1),
        ]
    )
    return np.append(np.linalg.solve(rows, np.concatenate([u, v])), 1.0).reshape(3, 3)


def _sample(
    sprite: Image, u: NDArray[np.float64], v: NDArray[np.float64], extent: NDArray[np.float64]
) -> Image:
    """Sample a sprite bilinearly at (u, v) in units of its side, transparent outside.

    Against aliasing, it is first halved while it is more than twice as large as its drawn size.
    """
    while len(sprite) > 2 * extent.max() and len(sprite) % 2 == 0:
        sprite = sprite.reshape(len(sprite) // 2, 2, -1, 2, 4).mean(axis=(1, 3))
    # One pixel of transparency around it, so that its edges fade.
    sprite = np.pad(sprite, ((1, 1), (1, 1), (0, 0)), mode="edge")
    sprite[[0, -1], :, 3] = sprite[:, [0, -1], 3] = 0
    side = len(sprite)
    u, v = (np.clip(w * (side - 2) + 0.5, 0, side - 1.001) for w in (u, v))
    left, top = u.astype(int), v.astype(int)
    du, dv = ((w - np.floor(w)).astype(np.float32)[..., None] for w in (u, v))
    upper = (1 - du) * sprite[top, left] + du * sprite[top, left + 1]
    lower = (1 - du) * sprite[top + 1, left] + du * sprite[top + 1, left + 1]
    return (1 - dv) * upper + dv * lower
