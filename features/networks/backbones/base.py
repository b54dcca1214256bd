"""The base class of all trunks, and checks of their arguments."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from diffusion.errors import DiffusionError
from diffusion.validation import check_choice, check_integer

from ...images.sizes import Sides
from ...settings import Triple
from ...settings import check_triple as check_triple

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Stage(NamedTuple):
    """Number of channels of the map of a stage, and the distance of its cells in image pixels."""

    channels: int
    stride: int


class Backbone(nn.Module):
    """A convolutional trunk with named stages and, optionally, its classification head.

    Calling the trunk returns its last feature map. Images are RGB float tensors (b, 3, h, w), as
    `normalize` returns them. Subclasses define the modules to run in `_steps` and `_head_steps`.

    Parameters
    ----------
    classes : int >= 1 or None, default 1000
        Number of outputs of the classifier, or None for a trunk without a head.

    Attributes
    ----------
    name : str
    stages : dict of str to Stage
        Channels and stride of each stage, in running order.
    last : str
        The stage whose map a call returns.
    codes : tuple of str
        Names of the fully connected layers, in running order; the last is the classifier. Empty
        without a head.
    mean, std : tuple of three float
        Mean and standard deviation per channel of the training images, with values in [0, 1].
    sides : Sides
        Suitable heights and widths of images.
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
        """Return pairs (stage that the module completes, or None; module) in running order."""
        raise NotImplementedError

    def _head_steps(self) -> Iterable[tuple[str | None, nn.Module]]:
        """Return the same pairs for the head, with the names in `codes` instead of stages."""
        raise NotImplementedError

    @property
    def channels(self) -> int:
        """Number of channels of the last feature map."""
        return self.stages[self.last].channels

    @property
    def stride(self) -> int:
        """Distance between neighbouring cells of the last feature map, in image pixels."""
        return self.stages[self.last].stride

    @property
    def fine(self) -> str | None:
        """The last stage whose cells are half as far apart as those of the last map, if any."""
        names = [name for name, stage in self.stages.items() if 2 * stage.stride == self.stride]
        return names[-1] if names else None

    def forward(self, images: Tensor, stage: str | None = None) -> Tensor:
        """Return the feature map (b, c, h', w') of a stage, by default the last one.

        Parameters
        ----------
        images : Tensor, shape (b, 3, h, w), floating point
            As `normalize` returns them.
        stage : str, optional
            One of `stages`.

        Raises
        ------
        DiffusionError
            If the stage does not exist, or the images are not as described or are too small.
        """
        name = self.last if stage is None else stage
        return self.maps(images, [name])[name]

    def maps(self, images: Tensor, stages: Sequence[str]) -> dict[str, Tensor]:
        """Return the feature maps of several stages, computed in one pass."""
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
        """Return the modules from the last feature map to the activations of a head layer.

        They are the modules of the network, not copies.

        Raises
        ------
        DiffusionError
            If the layer does not exist, or the network has no head.
        """
        if not self.codes:
            raise DiffusionError(
                f"layer: {self.name} was made without its head and has no {layer!r}"
            )
        check_choice(layer, "layer", self.codes)
        modules = []
        for name, module in self._head_steps():
            modules.append(module)
            if name == layer:
                break
        return nn.Sequential(*modules)

    def classify(self, images: Tensor) -> Tensor:
        """Return the outputs (b, classes) of the classifier, without a softmax."""
        last = self.codes[-1] if self.codes else "classifier"
        return self.head(last)(self(images))

    def normalize(self, images: Tensor) -> Tensor:
        """Return (x - mean) / std of images x, given as uint8 or as floats in [0, 1]."""
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
    """Raise unless images are floating point, (b, 3, h, w), and large enough for a network."""
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise DiffusionError(
            f"images: expected floating point of shape (b, 3, h, w), got {images.dtype} "
            f"{tuple(images.shape)}"
        )
    if min(images.shape[2:]) < network.sides.minimum:
        raise DiffusionError(
            f"images: expected sides of at least {network.sides.minimum} pixels for "
            f"{network.name}, got {tuple(images.shape[2:])}"
        )


def check_classes(classes: int | None) -> int | None:
    """Validate the number of outputs of a classifier, or None."""
    return None if classes is None else check_integer(classes, "classes", low=1)
