"""A directory of arrays: .npy files, and one manifest that describes them.

The manifest names every file with its shape, dtype, size and SHA-256. New arrays are written to a
new subdirectory, or appended to files beyond what the manifest names, and committed by replacing
the manifest, which is atomic: a reader sees the old state or the new one, and an interrupted write
leaves the old one. Writers of one directory take turns, by a lock on it. Arrays are memory-mapped
on loading and only read when they are used. Pickled objects are never read or written.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ..errors import DiffusionError
from .entries import (
    files_of,
    open_array,
)
from .files import (
    ASIDE,
    as_path,
    errors_named,
    read_whole,
)
from .lock import locked
from .manifest import (
    MANIFEST,
    MANIFEST_BYTES,
    UNFINISHED,
    Format,
    read_any,
    read_manifest,
    write_manifest,
)

_FOLDER = re.compile(r"arrays-[0-9a-f]{8}")
# How often `load` starts again because the directory was rewritten while it was being opened.
_TRIES = 10

Accepts = Callable[[Mapping[str, Any]], bool]


@dataclass(frozen=True)
class Stored:
    """An opened directory: its manifest, and its arrays by name, memory-mapped."""

    path: Path
    manifest: dict[str, Any]
    arrays: dict[str, NDArray[Any]]


# --- holding --------------------------------------------------------------------------------------


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
            stack.enter_context(held(path, wait=False))
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
            write_manifest(path, format, {UNFINISHED: True}, {})
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
    """Delete the arrays and temporary files in a directory of this format.

    `keep` are the names of the files of arrays to keep, within the directory.
    """
    folders = {name.partition("/")[0] for name in keep}
    for entry in sorted(path.iterdir(), key=lambda entry: entry.name not in folders):
        if entry.name not in folders:
            if _is_ours(entry, format):
                _remove(entry)
        elif not entry.is_symlink():
            with contextlib.suppress(OSError):
                for file in sorted(entry.glob("*.npy")):
                    if f"{entry.name}/{file.name}" not in keep:
                        _remove(file)


@contextlib.contextmanager
def held(path: Path, *, wait: bool = True) -> Iterator[None]:
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
        remove_leftovers(path, format, keep=files_of(read_any(path, format)["arrays"]))


def _unmark(path: Path, format: Format) -> None:
    """Delete an unfinished manifest if nothing has been written beside it."""
    with contextlib.suppress(OSError, DiffusionError):
        if os.listdir(path) == [MANIFEST] and UNFINISHED in read_any(path, format):
            (path / MANIFEST).unlink()


def _remove(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            entry.unlink()


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
        text = read_whole(path / MANIFEST, MANIFEST_BYTES).decode("utf-8", "replace")
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


def _open_arrays(path: Path, manifest: dict[str, Any], verify: bool) -> dict[str, NDArray[Any]]:
    return {
        name: open_array(path, entry, verify=verify) for name, entry in manifest["arrays"].items()
    }
