"""A folder of descriptors that an extraction or a discovery wrote, opened without torch."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from diffusion import storage
from diffusion.errors import DiffusionError
from diffusion.storage.contents import Array, Between, Contents, finite
from diffusion.storage.strings import pack_strings, unpack_strings

from .sources import STATS, Changes, Sources, folders_at, sources_layout

if TYPE_CHECKING:
    from .whitening import Whitening

# Entries beside the manifest: the shards of an unfinished run, and the page and the groups of a
# discovery.
PARTIAL, PAGE, GROUPS = "partial", "page.html", "groups.json"
FORMAT = storage.Format(
    "diffusion-rerank descriptors", 2, "descriptors", companions=frozenset({PARTIAL, PAGE, GROUPS})
)
# The key of the manifest that distinguishes an object discovery from an extraction.
OBJECTS = "objects"
# Other keys: where the photos are, and all that the descriptors depend on besides them.
PHOTOS, MADE_WITH = "photos", "made_with"

# Arrays by name.
DESCRIPTORS, FILES, FILE_ENDS = "descriptors", "files", "file_ends"
REGIONAL, REGION_IMAGES, REGION_BOXES = "regions", "region_images", "region_boxes"
MEAN, PROJECTION = "whitening_mean", "whitening_projection"


@dataclass(frozen=True)
class Descriptors:
    """The descriptors of a folder of images.

    Attributes
    ----------
    path : Path
    manifest : dict
        `recipe`, `skipped`, numbers, checksums.
    vectors : ndarray, shape (n, d), float32
        Memory-mapped.
    files : list of str
        The image of each row, relative to the folder that was read.
    regional : ndarray, shape (m, d), float32, or None
        Descriptors of regions, image by image.
    region_images : ndarray, shape (m,), int64, or None
        The row of the image that each region belongs to.
    region_boxes : ndarray, shape (m, 4), float32, or None
        Top, left, bottom and right of each region, as parts of the image in [0, 1].
    arrays : dict of ndarray
        All arrays of the folder by name.
    sources : Sources or None
        What the photos were when they were described; None if an earlier version described them.
    changes : Changes or None
        What had changed since the earlier descriptors that a call has just updated.
    """

    path: Path
    manifest: dict[str, Any]
    vectors: NDArray[np.float32]
    files: list[str]
    regional: NDArray[np.float32] | None
    region_images: NDArray[np.int64] | None
    region_boxes: NDArray[np.float32] | None
    arrays: dict[str, NDArray[Any]]
    sources: Sources | None = None
    changes: Changes | None = None

    def photos(self) -> list[str]:
        """Return the folders that the photos may be in, the likeliest first; perhaps none."""
        return folders_at(self.manifest.get(PHOTOS), self.path)

    def regions_of(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return where the regions of images begin and end, without any if none are described."""
        images = np.empty(0, np.int64) if self.region_images is None else self.region_images
        first, last = (np.searchsorted(images, rows, side) for side in ("left", "right"))
        return first, last

    def whitening(self) -> Whitening | None:
        """Return the whitening that was applied to the descriptors, if any."""
        return stored_whitening(self.arrays)


def open_descriptors(path: str | os.PathLike[str], *, verify: bool = False) -> Descriptors:
    """Open a folder of descriptors that `extract_folder` or `discover_folder` wrote.

    Parameters
    ----------
    path : path-like
    verify : bool, default False
        Read every array and compare its checksum.

    Raises
    ------
    DiffusionError
        If there are none, the extraction is not finished, or an array is altered.
    """
    path = storage.as_path(path)
    refuse_version_1(path)
    stored = storage.load(path, FORMAT, verify=verify)
    arrays, altered = stored.arrays, f"{path / storage.MANIFEST}: altered"
    if not isinstance(stored.manifest.get("recipe"), dict):
        raise DiffusionError(f"{altered}, it has no recipe")
    try:
        files = unpack_strings(arrays[FILES], arrays[FILE_ENDS])
        layout = {DESCRIPTORS: Array(np.float32, (len(files), "d"))}
        if REGIONAL in arrays:
            layout[REGIONAL] = Array(np.float32, ("m", "d"))
            layout[REGION_IMAGES] = Array(np.int64, ("m",), Between(0, len(files) - 1))
            layout[REGION_BOXES] = Array(np.float32, ("m", 4), finite(np.float32))
        if STATS in arrays:
            layout |= sources_layout(len(files))
        Contents(arrays, layout, "arrays").check()
    except (KeyError, ValueError) as error:
        raise DiffusionError(
            f"{altered}, its arrays are not those of descriptors ({error})"
        ) from None
    regional, images, boxes = map(arrays.get, (REGIONAL, REGION_IMAGES, REGION_BOXES))
    sources = Sources.of(files, arrays)
    vectors = arrays[DESCRIPTORS]
    return Descriptors(
        path, stored.manifest, vectors, files, regional, images, boxes, arrays, sources
    )


def earlier_descriptors(
    path: Path,
    made_with: Mapping[str, Any],
    opened: Callable[[Path], Descriptors] = open_descriptors,
) -> tuple[Descriptors | None, str | None]:
    """Open the descriptors that an update may take over.

    Parameters
    ----------
    path : Path
    made_with : mapping
        What the descriptors are made with now, as JSON values.
    opened : callable, default open_descriptors
        Opens them.

    Returns
    -------
    descriptors : Descriptors or None
        None if they were made with something else, are damaged or not there.
    anew : str or None
        Why they cannot be taken over; "" if they can be, None if there are none.
    """
    manifest = storage.peek_manifest(path)
    if manifest is None or "recipe" not in manifest:
        return None, None
    try:
        earlier = opened(path)
    except DiffusionError as error:
        return None, f"the earlier descriptors cannot be read ({error})"
    if earlier.sources is None or MADE_WITH not in manifest:
        return None, "an earlier version of this library described them"
    other = differences(manifest[MADE_WITH], json.loads(json.dumps(made_with)))
    return (None, f"made with other settings ({', '.join(other)})") if other else (earlier, "")


def differences(one: Any, other: Any, name: str = "settings") -> list[str]:
    """Return the names of the innermost JSON values in which two differ."""
    if not isinstance(one, dict) or not isinstance(other, dict):
        return [] if one == other else [name]
    names = list(dict.fromkeys([*one, *other]))
    return [found for key in names for found in differences(one.get(key), other.get(key), str(key))]


def is_described(path: str | os.PathLike[str]) -> bool:
    """Return whether a folder holds descriptors, perhaps unfinished or of another version."""
    manifest = storage.peek_manifest(storage.as_path(path))
    return manifest is not None and manifest.get("format") == FORMAT.name


def is_finished(path: str | os.PathLike[str]) -> bool:
    """Return whether a folder holds descriptors that were finished, and so can be updated."""
    return is_described(path) and "recipe" in (storage.peek_manifest(storage.as_path(path)) or {})


def check_target(out: Path, *, objects: bool) -> None:
    """Raise unless a folder may be written to.

    Parameters
    ----------
    out : Path
    objects : bool
        Whether the folder is to hold an object discovery; otherwise an extraction. Neither
        replaces the other.
    """

    def accepts(manifest: Mapping[str, Any]) -> bool:
        return "recipe" not in manifest or (OBJECTS in manifest) == objects

    refuse_version_1(out)
    expected = replace(FORMAT, noun="an object discovery") if objects else FORMAT
    storage.check_target(out, expected, accepts)


def refuse_version_1(path: Path) -> None:
    """Raise if an earlier version of the library wrote a folder of descriptors."""
    manifest = storage.peek_manifest(path)
    if manifest and (manifest.get("format"), manifest.get("version")) == (FORMAT.name, 1):
        raise DiffusionError(
            f"{path}: descriptors of version 1, which this library does not read; extract the "
            "images again, to another folder"
        )


def stored_whitening(arrays: Mapping[str, NDArray[Any]]) -> Whitening | None:
    """Return the whitening that is stored among arrays, if any."""
    if MEAN not in arrays:
        return None
    from .whitening import Whitening

    return Whitening(*(np.asarray(arrays[name], np.float64) for name in (MEAN, PROJECTION)))


def source_arrays(sources: Sources) -> dict[str, NDArray[Any]]:
    """Return the arrays by which the photos and their names are stored."""
    names, ends = pack_strings(sources.files)
    return {FILES: names, FILE_ENDS: ends, **sources.arrays()}


def whitening_arrays(whitening: Whitening | None) -> dict[str, NDArray[np.float64]]:
    """Return the arrays by which a whitening is stored."""
    if whitening is None:
        return {}
    return {MEAN: whitening.mean, PROJECTION: whitening.projection}
