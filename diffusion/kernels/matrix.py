"""Named tuples of arrays, the arguments of compiled loops."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# The largest entry of W is 1, up to rounding.
LARGEST_WEIGHT = 1 + 1e-3


class Matrix(NamedTuple):
    """A sparse square matrix in CSR form."""

    indptr: Any  # (n + 1,) int64
    indices: Any  # int32
    weights: Any  # float32


class Nodes(NamedTuple):
    """The position of each node in storage order, and its degree."""

    order: Any  # (n,) int32, the user's id of the node stored at each position
    position: Any  # (n,) int32, the inverse of `order`
    degrees: Any  # (n,) float64, in the user's order


class System(NamedTuple):
    """The system (I - α W) x = (1 - α) y, and the stopping criteria of its iterative solution."""

    alpha: float
    tol: float  # relative residual
    max_iter: int


class Observations(NamedTuple):
    """Observations as rows in CSR form, with nodes in storage order."""

    indptr: Any  # (m + 1,) int64
    nodes: Any  # int32
    values: Any  # float64

    def part(self, rows: slice) -> Observations:
        """Return the given rows."""
        return self._replace(indptr=self.indptr[rows.start : rows.stop + 1])


class SparseRows(NamedTuple):
    """Sparse rows under construction; the entries of row t are stored from `starts[t]` on."""

    starts: Any  # (m,) int64
    counts: Any  # (m,) int64, number of entries of each row
    ids: Any  # int32, the user's ids
    values: Any  # float32

    @classmethod
    def of_at_most(cls, entries: NDArray[np.int64]) -> SparseRows:
        """Allocate rows of at most the given numbers of entries (m,)."""
        starts = np.concatenate([[0], np.cumsum(entries, dtype=np.int64)])
        ids, values = np.empty(starts[-1], np.int32), np.empty(starts[-1], np.float32)
        return cls(starts[:-1], np.zeros(len(entries), np.int64), ids, values)

    def part(self, rows: slice) -> SparseRows:
        """Return the given rows."""
        return self._replace(starts=self.starts[rows], counts=self.counts[rows])


def read_only(array: Any) -> NDArray[Any]:
    """Return a read-only view, as a plain array.

    Numba compiles a kernel separately for writable and for read-only arrays. Arrays in memory and
    arrays memory-mapped from a file thereby share one compiled kernel.
    """
    view = np.asarray(array).view()
    view.flags.writeable = False
    return view
