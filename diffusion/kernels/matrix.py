"""Arrays that belong together, as compiled loops take them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Matrix(NamedTuple):
    """A sparse square matrix in CSR form."""

    indptr: Any  # (n + 1,) int64
    indices: Any  # int32
    weights: Any  # float32


class Nodes(NamedTuple):
    """What is known of each node: where it is stored, and its degree."""

    order: Any  # (n,) int32, the user's id of the node stored at a position
    position: Any  # (n,) int32, the inverse of `order`
    degrees: Any  # (n,) float64, in the user's order


class System(NamedTuple):
    """(I - α W) x = (1 - α) y, and when an iterative solution of it ends."""

    alpha: float
    tol: float  # relative residual
    max_iter: int


class Observations(NamedTuple):
    """Rows of observations in CSR form, their nodes in storage order."""

    indptr: Any  # (m + 1,) int64
    nodes: Any  # int32
    values: Any  # float64

    def part(self, rows: slice) -> Observations:
        """Return some of the rows."""
        return self._replace(indptr=self.indptr[rows.start : rows.stop + 1])


class SparseRows(NamedTuple):
    """Sparse answers under construction: row t has its own room from `starts[t]` on."""

    starts: Any  # (m,) int64
    counts: Any  # (m,) int64, entries written
    ids: Any  # int32, in the user's order
    values: Any  # float32

    @classmethod
    def of_at_most(cls, entries: NDArray[np.int64]) -> SparseRows:
        """Allocate rows of at most so many entries each."""
        starts = np.concatenate([[0], np.cumsum(entries, dtype=np.int64)])
        ids, values = np.empty(starts[-1], np.int32), np.empty(starts[-1], np.float32)
        return cls(starts[:-1], np.zeros(len(entries), np.int64), ids, values)

    def part(self, rows: slice) -> SparseRows:
        """Return some of the rows."""
        return self._replace(starts=self.starts[rows], counts=self.counts[rows])


def read_only(array: Any) -> NDArray[Any]:
    """Return a plain read-only view.

    A kernel is compiled anew for memory that may be written to: arrays just made and arrays
    memory-mapped from a file are the same to it by this.
    """
    view = np.asarray(array).view()
    view.flags.writeable = False
    return view
