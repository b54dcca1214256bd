"""The neighbour index: the first stage of a search, and the neighbour lists of a collection.

Scores are higher for nearer items with every metric: they are the cosine, the inner product or the
negative squared Euclidean distance.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ..change import Change
from ..kernels.cells import Level
from ..kernels.lists import copy_without_self
from ..kernels.neighbors import Near, score_others
from ..storage.contents import (
    COMPUTED,
    Array,
    Arrays,
    Between,
    Contents,
    Layout,
    Offsets,
    Ragged,
    Stops,
    finite,
    with_rows,
)
from ..storage.files import fingerprint
from ..storage.rows import ListsCheckpoint
from . import cells
from .auto import outgrown, share_found, tuned
from .cell_updates import changed_cells, fits, near_items, places_of
from .cells import Cells
from .methods import HNSW, IVF, Auto, Method, NNDescent, search_all
from .progress import row_blocks
from .reverse import every_item, items_found

Lists = tuple[NDArray[np.float32], NDArray[Any]]

# Entries of the lists of queries searched together.
_LISTED_VALUES = 1 << 23

# The largest magnitude of a value of a vector: of a unit vector, up to rounding, and of any vector
# whose squared distances fit float32.
_LARGEST_UNIT, _LARGEST = 1 + 1e-3, 1e19

# What is stored of the cells of an inverted file beside the vectors, which are sorted by cell. An
# earlier version stored vectors in the order of their ids, and the cell of each.
_STORED = ("ids", "starts", "stops", "centroids", "groups")

# Gathered vectors held at a time, in values: 64 MiB of float32.
_GATHER_VALUES = 1 << 24

# The factor by which lists are made longer until they have enough of what a filter allows.
_MORE = 4

# The longest list that is searched to find all items that tie for a place.
_WIDEST_TIE = 4096

# Added items whose recall is measured after a change.
_MEASURED = 128


class SearchIndex(ABC):
    """What finds the vectors of a collection that are nearest to queries.

    Attributes
    ----------
    metric : {"cosine", "inner_product", "euclidean"}
    method : method of neighbour search
        What an index stores of it.
    size, dimension : int
        Of the collection.
    center : ndarray, shape (d,), or None
        What queries are reduced by.
    recall : float or None
        Share of the true neighbours in lists, where it has been measured.
    contents : Contents
        The arrays that are checked before they are used.
    """

    metric: str
    method: Any
    size: int
    dimension: int
    center: NDArray[np.float64] | None = None
    recall: float | None = None
    contents: Contents = COMPUTED
    #: Which of the arrays that are stored hold rows of any length, if they are stored.
    rows: ClassVar[tuple[Ragged, ...]] = ()

    @abstractmethod
    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays to store."""

    def check(self) -> None:
        """Check what a search reads of arrays that were read from a file, or does not check itself.

        Raises
        ------
        DiffusionError
            If they are not what they must be.
        """
        self.contents.check()

    @abstractmethod
    def _search_block(
        self, queries: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.float32], NDArray[Any]]:
        """Return similarities and ids (m, k), best first, padded with -1."""

    def search(
        self, queries: NDArray[np.float32], k: int, *, progress: bool = False
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Find the k nearest items of each query.

        Parameters
        ----------
        queries : ndarray, shape (m, d), float32
            As `validation.as_vectors` returns them.
        k : int >= 1
            Length of the lists. It may exceed the number of items.
        progress : bool, default False
            Show a progress bar on standard error.

        Returns
        -------
        scores : ndarray, shape (m, k), float32
            In descending order, padded with -inf.
        ids : ndarray, shape (m, k), int64
            Equal scores are ordered by ascending id. Padded with -1.
        """
        self.check()
        scores = np.empty((len(queries), k), np.float32)
        ids = np.empty((len(queries), k), np.int32)
        # Queries are not items of the index: with a negative first row, no item is left out.
        self._search_blocks(queries, min(k, self.size), -len(queries), (scores, ids), progress)
        return scores, ids.astype(np.int64)

    def resolve_ties(
        self,
        queries: NDArray[np.float32],
        scores: NDArray[np.float32],
        ids: NDArray[np.int64],
        depth: int,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Cut lists to their best entries, which do not depend on the length of the lists.

        Where several items tie for the last place, those with the lowest ids are taken. A search
        method may end a list with any of the tied items. The search is therefore repeated for
        longer lists until a list holds all tied items or has 4096 entries.

        Parameters
        ----------
        queries : ndarray, shape (m, d), float32
            As `validation.as_vectors` returns them.
        scores, ids : ndarray, shape (m, w)
            The lists that `search` returned for the queries.
        depth : int >= 1
            The length to cut to. Lists that are not longer than this are returned unchanged.

        Returns
        -------
        scores : ndarray, shape (m, min(depth, w)), float32
            In descending order, padded with -inf.
        ids : ndarray, shape (m, min(depth, w)), int64
            Equal scores are ordered by ascending id. Padded with -1.
        """
        width = scores.shape[1]
        if width <= depth:
            return scores, ids
        best_scores, best_ids = scores[:, :depth].copy(), ids[:, :depth].copy()
        rows = np.flatnonzero(_tied(scores, ids, depth))
        while len(rows) and width < min(_WIDEST_TIE, self.size):
            width = min(2 * width, self.size)
            scores, ids = self.search(queries[rows], width)
            best_scores[rows], best_ids[rows] = scores[:, :depth], ids[:, :depth]
            rows = rows[_tied(scores, ids, depth)]
        return best_scores, best_ids

    @abstractmethod
    def changed(
        self,
        change: Change,
        vectors: NDArray[np.float32] | None = None,
        *,
        progress: bool = False,
    ) -> NeighborIndex:
        """Return an index of the collection after a change; this one stays as it is.

        Parameters
        ----------
        change : Change
        vectors : ndarray, shape (added, d), float32, optional
            Those of the added items, as `validation.as_vectors` returns them with the `center` of
            this index.
        progress : bool, default False

        Raises
        ------
        DiffusionError
            If it is an index of the caller.
        """

    @abstractmethod
    def vectors_of(self, rows: NDArray[np.integer]) -> NDArray[np.float32]:
        """Return the vectors (m, d) of some items.

        Raises
        ------
        DiffusionError
            If it is an index of the caller.
        """

    def among(
        self, queries: NDArray[np.float32], allowed: NDArray[np.uint8], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Find the k nearest of the items that a filter allows, by exact search if possible.

        Parameters
        ----------
        queries : ndarray, shape (m, d), float32
            As `validation.as_vectors` returns them.
        allowed : ndarray, shape (n,), uint8
            Not 0 for the items that are allowed, of which there are at least k.
        k : int >= 1

        Returns
        -------
        scores : ndarray, shape (m, k), float32
            In descending order, padded with -inf.
        ids : ndarray, shape (m, k), int64
            Equal scores are ordered by ascending id. Padded with -1.
        """
        width = k
        while True:
            width = min(_MORE * width, self.size)
            scores, ids = self.search(queries, width)
            ids = np.where((ids >= 0) & (allowed[ids] != 0), ids, -1)
            if width == self.size or (np.count_nonzero(ids >= 0, axis=1) >= k).all():
                out = np.empty((len(ids), k), np.float32), np.empty((len(ids), k), np.int64)
                copy_without_self(scores, ids, -len(ids), *out)
                return out

    def neighbors_of(
        self,
        vectors: NDArray[np.float32],
        k: int,
        *,
        scored: bool = False,
        progress: bool = False,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """List the k nearest other items of each item, as `NeighborIndex.neighbors` does.

        Parameters
        ----------
        vectors : ndarray, shape (n, d), float32
            Those of the collection, in the order of the ids.
        k : int >= 1
        scored : bool, default False
            Compute the scores of listed items from the vectors, so that a pair has one score,
            wherever it is found.
        progress : bool, default False
        checkpoint : path-like, optional
        """
        width = min(k + 1, self.size)
        scores, ids, kept = self._lists(vectors, k, checkpoint)
        against = vectors if scored else None
        self._search_blocks(vectors, width, 0, (scores, ids), progress, kept, against)
        return scores, ids

    def _lists(
        self, vectors: NDArray[np.float32], k: int, checkpoint: str | os.PathLike[str] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.int32], ListsCheckpoint | None]:
        """Return arrays for lists of k, and the checkpoint that they belong to."""
        if checkpoint is None:
            shape = self.size, k
            return np.empty(shape, np.float32), np.empty(shape, np.int32), None
        kept = ListsCheckpoint(checkpoint, vectors, f"{self.metric} {self._settings()}", k)
        return np.asarray(kept.scores), np.asarray(kept.ids), kept

    def _settings(self) -> str:
        """Return a description of all that lists depend on beside the vectors and their length."""
        return str(self.method)

    def _search_blocks(
        self,
        queries: NDArray[np.float32],
        width: int,
        first: int,
        out: Lists,
        progress: bool,
        checkpoint: ListsCheckpoint | None = None,
        against: NDArray[np.float32] | None = None,
    ) -> None:
        """Search block by block; write lists without the item itself, which is first + row.

        Scores are computed from the vectors of the collection if these are given as `against`.
        """
        begin = 0 if checkpoint is None else checkpoint.rows
        label, size = f"{self.method.name} search", None
        if isinstance(self.method, IVF):
            # Many queries share cells.
            size = max(cells.BLOCK, min(cells.CHUNK, _LISTED_VALUES // width))
        for part in row_blocks(len(queries), label, show=progress, begin=begin, size=size):
            found = self._search_block(queries[part], width)
            written = out[0][part], out[1][part]
            if against is None:
                copy_without_self(*found, first + part.start, *written)
            else:
                own = np.arange(first + part.start, first + part.stop)
                self._score(queries[part], own, against, found[1], written)
            if checkpoint is not None:
                checkpoint.done(part.stop)

    def _score(
        self,
        queries: NDArray[np.float32],
        own: NDArray[np.integer],
        vectors: NDArray[np.float32],
        ids: NDArray[Any],
        out: Lists,
    ) -> None:
        """Score the items listed for some others, as with cells, and write the best of each."""
        highest = cells.highest_score(self.metric)
        score_others(queries, own, vectors, ids, self.metric == "euclidean", highest, *out)


class NeighborIndex(SearchIndex):
    """Vectors of a collection, prepared for nearest-neighbour search.

    Parameters
    ----------
    vectors : ndarray, shape (n, d), float32
        As `validation.as_vectors` returns them: unit rows for the cosine.
    metric : {"cosine", "inner_product", "euclidean"}
        Similarity of vectors.
    method : Auto, Exact, IVF, HNSW or NNDescent
        Search method with its settings. `Auto` is resolved: the attribute `method` is what it has
        chosen.
    k : int, default 50
        Number of neighbours whose recall `Auto` measures.
    center : ndarray, shape (d,), optional
        The vector that was subtracted from `vectors` and must be subtracted from queries. It is
        used for `"euclidean"`: distances are computed as ||x||² + ||y||² - 2<x, y>, which is
        inaccurate for vectors far from 0.
    progress : bool, default False
        Show progress bars on standard error.

    Notes
    -----
    With IVF the vectors are kept sorted by cell, with HNSW inside the faiss index.
    """

    rows = (Ragged("ivf_starts", "ivf_stops", ("vectors", "ivf_ids")),)

    def __init__(
        self,
        vectors: NDArray[np.float32],
        metric: str,
        method: Method,
        *,
        k: int = 50,
        center: NDArray[np.float64] | None = None,
        progress: bool = False,
    ) -> None:
        self.metric = metric
        self.center = center
        self.size, self.dimension = vectors.shape
        self.vectors: NDArray[np.float32] | None = vectors
        self._stored: dict[str, NDArray[Any]] = {}
        self._auto = method if isinstance(method, Auto) else None
        self._k = k
        partition = None
        if isinstance(method, Auto):
            method, partition, self.recall = tuned(vectors, metric, k, method, progress=progress)
        elif isinstance(method, IVF):
            partition = cells.partition(vectors, method.cells(self.size), progress=progress)
        self.method = method
        if partition is not None:
            self._cells = partition.cells(vectors)
            self.vectors = None
        elif isinstance(method, HNSW):
            self._faiss = method.build(vectors, metric, progress=progress)
            self.vectors = None

    @classmethod
    def restore(
        cls,
        arrays: dict[str, NDArray[Any]],
        metric: str,
        method: Method,
        shape: tuple[int, int],
        source: str = "arrays",
        recall: float | None = None,
        auto: Auto | None = None,
        k: int = 50,
    ) -> NeighborIndex:
        """Make an index from the arrays that `arrays` returned, checked on first use.

        Parameters
        ----------
        arrays : dict of str to ndarray
            They may be memory-mapped; other arrays are ignored.
        metric : str
            Similarity of vectors.
        method : Exact, IVF, HNSW or NNDescent
            Search method with its settings.
        shape : tuple of int
            Number of vectors and dimension.
        source : str, default "arrays"
            What errors call the state that the arrays belong to.
        recall : float, optional
            The recall that was measured when the index was made.
        auto : Auto, optional
            What has chosen the method, and chooses again when the collection has outgrown it.
        k : int, default 50
            As in the constructor.

        Raises
        ------
        KeyError, ValueError
            If the arrays are missing, or do not have the expected types and shapes.
        """
        if isinstance(method, Auto):
            raise ValueError("neighbors: expected the method that 'auto' has chosen")
        if "faiss" in arrays:
            raise ValueError("an earlier version has built it; expected one that is built again")
        largest = _LARGEST_UNIT if metric == "cosine" else _LARGEST
        layout: Layout = {"vectors": Array(np.float32, shape, Between(-largest, largest))}
        if "center" in arrays:
            layout = {**layout, "center": Array(np.float64, shape[1:], finite(np.float64))}
        if isinstance(method, IVF):
            arrays = with_rows(arrays, "ivf_offsets", "ivf_")
            layout = _layout_of_cells(arrays, *shape, layout)
        elif isinstance(method, HNSW):
            layout = {**layout, **method.layout(arrays, *shape)}
        index = cls.__new__(cls)
        index.metric, index.method = metric, method
        index.size, index.dimension = shape
        index.recall, index._auto, index._k = recall, auto, k
        index.contents = Contents(arrays, layout, source)
        index._stored = {name: arrays[name] for name in layout}
        index.vectors = None if isinstance(method, IVF | HNSW) else arrays["vectors"]
        index.center = arrays.get("center")
        return index

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays to store: vectors, the structure over them, and the centre if any."""
        if self._stored:
            return self._stored
        center = {} if self.center is None else {"center": self.center}
        if isinstance(self.method, IVF):
            structure = {f"ivf_{name}": getattr(self._cells, name) for name in _STORED}
            own = {"vectors": self._cells.vectors, **structure}
        elif isinstance(self.method, HNSW):
            own = {"vectors": self._own_vectors(), **self.method.arrays(self._faiss)}
        else:
            own = {"vectors": self._own_vectors()}
        return {**own, **center}

    def check(self) -> None:
        """Check the arrays; of large ones, the vectors of cells are checked when they are read."""
        if isinstance(self.method, IVF) and "ivf_cells" not in self._stored:
            self.contents.check_small({*self._stored} - {"vectors", "ivf_ids"})
        else:
            self.contents.check()

    def _check_cells(self, cells: NDArray[np.int32]) -> None:
        """Check the vectors of some cells, -1 for none, if they have not been checked."""
        if self.contents.checked:
            return
        found = np.unique(cells[cells >= 0])
        for cell in found[~self._checked_cells[found]].tolist():
            rows = int(self._cells.starts[cell]), int(self._cells.stops[cell])
            for name in ("vectors", "ivf_ids"):
                self.contents.check_range(name, *rows)
            self._checked_cells[cell] = True

    @cached_property
    def _checked_cells(self) -> NDArray[np.bool_]:
        return np.zeros(len(self._cells.starts), bool)

    @cached_property
    def _faiss(self) -> Any:
        assert isinstance(self.method, HNSW)
        return self.method.restored(self._stored, self._stored["vectors"], self.metric)

    @cached_property
    def _cells(self) -> Cells:
        stored = self._stored
        if "ivf_cells" in stored:
            parts = cells.regrouped(stored["ivf_cells"], stored["ivf_centroids"])
            return parts.cells(stored["vectors"])
        return Cells.of(stored["vectors"], *(stored[f"ivf_{name}"] for name in _STORED))

    def neighbors(
        self, k: int, *, progress: bool = False, checkpoint: str | os.PathLike[str] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """List the k nearest other items of each item.

        The item itself is left out of its list. Its exact duplicates are other items and are kept.

        Parameters
        ----------
        k : int >= 1
            Number of neighbours per item.
        progress : bool, default False
            Show a progress bar on standard error.
        checkpoint : path-like, optional
            A directory in which the lists are stored while they are computed. A later call with
            the same vectors and settings resumes from it. The directory is not removed at the
            end. Nearest-neighbour descent cannot be resumed and ignores it.

        Returns
        -------
        scores : ndarray, shape (n, k), float32
            In descending order. Padded with -inf where k >= n or where an approximate method
            found fewer neighbours.
        ids : ndarray, shape (n, k), int32
            Padded with -1.
        """
        self.contents.check()
        if isinstance(self.method, IVF):
            return self._search_cells(k, progress, checkpoint)
        vectors, width = self._own_vectors(), min(k + 1, self.size)
        # For so few items nearest-neighbour descent has no advantage over exact search.
        if isinstance(self.method, NNDescent) and self.size > 4 * width:
            with tqdm(total=1, desc="nndescent", disable=not progress) as bar:
                ids = self.method.descend(vectors, width)
                bar.update()
            out = np.empty((self.size, k), np.float32), np.empty((self.size, k), np.int32)
            self._score(vectors, np.arange(self.size), vectors, ids, out)
            return out
        return self.neighbors_of(vectors, k, scored=True, progress=progress, checkpoint=checkpoint)

    def neighbors_at(
        self, rows: NDArray[np.integer], k: int, *, progress: bool = False
    ) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """List the k nearest other items of some items, as `neighbors` does of all.

        Those of nearest-neighbour descent are found by exact search.
        """
        self.contents.check()
        if isinstance(self.method, IVF):
            return self._cells.search(
                self.vectors_of(rows), k, self.method.nprobe, self.metric, rows.astype(np.int32)
            )
        vectors = self._own_vectors()
        if not isinstance(self.method, HNSW):
            return cells.nearest_others(vectors, rows, self.metric, k, progress)
        queries, width = vectors[rows], min(k + 1, self.size)
        found = [
            self._search_block(queries[part], width)[1]
            for part in row_blocks(len(rows), "hnsw search", show=progress)
        ]
        out = np.empty((len(rows), k), np.float32), np.empty((len(rows), k), np.int32)
        self._score(queries, rows, vectors, np.concatenate(found), out)
        return out

    def compared(self, rows: NDArray[np.integer]) -> tuple[Level, Near]:
        """Return the items whose lists some others may enter, and which of these each is near to.

        With an exact method, all items are compared with all others. With cells, items are those
        of the cells near to the others, and with HNSW those that a search for the others finds.
        """
        self.contents.check()
        if isinstance(self.method, IVF):
            return near_items(self._cells, self.vectors_of(rows), self.method.nprobe, self.metric)
        vectors = self._own_vectors()
        if not isinstance(self.method, HNSW):
            return every_item(vectors, len(rows))
        width = min(self.method.ef_search, self.size)
        return items_found(vectors, self._search_block(vectors[rows], width)[1])

    def vectors_of(self, rows: NDArray[np.integer]) -> NDArray[np.float32]:
        """Return the vectors (m, d) of some items."""
        self.contents.check()
        if isinstance(self.method, IVF):
            return self._cells.vectors[places_of(self._cells, self.size)[rows]]
        return self._own_vectors()[rows]

    def changed(
        self,
        change: Change,
        vectors: NDArray[np.float32] | None = None,
        *,
        progress: bool = False,
    ) -> NeighborIndex:
        """Return an index of the collection after a change, as `SearchIndex.changed` does.

        Added vectors are entered into the graph of HNSW; after a removal it is built again. Cells
        are made again when the collection has about doubled or halved, or when one has become very
        large. What `Auto` has chosen is chosen again then, when exact search becomes too slow, or
        when the recall falls below the target.
        """
        self.contents.check()
        if change.empty:
            return self
        if isinstance(self.method, HNSW) and vectors is not None:
            index = self._like(change.after)
            index._faiss = self.method.extended(self._faiss, vectors, progress=progress)
            return index
        method: Method = self.method
        if isinstance(method, IVF):
            index = self._like(change.after)
            index._cells = changed_cells(self._cells, change, vectors)
            if index._cells_fit():
                index.recall = self._recall_with(index, change.added)
                if not self._auto or not self._auto.missed(self.recall, index.recall):
                    return index
            method = self._auto or method
        elif self._auto and outgrown(self.size, change.after, self.dimension):
            method = self._auto
        before = self.vectors_of(np.arange(self.size))
        after, center = change.rows_of(before, vectors), self.center
        index = NeighborIndex(
            after, self.metric, method, k=self._k, center=center, progress=progress
        )
        if method == self.method:
            index._auto, index.recall = self._auto, self.recall
        return index

    def _cells_fit(self) -> bool:
        """Return whether there are about as many cells as in a new index, none very large."""
        assert isinstance(self.method, IVF)
        wanted = (IVF() if self._auto else self.method).cells(self.size)
        return fits(self._cells, wanted)

    def _recall_with(self, index: NeighborIndex, added: NDArray[np.integer]) -> float | None:
        """Return the recall of a changed index: that of this one, and of a sample of what is new.

        It is None if that of this index has not been measured.
        """
        if self.recall is None or not len(added):
            return self.recall
        sample = added[:: -(-len(added) // _MEASURED)]
        found, _ = index.neighbors_at(sample, self._k)
        vectors = index.vectors_of(np.arange(index.size))
        true, _ = cells.nearest_others(vectors, sample, self.metric, self._k, False)
        share = len(added) / index.size
        return (1 - share) * self.recall + share * share_found(found, true)

    def _like(self, size: int) -> NeighborIndex:
        """Return an index of another collection with the same settings, which has no arrays yet."""
        index = NeighborIndex.__new__(NeighborIndex)
        index.metric, index.method, index.center = self.metric, self.method, self.center
        index.size, index.dimension, index.recall = size, self.dimension, self.recall
        index._stored, index.vectors = {}, None
        index._auto, index._k = self._auto, self._k
        return index

    def _own_vectors(self) -> NDArray[np.float32]:
        if self.vectors is not None:
            return self.vectors
        return self._faiss.reconstruct_n(0, self.size)

    def _search_cells(
        self, k: int, progress: bool, checkpoint: str | os.PathLike[str] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """List the neighbours of the items of one cell after the other."""
        assert isinstance(self.method, IVF)
        cells_ = self._cells.packed()
        own = cells_.ids
        scores, ids, kept = self._lists(cells_.vectors, k, checkpoint)
        begin, size = 0 if kept is None else kept.rows, cells.CHUNK
        for rows in row_blocks(self.size, "ivf search", show=progress, begin=begin, size=size):
            found = cells_.search_own(rows, k, self.method.nprobe, self.metric)
            if kept is None:
                scores[own[rows]], ids[own[rows]] = found
            else:
                # In the order in which they are found: other rows are on too many pages.
                scores[rows], ids[rows] = found
                kept.done(rows.stop)
        if kept is None:
            return scores, ids
        in_order = np.empty_like(scores), np.empty_like(ids)
        for rows in row_blocks(self.size, "ivf search", show=False, size=size):
            in_order[0][own[rows]], in_order[1][own[rows]] = scores[rows], ids[rows]
        return in_order

    def _settings(self) -> str:
        # The vectors of cells are sorted; which is which is in the ids.
        sorted_ = isinstance(self.method, IVF)
        return f"{self.method} {fingerprint(self._cells.ids)}" if sorted_ else str(self.method)

    def among(
        self, queries: NDArray[np.float32], allowed: NDArray[np.uint8], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Compare queries with the vectors of all items that a filter allows."""
        self.contents.check()
        sorted_ = isinstance(self.method, IVF)
        if sorted_:
            places = self._cells.places()
            places = places[allowed[self._cells.ids[places]] != 0]
        else:
            places = np.flatnonzero(allowed)
        rows = max(1, _GATHER_VALUES // self.dimension)
        scores = np.empty((len(queries), 0), np.float32)
        ids = np.empty((len(queries), 0), np.int64)
        for start in range(0, len(places), rows):
            part = places[start : start + rows]
            found, near = search_all(self._at(part), queries, min(k, len(part)), self.metric)
            scores = np.concatenate([scores, self._similarities(found)], axis=1)
            items = self._cells.ids[part] if sorted_ else part
            ids = np.concatenate([ids, items[near]], axis=1)
            order = np.lexsort((ids, -scores), axis=1)[:, :k]
            scores = np.take_along_axis(scores, order, axis=1)
            ids = np.take_along_axis(ids, order, axis=1)
        return scores, ids

    def _at(self, places: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the vectors at some places of their order in storage."""
        if isinstance(self.method, IVF):
            return self._cells.vectors[places]
        if self.vectors is not None:
            return self.vectors[places]
        vectors: NDArray[np.float32] = self._faiss.reconstruct_batch(places)
        return vectors

    def _search_block(
        self, queries: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.float32], NDArray[Any]]:
        if isinstance(self.method, IVF):
            probes, check = self.method.nprobe, self._check_cells
            return self._cells.search(queries, k, probes, self.metric, check=check)
        if self.vectors is not None:
            scores, ids = search_all(self.vectors, queries, k, self.metric)
        else:
            assert isinstance(self.method, HNSW)
            effort = self.method.effort(self._faiss, k)
            scores, ids = self._faiss.search(queries, k, params=effort)
        return self._similarities(scores), ids

    def _similarities(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Turn the distances or products of faiss into similarities, in place."""
        if self.metric == "euclidean":
            np.negative(scores, out=scores)
        elif self.metric == "cosine":
            np.minimum(scores, np.float32(1), out=scores)
        return scores


def _layout_of_cells(arrays: Arrays, n: int, d: int, vectors: Layout) -> Layout:
    """Return what the arrays of an inverted file of n vectors (d,) must be."""
    count = len(arrays["ivf_centroids"])
    layout = {**vectors, "ivf_centroids": Array(np.float32, (count, d), finite(np.float32))}
    if "ivf_cells" in arrays:
        return {**layout, "ivf_cells": Array(np.int64, (n,), Between(0, count - 1))}
    rows = "ivf_starts", "ivf_stops"
    return {
        "ivf_starts": Array(np.int64, (count,), Between(0, np.inf)),
        "ivf_stops": Array(np.int64, (count,), Stops("ivf_starts", "vectors", n)),
        **layout,
        "vectors": vectors["vectors"]._replace(shape=("places", d), rows=rows),
        "ivf_ids": Array(np.int32, ("places",), Between(0, n - 1), rows=rows),
        "ivf_groups": Array(np.int64, ("groups",), Offsets("ivf_centroids")),
    }


def _tied(scores: NDArray[np.float32], ids: NDArray[np.int64], depth: int) -> NDArray[np.bool_]:
    """Return whether entry `depth` of each list ties with the last, so that more may follow."""
    return (ids[:, -1] >= 0) & (scores[:, depth - 1] == scores[:, -1])


def without_items(
    scores: NDArray[np.float32], ids: NDArray[Any], dropped: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Empty the neighbour lists (n, k) of some items (n,), and take these out of all others."""
    if not dropped.any():
        return scores, ids
    ids = np.where(dropped[ids] | dropped[:, None], ids.dtype.type(-1), ids)
    return tidy_lists(scores, ids, ids.shape[1])


def without_groups(
    scores: NDArray[np.float32], ids: NDArray[Any], groups: NDArray[np.integer], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Take the items of an item's own group (n,) out of its neighbour list; return the k best."""
    k = min(k, ids.shape[1])
    out = np.empty((len(ids), k), np.float32), np.empty((len(ids), k), np.int32)
    for part in row_blocks(len(ids), "groups", show=False):
        own = groups[ids[part]] == groups[part, None]
        kept = np.where(own, ids.dtype.type(-1), ids[part])
        copy_without_self(scores[part], kept, part.start, out[0][part], out[1][part])
    return out


def tidy_lists(
    scores: NDArray[np.float32], ids: NDArray[Any], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Convert given neighbour lists (n, w) to those of `NeighborIndex.neighbors` with width k."""
    out_scores = np.empty((len(ids), k), np.float32)
    out_ids = np.empty((len(ids), k), np.int32)
    copy_without_self(scores, ids, 0, out_scores, out_ids)
    return out_scores, out_ids
