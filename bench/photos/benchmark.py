"""The benchmark `features`: descriptors of the photos of the Grocery Store data set."""

from __future__ import annotations

from collections.abc import Callable

from ..data.collections import data_folder
from ..table import Table, show
from .classification import classification
from .extraction import overhead
from .retrieval import retrieval
from .training import learning


def run(*, long: bool = False) -> list[Table]:
    """Measure classification, the overhead of extraction and retrieval, if the data are there.

    With `long`, trainings too.
    """
    weights = data_folder() / "weights" / "mobilenet_v2.safetensors"
    photos = data_folder() / "grocery"
    if not weights.exists() or not photos.exists():
        print("features: skipped, grocery and MobileNetV2's weights are not in DIFFUSION_DATA")
        return []
    parts: list[Callable[[], Table]] = [
        lambda: classification(weights, photos / "iconic"),
        lambda: overhead(weights, photos / "test" / "Packages"),
        lambda: retrieval(weights, photos),
    ]
    if long:
        parts.append(lambda: learning(weights, photos))
    return [show(part()) for part in parts]
