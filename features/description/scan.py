"""The images of a folder before they are described: which can be read, and which are known."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from diffusion.errors import DiffusionError
from diffusion.storage import sha256_of

from ..images.batches import Item, check_workers, in_order
from ..images.reading import Listing, UnreadableImageError, read_size
from ..settings import RunSettings
from .recipe import Describer
from .sources import DIGEST_BYTES, NO_STAT, Sources, Stat, stat_of


class Found(NamedTuple):
    """The images of a folder whose size can be read, and the others with the reason."""

    items: list[Item]
    sizes: list[tuple[int, int]]  # height and width of each item in its file, upright
    stats: list[Stat]
    skipped: dict[str, str]
    listing: Listing

    def refuse_nothing(self, folder: str) -> None:
        """Raise if no image can be read."""
        if not self.items:
            file, reason = next(iter(self.skipped.items()))
            raise DiffusionError(
                f"{folder}: expected an image that can be read; none of {len(self.skipped)} can, "
                f"{file}: {reason}"
            )

    def sources(self, numbers: Sequence[int], digests: NDArray[np.uint8]) -> Sources:
        """Return what to keep of some of the items; one with digest 0 was altered meanwhile."""
        stats = np.array([self.stats[n] for n in numbers], np.int64).reshape(-1, 3)
        stats[~digests.any(axis=1)] = NO_STAT
        shapes = np.array([self.sizes[n] for n in numbers], np.int64).reshape(-1, 2)
        return Sources([self.items[n].file for n in numbers], stats, shapes, digests)


def scan(
    folder: str,
    listing: Listing,
    describer: Describer,
    run: RunSettings,
    known: Sources | None = None,
) -> Found:
    """Read the size of every image of a folder, and list those that have none with the reason.

    The files that `known` tells to be unchanged are not opened.
    """
    files = listing.images

    def measure(file: str) -> tuple[Item, tuple[int, int], Stat] | str:
        path = os.path.join(folder, file)
        if "\n" in file or "\r" in file:
            return "its name holds a line break"
        try:
            stat = stat_of(path)
            row = None if known is None else known.unchanged(file, stat)
            size = read_size(path) if known is None or row is None else known.size(row)
            return Item(file, *stat[:2], *describer.fitted(size)), size, stat
        except UnreadableImageError as error:
            return str(error).removeprefix(f"{path}: ")
        except OSError as error:
            return error.strerror or str(error)

    outcome, workers = Found([], [], [], {}, listing), check_workers(run.workers)
    with tqdm(total=len(files), desc="scan", unit="image", disable=not run.progress) as bar:
        for file, found in zip(files, in_order(measure, files, workers), strict=True):
            if isinstance(found, str):
                outcome.skipped[file] = found
            else:
                outcome.items.append(found[0])
                outcome.sizes.append(found[1])
                outcome.stats.append(found[2])
            bar.update()
    return outcome


class Known(NamedTuple):
    """Which of the items of a folder have been described.

    Attributes
    ----------
    rows : ndarray, shape (n,), int64
        The row of each among what has been described, -1 if it has not been.
    digests : ndarray, shape (n, 32), uint8
        SHA-256 of the content of those that have been, 0 for the others.
    """

    rows: NDArray[np.int64]
    digests: NDArray[np.uint8]

    @classmethod
    def nothing(cls, n: int) -> Known:
        """Return that none of n items has been described."""
        return cls(np.full(n, -1, np.int64), np.zeros((n, DIGEST_BYTES), np.uint8))

    @property
    def missing(self) -> list[int]:
        """The numbers of the items that have to be described."""
        return np.flatnonzero(self.rows < 0).tolist()

    @property
    def reused(self) -> NDArray[np.int64]:
        """The numbers of the items that have been described."""
        return np.flatnonzero(self.rows >= 0)


def match(folder: str, found: Found, known: Sources | None, run: RunSettings) -> Known:
    """Find the items of a folder whose content has been described.

    A file whose name, size and times are known has been. The content of another file is read and
    compared, by its SHA-256, if a file of the same size has been described. All that remain are
    new.
    """
    matched = Known.nothing(len(found.items))
    if known is None:
        return matched
    doubtful = []
    for number, (item, stat) in enumerate(zip(found.items, found.stats, strict=True)):
        row = known.unchanged(item.file, stat)
        if row is not None:
            matched.rows[number], matched.digests[number] = row, known.digests[row]
        elif item.bytes in known.sizes:
            doubtful.append(number)

    def digest(number: int) -> bytes:
        try:
            return bytes.fromhex(sha256_of(os.path.join(folder, found.items[number].file)))
        except DiffusionError:
            return b""  # decoding it gives the reason

    with tqdm(
        total=len(doubtful), desc="compare", unit="image", disable=not (run.progress and doubtful)
    ) as bar:
        digests = in_order(digest, doubtful, check_workers(run.workers))
        for number, content in zip(doubtful, digests, strict=True):
            row = known.contents.get(content)
            if row is not None:
                matched.rows[number], matched.digests[number] = row, known.digests[row]
            bar.update()
    return matched
