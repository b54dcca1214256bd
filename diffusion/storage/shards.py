"""Named .npz files that a long computation leaves behind, so that it can be resumed."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import shutil
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .files import DAMAGED, array_header, as_path, opened, read_archive, replacing

# Names are fingerprints. A directory of arrays may stand among the shards, under such a name too.
_NAME = re.compile(r"[0-9a-f]{64}")
_ENTRY = re.compile(r"[0-9a-f]{64}(\.npz)?|\.[0-9a-f]{64}\.npz\.[0-9a-f]{8}\.tmp")
_META = "meta"


class Shard(NamedTuple):
    """The content of a shard: its arrays by name, and what was noted beside them."""

    arrays: dict[str, NDArray[Any]]
    meta: dict[str, Any]


class _Place(NamedTuple):
    """Where an array lies in the file of a shard, and the type and the shape of its rows."""

    begin: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


class ShardRows:
    """Rows of the arrays of a shard, read without the others.

    `Shards.read` compares the checksums of the arrays; this does not.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._places: dict[str, _Place] = {}
        with opened(path) as stream, zipfile.ZipFile(stream) as archive:
            for info in archive.infolist():
                # The local header of a member ends with its name and a field of other lengths.
                stream.seek(info.header_offset + 26)
                name, extra = struct.unpack("<HH", stream.read(4))
                stream.seek(name + extra, os.SEEK_CUR)
                header = array_header(stream)
                place = _Place(stream.tell(), header.dtype, header.shape[1:])
                self._places[info.filename.removesuffix(".npy")] = place

    def read(self, rows: Mapping[str, slice]) -> dict[str, NDArray[Any]]:
        """Return, by the names of the arrays, the rows from `start` to `stop` of each."""
        found = {}
        with opened(self._path) as stream:
            for name, part in rows.items():
                begin, dtype, shape = self._places[name]
                width, count = math.prod(shape), part.stop - part.start
                stream.seek(begin + part.start * width * dtype.itemsize)
                found[name] = np.fromfile(stream, dtype, count * width).reshape(count, *shape)
        return found


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
            # Row by row, so that rows can be read without the others.
            by_rows = {name: np.asarray(array, order="C") for name, array in arrays.items()}
            np.savez(stream, **{_META: noted, **by_rows})  # type: ignore[arg-type]

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

    def rows(self, name: str) -> ShardRows:
        """Open a shard that `read` has found to be whole, to read some of its rows."""
        return ShardRows(self.file(name))

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
