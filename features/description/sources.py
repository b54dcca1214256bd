"""What is kept of the photos that were described, to find out later what has changed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffusion.storage.contents import Array, Between, Layout

# Arrays by name, beside those of descriptors.
STATS, SHAPES, DIGESTS = "file_stats", "file_shapes", "file_digests"
# Bytes of a SHA-256.
DIGEST_BYTES = 32

# Where photos are, from the directory that says so, and in any case.
_RELATIVE, _ABSOLUTE = "relative", "absolute"

Stat = tuple[int, int, int]
NO_STAT: Stat = (-1, -1, -1)


def stat_of(path: str | os.PathLike[str]) -> Stat:
    """Return a file's size in bytes, its modification time, and when its status changed (in ns).

    The last one is changed by every write, also by programs that restore the modification time.

    Raises
    ------
    OSError
    """
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


class Sources:
    """The files that descriptors were made from, row by row.

    Parameters
    ----------
    files : sequence of str
    stats : ndarray, shape (n, 3), int64
        What `stat_of` said of each before it was read, -1 if it was altered while it was read.
    shapes : ndarray, shape (n, 2), int64
        Height and width of each photo, upright.
    digests : ndarray, shape (n, 32), uint8
        SHA-256 of the content of each, 0 if it was altered while it was read.
    """

    def __init__(
        self,
        files: Sequence[str],
        stats: NDArray[np.int64],
        shapes: NDArray[np.int64],
        digests: NDArray[np.uint8],
    ) -> None:
        self.files, self.stats, self.shapes, self.digests = files, stats, shapes, digests

    @classmethod
    def of(cls, files: Sequence[str], arrays: Mapping[str, NDArray[Any]]) -> Sources | None:
        """Return what is stored among arrays; None if an earlier version wrote them."""
        if STATS not in arrays:
            return None
        return cls(files, *(arrays[name] for name in (STATS, SHAPES, DIGESTS)))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays by which they are stored, besides the names."""
        return {STATS: self.stats, SHAPES: self.shapes, DIGESTS: self.digests}

    @cached_property
    def rows(self) -> dict[str, int]:
        """The row of each name."""
        return {file: row for row, file in enumerate(self.files)}

    @cached_property
    def sizes(self) -> frozenset[int]:
        """All sizes in bytes."""
        return frozenset(self.stats[:, 0].tolist())

    @cached_property
    def contents(self) -> dict[bytes, int]:
        """A row of each content, by its SHA-256."""
        digests = np.ascontiguousarray(self.digests)
        known = np.flatnonzero(digests.any(axis=1)).tolist()
        return {digests[row].tobytes(): row for row in reversed(known)}

    def unchanged(self, file: str, stat: Stat) -> int | None:
        """Return the row of a file whose name and status are known; None if there is none."""
        row = self.rows.get(file)
        return row if row is not None and tuple(self.stats[row].tolist()) == stat else None

    def size(self, row: int) -> tuple[int, int]:
        """Return the height and width of a photo, upright."""
        height, width = self.shapes[row].tolist()
        return height, width

    def equals(self, other: Sources) -> bool:
        """Return whether both are the same files, unchanged."""
        return list(self.files) == list(other.files) and all(
            np.array_equal(one, two)
            for one, two in zip(self.arrays().values(), other.arrays().values(), strict=True)
        )


def sources_layout(n: int) -> Layout:
    """Return what the arrays of `Sources` must be."""
    return {
        STATS: Array(np.int64, (n, 3)),
        SHAPES: Array(np.int64, (n, 2), Between(1, 2**31 - 1)),
        DIGESTS: Array(np.uint8, (n, DIGEST_BYTES)),
    }


class Changes(NamedTuple):
    """What has changed in a folder of photos since it was described.

    Attributes
    ----------
    new : int
        Photos of another name and content than those before; they are described.
    altered : int
        Photos of a known name and another content; they are described.
    renamed : int
        Photos of a known content under another name; they are not described again.
    gone : int
        Photos of before whose name and content are no longer there.
    unchanged : int
    anew : str
        Why all photos were described again, whatever they were before; "" if they were not.
    """

    new: int
    altered: int
    renamed: int
    gone: int
    unchanged: int
    anew: str = ""

    @classmethod
    def between(
        cls, before: Sources | None, files: Collection[str], rows: NDArray[np.int64], anew: str = ""
    ) -> Changes:
        """Compare a folder with what it was before.

        Parameters
        ----------
        before : Sources or None
        files : collection of str
            The photos that are described now.
        rows : ndarray
            The row in `before` of the content of each, -1 if it is another content.
        anew : str, default ""
        """
        if before is None:
            return cls(len(files), 0, 0, 0, 0, anew)
        known = [file in before.rows for file in files]
        moved = [
            row >= 0 and before.files[row] != file
            for file, row in zip(files, rows.tolist(), strict=True)
        ]
        described = rows < 0
        altered = int(np.count_nonzero(described & known))
        new = int(np.count_nonzero(described)) - altered
        left = set(before.files) - set(files) - {before.files[row] for row in rows[rows >= 0]}
        unchanged = len(files) - new - altered - sum(moved)
        return cls(new, altered, sum(moved), len(left), unchanged)

    def __str__(self) -> str:
        photos = self.new + self.altered + self.renamed + self.unchanged
        if self.anew:
            return f"{photos} photos, all described anew: {self.anew}"
        renamed = f"{self.renamed} renamed, " if self.renamed else ""
        return (
            f"{photos} photos: {self.new} new, {self.altered} altered, {self.gone} gone, "
            f"{renamed}{self.unchanged} unchanged"
        )


# --- where the photos are -------------------------------------------------------------------------


def place_of(folder: str | os.PathLike[str], seen_from: str | os.PathLike[str]) -> dict[str, str]:
    """Return where a folder is, as a JSON value that a directory keeps.

    Relative to that directory, so that both can be moved together, and absolute, so that the
    directory can be moved alone.
    """
    place = {_ABSOLUTE: os.path.abspath(folder)}
    with contextlib.suppress(ValueError):  # on another drive of Windows
        place[_RELATIVE] = Path(os.path.relpath(folder, seen_from)).as_posix()
    return place


def folders_at(place: Any, seen_from: str | os.PathLike[str]) -> list[str]:
    """Return the folders that `place_of` may have meant, the likeliest first; perhaps none."""
    if not isinstance(place, dict):
        return []
    names = [place.get(name) for name in (_RELATIVE, _ABSOLUTE)]
    paths = [
        os.path.abspath(os.path.join(seen_from, name))
        for name in names
        if isinstance(name, str) and "\0" not in name
    ]
    return list(dict.fromkeys(paths))


def plain_text(text: str) -> str:
    """Return text in which the undecodable bytes of a file name are replaced."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
