"""Saliency that fills objects: a random walk with restart between the cells of one image.

The walk moves between cells that look alike and are close to each other. It starts at salient
cells and returns to them, so that saliency on a part of an object spreads over the object.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffusion.errors import DiffusionError
from diffusion.validation import check_real

from ..networks.frame import Frame
from .maps import Map, as_saliency

Vectors = NDArray[np.float32]
Product = Callable[[Vectors], Vectors]

_POWER = 3  # of the cosine similarity
_SIGMA = 4.0  # of the distance, in cells

# Up to this number of cells all pairs are used, as one array of at most 64 MiB.
_DENSE_CELLS = 4096
# Beyond, only pairs within 4 sigma on each axis are: a weight below exp(-8) is left out. The array
# of a square of _TILE x _TILE cells holds the weights to all cells within reach, so that the whole
# takes 4 (_TILE + 2 _REACH)^2 bytes per cell.
_REACH = 16
_TILE = 16

# The residual falls to this share of the right-hand side, close to what float32 allows.
_TOLERANCE = 1e-5
# The condition number of the system is below 2 / restart; the limit is reached by errors only.
_MOST_ITERATIONS = 1000


def walk(saliency: Any, vectors: Any, *, restart: float = 0.02) -> Map:
    """Spread saliency over similar cells nearby: x = restart S + (1 - restart) P x.

    ``P = D^-1 A`` with ``A_pq = max(v_p . v_q, 0)^3 exp(-|p - q|^2 / (2 4^2))``, ``A_pp = 0`` and D
    the row sums of A. The rows of P sum to 1, so that x_p is a weighted mean of S.

    Parameters
    ----------
    saliency : array_like, shape (h, w), >= 0
        S, where the walk starts.
    vectors : array_like, shape (h, w, d)
        Descriptors of the cells, L2-normalised or zero.
    restart : float in (0, 1), default 0.02
        Probability to return to S at each step. The smaller, the farther saliency spreads.

    Returns
    -------
    ndarray, shape (h, w), float32
        x, in [0, max S]. A cell without a similar neighbour has restart times its S.

    Raises
    ------
    DiffusionError
        If an argument is not as described.

    Notes
    -----
    The equivalent system ``(I - (1 - restart) D^-1/2 A D^-1/2) y = restart D^1/2 S`` with
    ``x = D^-1/2 y`` is symmetric and positive definite and is solved by conjugate gradients, to a
    residual of 1e-5 of the right-hand side.

    Memory: the array of A takes 4 (h w)^2 bytes for up to 4096 cells. For larger maps A_pq is 0 for
    cells that are more than 4 sigma apart on one axis, and A takes 9216 bytes per cell.
    """
    S = as_saliency(saliency).astype(np.float32)
    V = _as_vectors(vectors, S.shape)
    share = check_real(restart, "restart", low=0, high=1, strict=True)
    product, D = _affinity(V)
    s, linked = S.ravel(), D > 0
    x = share * s
    if linked.any() and s.any():
        _solve(product, D, linked, s, share, x)
    # A weighted mean of S, from which rounding errors alone depart.
    return np.clip(x, 0, s.max(), out=x).reshape(S.shape)


def resampled(values: Any, frame: Frame, to_frame: Frame, shape: tuple[int, int]) -> Map:
    """Interpolate a map bilinearly at the centres of other cells.

    Parameters
    ----------
    values : array_like, shape (h, w)
    frame : Frame
        Positions of its cells in the image.
    to_frame : Frame
        Positions of the other cells.
    shape : tuple of int
        Their numbers (h', w').

    Returns
    -------
    ndarray, shape (h', w'), float32
        Beyond the outermost centres, the value there.
    """
    V = np.asarray(values, np.float32)
    if V.ndim != 2 or 0 in V.shape:
        raise DiffusionError(f"values: expected shape (h, w), neither of them 0, got {V.shape}")
    (h, w), (high, wide) = V.shape, shape
    strides = frame.stride, to_frame.stride
    rows = _weights(h, high, strides, (frame.offset_y, to_frame.offset_y))
    columns = _weights(w, wide, strides, (frame.offset_x, to_frame.offset_x))
    return np.asarray(rows @ V @ columns.T, np.float32)


def _weights(
    count: int, to_count: int, strides: tuple[float, float], offsets: tuple[float, float]
) -> Vectors:
    """Return the weights (to_count, count) of linear interpolation along one axis."""
    centres = offsets[1] + strides[1] * (np.arange(to_count) + 0.5)
    position = np.clip((centres - offsets[0]) / strides[0] - 0.5, 0, count - 1)
    # The hat function of each cell.
    hats = 1 - np.abs(position[:, None] - np.arange(count))
    return np.maximum(hats, 0).astype(np.float32)


def _as_vectors(vectors: Any, shape: tuple[int, ...]) -> Vectors:
    try:
        V = np.asarray(vectors, dtype=np.float32)
    except (TypeError, ValueError):
        raise DiffusionError("vectors: expected an array of numbers of shape (h, w, d)") from None
    if V.ndim != 3 or V.shape[:2] != shape or not V.shape[2]:
        expected = f"({shape[0]}, {shape[1]}, d), a vector for each position of the map"
        raise DiffusionError(f"vectors: expected shape {expected}, got {V.shape}")
    if not np.isfinite(V.sum()):
        raise DiffusionError("vectors: expected finite values")
    return V


# --- affinity -------------------------------------------------------------------------------------


@lru_cache(maxsize=16)
def _gaussian(count: int, reach: int) -> Vectors:
    """Return exp(-(i - j)^2 / (2 sigma^2)) of count cells in a row, 0 beyond `reach`."""
    distance = np.abs(np.arange(count)[:, None] - np.arange(count))
    weights = np.exp(-(distance**2) / (2 * _SIGMA**2)) * (distance <= reach)
    weights = weights.astype(np.float32)
    weights.flags.writeable = False
    return weights


def _affinity(V: Vectors) -> tuple[Product, Vectors]:
    """Return the product of A with a vector (n,), and the row sums of A."""
    height, width, _ = V.shape
    if height * width <= _DENSE_CELLS:
        A = _weighted(V, V, _gaussian(height, height), _gaussian(width, width))
        np.fill_diagonal(A, 0)
        return A.__matmul__, A.sum(axis=1)
    return _tiled(V)


def _weighted(P: Vectors, Q: Vectors, rows: Vectors, columns: Vectors) -> Vectors:
    """Return max(v_p . v_q, 0)^3 times rows[y_p, y_q] columns[x_p, x_q], for all p and q.

    P (h, w, d) and Q (h', w', d) are parts of one grid, `rows` (h, h') and `columns` (w, w') the
    weights of the distances between their rows and columns.
    """
    (h, w, d), (high, wide, _) = P.shape, Q.shape
    A = P.reshape(-1, d) @ Q.reshape(-1, d).T
    blocks = A.reshape(h, w, high, wide)
    cubes = np.empty((w, high, wide), np.float32)
    # One row of cells at a time, which stays in the cache of the processor.
    for block, row in zip(blocks, rows, strict=True):
        np.maximum(block, 0, out=block)
        np.multiply(block, block, out=cubes)
        cubes *= columns[:, None]
        cubes *= row[:, None]
        block *= cubes
    return A


def _tiled(V: Vectors) -> tuple[Product, Vectors]:
    """Return what `_affinity` does, of the pairs within reach of each other."""
    height, width, _ = V.shape
    rows, columns = _gaussian(height, _REACH), _gaussian(width, _REACH)
    tiles = []
    sums = np.empty((height, width), np.float32)
    for inner_y, outer_y in _spans(height):
        for inner_x, outer_x in _spans(width):
            inner, outer = (inner_y, inner_x), (outer_y, outer_x)
            A = _weighted(V[inner], V[outer], rows[inner_y, outer_y], columns[inner_x, outer_x])
            _clear_diagonal(A, inner, outer)
            sums[inner] = A.sum(axis=1).reshape(sums[inner].shape)
            tiles.append((inner, outer, A))

    def product(x: Vectors) -> Vectors:
        grid = x.reshape(height, width)
        result = np.empty_like(grid)
        for inner, outer, A in tiles:
            result[inner] = (A @ grid[outer].ravel()).reshape(result[inner].shape)
        return result.ravel()

    return product, sums.ravel()


def _spans(count: int) -> list[tuple[slice, slice]]:
    """Return the parts of a line of cells, each with the part that is within its reach."""
    return [
        (
            slice(start, min(start + _TILE, count)),
            slice(max(start - _REACH, 0), min(start + _TILE + _REACH, count)),
        )
        for start in range(0, count, _TILE)
    ]


def _clear_diagonal(A: Vectors, inner: tuple[slice, slice], outer: tuple[slice, slice]) -> None:
    """Set A_pp of a tile to 0."""
    starts = [i.start - o.start for i, o in zip(inner, outer, strict=True)]
    y, x = (np.arange(i.stop - i.start) + s for i, s in zip(inner, starts, strict=True))
    own = (y[:, None] * (outer[1].stop - outer[1].start) + x).ravel()
    A[np.arange(len(A)), own] = 0


# --- solution -------------------------------------------------------------------------------------


def _solve(
    product: Product, D: Vectors, linked: NDArray[np.bool_], s: Vectors, share: float, x: Vectors
) -> None:
    """Write x = share s + (1 - share) D^-1 A x to the cells with neighbours."""
    roots = np.sqrt(D)
    scale = np.zeros_like(D)
    np.divide(1, roots, out=scale, where=linked)

    def applied(y: Vectors) -> Vectors:
        image = product(scale * y)
        image *= (share - 1) * scale
        image += y
        return image

    # From zero, cells that the walk cannot reach from S stay exactly zero.
    b: Vectors = np.asarray(share * roots * s, np.float32)
    y, residual = np.zeros_like(b), b.copy()
    direction = residual.copy()
    squared = float(residual @ residual)
    goal = _TOLERANCE**2 * float(b @ b)
    for _ in range(_MOST_ITERATIONS):
        if squared <= goal:
            break
        image = applied(direction)
        step = squared / float(direction @ image)
        y += step * direction
        residual -= step * image
        before, squared = squared, float(residual @ residual)
        direction *= squared / before
        direction += residual
    x[linked] = (scale * y)[linked]
