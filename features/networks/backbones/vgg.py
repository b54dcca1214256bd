"""VGG-16."""

from __future__ import annotations

from .base import Sides
from .row import Convolution, Pooling, Row

# Number of convolutions and channels of the five blocks, each of which ends in a pooling.
_BLOCKS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))


class VGG16(Row):
    """VGG-16 without batch normalisation, with the parameter names of torchvision.

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
        layers: dict[str, Convolution | Pooling] = {}
        for block, (count, channels) in enumerate(_BLOCKS, 1):
            layers |= {f"conv{block}_{i}": Convolution(channels) for i in range(1, count + 1)}
            layers[f"pool{block}"] = Pooling(2)
        super().__init__(layers, 7, False, classes)
