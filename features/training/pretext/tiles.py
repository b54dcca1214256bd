"""Tiles of pictures, without the shortcuts by which their places could be told.

A place is to be told from what the tiles show. Three other cues tell it more easily: lines that
continue from one tile to the next, light that is similar at their borders, and the chromatic
aberration of lenses, which shifts the colour channels against each other by an amount that depends
on the place. Sources: Doersch, Gupta, Efros. Unsupervised Visual Representation Learning by Context
Prediction. ICCV 2015. Noroozi, Favaro. Unsupervised Learning of Visual Representations by Solving
Jigsaw Puzzles. ECCV 2016.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffusion.errors import DiffusionError

from ...images.sizes import Sides

# Cells per side of the grid.
GRID = 3
# Least part of a cell that its tile leaves free, and pixels that it leaves free on each side.
_FREE = 1 / 8
_MARGIN = 1
# Mean and deviation of the values of a tile, about those of photos with values in [0, 1].
_MEAN, _STD = 0.5, 0.25


@dataclass(frozen=True)
class Layout:
    """A grid of 3 x 3 cells on a square, with one tile somewhere in each cell.

    Attributes
    ----------
    cell, tile : int
        Sides of a cell and of a tile in pixels. At least one pixel of the cell is free on each
        side of the tile, so that no two tiles touch.
    """

    cell: int
    tile: int

    @classmethod
    def of(cls, side: int, sides: Sides) -> Layout:
        """Return the layout of squares of a side, with the largest tiles that a network takes.

        Raises
        ------
        DiffusionError
            If the squares are too small for tiles.
        """
        cell = side // GRID
        longest = cell - max(2 * _MARGIN + 1, int(cell * _FREE))
        tile = (longest - sides.offset) // sides.step * sides.step + sides.offset
        if tile < sides.minimum:
            least = sides.minimum
            while least - max(2 * _MARGIN + 1, int(least * _FREE)) < sides.minimum:
                least += 1
            raise DiffusionError(
                f"size: expected at least {GRID * least} for {GRID} x {GRID} tiles of "
                f"{sides.minimum} pixels, got {side}"
            )
        return cls(cell, tile)

    def draw(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw the places of the tiles of squares.

        Returns
        -------
        ndarray, shape (count, 9, 2), int64
            Top and left of each tile in pixels, row by row of the grid.
        """
        corners = np.stack(np.divmod(np.arange(GRID**2), GRID), axis=1) * self.cell
        free = self.cell - self.tile
        shifts = rng.integers(_MARGIN, free - _MARGIN, (count, GRID**2, 2), endpoint=True)
        return corners + shifts


def cut(squares: Tensor, places: NDArray[np.int64], tile: int) -> Tensor:
    """Cut tiles out of squares (b, c, s, s): shape (b, t, c, tile, tile) for places (b, t, 2)."""
    return torch.stack(
        [
            torch.stack([x[:, top : top + tile, left : left + tile] for top, left in of_square])
            for x, of_square in zip(squares, places.tolist(), strict=True)
        ]
    )


def without_shortcuts(tiles: Tensor, channels: NDArray[np.int64]) -> Tensor:
    """Keep one channel of each tile, in place of all three, and normalise its light.

    One channel holds no trace of a shift between channels. With mean 0.5 and standard deviation
    0.25, all tiles are equally light and have equal contrast.

    Parameters
    ----------
    tiles : Tensor, shape (b, t, 3, s, s), floating point
    channels : ndarray, shape (b, t), int64
        The channel that is kept of each tile.

    Returns
    -------
    Tensor, shape (b, t, 3, s, s)
        Three equal channels.
    """
    b, t, c = tiles.shape[:3]
    kept = torch.from_numpy(channels).to(tiles.device)
    grey = tiles.flatten(0, 1)[torch.arange(b * t, device=tiles.device), kept.view(-1)]
    mean = grey.mean(dim=(1, 2), keepdim=True)
    # A tile of one colour has no contrast to normalise.
    deviation = grey.std(dim=(1, 2), keepdim=True, correction=0).clamp(min=1 / 255)
    light = _MEAN + _STD * (grey - mean) / deviation
    return light.view(b, t, 1, *tiles.shape[3:]).expand(-1, -1, c, -1, -1)
