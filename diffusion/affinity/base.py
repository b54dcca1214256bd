"""What every affinity takes and returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import sparse


@dataclass(frozen=True)
class Observation:
    """What is known of queries before diffusion.

    Attributes
    ----------
    y : csr_array, shape (m, n), float64
        Where the diffusion starts.
    J : csr_array, shape (m, n), float32, or None
        Similarity of each query's neighbourhood to the items', in [0, 1], where the affinity
        knows one.
    """

    y: sparse.csr_array
    J: sparse.csr_array | None = None


class Affinity(ABC):
    """What the graph and a query's observation need of an affinity."""

    name: ClassVar[str]

    @property
    def depth(self) -> int:
        """Neighbours of a query that its observation is made of, 0 for `query_k`."""
        return 0

    @abstractmethod
    def edges(
        self, scores: NDArray[np.float32], ids: NDArray[np.int32], *, progress: bool = False
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Turn neighbour lists (n, k), -inf and -1 where padded, into (ids, weights >= 0)."""

    @abstractmethod
    def observe(
        self, scores: NDArray[np.float32], ids: NDArray[np.int64], query_k: int
    ) -> Observation:
        """Make observations of the queries' neighbours (m, c), best first, -1 padded."""

    @abstractmethod
    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what `edges` has kept, for the index on disk."""

    @abstractmethod
    def restore(self, arrays: dict[str, NDArray[Any]], n_items: int) -> None:
        """Take what `arrays` returned in place of `edges`; raise ValueError if it is not that."""


def sparse_rows(
    weights: NDArray[np.float64], ids: NDArray[np.int64], n_items: int
) -> sparse.csr_array:
    """Turn the weights of listed items (m, c), -1 padded, into sparse rows (m, n_items)."""
    real = ids >= 0
    indptr = np.concatenate([[0], np.cumsum(real.sum(axis=1))])
    return sparse.csr_array((weights[real], ids[real], indptr), shape=(len(ids), n_items))
