"""Rows on disk while they are being computed, so that a killed run can go on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import DiffusionError
from .storage import replacing

# Seconds of work that a kill may cost.
_INTERVAL = 5.0
_PROGRESS = "progress.json"
_FILES = ("scores.npy", "ids.npy", "residuals.npy", _PROGRESS)


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
        self._path = Path(path)
        self._saved = time.monotonic()
        self._n = len(inputs[0])
        shapes = {name: (np.dtype(kind).str, width) for name, (kind, width) in layout.items()}
        digest = hashlib.sha256(f"{settings} {shapes} {[a.shape for a in inputs]}".encode())
        for array in inputs:
            digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        self._fingerprint = digest.hexdigest()
        state = self._read_progress()
        self.arrays: dict[str, NDArray[Any]]
        if state is not None and state.get("fingerprint") == self._fingerprint:
            self.arrays = {
                name: np.load(self._path / f"{name}.npy", mmap_mode="r+") for name in layout
            }
            self.rows = int(state["rows"])
        else:
            self._path.mkdir(parents=True, exist_ok=True)
            (self._path / _PROGRESS).unlink(missing_ok=True)
            self.arrays = {
                name: self._create(name, kind, (self._n, width))
                for name, (kind, width) in layout.items()
            }
            self.rows = 0
            self._write_progress()

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
    """Delete a checkpoint, and nothing else that may be in its directory."""
    for name in _FILES:
        (Path(path) / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        Path(path).rmdir()
