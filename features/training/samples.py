"""Training samples: the supervision of photos, the tuples of an epoch, and random views."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffusion.errors import DiffusionError
from diffusion.storage import as_path

from .mining import Ids, Mined, groups_of_pairs, hard_negatives, mine_manifold, same_label

# Smallest share of the area of an image in a crop, and largest ratio of the sides of a crop.
_LEAST_AREA = 0.4
_RATIO = 4 / 3
# Largest change of brightness and contrast.
_JITTER = 0.2
# Positives per photo that are taken from the manifold; lower ranks match less often.
_POSITIVES = 3


@dataclass(frozen=True)
class Supervision:
    """The labels of photos and, where known, their matches.

    Attributes
    ----------
    labels : ndarray, shape (n,), int64, or None
        The labels, or None for learning without labels.
    positives : list of ndarray, or None
        Rows of the photos that match each photo; by default all with the same label.
    """

    labels: Ids | None
    positives: list[Ids] | None = None

    @property
    def classes(self) -> int:
        """Number of labels."""
        return 0 if self.labels is None else len(np.unique(self.labels))


def labels_of_folders(files: Sequence[str]) -> Ids:
    """Return a label for each file, equal for files in the same folder."""
    return np.unique([os.path.dirname(file) for file in files], return_inverse=True)[1].astype(
        np.int64
    )


def from_folders(files: Sequence[str]) -> Supervision:
    """Return a supervision in which the photos of each folder form a class.

    Raises
    ------
    DiffusionError
        If all photos are in one folder, or no folder holds two photos.
    """
    labels = labels_of_folders(files)
    counts = np.bincount(labels)
    if len(counts) < 2 or counts.max() < 2:
        raise DiffusionError(
            "folder: expected a folder for each class, two or more of them, at least one with two "
            f"photos or more; found {len(counts)} with at most {counts.max()}"
        )
    return Supervision(labels)


def from_pairs(path: str | os.PathLike[str], files: Sequence[str]) -> Supervision:
    """Read matching pairs from a file with two tab-separated file names per line.

    The names are relative to the folder of photos. Photos that are connected by a chain of pairs
    are never used as negatives of each other.

    Raises
    ------
    DiffusionError
        If the file cannot be read, or a line names a file that is not in `files`. The message
        gives the line number.
    """
    path = as_path(path, "pairs")
    rows = {file: row for row, file in enumerate(files)}
    pairs = []
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise DiffusionError(f"{path}: cannot be read ({error})") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        fields = line.split("\t")
        if len(fields) != 2:
            raise DiffusionError(
                f"{path}: line {number}: expected two file names separated by a tab"
            )
        for field in fields:
            if field not in rows:
                raise DiffusionError(
                    f"{path}: line {number}: {field!r} is not a readable photo of the folder"
                )
        if fields[0] == fields[1]:
            raise DiffusionError(f"{path}: line {number}: expected two different files")
        pairs.append([rows[field] for field in fields])
    if not pairs:
        raise DiffusionError(f"{path}: expected pairs of files, found none")
    array = np.array(pairs, np.int64)
    both = np.unique(np.concatenate([array, array[:, ::-1]]), axis=0)
    positives = [both[both[:, 0] == row, 1] for row in range(len(files))]
    return Supervision(groups_of_pairs(array, len(files)), positives)


def mine(supervision: Supervision, X: NDArray[np.float32], negatives: int, k: int) -> Mined:
    """Return the photos that each photo may be compared with, given the current descriptors."""
    if supervision.labels is None:
        mined = mine_manifold(X, k)
        return Mined([rows[:_POSITIVES] for rows in mined.positives], mined.negatives)
    positives = supervision.positives
    return Mined(
        same_label(supervision.labels) if positives is None else positives,
        hard_negatives(X, supervision.labels, negatives),
    )


def draw_tuples(
    mined: Mined, count: int, negatives: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw random anchors, a random positive for each, and its first negatives.

    Parameters
    ----------
    mined : Mined
    count : int
        Largest number of anchors.
    negatives : int
        Number of negatives per anchor. If an anchor has fewer, they are repeated.
    rng : Generator

    Returns
    -------
    ndarray, shape (t, 2 + negatives), int64
        Rows of anchor, positive, negatives.

    Raises
    ------
    DiffusionError
        If no photo has positives and negatives.
    """
    anchors = mined.anchors
    if not len(anchors):
        raise DiffusionError(
            "folder: expected photos with matching and non-matching photos, found none"
        )
    anchors = rng.permutation(anchors)[:count]
    tuples = np.empty((len(anchors), 2 + negatives), np.int64)
    for row, anchor in zip(tuples, anchors, strict=True):
        row[0] = anchor
        row[1] = rng.choice(mined.positives[anchor])
        row[2:] = np.resize(mined.negatives[anchor], negatives)
    return tuples


@dataclass(frozen=True)
class View:
    """A random view of a photo: a part of it with changed brightness and contrast.

    Attributes
    ----------
    box : tuple of float
        The part of the photo, as (top, left, bottom, right) in [0, 1].
    gain, offset : float
        The change x -> gain x + offset of values in [0, 1].
    """

    box: tuple[float, float, float, float]
    gain: float
    offset: float


def draw_views(sizes: Sequence[tuple[int, int]], rng: np.random.Generator) -> list[View]:
    """Draw a random view for each image, given the heights and widths of the images."""
    views = []
    for height, width in sizes:
        area = rng.uniform(_LEAST_AREA, 1) * height * width
        ratio = np.exp(rng.uniform(-np.log(_RATIO), np.log(_RATIO)))
        high = min(1.0, np.sqrt(area / ratio) / height)
        wide = min(1.0, np.sqrt(area * ratio) / width)
        top, left = rng.uniform(0, 1 - high), rng.uniform(0, 1 - wide)
        gain = 1 + rng.uniform(-_JITTER, _JITTER)
        offset = rng.uniform(-_JITTER, _JITTER) / 2
        box = (float(top), float(left), float(top + high), float(left + wide))
        views.append(View(box, float(gain), float(offset)))
    return views


Supervise = Callable[[Sequence[str]], Supervision]


def supervise(*, pairs: str | os.PathLike[str] | None, manifold: bool) -> Supervise:
    """Return a function that maps the readable files to their supervision."""
    if manifold and pairs is not None:
        raise DiffusionError("pairs, manifold: expected at most one of them")
    if manifold:
        return lambda files: Supervision(None)
    if pairs is not None:
        path: Path = as_path(pairs, "pairs")
        return lambda files: from_pairs(path, files)
    return from_folders
