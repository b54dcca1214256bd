"""Learning from tracks: the two ends of a track match, the ends of other tracks do not."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from diffusion.errors import DiffusionError
from diffusion.validation import check_real

from ...networks.retrieval_network import RetrievalNetwork
from ...settings import TrainingSettings
from ..objective import Describe, Objective, lit
from ..photos import Photos
from ..samples import View
from .clips import Box, Track, find_tracks

_TEMPERATURE = 0.1
# Largest change of the side and of the place of a box, as parts of its side.
_RESIZED, _MOVED = 0.2, 0.1
# Largest change of brightness and contrast.
_JITTER = 0.2


def matching_loss(first: Tensor, last: Tensor, *, temperature: float = _TEMPERATURE) -> Tensor:
    """Compute the softmax loss of matching pairs in a batch, in both directions.

    It is the mean over i of the cross entropy of <x_i, y_j> / T over j, and of <x_j, y_i> / T over
    j, where x_i and y_i match.

    Parameters
    ----------
    first, last : Tensor, shape (b, d), floating point
        Unit descriptors x and y, b >= 2.
    temperature : float > 0, default 0.1
        The temperature T.

    Returns
    -------
    Tensor, shape ()

    Raises
    ------
    DiffusionError
        If the shapes differ, or there are fewer than two pairs.

    References
    ----------
    Sohn. Improved Deep Metric Learning with Multi-class N-pair Loss Objective. NeurIPS 2016. Van
    den Oord, Li, Vinyals. Representation Learning with Contrastive Predictive Coding. 2018.
    """
    temperature = check_real(temperature, "temperature", low=0.0, strict=True)
    if first.ndim != 2 or first.shape != last.shape or len(first) < 2:
        raise DiffusionError(
            "first, last: expected equal shapes (b, d) with b >= 2, got "
            f"{tuple(first.shape)} and {tuple(last.shape)}"
        )
    cosines = first @ last.T / temperature
    target = torch.arange(len(first), device=first.device)
    both = functional.cross_entropy(cosines, target) + functional.cross_entropy(cosines.T, target)
    return both / 2


class Tracks(Objective):
    """The softmax loss of the two ends of tracks, each beside tracks of other clips.

    Wang and Gupta (ICCV 2015) use a loss of triplets; comparing each patch with all others of a
    batch learns faster.

    Parameters
    ----------
    network : RetrievalNetwork
    settings : TrainingSettings
    batch_size : int
        Patches per batch, two for each track.
    photos : Photos
        The frames of clips.
    learns_statistics : bool
        See `Objective`.

    Raises
    ------
    DiffusionError
        If there are no clips, or no tracks in them.
    """

    name = pretext = "tracks"
    learns_pooling = False

    def __init__(
        self,
        network: RetrievalNetwork,
        settings: TrainingSettings,
        batch_size: int,
        photos: Photos,
        *,
        learns_statistics: bool,
    ) -> None:
        self.network, self.photos, self.learns_statistics = network, photos, learns_statistics
        self.most = settings.anchors
        self.pairs = max(2, batch_size // 2)
        self.device = next(network.parameters()).device
        self.tracks = find_tracks(photos.folder, photos.files, photos.sizes, photos.workers)

    def signature(self) -> list[Any]:
        """Return the tracks."""
        return [self.name, [list(track) for track in self.tracks]]

    def steps(
        self, rng: np.random.Generator, describe: Describe
    ) -> tuple[int, Generator[Tensor, None, None]]:
        """Draw batches of tracks of different clips, and a view of each end."""
        batches = draw_batches(self.tracks, self.pairs, self.most, rng)
        ends, views = [], []
        for batch in batches:
            tracks = [self.tracks[number] for number in batch]
            ends.append(np.array([t.first for t in tracks] + [t.last for t in tracks]))
            views += [draw_view(box, rng) for box in [t.start for t in tracks]]
            views += [draw_view(box, rng) for box in [t.end for t in tracks]]

        def losses() -> Generator[Tensor, None, None]:
            seen = 0
            with contextlib.closing(self.photos.views(ends, views)) as patches:
                for images in patches:
                    x = lit(images, views[seen : seen + len(images)], self.device)
                    y = self.network(self.network.backbone.normalize(x))
                    yield matching_loss(*y.chunk(2))
                    seen += len(images)

        return len(batches), losses()


def draw_batches(
    tracks: list[Track], size: int, most: int, rng: np.random.Generator
) -> list[list[int]]:
    """Put tracks into batches in a random order, each with tracks of different clips only.

    Tracks of one clip often show the same thing, and would be false negatives of each other. In
    each round, one more track of every clip is taken. Batches have between two and `size` tracks;
    what is left over in a round, and tracks beyond `most`, are left out of the epoch.
    """
    of_clip: dict[int, list[int]] = {}
    for number in rng.permutation(len(tracks)).tolist():
        of_clip.setdefault(tracks[number].clip, []).append(number)
    batches: list[list[int]] = []
    while of_clip:
        clips = rng.permutation(list(of_clip)).tolist()
        drawn = [of_clip[clip].pop() for clip in clips]
        of_clip = {clip: left for clip, left in of_clip.items() if left}
        batches += [drawn[start : start + size] for start in range(0, len(drawn), size)]
    kept = [batch for batch in batches if len(batch) > 1]
    ends = np.cumsum([len(batch) for batch in kept])
    return [batch for batch, end in zip(kept, ends, strict=True) if end <= most] or kept[:1]


def draw_view(box: Box, rng: np.random.Generator) -> View:
    """Draw a view of the patch in a box: a box near it, within the frame, in another light."""
    top, left, bottom, right = box
    high = min(1.0, (bottom - top) * rng.uniform(1 - _RESIZED, 1 + _RESIZED))
    wide = min(1.0, (right - left) * rng.uniform(1 - _RESIZED, 1 + _RESIZED))
    down = (top + bottom - high) / 2 + rng.uniform(-_MOVED, _MOVED) * high
    across = (left + right - wide) / 2 + rng.uniform(-_MOVED, _MOVED) * wide
    down, across = np.clip(down, 0, 1 - high), np.clip(across, 0, 1 - wide)
    gain = 1 + rng.uniform(-_JITTER, _JITTER)
    offset = rng.uniform(-_JITTER, _JITTER) / 2
    part = (float(down), float(across), float(down + high), float(across + wide))
    return View(part, float(gain), float(offset))
