"""The folder that an object discovery wrote, opened without torch."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffusion.errors import DiffusionError
from diffusion.storage.contents import Array, Between, Contents, finite
from diffusion.validation import check_integer

from ..description.descriptors import OBJECTS, Descriptors, open_descriptors

if TYPE_CHECKING:
    from ..description.recipe import Describer
    from .discovery import ObjectDiscovery
    from .locate import Locator
    from .nodes import ImageNodes

# Arrays by name, beside those of descriptors.
MAPS, MAP_SHAPES, MAP_EXTENTS = "maps", "map_shapes", "map_extents"
BOXES, BOX_IMAGES, BOX_WEIGHTS = "boxes", "box_images", "box_weights"
BOX_GROUPS, BOX_LIKENESS = "box_groups", "box_likeness"
# The nodes that objects were learned from, beside what was learned: maxima of activations, and
# cells of the fine map, with their number in each photo.
FOUND_VECTORS, FOUND_FINE, FOUND_FINE_COUNTS = "found_vectors", "found_fine", "found_fine_counts"
# What the arrays that were learned are called: this, and their own names.
LEARNED = "discovery_"
# The largest height or width of a map, with which the cells of all maps can be counted in int64.
_LARGEST_SIDE = 1 << 16


class Group(NamedTuple):
    """Boxes that show the same object.

    Attributes
    ----------
    boxes : ndarray, int64
        Their rows in `Objects.boxes`, by descending likeness to the others.
    photos : ndarray, int64
        The rows of their photos, ascending, without repetition.
    """

    boxes: NDArray[np.int64]
    photos: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Objects:
    """The objects that a discovery found in a folder of photos.

    Attributes
    ----------
    descriptors : Descriptors
        One per photo, with the names of the photos and the manifest.
    maps : ndarray, shape (cells,), float32
        The object saliency maps of all photos, one after the other; memory-mapped, as all arrays.
        They are maps of whole objects, on the fine cells of the network if it has any.
    map_shapes : ndarray, shape (n, 2), int64
        Height and width of each map.
    map_extents : ndarray, shape (n, 4), float64
        Left, top, right, bottom of each map in pixels of the upright photo; the outer cells may
        extend beyond it.
    boxes : ndarray, shape (m, 4), float32
        Left, top, right, bottom of the objects in pixels of the upright photo, photo by photo, and
        within each by descending weight.
    box_images : ndarray, shape (m,), int64
        The row of the photo that each box belongs to.
    box_weights : ndarray, shape (m,), float32
        Shares of the map's mass, which sum to 1 in each photo.
    box_groups : ndarray, shape (m,), int64
        The group of boxes that show the same object, from 0 by descending number of photos; -1 for
        boxes in no group.
    box_likeness : ndarray, shape (m,), float32
        Mean likeness of each box to the others of its group, in [0, 1]; 0 in no group.
    learned_again : bool
        Whether the call that returned this learned the objects, and located them in all photos.
    """

    descriptors: Descriptors
    maps: NDArray[np.float32]
    map_shapes: NDArray[np.int64]
    map_extents: NDArray[np.float64]
    boxes: NDArray[np.float32]
    box_images: NDArray[np.int64]
    box_weights: NDArray[np.float32]
    box_groups: NDArray[np.int64]
    box_likeness: NDArray[np.float32]
    learned_again: bool = False

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
        """Return the boxes of a photo, shape (k, 4), float32, the heaviest first."""
        first, last = np.searchsorted(self.box_images, [self._row(row), row + 1])
        return self.boxes[first:last]

    def groups(self) -> list[Group]:
        """Return the groups of boxes that show the same object, those of most photos first.

        The groups are numbered as in `box_groups` and in the file groups.json.
        """
        order = np.lexsort((-self.box_likeness, self.box_groups))
        order = order[self.box_groups[order] >= 0]
        ends = np.flatnonzero(np.diff(self.box_groups[order])) + 1
        parts = np.split(order, ends) if len(order) else []
        return [Group(boxes, np.unique(self.box_images[boxes])) for boxes in parts]

    def done(self) -> str:
        """Return in words what the call that returned this took over, and what it did again."""
        changes = self.descriptors.changes
        if changes is None:
            return ""
        if not self.learned_again:
            return f"{changes}; nothing was done again"
        kept = 0 if changes.anew else changes.unchanged + changes.renamed
        nodes = f"the nodes of {kept} photos were kept; " if kept else ""
        return f"{changes}; {nodes}objects were learned again, and located in all photos"

    def discovery(self) -> ObjectDiscovery:
        """Load what was learned from the photos."""
        from .discovery import ObjectDiscovery

        settings = self.descriptors.manifest[OBJECTS]["settings"]
        arrays = self.descriptors.arrays
        learned = {n.removeprefix(LEARNED): a for n, a in arrays.items() if n.startswith(LEARNED)}
        try:
            return ObjectDiscovery.from_state(settings, learned)
        except ValueError as error:
            raise DiffusionError(f"{self.descriptors.path}: altered, {error}") from None

    def nodes(self) -> Callable[[int], ImageNodes]:
        """Return what gives the nodes of a photo, by its row, that objects were learned from."""
        from .nodes import ImageNodes

        arrays, learned = self.descriptors.arrays, self.discovery()
        starts = learned.starts_.tolist()
        fine = np.cumsum([0, *arrays[FOUND_FINE_COUNTS]]).tolist()
        cells, saliency, vectors = learned.cells_, learned.saliency_, arrays[FOUND_VECTORS]

        def of(row: int) -> ImageNodes:
            own = slice(starts[row], starts[row + 1])
            sampled = arrays[FOUND_FINE][fine[row] : fine[row + 1]]
            return ImageNodes(cells[own], saliency[own], vectors[own], sampled)

        return of

    def locator(
        self,
        *,
        weights: str | os.PathLike[str] | None = None,
        device: str | None = None,
        allow_download: bool = False,
    ) -> Locator:
        """Load the network as well, to locate objects in other photos.

        Parameters
        ----------
        weights : path-like, optional
            The file of weights, if it has been moved; its checksum must not have changed.
        device : str, optional
            By default a GPU if there is one.
        allow_download : bool, default False
            Whether a network of the Hugging Face hub that the manifest names may be downloaded.
        """
        from .locate import Locator, Mapper

        describer = self.describer(weights=weights, device=device, allow_download=allow_download)
        kind = self.descriptors.manifest[OBJECTS]["descriptor"]
        return Locator(Mapper(describer), self.discovery(), kind, self.descriptors.sources)

    def describer(
        self,
        *,
        weights: str | os.PathLike[str] | None = None,
        device: str | None = None,
        allow_download: bool = False,
    ) -> Describer:
        """Load the network, as `locator` does."""
        from ..description.recipe import describer_of

        return describer_of(
            self.descriptors.manifest["recipe"],
            self.descriptors.whitening(),
            str(self.descriptors.path),
            weights=None if weights is None else os.fspath(weights),
            device=device,
            allow_download=allow_download,
        )

    def _row(self, row: int) -> int:
        if check_integer(row, "row", low=0) >= len(self.files):
            raise DiffusionError(f"row: expected one of {len(self.files)} photos, got {row}")
        return row


def is_of_earlier_version(descriptors: Descriptors) -> bool:
    """Return whether a version of the library that found no groups discovered these objects."""
    return OBJECTS in descriptors.manifest and BOX_GROUPS not in descriptors.arrays


def open_objects(path: str | os.PathLike[str], *, verify: bool = False) -> Objects:
    """Open what `discover_folder` wrote.

    Parameters
    ----------
    path : path-like
    verify : bool, default False
        Read every array and compare its checksum.

    Raises
    ------
    DiffusionError
        If there is none, the discovery is not finished, an array is altered, or an earlier version
        of the library, which found no groups, wrote it.
    """
    descriptors = open_descriptors(path, verify=verify)
    path, arrays = descriptors.path, descriptors.arrays
    about = descriptors.manifest.get(OBJECTS)
    if about is None:
        raise DiffusionError(
            f"{path}: expected an object discovery, as `features discover` writes it; these are "
            "descriptors alone"
        )
    if is_of_earlier_version(descriptors):
        raise DiffusionError(
            f"{path}: an earlier version of this library discovered these objects; discover them "
            "again, with the network named as then: features discover PHOTOS OUT --backbone ..."
        )
    try:
        if not isinstance(about, dict) or not {"descriptor", "digest", "settings"} <= set(about):
            raise ValueError(OBJECTS)
        n, m = len(descriptors.files), len(arrays[f"{LEARNED}saliency"])
        layout = {
            MAPS: Array(np.float32, ("cells",)),
            MAP_SHAPES: Array(np.int64, (n, 2), Between(1, _LARGEST_SIDE)),
            MAP_EXTENTS: Array(np.float64, (n, 4), finite(np.float64)),
            BOXES: Array(np.float32, ("boxes", 4), finite(np.float32)),
            BOX_IMAGES: Array(np.int64, ("boxes",), Between(0, n - 1)),
            BOX_WEIGHTS: Array(np.float32, ("boxes",), finite(np.float32)),
            BOX_GROUPS: Array(np.int64, ("boxes",), Between(-1, len(arrays[BOXES]))),
            BOX_LIKENESS: Array(np.float32, ("boxes",), Between(0, 1)),
        }
        found = {
            FOUND_VECTORS: Array(np.float32, (m, "channels")),
            FOUND_FINE: Array(np.float32, ("fine", "fine channels")),
            FOUND_FINE_COUNTS: Array(np.int64, (n,), Between(0, _LARGEST_SIDE)),
        }
        Contents(arrays, layout | found, "arrays").check()
        if arrays[MAP_SHAPES].prod(axis=1).sum() != len(arrays[MAPS]):
            raise ValueError(MAP_SHAPES)
        if arrays[FOUND_FINE_COUNTS].sum() != len(arrays[FOUND_FINE]):
            raise ValueError(FOUND_FINE_COUNTS)
        maps, shapes, extents, *of_boxes = (arrays[name] for name in layout)
        boxes, images, weights, groups, likeness = of_boxes
        return Objects(descriptors, maps, shapes, extents, boxes, images, weights, groups, likeness)
    except (KeyError, ValueError) as error:
        raise DiffusionError(
            f"{path / 'manifest.json'}: altered, its objects are not as expected ({error})"
        ) from None
