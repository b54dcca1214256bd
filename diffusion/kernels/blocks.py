"""Compiled loops over blocks of vectors: products by W, and the steps of conjugate gradient.

Conventions: n is the number of nodes, and b the number of right-hand sides solved together. A
block of right-hand sides has shape (n, b), with one row per node, so that the b values that an
edge needs are contiguous in memory. Sums over nodes are computed for chunks of fixed size and then
over the chunks, so that results do not depend on the number of threads.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .matrix import Matrix
from .threads import CHUNK, chunks, parallel
from .vectors import gather

# A value is replaced by 0 if it is smaller than this multiple of the smallest normal number. At the
# front of a diffusion, values are as small as the hops are many, and arithmetic on subnormal
# numbers takes a hundred times as long.
_NORMAL = 2.0**26


class Entries(NamedTuple):
    """The entries of a sparse block: values[t] at (rows[t], columns[t]), rows ascending."""

    rows: Any  # int64
    columns: Any  # int64
    values: Any  # float64


@parallel(lambda matrix, alpha, P, Q, dots: len(dots), grain=4)
def laplacian_block(
    start: int, stop: int, matrix: Matrix, alpha: Any, P: Any, Q: Any, dots: Any
) -> None:
    """Compute Q = (I - α W) P for a float32 block P (n, b).

    `dots[chunk, c]` receives the sum of P[:, c] Q[:, c] over the chunk.
    """
    starts, stops, indices, weights = matrix
    n, b = P.shape
    for chunk in range(start, stop):
        total = np.empty((1, b), np.float32)
        dot = dots[chunk]
        dot[:] = 0
        for i in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK)):
            gather(indices, weights, starts[i], stops[i], P, total)
            for c in range(b):
                q = P[i, c] - alpha * total[0, c]
                Q[i, c] = q
                dot[c] += np.float64(P[i, c]) * q


@parallel(lambda matrix, alpha, X, B, R, squares: len(squares), grain=4)
def residual_block(
    start: int, stop: int, matrix: Matrix, alpha: float, X: Any, B: Entries, R: Any, squares: Any
) -> None:
    """Compute R = B - (I - α W) X in float64, rounded to float32 at the end.

    B and X have shape (n, b); X is float64. `squares[chunk, c]` receives the sum of R[:, c]² over
    the chunk, before rounding.
    """
    starts, stops, indices, weights = matrix
    rows, columns, values = B
    n, b = X.shape
    for chunk in range(start, stop):
        total = np.empty((1, b), np.float64)
        residual = total[0]
        square = squares[chunk]
        square[:] = 0
        t = np.searchsorted(rows, chunk * CHUNK)
        for i in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK)):
            gather(indices, weights, starts[i], stops[i], X, total)
            for c in range(b):
                residual[c] = alpha * residual[c] - X[i, c]
            while t < rows.shape[0] and rows[t] == i:
                residual[columns[t]] += values[t]
                t += 1
            for c in range(b):
                R[i, c] = residual[c]
                square[c] += residual[c] * residual[c]


@parallel(lambda step, R, Q, squares: len(squares), grain=8)
def step_block(start: int, stop: int, step: Any, R: Any, Q: Any, squares: Any) -> None:
    """Compute R -= step Q in float32, column by column.

    `squares[chunk, c]` receives the sum of R[:, c]² over the chunk.
    """
    n, b = R.shape
    for chunk in range(start, stop):
        square = squares[chunk]
        square[:] = 0
        for i in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK)):
            for c in range(b):
                r = np.float32(R[i, c] - step[c] * Q[i, c])
                R[i, c] = r
                square[c] += np.float64(r) * r


@parallel(lambda step, X, P: len(P), grain=4096)
def advance_block(start: int, stop: int, step: Any, X: Any, P: Any) -> None:
    """Compute X += step P in float64, column by column."""
    b = P.shape[1]
    for i in range(start, stop):
        for c in range(b):
            X[i, c] += step[c] * P[i, c]


@parallel(lambda step, beta, X, R, P: len(P), grain=4096)
def direction_block(start: int, stop: int, step: Any, beta: Any, X: Any, R: Any, P: Any) -> None:
    """Compute X += step P in float64 and then P = R + β P in float32, column by column."""
    b = P.shape[1]
    least = np.finfo(P.dtype).tiny * _NORMAL
    for i in range(start, stop):
        for c in range(b):
            p = np.float64(P[i, c])
            X[i, c] += step[c] * p
            turned = R[i, c] + beta[c] * p
            P[i, c] = turned if abs(turned) >= least else 0.0


@parallel(lambda X, *_: chunks(len(X)), grain=8)
def columns_to_rows(start: int, stop: int, X: Any, position: Any, scale: Any, out: Any) -> None:
    """Copy the columns of a block in storage order to rows in the user's order.

    out[c, i] = scale[c] X[position[i], c], for as many columns as `out` has rows. X may have more.
    """
    b, n = out.shape
    for chunk in range(start, stop):
        for i in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK)):
            p = position[i]
            for c in range(b):
                out[c, i] = scale[c] * X[p, c]


@parallel(lambda matrix, scale, shift, P, Q: chunks(len(P)), grain=4)
def recurrence_block(
    start: int, stop: int, matrix: Matrix, scale: Any, shift: Any, P: Any, Q: Any
) -> None:
    """Compute Q = scale W P + shift P - Q, a step of a Chebyshev recurrence.

    P and Q are blocks (n, b) of one floating-point type, which is also that of `scale` and `shift`.
    """
    starts, stops, indices, weights = matrix
    n, b = P.shape
    least = P.dtype.type(np.finfo(P.dtype).tiny * _NORMAL)
    zero = P.dtype.type(0)
    for chunk in range(start, stop):
        total = np.empty((1, b), P.dtype)
        for i in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK)):
            gather(indices, weights, starts[i], stops[i], P, total)
            for c in range(b):
                q = scale * total[0, c] + shift * P[i, c] - Q[i, c]
                Q[i, c] = q if abs(q) >= least else zero
