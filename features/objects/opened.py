"""A folder of object discovery, opened without torch until photos are to be seen."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from diffusion.errors import DiffusionError
from diffusion.storage import read_array
from diffusion.validation import check_integer

from ..description.descriptors import (
    BOX_IMAGES,
    BOX_WEIGHTS,
    BOXES,
    DESCRIPTORS,
    MANIFEST,
    MAP_EXTENTS,
    MAP_SHAPES,
    MAPS,
    OBJECTS,
    Descriptors,
    open_descriptors,
)

if TYPE_CHECKING:
    from .discovery import ObjectDiscovery
    from .locate import Locator

DISCOVERY = "discovery"
ARRAYS = {
    DESCRIPTORS: np.float32,
    MAPS: np.float32,
    MAP_SHAPES: np.int64,
    MAP_EXTENTS: np.float64,
    BOXES: np.float32,
    BOX_IMAGES: np.int64,
    BOX_WEIGHTS: np.float32,
}


@dataclass(frozen=True, eq=False)
class Objects:
    """What an object discovery of a folder wrote.

    Attributes
    ----------
    descriptors : Descriptors
        One a photo, with the photos' names and the manifest.
    maps : ndarray, shape (cells,), float32
        The object saliency of all photos, one after the other; memory-mapped as all arrays.
    map_shapes : ndarray, shape (n, 2), int64
        Height and width of each map.
    map_extents : ndarray, shape (n, 4), float64
        Left, top, right, bottom of each map in pixels of the upright photo; the outer cells may
        reach out of it.
    boxes : ndarray, shape (m, 4), float32
        Left, top, right, bottom in pixels of the upright photo, photo by photo and in each by
        descending weight.
    box_images : ndarray, shape (m,), int64
        The row of the photo that each is of.
    box_weights : ndarray, shape (m,), float32
        π of the mixture, summing to 1 in each photo.
    """

    descriptors: Descriptors
    maps: NDArray[np.float32]
    map_shapes: NDArray[np.int64]
    map_extents: NDArray[np.float64]
    boxes: NDArray[np.float32]
    box_images: NDArray[np.int64]
    box_weights: NDArray[np.float32]

    @property
    def files(self) -> list[str]:
        """The photos, relative to the folder that was read."""
        return self.descriptors.files

    def map(self, row: int) -> NDArray[np.float32]:
        """Return the object saliency map of a photo, shape (h, w), float32."""
        row = self._row(row)
        cells = self.map_shapes.prod(axis=1)
        start = int(cells[:row].sum())
        return self.maps[start : start + cells[row]].reshape(self.map_shapes[row])

    def boxes_of(self, row: int) -> NDArray[np.float32]:
        """Return the boxes of a photo, shape (k, 4), float32, the weightiest first."""
        first, last = np.searchsorted(self.box_images, [self._row(row), row + 1])
        return self.boxes[first:last]

    def discovery(self) -> ObjectDiscovery:
        """Load what was learned from the photos."""
        from .locate import load_discovery

        path = self.descriptors.path / DISCOVERY
        return load_discovery(path, self.descriptors.manifest[OBJECTS]["discovery"])

    def locator(
        self, *, weights: str | os.PathLike[str] | None = None, device: str | None = None
    ) -> Locator:
        """Load the network too, for photos that the discovery has not seen.

        Parameters
        ----------
        weights : path-like, optional
            Where the network's weights are now; their checksum must be that of then.
        device : str, optional
            By default a GPU where there is one.
        """
        from ..description.recipe import describer_of
        from .locate import Locator, Mapper

        describer = describer_of(
            self.descriptors.manifest["recipe"],
            self.descriptors.whitening(),
            str(self.descriptors.path),
            weights=None if weights is None else os.fspath(weights),
            device=device,
        )
        kind = self.descriptors.manifest[OBJECTS]["descriptor"]
        return Locator(Mapper(describer), self.discovery(), kind)

    def _row(self, row: int) -> int:
        if check_integer(row, "row", low=0) >= len(self.files):
            raise DiffusionError(f"row: expected one of {len(self.files)} photos, got {row}")
        return row


def open_objects(path: str | os.PathLike[str], *, verify: bool = False) -> Objects:
    """Open what `discover_folder` wrote.

    Parameters
    ----------
    path : path-like
    verify : bool, default False
        Read every file and compare its checksum.

    Raises
    ------
    DiffusionError
        If it is none, is not complete, or a file of it is altered.
    """
    descriptors = open_descriptors(path, verify=verify)
    path = descriptors.path
    about = descriptors.manifest.get(OBJECTS)
    if about is None:
        raise DiffusionError(
            f"{path}: expected an object discovery, as `features discover` writes it; these are "
            "descriptors alone"
        )
    if (
        not isinstance(about, dict)
        or set(about) != {"descriptor", "discovery"}
        or not set(ARRAYS) <= set(descriptors.manifest["files"])
    ):
        raise DiffusionError(f"{path / MANIFEST}: altered, its objects are not as expected")
    arrays = {name: read_array(path / name) for name in ARRAYS if name != DESCRIPTORS}
    n, m = len(descriptors.files), len(arrays[BOXES])
    shapes: dict[str, tuple[int, ...]] = {MAP_SHAPES: (n, 2), MAP_EXTENTS: (n, 4), BOXES: (m, 4)}
    shapes |= {BOX_IMAGES: (m,), BOX_WEIGHTS: (m,)}
    if arrays[MAP_SHAPES].shape == (n, 2):
        shapes[MAPS] = (int(arrays[MAP_SHAPES].prod(axis=1).sum()),)
    for name, array in arrays.items():
        if array.dtype != ARRAYS[name] or array.shape != shapes.get(name):
            raise DiffusionError(f"{path / name}: altered, {array.dtype} of shape {array.shape}")
    return Objects(
        descriptors,
        arrays[MAPS],
        arrays[MAP_SHAPES],
        arrays[MAP_EXTENTS],
        arrays[BOXES],
        arrays[BOX_IMAGES],
        arrays[BOX_WEIGHTS],
    )
