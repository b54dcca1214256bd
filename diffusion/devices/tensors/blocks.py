"""Blocks of columns as tensors, and products of a sparse matrix with them."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...kernels.blocks import Entries
from ...kernels.matrix import Matrix, Nodes
from ..base import Blocks

# Values of a block: 2 GiB of working memory for conjugate gradient, at 32 bytes each. Of a large
# graph, that is as many columns as a Reranker diffuses at a time.
_VALUES = 1 << 26

# More columns than this gain nothing.
_WIDEST = 1024

_TYPES = {np.dtype(np.float32): torch.float32, np.dtype(np.float64): torch.float64}

_sending = threading.Lock()


class TensorBlocks(Blocks):
    """Blocks as tensors on a device.

    W is copied to the device when it is first used, and kept there: 8 bytes per stored weight, and
    8 more for its weights in float64. A copy of the object, or what is unpickled, copies it anew.
    """

    # A block fills the device by itself.
    concurrent = False

    def __init__(self, device: torch.device, matrix: Matrix, nodes: Nodes) -> None:
        self._device, self._arrays, self._nodes = device, matrix, nodes
        self._n = len(nodes.order)
        self._sent: dict[Any, torch.Tensor] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_sent": {}}

    def width(self, columns: int) -> int:
        """Return as many columns as there is working memory for."""
        return max(columns, min(_WIDEST, _VALUES // max(1, self._n) // 32 * 32))

    def zeros(self, columns: int, dtype: Any = np.float32) -> torch.Tensor:
        """Return zeros."""
        return torch.zeros((self._n, columns), dtype=_TYPES[np.dtype(dtype)], device=self._device)

    def entries(self, entries: Entries) -> Entries:
        """Copy entries."""
        return Entries(*(self._send(array) for array in entries))

    def add(self, factor: float, entries: Entries, X: torch.Tensor) -> None:
        """Add entries."""
        X[entries.rows, entries.columns] += (factor * entries.values).to(X.dtype)

    def laplacian(self, alpha: float, P: torch.Tensor, Q: torch.Tensor) -> NDArray[np.float64]:
        """Multiply by I - α W."""
        torch.addmm(P, self._matrix(P.dtype), P, alpha=-alpha, out=Q)
        return _values((P * Q).sum(0, dtype=torch.float64))

    def residual(
        self, alpha: float, X: torch.Tensor, B: Entries, R: torch.Tensor
    ) -> NDArray[np.float64]:
        """Compute the true residual."""
        residual = torch.addmm(X, self._matrix(X.dtype), X, beta=-1, alpha=alpha)
        self.add(1.0, B, residual)
        R.copy_(residual)
        return _values(residual.square_().sum(0))

    def step(
        self, step: NDArray[np.float64], R: torch.Tensor, Q: torch.Tensor
    ) -> NDArray[np.float64]:
        """Subtract what a step does to the residual."""
        R.addcmul_(Q, self._rounded(step), value=-1)
        return _values(R.square().sum(0, dtype=torch.float64))

    def advance(self, step: NDArray[np.float64], X: torch.Tensor, P: torch.Tensor) -> None:
        """Make a step along P."""
        X += P * self._rounded(step).double()

    def direction(
        self,
        step: NDArray[np.float64],
        beta: NDArray[np.float64],
        X: torch.Tensor,
        R: torch.Tensor,
        P: torch.Tensor,
    ) -> None:
        """Make a step along P and turn it."""
        self.advance(step, X, P)
        P.mul_(self._rounded(beta)).add_(R)

    def recurrence(self, scale: float, P: torch.Tensor, Q: torch.Tensor) -> None:
        """Make a step of a Chebyshev recurrence."""
        torch.addmm(Q, self._matrix(P.dtype), P, beta=-1, alpha=scale, out=Q)

    def rows(self, X: torch.Tensor, scale: NDArray[np.float64], out: NDArray[np.float32]) -> None:
        """Copy columns to rows."""
        m = len(out)
        columns = (X[:, :m] * self._send(scale[:m])).float()
        position = self._kept("position", lambda: self._send(self._nodes.position))
        torch.from_numpy(out).copy_(columns[position].T.contiguous())

    def _matrix(self, dtype: torch.dtype) -> torch.Tensor:
        """Return W with weights of a type."""

        def matrix() -> torch.Tensor:
            if dtype != torch.float32:
                W = self._matrix(torch.float32)
                rows, columns, values = W.crow_indices(), W.col_indices(), W.values().to(dtype)
            else:
                # Both kinds of index must have one type, and int32 is the faster one.
                own = self._arrays.csr()
                kind = np.int32 if own.nnz < 2**31 else np.int64
                rows, columns = (self._send(a.astype(kind)) for a in (own.indptr, own.indices))
                values = self._send(own.data)
            return torch.sparse_csr_tensor(rows, columns, values, (self._n, self._n))

        return self._kept(dtype, matrix)

    def _kept(self, name: Any, make: Any) -> torch.Tensor:
        """Return what is kept on the device under a name; make it on first use."""
        if name not in self._sent:
            tensor = make()
            with _sending:
                self._sent.setdefault(name, tensor)
        return self._sent[name]

    def _rounded(self, values: NDArray[np.float64]) -> torch.Tensor:
        # A step is rounded in the same way for X and for R, so that R remains the residual of X.
        return self._send(values.astype(np.float32))

    def _send(self, array: NDArray[Any]) -> torch.Tensor:
        # `torch.tensor` copies; `from_numpy` warns about arrays that are read-only.
        return torch.tensor(array, device=self._device)


def _values(tensor: torch.Tensor) -> NDArray[np.float64]:
    return tensor.cpu().numpy()
