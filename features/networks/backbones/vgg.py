"""VGG-16."""

from __future__ import annotations

from torch import nn

from .base import Sides, Stage, check_classes
from .row import Row

# Convolutions and channels of the five blocks, each of which ends in a pooling.
_BLOCKS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))


class VGG16(Row):
    """VGG with 16 layers of weights and no batch normalisation, with torchvision's names.

    Parameters
    ----------
    classes : int >= 1 or None, default 1000

    References
    ----------
    Simonyan, Zisserman. Very Deep Convolutional Networks for Large-Scale Image Recognition.
    ICLR 2015.
    """

    name = "vgg16"
    last = "conv5_3"
    sides = Sides(32)

    def __init__(self, classes: int | None = 1000) -> None:
        super().__init__()
        classes = check_classes(classes)
        layers: list[nn.Module] = []
        self.stages, self._names = {}, {}
        before, stride = 3, 1

        def complete(stage: str) -> None:
            self._names[len(layers) - 1] = stage
            self.stages[stage] = Stage(before, stride)

        for block, (count, channels) in enumerate(_BLOCKS, 1):
            for number in range(1, count + 1):
                layers.append(nn.Conv2d(before, channels, kernel_size=3, padding=1))
                layers.append(nn.ReLU(inplace=True))
                before = channels
                complete(f"conv{block}_{number}")
            layers.append(nn.MaxPool2d(kernel_size=2))
            stride *= 2
            complete(f"pool{block}")
        self.features = nn.Sequential(*layers)
        if classes is not None:
            self.codes = ("fc6", "fc7", "fc8")
            self.avgpool = nn.AdaptiveAvgPool2d((7, 7))
            self.classifier = nn.Sequential(
                nn.Linear(512 * 7 * 7, 4096),
                nn.ReLU(inplace=True),
                nn.Dropout(),
                nn.Linear(4096, 4096),
                nn.ReLU(inplace=True),
                nn.Dropout(),
                nn.Linear(4096, classes),
            )
