"""Convolutions in a row, then three fully connected layers: what AlexNet and VGG share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import nn

from .base import Backbone


class Row(Backbone):
    """A row of layers, `features`, that ends in a pooling, then three layers, `classifier`.

    The last map is the one before that pooling, which belongs to the head: retrieval pools the
    finest map of the last convolution.
    """

    _names: dict[int, str]  # stage that ends with a layer of `features`, by its number

    features: nn.Sequential
    avgpool: nn.Module
    classifier: nn.Sequential

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
