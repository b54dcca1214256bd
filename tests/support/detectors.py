"""A network that responds to one known pattern per channel, and photos that show the patterns."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from features.networks.backbones.base import Backbone, Sides, Stage

SIDE = 9


def patterns() -> np.ndarray:
    """Return two patterns (2, 9, 9) of values -1 and 1: a cross, and a frame with a dot."""
    cross, frame = (-np.ones((SIDE, SIDE)) for _ in range(2))
    cross[3:6], cross[:, 3:6] = 1, 1
    frame[1:-1, 1:-1] = 1
    frame[2:-2, 2:-2] = -1
    frame[4, 4] = 1
    return np.stack([cross, frame])


class Detector(Backbone):
    """Channel c of "conv1" is above 0 where pattern c is, and exactly 0 where it is not at all.

    With images in [-1, 1], the correlation with the pattern itself is 81; noise of an amplitude of
    0.2 and grey stay far below the threshold of 40.
    """

    name = "detector"
    last = "pool1"
    sides = Sides(SIDE)
    mean = (0.5, 0.5, 0.5)
    std = (0.5, 0.5, 0.5)

    def __init__(self) -> None:
        super().__init__()
        self.stages = {"conv1": Stage(2, 1), "pool1": Stage(2, 4)}
        self.conv1 = nn.Conv2d(3, 2, SIDE, padding=SIDE // 2)
        filters = torch.from_numpy(patterns()).float()
        with torch.no_grad():
            self.conv1.weight.copy_(filters[:, None].expand(2, 3, SIDE, SIDE) / 3)
            self.conv1.bias.fill_(-40.0)
        self.eval()

    def _steps(self):
        yield "conv1", nn.Sequential(self.conv1, nn.ReLU())
        yield "pool1", nn.MaxPool2d(4)


def noise(height: int, width: int, seed: int) -> np.ndarray:
    """Return grey noise (h, w, 3), uint8, of a small amplitude."""
    rng = np.random.default_rng(seed)
    return rng.integers(102, 153, (height, width, 1), np.uint8).repeat(3, axis=2)


def paste(image: np.ndarray, number: int, top: int, left: int, strength: float = 1.0) -> None:
    """Put a pattern on an image, at its full contrast or a part of it."""
    values = 127.5 + 127.5 * strength * patterns()[number]
    image[top : top + SIDE, left : left + SIDE] = values.round()[..., None]
