"""Arrays that tasks fill together: one .npy file, in which each task writes its own rows.

A task that is repeated writes the same again. What a task has written counts when its result exists
(`storage.results`), which it leaves after it has written.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..storage.files import create_array, naming_full_disks, read_array
from ..storage.results import result


def create(path: Path, dtype: Any, shape: tuple[int, ...]) -> None:
    """Create an array of zeros unless it is there; its disk space is reserved."""
    if path.exists():
        return
    with result(path) as file:
        if 0 in shape:  # nothing can be mapped
            np.save(file, np.empty(shape, dtype), allow_pickle=False)
        else:
            create_array(file, dtype, shape)


def write_rows(path: Path, first: int, rows: NDArray[Any]) -> None:
    """Write rows (m, ...) to an array of the same type, from row `first` on, durably."""
    if not rows.size:
        return
    array = read_array(path)
    assert isinstance(array, np.memmap)
    assert array.dtype == rows.dtype
    assert array.shape[1:] == rows.shape[1:]
    place = array.offset + first * array.strides[0]
    content = np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data
    # Not through the mapping, in which a network file system might write back whole pages.
    with naming_full_disks(path), open(path, "r+b", buffering=0) as stream:
        while content:
            written = os.pwrite(stream.fileno(), content, place)
            content, place = content[written:], place + written
        os.fsync(stream.fileno())
