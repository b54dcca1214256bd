"""The files of an array, as the manifest describes them.

An array is one .npy file, whose rows were written at once or appended by later saves, and perhaps a
patch: the rows that differ from those in the file. Its entry in the manifest has

- `file`, with `bytes` and `sha256` of what was written first, whose header is that of the file;
- `dtype` and `shape`, of which the length counts, and not that in the header;
- `appended`: `bytes` and `sha256` of each stretch that follows, if any;
- `patch`, if any: the entry of an array of bytes (rows, 8 + bytes of a row), with the number of
  each row, ascending, and its content.

Bytes of the file that no entry names are what an interrupted save left.
"""

from __future__ import annotations

import errno
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DiffusionError
from .files import DAMAGED, array_header, digest_between, opened

Entry = Mapping[str, Any]

_DTYPE = re.compile(r"[<>|][biuf]\d")
_FILE = re.compile(r"arrays-[0-9a-f]+/\w+\.npy")
_PATCH = re.compile(r"arrays-[0-9a-f]+/\w+\.patch\.npy")

# The bytes of the number of a row in a patch.
_NUMBER = 8


def is_entry(entry: Any) -> bool:
    """Return whether an entry is well-formed and its files are inside the directory."""
    if not _is_file(entry, _FILE):
        return False
    appended = entry.get("appended", [])
    if not (isinstance(appended, list) and all(map(_is_stretch, appended))):
        return False
    patch = entry.get("patch")
    if patch is None:
        return "patch" not in entry
    width = _NUMBER + row_bytes(entry)
    return (
        len(entry["shape"]) > 0
        and width > _NUMBER
        and _is_file(patch, _PATCH)
        and not {"appended", "patch"} & patch.keys()
        and (patch["dtype"], patch["shape"][1:]) == ("|u1", [width])
    )


def _is_file(entry: Any, name: re.Pattern[str]) -> bool:
    return (
        _is_stretch(entry)
        and all(isinstance(entry.get(key), str) for key in ("file", "dtype"))
        and isinstance(entry.get("shape"), list)
        and name.fullmatch(entry["file"]) is not None
        and _DTYPE.fullmatch(entry["dtype"]) is not None
        and all(type(length) is int and length >= 0 for length in entry["shape"])
    )


def _is_stretch(stretch: Any) -> bool:
    return (
        isinstance(stretch, dict)
        and type(stretch.get("bytes")) is int
        and stretch["bytes"] >= 0
        and isinstance(stretch.get("sha256"), str)
    )


def files_of(entries: Mapping[str, Entry]) -> set[str]:
    """Return the names of all files that entries name."""
    patches = [entry["patch"] for entry in entries.values() if "patch" in entry]
    return {entry["file"] for entry in [*entries.values(), *patches]}


def size_of(entry: Entry) -> int:
    """Return the number of bytes of the file that an entry names."""
    return int(entry["bytes"]) + sum(stretch["bytes"] for stretch in entry.get("appended", []))


def row_bytes(entry: Entry) -> int:
    """Return the number of bytes of a row."""
    return math.prod(entry["shape"][1:]) * int(entry["dtype"][2:])


def stretches_of(entry: Entry) -> Iterator[tuple[int, int, str]]:
    """Yield where each stretch of the file begins and ends, and its SHA-256."""
    begin = 0
    for stretch in (entry, *entry.get("appended", [])):
        yield begin, begin + stretch["bytes"], stretch["sha256"]
        begin += stretch["bytes"]


def open_array(path: Path, entry: Entry, *, verify: bool = False) -> NDArray[Any]:
    """Memory-map the array of an entry, copy-on-write, with its patch if it has one.

    Only patched rows are read, and the pages that they are on copied.

    Raises
    ------
    DiffusionError
        If a file cannot be read, or is not as the entry says.
    """
    array = _open(path, entry, verify, tuple(entry["shape"]))
    if "patch" in entry:
        rows, content = open_patch(path, entry, verify=verify)
        array[rows] = content
    return array


def open_unpatched(path: Path, entry: Entry) -> NDArray[Any]:
    """Memory-map all rows that are in the file of an entry, be they more than the array has."""
    return _open(path, entry, False, None)


def open_patch(
    path: Path, entry: Entry, *, verify: bool = False
) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Return the numbers of the patched rows, ascending, and their content."""
    patch, shape = entry["patch"], entry["shape"]
    packed = _open(path, patch, verify, tuple(patch["shape"]))
    rows = packed[:, :_NUMBER].copy().view("<i8")[:, 0]
    content = packed[:, _NUMBER:].copy().view(entry["dtype"]).reshape(len(rows), *shape[1:])
    ascending = (np.diff(rows) > 0).all() and (not len(rows) or rows[0] >= 0)
    if not ascending or (len(rows) and rows[-1] >= shape[0]):
        raise DiffusionError(
            f"{path / patch['file']}: altered, expected ascending rows from 0 to {shape[0] - 1}"
        )
    return rows, content


def packed_patch(rows: NDArray[np.int64], content: NDArray[Any]) -> NDArray[np.uint8]:
    """Return a patch as it is stored."""
    numbers = rows.astype("<i8").view(np.uint8).reshape(len(rows), _NUMBER)
    return np.concatenate([numbers, as_bytes(content)], axis=1)


def as_bytes(array: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the rows of an array as their bytes (n, bytes)."""
    rows = np.ascontiguousarray(array)
    return rows.reshape(len(rows), -1).view(np.uint8)


def _open(path: Path, entry: Entry, verify: bool, shape: tuple[int, ...] | None) -> NDArray[Any]:
    """Map the file of an entry; without a shape, all of its rows."""
    file, named = path / entry["file"], size_of(entry)
    try:
        if file.parent.is_symlink():
            raise OSError(errno.ELOOP, f"{file.parent.name!r} is a link")
        with opened(file) as stream:
            size = os.fstat(stream.fileno()).st_size
            if size < named:
                raise DiffusionError(
                    f"{file}: truncated or altered, expected {named} bytes, got {size}"
                )
            for begin, end, digest in stretches_of(entry) if verify else ():
                if digest_between(stream, begin, end) != digest:
                    raise DiffusionError(f"{file}: altered, its SHA-256 is not the manifest's")
            stream.seek(0)
            begin, rows = _header(stream, entry)
            if shape is None:
                shape = (rows, *entry["shape"][1:])
            # A plain array, which keeps the mapping.
            return np.asarray(np.memmap(stream, entry["dtype"], "c", begin, shape))
    except DiffusionError:
        raise
    except OSError as error:
        raise DiffusionError(f"{file}: cannot be read ({error.strerror or error})") from None
    except DAMAGED as error:
        raise DiffusionError(f"{file}: altered, {error}") from None


def _header(stream: IO[bytes], entry: Entry) -> tuple[int, int]:
    """Return where the rows begin in a file and how many there are; ValueError if it is altered."""
    found, shape = array_header(stream), tuple(entry["shape"])
    begin, width = stream.tell(), row_bytes(entry)
    if found.fortran:
        raise ValueError("in Fortran's order")
    # The length in the header is that of the first writing.
    grows = bool(shape) and width > 0 and len(found.shape) == len(shape)
    alike = found.shape[1:] == shape[1:] if grows else found.shape == shape
    if found.dtype.str != entry["dtype"] or not alike:
        raise ValueError(
            f"expected {entry['dtype']} of shape {shape}, got {found.dtype.str} of shape "
            f"{found.shape}"
        )
    if begin + found.bytes != entry["bytes"]:
        raise ValueError(f"expected {begin + found.bytes} bytes")
    if begin % found.dtype.itemsize:
        raise ValueError("not aligned")
    if not grows:
        return begin, 0
    rows, rest = divmod(size_of(entry) - begin, width)
    if rest or rows < shape[0]:
        raise ValueError(f"expected at least {shape[0]} rows, got {rows}")
    return begin, rows
