"""The writing of a directory of arrays: a new state in a new subdirectory, or what differs."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DiffusionError
from .contents import Ragged
from .deltas import Delta, deltas
from .directory import check_target, held, remove_leftovers
from .entries import Entry, files_of, open_patch, packed_patch, size_of
from .files import (
    as_path,
    create_array,
    digest_between,
    errors_named,
    naming_full_disks,
    opened,
    read_array,
    save_array,
    sha256_of,
)
from .manifest import MANIFEST, Format, read_manifest, replace_manifest, signed


def save(
    path: str | os.PathLike[str],
    format: Format,
    content: Mapping[str, Any],
    arrays: Mapping[str, NDArray[Any]],
    rows: Iterable[Ragged] | None = None,
) -> None:
    """Write a directory of arrays, or replace the one at `path`.

    Parameters
    ----------
    path : path-like
        A directory of this format, an empty directory, or one that does not exist yet.
    format : Format
    content : mapping
        Further entries of the manifest: JSON values and numpy scalars.
    arrays : mapping of str to ndarray
    rows : iterable of Ragged, optional
        Which of the arrays hold rows of any length. With it, be it empty, only what differs from
        the directory's state is written, see `deltas`; rows of any length may be stored at other
        places than those given.

    Raises
    ------
    DiffusionError
        If `path` contains something else, which is never touched, or cannot be written.
    """
    with writing(path, format) as new:
        stored = {} if rows is None else new.stored()
        for name, array, delta in deltas(new.path, stored, arrays, rows or ()):
            if delta is None:
                new.add(name, array)
            else:
                new.change(name, stored[name], delta)
        new.commit(content)


@contextlib.contextmanager
def writing(path: str | os.PathLike[str], format: Format) -> Iterator[Writing]:
    """Write a directory of arrays piece by piece; nothing is visible before `Writing.commit`.

    Without a commit, the directory stays as it was. The lock is held meanwhile.

    Parameters
    ----------
    path : path-like
        A directory of this format, an empty directory, or one that does not exist yet.
    format : Format

    Raises
    ------
    DiffusionError
        If `path` contains something else, which is never touched, or cannot be written.
    """
    path = as_path(path)
    with errors_named(path), held(path):
        check_target(path, format)
        new = Writing(path, format)
        try:
            yield new
        finally:
            new.close()


class Writing:
    """The new state of a directory of arrays while it is being written; `writing` yields it."""

    def __init__(self, path: Path, format: Format) -> None:
        self.path, self._format = path, format
        self._folder = path / f"arrays-{secrets.token_hex(4)}"
        self._created: dict[str, np.memmap[Any, Any]] = {}
        self._entries: dict[str, Entry] = {}
        # The files that are appended to, and their sizes before.
        self._appended: dict[Path, int] = {}
        self._checksum: str | None = None

    def stored(self) -> dict[str, Entry]:
        """Return the entries of the present state, none if it cannot be built upon."""
        with contextlib.suppress(DiffusionError):
            manifest = read_manifest(self.path, self._format)
            if manifest["version"] == self._format.version:
                return dict(manifest["arrays"])
        return {}

    def add(self, name: str, array: NDArray[Any]) -> None:
        """Write an array."""
        file = self._file(name)
        save_array(file, array)
        self._entries[name] = _described(file, array)

    def adopt(self, name: str, path: Path) -> None:
        """Take over an .npy file that others have written; it stays where it is, too.

        It is not copied if the file system can give it a second name.
        """
        file = self._file(name)
        with naming_full_disks(file):
            try:
                os.link(path, file)
            except OSError:
                shutil.copyfile(path, file)
            with open(file, "rb") as stream:
                os.fsync(stream.fileno())
        self._entries[name] = _described(file, read_array(file))

    def change(self, name: str, entry: Entry, delta: Delta) -> None:
        """Take over an array that is stored, with what differs from it."""
        new = {**entry, "shape": [delta.length, *entry["shape"][1:]]}
        new.pop("patch", None)
        new |= self._append(entry, delta.tail)
        if len(delta.patched):
            new["patch"] = self._patch(name, entry, delta)
        self._entries[name] = new

    def _append(self, entry: Entry, blocks: Iterable[NDArray[Any]]) -> dict[str, Any]:
        """Append blocks of rows to the file of an array; return what describes them."""
        file, end, digest, added = self.path / entry["file"], size_of(entry), hashlib.sha256(), 0
        blocks = iter(blocks)
        block = next(blocks, None)
        if block is None:
            return {}
        self._appended[file] = end
        with naming_full_disks(file), opened(file, "r+b") as stream:
            stream.truncate(end)  # what an interrupted save left
            stream.seek(end)
            while block is not None:
                content = np.ascontiguousarray(block).reshape(-1).view(np.uint8).data
                stream.write(content)
                digest.update(content)
                added += len(content)
                block = next(blocks, None)
            stream.flush()
            os.fsync(stream.fileno())
            stretches = [
                *entry.get("appended", []),
                {"bytes": added, "sha256": digest.hexdigest()},
            ]
            # A stretch joins the one before it unless it is smaller: there are few, and a byte is
            # read again for as many checksums as the logarithm of their number.
            end += added
            while len(stretches) > 1 and stretches[-1]["bytes"] >= stretches[-2]["bytes"]:
                size = stretches.pop()["bytes"] + stretches.pop()["bytes"]
                joined = digest_between(stream, end - size, end)
                stretches.append({"bytes": size, "sha256": joined})
        return {"appended": stretches}

    def _patch(self, name: str, entry: Entry, delta: Delta) -> Entry:
        """Return the entry of a patch, which is written unless it is the one that is stored."""
        patch = packed_patch(delta.patched, delta.content)
        with contextlib.suppress(DiffusionError, KeyError):
            if np.array_equal(patch, packed_patch(*open_patch(self.path, entry))):
                kept: Entry = entry["patch"]
                return kept
        file = self._file(f"{name}.patch")
        save_array(file, patch)
        return _described(file, patch)

    def create(self, name: str, dtype: Any, shape: tuple[int, ...]) -> np.memmap[Any, Any]:
        """Create an array of zeros that the caller fills before the commit.

        It is memory-mapped, so it may be larger than memory; its disk space is reserved.

        Raises
        ------
        OSError
            If the disk is full.
        """
        array = create_array(self._file(name), dtype, shape)
        self._created[name] = array
        return array

    def commit(self, content: Mapping[str, Any]) -> None:
        """Replace the directory's state by the arrays written, and `content` beside them.

        Parameters
        ----------
        content : mapping
            JSON values and numpy scalars.
        """
        for name, array in self._created.items():
            array.flush()
            file = self._file(name)
            with open(file, "rb") as stream:
                os.fsync(stream.fileno())
            self._entries[name] = _described(file, array)
        if self._folder.exists():
            _sync_directory(self._folder)
        manifest = signed(self._format, content, self._entries)
        self._checksum = manifest["checksum"]
        replace_manifest(self.path, manifest)
        _sync_directory(self.path)
        # The arrays of earlier writes go, including interrupted ones. Those that a process has
        # mapped stay valid: their files lose their names, not their content.
        remove_leftovers(self.path, self._format, keep=files_of(self._entries))

    def close(self) -> None:
        """Delete what has been written unless it was committed."""
        if self._checksum is not None and self._may_be_stored(self._checksum):
            return
        shutil.rmtree(self._folder, ignore_errors=True)
        for file, size in self._appended.items():
            with contextlib.suppress(OSError):
                os.truncate(file, size)

    def _may_be_stored(self, checksum: str) -> bool:
        """Return whether the manifest is the new one, or cannot be read to find out."""
        try:
            return checksum in (self.path / MANIFEST).read_text(errors="replace")
        except FileNotFoundError:
            return False
        except OSError:
            return True  # the next write deletes what is left over

    def _file(self, name: str) -> Path:
        self._folder.mkdir(exist_ok=True)
        return self._folder / f"{name}.npy"


def _described(file: Path, array: NDArray[Any]) -> Entry:
    """Return the entry of an array that was written to a file."""
    return {
        "file": f"{file.parent.name}/{file.name}",
        "dtype": array.dtype.str,
        "shape": list(array.shape),
        "bytes": file.stat().st_size,
        "sha256": sha256_of(file),
    }


def _sync_directory(path: Path) -> None:
    """Make the names in a directory durable, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
