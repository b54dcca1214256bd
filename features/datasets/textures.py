"""Synthetic textures: pictures of objects with a texture of their own, and backgrounds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from diffusion.validation import check_choice

Image = NDArray[np.float32]

BACKGROUNDS = ("leaves", "noise", "gradient")

# Side of a drawn sprite in pixels: a power of two, larger than any size it is shown at.
SIDE = 256

# Shapes in a background; 200 cover it about twice.
_LEAVES = 200

# Width of soft edges, in pixels.
_SOFT = 1.0


def make_sprite(rng: np.random.Generator, side: int = SIDE) -> Image:
    """Draw an object: an outline filled with patterns in a few colours, with marks on it.

    Returns
    -------
    ndarray, shape (side, side, 4), float32 in [0, 1]
        The last channel is the opacity.
    """
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side - 0.5
    colours = _palette(rng, 6)
    picture = np.empty((side, side, 4), np.float32)
    picture[..., :3] = np.where(_pattern(rng, x, y)[..., None], colours[0], colours[1])
    # A second pattern covers part of it; marks in the other colours follow.
    part = _outline(rng, x, y, rng.uniform(-0.25, 0.25, 2), rng.uniform(0.2, 0.35))
    other = np.where(_pattern(rng, x, y)[..., None], colours[2], colours[3])
    picture[..., :3] += part[..., None] * (other - picture[..., :3])
    for _ in range(rng.integers(5, 12)):
        mark = _outline(rng, x, y, rng.uniform(-0.4, 0.4, 2), rng.uniform(0.03, 0.12))
        picture[..., :3] += mark[..., None] * (colours[rng.integers(2, 6)] - picture[..., :3])
    picture[..., 3] = _outline(rng, x, y, np.zeros(2), 0.46)
    return np.clip(picture, 0, 1, out=picture)


def make_background(rng: np.random.Generator, kind: str, size: int) -> Image:
    """Draw a background.

    Parameters
    ----------
    rng : numpy.random.Generator
    kind : {"leaves", "noise", "gradient"}
    size : int

    Returns
    -------
    ndarray, shape (size, size, 3), float32 in [0, 1]

    References
    ----------
    Lee, Mumford, Huang. Occlusion Models for Natural Images: A Statistical Study of a
    Scale-Invariant Dead Leaves Model. IJCV 2001.
    """
    check_choice(kind, "kind", BACKGROUNDS)
    if kind == "gradient":
        return _gradient(rng, size)
    if kind == "noise":
        shades = np.stack([_noise(rng, size, size / 4) for _ in range(3)], axis=-1)
        # Mostly differences in lightness, with some colour, as in photographs.
        shades = 0.5 + 0.4 * shades[..., :1] + 0.15 * shades
        return np.clip(shades, 0, 1).astype(np.float32)
    return _leaves(rng, size)


def _gradient(rng: np.random.Generator, size: int) -> Image:
    """Interpolate four colours between the corners."""
    t = np.linspace(0, 1, size, dtype=np.float32)
    a, b, c, d = _palette(rng, 4).astype(np.float32)
    x, y = t[None, :, None], t[:, None, None]
    return (1 - y) * ((1 - x) * a + x * b) + y * ((1 - x) * c + x * d)


def _noise(rng: np.random.Generator, size: int, coarsest: float) -> NDArray[np.float32]:
    """Make Gaussian noise with spectrum 1/f, flat below 1 / coarsest, and deviation 0.5."""
    fy, fx = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None]
    spectrum = np.fft.rfft2(rng.standard_normal((size, size)))
    spectrum /= np.maximum(np.hypot(fx, fy), 1 / coarsest)
    spectrum[0, 0] = 0
    noise = np.fft.irfft2(spectrum, (size, size))
    return (0.5 * noise / noise.std()).astype(np.float32)


def _leaves(rng: np.random.Generator, size: int) -> Image:
    """Cover a gradient with shapes of all sizes; their number falls with radius r as r^-3."""
    canvas = _gradient(rng, size)
    least, most = 0.04, 0.5
    u = rng.random(_LEAVES)
    radii = 1 / np.sqrt(u / least**2 + (1 - u) / most**2)
    grain = _noise(rng, size, size / 8)
    for radius in radii:
        centre = rng.uniform(0, size, 2)
        reach = radius * size * 1.5
        x0, y0 = np.maximum(centre - reach, 0).astype(int)
        x1, y1 = np.minimum(centre + reach + 1, size).astype(int)
        y, x = np.mgrid[y0:y1, x0:x1].astype(np.float32) / size
        shape = _outline(rng, x, y, centre / size, radius)[..., None]
        slope = rng.normal(0, 0.6, 2)
        light = (x - centre[0] / size) * slope[0] + (y - centre[1] / size) * slope[1]
        texture = rng.uniform(0, 0.25) * grain[y0:y1, x0:x1] + light
        window = canvas[y0:y1, x0:x1]
        colour = _muted(rng)
        if rng.random() < 0.3:
            colour = np.where(_pattern(rng, x, y)[..., None], colour, _muted(rng))
        window += shape * (colour + texture[..., None] - window)
    return np.clip(canvas, 0, 1)


def _palette(rng: np.random.Generator, n: int) -> Image:
    """Draw distinct colours: evenly spaced hues from a random one, each of random lightness."""
    hue = 2 * np.pi * (rng.random() + rng.permutation(n) / n)
    lightness = rng.uniform(0.2, 0.9, n)
    turns = hue[:, None] + 2 * np.pi / 3 * np.arange(3)
    return np.clip(lightness[:, None] + 0.35 * np.cos(turns), 0, 1).astype(np.float32)


def _muted(rng: np.random.Generator) -> Image:
    """Draw a colour of low saturation, as in most of a photograph."""
    return (rng.uniform(0.15, 0.85) + rng.normal(0, 0.08, 3)).astype(np.float32)


def _blotches(
    rng: np.random.Generator, x: NDArray[np.float32], y: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Sum waves of random directions, which gives smooth blotches."""
    total = np.zeros_like(x)
    for fx, fy, phase in rng.normal(0, (5, 5, 3), (12, 3)):
        total += np.cos(2 * np.pi * (np.float32(fx) * x + np.float32(fy) * y + np.float32(phase)))
    return total


def _step(signed: NDArray[np.float32], scale: float) -> NDArray[np.float32]:
    """Return 1 for positive and 0 for negative values, with a soft edge about a pixel wide."""
    return np.clip(0.5 + signed / (2 * scale), 0, 1)


def _outline(
    rng: np.random.Generator,
    x: NDArray[np.float32],
    y: NDArray[np.float32],
    centre: NDArray[np.float64],
    radius: float,
) -> NDArray[np.float32]:
    """Draw a filled closed curve whose radius is a sum of random harmonics of the angle."""
    dx, dy = x - np.float32(centre[0]), y - np.float32(centre[1])
    angle = np.arctan2(dy, dx)
    curve = np.ones_like(angle)
    for harmonic in range(2, 6):
        amount = rng.normal(0, 0.25 / harmonic)
        curve += np.float32(amount) * np.cos(
            harmonic * angle + np.float32(rng.uniform(0, 2 * np.pi))
        )
    pixel = float(x[0, 1] - x[0, 0]) if x.shape[1] > 1 else 1.0
    return _step(np.float32(radius) * np.clip(curve, 0.4, 1.08) - np.hypot(dx, dy), _SOFT * pixel)


def _pattern(
    rng: np.random.Generator, x: NDArray[np.float32], y: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """Draw stripes, checks, rings, dots, cells or blotches with random rotation and scale."""
    angle = rng.uniform(0, np.pi)
    u = x * np.cos(angle) + y * np.sin(angle)
    v = y * np.cos(angle) - x * np.sin(angle)
    rate = rng.uniform(4, 12)
    kind = rng.integers(6)
    if kind == 0:
        return np.sin(2 * np.pi * rate * u) > rng.uniform(-0.5, 0.5)
    if kind == 1:
        return (np.sin(np.pi * rate * u) > 0) ^ (np.sin(np.pi * rate * v) > 0)
    if kind == 2:
        centre = rng.uniform(-0.4, 0.4, 2)
        return np.sin(2 * np.pi * rate * np.hypot(u - centre[0], v - centre[1])) > 0
    if kind == 3:
        squared = (rate * u % 1 - 0.5) ** 2 + (rate * v % 1 - 0.5) ** 2
        return squared < rng.uniform(0.06, 0.14)
    if kind == 4:
        seeds = rng.uniform(-0.5, 0.5, (rng.integers(12, 40), 2)).astype(np.float32)
        nearest = np.argmin(
            (u[..., None] - seeds[:, 0]) ** 2 + (v[..., None] - seeds[:, 1]) ** 2, axis=-1
        )
        return rng.random(len(seeds))[nearest] > 0.5
    return _blotches(rng, x, y) > 0
