"""Compiled loops of the solvers that multiply W with a block of vectors and nothing else."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from .loops import CHUNK, parallel


@parallel
def recurrence_block(
    indptr: Any, indices: Any, weights: Any, scale: Any, shift: Any, P: Any, Q: Any
) -> None:
    """Q = scale W P + shift P - Q for float blocks P, Q (n, b): a step of a Chebyshev recurrence.

    `scale` and `shift` are of the blocks' type.
    """
    n, b = P.shape
    for chunk in numba.prange(-(-n // CHUNK)):
        total = np.empty(b, P.dtype)
        for i in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK)):
            e, end = indptr[i], indptr[i + 1]
            total[:] = 0
            # As kernels.laplacian_block: four edges a pass, unsigned indices.
            while e + 4 <= end:
                j0, j1 = np.uintp(indices[e]), np.uintp(indices[e + 1])
                j2, j3 = np.uintp(indices[e + 2]), np.uintp(indices[e + 3])
                w0, w1, w2, w3 = weights[e], weights[e + 1], weights[e + 2], weights[e + 3]
                for c in range(b):
                    total[c] += w0 * P[j0, c] + w1 * P[j1, c] + w2 * P[j2, c] + w3 * P[j3, c]
                e += 4
            while e < end:
                j, w = np.uintp(indices[e]), weights[e]
                for c in range(b):
                    total[c] += w * P[j, c]
                e += 1
            for c in range(b):
                Q[i, c] = scale * total[c] + shift * P[i, c] - Q[i, c]
