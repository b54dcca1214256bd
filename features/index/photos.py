"""The photos of an index: their names, where they are, and searches with other photos."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from diffusion import Reranker, index_state
from diffusion.errors import DiffusionError
from diffusion.index_state import IndexState
from diffusion.storage import fingerprint
from diffusion.storage.strings import unpack_strings

from ..description.descriptors import MEAN, OBJECTS, PHOTOS, PROJECTION, stored_whitening
from ..description.sources import folders_at
from ..images.boxes import Box, as_box
from .places import Outdated, compare, path_in

if TYPE_CHECKING:
    from ..description.recipe import Describer
    from ..images.reading import Source
    from ..objects.locate import Locator

# What an index of photos holds beside an index of vectors: a JSON value, with the place of the
# descriptors and the files that could not be read, and two arrays, of the size and modification
# time of each photo and of the SHA-256 of its content.
CONTENT = index_state.PHOTOS
DESCRIBED, SKIPPED = "descriptors", "skipped"
STATS, DIGESTS = "image_stats", "image_digests"
# In indexes of earlier versions, whose ids are row numbers.
_NAMES, _ENDS = "image_names", "image_name_ends"


def photo_folders(state: IndexState) -> list[str]:
    """Return the folders that the photos of an index may be in, the likeliest first.

    The first is that which lies as it did from the index, so that both can be moved together. There
    is none if an earlier version of this library built the index.
    """
    image_names(state)
    return folders_at(state.parts[CONTENT].get(PHOTOS), state.source)


def descriptor_folders(state: IndexState) -> list[str]:
    """Return where the descriptors that an index was built from may be, the likeliest first."""
    image_names(state)
    return folders_at(state.parts[CONTENT].get(DESCRIBED), state.source)


def photo_path(state: IndexState, name: str, folder: str | os.PathLike[str] | None = None) -> Path:
    """Return the path of a photo of an index.

    Parameters
    ----------
    state : IndexState
        An opened index.
    name : str
        The name of the photo, as searches return it.
    folder : path-like, optional
        The folder of the photos, by default the one that they were described from.

    Raises
    ------
    DiffusionError
        If the photo is not there, or the index is not one of photos.
    """
    return path_in(photo_folders(state) if folder is None else [folder], name)


def outdated(state: IndexState, folder: str | os.PathLike[str] | None = None) -> Outdated | None:
    """Compare an index with the folder of its photos, by names, sizes and modification times.

    Returns
    -------
    Outdated or None
        None if nothing has changed, as far as it can be told: the folder may be out of reach, or an
        earlier version of this library may have built the index.
    """
    content = state.parts[CONTENT]
    folders = photo_folders(state) if folder is None else [os.fspath(folder)]
    there = next(filter(os.path.isdir, folders), None)
    skipped = content.get(SKIPPED)
    if there is None or STATS not in state.arrays or not isinstance(skipped, list):
        return None
    names, stats = image_names(state), state.arrays[STATS]
    if stats.shape != (len(names), 2):
        return None
    try:
        known = dict(zip(names, map(tuple, stats.tolist()), strict=True))
        found = compare(there, known, set(map(str, skipped)))
    except DiffusionError:
        return None
    return found if found.new or found.altered or found.gone else None


def image_names(state: IndexState) -> list[str]:
    """Return the photo of each item of an index, by row.

    Raises
    ------
    DiffusionError
        If it is an index of vectors alone.
    """
    content = state.parts.get(CONTENT)
    if not isinstance(content, dict):
        raise DiffusionError(
            f"{state.source}: expected an index of photos, as `features index` builds it; this one "
            "is of vectors alone"
        )
    try:
        if _NAMES in state.arrays:
            names = unpack_strings(state.arrays[_NAMES], state.arrays[_ENDS])
            if len(names) != state.size("items"):
                raise ValueError(f"{len(names)} names")
            return names
        ids = Reranker.from_state(state).ids_
        if ids.dtype != object:
            raise ValueError(f"ids of {ids.dtype}")
        return ids.tolist()
    except (KeyError, ValueError) as error:
        raise DiffusionError(
            f"{state.source}: altered, its photos have no names ({error})"
        ) from None


def photo_names(state: IndexState, ids: NDArray[Any]) -> NDArray[Any]:
    """Return the photos that a search has found, padded with None.

    In indexes that an earlier version of this library wrote, ids are row numbers.
    """
    if ids.dtype == object:
        return ids
    names = np.array([*image_names(state), None], object)
    return names[np.where((ids >= 0) & (ids < len(names) - 1), ids, -1)]


def describe_queries(
    state: IndexState,
    files: Sequence[Source],
    *,
    boxes: Sequence[Box | None] | None = None,
    weights: str | os.PathLike[str] | None = None,
    allow_download: bool = False,
) -> NDArray[np.float32]:
    """Describe photos as the photos of an index were described.

    Parameters
    ----------
    state : IndexState
        An opened index.
    files : sequence of path-like or bytes
        Image files, or their contents.
    boxes : sequence of box or None, optional
        For each file the part of the photo that is searched for, as left, top, right, bottom in
        pixels of the upright photo; None for the whole photo. `Describer.describe_file` and
        `Locator.describe_file` say how it is described. By default whole photos.
    weights : path-like, optional
        The file of weights, if it has been moved; its checksum must not have changed.
    allow_download : bool, default False
        Whether a network of the Hugging Face hub that the index names may be downloaded.

    Returns
    -------
    ndarray, shape (nq, d), float32

    Raises
    ------
    DiffusionError
        If the index is not one of photos, its network cannot be loaded, a file is no image, or a
        box is not finite, has no area or lies outside its photo.
    """
    boxes = [None] * len(files) if boxes is None else boxes
    if len(boxes) != len(files):
        raise DiffusionError(
            f"boxes: expected one, or None, for each of {len(files)} files, got {len(boxes)}"
        )
    for box in boxes:
        if box is not None:
            as_box(box)  # before a network is loaded
    describer = describer_for(state, weights=weights, allow_download=allow_download)
    return np.stack(
        [describer.describe_file(file, box) for file, box in zip(files, boxes, strict=True)]
    )


def describer_for(
    state: IndexState,
    *,
    weights: str | os.PathLike[str] | None = None,
    allow_download: bool = False,
) -> Describer | Locator:
    """Load what describes photos as those of an index were described; see `describe_queries`.

    Its `describe_file` takes an image file or its content, and optionally a box in it, and returns
    a descriptor (d,).
    """
    from ..description.recipe import describer_of

    image_names(state)
    content = state.parts[CONTENT]
    if OBJECTS not in content:
        return describer_of(
            content.get("recipe"),
            stored_whitening(state.arrays),
            state.source,
            weights=weights,
            allow_download=allow_download,
        )
    from ..objects.opened import open_objects

    # What was learned is large, and is stored with the descriptors only.
    made = content[OBJECTS]
    if not isinstance(made, dict) or not isinstance(made.get("path"), str):
        raise DiffusionError(f"{state.source}: altered, it names no object discovery")
    places = [*folders_at(content.get(DESCRIBED), state.source), made["path"]]
    place = next(filter(os.path.isdir, places), None)
    if place is None:
        raise DiffusionError(
            f"{made['path']}: the object discovery that the index was built from is no longer "
            "here; move it back, or build the index again"
        )
    objects = open_objects(place)
    if objects.descriptors.manifest[OBJECTS]["digest"] != made.get("discovery"):
        raise DiffusionError(
            f"{place}: expected the object discovery that the index was built from, "
            "this is another one; build the index again"
        )
    return objects.locator(weights=weights, allow_download=allow_download)


def describer_identity(state: IndexState) -> str:
    """Return what tells whether two states of an index describe photos in the same way."""
    content = state.parts[CONTENT]
    whitening = [state.arrays[name] for name in (MEAN, PROJECTION) if name in state.arrays]
    return fingerprint([content.get("recipe"), content.get(OBJECTS), whitening])


def first_stage(ranker: Reranker, queries: NDArray[np.float32], k: int) -> NDArray[Any]:
    """Return the ids of the items nearest to queries: k of them, or as many as diffusion uses."""
    fitted = ranker.fitted()
    query_k = int(ranker.query_k)
    found, _ = fitted.first_stage(queries, k, query_k=query_k, progress=False)
    return fitted.items.of_rows(fitted.first_items(queries, found, k)[1])
