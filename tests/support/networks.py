"""Networks for tests: a trunk that costs nothing, and weights that hide no mistake."""

from __future__ import annotations

import torch
from torch import nn

from features.networks.backbones.base import Backbone, Sides, Stage


class Tiny(Backbone):
    """Two convolutions and a batch norm, with a head or without."""

    name = "tiny"
    last = "conv2"
    sides = Sides(16)
    input_size = 48

    def __init__(self, classes=None):
        super().__init__()
        self.stages = {"conv1": Stage(16, 4), "conv2": Stage(32, 8)}
        self.conv1 = nn.Conv2d(3, 16, 5, stride=4, padding=2)
        self.conv2 = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(32)
        if classes is not None:
            self.codes = ("fc",)
            self.fc = nn.Linear(32, classes)

    def _steps(self):
        relu = nn.ReLU()
        yield "conv1", nn.Sequential(self.conv1, relu)
        yield "conv2", nn.Sequential(self.conv2, self.norm, relu)


def disturbed(network, seed=0):
    """Give a network statistics and weights under which no batch norm is near the identity."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in network.state_dict().items():
        if name.endswith("running_mean"):
            value.copy_(torch.randn(value.shape, generator=generator) / 10)
        elif value.ndim == 1:
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    return network.eval()
