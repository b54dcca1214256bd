"""What the update of an object discovery takes over from the earlier one."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffusion.storage import Shards

from ..description import sweep
from ..description.sweep import Sweep
from ..description.update import Update
from .nodes import ImageNodes
from .opened import FOUND_FINE, FOUND_FINE_COUNTS, Objects, open_objects

# Rows, and by name what was found in their photos.
Located = tuple[NDArray[np.int64], dict[str, NDArray[Any]]]
# The arrays of the nodes of photos in a shard, and of their samples of fine cells.
OF_NODES, OF_FINE = ("cells", "saliency", "vectors"), ("fine",)


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


def as_arrays(nodes: list[ImageNodes]) -> dict[str, NDArray[Any]]:
    """Return the nodes of several photos as the arrays of a shard."""
    return {
        "counts": np.array([len(one.cells) for one in nodes]),
        "fine_counts": np.array([len(one.fine) for one in nodes]),
        **{
            name: np.concatenate([getattr(one, name) for one in nodes])
            for name in (*OF_NODES, *OF_FINE)
        },
    }


class _Place(NamedTuple):
    """Where the nodes of a photo lie: the number of their shard, and their rows in it."""

    shard: int
    nodes: slice
    fine: slice


class FoundNodes(Collection[ImageNodes]):
    """The nodes of all photos that can be read, in their order: those of before, and those of now.

    They can be iterated over any number of times. They are read photo by photo from the arrays of
    the earlier discovery and from the shards, so that the memory does not grow with their number.

    Attributes
    ----------
    kept : ndarray, int64
        The numbers of the items that can be read.
    sources : Sources
        What to keep of them.
    skipped : dict of str to str
        All images that cannot be read, with the reason.
    fine_counts : ndarray, shape (kept,), int64
        The number of cells of the fine map that are kept of each.
    fine_channels : int
        The number of channels of the fine map, 0 if there is none.
    """

    def __init__(self, update: Update, nodes: Sweep, shards: Shards) -> None:
        self._update, self._sweep = update, nodes
        readable = update.known.rows >= 0
        digests = update.known.digests.copy()
        self._places: dict[int, _Place] = {}
        self.fine_channels, fine = 0, np.zeros(len(readable), np.int64)
        for shard, (numbers, _, arrays) in enumerate(nodes.contents()):
            if numbers:
                readable[numbers], digests[numbers] = True, arrays["digests"]
                fine[numbers], self.fine_channels = arrays["fine_counts"], arrays["fine"].shape[1]
                parts = (_slices(arrays[name]) for name in ("counts", "fine_counts"))
                for number, *rows in zip(numbers, *parts, strict=True):
                    self._places[number] = _Place(shard, *rows)
        self.skipped = update.skipped(nodes)
        if not readable.any():
            nothing = update.found._replace(items=[], skipped=self.skipped)
            nothing.refuse_nothing(update.folder)
        self.kept = np.flatnonzero(readable)
        self.sources = update.sources(self.kept, digests)
        self._shards = [shards.rows(name) for name in nodes.names]
        self._earlier = None
        if len(update.known.reused):
            assert update.earlier is not None
            earlier = open_objects(update.earlier.path)
            self._earlier = earlier.nodes()
            reused, stored = update.known.reused, earlier.descriptors.arrays
            fine[reused] = stored[FOUND_FINE_COUNTS][update.known.rows[reused]]
            self.fine_channels = stored[FOUND_FINE].shape[1]
        self.fine_counts = fine[self.kept]

    @property
    def names(self) -> list[str]:
        """Fingerprints of those found now, to the last bit."""
        return self._sweep.names

    def __len__(self) -> int:
        return len(self.kept)

    def __contains__(self, nodes: object) -> bool:
        return any(one is nodes for one in self)

    def __iter__(self) -> Iterator[ImageNodes]:
        for number in self.kept.tolist():
            if number not in self._places:
                assert self._earlier is not None
                yield self._earlier(int(self._update.known.rows[number]))
                continue
            place = self._places[number]
            rows = dict.fromkeys(OF_NODES, place.nodes) | dict.fromkeys(OF_FINE, place.fine)
            yield ImageNodes(**self._shards[place.shard].read(rows))


def _slices(counts: NDArray[np.int64]) -> list[slice]:
    """Return the rows of each part, of parts with these numbers of rows one after the other."""
    ends = np.cumsum(counts).tolist()
    return list(map(slice, [0, *ends[:-1]], ends))
