"""What a device computes: operations on blocks of columns, and the contextual encoding."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..kernels.blocks import Entries
from ..kernels.context import Encodings, Holders, Scales, Sets


class Blocks(ABC):
    """Blocks of columns (n, b) on a device, and the products of a matrix W with them.

    Nodes are in storage order. A block is an array or a tensor of the device; only `zeros` makes
    one, and only methods of the same object take it. Values per column are numpy arrays (b,),
    float64. A block holds float32 unless stated otherwise.
    """

    #: Whether several blocks may be worked on at the same time, one per core.
    concurrent: bool

    @abstractmethod
    def width(self, columns: int) -> int:
        """Return the number of columns to solve together, at least the given number."""

    @abstractmethod
    def zeros(self, columns: int, dtype: Any = np.float32) -> Any:
        """Return a block of zeros, of type float32 or float64."""

    @abstractmethod
    def entries(self, entries: Entries) -> Entries:
        """Copy the entries of a sparse block, each at a place of its own, to the device."""

    @abstractmethod
    def add(self, factor: float, entries: Entries, X: Any) -> None:
        """Add entries on the device, times a factor, to a block."""

    @abstractmethod
    def laplacian(self, alpha: float, P: Any, Q: Any) -> NDArray[np.float64]:
        """Compute Q = (I - α W) P; return the sum of P Q over each column."""

    @abstractmethod
    def residual(self, alpha: float, X: Any, B: Entries, R: Any) -> NDArray[np.float64]:
        """Compute R = B - (I - α W) X in float64 from X in float64; return ||R||² of each column.

        R is rounded to float32 at the end.
        """

    @abstractmethod
    def step(self, step: NDArray[np.float64], R: Any, Q: Any) -> NDArray[np.float64]:
        """Compute R -= step Q; return ||R||² of each column."""

    @abstractmethod
    def advance(self, step: NDArray[np.float64], X: Any, P: Any) -> None:
        """Compute X += step P in float64."""

    @abstractmethod
    def direction(
        self, step: NDArray[np.float64], beta: NDArray[np.float64], X: Any, R: Any, P: Any
    ) -> None:
        """Compute X += step P in float64, and then P = R + β P, so that P is read once."""

    @abstractmethod
    def recurrence(self, scale: float, P: Any, Q: Any) -> None:
        """Compute Q = scale W P - Q, for two blocks of one type."""

    @abstractmethod
    def rows(self, X: Any, scale: NDArray[np.float64], out: NDArray[np.float32]) -> None:
        """Copy the first columns of X, times their scales, to rows (m, n) in the user's order."""


class ContextLoops(Protocol):
    """The loops of `kernels.encodings`, which take the time when a collection is encoded."""

    def encode(
        self,
        items: NDArray[np.integer],
        places: NDArray[np.integer],
        sets: Sets,
        scales: Scales,
        out: Encodings,
    ) -> None:
        """Encode items; see `kernels.encodings.encode`."""

    def jaccard_lists(
        self,
        items: NDArray[np.integer],
        places: NDArray[np.integer],
        encodings: Encodings,
        holders: Holders,
        ages: NDArray[np.int32],
        out_ids: NDArray[np.int32],
        out_overlaps: NDArray[np.uint16],
    ) -> None:
        """List the most similar items; see `kernels.encodings.jaccard_lists`."""
