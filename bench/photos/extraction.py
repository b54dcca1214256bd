"""Speed of extraction beside a bare loop of the network over images decoded beforehand."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import features
from features.images.batches import Item, plan
from features.images.reading import find_images, quiet, read_image, read_size
from features.images.sizes import fitted_size
from features.networks.fusing import fused

from ..measure import seconds_of
from ..table import Table
from .network import BACKBONE, LONGEST, SQUARE, extract

IMAGES, ROUNDS = 128, 3
SIZES = (SQUARE, LONGEST, 513)


def overhead(
    weights: Path,
    folder: Path,
    sizes: Sequence[int] = SIZES,
    images: int = IMAGES,
    rounds: int = ROUNDS,
) -> Table:
    """Time extraction beside a bare loop of the network over the same images, decoded before."""
    table = Table(
        f"**Extraction** of {images} photos beside a bare forward loop, "
        f"{torch.get_num_threads()} threads",
        (
            "longest side",
            "bare loop, images/s",
            "the same, batch norm folded",
            "extraction, images/s",
            "share of the bare loop",
            "share of the folded loop",
        ),
        notes=[
            f"Medians of {rounds} rounds. Extraction reads, decodes and resizes the files and "
            "writes the descriptors; the bare loops have their batches in memory. Extraction and "
            "the second loop fold batch normalisation into the convolutions. The time to load the "
            "network is subtracted from extraction and is in neither loop."
        ],
    )
    for size in sizes:
        seconds = _rounds(weights, find_images(folder)[:images], folder, size, rounds)
        shares = (
            statistics.median(a / b for a, b in zip(seconds[n], seconds["extraction"], strict=True))
            for n in ("bare", "folded")
        )
        table.rows.append(
            [
                size,
                *(images / statistics.median(values) for values in seconds.values()),
                *(f"{100 * share:.0f} %" for share in shares),
            ]
        )
    return table


def _rounds(
    weights: Path, files: Sequence[str], folder: Path, size: int, rounds: int
) -> dict[str, list[float]]:
    """Return the seconds of the bare loop, the folded one and extraction, in each round."""
    network = _network(weights)
    with tempfile.TemporaryDirectory() as scratch:
        chosen = Path(scratch) / "photos"
        chosen.mkdir()
        for number, file in enumerate(files):
            (chosen / f"{number:04}.jpg").symlink_to(folder / file)
        batches = _decoded(chosen, size, network)
        loading = seconds_of(lambda: fused(_network(weights)), rounds)
        outs = (Path(scratch) / f"out{number}" for number in range(rounds))
        steps: dict[str, Callable[[], Any]] = {
            "bare": lambda: _forward(network, batches),
            "folded": lambda: _forward(folded, batches),
            "extraction": lambda: extract(chosen, next(outs), weights, size=size),
        }
        folded = fused(network)
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(rounds):
            for name, step in steps.items():
                seconds[name].append(seconds_of(step))
    seconds["extraction"] = [value - loading for value in seconds["extraction"]]
    return seconds


def _network(weights: Path) -> features.RetrievalNetwork:
    return features.RetrievalNetwork(features.backbone(BACKBONE, weights, head=False))


def _forward(network: features.RetrievalNetwork, batches: list[torch.Tensor]) -> None:
    with torch.inference_mode():
        for batch in batches:
            network(network.backbone.normalize(batch.permute(0, 3, 1, 2))).numpy()


def _decoded(folder: Path, size: int, network: features.RetrievalNetwork) -> list[torch.Tensor]:
    """Return the batches that extraction makes of a folder, in the same order."""
    files = [folder / file for file in find_images(folder)]
    with quiet():
        fitted = [fitted_size(read_size(f), size, network.backbone.sides) for f in files]
        items = [Item(str(f), 0, 0, *s) for f, s in zip(files, fitted, strict=True)]
        return [
            torch.from_numpy(
                np.stack([read_image(files[n], (batch.height, batch.width)) for n in batch.numbers])
            )
            for batch in plan(items, 32)
        ]
