"""Border prior: cells that are connected to the border of an image are likely to be background."""

from __future__ import annotations

from typing import Any

import numpy as np

from diffusion.errors import DiffusionError

from .maps import Map

_WIDTH = 0.7
# Cells compared with all others at a time: 16 MiB for a map of 64 x 64.
_AT_ONCE = 1024


def border_prior(vectors: Any) -> Map:
    """Compute how weakly each cell is connected to the border: exp(-con^2 / (2 0.7^2)).

    ``con_p = Σ_{q on the border} a_pq / sqrt(Σ_q a_pq)`` with ``a_pq = max(u_p . u_q, 0)^2``, the
    boundary connectivity: the length of the border of the region that looks like p, relative to
    the square root of its area. The border is the outermost ring of cells. Background is usually
    cut off by it; an object that fills the border is taken for background.

    Parameters
    ----------
    vectors : array_like, shape (h, w, d)
        u, the descriptors of the cells, L2-normalised or zero.

    Returns
    -------
    ndarray, shape (h, w), float32
        In (0, 1]: near 1 for cells unlike the border. All 1 for maps with fewer than 3 cells on a
        side, which have no cells within the border.

    Raises
    ------
    DiffusionError
        If `vectors` is not as described.

    References
    ----------
    Zhu, Liang, Wei, Sun. Saliency Optimization from Robust Background Detection. CVPR 2014.
    """
    try:
        V = np.asarray(vectors, dtype=np.float32)
    except (TypeError, ValueError):
        raise DiffusionError("vectors: expected an array of numbers of shape (h, w, d)") from None
    if V.ndim != 3 or 0 in V.shape:
        raise DiffusionError(f"vectors: expected shape (h, w, d), none of them 0, got {V.shape}")
    if not np.isfinite(V.sum()):
        raise DiffusionError("vectors: expected finite values")
    shape = V.shape[:2]
    if min(shape) < 3:
        return np.ones(shape, np.float32)
    ring = np.ones(shape, bool)
    ring[1:-1, 1:-1] = False
    U = V.reshape(-1, V.shape[2])
    near, area = np.empty(len(U), np.float32), np.empty(len(U), np.float32)
    for start in range(0, len(U), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        a = np.square(np.maximum(U[part] @ U.T, 0))
        near[part] = a @ ring.ravel().astype(np.float32)
        area[part] = a.sum(axis=1)
    # A cell of zeros is connected to nothing, not even to itself.
    connected = np.square(near) / np.where(area > 0, area, 1)
    prior = np.exp(-connected / (2 * _WIDTH**2))
    # Large uniform maps underflow, and a prior of 0 would no longer be one of (0, 1].
    return np.maximum(prior, np.finfo(np.float32).tiny).reshape(shape)
