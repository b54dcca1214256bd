"""Rows on disk while they are being computed, so that a killed run can go on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DiffusionError
from .directory import DAMAGED, as_path, create_array, lock_directory, replacing, unlock

# Seconds of work that a kill may cost.
_INTERVAL = 5.0
_FORMAT = "diffusion-rerank checkpoint"
_PROGRESS = "progress.json"
_TEMPORARY = re.compile(r"\.progress\.json\.[0-9a-f]{8}\.tmp")
_ARRAYS = ("scores.npy", "ids.npy", "residuals.npy")

# The checkpoints that this process holds, by directory (device, inode) and thread.
_held: weakref.WeakValueDictionary[tuple[int, int, int], RowsCheckpoint] = (
    weakref.WeakValueDictionary()
)


class RowsCheckpoint:
    """Arrays of n rows in a directory, with the number of rows that are done.

    Parameters
    ----------
    path : path-like
        The directory: does not exist, or is the checkpoint of an earlier run. That run's rows
        are taken over where its inputs, settings and layout were the same, and discarded
        otherwise.
    inputs : sequence of ndarray
        What the rows are computed from; the first has n rows.
    settings : str
        Everything else that they depend on.
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
        try:
            lock = _lock(self._path)
        except BlockingIOError:
            raise DiffusionError(
                f"checkpoint: {self._path} is in use by another process or thread"
            ) from None
        except FileExistsError:
            raise _something_else(self._path) from None
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
        state = _read_progress(self._path)
        if state is None:
            raise _something_else(self._path)
        _remove_temporary(self._path)
        shapes = {name: (np.dtype(kind).str, width) for name, (kind, width) in layout.items()}
        digest = hashlib.sha256(f"{settings} {shapes} {[a.shape for a in inputs]}".encode())
        for array in inputs:
            digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        self._fingerprint = digest.hexdigest()
        rows = state.get("rows")
        if (
            state.get("fingerprint") == self._fingerprint
            and type(rows) is int
            and 0 <= rows <= self._n
            and all(
                self._is_whole(name, kind, (self._n, width))
                for name, (kind, width) in layout.items()
            )
        ):
            self.arrays = {
                name: np.load(self._path / f"{name}.npy", mmap_mode="r+") for name in layout
            }
            self.rows = rows
            return
        # First of all, so that the directory is known as a checkpoint whenever this is killed.
        self._write_progress()
        try:
            self.arrays = {
                name: self._create(name, kind, (self._n, width))
                for name, (kind, width) in layout.items()
            }
        except BaseException:
            _remove(self._path)  # a full disk is not to stay full
            raise

    def close(self) -> None:
        """Let others have the directory. The arrays stay valid."""
        self._release()

    def done(self, rows: int) -> None:
        """Note that so many rows are written, in an order that the inputs determine.

        Every few seconds, and at the end, that is made durable.
        """
        self.rows = rows
        if rows == self._n or time.monotonic() - self._saved > _INTERVAL:
            # The rows first, then the claim that they are there.
            for array in self.arrays.values():
                array.flush()  # type: ignore[attr-defined]
            self._write_progress()
            self._saved = time.monotonic()

    def _create(self, name: str, dtype: type, shape: tuple[int, int]) -> NDArray[Any]:
        file = self._path / f"{name}.npy"
        # Another file, not the old one emptied, which may still be mapped.
        file.unlink(missing_ok=True)
        return create_array(file, dtype, shape)

    def _is_whole(self, name: str, dtype: type, shape: tuple[int, int]) -> bool:
        """Whether an array's file is as it was created; mapped for writing, it would be mended."""
        file = self._path / f"{name}.npy"
        try:
            array = np.lib.format.open_memmap(file, mode="r")
            size = file.stat().st_size
        except (OSError, *DAMAGED):
            return False
        return (
            array.dtype == np.dtype(dtype)
            and array.shape == shape
            and array.flags.c_contiguous
            and size == array.offset + array.nbytes
        )

    def _write_progress(self) -> None:
        with replacing(self._path / _PROGRESS, "w") as file:
            state = {"format": _FORMAT, "fingerprint": self._fingerprint, "rows": self.rows}
            json.dump(state, file)


class ListsCheckpoint(RowsCheckpoint):
    """Neighbour lists, `scores` and `ids` (n, k), of `vectors` (n, d)."""

    def __init__(
        self, path: str | os.PathLike[str], vectors: NDArray[np.float32], settings: str, k: int
    ) -> None:
        super().__init__(
            path, (vectors,), settings, {"scores": (np.float32, k), "ids": (np.int32, k)}
        )
        self.scores, self.ids = self.arrays["scores"], self.arrays["ids"]


def discard(path: str | os.PathLike[str]) -> None:
    """Delete a checkpoint, and nothing else that may be in its directory.

    One that this thread holds is closed; one that another process or thread holds is left.
    """
    path = as_path(path, "checkpoint")
    if not path.is_dir():
        return
    try:
        lock = _lock(path)
    except BlockingIOError:
        return
    try:
        if (path / _PROGRESS).exists() and _read_progress(path) is not None:
            _remove(path)
    finally:
        unlock(lock)


def _key(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino, threading.get_ident()


def _lock(path: Path) -> int | None:
    """Lock a directory, without waiting; a checkpoint that this thread holds there gives way.

    This thread is done with that one: it is alive because a traceback, say, still refers to it.
    """
    if path.is_dir():
        held = _held.get(_key(path))
        if held is not None:
            held.close()
    return lock_directory(path, wait=False)


def _read_progress(path: Path) -> dict[str, Any] | None:
    """Read a checkpoint's progress, empty where there is none yet; None for anything else."""
    try:
        text = (path / _PROGRESS).read_text(errors="replace")
    except FileNotFoundError:
        return {} if all(map(_TEMPORARY.fullmatch, os.listdir(path))) else None
    except OSError:
        return None
    try:
        state = json.loads(text)
    except (ValueError, RecursionError):
        return {} if _FORMAT in text else None
    return state if isinstance(state, dict) and state.get("format") == _FORMAT else None


def _remove(path: Path) -> None:
    """Delete a checkpoint's files; the one that marks it as a checkpoint last."""
    _remove_temporary(path)
    for name in (*_ARRAYS, _PROGRESS):
        (path / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        path.rmdir()


def _remove_temporary(path: Path) -> None:
    for name in filter(_TEMPORARY.fullmatch, os.listdir(path)):
        (path / name).unlink(missing_ok=True)


def _something_else(path: Path) -> DiffusionError:
    return DiffusionError(
        f"checkpoint: expected a new directory or an earlier checkpoint, {path} is something else"
    )
