"""Pages of the mapped files of an index that are in memory, and how they get out of it (Linux).

A query of a mapped index reads pages of files. After `make_cold` none of them is in memory, so that
`resident` counts those that have been read since: `READ_AHEAD` lets the system read more than it is
asked for, `READ_ONE` does not.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffusion import storage
from diffusion.errors import DiffusionError

PAGE = mmap.PAGESIZE

# What `advise` takes. Windows and macOS lack some of the system calls of this module.
READ_AHEAD, READ_ONE = getattr(mmap, "MADV_NORMAL", 0), getattr(mmap, "MADV_RANDOM", 1)
_DROP = getattr(mmap, "MADV_DONTNEED", 4)

Arrays = Mapping[str, NDArray[Any]]


def supported() -> bool:
    """Return whether the system has what this module calls."""
    return hasattr(os, "posix_fadvise") and hasattr(_libc(), "mincore")


def mapped_files(path: Path) -> dict[str, Path]:
    """Return the file of each array of an index.

    Raises
    ------
    DiffusionError
        If there is no index, or if one of its arrays has a patch: its pages are private copies,
        which `make_cold` would lose.
    """
    entries = (storage.peek_manifest(path) or {}).get("arrays")
    if not entries:
        raise DiffusionError(f"{path}: expected an index")
    if any("patch" in entry for entry in entries.values()):
        raise DiffusionError(f"{path}: expected an index that was not changed after it was built")
    return {name: path / entry["file"] for name, entry in entries.items()}


def make_cold(arrays: Arrays, files: Mapping[str, Path]) -> None:
    """Drop all pages of mapped arrays from memory; a page that another process maps stays."""
    advise(arrays, _DROP)
    for file in files.values():
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def advise(arrays: Arrays, advice: int) -> None:
    """Tell the system how mapped arrays will be read: `READ_AHEAD` or `READ_ONE`."""
    for array in arrays.values():
        begin, size = _range(array)
        if size and _libc().madvise(ctypes.c_void_p(begin), ctypes.c_size_t(size), advice):
            raise OSError(ctypes.get_errno(), "madvise")


def resident(arrays: Arrays) -> dict[str, int]:
    """Return how many pages of each mapped array are in memory."""
    counts = {}
    for name, array in arrays.items():
        begin, size = _range(array)
        state = np.zeros(size // PAGE, np.uint8)
        if size and _libc().mincore(
            ctypes.c_void_p(begin), ctypes.c_size_t(size), ctypes.c_void_p(state.ctypes.data)
        ):
            raise OSError(ctypes.get_errno(), "mincore")
        counts[name] = int(np.count_nonzero(state & 1))
    return counts


def _range(array: NDArray[Any]) -> tuple[int, int]:
    """Return where the pages of an array begin, and their size."""
    if not array.nbytes:
        return 0, 0
    first = array.ctypes.data
    begin = first // PAGE * PAGE
    return begin, -(-(first + array.nbytes - begin) // PAGE) * PAGE


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
