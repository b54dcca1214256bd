"""The statistics of batch normalisation, taken from photos."""

from __future__ import annotations

from torch import nn

from ..networks.retrieval_network import RetrievalNetwork
from .photos import Photos

# Photos that the statistics are taken from.
_PHOTOS = 128


def settle(network: RetrievalNetwork, photos: Photos) -> None:
    """Give batch normalisation the statistics of photos, and leave the network in evaluation mode.

    The network does not change if it has no batch normalisation.

    Parameters
    ----------
    network : RetrievalNetwork
        The network that `photos` is described with.
    photos : Photos
        Of these, 128 are described whole, evenly spaced in the order of their names.
    """
    layers = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [layer.momentum for layer in layers]
    network.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the mean over the batches
        layer.train()
    if layers:
        photos.describe(most=_PHOTOS)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    network.eval()
