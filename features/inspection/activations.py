"""The images that excite each channel of a feature map most, and the places in them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffusion.errors import DiffusionError
from diffusion.validation import check_integer

from .receptive_field import receptive_field
from .units import (
    BATCH_PIXELS,
    Network,
    as_image,
    check_channels,
    check_layer,
    maps_of,
    prepared,
    trunk_of,
)

# The most images that the network is given at once.
_BATCH = 32


@dataclass(frozen=True, eq=False)
class TopActivations:
    """The images that excite each of m channels most: k of them, by descending activation.

    Attributes
    ----------
    channels : ndarray, shape (m,), int64
    images : ndarray, shape (m, k), int64
        Numbers of the images; k is `count`, or the number of images if there are fewer.
    values : ndarray, shape (m, k), float32
        The largest activation of the channel in each of them.
    cells : ndarray, shape (m, k, 2), int64
        Row and column of the cell that has it; the first one in reading order if several do.
    boxes : ndarray, shape (m, k, 4), int64
        Left, top, right and bottom of the receptive field of that cell in pixels, clipped to the
        image.
    """

    channels: NDArray[np.int64]
    images: NDArray[np.int64]
    values: NDArray[np.float32]
    cells: NDArray[np.int64]
    boxes: NDArray[np.int64]


class Ranking:
    """The images with the largest values of each channel, of all that have been added.

    Of equal values, that of the lower number comes first, so that the order in which images are
    added does not matter.

    Parameters
    ----------
    channels : int
    count : int
        Number of images that are kept for each channel.
    """

    def __init__(self, channels: int, count: int) -> None:
        self.count = count
        self.numbers = np.empty((channels, 0), np.int64)
        self.values = np.empty((channels, 0), np.float32)
        self.cells = np.empty((channels, 0, 2), np.int64)

    def add(
        self, numbers: Sequence[int], values: NDArray[np.float32], cells: NDArray[np.int64]
    ) -> None:
        """Add images by their numbers, their values (b, channels) and cells (b, channels, 2)."""
        added = np.broadcast_to(np.asarray(numbers, np.int64), values.T.shape)
        known = np.concatenate([self.numbers, added], axis=1)
        largest = np.concatenate([self.values, values.T], axis=1)
        order = np.lexsort((known, -largest))[:, : self.count]
        every = np.concatenate([self.cells, cells.swapaxes(0, 1)], axis=1)
        self.numbers = np.take_along_axis(known, order, axis=1)
        self.values = np.take_along_axis(largest, order, axis=1)
        self.cells = np.take_along_axis(every, order[..., None], axis=1)


def top_activations(
    network: Network,
    images: Iterable[Any] | Tensor,
    layer: str | None = None,
    *,
    channels: Sequence[int] | None = None,
    count: int = 9,
) -> TopActivations:
    """Find the images that excite each channel of a feature map most, and where in them.

    The activation of an image is the largest value of the channel's map A_c,

        a_c(x) = max over cells p of A_c(x)[p],

    so that an image counts once, at the place that excites the channel most.

    Parameters
    ----------
    network : Backbone or RetrievalNetwork
        In evaluation mode.
    images : iterable of array_like, each of shape (h, w, 3), uint8, or Tensor (n, h, w, 3), uint8
        RGB, of any sizes that the network takes. They are read once, one batch at a time;
        neighbours of equal size share a batch.
    layer : str, optional
        A stage of the trunk; by default the last one.
    channels : sequence of int, optional
        By default all channels.
    count : int >= 1, default 9
        Number of images per channel.

    Returns
    -------
    TopActivations

    Raises
    ------
    DiffusionError
        If an argument is not as described, there is no image, or an image is too small.

    Notes
    -----
    Memory, besides a batch: about 30 bytes per channel and image that is kept.

    References
    ----------
    Zeiler, Fergus. Visualizing and Understanding Convolutional Networks. ECCV 2014.
    """
    trunk = trunk_of(network)
    stage = check_layer(trunk, layer)
    chosen = check_channels(trunk, stage, channels)
    ranking = Ranking(len(chosen), check_integer(count, "count", low=1))
    field = receptive_field(trunk, stage)
    shapes: list[tuple[int, int]] = []
    for batch in _batches(images):
        maps = maps_of(trunk, prepared(trunk, batch), stage)[:, chosen]
        values, cells = maxima(maps)
        ranking.add(range(len(shapes), len(shapes) + len(batch)), values, cells)
        shapes += [(batch.shape[1], batch.shape[2])] * len(batch)
    if not shapes:
        raise DiffusionError("images: expected at least one")
    unclipped = field.boxes(ranking.cells)
    limits = np.array(shapes, np.int64)[ranking.numbers][..., [1, 0, 1, 0]]
    return TopActivations(
        np.array(chosen, np.int64),
        ranking.numbers,
        ranking.values,
        ranking.cells,
        np.clip(unclipped, 0, limits),
    )


def maxima(maps: Tensor) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the largest values (b, c) of maps (b, c, h, w), and their cells (b, c, 2)."""
    values, places = maps.float().flatten(2).max(dim=2)
    cells = np.stack(np.divmod(places.cpu().numpy(), maps.shape[3]), axis=-1)
    return values.cpu().numpy(), cells


def _batches(images: Iterable[Any] | Tensor) -> Iterator[Tensor]:
    """Yield batches (b, h, w, 3) of neighbouring images of equal size."""
    try:
        coming = iter(images)
    except TypeError:
        raise DiffusionError(
            f"images: expected images (h, w, 3), uint8, got {type(images).__name__}"
        ) from None
    waiting: list[NDArray[np.uint8]] = []
    for number, given in enumerate(coming):
        image = as_image(given, f"images[{number}]")
        pixels = image.shape[0] * image.shape[1]
        full = len(waiting) >= max(1, min(_BATCH, BATCH_PIXELS // pixels))
        if waiting and (full or waiting[0].shape != image.shape):
            yield torch.from_numpy(np.stack(waiting))
            waiting = []
        waiting.append(image)
    if waiting:
        yield torch.from_numpy(np.stack(waiting))
