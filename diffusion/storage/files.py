"""Single files: atomic replacement, checksums, memory-mapped arrays.

Files are written under random names that are created exclusively, and never through a link, so that
nobody who may write to the directory beforehand can redirect what is written.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import math
import mmap
import os
import re
import secrets
import stat
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from ..errors import DiffusionError
from .lock import lock_file, unlock

# What numpy raises for a damaged .npy or .npz file, besides OSError. RuntimeError is raised for an
# archive that claims a compression or an encryption which numpy never writes.
DAMAGED = (
    ValueError,
    TypeError,
    LookupError,
    OverflowError,
    MemoryError,
    EOFError,
    RuntimeError,
    struct.error,
    SyntaxError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)

# The names of the files that are written before they replace others.
ASIDE = re.compile(r"\.(.+)\.[0-9a-f]{8}\.tmp", re.DOTALL)

# A link in place of a file that is ours is an error, and a pipe must not be waited for. Windows has
# neither flag.
_NOT_A_LINK = getattr(os, "O_NOFOLLOW", 0)
_NOT_WAITING = getattr(os, "O_NONBLOCK", 0)
_BINARY = getattr(os, "O_BINARY", 0)

# Bytes that are read at a time to compute a checksum.
_HASHED = 1 << 20

# The arrays of an .npz file may take this many times its size, or this many bytes.
_INFLATED, _SMALL = 100, 1 << 26


def as_path(path: str | os.PathLike[str], name: str = "path") -> Path:
    """Return `path` as a Path; `name` is the argument that an error names."""
    try:
        return Path(path)
    except TypeError:
        raise DiffusionError(f"{name}: expected a str or a path, got {path!r}") from None


def create(path: Path) -> int:
    """Create a file for reading and writing; return its descriptor.

    Its permissions are those of any new file.

    Raises
    ------
    FileExistsError
        If there is anything at `path`, be it a link that leads nowhere.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | _NOT_A_LINK | _BINARY
    return os.open(path, flags, 0o666)


@contextlib.contextmanager
def replacing(
    path: str | os.PathLike[str], mode: str = "wb", *, follow: bool = True
) -> Iterator[IO[Any]]:
    """Open a file that replaces `path` atomically once it has been written completely.

    Parameters
    ----------
    path : path-like
    mode : {"wb", "w"}, default "wb"
        Text is written in UTF-8.
    follow : bool, default True
        If `path` is a link, replace the file that it points to, and if it is a pipe or a device,
        write to it directly: for paths that the user names. False replaces whatever is there: for
        files in directories of our own.

    Raises
    ------
    OSError
        If the file cannot be written. A full disk is named as such.

    Notes
    -----
    A process that is killed leaves its temporary file. The next one that replaces the same file
    deletes it.
    """
    path = Path(path)
    if follow:
        # This comes before the link is resolved: /dev/stdout may lead to a pipe, which has no
        # path. If `path` is a directory, opening it raises the error.
        if path.exists() and not path.is_file():
            with open(path, mode, encoding=_encoding(mode)) as file:
                yield file
            return
        path = Path(os.path.realpath(path))
        _delete_abandoned(path)
    aside, descriptor, lock = _create_aside(path)
    try:
        with naming_full_disks(path), open(descriptor, mode, encoding=_encoding(mode)) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    finally:
        unlock(lock)


def _create_aside(path: Path) -> tuple[Path, int, int | None]:
    """Create the temporary file of a file; return its path, its descriptor and its lock."""
    while True:
        aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        descriptor = create(aside)
        lock = lock_file(descriptor)
        # Before it was locked, another writer may have taken it for an abandoned one.
        if os.fstat(descriptor).st_nlink:
            return aside, descriptor, lock
        unlock(lock)
        os.close(descriptor)


def _delete_abandoned(path: Path) -> None:
    """Delete the temporary files that killed writers of a file left: nobody holds their locks."""
    with contextlib.suppress(OSError), os.scandir(path.parent) as entries:
        for entry in list(entries):
            found = ASIDE.fullmatch(entry.name)
            if found and found[1] == path.name:
                with contextlib.suppress(OSError), opened(entry.path) as stream:
                    lock = lock_file(stream.fileno(), wait=False)
                    if lock is not None:
                        os.unlink(entry.path)
                        unlock(lock)


def _encoding(mode: str) -> str | None:
    return None if "b" in mode else "utf-8"


@contextlib.contextmanager
def errors_named(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn errors of the file system into one that names what cannot be written.

    Raises
    ------
    DiffusionError
    """
    try:
        yield
    except OSError as error:
        raise DiffusionError(f"{path}: cannot be written ({error.strerror or error})") from None


@contextlib.contextmanager
def naming_full_disks(path: Path) -> Iterator[None]:
    """Let the error of a full disk name the path, and say so where numpy counts bytes instead."""
    try:
        yield
    except OSError as error:
        counted = error.errno is None and "requested and" in str(error)
        if counted or (error.errno == errno.ENOSPC and error.filename is None):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from None
        raise


def save_array(path: Path, array: NDArray[Any]) -> None:
    """Write an array to a new .npy file, durably."""
    read_singly(array, False)
    with naming_full_disks(path), open(create(path), "wb") as stream:
        np.save(stream, np.ascontiguousarray(array), allow_pickle=False)
        stream.flush()
        os.fsync(stream.fileno())


def create_array(path: Path, dtype: Any, shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    """Create an .npy file, memory-mapped for writing, with all of its disk space reserved.

    Raises
    ------
    OSError
        If the file exists or cannot be created. A full disk is reported here, and not by a fatal
        signal when the mapping is written to.
    """
    dtype = np.dtype(dtype)
    header = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": tuple(shape),
    }
    with naming_full_disks(path), open(create(path), "r+b") as stream:
        np.lib.format.write_array_header_1_0(stream, header)
        stream.flush()
        begin = stream.tell()
        size = begin + math.prod(shape) * dtype.itemsize
        os.truncate(stream.fileno(), size)
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(stream.fileno(), 0, size)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                    raise
        return np.memmap(stream, dtype, mode="r+", offset=begin, shape=tuple(shape))


@contextlib.contextmanager
def opened(
    path: str | os.PathLike[str], mode: str = "rb", *, links: bool = False
) -> Iterator[io.BufferedReader]:
    """Open a file for reading ("rb") or for writing too ("r+b"), and only a regular file.

    Parameters
    ----------
    path : path-like
    mode : {"rb", "r+b"}
    links : bool, default False
        Follow a link, as for a file that a user names. In a directory of our own a link is damage.

    Raises
    ------
    OSError
        If it is something else, such as a directory, a pipe (which is not waited for) or a device.
    """
    access = os.O_RDONLY if mode == "rb" else os.O_RDWR
    follow = 0 if links else _NOT_A_LINK
    descriptor = os.open(path, access | follow | _NOT_WAITING | _BINARY)
    with cast(io.BufferedReader, open(descriptor, mode)) as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        yield stream


def read_whole(path: str | os.PathLike[str], most: int) -> bytes:
    """Read a small file of a directory of our own.

    Raises
    ------
    OSError
        If it is not a regular file, or has more than `most` bytes.
    """
    with opened(path) as stream:
        content = stream.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"more than {most} bytes", str(path))
    return content


def map_array(
    stream: io.BufferedReader, dtype: str, shape: tuple[int, ...], mode: Any = "c"
) -> NDArray[Any]:
    """Memory-map the array of an .npy file, which must have exactly this type and shape.

    By default it is mapped copy-on-write, so that it has the type of an ordinary array and a stray
    assignment cannot reach the disk; "r+" maps the file for writing.

    Raises
    ------
    ValueError
        If the header says something else, or the size of the file is not what it says. Nothing is
        allocated on its word.
    """
    found = array_header(stream)
    if found.fortran:
        raise ValueError("in Fortran's order")
    if (found.dtype.str, found.shape) != (dtype, shape):
        raise ValueError(
            f"expected {dtype} of shape {shape}, got {found.dtype.str} of shape {found.shape}"
        )
    begin = stream.tell()
    if begin + found.bytes != os.fstat(stream.fileno()).st_size:
        raise ValueError(f"expected {begin + found.bytes} bytes")
    if begin % found.dtype.itemsize:
        raise ValueError("not aligned")
    return np.memmap(stream, found.dtype, mode=mode, offset=begin, shape=shape)


def read_singly(array: NDArray[Any], singly: bool = True) -> None:
    """Tell the system whether few values of a memory-mapped array are read, anywhere in it.

    By default, a value that is not in memory is read with the 32 pages around it. That is faster
    where most of an array is read, and slower where little of it is.
    """
    mapped: Any = array
    while mapped is not None and not isinstance(mapped, mmap.mmap):
        mapped = getattr(mapped, "base", None)
    if mapped is not None and hasattr(mmap, "MADV_RANDOM"):  # Windows has no advice
        with contextlib.suppress(OSError, ValueError):
            mapped.madvise(mmap.MADV_RANDOM if singly else mmap.MADV_NORMAL)


class Header(NamedTuple):
    """What the header of an .npy file says."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool

    @property
    def bytes(self) -> int:
        """The size of the array."""
        return math.prod(self.shape) * self.dtype.itemsize


def array_header(stream: Any, kinds: str = "biuf") -> Header:
    """Read the header of an .npy file; the stream is then at the first byte of the array.

    Raises
    ------
    ValueError
        If there is none, or it is that of an array of another kind than those of `kinds`, or with a
        negative length.
    """
    try:
        found = _header(stream)
        if found.dtype.kind not in kinds or min(found.shape, default=0) < 0:
            raise ValueError(f"{found.dtype} of shape {found.shape}")
    except DAMAGED as error:
        reason = (str(error) or "damaged").splitlines()[0]
        raise ValueError(f"not a .npy file of numbers ({reason})") from None
    return found


# How numpy writes the header of an array of numbers or text.
_LENGTH = rb"(?:0|[1-9][0-9]{0,18})"
_PLAIN = re.compile(
    rb"\{'descr': '([<>|][a-zA-Z][0-9]+)', 'fortran_order': (True|False), "
    rb"'shape': \((|%s,|%s(?:, %s)+)\), \} *\n" % (_LENGTH, _LENGTH, _LENGTH)
)
_MOST_HEADER = 10_000  # bytes, as numpy's limit


def _header(stream: Any) -> Header:
    """Read the header of an .npy file of version 1.0 or 2.0; raise one of `DAMAGED` if it is none.

    numpy parses headers by `ast`, which is slow, and which in Python 3.11 fails now and then where
    several threads parse (python/cpython#106905).
    """
    width, parse = {
        (1, 0): (2, np.lib.format.read_array_header_1_0),
        (2, 0): (4, np.lib.format.read_array_header_2_0),
    }[np.lib.format.read_magic(stream)]
    head = stream.read(width)
    length = int.from_bytes(head, "little")
    if length > _MOST_HEADER:
        raise ValueError(f"a header of {length} bytes")
    text = stream.read(length)
    plain = _PLAIN.fullmatch(text) if len(text) == length else None
    if plain is None:
        shape, fortran, dtype = parse(io.BytesIO(head + text))
        return Header(dtype, tuple(shape), fortran)
    shape = tuple(int(axis) for axis in plain[3].split(b",") if axis.strip())
    return Header(np.dtype(plain[1].decode()), shape, plain[2] == b"True")


def read_archive(
    stream: IO[bytes], names: Sequence[str] | None = None, *, kinds: str = "biuf"
) -> dict[str, NDArray[Any]]:
    """Read arrays of an .npz file, of which no more is inflated than their headers promise.

    Parameters
    ----------
    stream : file
        Opened for reading, seekable.
    names : sequence of str, optional
        The arrays to read; by default all.
    kinds : str, default "biuf"
        The kinds of their types: numbers, and "U" for strings.

    Raises
    ------
    OSError, or one of `DAMAGED`
        If the file is damaged, an array is missing or of another kind, or it is a hundred times as
        large as the file, which `np.savez_compressed` reaches only with constant arrays.
    """
    most = max(_SMALL, _INFLATED * stream.seek(0, os.SEEK_END))
    arrays = {}
    with zipfile.ZipFile(stream) as archive:
        found = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        for name in found if names is None else names:
            # Uncompressed members may not share their bytes either, so the sum is bounded.
            most -= found[name].file_size
            if most < 0:
                raise ValueError(f"{name}: would take {found[name].file_size} bytes of memory")
            arrays[name] = _read_member(archive, found[name], kinds)
    return arrays


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, kinds: str) -> NDArray[Any]:
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{info.filename}: expected no compression, or that of numpy")
    with contextlib.closing(cast(zipfile.ZipExtFile, archive.open(info))) as member:
        header = array_header(member, kinds)
        if member.tell() + header.bytes != info.file_size:
            raise ValueError(
                f"{info.filename}: expected {header.bytes} bytes of {header.dtype} of shape "
                f"{header.shape}, found {info.file_size - member.tell()}"
            )
        content, filled = bytearray(header.bytes), 0
        with memoryview(content) as view:
            while read := member.readinto(view[filled:]):
                filled += read
        # At the end, zipfile compares the checksum.
        if filled < header.bytes or member.read(1):
            raise ValueError(f"{info.filename}: truncated")
    order: Any = "F" if header.fortran else "C"
    return np.frombuffer(content, header.dtype).reshape(header.shape, order=order)


def read_array(path: str | os.PathLike[str]) -> NDArray[Any]:
    """Memory-map an .npy file; pickled objects are refused.

    Raises
    ------
    DiffusionError
        If the file cannot be read or is not an .npy file; the message names it.
    """
    try:
        with opened(path, links=True) as stream:  # np.load would wait for a pipe
            with contextlib.suppress(*DAMAGED):
                found = _header(stream)
                if found.dtype.hasobject:
                    raise ValueError("no array of numbers")
                return np.memmap(
                    stream,
                    found.dtype,
                    "r",
                    stream.tell(),
                    found.shape,
                    "F" if found.fortran else "C",
                )
            # numpy says what is wrong.
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
        with opened(path, links=True) as file:
            return digest_of(file)
    except OSError as error:
        raise DiffusionError(f"{path}: cannot be read ({error.strerror or error})") from None


def digest_of(stream: io.BufferedReader) -> str:
    """Return the SHA-256 of a stream from its beginning, in hexadecimal."""
    stream.seek(0)
    return hashlib.file_digest(stream, "sha256").hexdigest()


def digest_between(stream: io.BufferedReader, begin: int, end: int) -> str:
    """Return the SHA-256 of the bytes of a stream between two places, in hexadecimal."""
    stream.seek(begin)
    digest = hashlib.sha256()
    while begin < end and (block := stream.read(min(_HASHED, end - begin))):
        digest.update(block)
        begin += len(block)
    return digest.hexdigest()


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
