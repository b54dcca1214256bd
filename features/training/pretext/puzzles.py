"""Jigsaw puzzles and context prediction: telling the places of the tiles of a picture."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Generator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ...networks.retrieval_network import RetrievalNetwork
from ...settings import TrainingSettings
from ..contrastive import seeded
from ..objective import Describe, Objective
from ..photos import Photos
from ..samples import draw_views
from .tiles import GRID, Layout, cut, without_shortcuts

_TILES = GRID**2
_CENTRE = _TILES // 2
# The neighbours of the centre, row by row.
NEIGHBORS = tuple(place for place in range(_TILES) if place != _CENTRE)
# Widths of the head: of each tile, and of all tiles together.
_OF_TILE, _OF_ALL = 128, 256


def orders() -> NDArray[np.int64]:
    """Return 72 orders of nine tiles, of which any two agree in one place at most.

    They are the maps x -> a x + b of the field of nine elements, a ≠ 0: two of them that agree in
    two places are equal. There are no 73 orders with this property, since the first two places can
    be filled in 9 * 8 ways. Noroozi and Favaro choose such orders by a greedy search.

    Returns
    -------
    ndarray, shape (72, 9), int64
        Permutations of 0 to 8; the first is the identity.
    """
    # The elements are u + v i with i² = -1, modulo 3; the number of an element is 3 u + v.
    u, v = np.divmod(np.arange(9), 3)
    found = []
    for a in (3, 1, 2, 4, 5, 6, 7, 8):  # the number 3 is the one of the field
        for b in range(9):
            real = (u[a] * u - v[a] * v + u[b]) % 3
            found.append(3 * real + (u[a] * v + v[a] * u + v[b]) % 3)
    return np.array(found, np.int64)


class PuzzleHead(nn.Module):
    """Layers that classify the arrangement of tiles by their descriptors.

    Parameters
    ----------
    dimension : int
        Length d of a descriptor.
    tiles : int
        Tiles t per arrangement.
    classes : int
    """

    def __init__(self, dimension: int, tiles: int, classes: int) -> None:
        super().__init__()
        # Unit descriptors of many dimensions have small elements.
        self.scale = math.sqrt(dimension)
        self.of_tile = nn.Linear(dimension, _OF_TILE)
        self.of_all = nn.Linear(tiles * _OF_TILE, _OF_ALL)
        self.classes = nn.Linear(_OF_ALL, classes)

    def forward(self, descriptors: Tensor) -> Tensor:
        """Return the logits (b, classes) of descriptors (b, t, d)."""
        y = functional.relu(self.of_tile(self.scale * descriptors)).flatten(1)
        logits: Tensor = self.classes(functional.relu(self.of_all(y)))
        return logits


class Puzzle(Objective):
    """Cross entropy of the arrangement of tiles of a picture.

    A part of each picture is cut into nine tiles with gaps between them, which the network
    describes one by one. For a jigsaw puzzle, the tiles are put into one of 72 orders, drawn anew
    each time, and the head tells which. For context prediction, the head tells for each of the
    eight outer tiles which neighbour of the central one it is.

    Parameters
    ----------
    name : {"jigsaw", "context"}
    network : RetrievalNetwork
    settings : TrainingSettings
        `size` is set.
    batch_size : int
        Pictures per batch.
    photos : Photos
    learns_statistics : bool
        See `Objective`.
    """

    learns_pooling = False

    def __init__(
        self,
        name: str,
        network: RetrievalNetwork,
        settings: TrainingSettings,
        batch_size: int,
        photos: Photos,
        *,
        learns_statistics: bool,
    ) -> None:
        assert settings.size is not None
        self.name = self.pretext = name
        self.network, self.photos = network, photos
        self.batch_size, self.learns_statistics = batch_size, learns_statistics
        self.device = next(network.parameters()).device
        self.layout = Layout.of(settings.size, network.backbone.sides)
        self.orders = orders()
        tiles, classes = (_TILES, len(self.orders)) if name == "jigsaw" else (2, len(NEIGHBORS))
        with seeded(settings.seed, torch.device("cpu")):
            head = PuzzleHead(network.dimension, tiles, classes)
        self.head: PuzzleHead = head.to(self.device)

    def signature(self) -> list[Any]:
        """Return what the puzzle depends on."""
        return [self.name, self.layout.cell, self.layout.tile]

    def steps(
        self, rng: np.random.Generator, describe: Describe
    ) -> tuple[int, Generator[Tensor, None, None]]:
        """Draw the order of the pictures and the part of each of them that is cut."""
        order = rng.permutation(len(self.photos.items))
        batches = np.array_split(order, math.ceil(len(order) / self.batch_size))
        views = draw_views([self.photos.sizes[n] for n in order], rng)

        def losses() -> Generator[Tensor, None, None]:
            with contextlib.closing(self.photos.views(batches, views)) as squares:
                for images in squares:
                    yield self._loss(images, rng)

        return len(batches), losses()

    def _loss(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        b = len(images)
        x = images.to(self.device).permute(0, 3, 1, 2).float() / 255
        tiles = cut(x, self.layout.draw(b, rng), self.layout.tile)
        tiles = without_shortcuts(tiles, rng.integers(3, size=tiles.shape[:2]))
        # Convolutions on CPUs are faster with the channels last in memory.
        x = tiles.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        y = self.network(self.network.backbone.normalize(x))
        y = y.view(b, _TILES, -1)
        if self.name == "jigsaw":
            drawn = rng.integers(len(self.orders), size=b)
            order = torch.from_numpy(self.orders[drawn]).to(self.device)
            arranged = y.gather(1, order[:, :, None].expand_as(y))
            target = torch.from_numpy(drawn).to(self.device)
        else:
            outer = y[:, list(NEIGHBORS)]
            centre = y[:, _CENTRE, None].expand_as(outer)
            arranged = torch.stack([centre, outer], dim=2).flatten(0, 1)
            target = torch.arange(len(NEIGHBORS), device=self.device).repeat(b)
        return functional.cross_entropy(self.head(arranged), target)
