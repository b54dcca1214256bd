"""Building an index of photos from descriptors, and updating one that is there."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffusion import Reranker, storage
from diffusion.errors import DiffusionError
from diffusion.index_state import INDEX, IndexState, open_state, save_state
from diffusion.storage.rows import discard_fit

from ..description.descriptors import (
    MADE_WITH,
    OBJECTS,
    PHOTOS,
    Descriptors,
    differences,
    whitening_arrays,
)
from ..description.sources import DIGEST_BYTES, place_of
from .photos import CONTENT, DESCRIBED, DIGESTS, SKIPPED, STATS, image_names

# The share of photos above which changing a graph is not worth it.
_MOST_CHANGED = 1 / 3


class Built(NamedTuple):
    """An index that was built or updated.

    Attributes
    ----------
    ranker : Reranker
    added, removed : int
        Photos that came to an index that was there, and photos that left it. An altered photo is
        both.
    anew : str or None
        Why an index that was there was built anew; "" if it was updated, None if none was there.
    """

    ranker: Reranker
    added: int
    removed: int
    anew: str | None

    def __str__(self) -> str:
        if self.anew is None:
            return ""
        return (
            f"built anew: {self.anew}"
            if self.anew
            else f"{self.added} added, {self.removed} removed"
        )


class _Earlier(NamedTuple):
    """An index that can be updated, and what differs from it."""

    state: IndexState
    ranker: Reranker
    removed: list[str]
    added: list[int]  # rows of the descriptors


class _AnewError(Exception):
    """An index cannot be updated, for the reason given."""


def build_index(descriptors: Descriptors, index: str | os.PathLike[str], ranker: Reranker) -> Built:
    """Fit a Reranker to descriptors, and save it together with what describes query photos.

    The ids of the items are the names of the photos. An earlier index with the same settings is
    updated: only photos that are new, altered or gone are added and removed, unless more than a
    third are. After an interruption the same call resumes.

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
    Built

    Raises
    ------
    DiffusionError
        If `index` holds anything else, or cannot be written.
    """
    index = storage.as_path(index, "index")
    storage.check_target(index, INDEX)
    content = _content(descriptors, index)
    added, removed = 0, 0
    anew: str | None = None
    partial = f"{index}.partial"
    try:
        earlier = _earlier(descriptors, index, ranker, content)
    except _AnewError as reason:
        earlier, anew = None, str(reason)
    else:
        anew = None if earlier is None else ""
    if earlier is None:
        fitted = ranker.fit(descriptors.vectors, ids=descriptors.files, checkpoint=partial)
    else:
        # An earlier call may have been unable to delete it.
        discard_fit(partial)
        fitted = earlier.ranker.set_params(progress=ranker.progress)
        added, removed = len(earlier.added), len(earlier.removed)
        if removed:
            fitted.remove(earlier.removed)
        if added:
            names = [descriptors.files[row] for row in earlier.added]
            fitted.add(descriptors.vectors[earlier.added], ids=names)
    arrays = _arrays(descriptors, fitted)
    if earlier is None or added or removed or not _same(earlier.state, content, arrays):
        save_state(index, fitted.state().with_part(CONTENT, content, arrays))
    else:
        # What an interrupted save left, and this one would have deleted.
        with contextlib.suppress(DiffusionError), storage.claimed(index, INDEX):
            pass
    return Built(fitted, added, removed, anew)


def _content(descriptors: Descriptors, index: Path) -> dict[str, Any]:
    """Return what an index says of its photos."""
    manifest = descriptors.manifest
    content: dict[str, Any] = {
        "recipe": manifest["recipe"],
        MADE_WITH: manifest.get(MADE_WITH),
        DESCRIBED: place_of(descriptors.path, index),
        SKIPPED: [entry["file"] for entry in manifest["skipped"]],
    }
    if OBJECTS in manifest:
        objects = manifest[OBJECTS]
        content[OBJECTS] = {
            "path": os.path.abspath(descriptors.path),
            "discovery": objects["digest"],
            "descriptor": objects["descriptor"],
        }
    folders = descriptors.photos()
    if folders:
        content[PHOTOS] = place_of(next(filter(os.path.isdir, folders), folders[0]), index)
    return content


def _arrays(descriptors: Descriptors, ranker: Reranker) -> dict[str, NDArray[Any]]:
    """Return the arrays that an index of photos has besides, those of photos in its order."""
    arrays: dict[str, NDArray[Any]] = dict(whitening_arrays(descriptors.whitening()))
    sources = descriptors.sources
    if sources is not None:
        rows = [sources.rows[name] for name in ranker.ids_]
        arrays |= {STATS: sources.stats[rows, :2], DIGESTS: sources.digests[rows]}
    return arrays


def _same(state: IndexState, content: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> bool:
    """Return whether an index says the same of its photos."""
    return state.parts == {CONTENT: content} and all(
        name in state.arrays and np.array_equal(state.arrays[name], array)
        for name, array in arrays.items()
    )


def _earlier(
    descriptors: Descriptors, index: Path, ranker: Reranker, content: dict[str, Any]
) -> _Earlier | None:
    """Open an index that is to be updated, and compare it; None if there is none.

    Raises
    ------
    _AnewError
        If it cannot be updated, with the reason.
    """
    if storage.peek_manifest(index) is None:
        return None
    try:
        state = open_state(index, verify=True)
        earlier = Reranker.from_state(state)
        names = image_names(state)
    except DiffusionError as error:
        raise _AnewError(f"the earlier index cannot be taken over ({error})") from None
    digests, sources = state.arrays.get(DIGESTS), descriptors.sources
    if digests is None or sources is None or earlier.ids_.dtype != object:
        raise _AnewError("an earlier version of this library wrote it")
    if digests.shape != (len(names), DIGEST_BYTES):
        raise _AnewError(f"damaged before ({DIGESTS}: shape {digests.shape})")
    about = state.parts[CONTENT]
    learned, now_learned = (dict(one.get(OBJECTS) or {}, path=None) for one in (about, content))
    if learned.get("discovery") != now_learned.get("discovery"):
        raise _AnewError("the objects were learned again")
    other = differences(learned, now_learned)
    other += differences(about.get(MADE_WITH), content[MADE_WITH], "descriptors")
    other += differences(_parameters(earlier), _parameters(ranker))
    white = whitening_arrays(descriptors.whitening())
    if other or any(not np.array_equal(state.arrays.get(name, 0), a) for name, a in white.items()):
        raise _AnewError(f"made with other settings ({', '.join(other or ['whitening'])})")
    before = dict(zip(names, map(bytes, digests), strict=True))
    # Of a photo that was altered while it was described, no content is known.
    now = {
        name: digest.tobytes() if digest.any() else None
        for name, digest in zip(sources.files, sources.digests, strict=True)
    }
    removed = [name for name, digest in before.items() if now.get(name) != digest]
    added = [row for row, name in enumerate(sources.files) if before.get(name) != now[name]]
    if len(added) > _MOST_CHANGED * len(now):
        raise _AnewError(f"{len(added)} of {len(now)} photos are new or altered")
    if len(removed) > _MOST_CHANGED * len(before):
        raise _AnewError(f"{len(removed)} of {len(before)} photos are gone or altered")
    return _Earlier(state, earlier, removed, added)


def _parameters(ranker: Reranker) -> dict[str, Any]:
    """Return the parameters that an index depends on."""
    return {name: value for name, value in ranker.get_params().items() if name != "progress"}
