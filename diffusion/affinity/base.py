"""The interface of affinities, and the observations that they return."""

from __future__ import annotations

from abc import ABC, abstractmethod
from copy import copy
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..change import Ages, Change
from ..kernels.matrix import SparseRows, read_only
from ..kernels.ranking import LocalScale
from ..storage.contents import Array, Between, Layout, Ragged
from .scaling import UNSCALED

#: Neighbour lists: scores (n, k), float32, and ids (n, k), int32.
Lists = tuple[NDArray[np.float32], NDArray[np.int32]]


class Edges(NamedTuple):
    """The edges of the nodes whose edges a change of the collection has changed.

    Attributes
    ----------
    ids : ndarray, shape (m, w), int32
        The nodes that each of these nodes is joined to, padded with -1.
    weights : ndarray, shape (m, w), float32
        Weights >= 0, 0 where padded; a new array, which the caller may overwrite. Where `rows` is
        not None, those of reciprocal edges only, which both nodes give in the same way.
    rows : ndarray, shape (m,), int64, or None
        The nodes, ascending; None if they are all nodes.
    """

    ids: NDArray[np.int32]
    weights: NDArray[np.float32]
    rows: NDArray[np.int64] | None = None


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

    #: The α of a Reranker that is not given one.
    alpha: ClassVar[float] = 0.99

    #: Whether equal similarities are ordered by the ages of items (see `change`).
    by_age: ClassVar[bool] = False

    @property
    def ages(self) -> NDArray[np.int32] | None:
        """The ages (n,) of the items, None if these are in the order of their ages."""
        return None

    @property
    def depth(self) -> int:
        """Number of neighbours used for the observation of a query; 0 stands for `query_k`."""
        return 0

    @abstractmethod
    def depth_of(self, k: int | None) -> int:
        """Return how many neighbours of lists of k are used, in a collection that has as many.

        None stands for the number that suits the affinity.
        """

    def scale_of(
        self, scores: NDArray[np.float32], ids: NDArray[np.int64] | None = None
    ) -> LocalScale:
        """Return the local scale of the items, and of queries by their first-stage scores (m, c).

        The scores are in descending order, padded with -inf, and those of items of the collection.
        `ids` are the only items whose scale will be read, others than those of the collection
        aside; by default, any.
        """
        return LocalScale(0.0, UNSCALED, read_only(np.zeros(len(scores), np.float32)))

    @abstractmethod
    def listed(self, k: int | None) -> int:
        """Return how many neighbours lists should have, more than `depth_of` for updates."""

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
    def neighbor_lists(self) -> Lists | None:
        """Return the lists that the edges were made from, `depth` columns of them.

        None if they were not kept, as in an index of an earlier version.
        """

    def changed(
        self,
        scores: NDArray[np.float32],
        ids: NDArray[np.int32],
        dirty: NDArray[np.bool_],
        change: Change,
        ages: Ages,
        *,
        progress: bool = False,
    ) -> tuple[Affinity, Edges]:
        """Return the affinity of a changed collection, and the edges that are not as before.

        The result equals that of `edges` for the new lists to the last bit.

        Parameters
        ----------
        scores, ids : ndarray, shape (after, k)
            The new lists, which replace those of `neighbor_lists`; see `edges`.
        dirty : ndarray, shape (after,), bool
            The items whose lists have changed other than by the new rows of moved items. Those of
            added items have.
        change : Change
        ages : Ages
        progress : bool, default False
            Show a progress bar on standard error.

        Returns
        -------
        affinity : Affinity
            A new one; this one is left as it is.
        edges : Edges
        """
        new = copy(self)
        return new, Edges(*new.edges(scores, ids, progress=progress))

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

    #: Which of the arrays that are stored hold rows of any length.
    rows: ClassVar[tuple[Ragged, ...]] = ()

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


def lists_layout(n: int, k: int | str) -> Layout:
    """Return what the arrays of the neighbour lists of n items must be."""
    scores = Between(-np.inf, float(np.finfo(np.float32).max))
    return {
        "scores": Array(np.float32, (n, k), scores),
        "ids": Array(np.int32, (n, k), Between(-1, n - 1)),
    }
