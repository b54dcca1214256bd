"""Quality of retrieval before and after training."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch

from features.training.samples import labels_of_folders

from ..measure import timed
from ..table import Table
from .network import BACKBONE, LONGEST, SQUARE, extract, mean_precision, train

# The settings of each training that differ from the defaults.
TRAININGS: dict[str, dict[str, Any]] = {
    "labels, softmax": {"loss": "softmax", "epochs": 6, "learning_rate": 3e-4},
    "no labels, manifold": {"manifold": True, "epochs": 2, "anchors": 600},
}


def learning(weights: Path, photos: Path) -> Table:
    """Train on train/Packages; search test/Packages with each of its photos, before and after."""
    table = Table(
        "**Training** on train/Packages, MobileNetV2, GeM: test/Packages searched with each of "
        f"its photos, cosine, {torch.get_num_threads()} threads",
        ("training", "epochs", "minutes", "mAP before", "mAP after", "gain"),
        notes=[
            "All settings but those in bench/photos/training.py are the defaults of "
            f"`features train`. Training images are squares of {SQUARE} pixels; the longer side of "
            f"the photos searched is {LONGEST}."
        ],
    )
    packages = photos / "test" / "Packages"
    with tempfile.TemporaryDirectory() as scratch:

        def judge(name: str, file: Path, backbone: str | None) -> float:
            out = Path(scratch) / f"described {name}"
            images: dict[str, Any] = {"size": LONGEST, "progress": True}
            found = extract(packages, out, file, backbone=backbone, **images)
            return mean_precision(found.vectors, labels_of_folders(found.files))

        before = judge("before", weights, BACKBONE)
        for name, settings in TRAININGS.items():
            folder, out = photos / "train" / "Packages", Path(scratch) / name
            path, seconds = timed(partial(train, folder, out, weights, **settings))
            after = judge(name, path, None)
            gain = round(after - before, 1)
            table.rows.append([name, settings["epochs"], seconds / 60, before, after, gain])
            print(table.rows[-1], flush=True)
    return table
