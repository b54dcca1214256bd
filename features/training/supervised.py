"""Training on photos of which it is known, or mined, which ones match."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Generator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ..networks.retrieval_network import RetrievalNetwork
from ..settings import TrainingSettings
from .contrastive import seeded
from .losses import NormalizedSoftmax, triplet_loss, tuple_contrastive_loss
from .objective import Describe, Objective, lit
from .photos import Photos
from .samples import Supervise, Supervision, View, draw_tuples, draw_views, mine


class Supervised(Objective):
    """The softmax, contrastive or triplet loss of photos.

    Parameters
    ----------
    network : RetrievalNetwork
    settings : TrainingSettings
        `margin` is set where the loss has one.
    batch_size : int
        Photos per batch.
    photos : Photos
    known : Supervise
        Says which photos match.
    """

    def __init__(
        self,
        network: RetrievalNetwork,
        settings: TrainingSettings,
        batch_size: int,
        photos: Photos,
        known: Supervise,
    ) -> None:
        self.network, self.settings, self.batch_size = network, settings, batch_size
        self.photos = photos
        self.known: Supervision = known(photos.files)
        self.device = next(network.parameters()).device
        self.name = f"{settings.loss} loss"
        self.head: NormalizedSoftmax | None = None
        if settings.loss == "softmax":
            with seeded(settings.seed, torch.device("cpu")):
                head = NormalizedSoftmax(network.dimension, self.known.classes)
            self.head = head.to(self.device)

    def signature(self) -> bool:
        """Return whether nothing is known of which photos match."""
        return self.known.labels is None

    def prepare(self, describe: Describe) -> None:
        """Initialise the weights of the classifier with the mean descriptor of each class.

        Random weights would first change the descriptors to fit themselves. Source: Qi, Brown,
        Lowe. Low-Shot Learning with Imprinted Weights. CVPR 2018.
        """
        if self.head is None:
            return
        assert self.known.labels is not None
        X = torch.from_numpy(describe()).to(self.device)
        labels = torch.from_numpy(self.known.labels).to(self.device)
        with torch.no_grad():
            self.head.weight.zero_().index_add_(0, labels, X)
            self.head.weight.copy_(functional.normalize(self.head.weight))

    def steps(
        self, rng: np.random.Generator, describe: Describe
    ) -> tuple[int, Generator[Tensor, None, None]]:
        """Draw the photos or the tuples of an epoch, and a view of each photo in them."""
        settings = self.settings
        if self.head is not None:
            order = rng.permutation(len(self.photos.items))
            batches = np.array_split(order, math.ceil(len(order) / self.batch_size))
        else:
            mined = mine(self.known, describe(), settings.negatives, settings.neighbors)
            tuples = draw_tuples(mined, settings.anchors, settings.negatives, rng)
            count = max(1, self.batch_size // tuples.shape[1])
            parts = np.array_split(tuples, math.ceil(len(tuples) / count))
            batches = [part.reshape(-1) for part in parts]
        views = draw_views([self.photos.sizes[n] for batch in batches for n in batch], rng)
        return len(batches), self._losses(batches, views)

    def _losses(
        self, batches: Sequence[NDArray[np.int64]], views: Sequence[View]
    ) -> Generator[Tensor, None, None]:
        seen = 0
        with contextlib.closing(self.photos.views(batches, views)) as squares:
            for batch, images in zip(batches, squares, strict=True):
                yield self._loss(batch, images, views[seen : seen + len(batch)])
                seen += len(batch)

    def _loss(self, batch: NDArray[np.int64], images: Tensor, views: Sequence[View]) -> Tensor:
        x = lit(images, views, self.device)
        y = self.network(self.network.backbone.normalize(x))
        if self.head is not None:
            assert self.known.labels is not None
            labels = torch.from_numpy(self.known.labels[batch]).to(self.device)
            loss: Tensor = self.head(y, labels)
            return loss
        y = y.view(-1, 2 + self.settings.negatives, y.shape[1])
        assert self.settings.margin is not None
        compare = triplet_loss if self.settings.loss == "triplet" else tuple_contrastive_loss
        return compare(y[:, 0], y[:, 1], y[:, 2:], margin=self.settings.margin)
