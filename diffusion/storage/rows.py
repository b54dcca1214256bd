"""Rows that are kept on disk while they are computed, so that a killed run can be resumed."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DiffusionError
from .directory import check_target, remove, remove_leftovers
from .files import DAMAGED, as_path, create_array, errors_named, fingerprint, map_array, opened
from .lock import lock_directory, unlock
from .manifest import Format, read_manifest, write_manifest

# Seconds of work that a kill may cost.
_INTERVAL = 5.0
CHECKPOINT = Format(
    "diffusion-rerank checkpoint",
    1,
    "a checkpoint",
    frozenset({"scores.npy", "ids.npy", "residuals.npy"}),
)

# The checkpoints that this process holds, by directory (device, inode) and thread.
_held: weakref.WeakValueDictionary[tuple[int, int, int], RowsCheckpoint] = (
    weakref.WeakValueDictionary()
)


class RowsCheckpoint:
    """Arrays of n rows in a directory, with the number of rows that are done.

    Parameters
    ----------
    path : path-like
        A directory that does not exist, is empty, or is the checkpoint of an earlier run. The
        rows of that run are kept if its inputs, settings and layout were the same; otherwise,
        they are discarded.
    inputs : sequence of ndarray
        The arrays that the rows are computed from; the first has n rows.
    settings : str
        A description of everything else that the rows depend on.
    layout : mapping of str to (dtype, int)
        Name, dtype and width of each array; the names are "scores", "ids" and "residuals".
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        inputs: Sequence[NDArray[Any]],
        settings: str,
        layout: Mapping[str, tuple[type, int]],
    ) -> None:
        self._path = as_path(path, "checkpoint")
        self._saved = time.monotonic()
        self._n = len(inputs[0])
        self.rows = 0
        self.arrays: dict[str, NDArray[Any]] = {}
        with _errors_named(self._path):
            try:
                lock = _lock(self._path)
            except BlockingIOError:
                raise DiffusionError(
                    f"checkpoint: {self._path} is in use by another process or thread"
                ) from None
            except FileExistsError:
                raise DiffusionError(
                    f"checkpoint: {self._path}: expected a directory, this is a file"
                ) from None
            self._release = weakref.finalize(self, unlock, lock)
            try:
                self._open(inputs, settings, layout)
            except BaseException:
                self.close()
                raise
            _held[_key(self._path)] = self

    def _open(
        self,
        inputs: Sequence[NDArray[Any]],
        settings: str,
        layout: Mapping[str, tuple[type, int]],
    ) -> None:
        try:
            check_target(self._path, CHECKPOINT)
        except DiffusionError as error:
            raise DiffusionError(f"checkpoint: {error}") from None
        try:
            state = read_manifest(self._path, CHECKPOINT)
        except DiffusionError:  # there is none yet, or it is damaged
            state = {}
        remove_leftovers(self._path, CHECKPOINT)
        shapes = {name: [np.dtype(kind).str, width] for name, (kind, width) in layout.items()}
        self._fingerprint = fingerprint([settings, shapes, list(inputs)])
        rows = state.get("rows")
        if (
            state.get("fingerprint") == self._fingerprint
            and type(rows) is int
            and 0 <= rows <= self._n
        ):
            with contextlib.suppress(OSError, *DAMAGED):
                self.arrays = {
                    name: self._resumed(name, kind, (self._n, width))
                    for name, (kind, width) in layout.items()
                }
                self.rows = rows
                return
        # This comes first, so that the directory is known as a checkpoint whenever this is killed.
        self._write_progress()
        try:
            self.arrays = {
                name: self._create(name, kind, (self._n, width))
                for name, (kind, width) in layout.items()
            }
        except BaseException:
            remove(self._path, CHECKPOINT)  # a full disk must not stay full
            raise

    def close(self) -> None:
        """Release the directory. The arrays stay valid."""
        self._release()

    def done(self, rows: int) -> None:
        """Record that a number of rows has been written, in an order that the inputs determine.

        The record is made durable every few seconds and at the end.
        """
        self.rows = rows
        if rows == self._n or time.monotonic() - self._saved > _INTERVAL:
            with _errors_named(self._path):
                # First the rows, then the record that they are complete.
                for array in self.arrays.values():
                    array.flush()  # type: ignore[attr-defined]
                self._write_progress()
            self._saved = time.monotonic()

    def _create(self, name: str, dtype: type, shape: tuple[int, int]) -> NDArray[Any]:
        file = self._path / f"{name}.npy"
        # A new file: the old one may still be mapped and must not be truncated.
        file.unlink(missing_ok=True)
        return create_array(file, dtype, shape)

    def _resumed(self, name: str, dtype: type, shape: tuple[int, int]) -> NDArray[Any]:
        """Map an array for writing; raise unless it is as a run may have left it."""
        with opened(self._path / f"{name}.npy", "r+b") as stream:
            array = map_array(stream, np.dtype(dtype).str, shape, "r+")
        # Compiled loops follow the ids. The smallest value is NaN if any is.
        low = array.min()
        if np.isnan(low) or (name == "ids" and not -1 <= low <= array.max() < self._n):
            raise ValueError(f"{name}: values that no run writes")
        return array

    def _write_progress(self) -> None:
        state = {"fingerprint": self._fingerprint, "rows": self.rows}
        write_manifest(self._path, CHECKPOINT, state, {})


class ListsCheckpoint(RowsCheckpoint):
    """Neighbour lists, `scores` and `ids` (n, k), of `vectors` (n, d)."""

    def __init__(
        self, path: str | os.PathLike[str], vectors: NDArray[np.float32], settings: str, k: int
    ) -> None:
        super().__init__(
            path, (vectors,), settings, {"scores": (np.float32, k), "ids": (np.int32, k)}
        )
        self.scores, self.ids = self.arrays["scores"], self.arrays["ids"]


def of_solver(path: str | os.PathLike[str]) -> str:
    """Return where the solver's part of the checkpoint of a fit is."""
    return f"{os.fspath(path)}.solver"


def discard_fit(path: str | os.PathLike[str]) -> None:
    """Delete the checkpoint of a fit, both parts."""
    discard(path)
    discard(of_solver(path))


def discard(path: str | os.PathLike[str]) -> None:
    """Delete a checkpoint, and nothing else that may be in its directory.

    If this thread holds it, it is closed first; if another process or thread does, it is kept.
    """
    path = as_path(path, "checkpoint")
    if not path.is_dir():
        return
    with _errors_named(path):
        try:
            lock = _lock(path)
        except BlockingIOError:
            return
        try:
            remove(path, CHECKPOINT)
        finally:
            unlock(lock)


def _errors_named(path: Path) -> AbstractContextManager[None]:
    """Let errors of the file system name the argument and the directory."""
    return errors_named(f"checkpoint: {path}")


def _key(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino, threading.get_ident()


def _lock(path: Path) -> int | None:
    """Lock a directory without waiting, and close an earlier checkpoint of this thread there.

    This thread no longer uses that one; a traceback may still refer to it, for example.
    """
    if path.is_dir():
        held = _held.get(_key(path))
        if held is not None:
            held.close()
    return lock_directory(path, wait=False)
