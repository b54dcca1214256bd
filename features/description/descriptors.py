"""A folder of descriptors that an extraction or a discovery wrote, opened without torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from diffusion import storage
from diffusion.errors import DiffusionError
from diffusion.storage.contents import Array, Between, Contents, finite
from diffusion.storage.strings import unpack_strings

if TYPE_CHECKING:
    from .whitening import Whitening

# Entries beside the manifest: the shards of an unfinished run, and the page of a discovery.
PARTIAL, PAGE = "partial", "page.html"
FORMAT = storage.Format(
    "diffusion-rerank descriptors", 2, "descriptors", companions=frozenset({PARTIAL, PAGE})
)
# The key of the manifest that distinguishes an object discovery from an extraction.
OBJECTS = "objects"

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
    """

    path: Path
    manifest: dict[str, Any]
    vectors: NDArray[np.float32]
    files: list[str]
    regional: NDArray[np.float32] | None
    region_images: NDArray[np.int64] | None
    region_boxes: NDArray[np.float32] | None
    arrays: dict[str, NDArray[Any]]

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
        Contents(arrays, layout, "arrays").check()
    except (KeyError, ValueError) as error:
        raise DiffusionError(
            f"{altered}, its arrays are not those of descriptors ({error})"
        ) from None
    vectors, *of_regions = (arrays[name] for name in layout)
    regional, images, boxes = of_regions or (None, None, None)
    return Descriptors(path, stored.manifest, vectors, files, regional, images, boxes, arrays)


def is_described(path: str | os.PathLike[str]) -> bool:
    """Return whether a folder holds descriptors, perhaps unfinished or of another version."""
    manifest = storage.peek_manifest(storage.as_path(path))
    return manifest is not None and manifest.get("format") == FORMAT.name


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


def whitening_arrays(whitening: Whitening | None) -> dict[str, NDArray[np.float64]]:
    """Return the arrays by which a whitening is stored."""
    if whitening is None:
        return {}
    return {MEAN: whitening.mean, PROJECTION: whitening.projection}
