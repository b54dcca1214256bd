"""The network of the benchmark, and its calls of extraction and training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import features
from features.description.descriptors import Descriptors
from features.training.evaluation import leave_one_out

from ..measure import percent

BACKBONE = "mobilenet_v2"
# Grocery's photos are 348 pixels wide and 348 or 464 high: 353 is the nearest 32 k + 1.
SQUARE, LONGEST = 225, 353


def extract(
    folder: Path,
    out: Path,
    weights: Path,
    *,
    backbone: str | None = BACKBONE,
    progress: bool = False,
    **images: Any,
) -> Descriptors:
    """Describe the photos of a folder; `images` are the fields of `features.ImageSettings`."""
    return features.extract_folder(
        folder,
        out,
        features.NetworkSettings(backbone, weights),
        images=features.ImageSettings(**images),
        run=features.RunSettings(progress=progress),
    )


def train(
    folder: Path, out: Path, weights: Path, *, manifold: bool = False, **training: Any
) -> Path:
    """Train on squares of the photos of a folder, and return the path of the trained network.

    `training` are fields of `features.TrainingSettings`.
    """
    trained = features.train_folder(
        folder,
        out,
        features.NetworkSettings(BACKBONE, weights),
        training=features.TrainingSettings(size=SQUARE, **training),
        run=features.RunSettings(progress=True),
        manifold=manifold,
    )
    return trained.path


def mean_precision(X: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Return the mAP in percent; every photo is a query among the others."""
    return percent(leave_one_out(X, labels))
