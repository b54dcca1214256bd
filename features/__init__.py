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
    from .backbones import LeNet
    from .extract import describe
    from .learn import contrastive_loss, train_contrastive

__all__ = ["LeNet", "contrastive_loss", "describe", "train_contrastive"]

_HOMES = {
    "LeNet": "backbones",
    "contrastive_loss": "learn",
    "describe": "extract",
    "train_contrastive": "learn",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
