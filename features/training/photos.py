"""The photos of a training, which are described whole and learned from in parts."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Sequence
from itertools import compress

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffusion.errors import DiffusionError

from ..description.recipe import Describer
from ..description.scan import scan
from ..images.batches import Item, ahead, check_workers, decode, in_order, plan
from ..images.reading import UnreadableImageError, list_folder, read_image
from ..settings import RunSettings
from .samples import View


class Photos:
    """The readable photos of a folder, their descriptors, and views of them.

    Parameters
    ----------
    folder : path-like
    describer : Describer
        Describes whole photos; squares cut from photos have its size.
    run : RunSettings

    Raises
    ------
    DiffusionError
        If no photo can be read.
    """

    def __init__(
        self, folder: str | os.PathLike[str], describer: Describer, run: RunSettings
    ) -> None:
        self.folder, self.describer = os.fspath(folder), describer
        self.workers = check_workers(run.workers)
        found = scan(self.folder, list_folder(folder), describer, run)
        # Each photo is decoded once, at the smallest size, to find out whether it can be read.
        least = describer.network.backbone.sides.minimum

        def can_read(item: Item) -> bool:
            try:
                read_image(os.path.join(self.folder, item.file), (least, least))
            except UnreadableImageError:
                return False
            return True

        kept = list(in_order(can_read, found.items, self.workers))
        self.items = list(compress(found.items, kept))
        self.sizes = list(compress(found.sizes, kept))  # before any resizing
        if not self.items:
            raise DiffusionError(f"{self.folder}: expected images that can be read, none can")

    @property
    def files(self) -> list[str]:
        """Names of the photos, relative to the folder and sorted."""
        return [item.file for item in self.items]

    def describe(self, most: int | None = None) -> NDArray[np.float32]:
        """Describe every whole photo with the network as it is now.

        With `most`, about so many photos, evenly spaced in the order of their names.
        """
        items = self.items if most is None else self.items[:: max(1, len(self.items) // most)]
        X = np.empty((len(items), self.describer.dimension), np.float32)
        batches = plan(items, 32)
        with contextlib.closing(decode(self.folder, items, batches, self.workers)) as decoded:
            for part in decoded:
                for number, reason in part.failed.items():
                    raise DiffusionError(f"{items[number].file}: {reason}")
                assert part.images is not None
                X[list(part.batch.numbers)] = self.describer.raw(part.images)[0]
        return X

    def views(
        self, batches: Sequence[NDArray[np.int64]], views: Sequence[View]
    ) -> Generator[Tensor, None, None]:
        """Yield batches of squares (b, s, s, 3), uint8; `views` has one per photo, in turn."""
        coming, side = iter(views), self.describer.recipe.images.size
        tasks = [[(int(number), next(coming)) for number in batch] for batch in batches]

        def read(task: tuple[int, View]) -> NDArray[np.uint8]:
            number, view = task
            path = os.path.join(self.folder, self.items[number].file)
            return read_image(path, (side, side), view.box)

        with contextlib.closing(ahead(read, tasks, self.workers)) as decoded:
            for images in decoded:
                yield torch.from_numpy(np.stack(images))
