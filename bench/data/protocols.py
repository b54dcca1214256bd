"""Retrieval protocols of published data sets: readers of ground truth, and evaluation.

Three layouts are read: a pickle (revisited Oxford and Paris, and the classic sets as in
cnnimageretrieval-pytorch), a directory of text files (Oxford5k and Paris6k as their authors publish
them), and a .mat (INSTRE, and the other sets as the authors of diffusion publish them).

References
----------
Philbin, Chum, Isard, Sivic, Zisserman. Object Retrieval with Large Vocabularies and Fast Spatial
Matching. CVPR 2007 (Oxford5k), and Lost in Quantization. CVPR 2008 (Paris6k).
Wang, Jiang. INSTRE: A New Benchmark for Instance-Level Object Retrieval and Recognition. 2015.
Radenović, Iscen, Tolias, Avrithis, Chum. Revisiting Oxford and Paris. CVPR 2018.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffusion import metrics
from diffusion.errors import DiffusionError
from features.networks import plain_pickle

from . import matlab

Lists = list[NDArray[np.int64]]

# Per level of difficulty: the kinds of images that are relevant, and those that are junk.
_REVISITED = {
    "easy": (("easy",), ("junk", "hard")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("junk", "easy")),
}
_CLASSIC = {"": (("good", "ok"), ("junk",))}

_CUTS = (1, 5, 10)

# Photos of Paris6k that its authors list as corrupt; evaluations leave them out.
PARIS_CORRUPT = frozenset(
    f"paris_{place}_{number:06d}"
    for place, numbers in {
        "louvre": (136, 146),
        "moulinrouge": (422,),
        "museedorsay": (1059,),
        "notredame": (188,),
        "pantheon": (284, 960, 974),
        "pompidou": (195, 196, 201, 467, 640),
        "sacrecoeur": (299, 330, 353),
        "triomphe": (662, 833, 863, 867),
    }.items()
    for number in numbers
)


@dataclass(frozen=True)
class GroundTruth:
    """The relevant images of a collection for each query, and the junk, which is not counted.

    Attributes
    ----------
    images : list of str
        Names of the collection's images; the lists below hold positions in this one.
    queries : list of str
        Names of the nq query images.
    kinds : dict of str to list of ndarray
        Image positions by kind, one array per query. Revisited: "easy", "hard", "junk". Classic:
        "good", "ok", "junk"; a kind that the file lacks is empty.
    boxes : ndarray, shape (nq, 4), float64, or None
        The part of the query image that is the query, as in the file: left, top, right and bottom
        in pixels. For INSTRE, the last two may be width and height.
    """

    images: list[str]
    queries: list[str]
    kinds: dict[str, Lists]
    boxes: NDArray[np.float64] | None = None

    @property
    def revisited(self) -> bool:
        """Whether this is the revisited protocol, which has levels of difficulty."""
        return "hard" in self.kinds

    def levels(self) -> dict[str, tuple[Lists, Lists]]:
        """Return (relevant, junk) by level of difficulty; classic protocols have one level, ""."""
        table = _REVISITED if self.revisited else _CLASSIC
        return {
            level: (self._joined(right), self._joined(junk))
            for level, (right, junk) in table.items()
        }

    def _joined(self, kinds: Sequence[str]) -> Lists:
        return [
            np.concatenate([self.kinds[kind][query] for kind in kinds])
            for query in range(len(self.queries))
        ]


def evaluate(truth: GroundTruth, ids: ArrayLike) -> dict[str, float]:
    """Evaluate rankings by a ground truth.

    Parameters
    ----------
    truth : GroundTruth
    ids : array_like, shape (nq, k), int
        Full rankings as positions in `truth.images`, padded with -1. Larger positions are other
        images, such as distractors.

    Returns
    -------
    dict
        "mAP" in [0, 1] by the trapezoidal rule, after removal of junk. Revisited: "mAP easy",
        "mP@1 easy" and so on for each level. Queries without a relevant image at a level do not
        count at it; a level without any relevant image is NaN.
    """
    figures = {}
    for level, (right, junk) in truth.levels().items():
        hits, relevant = metrics.hits_from_lists(ids, right, junk)
        precision = metrics.trapezoidal_average_precision(hits, relevant)
        figures[f"mAP {level}".strip()] = _mean(precision)
        if truth.revisited:
            for cut in _CUTS:
                at = metrics.precision_at(hits, relevant, cut, revisited=True)
                figures[f"mP@{cut} {level}"] = _mean(at)
    return figures


def _mean(values: NDArray[np.float64]) -> float:
    """Return the mean of the values that are not NaN, or NaN if there is none."""
    counted = values[~np.isnan(values)]
    return float(counted.mean()) if len(counted) else math.nan


def read(path: str | Path, images: Sequence[str] | None = None) -> GroundTruth:
    """Read a ground truth.

    Parameters
    ----------
    path : path-like
        A pickle `*.pkl`, a MATLAB file `*.mat`, or a directory of text files of Oxford or Paris.
    images : sequence of str, optional
        Names of the collection's images; needed for text files only, which do not list them.

    Raises
    ------
    DiffusionError
        If the file is not one of these or contradicts itself; the message says how.
    """
    path = Path(path)
    if path.is_dir():
        return _read_text(path, images)
    if path.suffix == ".mat":
        return _from_mapping(path, matlab.read(path, ("imlist", "qimlist", "qidx", "gnd")), base=1)
    if path.suffix == ".pkl":
        return _from_mapping(path, plain_pickle.load(path), base=0)
    raise DiffusionError(f"{path}: expected a .pkl, a .mat or a folder of *_query.txt")


# --- pickle and .mat -----------------------------------------------------------------------------


def _from_mapping(path: Path, content: Any, base: int) -> GroundTruth:
    """Return a ground truth from `imlist`, `qimlist` (or positions `qidx`) and a `gnd` per query.

    Positions in the file count from `base`.
    """
    try:
        images = _names(content["imlist"])
        truths = content["gnd"]
        truths = [truths] if isinstance(truths, Mapping) else list(truths)
        if "qimlist" in content:
            queries = _names(content["qimlist"])
        else:
            queries = [images[at] for at in _positions(content["qidx"], len(images), base)]
        names = ("easy", "hard", "junk") if "hard" in truths[0] else ("good", "ok", "junk")
        kinds = {
            kind: [
                np.unique(_positions(truth.get(kind, ()), len(images), base)) for truth in truths
            ]
            for kind in names
        }
        boxes = None
        if all("bbx" in truth for truth in truths):
            boxes = np.stack([np.asarray(truth["bbx"], np.float64).ravel() for truth in truths])
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise DiffusionError(
            f"{path}: expected a ground truth with imlist, qimlist and gnd, whose entries hold "
            f"easy, hard, junk or ok, junk ({error})"
        ) from None
    return _checked(path, GroundTruth(images, queries, kinds, boxes), len(truths))


def _names(values: Any) -> list[str]:
    return [str(name).strip() for name in np.atleast_1d(np.asarray(values))]


def _positions(values: Any, n: int, base: int) -> NDArray[np.int64]:
    """Return positions that count from 0, in the order of the file."""
    array = np.atleast_1d(np.asarray(values)).ravel()
    if not array.size:
        return np.empty(0, np.int64)
    whole = array.astype(np.int64)
    if (whole != array).any() or whole.min() < base or whole.max() >= n + base:
        raise ValueError(f"positions outside [{base}, {n + base})")
    return whole - base


def _checked(path: Path, truth: GroundTruth, n_truths: int) -> GroundTruth:
    if not truth.images or not truth.queries or n_truths != len(truth.queries):
        raise DiffusionError(
            f"{path}: expected images and a ground truth for each query, got {len(truth.images)} "
            f"images, {len(truth.queries)} queries and {n_truths} ground truths"
        )
    if truth.boxes is not None and truth.boxes.shape != (len(truth.queries), 4):
        raise DiffusionError(f"{path}: expected boxes of four numbers, got {truth.boxes.shape}")
    for level, (right, junk) in truth.levels().items():
        for query, (wanted, ignored) in enumerate(zip(right, junk, strict=True)):
            if np.intersect1d(wanted, ignored).size or len(np.unique(wanted)) != len(wanted):
                raise DiffusionError(
                    f"{path}: query {query} lists an image twice or as both relevant and junk"
                    + f" at level {level}" * bool(level)
                )
    return truth


# --- text ----------------------------------------------------------------------------------------


def _read_text(folder: Path, images: Sequence[str] | None) -> GroundTruth:
    """Read NAME_query.txt, with an image and a box, and NAME_good.txt, _ok.txt and _junk.txt."""
    files = sorted(folder.glob("*_query.txt"))
    if not files:
        raise DiffusionError(f"{folder}: expected files *_query.txt, found none")
    if images is None:
        raise DiffusionError(
            f"{folder}: text ground truth does not list the collection's images; expected "
            "descriptors with a list of file names"
        )
    images = list(images)
    where = {name: position for position, name in enumerate(images)}
    queries, boxes = [], []
    kinds: dict[str, Lists] = {"good": [], "ok": [], "junk": []}
    for file in files:
        words = _lines(file)[0].split() if _lines(file) else []
        try:
            boxes.append([float(word) for word in words[1:]])
            # The files of Oxford prefix the image with a code of the first release.
            queries.append(words[0].removeprefix("oxc1_"))
        except (IndexError, ValueError):
            boxes.append([])
        if len(boxes[-1]) != 4:
            raise DiffusionError(f"{file}: expected an image and the four numbers of a box")
        for kind, lists in kinds.items():
            listed = file.with_name(file.name.replace("_query.txt", f"_{kind}.txt"))
            names = _lines(listed)
            names = [name for name in names if name not in PARIS_CORRUPT]
            missing = [name for name in names if name not in where]
            if missing:
                raise DiffusionError(
                    f"{listed}: {len(missing)} of {len(names)} images are not in the collection, "
                    f"the first is {missing[0]}"
                )
            lists.append(np.array([where[name] for name in names], np.int64))
    return _checked(folder, GroundTruth(images, queries, kinds, np.array(boxes)), len(queries))


def _lines(file: Path) -> list[str]:
    try:
        return [line.strip() for line in file.read_text().splitlines() if line.strip()]
    except OSError as error:
        raise DiffusionError(f"{file}: cannot be read ({error.strerror})") from None
    except ValueError:
        raise DiffusionError(f"{file}: expected text") from None
