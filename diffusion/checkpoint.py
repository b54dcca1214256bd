"""Neighbour lists on disk while they are being computed, so that a killed run can go on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import DiffusionError
from .storage import replacing

# Seconds of work that a kill may cost.
_INTERVAL = 5.0
_PROGRESS = "progress.json"
_FILES = ("scores.npy", "ids.npy", _PROGRESS)


class ListsCheckpoint:
    """Lists (n, k) in a directory, with the number of rows that are done.

    Parameters
    ----------
    path : path-like
        The directory: does not exist, or is the checkpoint of an earlier run. That run's rows
        are taken over where its vectors and settings were the same, and discarded otherwise.
    vectors : ndarray, shape (n, d), float32
    settings : str
        Everything else that the lists depend on.
    k : int
    """

    def __init__(
        self, path: str | os.PathLike[str], vectors: NDArray[np.float32], settings: str, k: int
    ) -> None:
        self._path = Path(path)
        self._saved = time.monotonic()
        digest = hashlib.sha256(f"{settings} k={k} {vectors.shape}".encode())
        digest.update(np.ascontiguousarray(vectors).view(np.uint8))  # type: ignore[arg-type]
        self._fingerprint = digest.hexdigest()
        shape = (len(vectors), k)
        state = self._read_progress()
        if state is not None and state.get("fingerprint") == self._fingerprint:
            self.scores = np.load(self._path / "scores.npy", mmap_mode="r+")
            self.ids = np.load(self._path / "ids.npy", mmap_mode="r+")
            self.rows = int(state["rows"])
        else:
            self._path.mkdir(parents=True, exist_ok=True)
            (self._path / _PROGRESS).unlink(missing_ok=True)
            self.scores = self._create("scores", np.float32, shape)
            self.ids = self._create("ids", np.int32, shape)
            self.rows = 0
            self._write_progress()

    def done(self, rows: int) -> None:
        """Note that the first `rows` rows are written; every few seconds, make that durable."""
        self.rows = rows
        if rows == len(self.ids) or time.monotonic() - self._saved > _INTERVAL:
            # The rows first, then the claim that they are there.
            self.scores.flush()
            self.ids.flush()
            self._write_progress()
            self._saved = time.monotonic()

    def _create(self, name: str, dtype: type, shape: tuple[int, int]) -> NDArray[Any]:
        return np.lib.format.open_memmap(
            self._path / f"{name}.npy", mode="w+", dtype=np.dtype(dtype), shape=shape
        )

    def _read_progress(self) -> dict[str, Any] | None:
        if not self._path.exists():
            return None
        try:
            state = json.loads((self._path / _PROGRESS).read_text())
            return state if isinstance(state, dict) else None
        except (OSError, ValueError):
            names = {entry.name for entry in self._path.iterdir()} if self._path.is_dir() else {""}
            if names <= set(_FILES):
                return None
            raise DiffusionError(
                f"checkpoint: expected a new directory or an earlier checkpoint, {self._path} is "
                "something else"
            ) from None

    def _write_progress(self) -> None:
        with replacing(self._path / _PROGRESS, "w") as file:
            json.dump({"fingerprint": self._fingerprint, "rows": self.rows}, file)


def discard(path: str | os.PathLike[str]) -> None:
    """Delete a checkpoint, and nothing else that may be in its directory."""
    for name in _FILES:
        (Path(path) / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        Path(path).rmdir()
