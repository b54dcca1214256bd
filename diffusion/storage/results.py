"""Results of tasks: single files or folders that are complete or absent."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from .files import ASIDE, naming_full_disks
from .lock import lock_directory, unlock


@contextlib.contextmanager
def result(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write the result of a task: a file or folder that is complete or absent.

    Parameters
    ----------
    path : path-like
        Where the result is to be. Missing folders above it are created.

    Yields
    ------
    Path
        Where the block creates a file or a folder, of the same name as `path`. At the end of the
        block it is made durable and moved to `path`. If there is a result already, that one stays,
        since two tasks of one result write the same.

    Raises
    ------
    OSError
        If it cannot be written. A full disk is named as such.
    FileNotFoundError
        If the block created nothing.

    Notes
    -----
    If the block raises, nothing is left. A process that is killed leaves a temporary folder, which
    the next task of the same result deletes.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _delete_abandoned(path)
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    lock = None
    try:
        with naming_full_disks(path):
            aside.mkdir()
            lock = lock_directory(aside)
            yield aside / path.name
            _sync(aside / path.name)
            _move(aside / path.name, path)
    finally:
        try:
            shutil.rmtree(aside, ignore_errors=True)
        finally:
            unlock(lock)


def _move(source: Path, path: Path) -> None:
    try:
        os.replace(source, path)
    except OSError:
        # A folder does not replace another. This one was written by a task that was taken for lost.
        if not (source.is_dir() and path.is_dir()):
            raise
    _sync_entry(path.parent)


def _sync(path: Path) -> None:
    """Make a file, or all files of a folder, durable."""
    if not path.is_dir():
        with open(path, "rb") as stream:
            os.fsync(stream.fileno())
        return
    for entry in path.iterdir():
        _sync(entry)
    _sync_entry(path)


def _sync_entry(folder: Path) -> None:
    """Make the names in a folder durable, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _delete_abandoned(path: Path) -> None:
    """Delete what killed tasks of a result left: nobody holds their locks."""
    with contextlib.suppress(OSError), os.scandir(path.parent) as entries:
        for entry in list(entries):
            found = ASIDE.fullmatch(entry.name)
            if found and found[1] == path.name and entry.is_dir(follow_symlinks=False):
                with contextlib.suppress(OSError):
                    lock = lock_directory(Path(entry.path), wait=False)
                    shutil.rmtree(entry.path, ignore_errors=True)
                    unlock(lock)
