"""Following patches from frame to frame by normalised cross-correlation (block matching)."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from diffusion.errors import DiffusionError

# Patches that are matched at once, which bounds the memory of their windows.
_AT_ONCE = 16
# Variance per pixel, for values in [0, 1], below which a patch has nothing to be followed by.
_FLAT = 1e-4


def match(
    before: NDArray[np.float32],
    after: NDArray[np.float32],
    places: NDArray[np.int64],
    patch: int,
    reach: int,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Find patches of one frame in the next one.

    The match of a patch is where the correlation coefficient of its values with those of the other
    frame is largest, among all shifts of at most `reach` pixels that stay within the frame. Of
    equal ones, the first in reading order is taken.

    Parameters
    ----------
    before, after : ndarray, shape (h, w), float32 in [0, 1]
    places : ndarray, shape (n, 2), int64
        Top and left of each patch, which lies within the frame.
    patch, reach : int >= 1
        Side of the patches and longest shift in pixels.

    Returns
    -------
    places : ndarray, shape (n, 2), int64
        Top and left of each match.
    correlations : ndarray, shape (n,), float64
        In [-1, 1]; 0 if the patch, or every place that it is compared with, is flat.

    Raises
    ------
    DiffusionError
        If the frames differ in size.
    """
    if before.shape != after.shape:
        raise DiffusionError(
            f"frames: expected one size for all frames of a clip, got {before.shape} and "
            f"{after.shape}"
        )
    found = np.empty_like(places)
    best = np.empty(len(places))
    # A border that no patch may touch lets all windows have one size.
    wide = np.pad(after, reach, constant_values=np.nan)
    windows = sliding_window_view(wide, (patch + 2 * reach,) * 2)
    patches = sliding_window_view(before, (patch, patch))
    for start in range(0, len(places), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        top, left = places[part].T
        correlations = _correlations(patches[top, left], windows[top, left])
        flat = correlations.reshape(len(top), -1)
        first = flat.argmax(axis=1)
        best[part] = np.maximum(flat[np.arange(len(top)), first], -1)
        shift = np.stack(np.unravel_index(first, correlations.shape[1:]), axis=1) - reach
        # Without anything to correlate with, a patch stays where it is.
        shift[best[part] <= 0] = 0
        found[part] = places[part] + shift
    return found, np.clip(best, -1, 1)


def _correlations(
    patches: NDArray[np.float32], windows: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Return the coefficients of patches (n, p, p) at the places of windows (n, p + 2r, p + 2r).

    They are -inf for places outside of the frame, where windows are NaN, and 0 for flat ones.
    """
    p = patches.shape[1]
    template = patches - patches.mean(axis=(1, 2), keepdims=True)
    blocks = sliding_window_view(windows, (p, p), axis=(1, 2))
    product = np.einsum("nij,nabij->nab", template, blocks, dtype=np.float64, optimize=True)
    mean, square = _box_mean(windows, p), _box_mean(windows.astype(np.float64) ** 2, p)
    variance = square - mean**2
    own = (template.astype(np.float64) ** 2).mean(axis=(1, 2))[:, None, None]
    textured = (variance > _FLAT) & (own > _FLAT)
    scale = p * p * np.sqrt(np.where(textured, variance * own, 1.0))
    found = np.where(textured, product / scale, 0.0)
    return np.where(np.isnan(product), -np.inf, found)


def _box_mean(windows: NDArray[np.generic], p: int) -> NDArray[np.float64]:
    """Return the mean of every block of p x p values, NaN where one of them is."""
    blocks = sliding_window_view(windows.astype(np.float64), p, axis=1).mean(axis=-1)
    return np.asarray(sliding_window_view(blocks, p, axis=2).mean(axis=-1), np.float64)
