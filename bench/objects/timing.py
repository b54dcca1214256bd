"""Time that each step of object discovery takes for one image, and how it grows with the others."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from features.networks.frame import ImageActivations
from features.objects.border import border_prior
from features.objects.boxes import clipped
from features.objects.discovery import ObjectDiscovery
from features.objects.nodes import ImageNodes, find_nodes
from features.objects.patches import CellWhitening, patch_maxima
from features.objects.walk import resampled, walk

from ..measure import seconds_of, timed
from ..table import Table
from .activations import Eye, as_tensor, see
from .scenes import Pictures

ROUNDS = 15
# Numbers of made photos among which objects are looked up.
GROWTH = (100, 1000, 10_000)

NETWORK, MIRRORED = "network", "network, with mirrored surroundings"
LOOKUP, WHOLE, BOXES = "peaks", "whole map from peaks: prior, walk and clip", "boxes"
BOUND = "prior, walk, clip and boxes together"


def seconds(
    eye: Eye, pictures: Pictures, rounds: int = ROUNDS, growth: Sequence[int] = GROWTH
) -> list[Table]:
    """Time the steps for one image beside the network's forward pass, and for growing collections.

    All images of `pictures` have one size.
    """
    seen = see(pictures, eye)
    image = as_tensor(next(iter(pictures.collection())).image)
    nodes = [find_nodes(activations, ObjectDiscovery().settings) for activations in seen]
    return [_steps(eye, image, seen[0], nodes, rounds), _growth(seen[0], nodes, rounds, growth)]


def _steps(
    eye: Eye, image: torch.Tensor, seen: ImageActivations, nodes: list[ImageNodes], rounds: int
) -> Table:
    discovery = ObjectDiscovery().fit_nodes(nodes)
    peaks = discovery.peaks(seen, 0)
    whole = discovery.saliency(seen, 0, peaks=peaks)
    ready = eye.ready(image)
    with torch.inference_mode():
        eye.network(ready)

    def plain() -> None:
        with torch.inference_mode():
            eye.network(ready)

    steps: dict[str, Callable[[], Any]] = {
        NETWORK: plain,
        MIRRORED: lambda: eye(image),
        "nodes": lambda: find_nodes(seen, discovery.settings),
        LOOKUP: lambda: discovery.peaks(seen, 0),
        WHOLE: lambda: discovery.saliency(seen, 0, peaks=peaks),
        **_parts(discovery, seen, peaks),
        BOXES: lambda: discovery.boxes(whole),
    }
    middle = medians(steps, rounds)
    middle[BOUND] = middle[WHOLE] + middle[BOXES]
    height, width = seen.maps.shape[1:]
    return Table(
        f"**Time of one image**, {height} x {width} cells, {len(discovery.vectors_)} nodes, "
        f"{torch.get_num_threads()} threads",
        ("step", "ms", "share of the network's time, %"),
        [[name, value, 100 * value / middle[NETWORK]] for name, value in middle.items()],
        [
            f"Medians of {rounds} interleaved rounds. Network: MobileNetV2 on {image.shape[2]} x "
            f"{image.shape[3]} pixels. The whole map is made from known peaks; its parts are timed "
            "on their own, the walk without the whitening of the finer cells."
        ],
    )


def _parts(
    discovery: ObjectDiscovery, seen: ImageActivations, peaks: Any
) -> dict[str, Callable[[], Any]]:
    """Return the parts of a whole map that take the most time, on vectors of the image."""
    whiten, patch = CellWhitening(discovery.whitening_), discovery.settings.patch
    parts: dict[str, Callable[[], Any]] = {
        "– border prior": lambda: border_prior(whiten.grid(patch_maxima(seen.maps, patch)))
    }
    if seen.fine is None or discovery.fine_whitening_ is None:
        return parts
    fine = CellWhitening(discovery.fine_whitening_).grid(seen.fine)
    shape, frame = fine.shape[:2], discovery.frame_of(seen)
    spread = walk(resampled(peaks, seen.frame, frame, shape), fine)
    parts["– resampling and walk"] = lambda: walk(resampled(peaks, seen.frame, frame, shape), fine)
    parts["– clip"] = lambda: clipped(spread)
    return parts


def medians(steps: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Return the median milliseconds of each step, all of which are measured in each round."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            times[name].append(1000 * seconds_of(step))
    return {name: statistics.median(values) for name, values in times.items()}


# --- growing collections --------------------------------------------------------------------------


@dataclass(frozen=True)
class Made(Sequence[ImageNodes]):
    """Nodes of made images: those of given images in turn, with noise on their vectors."""

    nodes: list[ImageNodes]
    n_images: int

    def __len__(self) -> int:
        return self.n_images

    def __getitem__(self, number: Any) -> Any:
        if number >= self.n_images:
            raise IndexError(number)
        image = self.nodes[number % len(self.nodes)]
        noise = np.random.default_rng(number).random(image.vectors.shape, np.float32)
        return replace(image, vectors=image.vectors * (noise + np.float32(0.5)))


def _growth(
    seen: ImageActivations, nodes: list[ImageNodes], rounds: int, counts: Sequence[int]
) -> Table:
    """Time the steps that see the rest of the collection, among more and more images."""
    table = Table(
        "**Time of one image among others**",
        ("images", "nodes", "fit, s", "peaks, ms", "peaks and whole map, ms"),
        notes=[
            f"Medians of {rounds} interleaved rounds. Nodes: those of {len(nodes)} images in turn, "
            "each channel multiplied by a random factor in [0.5, 1.5)."
        ],
    )
    steps: dict[str, Callable[[], Any]] = {}
    for count in counts:
        discovery, took = timed(lambda: ObjectDiscovery().fit_nodes(Made(nodes, count)))  # noqa: B023
        discovery.peaks(seen, 0)  # the first search sorts the nodes
        steps[f"{count} peaks"] = lambda discovery=discovery: discovery.peaks(seen, 0)  # type: ignore[misc]
        steps[f"{count} whole"] = lambda discovery=discovery: discovery.saliency(seen, 0)  # type: ignore[misc]
        table.rows.append([count, len(discovery.vectors_), took])
    middle = medians(steps, rounds)
    for row in table.rows:
        row += [middle[f"{row[0]} peaks"], middle[f"{row[0]} whole"]]
    return table
