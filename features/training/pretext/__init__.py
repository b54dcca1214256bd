"""Learning without labels from the pictures themselves: jigsaw puzzles, context and tracks."""

from __future__ import annotations

from ...networks.retrieval_network import RetrievalNetwork
from ...settings import TrainingSettings
from ..objective import Objective
from ..photos import Photos
from .puzzles import Puzzle
from .tracks import Tracks


def make_pretext(
    name: str,
    network: RetrievalNetwork,
    settings: TrainingSettings,
    batch_size: int,
    photos: Photos,
    *,
    random: bool,
) -> Objective:
    """Return the objective of one of `features.settings.PRETEXTS`.

    Parameters
    ----------
    name : {"jigsaw", "context", "tracks"}
    network : RetrievalNetwork
    settings : TrainingSettings
        `size` is set.
    batch_size : int
    photos : Photos
    random : bool
        Whether the weights of the network are random. The statistics of its batch normalisation
        are then taken from the photos.

    Raises
    ------
    DiffusionError
        If there is nothing to learn from.
    """
    if name == "tracks":
        return Tracks(network, settings, batch_size, photos, learns_statistics=random)
    return Puzzle(name, network, settings, batch_size, photos, learns_statistics=random)
