"""A file system that fails on request, below everything that the library calls.

Inside `Disk(root, plan)`, every operation on a path below `root` is numbered, and `plan` says what
becomes of it. Files are opened with Python's own implementation of buffers, so that numpy, zipfile
and others write through it as well; only what compiled code reads is out of reach.
"""

from __future__ import annotations

import _pyio
import builtins
import contextlib
import errno
import fcntl
import io
import itertools
import mmap
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

# What may fail with what. "short" writes a part; "crash" ends the process as seen from the disk.
WRITING = frozenset({"create", "write", "fsync", "msync", "reserve", "replace", "mkdir"})
DELETING = frozenset({"unlink", "rmdir"})
READING = frozenset({"open", "read", "list", "map", "lock"})
_FULL = frozenset({"create", "write", "reserve", "mkdir", "replace"})
KINDS = {
    "ENOSPC": _FULL | {"fsync", "msync"},
    "full for good": _FULL,
    "EIO": WRITING | DELETING | {"open", "read", "list", "map"},
    "EACCES": frozenset({"create", "open", "mkdir", "replace", "unlink", "rmdir", "list"}),
    "EMFILE": frozenset({"create", "open", "list"}),
    "EROFS": frozenset({"create", "mkdir", "replace", "unlink", "rmdir"}),
    "ENOLCK": frozenset({"lock"}),
    "short": frozenset({"write"}),
    "crash before": WRITING | DELETING,
    "crash after": WRITING | DELETING,
    "power cut before": WRITING | DELETING,
    "power cut after": WRITING | DELETING,
}
CRASHES = frozenset(kind for kind in KINDS if kind.startswith(("crash", "power")))


class Crash(BaseException):
    """The process is gone: nothing that runs after this reaches the disk."""


class Operation(NamedTuple):
    """An operation on the file system: its number, what it does, and to which path."""

    number: int
    what: str
    path: Path


class Disk:
    """Counts the operations below a directory, and lets one of them fail.

    Parameters
    ----------
    root : Path
        Operations on other paths are left alone.
    kind : str or None
        A name in `KINDS`, or "SIGKILL before" or "SIGKILL after".
    at : int
        The number of the operation that fails.

    Attributes
    ----------
    log : list of Operation
    failed : Operation or None
    """

    def __init__(self, root: Path, kind: str | None = None, at: int = -1) -> None:
        self.root, self.kind, self.at = os.path.realpath(root), kind, at
        self.log: list[Operation] = []
        self.failed: Operation | None = None
        self.crashed = self._aside = False
        # Files with content that was not made durable, which a power cut may take, and the size
        # up to which they are.
        self._volatile: dict[tuple[int, int], int] = {}
        self._lock = threading.RLock()

    # --- what becomes of an operation ---------------------------------------------------------

    def perform(self, what: str, path: Any, function: Callable[[], Any]) -> Any:
        """Perform an operation, unless it is the one that fails."""
        place = None if self._aside else self._place(path)
        if place is None:
            return function()
        with self._lock:
            if self.crashed:
                raise Crash
            now = Operation(len(self.log), what, Path(place))
            self.log.append(now)
            if now.number != self.at:
                if self.failed is not None and self.kind == "full for good" and what in _FULL:
                    raise self._error(path, errno.ENOSPC)
                return function()
            self.failed = now
            assert self.kind is not None
            kind = self.kind.split()[0]
            if self.kind.endswith(" after"):
                with contextlib.suppress(OSError):
                    result = function()
                    if hasattr(result, "close"):  # nobody receives it
                        result.close()
            if kind == "SIGKILL":
                os.kill(os.getpid(), signal.SIGKILL)
            if kind in ("crash", "power"):
                self._crash(power=kind == "power")
            raise self._error(path, getattr(errno, kind, errno.ENOSPC))

    def write(self, file: _File, data: Any) -> int:
        """Write to a file; a short write takes half, and the rest finds the disk full."""
        view = bytes(data)  # a copy: the buffer that an error keeps alive could not be emptied
        if self.crashed:
            return len(view)  # buffers are still emptied after a crash, into nothing
        short = self.kind == "short" and len(self.log) == self.at and len(view) > 1
        if short and self._place(file.fileno()) is not None:
            with self._lock:
                self.failed = Operation(self.at, "write", Path(self._place(file.fileno()) or ""))
                self.log.append(self.failed)
                self.at, self.kind = self.at + 1, "ENOSPC"
            self.soil(file.fileno(), file.tell())
            return file.plain_write(view[: len(view) // 2])
        self.soil(file.fileno(), file.tell())
        written: int = self.perform("write", file.fileno(), lambda: file.plain_write(view))
        return written

    def soil(self, descriptor: int, size: int) -> None:
        """Note that the content of a file is not durable beyond a size."""
        if self._place(descriptor) is not None:
            status = os.fstat(descriptor)
            file = status.st_dev, status.st_ino
            self._volatile[file] = min(size, self._volatile.get(file, size))

    def clean(self, descriptor: int) -> None:
        """Note that the content of a file is durable."""
        status = os.fstat(descriptor)
        self._volatile.pop((status.st_dev, status.st_ino), None)

    def _crash(self, *, power: bool) -> None:
        if power:
            self._aside = True
            for folder, _, names in os.walk(self.root):
                for name in names:
                    path = os.path.join(folder, name)
                    status = os.lstat(path)
                    size = self._volatile.get((status.st_dev, status.st_ino))
                    if size is not None and size < status.st_size:
                        os.truncate(path, size)
            self._aside = False
        self.crashed = True
        raise Crash

    def _error(self, path: Any, number: int) -> OSError:
        # As from the system: what takes a descriptor names no path.
        if isinstance(path, int):
            return OSError(number, os.strerror(number))
        return OSError(number, os.strerror(number), os.fspath(path))

    def _place(self, path: Any) -> str | None:
        """Return the absolute path of a path or a descriptor, None if it is not below the root."""
        if isinstance(path, int):
            with contextlib.suppress(OSError):
                path = _readlink(f"/proc/self/fd/{path}")
        if not isinstance(path, str | os.PathLike):
            return None
        place = os.path.abspath(os.fspath(path))
        inside = isinstance(place, str) and (place + os.sep).startswith(self.root + os.sep)
        return place if inside else None

    # --- the functions that are replaced ------------------------------------------------------

    @contextlib.contextmanager
    def __call__(self) -> Iterator[Disk]:
        """Replace the functions of the file system meanwhile."""
        with contextlib.ExitStack() as stack:
            for owner, name, made in self._replacements():
                stack.callback(setattr, owner, name, getattr(owner, name))
                setattr(owner, name, made)
            yield self

    def _replacements(self) -> Iterator[tuple[Any, str, Any]]:
        for name, what in (("unlink", "unlink"), ("remove", "unlink"), ("rmdir", "rmdir")):
            yield os, name, self._by_path(getattr(os, name), what)
        yield os, "mkdir", self._by_path(os.mkdir, "mkdir")
        yield os, "truncate", self._by_path(os.truncate, "write")
        yield os, "listdir", self._by_path(os.listdir, "list")
        yield os, "scandir", self._by_path(os.scandir, "list")
        yield os, "replace", self._by_path(os.replace, "replace")
        yield os, "rename", self._by_path(os.rename, "replace")
        yield os, "open", self._opening(os.open)
        yield os, "fsync", self._syncing(os.fsync)
        yield os, "posix_fallocate", self._by_path(os.posix_fallocate, "reserve")
        yield os, "ftruncate", self._by_path(os.ftruncate, "write")
        yield fcntl, "flock", self._by_path(fcntl.flock, "lock")
        yield mmap, "mmap", self._mapping()
        made = self._open()
        yield builtins, "open", made
        yield io, "open", made

    def _by_path(self, function: Any, what: str) -> Any:
        def replaced(path: Any = ".", *arguments: Any, dir_fd: int | None = None, **others: Any):
            if dir_fd is not None:
                others["dir_fd"] = dir_fd
            place = path
            if dir_fd is not None:
                place = os.path.join(_readlink(f"/proc/self/fd/{dir_fd}"), os.fspath(path))
            return self.perform(what, place, lambda: function(path, *arguments, **others))

        return replaced

    def _opening(self, function: Any) -> Any:
        def replaced(path: Any, flags: int, *arguments: Any, **others: Any) -> int:
            place, within = path, others.get("dir_fd")
            if within is not None:
                place = os.path.join(_readlink(f"/proc/self/fd/{within}"), os.fspath(path))
            what = "create" if flags & (os.O_CREAT | os.O_TRUNC) else "open"
            made: list[int] = []
            try:
                self.perform(
                    what, place, lambda: made.append(function(path, flags, *arguments, **others))
                )
            except BaseException:
                for descriptor in made:
                    os.close(descriptor)
                raise
            return made[0]

        return replaced

    def _syncing(self, function: Any) -> Any:
        def replaced(file: Any) -> None:
            descriptor = file if isinstance(file, int) else file.fileno()
            if self._place(descriptor) is None:
                function(descriptor)
            else:
                # Nothing is made durable in fact, which would take long.
                self.perform("fsync", descriptor, lambda: self.clean(descriptor))

        return replaced

    def _mapping(self) -> type[mmap.mmap]:
        disk, plain = self, mmap.mmap

        class Mapping(plain):  # type: ignore[valid-type,misc]
            def __new__(cls, fileno: int, *arguments: Any, **others: Any) -> Any:
                made = disk.perform(
                    "map", fileno, lambda: plain.__new__(cls, fileno, *arguments, **others)
                )
                made.file = None
                if fileno >= 0:
                    made.file = disk._place(fileno)
                    disk.clean(fileno)  # cutting a mapped file would end the process
                return made

            def flush(self, *arguments: Any) -> Any:
                if self.file is None:
                    return plain.flush(self, *arguments)
                return disk.perform("msync", self.file, lambda: None)

        return Mapping

    def _open(self) -> Any:
        disk, plain = self, builtins.open

        class Within(_File):
            def __init__(self, file: Any, mode: str, closefd: bool, opener: Any) -> None:
                what = "open" if mode == "r" else "create"
                if isinstance(file, int):  # opened already
                    super().__init__(file, mode, closefd)
                elif opener is not None:
                    super().__init__(file, mode, closefd, opener)
                else:
                    try:
                        disk.perform(
                            what, file, lambda: super(Within, self).__init__(file, mode, closefd)
                        )
                    except BaseException:
                        self.close()
                        raise
                if "w" in mode or "x" in mode:
                    disk.soil(self.fileno(), 0)

            def write(self, data: Any) -> int:
                return disk.write(self, data)

            def readinto(self, buffer: Any) -> int:
                return disk.perform("read", self.fileno(), lambda: io.FileIO.readinto(self, buffer))

            def readall(self) -> bytes:
                return disk.perform("read", self.fileno(), lambda: io.FileIO.readall(self))

            def read(self, size: int = -1) -> bytes:
                return disk.perform("read", self.fileno(), lambda: io.FileIO.read(self, size))

            def truncate(self, size: int | None = None) -> int:
                return disk.perform("write", self.fileno(), lambda: io.FileIO.truncate(self, size))

        def replaced(
            file: Any,
            mode: str = "r",
            buffering: int = -1,
            encoding: str | None = None,
            errors: str | None = None,
            newline: str | None = None,
            closefd: bool = True,
            opener: Any = None,
        ) -> Any:
            if disk._place(file) is None:
                return plain(file, mode, buffering, encoding, errors, newline, closefd, opener)
            kind = mode.replace("b", "").replace("t", "")
            raw = Within(file, kind, closefd, opener)
            if buffering == 0:
                return raw
            buffered: Any
            if "+" in kind:
                buffered = _pyio.BufferedRandom(raw)
            elif kind == "r":
                buffered = _pyio.BufferedReader(raw)
            else:
                buffered = _pyio.BufferedWriter(raw)
            if "b" in mode:
                return buffered
            text = io.TextIOWrapper(buffered, io.text_encoding(encoding), errors, newline)
            text.mode = mode  # type: ignore[misc]
            return text

        return replaced


class _File(io.FileIO):
    def plain_write(self, data: Any) -> int:
        return super().write(data)


_readlink = os.readlink


def operations(log: list[Operation]) -> Iterator[tuple[str, Operation]]:
    """Yield every kind of fault with every operation that it may befall."""
    for kind, operation in itertools.product(KINDS, log):
        if operation.what in KINDS[kind]:
            yield kind, operation
