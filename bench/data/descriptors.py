"""Readers of descriptors: `.npy` arrays, a MATLAB file, or extractions of two folders.

The directory holds the descriptors of the images and of the queries of a protocol as one of

- one `.mat` with `X` (d, N) and `Q` (d, nq), columns in the order of the ground truth; or with the
  structures `glob` and `reg`, whose cells `V` and `Q` hold one matrix (d, regions) per image;
- `X.npy` (N, d) and `Q.npy` (nq, d), rows in the order of the ground truth; in addition or instead
  `X_regions.npy` (m, d), with the row number of each region's image in `X_images.npy` (m,), and the
  same for `Q`;
- directories `gallery` and `queries` as `features extract` writes them, or with `files.txt`, a name
  per line, `descriptors.npy` (n, d), and `regions.npy` (m, d) with `region_images.npy` (m,). Images
  are found by their names, in any order.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffusion.baselines import expansion
from diffusion.errors import DiffusionError
from diffusion.storage import DAMAGED
from features.description.descriptors import open_descriptors

from . import matlab

_EXTENSION = re.compile(r"\.(jpe?g|png)$", re.IGNORECASE)


@dataclass(frozen=True)
class Descriptors:
    """Vectors of images, of their regions, or both.

    Attributes
    ----------
    vectors : ndarray, shape (n, d), or None
    regions : ndarray, shape (m, d), or None
    images : ndarray, shape (m,), int64, or None
        The row number of each region's image.
    files : list of str, or None
        Names of the n images.
    """

    vectors: NDArray[Any] | None
    regions: NDArray[Any] | None = None
    images: NDArray[np.int64] | None = None
    files: list[str] | None = None

    def __len__(self) -> int:
        """Return the number of images."""
        if self.vectors is not None:
            return len(self.vectors)
        if self.files is not None:
            return len(self.files)
        assert self.images is not None  # one of the three is given
        return int(self.images.max()) + 1

    def select(self, rows: ArrayLike) -> Descriptors:
        """Return the descriptors of some images, in the order of `rows`."""
        rows = np.asarray(rows)
        new = replace(
            self,
            vectors=None if self.vectors is None else self.vectors[rows],
            files=None if self.files is None else [self.files[row] for row in rows],
        )
        if self.regions is None or self.images is None:
            return new
        place = np.full(len(self), -1, np.int64)
        place[rows] = np.arange(len(rows))
        kept = place[self.images] >= 0
        return replace(new, regions=self.regions[kept], images=place[self.images[kept]])

    def whole(self) -> NDArray[np.float32]:
        """Return one unit vector per image: its own, or the sum of its regions' unit vectors."""
        if self.vectors is not None:
            return expansion.normalize(self.vectors)
        assert self.regions is not None
        assert self.images is not None
        total = np.zeros((len(self), self.regions.shape[1]), np.float32)
        np.add.at(total, self.images, expansion.normalize(self.regions))
        return expansion.normalize(total)

    def named(
        self, names: Sequence[str], source: str | Path, *, others: bool = False
    ) -> Descriptors:
        """Return the descriptors of the named images, in the order of `names`.

        Parameters
        ----------
        names : sequence of str
        source : path-like
            Where the descriptors are from, for error messages.
        others : bool, default False
            Whether to keep the descriptors of other images, behind the named ones.

        Raises
        ------
        DiffusionError
            If an image has no descriptor or two. Descriptors without names are taken to be in
            the order of `names`; then their number must agree, except for others that are kept.
        """
        if self.files is None:
            if len(self) != len(names) and not (others and len(self) > len(names)):
                raise DiffusionError(
                    f"{source}: expected descriptors of {len(names)} images, in the order of the "
                    f"ground truth, got {len(self)}"
                )
            return self
        depth = max(name.count("/") for name in names) + 1
        where = {stem(file, depth): row for row, file in enumerate(self.files)}
        if len(where) < len(self.files):
            raise DiffusionError(
                f"{source}: two files of one name; expected each name at most once"
            )
        missing = [name for name in names if stem(name, depth) not in where]
        if missing:
            raise DiffusionError(
                f"{source}: {len(missing)} of {len(names)} images of the ground truth have no "
                f"descriptor, the first is {missing[0]}"
            )
        rows = [where[stem(name, depth)] for name in names]
        if others:
            rows += np.setdiff1d(np.arange(len(self.files)), rows).tolist()
        return self.select(rows)


def stem(file: str, depth: int = 1) -> str:
    """Return the last `depth` parts of a path, without the extension of an image."""
    return _EXTENSION.sub("", "/".join(file.split("/")[-depth:]))


def read_pair(folder: str | Path) -> tuple[Descriptors, Descriptors]:
    """Read the descriptors of a protocol's images and queries, laid out as the module describes.

    Raises
    ------
    DiffusionError
        If there are no descriptors in such a layout, or an array is not as described.
    """
    folder = Path(folder)
    if (folder / "gallery").is_dir():
        return read_extraction(folder / "gallery"), read_extraction(folder / "queries")
    matrices = [folder] if folder.suffix == ".mat" else sorted(folder.glob("*.mat"))
    # Files of ground truth may lie beside descriptors.
    matrices = [file for file in matrices if not file.name.startswith("gnd")]
    if len(matrices) == 1:
        return _read_matlab(matrices[0])
    if len(matrices) > 1:
        raise DiffusionError(f"{folder}: expected one .mat of descriptors, found {len(matrices)}")
    return _read_arrays(folder, "X"), _read_arrays(folder, "Q")


def read_extraction(folder: Path) -> Descriptors:
    """Read the directory that the extraction of a folder of images has written.

    Raises
    ------
    DiffusionError
        If a file is missing or not as described.
    """
    if (folder / "manifest.json").exists() and not (folder / "files.txt").exists():
        opened = open_descriptors(folder)
        return _checked(folder, opened.vectors, opened.regional, opened.region_images, opened.files)
    try:
        text = (folder / "files.txt").read_text("utf-8", "surrogateescape")
    except OSError as error:
        raise DiffusionError(f"{folder / 'files.txt'}: cannot be read ({error.strerror})") from None
    files = text.removesuffix("\n").split("\n")
    found = [folder / f"{name}.npy" for name in ("descriptors", "regions", "region_images")]
    vectors, regions, images = map(_array, found)
    return _checked(folder, vectors, regions, images, files)


def _read_arrays(folder: Path, letter: str) -> Descriptors:
    found = [folder / f"{letter}{name}.npy" for name in ("", "_regions", "_images")]
    vectors, regions, images = map(_array, found)
    return _checked(folder / letter, vectors, regions, images, None)


def _array(file: Path) -> NDArray[Any] | None:
    if not file.exists():
        return None
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, *DAMAGED) as error:
        raise DiffusionError(f"{file}: expected an .npy file ({error})") from None


def _read_matlab(file: Path) -> tuple[Descriptors, Descriptors]:
    content = matlab.read(file, ("X", "Q", "glob", "reg"))
    pair = []
    for matrix, cells in (("X", "V"), ("Q", "Q")):
        vectors = content.get(matrix)
        try:
            vectors = None if vectors is None else np.asarray(vectors, np.float32).T
            if "glob" in content:
                vectors = np.concatenate([_columns(cell) for cell in content["glob"][cells]])
            regions = images = None
            if "reg" in content:
                parts = [_columns(cell) for cell in content["reg"][cells]]
                regions = np.concatenate(parts)
                images = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        except (LookupError, TypeError, ValueError) as error:
            raise DiffusionError(
                f"{file}: expected X and Q, matrices of one column per image, or cells V and Q in "
                f"glob or reg ({error})"
            ) from None
        pair.append(_checked(f"{file} {matrix}", vectors, regions, images, None))
    return pair[0], pair[1]


def _columns(cell: Any) -> NDArray[np.float32]:
    """Return the columns of an image's matrix as rows; a matrix of one column is read as 1-D."""
    array = np.asarray(cell, np.float32)
    return array[None] if array.ndim == 1 else array.T


def _checked(
    source: str | Path,
    vectors: NDArray[Any] | None,
    regions: NDArray[Any] | None,
    images: NDArray[Any] | None,
    files: list[str] | None,
) -> Descriptors:
    """Return the arrays as Descriptors, or raise if they do not fit together."""
    if vectors is None and regions is None:
        raise DiffusionError(f"{source}: expected descriptors, found none")
    for name, array in (("vectors", vectors), ("regions", regions)):
        if array is not None and (array.ndim != 2 or 0 in array.shape or array.dtype.kind != "f"):
            raise DiffusionError(
                f"{source}: expected {name} of shape (n, d), float, got {array.dtype} of shape "
                f"{array.shape}"
            )
    n = len(vectors) if vectors is not None else None if files is None else len(files)
    if files is not None and n != len(files):
        raise DiffusionError(f"{source}: expected a name for each of {n} rows, got {len(files)}")
    if regions is not None:
        if images is None or images.shape != (len(regions),) or images.dtype.kind not in "iu":
            raise DiffusionError(
                f"{source}: expected the row number of its image for each of {len(regions)} "
                "regions, integers"
            )
        images = np.asarray(images, np.int64)
        # Regional search needs at least one region of every image.
        n = int(images.max()) + 1 if n is None else n
        if images.min() < 0 or images.max() >= n or len(np.unique(images)) != n:
            raise DiffusionError(f"{source}: expected regions of every image, 0 to {n - 1}")
    return Descriptors(vectors, regions, images if regions is not None else None, files)
