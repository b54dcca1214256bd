"""The arrays of an object discovery, written to its folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffusion import storage

from ..description.descriptors import DESCRIPTORS, FORMAT, source_arrays, whitening_arrays
from ..description.recipe import Describer
from ..description.sweep import places
from .discovery import ObjectDiscovery
from .groups import Groups
from .kept import FoundNodes, Located
from .opened import (
    BOX_GROUPS,
    BOX_IMAGES,
    BOX_LIKENESS,
    BOX_WEIGHTS,
    BOXES,
    FOUND_FINE,
    FOUND_FINE_COUNTS,
    FOUND_VECTORS,
    LEARNED,
    MAP_EXTENTS,
    MAP_SHAPES,
    MAPS,
)


class FoundBoxes(NamedTuple):
    """The boxes of all photos, photo by photo, with the row of the photo and the groups of each."""

    boxes: NDArray[np.float32]
    images: NDArray[np.int64]
    groups: Groups


def write_objects(
    out: Path,
    describer: Describer,
    found: FoundNodes,
    discovery: ObjectDiscovery,
    located: Callable[[], Iterator[Located]],
    boxes: FoundBoxes,
    content: Mapping[str, Any],
) -> None:
    """Write the arrays and the manifest of a discovery. All of them are there, or none.

    Parameters
    ----------
    out : Path
    describer : Describer
    found : FoundNodes
        The nodes that the discovery was learned from, which are kept for an update.
    discovery : ObjectDiscovery
    located : callable
        Yields what was found in the photos, in blocks of any order, each time that it is called.
    boxes : FoundBoxes
    content : mapping
        What the manifest is to say, beside numbers.
    """
    n, d = len(found), describer.dimension
    counts, cells = np.bincount(boxes.images, minlength=n), np.zeros(n, np.int64)
    for rows, part in located():
        cells[rows] = part["shapes"].prod(axis=1)
    first_box, first_cell = (np.cumsum(lengths) - lengths for lengths in (counts, cells))
    m = len(boxes.boxes)
    with storage.writing(out, FORMAT) as new:
        vectors = new.create(DESCRIPTORS, np.float32, (n, d))
        maps = new.create(MAPS, np.float32, (int(cells.sum()),))
        shapes = new.create(MAP_SHAPES, np.int64, (n, 2))
        extents = new.create(MAP_EXTENTS, np.float64, (n, 4))
        weights = new.create(BOX_WEIGHTS, np.float32, (m,))
        for rows, part in located():
            vectors[rows] = part["descriptors"]
            shapes[rows], extents[rows] = part["shapes"], part["extents"]
            maps[places(first_cell[rows], cells[rows])] = part["maps"]
            weights[places(first_box[rows], part["counts"])] = part["weights"]
        new.add(BOXES, boxes.boxes)
        new.add(BOX_IMAGES, boxes.images)
        new.add(BOX_GROUPS, boxes.groups.labels)
        new.add(BOX_LIKENESS, boxes.groups.likeness)
        _keep_nodes(new, found, discovery)
        others = source_arrays(found.sources) | whitening_arrays(describer.whitening)
        others |= {LEARNED + name: array for name, array in discovery.state()[1].items()}
        for name, array in others.items():
            new.add(name, array)
        numbers = {"images": n, "dimension": d, "nodes": len(discovery.vectors_), "boxes": m}
        new.commit({**content, **numbers, "groups": len(boxes.groups)})


def _keep_nodes(new: storage.Writing, found: FoundNodes, discovery: ObjectDiscovery) -> None:
    """Keep the nodes of each photo, so that an update finds those of new photos alone."""
    counts, channels = found.fine_counts, found.fine_channels
    vectors = new.create(
        FOUND_VECTORS, np.float32, (len(discovery.vectors_), len(discovery.whitening_.mean))
    )
    fine = new.create(FOUND_FINE, np.float32, (int(counts.sum()), channels))
    new.add(FOUND_FINE_COUNTS, counts)
    ends = np.cumsum(counts)
    for nodes, start, stop, last, count in zip(
        found, discovery.starts_, discovery.starts_[1:], ends, counts, strict=False
    ):
        vectors[start:stop] = nodes.vectors
        if count:
            fine[last - count : last] = nodes.fine
