"""The index that is served: the state on disk, and the views of it that requests are answered from.

The directory of the index is the truth. A process holds one state at a time, memory-mapped; an
update computes the next one, saves it and opens it, and other processes open what was saved. A
state is never changed, so that a search that runs at the time goes on with the one it began with.

Memory: that of the index, which processes share as far as it is mapped. While an update runs, its
process holds what differs in the new state as well. A state is let go when the last view of it is.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .. import storage, updates
from ..errors import DiffusionError
from ..fitted import Fitted
from ..index_state import INDEX, PHOTOS, IndexState, save_state, updates_of
from ..neighbors.methods import Given
from ..reranker import Reranker
from ..scoring.fusion import Fusion
from ..storage.directory import held
from ..validation import as_vectors, count_of

# Combinations of parameters of queries of which a state keeps the views.
_VIEWS = 64


class UnchangeableError(DiffusionError):
    """The index is of a kind that cannot be updated here; the message says why."""


class ReadOnlyError(UnchangeableError):
    """The collection was opened to be read only, or its directory cannot be written."""


class NotSavedError(DiffusionError):
    """An update could not be written to disk, and has not happened."""


@dataclass(frozen=True)
class View:
    """One state with parameters of queries: everything that a request needs comes from one view.

    Attributes
    ----------
    ranker : Reranker
        It must not be changed.
    version : int
        Which state it is of. A later state has a larger number. Updates are counted in the index,
        so that all processes give a state the same number. What others save over it, such as
        `Reranker.save`, each process counts for itself until the next update.
    """

    ranker: Reranker
    version: int


class _State:
    """A state of the index as it was opened.

    Attributes
    ----------
    ranker : Reranker
        With the parameters of the index.
    version : int
    identity : str or None
        The checksum of the manifest, which differs between any two states. None for a state that
        has been saved and could not be opened afterwards.
    parameters : dict
        As JSON values.
    photos : bool
        Whether the index is one of photos.
    fixed : str or None
        Why the index cannot be updated.
    view : callable
        Returns a `View` with other parameters, and keeps the last ones.
    """

    def __init__(
        self, ranker: Reranker, state: IndexState, version: int, identity: str | None
    ) -> None:
        self.ranker, self.version, self.identity = ranker, version, identity
        self.parameters, self.photos = state.parameters, PHOTOS in state.parts
        self.fixed = _fixed(ranker.fitted(), state)
        # Not of a method: a state that refers to itself would keep its files mapped until the
        # garbage collector comes by.
        self.view = lru_cache(_VIEWS, typed=True)(partial(_view, ranker, version))


def _view(
    ranker: Reranker,
    version: int,
    query_k: int | None,
    weight: float | None,
    cautious: bool | None,
) -> View:
    given: dict[str, Any] = {"query_k": query_k, "cautious": cautious}
    if weight is not None:
        score = ranker.fitted().score
        if not isinstance(score, Fusion):
            raise DiffusionError(
                f"weight: only a fusion has one, this index has the score {score.name!r}"
            )
        given["score"] = replace(score, weight=weight)
    given = {name: value for name, value in given.items() if value is not None}
    return View(ranker.with_parameters(None, **given), version)


class Collection:
    """An index on disk that is searched, and updated while it is searched.

    Any number of threads may call all methods at the same time.

    Parameters
    ----------
    path : path-like
        The directory of the index.
    read_only : bool, default False
        Refuse updates. What other processes save is taken up all the same.

    Raises
    ------
    DiffusionError
        If there is no index, it is damaged, or it is one of images by their regions.
    """

    def __init__(self, path: str | os.PathLike[str], *, read_only: bool = False) -> None:
        self.path = storage.as_path(path)
        self._read_only: str | None = None
        if read_only:
            self._read_only = "this service is read-only"
        elif self.path.is_dir() and not os.access(self.path, os.W_OK):
            self._read_only = "this service is read-only: the index cannot be written"
        self._changing = threading.Lock()
        self._seen = _seen(self.path)
        self._state = _opened(self.path, 0)

    def view(
        self, query_k: int | None = None, weight: float | None = None, cautious: bool | None = None
    ) -> View:
        """Return the present state with parameters of queries, those of the index by default.

        Parameters
        ----------
        query_k : int >= 1, optional
        weight : float >= 0, optional
            That of the fusion.
        cautious : bool, optional

        Raises
        ------
        DiffusionError
            If a parameter is not as `Reranker` and `Fusion` take it, or the score of the index is
            no fusion, which `weight` and `cautious` are of.
        """
        return self._state.view(query_k, weight, cautious)

    def update(
        self,
        *,
        ids: ArrayLike | None = None,
        vectors: ArrayLike | None = None,
        remove: ArrayLike | None = None,
    ) -> View:
        """Remove items and add items, as one new state, which is on disk when this returns.

        What other processes have saved is taken up before, and the lock of the index is held
        against them. Updates by several threads take turns. If an error is raised, nothing has
        changed, in memory or on disk.

        Parameters
        ----------
        ids : array_like, shape (m,), int or str, optional
            The ids of the new items; see `Reranker.add`.
        vectors : array_like, shape (m, d) or (d,), optional
            Their vectors.
        remove : array_like, shape (r,), int or str, optional
            The ids of items of the collection, each once. An item that is in `ids` as well is
            replaced. If all items are removed, the collection is fitted anew to `vectors`, with the
            parameters of the index; without ids, they are then numbered from 0.

        Returns
        -------
        View
            The new state; the present one if there was nothing to change.

        Raises
        ------
        DiffusionError
            If an argument is not as described; the message names it. If an id is unknown, in use
            or repeated, or no item would be left.
        UnchangeableError
            If the index cannot be updated; `ReadOnlyError` if that is so only here.
        NotSavedError
            If it cannot be written to disk.
        """
        if self._read_only is not None:
            raise ReadOnlyError(self._read_only)
        if vectors is None and (remove is None or ids is not None):
            raise DiffusionError("vectors: expected vectors of items to add, or ids to remove")
        with self._changing, contextlib.ExitStack() as stack:
            with _as_not_saved():
                stack.enter_context(held(self.path))
                self._take_up()
            state = self._state
            if state.fixed is not None:
                raise UnchangeableError(state.fixed)
            changed = _changed(state.ranker, ids, vectors, remove)
            if changed is not state.ranker.fitted():
                self._save(changed.state(state.ranker.query_k, state.ranker.cautious))
            return self.view()

    def _save(self, state: IndexState) -> None:
        """Save a state, and make it the present one."""
        with _as_not_saved():
            save_state(self.path, state, updates=self._state.version + 1)
        try:
            self._take_up()
        except (DiffusionError, OSError):
            # What has been saved must not be reported as an error: it is used as it is in memory,
            # until a refresh can open it.
            version = self._state.version + 1
            self._state = _State(Reranker.from_state(state), state, version, identity=None)

    def refresh(self) -> bool:
        """Take up the state that another process has saved, if there is one.

        It is opened, and used once, before it replaces the present one: no search waits. While an
        update of this process runs, nothing is done, because that takes it up.

        Returns
        -------
        bool
            Whether there is a new state.

        Raises
        ------
        DiffusionError
            If what is on disk cannot be opened. The present state stays.
        """
        if _seen(self.path) == self._seen or not self._changing.acquire(blocking=False):
            return False
        try:
            return self._take_up()
        finally:
            self._changing.release()

    def info(self) -> dict[str, Any]:
        """Return what the collection is, as JSON values.

        Returns
        -------
        dict
            `items`, `dimension` (null without vectors), `metric`, `ids` ("int" or "str"), `edges`,
            `solver`, `parameters`, `weight` (null unless the score is a fusion), `version`,
            `photos`, `read_only`, and `read_only_because`, null unless that is true.
        """
        state = self._state
        fitted = state.ranker.fitted()
        because = self._read_only or state.fixed
        return {
            "version": state.version,
            "items": fitted.items.size,
            "dimension": None if fitted.index is None else fitted.index.dimension,
            "metric": fitted.parameters["metric"],
            "ids": "str" if fitted.items.named else "int",
            "edges": fitted.graph.n_edges,
            "solver": fitted.solver.name,
            "parameters": state.parameters,
            "weight": fitted.score.weight if isinstance(fitted.score, Fusion) else None,
            "photos": state.photos,
            "read_only": because is not None,
            "read_only_because": because,
        }

    def _take_up(self) -> bool:
        """Open what is on disk unless it is the present state; return whether it was not."""
        seen = _seen(self.path)  # before it is read: what is saved meanwhile is seen next time
        if seen == self._seen:
            return False
        identity, present = storage.read_manifest(self.path, INDEX)["checksum"], self._state
        changed = identity != present.identity
        if changed:
            self._state = _opened(self.path, present.version - (present.identity is None))
        self._seen = seen
        return bool(changed)


def _seen(path: Path) -> tuple[int, ...]:
    """Return what shows cheaply that a manifest has been replaced, be it with the same times.

    A save renames a new file over the manifest, which has another inode than the one before.
    """
    try:
        status = os.stat(path / storage.MANIFEST)
    except OSError:
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


@contextlib.contextmanager
def _as_not_saved() -> Iterator[None]:
    """Raise errors of the directory of the index, for which no argument is to blame, as such."""
    try:
        yield
    except (DiffusionError, OSError) as error:
        raise NotSavedError(str(error)) from None


def _opened(path: Path, before: int) -> _State:
    """Open the index, and use it once, which checks and reads what all searches need.

    `before` is the version of the state that it follows.
    """
    stored = storage.load(path, INDEX)
    state = IndexState.of(stored)
    if state.kind is not None:
        raise DiffusionError(f"{path}: an index of images by their regions cannot be served")
    ranker = Reranker.from_state(state)
    fitted = ranker.fitted()
    some = np.zeros(1, np.int64)
    if _searchable(fitted):
        assert fitted.index is not None
        ranker.search(fitted.index.vectors_of(some), k=1)
    else:
        ranker.rerank(np.ones((1, 1), np.float32), fitted.items.of_rows(some)[None])
    version = max(before + 1, updates_of(stored.manifest))
    return _State(ranker, state, version, stored.manifest["checksum"])


def _searchable(fitted: Fitted) -> bool:
    """Return whether the index holds vectors."""
    return fitted.index is not None and not isinstance(fitted.index.method, Given)


def _fixed(fitted: Fitted, state: IndexState) -> str | None:
    """Return why an index cannot be updated, None if it can."""
    if state.fixed is not None:
        return state.fixed
    if not _searchable(fitted):
        return "an index without its vectors cannot be updated"
    return None


def _changed(
    ranker: Reranker, ids: ArrayLike | None, vectors: ArrayLike | None, remove: ArrayLike | None
) -> Fitted:
    """Return the result of a fit without some items and with others."""
    fitted = ranker.fitted()
    gone = 0 if remove is None else len(fitted.items.rows_to_remove(remove, "remove"))
    count = 0 if vectors is None else _count(fitted, ids, vectors)
    if gone and gone == fitted.items.size:
        if not count:
            raise DiffusionError("remove: expected at least one item to be left, got all of them")
        if ids is not None:
            fitted.items.coded(ids, "ids")  # an error unless they are of the kind of these
        elif fitted.items.named:
            raise DiffusionError("ids: expected ids of the new items, got None")
        anew = Reranker(**ranker.get_params())
        return anew.fit(np.atleast_2d(np.asarray(vectors)), ids=ids).fitted()
    if gone:
        assert remove is not None
        fitted = updates.removed(fitted, remove, progress=False)
    if count:
        assert vectors is not None
        fitted = updates.added(fitted, vectors, ids, progress=False)
    return fitted


def _count(fitted: Fitted, ids: ArrayLike | None, vectors: ArrayLike) -> int:
    """Return the number of vectors to add; raise an error that names them as `update` does."""
    index = fitted.index
    assert index is not None
    new = as_vectors(
        vectors,
        "vectors",
        metric=index.metric,
        dimension=index.dimension,
        center=index.center,
        queries=True,
    )
    given = len(new) if ids is None else 1 if isinstance(ids, str | int) else count_of(ids)
    if given != len(new):
        raise DiffusionError(
            f"ids: expected {len(new)} ids, one for each of the vectors, got {given}"
        )
    return len(new)
