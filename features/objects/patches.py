"""Whitened descriptors of the cells of a map, and of patches of it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from ..description.whitening import Whitening
from .maps import Map


def patch_maxima(A: Map, patch: int) -> Map:
    """Return the largest activation of each channel in the patch around each position.

    Parameters
    ----------
    A : ndarray, shape (c, h, w)
    patch : int >= 1, odd
        Side of the patch, which is clipped to the map.

    Returns
    -------
    ndarray, shape (c, h, w)
    """
    maxima = A
    # The maximum along each axis in turn. Slices are many times faster here than a pooling of few
    # cells and many channels, and three times faster than padding and shifting.
    for axis in (1, 2):
        along, maxima = maxima, maxima.copy()
        for shift in range(1, min(patch // 2, A.shape[axis] - 1) + 1):
            low, high = [slice(None)] * 3, [slice(None)] * 3
            low[axis], high[axis] = slice(None, -shift), slice(shift, None)
            for to, of in ((low, high), (high, low)):
                part = maxima[tuple(to)]
                np.maximum(part, along[tuple(of)], out=part)
    return maxima


class CellWhitening:
    """A whitening in float32, for the vectors of the cells of a map.

    Parameters
    ----------
    whitening : Whitening
    """

    def __init__(self, whitening: Whitening) -> None:
        self._projection = torch.from_numpy(whitening.projection.astype(np.float32))
        self._shift = torch.from_numpy((whitening.projection @ whitening.mean).astype(np.float32))

    def __call__(self, columns: NDArray[np.float32]) -> NDArray[np.float32]:
        """Whiten vectors: from columns, shape (c, m), to unit rows, shape (m, d)."""
        X = torch.from_numpy(columns)
        # P (x / ||x|| - m). The division comes last, when there are fewer values to divide.
        norms = torch.linalg.vector_norm(X, dim=0).clamp(min=torch.finfo(X.dtype).tiny)
        whitened = (self._projection @ X / norms).T - self._shift
        return functional.normalize(whitened, dim=1).numpy()

    def grid(self, A: Map) -> NDArray[np.float32]:
        """Whiten all cells of a map: from shape (c, h, w) to shape (h, w, d)."""
        return self(A.reshape(len(A), -1)).reshape(*A.shape[1:], -1)


def cells_in(boxes: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Return the positions in boxes that may extend beyond a map.

    Parameters
    ----------
    boxes : ndarray, shape (k, 4), float64
        Left, top, right, bottom in cells.
    shape : tuple of int
        Height and width of the map.

    Returns
    -------
    ndarray, shape (k, 4), int64
        Top, left, height and width. A position belongs to a box that contains its centre; a box
        that contains none has the position of its own centre, or the nearest one on the map.
    """
    h, w = shape
    low, high = np.ceil(boxes[:, :2] - 0.5), np.ceil(boxes[:, 2:] - 0.5)
    low = np.where(high > low, low, np.floor((boxes[:, :2] + boxes[:, 2:]) / 2))
    low = np.clip(low, 0, [w - 1, h - 1])
    high = np.clip(high, low + 1, [w, h])
    return np.concatenate([low, high - low], axis=1)[:, [1, 0, 3, 2]].astype(np.int64)
