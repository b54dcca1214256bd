"""What is learned from: photos with labels, pairs or nothing, and the tuples of an epoch."""

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

# Crops have this share of an image's area at least, and sides in ratios of 3 : 4 to 4 : 3.
_LEAST_AREA = 0.4
_RATIO = 4 / 3
# Brightness and contrast change by at most so much.
_JITTER = 0.2
# Of what diffusion alone ranks high, the first so many are matches: further down fewer are right.
_POSITIVES = 3


@dataclass(frozen=True)
class Supervision:
    """What is known of photos: a label each, and which match where that is known better.

    Attributes
    ----------
    labels : ndarray, shape (n,), int64, or None
        None in learning without labels.
    positives : list of ndarray, or None
        Rows that match each; by default all of its label.
    """

    labels: Ids | None
    positives: list[Ids] | None = None

    @property
    def classes(self) -> int:
        """Number of labels."""
        return 0 if self.labels is None else len(np.unique(self.labels))


def labels_of_folders(files: Sequence[str]) -> Ids:
    """Return a label for each file: the same for those of one folder."""
    return np.unique([os.path.dirname(file) for file in files], return_inverse=True)[1].astype(
        np.int64
    )


def from_folders(files: Sequence[str]) -> Supervision:
    """Take photos of one folder as of one class.

    Raises
    ------
    DiffusionError
        If all are in one folder, or no folder holds two.
    """
    labels = labels_of_folders(files)
    counts = np.bincount(labels)
    if len(counts) < 2 or counts.max() < 2:
        raise DiffusionError(
            "folder: expected a folder for each class, two at least, with two photos or more in "
            f"one; found {len(counts)} with at most {counts.max()}"
        )
    return Supervision(labels)


def from_pairs(path: str | os.PathLike[str], files: Sequence[str]) -> Supervision:
    """Read matching pairs: lines of two files, with a tab between, as they stand in the folder.

    Photos that a chain of pairs joins are never each other's negatives.

    Raises
    ------
    DiffusionError
        If the file cannot be read, or names a file that is not among `files`; with the line.
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
            raise DiffusionError(f"{path}: line {number}: expected two files, with a tab between")
        for field in fields:
            if field not in rows:
                raise DiffusionError(
                    f"{path}: line {number}: {field!r} is no photo that can be read in the folder"
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
    """Return whom each photo may be compared with, given descriptors of today."""
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
    """Draw anchors, a positive of each at random, and its first negatives.

    Parameters
    ----------
    mined : Mined
    count : int
        Anchors at most.
    negatives : int
        Of each anchor; where it has fewer, they are repeated.
    rng : Generator

    Returns
    -------
    ndarray, shape (t, 2 + negatives), int64
        Rows of anchor, positive, negatives.

    Raises
    ------
    DiffusionError
        If no photo has both.
    """
    anchors = mined.anchors
    if not len(anchors):
        raise DiffusionError(
            "folder: expected photos that match and others that do not, found none"
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
    """How a photo is seen this time: a part of it, lighter or darker.

    Attributes
    ----------
    box : tuple of float
        (top, left, bottom, right), in [0, 1].
    gain, offset : float
        x -> gain x + offset, on [0, 1].
    """

    box: tuple[float, float, float, float]
    gain: float
    offset: float


def draw_views(sizes: Sequence[tuple[int, int]], rng: np.random.Generator) -> list[View]:
    """Draw a view of each image of a height and a width, for a square to be made of it."""
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
    """Return what says, of the files that can be read, what is known of them."""
    if manifold and pairs is not None:
        raise DiffusionError("pairs, manifold: expected one of them at most")
    if manifold:
        return lambda files: Supervision(None)
    if pairs is not None:
        path: Path = as_path(pairs, "pairs")
        return lambda files: from_pairs(path, files)
    return from_folders
