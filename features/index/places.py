"""Where the photos of an index are, and what has changed there since it was built."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from diffusion.errors import DiffusionError

from ..description.sources import plain_text
from ..images.reading import each_image

# Seconds that comparing a folder may take.
_SECONDS = 2.0


def path_in(folders: Collection[str | os.PathLike[str]], name: str) -> Path:
    """Return the path of a photo in the first folder that has it.

    Raises
    ------
    DiffusionError
        If none has it, or the name leads out of a folder.
    """
    parts = PurePosixPath(name).parts
    if not name or "\0" in name or ".." in parts or os.path.isabs(name):
        raise DiffusionError(f"{name!r}: expected the name of a photo inside its folder")
    for folder in folders:
        path = Path(folder, *parts)
        if path.is_file():
            return path
    looked = ", ".join(str(folder) for folder in folders) or "no folder is known"
    raise DiffusionError(
        f"{name}: the photo is not where it was ({looked}); name the folder of photos "
        "(--photos FOLDER)"
    )


class Outdated(NamedTuple):
    """How far the photos in a folder are from those that were described.

    Attributes
    ----------
    folder : str
    new, altered, gone : int
        Numbers of photos.
    whole : bool
        Whether the whole folder has been compared. If not, there may be more, and none is known to
        be gone.
    """

    folder: str
    new: int
    altered: int
    gone: int
    whole: bool = True

    def __str__(self) -> str:
        least = "" if self.whole else "at least "
        return f"{least}{self.new} new, {self.altered} altered, {self.gone} gone"


def compare(
    folder: str | os.PathLike[str],
    known: Mapping[str, tuple[int, int]],
    skipped: Collection[str],
    *,
    seconds: float = _SECONDS,
) -> Outdated:
    """Compare the photos in a folder with those that were described; no photo is opened.

    Parameters
    ----------
    folder : path-like
    known : mapping of str to tuple of int
        Size in bytes and modification time (ns) of each photo.
    skipped : collection of str
        Other files that could not be read.
    seconds : float
        After this time, the folder is not compared to its end.

    Raises
    ------
    DiffusionError
        If the folder cannot be read.
    """
    until = time.monotonic() + seconds
    new, altered, present = 0, 0, 0
    for name in each_image(folder):
        if time.monotonic() > until:
            return Outdated(os.fspath(folder), new, altered, 0, whole=False)
        before = known.get(name)
        if before is None:
            new += plain_text(name) not in skipped
            continue
        present += 1
        try:
            status = os.stat(os.path.join(folder, name))
        except OSError:  # it has just been deleted, or cannot be reached
            continue
        altered += (status.st_size, status.st_mtime_ns) != before
    return Outdated(os.fspath(folder), new, altered, len(known) - present)
