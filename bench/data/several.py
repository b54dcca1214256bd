"""Several descriptors of the same items: of the digits, and of the photos of groceries."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .collections import Collection, data_folder, digits, grocery


@dataclass(frozen=True)
class Several:
    """A collection with further descriptors of its items.

    Attributes
    ----------
    collection : Collection
        With the first descriptor.
    descriptors : dict of str to (ndarray (n, d), ndarray (nq, d))
        Each descriptor of the gallery and of the queries; the first is the collection's own.
    """

    collection: Collection
    descriptors: dict[str, tuple[NDArray[Any], NDArray[Any]]]

    def with_vectors(self, gallery: NDArray[Any], queries: NDArray[Any]) -> Collection:
        """Return the collection with other vectors."""
        return replace(self.collection, gallery=gallery, queries=queries)


def several() -> list[Several]:
    """Return the digits and, if their photos are there, the groceries: packages, and all."""
    pixels = digits()
    X, Q = pixels.gallery, pixels.queries
    shapes = orientations(X.reshape(-1, 8, 8)), orientations(Q.reshape(-1, 8, 8))
    found = [Several(pixels, {"pixels": (X, Q), "orientations": shapes})]
    folder = data_folder()
    files = folder / "descriptors" / "grocery_test_files.txt"
    if not files.exists() or not (folder / "grocery" / "test").is_dir():
        return found
    network = np.load(folder / "descriptors" / "grocery_test.npy")
    names = files.read_text().split("\n")[: len(network)]
    colours = np.array([colours_of(str(folder / "grocery" / name)) for name in names])
    # The splits hold copies of the rows, by which the further descriptors are found.
    places = {row.tobytes(): place for place, row in enumerate(network)}
    for packages_only in (True, False):
        whole = grocery(packages_only)
        assert whole is not None
        parts = [[places[row.tobytes()] for row in X] for X in (whole.gallery, whole.queries)]
        own = whole.gallery, whole.queries
        further = colours[parts[0]], colours[parts[1]]
        found.append(Several(whole, {"network": own, "colours": further}))
    return found


def orientations(images: NDArray[Any]) -> NDArray[np.float64]:
    """Return histograms of 8 directions of the gradient in 4 × 4 cells of images (m, 8, 8)."""
    down, right = np.gradient(np.asarray(images, np.float64), axis=(1, 2))
    direction = np.floor((np.arctan2(down, right) / np.pi + 1) * 4).astype(np.int64) % 8
    m, height, width = images.shape
    cell = np.arange(height)[:, None] // 2 * 4 + np.arange(width) // 2
    bins = (np.arange(m)[:, None, None] * 16 + cell) * 8 + direction
    strength = np.hypot(down, right).ravel()
    histograms = np.bincount(bins.ravel(), strength, minlength=m * 128)
    return np.asarray(histograms, np.float64).reshape(m, 128)


def colours_of(path: str) -> NDArray[np.float64]:
    """Return the roots of a histogram of 8 hues, 4 saturations and 4 values of a photo."""
    from PIL import Image

    with Image.open(path) as image:
        image.draft("RGB", (96, 96))  # decodes a part of the frequencies only
        pixels = np.asarray(image.convert("HSV").resize((64, 64))).reshape(-1, 3)
    hue, saturation, value = (pixels // np.array([32, 64, 64])).T
    return np.sqrt(np.bincount(hue * 16 + saturation * 4 + value, minlength=128))
