"""Quality of retrieval with several descriptors of the same photos."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import features
from features.description.whitening import pairs_of

from ..data.collections import data_folder
from ..table import Table
from .network import LONGEST, SQUARE, extract, mean_precision

SETTINGS: dict[str, dict[str, Any]] = {
    f"GeM, squashed to {SQUARE}": {"size": SQUARE, "square": True},
    f"GeM, aspect kept, {LONGEST}": {"size": LONGEST},
    f"GeM, aspect kept, {LONGEST}, three scales": {
        "size": LONGEST,
        "scales": features.MULTI_SCALE,
    },
}

Described = tuple[str, NDArray[np.float32], list[str]]


def retrieval(weights: Path, photos: Path) -> Table:
    """Describe the test photos of grocery in several ways; search all of them with each of them."""
    test = [line.split(", ") for line in (photos / "test.txt").read_text().splitlines() if line]
    labels = {file.removeprefix("test/"): int(label) for file, label, _ in test}
    table = Table(
        f"**Grocery**, {len(labels)} photos, each of them a query, cosine, MobileNetV2",
        ("descriptor", "dimension", "mAP", "mAP, packages among packages"),
        notes=[
            "Packages among packages: only the photos of packages are queries and searched. "
            "Whitenings are learned on train/Packages; pairs for the supervised one are photos of "
            "the same product."
        ],
    )
    for name, X, files in chain(_given(), _extracted(weights, photos)):
        truth = np.array([labels[file] for file in files])
        packages = np.array([file.startswith("Packages/") for file in files])
        figures = mean_precision(X, truth), mean_precision(X[packages], truth[packages])
        table.rows.append([name, X.shape[1], *figures])
        print(table.rows[-1], flush=True)
    return table


def _given() -> Iterator[Described]:
    """Yield the descriptors in the data directory, if there are any."""
    given = data_folder() / "descriptors" / "grocery_test.npy"
    if given.exists():
        names = (given.parent / "grocery_test_files.txt").read_text().split("\n")
        X = np.load(given)
        files = [name.removeprefix("test/") for name in names[: len(X)]]
        yield "given, GeM, squashed to 224", X, files


def _extracted(weights: Path, photos: Path) -> Iterator[Described]:
    """Yield the descriptors of every setting, plain and whitened."""
    for name, images in SETTINGS.items():
        with tempfile.TemporaryDirectory() as scratch:
            out, learning = (
                extract(
                    photos / part,
                    Path(scratch) / part.replace("/", "-"),
                    weights,
                    progress=True,
                    **images,
                )
                for part in ("test", "train/Packages")
            )
            X = np.array(out.vectors)
            yield name, X, out.files
            pairs = pairs_of([str(Path(file).parent) for file in learning.files])
            pca = features.learn_pca(learning.vectors)
            supervised = features.learn_supervised(learning.vectors, pairs)
            for kind, whitening in (("PCA", pca), ("supervised", supervised)):
                for dimension in (whitening.dimension, 256):
                    white = whitening.reduced(dimension).apply(X)
                    yield f"{name}, {kind} whitening", white, out.files
