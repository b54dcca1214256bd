"""Images in, descriptors out: the networks, their training and the descriptors they give.

Importing this package is cheap: torch is loaded when one of its names is first used.

>>> import features
>>> network = features.LeNet(image_size=8, dimension=16)
>>> features.describe(network, [[[0.5] * 8] * 8]).shape
(1, 16)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .datasets.scenes import Scenes
    from .description.describe import describe
    from .description.descriptors import Descriptors, open_descriptors
    from .description.extraction import extract_folder
    from .description.whitening import Whitening, learn_pca, learn_supervised, load_whitening
    from .networks.backbones import LeNet, backbone
    from .networks.frame import FramedTrunk
    from .networks.retrieval_checkpoint import load_retrieval
    from .networks.retrieval_network import MULTI_SCALE, RetrievalNetwork
    from .objects.discovery import ObjectDiscovery
    from .objects.egm import EGM
    from .objects.folder import discover_folder
    from .objects.maps import feature_saliency
    from .objects.opened import Objects, open_objects
    from .training.contrastive import train_contrastive
    from .training.folder import train_folder
    from .training.losses import contrastive_loss
    from .training.mining import mine_manifold

__all__ = [
    "EGM",
    "MULTI_SCALE",
    "Descriptors",
    "FramedTrunk",
    "LeNet",
    "ObjectDiscovery",
    "Objects",
    "RetrievalNetwork",
    "Scenes",
    "Whitening",
    "backbone",
    "contrastive_loss",
    "describe",
    "discover_folder",
    "extract_folder",
    "feature_saliency",
    "learn_pca",
    "learn_supervised",
    "load_retrieval",
    "load_whitening",
    "mine_manifold",
    "open_descriptors",
    "open_objects",
    "train_contrastive",
    "train_folder",
]

_HOMES = {
    "EGM": "objects.egm",
    "MULTI_SCALE": "networks.retrieval_network",
    "Descriptors": "description.descriptors",
    "FramedTrunk": "networks.frame",
    "LeNet": "networks.backbones",
    "ObjectDiscovery": "objects.discovery",
    "Objects": "objects.opened",
    "RetrievalNetwork": "networks.retrieval_network",
    "Scenes": "datasets.scenes",
    "Whitening": "description.whitening",
    "backbone": "networks.backbones",
    "contrastive_loss": "training.losses",
    "describe": "description.describe",
    "discover_folder": "objects.folder",
    "extract_folder": "description.extraction",
    "feature_saliency": "objects.maps",
    "learn_pca": "description.whitening",
    "learn_supervised": "description.whitening",
    "load_retrieval": "networks.retrieval_checkpoint",
    "load_whitening": "description.whitening",
    "mine_manifold": "training.mining",
    "open_descriptors": "description.descriptors",
    "open_objects": "objects.opened",
    "train_contrastive": "training.contrastive",
    "train_folder": "training.folder",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
