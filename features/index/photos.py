"""Images in an index: the names of its items, and what describes a query as they were."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from diffusion.errors import DiffusionError
from diffusion.storage import Stored

from ..description.descriptors import OBJECTS, open_descriptors

# What an index of images holds beside an index of vectors.
_CONTENT = "images"
_NAMES, _ENDS = "image_names", "image_name_ends"
_MEAN, _PROJECTION = "whitening_mean", "whitening_projection"


def pack_images(
    path: str | os.PathLike[str],
) -> tuple[NDArray[np.float32], tuple[dict[str, Any], dict[str, NDArray[Any]]]]:
    """Open a folder of descriptors for indexing.

    Returns
    -------
    vectors : ndarray, shape (n, d), float32
    (content, arrays)
        What goes into the index beside them: the recipe, the files' names, the whitening.

    Raises
    ------
    DiffusionError
        If it is none, or is not complete.
    """
    descriptors = open_descriptors(path)
    names = [file.encode("utf-8", "surrogateescape") for file in descriptors.files]
    arrays: dict[str, NDArray[Any]] = {
        _NAMES: np.frombuffer(b"".join(names), np.uint8),
        _ENDS: np.cumsum([len(name) for name in names], dtype=np.int64),
    }
    whitening = descriptors.whitening()
    if whitening is not None:
        arrays |= {_MEAN: whitening.mean, _PROJECTION: whitening.projection}
    content = {"recipe": descriptors.manifest["recipe"]}
    if OBJECTS in descriptors.manifest:
        learned = descriptors.manifest[OBJECTS]["discovery"]
        content[OBJECTS] = {"path": os.path.abspath(path), "discovery": learned}
    return descriptors.vectors, ({_CONTENT: content}, arrays)


def image_names(stored: Stored) -> list[str]:
    """Return the file of each item of an index of images.

    Raises
    ------
    DiffusionError
        If it is an index of something else.
    """
    content = stored.manifest.get(_CONTENT)
    if not isinstance(content, dict) or not {_NAMES, _ENDS} <= set(stored.arrays):
        raise DiffusionError(
            f"{stored.path}: expected an index of images, built from what `features extract` "
            "wrote; this one is of vectors alone"
        )
    names, ends = stored.arrays[_NAMES], stored.arrays[_ENDS]
    if (
        names.dtype != np.uint8
        or ends.dtype != np.int64
        or ends.shape != (stored.manifest["sizes"]["items"],)
        or (np.diff(ends, prepend=0) < 0).any()
        or ends[-1] != len(names)
    ):
        raise DiffusionError(f"{stored.path}: altered, its images' names are none")
    text = names.tobytes()
    starts = [0, *ends[:-1].tolist()]
    return [
        text[start:end].decode("utf-8", "surrogateescape")
        for start, end in zip(starts, ends.tolist(), strict=True)
    ]


def describe_queries(
    stored: Stored, files: Sequence[str | os.PathLike[str]], *, weights: str | None = None
) -> NDArray[np.float32]:
    """Describe image files as the images of an index were described.

    Parameters
    ----------
    stored : Stored
        An opened index.
    files : sequence of path-like
    weights : str, optional
        Where the network's weights are now; their checksum must be that of then.

    Returns
    -------
    ndarray, shape (nq, d), float32

    Raises
    ------
    DiffusionError
        If the index is not one of images, its network cannot be loaded, or a file is no image.
    """
    from ..description.recipe import describer_of
    from ..description.whitening import Whitening

    image_names(stored)
    content = stored.manifest[_CONTENT]
    if OBJECTS in content:
        from ..objects.opened import open_objects

        # What recurs is large, and stays with the descriptors that it made.
        made = content[OBJECTS]
        objects = open_objects(made["path"])
        if objects.descriptors.manifest[OBJECTS]["discovery"] != made["discovery"]:
            raise DiffusionError(
                f"{made['path']}: expected the object discovery that the index was built from, "
                "this is another; build the index anew"
            )
        locator = objects.locator(weights=weights)
        return np.stack([locator.describe_file(file) for file in files])
    whitening = None
    if _MEAN in stored.arrays:
        whitening = Whitening(
            *(np.asarray(stored.arrays[name], np.float64) for name in (_MEAN, _PROJECTION))
        )
    describer = describer_of(content.get("recipe"), whitening, str(stored.path), weights=weights)
    return np.stack([describer.describe_file(file) for file in files])


def write_names(
    file: IO[str],
    stored: Stored,
    queries: Sequence[str],
    scores: NDArray[np.float32],
    ids: NDArray[np.int64],
) -> None:
    """Write lines of query, rank, score and file, with tabs between; padding is left out."""
    names = image_names(stored)
    encoding = getattr(file, "encoding", None) or "utf-8"
    for query, row_scores, row_ids in zip(queries, scores, ids, strict=True):
        for rank, (score, item) in enumerate(zip(row_scores, row_ids, strict=True), 1):
            if item >= 0:
                line = f"{query}\t{rank}\t{score:.6g}\t{names[item]}\n"
                # What a terminal cannot show of a name must not end the list.
                file.write(line.encode(encoding, "replace").decode(encoding))
