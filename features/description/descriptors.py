"""A folder of descriptors that an extraction wrote, opened without torch."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from diffusion.errors import DiffusionError
from diffusion.storage import as_path, read_array

if TYPE_CHECKING:
    from .whitening import Whitening

FORMAT = "diffusion-rerank descriptors"
VERSION = 1
MANIFEST = "manifest.json"
DESCRIPTORS, FILES, WHITENING = "descriptors.npy", "files.txt", "whitening.npz"
REGIONAL, REGION_IMAGES, REGION_BOXES = "regions.npy", "region_images.npy", "region_boxes.npy"
# What an object discovery holds beside; the key of its manifest that tells it from an extraction.
MAPS, MAP_SHAPES, MAP_EXTENTS = "maps.npy", "map_shapes.npy", "map_extents.npy"
BOXES, BOX_IMAGES, BOX_WEIGHTS = "boxes.npy", "box_images.npy", "box_weights.npy"
OBJECTS = "objects"


@dataclass(frozen=True)
class Descriptors:
    """What an extraction wrote.

    Attributes
    ----------
    path : Path
    manifest : dict
        `recipe`, `skipped`, sizes, checksums.
    vectors : ndarray, shape (n, d), float32
        Memory-mapped.
    files : list of str
        The image of each row, relative to the folder that was read.
    regional : ndarray, shape (m, d), float32, or None
        Descriptors of regions, the images' one after the other.
    region_images : ndarray, shape (m,), int64, or None
        The row of the image that each region is of.
    region_boxes : ndarray, shape (m, 4), float32, or None
        (top, left, bottom, right), in [0, 1] of the image.
    """

    path: Path
    manifest: dict[str, Any]
    vectors: NDArray[np.float32]
    files: list[str]
    regional: NDArray[np.float32] | None
    region_images: NDArray[np.int64] | None
    region_boxes: NDArray[np.float32] | None

    def whitening(self) -> Whitening | None:
        """Return the whitening that the descriptors went through, if any."""
        from .whitening import load_whitening

        entry = WHITENING in self.manifest["files"]
        return load_whitening(self.path / WHITENING) if entry else None


def open_descriptors(path: str | os.PathLike[str], *, verify: bool = False) -> Descriptors:
    """Open a folder of descriptors.

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
    path = as_path(path)
    manifest = read_manifest(path)
    for name, entry in manifest["files"].items():
        try:
            size = (path / name).stat().st_size
        except OSError as error:
            raise DiffusionError(f"{path / name}: cannot be read ({error.strerror})") from None
        if size != entry["bytes"] or (verify and digest(path / name) != entry["sha256"]):
            raise DiffusionError(f"{path / name}: altered since it was written")
    vectors = _array(path / DESCRIPTORS, 2, np.float32)
    files = (path / FILES).read_text("utf-8", "surrogateescape").split("\n")[:-1]
    if len(files) != len(vectors):
        raise DiffusionError(f"{path}: altered, {len(vectors)} descriptors of {len(files)} files")
    regional, images, boxes = None, None, None
    if REGIONAL in manifest["files"]:
        regional = _array(path / REGIONAL, 2, np.float32)
        images = _array(path / REGION_IMAGES, 1, np.int64)
        boxes = _array(path / REGION_BOXES, 2, np.float32)
        if not len(regional) == len(images) == len(boxes) or (
            len(images) and not 0 <= images.min() <= images.max() < len(files)
        ):
            raise DiffusionError(f"{path}: altered, its regions do not belong to its images")
    return Descriptors(path, manifest, vectors, files, regional, images, boxes)


def read_manifest(path: Path) -> dict[str, Any]:
    """Read and check the manifest of a folder of descriptors."""
    file = path / MANIFEST
    try:
        manifest = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        raise DiffusionError(
            f"{path}: expected descriptors, found no {MANIFEST}; where an extraction was "
            "interrupted, the same command goes on with it"
        ) from None
    except OSError as error:
        raise DiffusionError(f"{file}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        raise DiffusionError(f"{file}: truncated or altered, not valid JSON") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise DiffusionError(f"{file}: expected format {FORMAT!r}, this is a foreign file")
    if manifest.get("version") != VERSION:
        raise DiffusionError(
            f"{file}: of version {manifest.get('version')}, this library reads version {VERSION}"
        )
    entries = manifest.get("files")
    known = {DESCRIPTORS, FILES, WHITENING, REGIONAL, REGION_IMAGES, REGION_BOXES}
    known |= {MAPS, MAP_SHAPES, MAP_EXTENTS, BOXES, BOX_IMAGES, BOX_WEIGHTS}
    if (
        not isinstance(entries, dict)
        or not {DESCRIPTORS, FILES} <= set(entries) <= known
        or not all(isinstance(e, dict) and {"bytes", "sha256"} <= set(e) for e in entries.values())
        or (REGIONAL in entries and not {REGION_IMAGES, REGION_BOXES} <= set(entries))
        or not isinstance(manifest.get("recipe"), dict)
    ):
        raise DiffusionError(f"{file}: altered, its files are not described as expected")
    return manifest


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _array(path: Path, ndim: int, dtype: type) -> Any:
    array = read_array(path)
    if array.ndim != ndim or array.dtype != dtype:
        raise DiffusionError(f"{path}: altered, {array.dtype} of shape {array.shape}")
    return array
