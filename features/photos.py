"""The photos that are learned from: which can be read, described whole, seen in parts."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from diffusion.errors import DiffusionError

from .images import UnreadableImageError, find_images, read_image, read_size
from .loading import Item, ahead, decode, in_order, plan
from .network import RetrievalNetwork
from .recipe import Describer, Recipe
from .samples import View


class Photos:
    """The photos of a folder that can be read, and how they are described and seen.

    Parameters
    ----------
    folder : path-like
    network : RetrievalNetwork
        Says which sides it takes.
    size : int
        Longest side of a whole photo, side of the square that is made of a part.
    workers : int
    progress : bool

    Raises
    ------
    DiffusionError
        If there is none.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        network: RetrievalNetwork,
        size: int,
        workers: int,
        progress: bool,
    ) -> None:
        self.folder, self.workers = os.fspath(folder), workers
        self.recipe = Recipe(size=size)
        sides = network.backbone.sides
        self.side = size
        self.items: list[Item] = []
        self.sizes: list[tuple[int, int]] = []  # before any resizing
        files = find_images(folder)

        def measure(file: str) -> tuple[Item, tuple[int, int]] | None:
            path = os.path.join(self.folder, file)
            try:
                size = read_size(path)
                # Decoded once, small, to know that it can be.
                read_image(path, (sides.minimum, sides.minimum))
                status = os.stat(path)
            except (UnreadableImageError, OSError):
                return None
            describer = Describer.fit_to(size, self.recipe, sides)
            return Item(file, status.st_size, status.st_mtime_ns, *describer), size

        with tqdm(total=len(files), desc="scan", unit="image", disable=not progress) as bar:
            for found in in_order(measure, files, workers):
                if found is not None:
                    self.items.append(found[0])
                    self.sizes.append(found[1])
                bar.update()
        if not self.items:
            raise DiffusionError(f"{self.folder}: expected images that can be read, none can")

    @property
    def files(self) -> list[str]:
        """Those that can be read, relative to the folder, sorted."""
        return [item.file for item in self.items]

    def describe(self, network: RetrievalNetwork, device: torch.device) -> NDArray[np.float32]:
        """Describe every photo whole, with the network as it is."""
        describer = Describer(self.recipe, network, device=device)
        X = np.empty((len(self.items), network.dimension), np.float32)
        batches = plan(self.items, 32)
        with contextlib.closing(decode(self.folder, self.items, batches, self.workers)) as decoded:
            for part in decoded:
                for number, reason in part.failed.items():
                    raise DiffusionError(f"{self.items[number].file}: {reason}")
                assert part.images is not None
                X[list(part.batch.numbers)] = describer.raw(part.images)[0]
        return X

    def views(
        self, batches: Sequence[NDArray[np.int64]], views: Sequence[View]
    ) -> Generator[Tensor, None, None]:
        """Yield batches of squares (b, s, s, 3), uint8; `views` are of all, one after the other."""
        coming = iter(views)
        tasks = [[(int(number), next(coming)) for number in batch] for batch in batches]

        def read(task: tuple[int, View]) -> NDArray[np.uint8]:
            number, view = task
            path = os.path.join(self.folder, self.items[number].file)
            return read_image(path, (self.side, self.side), view.box)

        with contextlib.closing(ahead(read, tasks, self.workers)) as decoded:
            for images in decoded:
                yield torch.from_numpy(np.stack(images))
