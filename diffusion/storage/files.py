"""Single files: atomic replacement, checksums, memory-mapped arrays."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DiffusionError

# What numpy raises for a damaged .npy or .npz file, besides OSError. RuntimeError is raised for an
# archive that claims a compression or an encryption which numpy never writes.
DAMAGED = (
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    RuntimeError,
    SyntaxError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


def as_path(path: str | os.PathLike[str], name: str = "path") -> Path:
    """Return `path` as a Path; `name` is the argument that an error names."""
    try:
        return Path(path)
    except TypeError:
        raise DiffusionError(f"{name}: expected a str or a path, got {path!r}") from None


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a file that replaces `path` atomically once it has been written completely.

    If `path` is a link, the file that it points to is replaced. A pipe or a device is written to
    directly.
    """
    path = Path(path)
    # This comes before the link is resolved: /dev/stdout may lead to a pipe, which has no path. If
    # `path` is a directory, opening it raises the error.
    if path.exists() and not path.is_file():
        with open(path, mode) as file:
            yield file
        return
    path = Path(os.path.realpath(path))
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(aside, mode) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def create_array(file: Path, dtype: Any, shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    """Create an .npy file, memory-mapped for writing, with all of its disk space reserved.

    Raises
    ------
    OSError
        If the file cannot be created. A full disk is reported here, and not by a fatal signal
        when the mapping is written to.
    """
    array = np.lib.format.open_memmap(file, mode="w+", dtype=np.dtype(dtype), shape=shape)
    if hasattr(os, "posix_fallocate"):
        with open(file, "r+b") as stream:
            try:
                os.posix_fallocate(stream.fileno(), 0, file.stat().st_size)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                    raise
    return array


def read_array(path: str | os.PathLike[str]) -> NDArray[Any]:
    """Memory-map an .npy file; pickled objects are refused.

    Raises
    ------
    DiffusionError
        If the file cannot be read or is not an .npy file; the message names it.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.ndarray):
            raise ValueError("this is an archive of arrays")
        return array
    except OSError as error:
        raise DiffusionError(f"{path}: cannot be read ({error.strerror or error})") from None
    except DAMAGED as error:
        reason = (str(error) or "damaged").splitlines()[0]
        if "pickle" in reason:  # numpy says how to load them all the same
            reason = "no array of numbers"
        raise DiffusionError(f"{path}: expected a .npy file without pickles ({reason})") from None


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal.

    Raises
    ------
    DiffusionError
        If the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DiffusionError(f"{path}: cannot be read ({error.strerror or error})") from None


def fingerprint(value: Any) -> str:
    """Return the SHA-256 of a JSON value, in hexadecimal, whatever the order of its keys.

    The value may contain numpy scalars, which count as numbers, and arrays, which count with
    their dtype, shape and content.
    """
    text = json.dumps(value, sort_keys=True, default=_identified)
    return hashlib.sha256(text.encode()).hexdigest()


def plain(value: Any) -> Any:
    """Convert a numpy scalar to a JSON value; this is a `default` for `json.dump`."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is no JSON value")


def _identified(value: Any) -> Any:
    """Convert an array to its dtype, its shape and the SHA-256 of its content."""
    if not isinstance(value, np.ndarray):
        return plain(value)
    content = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
    return [value.dtype.str, value.shape, hashlib.sha256(content.data).hexdigest()]
