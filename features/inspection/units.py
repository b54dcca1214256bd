"""The maps of the stages of a network, and checks of what names its units."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffusion.errors import DiffusionError
from diffusion.validation import check_choice

from ..networks.backbones import Backbone
from ..networks.retrieval_network import RetrievalNetwork

Network = Backbone | RetrievalNetwork

# The most pixels that the network is given at once.
BATCH_PIXELS = 1 << 22


def trunk_of(network: Network) -> Backbone:
    """Return the trunk of a network; raise unless there is one."""
    if isinstance(network, RetrievalNetwork):
        return network.backbone
    if not isinstance(network, Backbone):
        raise DiffusionError(
            "network: expected a Backbone or a RetrievalNetwork, got "
            f"{type(network).__name__}; features.backbone makes one"
        )
    return network


def check_layer(trunk: Backbone, layer: str | None) -> str:
    """Return the name of a stage, by default the last one."""
    return trunk.last if layer is None else check_choice(layer, "layer", tuple(trunk.stages))


def check_channels(trunk: Backbone, layer: str, channels: Sequence[int] | None) -> list[int]:
    """Return the numbers of channels of a stage, by default all of them."""
    count = trunk.stages[layer].channels
    if channels is None:
        return list(range(count))
    try:
        array = np.asarray(list(channels))
    except TypeError:
        array = np.empty(0)
    if array.ndim != 1 or array.dtype.kind not in "iu" or not len(array):
        raise DiffusionError(f"channels: expected a sequence of integers, got {channels!r}")
    numbers: list[int] = array.tolist()
    if min(numbers) < 0 or max(numbers) >= count or len(set(numbers)) < len(numbers):
        raise DiffusionError(
            f"channels: expected different numbers from 0 to {count - 1}, the channels of {layer}, "
            f"got {channels!r}"
        )
    return numbers


def as_image(image: Any, name: str = "image") -> NDArray[np.uint8]:
    """Return an image (h, w, 3), uint8, as an array; raise if it is none."""
    array = image.cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape or array.dtype != np.uint8:
        raise DiffusionError(
            f"{name}: expected shape (h, w, 3), uint8, got {array.shape}, {array.dtype}"
        )
    return array


def prepared(trunk: Backbone, images: Tensor) -> Tensor:
    """Return images (b, h, w, 3), uint8, as the network takes them, on its device."""
    parameter = next(trunk.parameters(), None)
    device = torch.device("cpu") if parameter is None else parameter.device
    return trunk.normalize(images.to(device).permute(0, 3, 1, 2))


@torch.inference_mode()
def maps_of(trunk: Backbone, ready: Tensor, layer: str) -> Tensor:
    """Return the maps (b, c, h', w') of a stage of images that `prepared` returned.

    Raises
    ------
    DiffusionError
        If an image is too small, or an activation is not a number.
    """
    # The fastest convolution of a GPU may not be reproducible to the bit.
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        maps = trunk(ready, layer)
    if maps.isnan().any():
        raise DiffusionError(
            f"network: expected numbers, {layer} of {trunk.name} has activations that are not; are "
            "its weights damaged?"
        )
    return maps
