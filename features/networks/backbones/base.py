"""What every trunk has: named stages, a head, and what it expects of its images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from diffusion.errors import DiffusionError
from diffusion.validation import check_choice, check_integer

from ...settings import Triple
from ...settings import check_triple as check_triple

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Stage(NamedTuple):
    """Channels of a stage's map, and the pixels of the image from one of its cells to the next."""

    channels: int
    stride: int


class Sides(NamedTuple):
    """The image heights and widths that a network takes as it was trained: step k + offset."""

    minimum: int
    step: int = 1
    offset: int = 0

    def nearest(self, length: float) -> int:
        """Return the side nearest to a length; of two as near, the longer."""
        side = int((length - self.offset) / self.step + 0.5) * self.step + self.offset
        return max(side, self.minimum)


class Backbone(nn.Module):
    """A convolutional trunk with named stages, and the head that it was trained with.

    Calling it returns the last feature map. Images are float tensors (b, 3, h, w), RGB, after
    `normalize`; a subclass says which modules run, in `_steps` and `_head_steps`.

    Parameters
    ----------
    classes : int >= 1 or None, default 1000
        Outputs of the classifier; None leaves the head out, and its parameters.

    Attributes
    ----------
    name : str
    stages : dict of str to Stage
        Channels and stride of each named stage, in the order in which they run.
    last : str
        The stage that a call returns.
    codes : tuple of str
        The fully connected layers, in order; the last is the classifier. Empty without a head.
    mean, std : tuple of three float
        Of the images in [0, 1] that the weights were trained on, by channel.
    sides : Sides
        Heights and widths that suit.
    input_size : int
        Side of the square images that the classifier was trained on.
    """

    name: str
    last: str
    stages: dict[str, Stage]
    codes: tuple[str, ...] = ()
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD
    sides: Sides = Sides(32)
    input_size: int = 224

    def _steps(self) -> Iterable[tuple[str | None, nn.Module]]:
        """Yield (the stage that this module completes, if any; module) in running order."""
        raise NotImplementedError

    def _head_steps(self) -> Iterable[tuple[str | None, nn.Module]]:
        """Yield the same from the last map on, a name for each of `codes`."""
        raise NotImplementedError

    @property
    def channels(self) -> int:
        """Channels of the last feature map."""
        return self.stages[self.last].channels

    @property
    def stride(self) -> int:
        """Pixels of the image from one cell of the last feature map to the next."""
        return self.stages[self.last].stride

    def forward(self, images: Tensor, stage: str | None = None) -> Tensor:
        """Return the feature map (b, c, h', w') of a stage, by default the last.

        Parameters
        ----------
        images : Tensor, shape (b, 3, h, w), floating point
            As `normalize` returns them.
        stage : str, optional
            One of `stages`.

        Raises
        ------
        DiffusionError
            If there is no such stage, or the images are not as described or too small.
        """
        name = self.last if stage is None else stage
        return self.maps(images, [name])[name]

    def maps(self, images: Tensor, stages: Sequence[str]) -> dict[str, Tensor]:
        """Return the feature maps of several stages, from one pass."""
        for stage in stages:
            check_choice(stage, "stage", tuple(self.stages))
        check_images(images, self)
        return self._maps(images, set(stages))

    def _maps(self, images: Tensor, wanted: set[str]) -> dict[str, Tensor]:
        maps, found = images, dict[str, Tensor]()
        for name, module in self._steps():
            if len(found) == len(wanted):
                break
            maps = module(maps)
            if name in wanted:
                found[str(name)] = maps
        return found

    def head(self, layer: str) -> nn.Sequential:
        """Return what leads from the last feature map to a fully connected layer's activations.

        Its modules are those of the network, not copies.

        Raises
        ------
        DiffusionError
            If there is no such layer, or no head.
        """
        if not self.codes:
            raise DiffusionError(f"layer: {self.name} was made without its head, has no {layer!r}")
        check_choice(layer, "layer", self.codes)
        modules = []
        for name, module in self._head_steps():
            modules.append(module)
            if name == layer:
                break
        return nn.Sequential(*modules)

    def classify(self, images: Tensor) -> Tensor:
        """Return the classifier's outputs (b, classes), before any softmax."""
        last = self.codes[-1] if self.codes else "classifier"
        return self.head(last)(self(images))

    def normalize(self, images: Tensor) -> Tensor:
        """Return images, uint8 or float in [0, 1], as the network takes them: (x - mean) / std."""
        scale = 255.0 if images.dtype == torch.uint8 else 1.0
        images = images if images.is_floating_point() else images.float()
        mean, std = (
            torch.tensor(values, dtype=images.dtype, device=images.device).view(3, 1, 1)
            for values in (self.mean, self.std)
        )
        return (images - mean * scale) / (std * scale)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.name!r}, channels={self.channels}, stride={self.stride})"
        )


def check_images(images: Tensor, network: Backbone) -> None:
    """Raise unless images are (b, 3, h, w), floating point and not too small for a network."""
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise DiffusionError(
            f"images: expected floating-point shape (b, 3, h, w), got {images.dtype} "
            f"{tuple(images.shape)}"
        )
    if min(images.shape[2:]) < network.sides.minimum:
        raise DiffusionError(
            f"images: expected sides of at least {network.sides.minimum} pixels for "
            f"{network.name}, got {tuple(images.shape[2:])}"
        )


def check_classes(classes: int | None) -> int | None:
    """Check the number of a classifier's outputs."""
    return None if classes is None else check_integer(classes, "classes", low=1)
