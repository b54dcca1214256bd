"""Photos in an index: it is built from descriptors, and searched with photos."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from diffusion import Reranker, storage
from diffusion.errors import DiffusionError
from diffusion.index_state import INDEX, IndexState, save_state
from diffusion.storage.strings import pack_strings, printable, unpack_strings

from ..description.descriptors import (
    OBJECTS,
    Descriptors,
    stored_whitening,
    whitening_arrays,
)

# What an index of photos holds beside an index of vectors.
_CONTENT = "images"
_NAMES, _ENDS = "image_names", "image_name_ends"


def build_index(
    descriptors: Descriptors, index: str | os.PathLike[str], ranker: Reranker
) -> Reranker:
    """Fit a Reranker to descriptors, and save it together with what describes query photos.

    After an interruption the same call resumes.

    Parameters
    ----------
    descriptors : Descriptors
        As `open_descriptors` returns them.
    index : path-like
        Directory to write: an earlier index, an empty directory or one that does not exist.
    ranker : Reranker
        Not fitted yet.

    Returns
    -------
    Reranker
        The fitted one.

    Raises
    ------
    DiffusionError
        If `index` holds anything else, or cannot be written.
    """
    index = storage.as_path(index, "index")
    storage.check_target(index, INDEX)
    content: dict[str, Any] = {"recipe": descriptors.manifest["recipe"]}
    if OBJECTS in descriptors.manifest:
        digest = descriptors.manifest[OBJECTS]["digest"]
        content[OBJECTS] = {"path": os.path.abspath(descriptors.path), "discovery": digest}
    names, ends = pack_strings(descriptors.files)
    extra: dict[str, NDArray[Any]] = {_NAMES: names, _ENDS: ends}
    extra |= whitening_arrays(descriptors.whitening())
    ranker.fit(descriptors.vectors, checkpoint=f"{index}.partial")
    save_state(index, ranker.state().with_part(_CONTENT, content, extra))
    return ranker


def image_names(state: IndexState) -> list[str]:
    """Return the photo of each item of an index.

    Raises
    ------
    DiffusionError
        If it is an index of vectors alone.
    """
    content = state.parts.get(_CONTENT)
    if not isinstance(content, dict) or not {_NAMES, _ENDS} <= set(state.arrays):
        raise DiffusionError(
            f"{state.source}: expected an index of photos, as `features index` builds it; this one "
            "is of vectors alone"
        )
    try:
        names = unpack_strings(state.arrays[_NAMES], state.arrays[_ENDS])
        if len(names) != state.size("items"):
            raise ValueError(f"{len(names)} names")
    except (KeyError, ValueError) as error:
        raise DiffusionError(
            f"{state.source}: altered, its photos have no names ({error})"
        ) from None
    return names


def describe_queries(
    state: IndexState,
    files: Sequence[str | os.PathLike[str]],
    *,
    weights: str | None = None,
    allow_download: bool = False,
) -> NDArray[np.float32]:
    """Describe photos as the photos of an index were described.

    Parameters
    ----------
    state : IndexState
        An opened index.
    files : sequence of path-like
    weights : str, optional
        The file of weights, if it has been moved; its checksum must not have changed.
    allow_download : bool, default False
        Whether a network of the Hugging Face hub that the index names may be downloaded.

    Returns
    -------
    ndarray, shape (nq, d), float32

    Raises
    ------
    DiffusionError
        If the index is not one of photos, its network cannot be loaded, or a file is no image.
    """
    from ..description.recipe import describer_of

    image_names(state)
    content = state.parts[_CONTENT]
    if OBJECTS in content:
        from ..objects.opened import open_objects

        # What was learned is large, and is stored with the descriptors only.
        made = content[OBJECTS]
        if not isinstance(made, dict) or not isinstance(made.get("path"), str):
            raise DiffusionError(f"{state.source}: altered, it names no object discovery")
        if not os.path.isdir(made["path"]):
            raise DiffusionError(
                f"{made['path']}: the object discovery that the index was built from is no longer "
                "here; move it back, or build the index again"
            )
        objects = open_objects(made["path"])
        if objects.descriptors.manifest[OBJECTS]["digest"] != made.get("discovery"):
            raise DiffusionError(
                f"{made['path']}: expected the object discovery that the index was built from, "
                "this is another one; build the index again"
            )
        locator = objects.locator(weights=weights, allow_download=allow_download)
        return np.stack([locator.describe_file(file) for file in files])
    whitening = stored_whitening(state.arrays)
    describer = describer_of(
        content.get("recipe"),
        whitening,
        state.source,
        weights=weights,
        allow_download=allow_download,
    )
    return np.stack([describer.describe_file(file) for file in files])


def write_names(
    file: IO[str],
    state: IndexState,
    queries: Sequence[str],
    scores: NDArray[np.float32],
    ids: NDArray[np.int64],
) -> None:
    """Write lines of query, rank, score and file name, separated by tabs, without padding.

    Control characters of names are written as escapes.
    """
    names = image_names(state)
    encoding = getattr(file, "encoding", None) or "utf-8"
    for query, row_scores, row_ids in zip(queries, scores, ids, strict=True):
        for rank, (score, item) in enumerate(zip(row_scores, row_ids, strict=True), 1):
            if item >= 0:
                photo, found = printable(query), printable(names[item])
                line = f"{photo}\t{rank}\t{score:.6g}\t{found}\n"
                # Characters that the output cannot encode are replaced.
                file.write(line.encode(encoding, "replace").decode(encoding))
