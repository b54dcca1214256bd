"""Named .npz files that a long computation leaves behind, so that it can be resumed."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .files import DAMAGED, as_path, opened, read_archive, replacing

# Names are fingerprints. A directory of arrays may stand among the shards, under such a name too.
_NAME = re.compile(r"[0-9a-f]{64}")
_ENTRY = re.compile(r"[0-9a-f]{64}(\.npz)?|\.[0-9a-f]{64}\.npz\.[0-9a-f]{8}\.tmp")
_META = "meta"


class Shard(NamedTuple):
    """The content of a shard: its arrays by name, and what was noted beside them."""

    arrays: dict[str, NDArray[Any]]
    meta: dict[str, Any]


class Shards:
    """A directory of shards.

    Each shard is written atomically, under a name that everything its content depends on
    determines (`fingerprint`). A computation that is repeated after an interruption finds the
    shards that are there, and computes the others.

    Parameters
    ----------
    path : path-like
        The directory; the first `write` creates it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = as_path(path)

    def file(self, name: str) -> Path:
        """Return the path of a shard's file."""
        if not _NAME.fullmatch(name):
            raise ValueError(f"name: expected a fingerprint, got {name!r}")
        return self.path / f"{name}.npz"

    def write(self, name: str, arrays: Mapping[str, NDArray[Any]], **meta: Any) -> None:
        """Write a shard atomically.

        Parameters
        ----------
        name : str
            A fingerprint.
        arrays : mapping of str to ndarray
            Any name but "meta".
        **meta
            JSON values, stored beside the arrays.
        """
        file = self.file(name)
        self.path.mkdir(exist_ok=True)
        if self.path.is_symlink():
            raise FileExistsError(errno.EEXIST, "expected a directory, this is a link", self.path)
        noted = np.frombuffer(json.dumps(meta).encode(), np.uint8)
        with replacing(file, follow=False) as stream:
            np.savez(stream, **{_META: noted, **arrays})  # type: ignore[arg-type]

    def read(self, name: str) -> Shard | None:
        """Read a shard; None if there is none, or if it is damaged and has to be computed again."""
        path = self.file(name)
        try:
            with opened(path) as stream:
                arrays = read_archive(stream)
            meta = json.loads(arrays.pop(_META).tobytes())
        except (OSError, *DAMAGED):
            return None
        return Shard(arrays, meta) if isinstance(meta, dict) else None

    def has(self, name: str) -> bool:
        """Return whether a shard is there and whole."""
        return self.read(name) is not None

    def discard(self) -> None:
        """Delete all shards, and the directory unless something else is in it."""
        if not self.path.is_dir() or self.path.is_symlink():
            return
        for entry in list(self.path.iterdir()):
            if not _ENTRY.fullmatch(entry.name):
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.path.rmdir()
