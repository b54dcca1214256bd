"""MATLAB files of ground truth and descriptors.

scipy reads them; what is ours is one clear error for damaged files, and matrices of version 7.3,
which scipy does not read. The elements of a file are walked first, because scipy's compiled reader
follows a type that there is none of out of its tables, and ends the process.
"""

from __future__ import annotations

import importlib
import math
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from scipy.io import loadmat

from diffusion.errors import DiffusionError
from diffusion.storage import opened

# Types of elements, and classes of matrices, by their numbers in the format's description.
_INT8, _INT32, _UINT32, _MATRIX, _COMPRESSED = 1, 5, 6, 14, 15
_NUMBERS = frozenset({1, 2, 3, 4, 5, 6, 7, 9, 12, 13})
_TEXT = frozenset({1, 2, 3, 4, 16, 17, 18})
_CELL, _STRUCT, _CHAR = 1, 2, 4
_NUMERIC = range(6, 16)

_HEADER = 128
_DEEPEST = 50
# As of archives of arrays: bytes of a file that may be inflated, and how often its own size.
_SMALL, _INFLATED = 1 << 26, 100


def read(path: Path, names: Sequence[str]) -> dict[str, Any]:
    """Read variables of a .mat file.

    Parameters
    ----------
    path : Path
        Of MATLAB's versions 4 to 7. Of version 7.3, which is HDF5, only matrices are read, and only
        if h5py is installed.
    names : sequence of str
        The variables to read.

    Returns
    -------
    dict
        The variables among them that the file holds: structures as dictionaries, cells and
        structure arrays as lists or object arrays; dimensions of 1 are dropped.

    Raises
    ------
    DiffusionError
        If the file cannot be read.
    """
    try:
        with opened(path, links=True) as file:
            _check(file)
        content = loadmat(path, variable_names=list(names), simplify_cells=True)
    except NotImplementedError:
        return _read_hdf5(path, names)
    except OSError as error:
        raise DiffusionError(f"{path}: cannot be read ({error.strerror or error})") from None
    except Exception as error:  # scipy's reader raises any kind of error on damaged files
        raise DiffusionError(f"{path}: expected a MATLAB file ({error})") from None
    return {name: content[name] for name in names if name in content}


class _Elements:
    """The elements of a file, or of a compressed element in it, one after the other."""

    def __init__(self, file: IO[bytes], left: int, order: Any, most: int | None = None) -> None:
        self._file, self._left, self.order = file, left, order
        self._inflate = None if most is None else zlib.decompressobj()
        self._most = most

    def read(self, count: int) -> bytes:
        """Return so many bytes, or raise."""
        if self._inflate is None:
            self._left -= count
            data = self._file.read(count) if self._left >= 0 else b""
        else:
            assert self._most is not None
            self._most -= count
            if self._most < 0:
                raise ValueError("it would take too much memory")
            data = b""
            while len(data) < count and not self._inflate.eof:
                given = self._inflate.unconsumed_tail
                if not given:
                    given = self._file.read(min(self._left, 1 << 16))
                    self._left -= len(given)
                found = self._inflate.decompress(given, count - len(data))
                data += found
                if not (given or found):
                    break
        if len(data) < count:
            raise ValueError("it is truncated")
        return data

    def skip(self, count: int) -> None:
        """Pass over so many bytes."""
        if self._inflate is not None:
            for start in range(0, count, 1 << 20):
                self.read(min(count - start, 1 << 20))
            return
        self._left -= count
        if self._left < 0:
            raise ValueError("it is truncated")
        self._file.seek(count, os.SEEK_CUR)

    def tag(self) -> tuple[int, int, bytes | None]:
        """Return the type and the size of the next element, and its content if it is in the tag."""
        tag = self.read(8)
        kind, size = (int.from_bytes(part, self.order) for part in (tag[:4], tag[4:]))
        if kind >> 16:
            kind, size = kind & 0xFFFF, kind >> 16
            if size > 4:
                raise ValueError(f"a small element of {size} bytes")
            return kind, size, tag[4 : 4 + size]
        return kind, size, None

    def element(self, kinds: frozenset[int], *, skip: bool = False) -> bytes:
        """Return the content of the next element, of one of some types, or pass over it."""
        kind, size, content = self.tag()
        if kind not in kinds:
            raise ValueError(f"an element of type {kind}")
        if content is not None:
            return content
        if skip:
            self.skip(size + -size % 8)
            return b""
        if size > 1 << 20:
            raise ValueError(f"a header of {size} bytes")
        return self.read(size + -size % 8)[:size]

    def matrix(self, depth: int = 0) -> None:
        """Walk a matrix and those in it."""
        kind, size, _ = self.tag()
        if kind != _MATRIX or depth > _DEEPEST:
            raise ValueError(f"an element of type {kind} at depth {depth}")
        if not size:
            return
        flags = int.from_bytes(self.element(frozenset({_UINT32}))[:4], self.order)
        dims = np.frombuffer(self.element(frozenset({_INT32})), "<i4" if self.order == "little"
                             else ">i4")  # fmt: skip
        self.element(frozenset({_INT8}))
        what, count = flags & 0xFF, math.prod(dims.tolist())
        if len(dims) < 2 or dims.min() < 0:
            raise ValueError(f"dimensions {dims.tolist()}")
        if what in _NUMERIC or what == _CHAR:
            for _ in range(2 if flags & 0x800 else 1):  # the real and the imaginary part
                self.element(_TEXT if what == _CHAR else _NUMBERS, skip=True)
        elif what in (_CELL, _STRUCT):
            if what == _STRUCT:
                length = int.from_bytes(self.element(frozenset({_INT32})), self.order)
                count *= len(self.element(frozenset({_INT8}))) // max(1, length)
            for _ in range(count):
                self.matrix(depth + 1)
        else:
            raise ValueError(f"a matrix of class {what}")


def _check(file: IO[bytes]) -> None:
    """Raise unless a file of versions 5 to 7 consists of elements that there are."""
    header = file.read(_HEADER)
    if len(header) < _HEADER or 0 in header[:4] or header[124:128] not in (b"\0\1IM", b"\1\0MI"):
        return  # of another version, or none, as scipy will say
    order = "little" if header[126:] == b"IM" else "big"
    size = file.seek(0, os.SEEK_END)
    place, most = _HEADER, max(_SMALL, _INFLATED * size)
    while place < size:
        file.seek(place)
        kind, length, _ = _Elements(file, size - place, order).tag()
        if kind == _COMPRESSED:
            _Elements(file, length, order, most).matrix()
        else:
            file.seek(place)
            _Elements(file, size - place, order).matrix()
        place += 8 + length


def _read_hdf5(path: Path, names: Sequence[str]) -> dict[str, Any]:
    try:
        h5py: Any = importlib.import_module("h5py")
    except ImportError:
        raise DiffusionError(
            f"{path}: a MATLAB 7.3 file, which is HDF5; expected one saved with -v7, or h5py "
            "installed"
        ) from None
    found = {}
    with h5py.File(path, "r") as file:
        for name in names:
            if name in file:
                if not hasattr(file[name], "dtype") or file[name].dtype.kind not in "fiu":
                    raise DiffusionError(
                        f"{path}: {name} is no matrix, and of MATLAB 7.3 files only matrices are "
                        "read; expected a file saved with -v7"
                    )
                # HDF5 stores the dimensions in reverse order.
                found[name] = np.asarray(file[name]).T
    return found
