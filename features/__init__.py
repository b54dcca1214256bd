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
    from .extract import describe
    from .folder import extract_folder
    from .learn import train_contrastive
    from .losses import contrastive_loss
    from .network import MULTI_SCALE, RetrievalNetwork
    from .retrieval import load_retrieval
    from .whitening import Whitening, learn_pca, learn_supervised, load_whitening

__all__ = [
    "MULTI_SCALE",
    "Descriptors",
    "LeNet",
    "RetrievalNetwork",
    "Whitening",
    "backbone",
    "contrastive_loss",
    "describe",
    "extract_folder",
    "learn_pca",
    "learn_supervised",
    "load_retrieval",
    "load_whitening",
    "open_descriptors",
    "train_contrastive",
]

_HOMES = {
    "MULTI_SCALE": "network",
    "Descriptors": "collection",
    "LeNet": "backbones",
    "RetrievalNetwork": "network",
    "Whitening": "whitening",
    "backbone": "backbones",
    "contrastive_loss": "losses",
    "describe": "extract",
    "extract_folder": "folder",
    "learn_pca": "whitening",
    "learn_supervised": "whitening",
    "load_retrieval": "retrieval",
    "load_whitening": "whitening",
    "open_descriptors": "collection",
    "train_contrastive": "learn",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
