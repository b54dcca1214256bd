"""Convolutions in a row, then three fully connected layers: what AlexNet and VGG share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from torch import nn

from .base import Backbone, Stage, check_classes

_WIDTH = 4096  # of the two hidden layers of the head


class Convolution(NamedTuple):
    """A convolution and its ReLU."""

    channels: int
    size: int = 3
    stride: int = 1
    padding: int = 1


class Pooling(NamedTuple):
    """A max-pooling."""

    size: int
    stride: int = 2


class Row(Backbone):
    """A row of layers, `features`, that ends in a pooling, then three layers, `classifier`.

    The last map is the one before that pooling, which belongs to the head: retrieval pools the
    finest map of the last convolution.

    Parameters
    ----------
    layers : dict of str to Convolution or Pooling
        By the names of the stages that they complete.
    cells : int
        Side of the map that the head takes.
    dropout_first : bool
        Whether a hidden layer of the head has its dropout before it, not after it.
    classes : int >= 1 or None
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
        self._names: dict[int, str] = {}  # stage that ends with a layer of `features`, by number
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
        # Activations are taken after the ReLU; the classifier has none.
        ends = dict(zip((linear[0] + 1, linear[1] + 1, linear[2]), self.codes, strict=True))
        for number, layer in enumerate(self.classifier):
            yield ends.get(number), layer
