"""A directory of arrays: .npy files, and one manifest that describes them.

The manifest names every file with its shape, dtype, size and SHA-256. The arrays are written to a
new subdirectory and committed by replacing the manifest, which is atomic: a reader sees the old
state or the new one, and an interrupted write leaves the old one. Writers of one directory take
turns, by a lock on it. Arrays are memory-mapped on loading and only read when they are used.
Pickled objects are never read or written.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DiffusionError
from .files import (
    ASIDE,
    DAMAGED,
    as_path,
    create_array,
    digest_of,
    errors_named,
    fingerprint,
    map_array,
    opened,
    plain,
    read_whole,
    replacing,
    save_array,
    sha256_of,
)
from .lock import locked

MANIFEST = "manifest.json"

_FOLDER = re.compile(r"arrays-[0-9a-f]{8}")
_UNFINISHED = "unfinished"
_DTYPE = re.compile(r"[<>|][biuf]\d")
# The largest manifest that is read: an index has one of 10 kB, and an extraction that skipped a
# hundred thousand photos one of 20 MB.
_MANIFEST_BYTES = 1 << 26
# How often `load` starts again because the directory was rewritten while it was being opened.
_TRIES = 10

Accepts = Callable[[Mapping[str, Any]], bool]


@dataclass(frozen=True)
class Format:
    """What a kind of directory is called, and what it may contain.

    Attributes
    ----------
    name : str
        The manifest's `format`.
    version : int
        The version of the format that is written, and the only one that is read.
    noun : str
        What error messages call such a directory, with its article, such as "an index".
    companions : frozenset of str
        Names of the other files and directories that its writer keeps beside the manifest.
    """

    name: str
    version: int
    noun: str
    companions: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Stored:
    """An opened directory: its manifest, and its arrays by name, memory-mapped."""

    path: Path
    manifest: dict[str, Any]
    arrays: dict[str, NDArray[Any]]


# --- writing --------------------------------------------------------------------------------------


def save(
    path: str | os.PathLike[str],
    format: Format,
    content: Mapping[str, Any],
    arrays: Mapping[str, NDArray[Any]],
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

    Raises
    ------
    DiffusionError
        If `path` contains something else, which is never touched, or cannot be written.
    """
    with writing(path, format) as new:
        for name, array in arrays.items():
            new.add(name, array)
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
    with errors_named(path), _locked(path):
        check_target(path, format)
        new = Writing(path, format)
        try:
            yield new
        finally:
            new.close()


class Writing:
    """The new state of a directory of arrays while it is being written; `writing` yields it."""

    def __init__(self, path: Path, format: Format) -> None:
        self._path, self._format = path, format
        self._folder = path / f"arrays-{secrets.token_hex(4)}"
        self._folder.mkdir()
        self._created: dict[str, np.memmap[Any, Any]] = {}
        self._entries: dict[str, Any] = {}
        self._committing = False

    def add(self, name: str, array: NDArray[Any]) -> None:
        """Write an array."""
        save_array(self._file(name), array)
        self._note(name, array)

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
            with open(self._file(name), "rb") as stream:
                os.fsync(stream.fileno())
            self._note(name, array)
        _sync_directory(self._folder)
        self._committing = True
        write_manifest(self._path, self._format, content, self._entries)
        _sync_directory(self._path)
        # The arrays of earlier writes go, including interrupted ones. Those that a process has
        # mapped stay valid: their files lose their names, not their content.
        remove_leftovers(self._path, self._format, keep={self._folder.name})

    def close(self) -> None:
        """Delete what has been written unless it was committed."""
        if not (self._committing and self._may_be_named()):
            shutil.rmtree(self._folder, ignore_errors=True)

    def _may_be_named(self) -> bool:
        """Return whether the manifest names the new arrays, or cannot be read to find out."""
        try:
            return self._folder.name in (self._path / MANIFEST).read_text(errors="replace")
        except FileNotFoundError:
            return False
        except OSError:
            return True  # the next write deletes them if they are left over

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.npy"

    def _note(self, name: str, array: NDArray[Any]) -> None:
        file = self._file(name)
        self._entries[name] = {
            "file": f"{self._folder.name}/{file.name}",
            "dtype": array.dtype.str,
            "shape": list(array.shape),
            "bytes": file.stat().st_size,
            "sha256": sha256_of(file),
        }


@contextlib.contextmanager
def claimed(path: str | os.PathLike[str], format: Format) -> Iterator[None]:
    """Hold a directory during long work in it, which writes companions and commits at the end.

    The directory is created, locked without waiting, and marked as this format's with an
    unfinished manifest unless it has one, so that interrupted work is recognised by
    `check_target` and can be resumed. Arrays that an interrupted write left are deleted. Errors of
    the file system become one clear error. If nothing was written, the directory is left as it was.

    Parameters
    ----------
    path : path-like
        A directory of this format, an empty directory, or one that does not exist yet.
    format : Format

    Raises
    ------
    DiffusionError
        If `path` holds something else, is being written by another process or thread, or cannot
        be written.
    """
    path = as_path(path)
    with errors_named(path), contextlib.ExitStack() as stack:
        try:
            stack.enter_context(_locked(path, wait=False))
        except BlockingIOError:
            raise DiffusionError(f"{path}: another process or thread is writing here") from None
        check_target(path, format)
        # Our writers make no links. One that was planted under a name of ours must not be followed.
        for name in format.companions:
            if (path / name).is_symlink():
                (path / name).unlink()
        if (path / MANIFEST).exists():
            _tidy(path, format)
        else:
            write_manifest(path, format, {_UNFINISHED: True}, {})
        try:
            yield
        finally:
            _unmark(path, format)


def remove(path: str | os.PathLike[str], format: Format) -> None:
    """Delete a directory of this format, and nothing else that may be in it."""
    path = as_path(path)
    if not _has_manifest(path, format):
        return
    remove_leftovers(path, format)
    for name in format.companions:
        _remove(path / name)
    # The file that marks the directory as this format's is the last to go, and stays with what
    # could not be deleted: that would be foreign without it.
    if not any(os.path.lexists(path / name) for name in format.companions):
        (path / MANIFEST).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        path.rmdir()


def remove_leftovers(path: Path, format: Format, *, keep: Collection[str] = ()) -> None:
    """Delete the arrays and temporary files in a directory of this format, except some by name."""
    for entry in list(path.iterdir()):
        if entry.name not in keep and _is_ours(entry, format):
            _remove(entry)


def write_manifest(
    path: Path, format: Format, content: Mapping[str, Any], arrays: Mapping[str, Any]
) -> None:
    """Replace the manifest atomically; `arrays` describes the files."""
    manifest = {"format": format.name, "version": format.version, **content, "arrays": arrays}
    manifest["checksum"] = _checksum(manifest)
    with replacing(path / MANIFEST, "w", follow=False) as file:
        json.dump(manifest, file, indent=1, default=plain)


@contextlib.contextmanager
def _locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock of a directory; create it, and delete it at the end if it is empty."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(path, wait=wait))
        except FileExistsError:
            raise DiffusionError(f"{path}: expected a directory, this is a file") from None
        try:
            yield
        finally:
            for made in missing:
                with contextlib.suppress(OSError):
                    made.rmdir()


def _tidy(path: Path, format: Format) -> None:
    """Delete the arrays that the manifest does not name, unless it cannot be read."""
    with contextlib.suppress(DiffusionError):
        entries = _read(path, format)["arrays"].values()
        remove_leftovers(path, format, keep={entry["file"].partition("/")[0] for entry in entries})


def _unmark(path: Path, format: Format) -> None:
    """Delete an unfinished manifest if nothing has been written beside it."""
    with contextlib.suppress(OSError, DiffusionError):
        if os.listdir(path) == [MANIFEST] and _UNFINISHED in _read(path, format):
            (path / MANIFEST).unlink()


def _remove(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            entry.unlink()


def _sync_directory(path: Path) -> None:
    """Make the names in a directory durable, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# --- recognising ----------------------------------------------------------------------------------


def check_target(
    path: str | os.PathLike[str], format: Format, accepts: Accepts | None = None
) -> None:
    """Raise unless a directory may be written to.

    Parameters
    ----------
    path : path-like
        Accepted if it is of this format, even damaged, holds only what an interrupted write left,
        is empty or does not exist.
    format : Format
    accepts : callable, optional
        Takes the manifest of a directory of this format, and returns whether it may be replaced.

    Raises
    ------
    DiffusionError
        If `path` is something else; the message names a file that does not belong.
    """
    path = as_path(path)
    if not path.exists():
        return
    if not path.is_dir():
        raise DiffusionError(f"{path}: expected a directory, this is a file")
    # Listed before the manifest is read, so that a first commit between the two is recognised.
    entries = [entry for entry in path.iterdir() if entry.name != MANIFEST]
    foreign = sorted(entry.name for entry in entries if not _is_ours(entry, format))
    try:
        text = read_whole(path / MANIFEST, _MANIFEST_BYTES).decode("utf-8", "replace")
    except FileNotFoundError:
        ours = not foreign
    except OSError:
        ours, foreign = False, [MANIFEST]
    else:
        try:
            manifest = json.loads(text)
            ours = isinstance(manifest, dict) and manifest.get("format") == format.name
            ours = ours and (accepts is None or accepts(manifest))
        except (ValueError, RecursionError):
            # A damaged directory of arrays may be replaced; another program's manifest may not.
            arrays = any(_FOLDER.fullmatch(entry.name) for entry in entries)
            ours = format.name in text or (arrays and not foreign)
        foreign = [MANIFEST]
    if not ours:
        raise DiffusionError(
            f"{path}: expected {format.noun} or an empty directory, found {foreign[0]!r}"
        )


def _has_manifest(path: Path, format: Format) -> bool:
    """Return whether a directory has a manifest of this format, even a damaged one."""
    if not (path / MANIFEST).exists():
        return False
    try:
        check_target(path, format)
    except DiffusionError:
        return False
    return True


def _is_ours(entry: Path, format: Format | None = None) -> bool:
    """Return whether an entry beside the manifest can only be what an interrupted write left.

    With a format, files of its companions that were being written count, too.
    """
    aside = ASIDE.fullmatch(entry.name)
    if aside is not None:
        names = {MANIFEST} if format is None else {MANIFEST, *format.companions}
        return aside[1] in names and not entry.is_dir()
    if not _FOLDER.fullmatch(entry.name) or entry.is_symlink():
        return False
    try:
        with os.scandir(entry) as files:
            return all(
                file.name.endswith(".npy") and file.is_file(follow_symlinks=False) for file in files
            )
    except FileNotFoundError:  # another writer has just deleted it
        return True
    except OSError:
        return False


# --- reading --------------------------------------------------------------------------------------


def load(path: str | os.PathLike[str], format: Format, *, verify: bool = False) -> Stored:
    """Open a directory of arrays.

    Parameters
    ----------
    path : path-like
    format : Format
    verify : bool, default False
        Read every file and compare its checksum, which detects accidental damage. The checksums
        are in the directory itself: who alters an array on purpose can alter its checksum too. By
        default, only the manifest, the types, the shapes and the sizes are checked, in a time that
        does not depend on the size of the arrays. What the arrays contain is up to the caller
        (`contents.Contents`).

    Raises
    ------
    DiffusionError
        If there is none, or it is truncated, altered, foreign or of another version.
    """
    path = as_path(path)
    manifest = read_manifest(path, format)
    for _ in range(_TRIES):
        try:
            return Stored(path, manifest, _open_arrays(path, manifest, verify))
        except DiffusionError:
            # A writer may have replaced the arrays since the manifest was read.
            before, manifest = manifest, read_manifest(path, format)
            if manifest == before:
                raise
    return Stored(path, manifest, _open_arrays(path, manifest, verify))


def read_manifest(path: str | os.PathLike[str], format: Format) -> dict[str, Any]:
    """Read and check the manifest alone.

    Raises
    ------
    DiffusionError
        If there is none, or it is truncated, altered, foreign, of another version or unfinished.
    """
    manifest = _read(as_path(path), format)
    if _UNFINISHED in manifest:
        raise DiffusionError(
            f"{path}: expected {format.noun}, this one is not finished; run the command that "
            "writes it again, it resumes"
        )
    return manifest


def _read(path: Path, format: Format) -> dict[str, Any]:
    file = path / MANIFEST
    try:
        manifest = json.loads(read_whole(file, _MANIFEST_BYTES).decode())
        checksum = _checksum(manifest) if isinstance(manifest, dict) else None
    except FileNotFoundError:
        raise DiffusionError(f"{path}: expected {format.noun}, found no {MANIFEST}") from None
    except OSError as error:
        raise DiffusionError(f"{file}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError, MemoryError):
        raise DiffusionError(f"{file}: truncated or altered, not valid JSON") from None
    if not isinstance(manifest, dict) or manifest.get("format") != format.name:
        raise DiffusionError(f"{file}: expected format {format.name!r}, this is a foreign file")
    if manifest.get("version") != format.version:
        raise DiffusionError(
            f"{file}: {format.noun} of version {manifest.get('version')}, this library reads "
            f"version {format.version}; a newer diffusion-rerank may read it"
        )
    if manifest.get("checksum") != checksum:
        raise DiffusionError(f"{file}: altered, its checksum does not match")
    entries = manifest.get("arrays")
    if not isinstance(entries, dict) or not all(map(_is_entry, entries.values())):
        raise DiffusionError(f"{file}: altered, its arrays are not described as expected")
    return manifest


def peek_manifest(path: Path) -> dict[str, Any] | None:
    """Return a directory's manifest, of whatever format and unchecked; None without one."""
    with contextlib.suppress(OSError, ValueError, RecursionError, MemoryError):
        manifest = json.loads(read_whole(path / MANIFEST, _MANIFEST_BYTES).decode())
        return manifest if isinstance(manifest, dict) else None
    return None


def _checksum(manifest: Mapping[str, Any]) -> str:
    return fingerprint({key: value for key, value in manifest.items() if key != "checksum"})


def _is_entry(entry: Any) -> bool:
    """Return whether a manifest's entry is well-formed and its file is inside the directory."""
    kinds = {"file": str, "dtype": str, "shape": list, "bytes": int, "sha256": str}
    return (
        isinstance(entry, dict)
        and all(isinstance(entry.get(key), kind) for key, kind in kinds.items())
        and re.fullmatch(r"arrays-[0-9a-f]+/\w+\.npy", entry["file"]) is not None
        and _DTYPE.fullmatch(entry["dtype"]) is not None
        and all(type(length) is int and length >= 0 for length in entry["shape"])
    )


def _open_arrays(path: Path, manifest: dict[str, Any], verify: bool) -> dict[str, NDArray[Any]]:
    return {
        name: _open_array(path / entry["file"], entry, verify)
        for name, entry in manifest["arrays"].items()
    }


def _open_array(file: Path, entry: dict[str, Any], verify: bool) -> NDArray[Any]:
    try:
        if file.parent.is_symlink():
            raise OSError(errno.ELOOP, f"{file.parent.name!r} is a link")
        with opened(file) as stream:
            size = os.fstat(stream.fileno()).st_size
            if size != entry["bytes"]:
                raise DiffusionError(
                    f"{file}: truncated or altered, expected {entry['bytes']} bytes, got {size}"
                )
            if verify and digest_of(stream) != entry["sha256"]:
                raise DiffusionError(f"{file}: altered, its SHA-256 is not the manifest's")
            stream.seek(0)
            return np.asarray(map_array(stream, entry["dtype"], tuple(entry["shape"])))
    except DiffusionError:
        raise
    except OSError as error:
        raise DiffusionError(f"{file}: cannot be read ({error.strerror or error})") from None
    except DAMAGED as error:
        raise DiffusionError(f"{file}: altered, {error}") from None
