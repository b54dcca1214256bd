"""What a training minimises: the batches of an epoch and the loss of each of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .samples import View

# Describes the photos of the training with the network as it is now.
Describe: TypeAlias = Callable[[], NDArray[np.float32]]


class Objective(ABC):
    """What a `Trainer` minimises.

    Attributes
    ----------
    name : str
        Named in the title of the curve.
    pretext : str or None
        Name of the pretext, if it is one.
    head : torch.nn.Module or None
        Parameters that are trained with the network and are not part of what is kept.
    learns_pooling : bool
        Whether the exponent of GeM is trained too.
    learns_statistics : bool
        Whether the statistics of batch normalisation are those of the photos that are learned
        from, and not those that came with the weights.
    """

    name: str
    pretext: str | None = None
    head: nn.Module | None = None
    learns_pooling: bool = True
    learns_statistics: bool = False

    @abstractmethod
    def signature(self) -> Any:
        """Return as JSON values what tells this objective from others with the same settings."""

    def prepare(self, describe: Describe) -> None:  # noqa: B027, most have nothing to prepare
        """Prepare the head before the first epoch."""

    @abstractmethod
    def steps(
        self, rng: np.random.Generator, describe: Describe
    ) -> tuple[int, Generator[Tensor, None, None]]:
        """Return the number of batches of an epoch, and a generator of the loss of each.

        Each loss is computed when it is asked for, with the parameters as they are then.
        """


def lit(images: Tensor, views: Sequence[View], device: torch.device) -> Tensor:
    """Return images (b, s, s, 3), uint8, in the light of their views: (b, 3, s, s) in [0, 1]."""
    gains, offsets = (
        torch.tensor([getattr(view, name) for view in views], device=device)
        for name in ("gain", "offset")
    )
    x = images.to(device).permute(0, 3, 1, 2).float() / 255
    return (x * gains.view(-1, 1, 1, 1) + offsets.view(-1, 1, 1, 1)).clamp(0, 1)
