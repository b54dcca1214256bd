"""What the update of an object discovery takes over from the earlier one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..description import sweep
from ..description.sweep import Sweep
from ..description.update import Update
from .opened import Objects, open_objects
from .regions import ImageRegions

# Rows, and by name what was found in their photos.
Located = tuple[NDArray[np.int64], dict[str, NDArray[Any]]]


def earlier_blocks(objects: Objects) -> Iterator[Located]:
    """Yield what was found in the photos of an earlier discovery."""
    n = len(objects.files)
    cells = np.cumsum([0, *objects.map_shapes.prod(axis=1)])
    boxes = np.searchsorted(objects.box_images, np.arange(n + 1))
    for start in range(0, n, sweep.SHARD_IMAGES):
        stop = min(start + sweep.SHARD_IMAGES, n)
        of_boxes = slice(boxes[start], boxes[stop])
        yield (
            np.arange(start, stop),
            {
                "descriptors": objects.descriptors.vectors[start:stop],
                "shapes": objects.map_shapes[start:stop],
                "maps": objects.maps[cells[start] : cells[stop]],
                "extents": objects.map_extents[start:stop],
                "counts": np.diff(boxes[start : stop + 1]),
                "boxes": objects.boxes[of_boxes],
                "weights": objects.box_weights[of_boxes],
            },
        )


class FoundRegions:
    """The regions of all photos that can be read: those of before, and those found now.

    Attributes
    ----------
    kept : ndarray, int64
        The numbers of the items that can be read.
    sources : Sources
        What to keep of them.
    skipped : dict of str to str
        All images that cannot be read, with the reason.
    """

    def __init__(self, update: Update, regions: Sweep) -> None:
        self._update, self._sweep = update, regions
        readable = update.known.rows >= 0
        digests = update.known.digests.copy()
        for numbers, _, arrays in regions.contents():
            if numbers:
                readable[numbers], digests[numbers] = True, arrays["digests"]
        self.skipped = update.skipped(regions)
        if not readable.any():
            nothing = update.found._replace(items=[], skipped=self.skipped)
            nothing.refuse_nothing(update.folder)
        self.kept = np.flatnonzero(readable)
        self.sources = update.sources(self.kept, digests)

    @property
    def names(self) -> list[str]:
        """Fingerprints of those found now, to the last bit."""
        return self._sweep.names

    def __iter__(self) -> Iterator[tuple[int, ImageRegions]]:
        """Yield numbers of items, and their regions."""
        if len(self._update.known.reused):
            assert self._update.earlier is not None
            earlier = open_objects(self._update.earlier.path).regions()
            for numbers, rows in self._update.reused_blocks():
                yield from zip(numbers.tolist(), map(earlier, rows.tolist()), strict=True)
        for found in self._sweep.contents():
            if not found.numbers:
                continue
            arrays, ends = found.arrays, np.cumsum(found.arrays["counts"])[:-1]
            parts = (
                np.split(arrays[name], ends) for name in ("cells", "weights", "saliency", "vectors")
            )
            for number, *fields in zip(found.numbers, *parts, strict=True):
                yield number, ImageRegions(*fields)
