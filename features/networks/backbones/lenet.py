"""Networks that turn images into descriptors, one class each.

A network takes images (n, c, h, w), float32, and returns descriptors (n, d). It says what it
expects in `input_shape` (c, h, w), which `features.describe` checks, and what it gives in
`dimension`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diffusion.errors import DiffusionError
from diffusion.validation import check_integer


class LeNet(nn.Module):
    """Two convolutions and a linear embedding, for small greyscale images.

    The network applies a 3x3 convolution with one pixel of zero padding, a ReLU and 2x2
    max-pooling, all of it twice, then a linear map to the descriptor, which is L2-normalised. It
    resembles LeNet-5, with ReLU and max-pooling instead of tanh and average pooling.

    Parameters
    ----------
    image_size : int >= 4, default 8
        Height and width of the images; the network is meant for 8 to 32.
    dimension : int >= 1, default 64
        Length d of the descriptor.
    channels : tuple of two int >= 1, default (16, 32)
        Number of output channels of the two convolutions.
    seed : int >= 0, default 0
        Seed of the initial weights. The global random state of torch is not changed.

    Attributes
    ----------
    input_shape : tuple of int
        (1, image_size, image_size).
    dimension : int

    Raises
    ------
    DiffusionError
        If a parameter is out of its range; the message names it.

    References
    ----------
    LeCun, Bottou, Bengio, Haffner. Gradient-Based Learning Applied to Document Recognition.
    Proceedings of the IEEE, 1998.

    Examples
    --------
    >>> LeNet(image_size=28, dimension=32)(torch.rand(5, 1, 28, 28)).shape
    torch.Size([5, 32])
    """

    def __init__(
        self,
        image_size: int = 8,
        *,
        dimension: int = 64,
        channels: tuple[int, int] = (16, 32),
        seed: int = 0,
    ) -> None:
        super().__init__()
        # Below 4 pixels, nothing would be left after the second pooling.
        image_size = check_integer(image_size, "image_size", low=4)
        self.dimension = check_integer(dimension, "dimension", low=1)
        if len(channels) != 2:
            raise DiffusionError(f"channels: expected two integers, got {channels!r}")
        first, second = (check_integer(width, "channels", low=1) for width in channels)
        seed = check_integer(seed, "seed", low=0)
        self.input_shape = (1, image_size, image_size)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.layers = nn.Sequential(
                nn.Conv2d(1, first, kernel_size=3, padding=1),
                nn.ReLU(),
                nn.MaxPool2d(2),
                nn.Conv2d(first, second, kernel_size=3, padding=1),
                nn.ReLU(),
                nn.MaxPool2d(2),
                nn.Flatten(),
                nn.Linear(second * (image_size // 4) ** 2, self.dimension),
            )

    def forward(self, images: Tensor) -> Tensor:
        """Return the unit descriptors (n, dimension) of images (n, 1, image_size, image_size)."""
        return nn.functional.normalize(self.layers(images))
