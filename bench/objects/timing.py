"""Time that each step of object discovery takes for one image."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch

from features.objects.discovery import ObjectDiscovery
from features.objects.maps import feature_saliency
from features.objects.regions import find_regions

from ..measure import seconds_of
from ..table import Table
from .activations import Eye, see
from .scenes import Pictures

ROUNDS, COPIES = 15, 8


def seconds(eye: Eye, pictures: Pictures, rounds: int = ROUNDS) -> Table:
    """Time the steps for one image beside the network's forward pass."""
    seen = see(pictures, eye)
    # Eight times the regions that the images have: the cost of the search grows with them.
    discovery = ObjectDiscovery()
    discovery.fit_regions([find_regions(A, discovery.feature_egm) for A in seen] * COPIES)
    image = torch.from_numpy(next(iter(pictures.collection())).image).permute(2, 0, 1)[None]
    ready = eye.network.normalize(image).contiguous(memory_format=torch.channels_last)
    A = seen[0]
    F, S = feature_saliency(A), discovery.saliency(A, 0)

    def plain() -> None:
        with torch.inference_mode():
            eye.network(ready)

    steps: dict[str, Callable[[], Any]] = {
        "network": plain,
        "network, with mirrored surroundings": lambda: eye(image),
        "FS": lambda: feature_saliency(A),
        "EGM of FS": lambda: discovery.feature_egm.regions(F),
        "OS": lambda: discovery.saliency(A, 0),
        "EGM of OS": lambda: discovery.regions(S),
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            times[name].append(1000 * seconds_of(step))
    middle = {name: statistics.median(values) for name, values in times.items()}
    ours = ("FS", "EGM of FS", "OS", "EGM of OS")
    middle["FS, EGM, OS and EGM together"] = sum(middle[name] for name in ours)
    height, width = A.shape[1:]
    return Table(
        f"**Time of one image**, {height} x {width} cells, {len(discovery.vectors_)} regions, "
        f"{torch.get_num_threads()} threads",
        ("step", "ms", "share of the network's time, %"),
        [[name, value, 100 * value / middle["network"]] for name, value in middle.items()],
        [
            f"Medians of {rounds} rounds. Network: MobileNetV2 on {image.shape[2]} x "
            f"{image.shape[3]} pixels."
        ],
    )
