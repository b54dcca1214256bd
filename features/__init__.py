"""Photos in, descriptors, trained networks and objects out.

Importing this package is cheap: torch is loaded when a name that needs it is first used. The
settings need neither torch nor Pillow.

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
    from .description.retrieval_checkpoint import load_retrieval
    from .description.whitening import Whitening, learn_pca, learn_supervised, load_whitening
    from .inspection.activations import top_activations
    from .inspection.folder import inspect_folder
    from .inspection.occlusion import occlusion
    from .inspection.receptive_field import receptive_field
    from .networks.backbones import LeNet, backbone
    from .networks.frame import FramedTrunk
    from .networks.retrieval_network import MULTI_SCALE, RetrievalNetwork
    from .objects.discovery import ObjectDiscovery
    from .objects.egm import EGM
    from .objects.folder import discover_folder
    from .objects.maps import feature_saliency
    from .objects.opened import Objects, open_objects
    from .settings import (
        DiscoverySettings,
        EGMSettings,
        ImageSettings,
        NetworkSettings,
        RunSettings,
        TrainingSettings,
    )
    from .training.contrastive import train_contrastive
    from .training.folder import train_folder
    from .training.losses import contrastive_loss
    from .training.mining import mine_manifold

__all__ = [
    "EGM",
    "MULTI_SCALE",
    "Descriptors",
    "DiscoverySettings",
    "EGMSettings",
    "FramedTrunk",
    "ImageSettings",
    "LeNet",
    "NetworkSettings",
    "ObjectDiscovery",
    "Objects",
    "RetrievalNetwork",
    "RunSettings",
    "Scenes",
    "TrainingSettings",
    "Whitening",
    "backbone",
    "contrastive_loss",
    "describe",
    "discover_folder",
    "extract_folder",
    "feature_saliency",
    "inspect_folder",
    "learn_pca",
    "learn_supervised",
    "load_retrieval",
    "load_whitening",
    "mine_manifold",
    "occlusion",
    "open_descriptors",
    "open_objects",
    "receptive_field",
    "top_activations",
    "train_contrastive",
    "train_folder",
]

_HOMES = {
    "EGM": "objects.egm",
    "MULTI_SCALE": "networks.retrieval_network",
    "Descriptors": "description.descriptors",
    "DiscoverySettings": "settings",
    "EGMSettings": "settings",
    "FramedTrunk": "networks.frame",
    "ImageSettings": "settings",
    "LeNet": "networks.backbones",
    "NetworkSettings": "settings",
    "ObjectDiscovery": "objects.discovery",
    "Objects": "objects.opened",
    "RetrievalNetwork": "networks.retrieval_network",
    "RunSettings": "settings",
    "Scenes": "datasets.scenes",
    "TrainingSettings": "settings",
    "Whitening": "description.whitening",
    "backbone": "networks.backbones",
    "contrastive_loss": "training.losses",
    "describe": "description.describe",
    "discover_folder": "objects.folder",
    "extract_folder": "description.extraction",
    "feature_saliency": "objects.maps",
    "inspect_folder": "inspection.folder",
    "learn_pca": "description.whitening",
    "learn_supervised": "description.whitening",
    "load_retrieval": "description.retrieval_checkpoint",
    "load_whitening": "description.whitening",
    "mine_manifold": "training.mining",
    "occlusion": "inspection.occlusion",
    "open_descriptors": "description.descriptors",
    "open_objects": "objects.opened",
    "receptive_field": "inspection.receptive_field",
    "top_activations": "inspection.activations",
    "train_contrastive": "training.contrastive",
    "train_folder": "training.folder",
}


# Top-level modules that `pip install 'diffusion-rerank[features]'` brings.
EXTRA = frozenset({"PIL", "jinja2", "matplotlib", "safetensors", "torch"})


def install_hint(error: ModuleNotFoundError) -> str:
    """Return how to install the library that an import did not find."""
    library = (error.name or "").partition(".")[0]
    return (
        f"{library} is not installed; features needs it: pip install 'diffusion-rerank[features]'"
    )


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in EXTRA:
            raise
        raise ModuleNotFoundError(install_hint(error), name=error.name) from error


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
