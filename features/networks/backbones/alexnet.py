"""AlexNet."""

from __future__ import annotations

from torch import nn

from .base import Sides, Stage, check_classes
from .row import Row

_STAGES = {
    "conv1": Stage(64, 4),
    "pool1": Stage(64, 8),
    "conv2": Stage(192, 8),
    "pool2": Stage(192, 16),
    "conv3": Stage(384, 16),
    "conv4": Stage(256, 16),
    "conv5": Stage(256, 16),
    "pool5": Stage(256, 32),
}
# The layers that complete them.
_LAYERS = (1, 2, 4, 5, 7, 9, 11, 12)


class AlexNet(Row):
    """AlexNet in its one-column form, with torchvision's parameter names.

    Parameters
    ----------
    classes : int >= 1 or None, default 1000

    References
    ----------
    Krizhevsky, Sutskever, Hinton. ImageNet Classification with Deep Convolutional Neural
    Networks. NIPS 2012. Krizhevsky. One weird trick for parallelizing convolutional neural
    networks. arXiv 1404.5997, 2014.
    """

    name = "alexnet"
    last = "conv5"
    sides = Sides(63)

    def __init__(self, classes: int | None = 1000) -> None:
        super().__init__()
        self.stages = _STAGES
        self._names = dict(zip(_LAYERS, _STAGES, strict=True))
        classes = check_classes(classes)
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, kernel_size=11, stride=4, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2),
            nn.Conv2d(64, 192, kernel_size=5, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2),
            nn.Conv2d(192, 384, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(384, 256, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(256, 256, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2),
        )
        if classes is not None:
            self.codes = ("fc6", "fc7", "fc8")
            self.avgpool = nn.AdaptiveAvgPool2d((6, 6))
            self.classifier = nn.Sequential(
                nn.Dropout(),
                nn.Linear(256 * 6 * 6, 4096),
                nn.ReLU(inplace=True),
                nn.Dropout(),
                nn.Linear(4096, 4096),
                nn.ReLU(inplace=True),
                nn.Linear(4096, classes),
            )
