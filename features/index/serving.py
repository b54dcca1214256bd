"""What `diffusion serve INDEX --photos` needs of an index of photos: descriptors and thumbnails.

Uploads are described in memory, and only photos of the collection are shown. Nothing is downloaded.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffusion import Reranker, storage
from diffusion.errors import DiffusionError
from diffusion.ids import ItemIds
from diffusion.index_state import IndexState, open_state
from diffusion.storage.strings import printable

from ..description.recipe import Describer
from ..images.reading import UnreadableImageError, quiet, read_image, read_size
from ..objects.locate import Locator
from .photos import STATS, describer_for, describer_identity, image_names, photo_folders
from .places import path_in

# The most pixels of an upload, above those of most cameras. It is decoded at a smaller size if it
# is a JPEG; otherwise this takes 0.8 GiB.
UPLOAD_PIXELS = 1 << 26

# Longer side of a thumbnail, in pixels, and how many bytes of thumbnails are kept in memory.
_SIDE, _CACHE_BYTES = 448, 1 << 26

# Photos that are looked for in the folder when it is opened.
_LOOKED_FOR = 100

_Seen = tuple[int, ...]


def open_photos(
    index: str | os.PathLike[str],
    folder: str | os.PathLike[str] | None = None,
    *,
    weights: str | os.PathLike[str] | None = None,
) -> IndexedPhotos:
    """Open an index of photos, to describe other photos and to show its own.

    Parameters
    ----------
    index : path-like
        An index that `features index` wrote.
    folder : path-like, optional
        The folder of its photos, by default the one that they were described from.
    weights : path-like, optional
        The file of weights, if it has been moved; its checksum must not have changed.

    Returns
    -------
    IndexedPhotos

    Raises
    ------
    DiffusionError
        If it is not an index of photos, its network cannot be loaded from this machine, or the
        folder has none of its photos.
    """
    if folder is not None and not os.path.isdir(folder):
        raise DiffusionError(
            f"--photos: expected the folder of the photos of {os.fspath(index)}, got "
            f"{os.fspath(folder)!r}"
        )
    return IndexedPhotos(storage.as_path(index, "index"), folder, weights)


class IndexedPhotos:
    """The photos of an index; `open_photos` makes one.

    Any number of threads may call all methods. If the index is saved anew, as `features index`
    does when photos were added or removed, the next call takes that up.

    Memory: that of the network, one decoded upload and 64 MiB of thumbnails; the index is
    memory-mapped.
    """

    def __init__(
        self,
        index: Path,
        folder: str | os.PathLike[str] | None,
        weights: str | os.PathLike[str] | None,
    ) -> None:
        self._index, self._folder, self._weights = index, folder, weights
        self._opening = threading.Lock()
        self._tried = _seen(index)
        self._opened = _Opened.of(index, folder)
        self._opened.check(index)
        # One thread, so that torch has one team of threads, as large as OMP_NUM_THREADS says.
        # Photos are described one at a time, which gives each the same descriptor to the last bit
        # whatever else is uploaded; on a CPU, batches are no faster.
        self._network = ThreadPoolExecutor(1, "describe")
        self._describers: dict[str, Describer | Locator] = {}
        self._network.submit(self._describer).result()
        self._thumbnails = _Kept(_CACHE_BYTES)

    def describe(self, files: Sequence[bytes]) -> NDArray[np.float32]:
        """Describe uploaded photos as `features search` would describe their files.

        Parameters
        ----------
        files : sequence of bytes
            Contents of image files: JPEG, PNG, WebP, GIF, TIFF, BMP, AVIF if Pillow reads it, HEIF
            if pillow-heif is installed.

        Returns
        -------
        ndarray, shape (nq, d), float32

        Raises
        ------
        DiffusionError
            If one is no photo, is damaged, or has more than `UPLOAD_PIXELS` pixels.
        """
        for file in files:
            # What is no photo does not wait until others have been described.
            with quiet():
                _check_upload(file)
        vectors = [self._network.submit(self._described, file) for file in files]
        return np.stack([vector.result() for vector in vectors])

    def picture(self, id: Any) -> bytes | None:
        """Return a photo of the collection as it is in the folder now, as a small JPEG file.

        The longer side has at most 448 pixels. The photo is upright, and nothing that its file
        says besides, such as where it was taken, is in the result.

        A photo is looked up in the index, by its id. A link that leads out of the folder counts
        as long as it leads to the file that was indexed, by its size and modification time.

        Parameters
        ----------
        id : str or int
            As searches return it.

        Returns
        -------
        bytes or None
            None if there is no such photo in the collection, or its file is missing or damaged.
        """
        opened = self._current()
        row = opened.row(id)
        found = None if row is None else opened.file(row)
        if found is None:
            return None
        path, status = found
        key = (path, status.st_ino, status.st_size, status.st_mtime_ns)
        thumbnail = self._thumbnails.get(key)
        if thumbnail is None:
            try:
                thumbnail = _thumbnail(path)
            except UnreadableImageError:
                return None
            self._thumbnails.put(key, thumbnail)
        return thumbnail

    def name(self, id: Any) -> str:
        """Return the name of a photo, which is its path in the folder, for one line of a page."""
        names = self._opened.names
        if names is not None and isinstance(id, int) and 0 <= id < len(names):
            id = names[id]
        return printable(str(id))

    def _current(self) -> _Opened:
        """Return the state of the index, and open it again if it has been saved anew."""
        seen = _seen(self._index)
        if seen != self._tried and self._opening.acquire(blocking=False):
            try:
                # An index that cannot be opened leaves the state as it is, until it is saved again.
                self._tried = seen
                self._opened = _Opened.of(self._index, self._folder)
            except DiffusionError:
                pass
            finally:
                self._opening.release()
        return self._opened

    def _described(self, file: bytes) -> NDArray[np.float32]:
        return self._describer().describe_file(file)

    def _describer(self) -> Describer | Locator:
        """Return the network of the present state, which is loaded once; in its own thread only."""
        opened = self._current()
        if opened.identity not in self._describers:
            loaded = describer_for(opened.state, weights=self._weights)
            self._describers = {opened.identity: loaded}
        return self._describers[opened.identity]


@dataclass(frozen=True, eq=False)
class _Opened:
    """A state of an index of photos.

    Attributes
    ----------
    state : IndexState
    items : ItemIds
    names : list of str or None
        The names by row of an index that an earlier version of this library wrote, in which ids are
        row numbers; otherwise ids are names.
    folders : list of str
        The folders that the photos may be in, the likeliest first.
    """

    state: IndexState
    items: ItemIds
    names: list[str] | None
    folders: list[str]

    @classmethod
    def of(cls, index: Path, folder: str | os.PathLike[str] | None) -> Self:
        state = open_state(index)
        names = image_names(state)
        items = Reranker.from_state(state).fitted().items
        folders = photo_folders(state) if folder is None else [os.path.abspath(folder)]
        return cls(state, items, None if items.named else names, folders)

    @cached_property
    def identity(self) -> str:
        return describer_identity(self.state)

    def row(self, id: Any) -> int | None:
        """Return the row of a photo, None if there is none of that id."""
        try:
            row = int(self.items.rows_of([id], "id")[0])
        except (DiffusionError, LookupError):
            return None
        return row if row >= 0 else None

    def name(self, row: int) -> str:
        return (
            str(self.items.of_rows(np.array([row]))[0]) if self.names is None else self.names[row]
        )

    def file(self, row: int) -> tuple[Path, os.stat_result] | None:
        """Return the path of a photo and its status, None if it is not there."""
        try:
            path = path_in(self.folders, self.name(row))
            real, status = os.path.realpath(path), os.stat(path)
        except (DiffusionError, OSError, ValueError):
            return None
        within = any(Path(real).is_relative_to(os.path.realpath(f)) for f in self.folders)
        return (path, status) if within or self._is_indexed(row, status) else None

    def _is_indexed(self, row: int, status: os.stat_result) -> bool:
        """Return whether a file has the size and the modification time of one when indexed."""
        stats = self.state.arrays.get(STATS)
        if stats is None or stats.shape != (self.items.size, 2):
            return False
        return (status.st_size, status.st_mtime_ns) == tuple(stats[row].tolist())

    def check(self, index: Path) -> None:
        """Raise unless the folder is there and has photos of the index."""
        n = self.items.size
        rows = np.unique(np.linspace(0, n - 1, min(n, _LOOKED_FOR)).astype(np.int64)).tolist()
        if not any(self.file(row) for row in rows):
            looked = " or ".join(self.folders) or "no folder, since the index names none"
            raise DiffusionError(
                f"{index}: the photos are not where they were, such as "
                f"{printable(self.name(rows[0]))} (looked in {looked}); name their folder "
                "(--photos FOLDER)"
            )


class _Kept:
    """The values that were used last, at most so many bytes of them; for any number of threads."""

    def __init__(self, limit: int) -> None:
        self._limit, self._bytes = limit, 0
        self._values: OrderedDict[Any, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Any) -> bytes | None:
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, key: Any, value: bytes) -> None:
        with self._lock:
            self._bytes += len(value) - len(self._values.pop(key, b""))
            self._values[key] = value
            while self._bytes > self._limit:
                self._bytes -= len(self._values.popitem(last=False)[1])


def _seen(index: Path) -> _Seen:
    """Return what tells that an index has been saved anew: its manifest is then another file."""
    try:
        status = os.stat(index / storage.MANIFEST)
    except OSError:
        return ()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _check_upload(file: bytes) -> None:
    """Raise unless a file begins as a photo of a size that is taken."""
    if not isinstance(file, bytes):
        raise DiffusionError(f"files: expected the contents of photos, bytes, got {type(file)}")
    height, width = read_size(file)
    if height * width > UPLOAD_PIXELS:
        raise UnreadableImageError(
            f"photo: too many pixels ({width} x {height}, more than {UPLOAD_PIXELS})"
        )


def _thumbnail(path: Path) -> bytes:
    """Return an image file as a small JPEG file, made of its pixels alone."""
    with quiet():
        height, width = read_size(path)
        factor = min(1.0, _SIDE / max(height, width))
        size = max(1, round(factor * height)), max(1, round(factor * width))
        pixels = read_image(path, size)
    file = BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=85)
    return file.getvalue()
