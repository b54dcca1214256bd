"""The compiled loops, on the cores of the machine."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..kernels import blocks as loops
from ..kernels import encodings
from ..kernels.blocks import Entries
from ..kernels.matrix import Matrix, Nodes
from ..kernels.threads import chunks
from .base import Blocks

# Bytes of a line of the cache. A row of a block that begins within one takes one line more, which
# costs a third of the time of a product.
_LINE = 64


class CompiledBlocks(Blocks):
    """Blocks as numpy arrays."""

    concurrent = True

    def __init__(self, matrix: Matrix, nodes: Nodes) -> None:
        self._matrix, self._nodes = matrix, nodes
        self._n = len(nodes.order)

    def width(self, columns: int) -> int:
        """Return the number itself."""
        return columns

    def zeros(self, columns: int, dtype: Any = np.float32) -> Any:
        """Return zeros, each row of 16 columns within as few lines of the cache as it fits."""
        size = self._n * columns * np.dtype(dtype).itemsize
        memory = np.zeros(size + _LINE, np.uint8)
        begin = -memory.ctypes.data % _LINE
        return memory[begin : begin + size].view(dtype).reshape(self._n, columns)

    def entries(self, entries: Entries) -> Entries:
        """Return the entries themselves."""
        return entries

    def add(self, factor: float, entries: Entries, X: Any) -> None:
        """Add entries."""
        X[entries.rows, entries.columns] += (factor * entries.values).astype(X.dtype)

    def laplacian(self, alpha: float, P: Any, Q: Any) -> NDArray[np.float64]:
        """Multiply by I - α W."""
        sums = self._sums(P)
        loops.laplacian_block(self._matrix, np.float32(alpha), P, Q, sums)
        return sums.sum(axis=0)

    def residual(self, alpha: float, X: Any, B: Entries, R: Any) -> NDArray[np.float64]:
        """Compute the true residual."""
        sums = self._sums(X)
        loops.residual_block(self._matrix, alpha, X, B, R, sums)
        return sums.sum(axis=0)

    def step(self, step: NDArray[np.float64], R: Any, Q: Any) -> NDArray[np.float64]:
        """Subtract what a step does to the residual."""
        sums = self._sums(R)
        loops.step_block(step, R, Q, sums)
        return sums.sum(axis=0)

    def advance(self, step: NDArray[np.float64], X: Any, P: Any) -> None:
        """Make a step along P."""
        loops.advance_block(step, X, P)

    def direction(
        self, step: NDArray[np.float64], beta: NDArray[np.float64], X: Any, R: Any, P: Any
    ) -> None:
        """Make a step along P and turn it."""
        loops.direction_block(step, beta, X, R, P)

    def recurrence(self, scale: float, P: Any, Q: Any) -> None:
        """Make a step of a Chebyshev recurrence."""
        loops.recurrence_block(self._matrix, P.dtype.type(scale), P.dtype.type(0), P, Q)

    def rows(self, X: Any, scale: NDArray[np.float64], out: NDArray[np.float32]) -> None:
        """Copy columns to rows."""
        loops.columns_to_rows(X, self._nodes.position, scale, out)

    def _sums(self, X: Any) -> NDArray[np.float64]:
        return np.empty((chunks(self._n), X.shape[1]), np.float64)


class CompiledContext:
    """The loops of `kernels.encodings`."""

    encode = staticmethod(encodings.encode)
    jaccard_lists = staticmethod(encodings.jaccard_lists)
