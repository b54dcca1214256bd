"""Networks of a sequence of convolutions and three fully connected layers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from torch import nn

from .base import Backbone, Stage, check_classes

# Width of the two hidden layers of the head.
_WIDTH = 4096


class Convolution(NamedTuple):
    """A convolution followed by a ReLU."""

    channels: int
    size: int = 3
    stride: int = 1
    padding: int = 1


class Pooling(NamedTuple):
    """A max-pooling layer."""

    size: int
    stride: int = 2


class Row(Backbone):
    """A sequence of layers that ends in a pooling, and a head of three fully connected layers.

    AlexNet and VGG have this structure. The last map is the one before the final pooling, since
    retrieval pools the finest map of the last convolution; the final pooling belongs to the head.

    Parameters
    ----------
    layers : dict of str to Convolution or Pooling
        Layers by the name of the stage that they complete, in running order.
    cells : int
        Side of the map that the head takes, in cells.
    dropout_first : bool
        Whether dropout comes before the hidden layers of the head, not after them.
    classes : int >= 1 or None
        Number of outputs of the classifier, or None for no head.
    """

    def __init__(
        self,
        layers: dict[str, Convolution | Pooling],
        cells: int,
        dropout_first: bool,
        classes: int | None,
    ) -> None:
        super().__init__()
        classes = check_classes(classes)
        self.stages = {}
        self._names: dict[int, str] = {}  # by number of the layer in `features`
        modules: list[nn.Module] = []
        channels, stride = 3, 1
        for name, layer in layers.items():
            if isinstance(layer, Convolution):
                modules += [nn.Conv2d(channels, *layer), nn.ReLU(inplace=True)]
                channels = layer.channels
            else:
                modules.append(nn.MaxPool2d(*layer))
            stride *= layer.stride
            self._names[len(modules) - 1] = name
            self.stages[name] = Stage(channels, stride)
        self.features = nn.Sequential(*modules)
        if classes is None:
            return
        self.codes = ("fc6", "fc7", "fc8")
        self.avgpool = nn.AdaptiveAvgPool2d((cells, cells))
        hidden: list[nn.Module] = []
        for width in (channels * cells**2, _WIDTH):
            linear = [nn.Linear(width, _WIDTH), nn.ReLU(inplace=True)]
            hidden += [nn.Dropout(), *linear] if dropout_first else [*linear, nn.Dropout()]
        self.classifier = nn.Sequential(*hidden, nn.Linear(_WIDTH, classes))

    def _steps(self) -> Iterable[tuple[str | None, nn.Module]]:
        return ((self._names.get(number), layer) for number, layer in enumerate(self.features))

    def _head_steps(self) -> Iterator[tuple[str | None, nn.Module]]:
        yield None, self.features[-1]
        yield None, self.avgpool
        yield None, nn.Flatten()
        linear = [i for i, layer in enumerate(self.classifier) if isinstance(layer, nn.Linear)]
        # The codes are the activations after the ReLU; the classifier has no ReLU.
        ends = dict(zip((linear[0] + 1, linear[1] + 1, linear[2]), self.codes, strict=True))
        for number, layer in enumerate(self.classifier):
            yield ends.get(number), layer
