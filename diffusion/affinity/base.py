"""The interface of affinities, and the observations that they return."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..kernels.matrix import SparseRows


@dataclass(frozen=True)
class Observation:
    """Observations of m queries in a collection of n items.

    Attributes
    ----------
    y : SparseRows of float64
        The weights from which diffusion starts, which are not 0.
    J : SparseRows of float32, or None
        Similarity, in [0, 1], of each query's neighbourhood to that of each item. None if the
        affinity does not compute it.
    """

    y: SparseRows
    J: SparseRows | None = None


class Affinity(ABC):
    """Interface of an affinity: edges of the graph, observations of queries, and storage."""

    name: ClassVar[str]

    @property
    def depth(self) -> int:
        """Number of neighbours used for the observation of a query; 0 stands for `query_k`."""
        return 0

    @abstractmethod
    def edges(
        self, scores: NDArray[np.float32], ids: NDArray[np.int32], *, progress: bool = False
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Turn neighbour lists into weighted edges.

        Parameters
        ----------
        scores : ndarray, shape (n, k), float32
            In descending order, padded with -inf.
        ids : ndarray, shape (n, k), int32
            Padded with -1.
        progress : bool, default False
            Show a progress bar on standard error.

        Returns
        -------
        ids : ndarray, shape (n, w), int32
            The nodes that each node is joined to, padded with -1.
        weights : ndarray, shape (n, w), float32
            Weights >= 0, 0 where padded; a new array, which the caller may overwrite.
        """

    @abstractmethod
    def observe(
        self, scores: NDArray[np.float32], ids: NDArray[np.int64], query_k: int
    ) -> Observation:
        """Make the observations of queries from their neighbours.

        Parameters
        ----------
        scores : ndarray, shape (m, c), float32
            Best first.
        ids : ndarray, shape (m, c), int64
            Padded with -1 at the end.
        query_k : int >= 1
            Number of items in an observation.

        Returns
        -------
        Observation
        """

    @abstractmethod
    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays to store, which `restore` takes."""

    @abstractmethod
    def restore(self, arrays: dict[str, NDArray[Any]], n_items: int, source: str = "state") -> None:
        """Restore the state from stored arrays instead of a call of `edges`.

        `source` is what errors call the state that the arrays belong to.

        Raises
        ------
        KeyError, ValueError
            If an array is missing, or its shape or dtype is wrong.
        """


def sparse_rows(weights: NDArray[np.float64], ids: NDArray[np.int64]) -> SparseRows:
    """Return the weights (m, c) of listed items as sparse rows.

    Entries with id -1 are padding; they and weights of 0 are left out.
    """
    kept = (ids >= 0) & (weights != 0)
    counts = np.count_nonzero(kept, axis=1)
    return SparseRows(np.cumsum(counts) - counts, counts, ids[kept].astype(np.int32), weights[kept])
