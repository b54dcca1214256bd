"""The locks of a directory and of an open file, against other processes and threads.

`filelock` is not used: its lock file stays behind in every directory, and it cannot lock the
directory itself, so it does not notice that the directory was removed and created anew.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: nothing is locked
    fcntl = None  # type: ignore[assignment]


class _Held(threading.local):
    """The directories that this thread has locked with `locked`, as (device, inode)."""

    def __init__(self) -> None:
        self.directories: set[tuple[int, int]] = set()


_held = _Held()


def lock_directory(path: Path, *, wait: bool = True) -> int | None:
    """Create a directory unless it exists, and lock it against other processes and threads.

    The lock is on the directory itself, so no file is left behind; it ends with the process.

    Parameters
    ----------
    path : Path
    wait : bool, default True
        Wait until the lock is free.

    Returns
    -------
    int or None
        What `unlock` takes.

    Raises
    ------
    BlockingIOError
        If the lock is taken and `wait` is False.
    FileExistsError
        If `path` is a file.
    """
    while True:
        path.mkdir(parents=True, exist_ok=True)
        if fcntl is None:
            return None
        descriptor = None
        try:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                raise
            except OSError:
                pass  # the file system has no locks
            # The previous holder of the lock may have removed the directory.
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        except FileNotFoundError:
            pass
        except BaseException:
            unlock(descriptor)
            raise
        unlock(descriptor)


def lock_file(descriptor: int, *, wait: bool = True) -> int | None:
    """Lock an open file against other processes and threads.

    Returns
    -------
    int or None
        What `unlock` takes: the lock outlasts `descriptor`. None if the lock is taken and `wait` is
        False, or if the system has no locks.
    """
    if fcntl is None:
        return None
    held = os.dup(descriptor)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(held)
        return None
    return held


def unlock(descriptor: int | None) -> None:
    """Release what `lock_directory` or `lock_file` returned."""
    if descriptor is not None:
        os.close(descriptor)


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock of a directory, as `lock_directory` takes it.

    It is reentrant: a thread that holds the lock may enter again.
    """
    if path.is_dir() and _identity(path) in _held.directories:
        yield
        return
    descriptor = lock_directory(path, wait=wait)
    identity = None
    try:
        identity = _identity(path)
        _held.directories.add(identity)
        yield
    finally:
        if identity is not None:
            _held.directories.discard(identity)
        unlock(descriptor)


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino
