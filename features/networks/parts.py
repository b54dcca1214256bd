"""Calls of a network for parts of a batch, which need less memory than a call for all of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

# The first convolutions of a network need hundreds of bytes per pixel. A processor is as fast with
# one image of 512 x 512 pixels as with thirty-two: the larger maps only fill memory, which is given
# back and asked for again with every layer. A GPU needs the whole batch to be busy.
PART_PIXELS = 1 << 18

Result = TypeVar("Result", Tensor, tuple[Tensor, ...])


def in_parts(network: Callable[[Tensor], Result], images: Tensor) -> Result:
    """Return what a network returns for images (b, c, h, w), computed for a few at a time.

    Parameters
    ----------
    network : callable
        Returns a Tensor or a tuple of them, of which each has one row per image that does not
        depend on the other images.
    images : Tensor, shape (b, c, h, w)
        They go through the network together if they are not on a processor.
    """
    count = max(1, PART_PIXELS // (images.shape[2] * images.shape[3]))
    if images.device.type != "cpu" or len(images) <= count:
        return network(images)
    parts = [network(part) for part in images.split(count)]
    if isinstance(parts[0], Tensor):
        return torch.cat(parts)
    return tuple(map(torch.cat, zip(*parts, strict=True)))
