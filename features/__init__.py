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
    from .backbones import LeNet, backbone
    from .collection import Descriptors, open_descriptors
    from .discovery import ObjectDiscovery
    from .egm import EGM
    from .extract import describe
    from .folder import extract_folder
    from .frame import FramedTrunk
    from .learn import train_contrastive
    from .losses import contrastive_loss
    from .maps import feature_saliency
    from .mining import mine_manifold
    from .network import MULTI_SCALE, RetrievalNetwork
    from .object_folder import discover_folder
    from .objects import Objects, open_objects
    from .retrieval import load_retrieval
    from .scenes import Scenes
    from .training import train_folder
    from .whitening import Whitening, learn_pca, learn_supervised, load_whitening

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
    "EGM": "egm",
    "MULTI_SCALE": "network",
    "Descriptors": "collection",
    "FramedTrunk": "frame",
    "LeNet": "backbones",
    "ObjectDiscovery": "discovery",
    "Objects": "objects",
    "RetrievalNetwork": "network",
    "Scenes": "scenes",
    "Whitening": "whitening",
    "backbone": "backbones",
    "contrastive_loss": "losses",
    "describe": "extract",
    "discover_folder": "object_folder",
    "extract_folder": "folder",
    "feature_saliency": "maps",
    "learn_pca": "whitening",
    "learn_supervised": "whitening",
    "load_retrieval": "retrieval",
    "load_whitening": "whitening",
    "mine_manifold": "mining",
    "open_descriptors": "collection",
    "open_objects": "objects",
    "train_contrastive": "learn",
    "train_folder": "training",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
