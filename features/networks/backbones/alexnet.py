"""AlexNet."""

from __future__ import annotations

from .base import Sides
from .row import Convolution, Pooling, Row

_LAYERS: dict[str, Convolution | Pooling] = {
    "conv1": Convolution(64, 11, 4, 2),
    "pool1": Pooling(3),
    "conv2": Convolution(192, 5, 1, 2),
    "pool2": Pooling(3),
    "conv3": Convolution(384),
    "conv4": Convolution(256),
    "conv5": Convolution(256),
    "pool5": Pooling(3),
}


class AlexNet(Row):
    """AlexNet in its one-column form, with the parameter names of torchvision.

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
        super().__init__(_LAYERS, 6, True, classes)
