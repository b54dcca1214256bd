"""Reading of retrieval checkpoints in the format of cnnimageretrieval-pytorch.

Such a checkpoint is a dict with `meta` and `state_dict`. The trunk is the sequence `features.N` of
the children of the torchvision network without its head; `pool.p` is the exponent of GeM, and
`whiten` is a linear layer.

References
----------
Radenović, Tolias, Chum. Fine-tuning CNN Image Retrieval with No Human Annotation. TPAMI 2018.
https://github.com/filipradenovic/cnnimageretrieval-pytorch
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diffusion.errors import DiffusionError

from ..networks.backbones import BACKBONES, backbone
from ..networks.pooling import MAC, RMAC, GeM, SPoC
from ..networks.retrieval_network import RetrievalNetwork
from ..networks.weights import load_into, read_file
from ..settings import check_triple
from .whitening import Whitening

# The children of a ResNet without its head, in order.
_RESNET = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
_POOLINGS = ("mac", "spoc", "gem", "gemmp", "rmac")


def load_retrieval(
    path: str | os.PathLike[str],
) -> tuple[RetrievalNetwork, dict[str, Whitening]]:
    """Load a checkpoint of cnnimageretrieval-pytorch: trunk, pooling and whitening.

    Parameters
    ----------
    path : path-like
        A checkpoint of an AlexNet, VGG-16 or ResNet-18, 50 or 101, with pooling "mac", "spoc",
        "gem", "gemmp" or "rmac", and with a whitening of the whole descriptor or none.

    Returns
    -------
    network : RetrievalNetwork
        The network in evaluation mode, on the CPU, with the mean and standard deviation of the
        checkpoint.
    whitenings : dict of str to Whitening
        The whitenings in `meta["Lw"]`, which were learned after the training. Each name is that of
        the training set and "ss" (single scale) or "ms" (multiple scales), for example
        "retrieval-SfM-120k/ms". Often empty.

    Raises
    ------
    DiffusionError
        If the file is not such a checkpoint, or its network is not supported.
    """
    state, meta = read_file(path)
    source = os.fspath(path)
    architecture, pooling = (_named(meta.get(name)) for name in ("architecture", "pooling"))
    if architecture not in BACKBONES or architecture == "mobilenet_v2" or pooling not in _POOLINGS:
        raise DiffusionError(
            f"{source}: expected a retrieval checkpoint whose meta names a supported architecture "
            f"and pooling, got {architecture!r} and {pooling!r}"
        )
    for part in ("local_whitening", "regional", "whitening"):
        if not isinstance(meta.get(part, False), bool | int):
            raise DiffusionError(f"{source}: meta: {part}: expected True or False")
    for part in ("local_whitening", "regional"):
        if meta.get(part):
            raise DiffusionError(f"{source}: expected a checkpoint without {part}")
    with torch.device("meta"):
        trunk = backbone(architecture, head=False)
        channels = trunk.channels
        pools: dict[str, nn.Module] = {"mac": MAC(), "spoc": SPoC(), "rmac": RMAC()}
        pools |= {"gem": GeM(learned=True), "gemmp": GeM(channels=channels, learned=True)}
        whiten = nn.Linear(channels, _width(state, channels)) if meta.get("whitening") else None
        network = RetrievalNetwork(trunk, pools[pooling], whiten)
    load_into(network, {_rename(key, architecture): v for key, v in state.items()}, source)
    try:
        trunk.mean = check_triple(_plain(meta.get("mean", trunk.mean)), "mean")
        trunk.std = check_triple(_plain(meta.get("std", trunk.std)), "std", positive=True)
    except DiffusionError as error:
        raise DiffusionError(f"{source}: meta: {error}") from None
    return network.eval(), dict(_whitenings(meta.get("Lw"), source))


def is_retrieval(meta: Mapping[str, Any]) -> bool:
    """Return whether the meta of a checkpoint describes a retrieval network."""
    return "architecture" in meta and "pooling" in meta


def _named(value: Any) -> str:
    """Return a name in a file, or the type of what is there instead."""
    return value if isinstance(value, str) else type(value).__name__


def _width(state: Mapping[str, Tensor], channels: int) -> int:
    bias = state.get("whiten.bias")
    return len(bias) if bias is not None and bias.ndim == 1 and len(bias) else channels


def _rename(key: str, architecture: str) -> str:
    """Return the name of a parameter in a `RetrievalNetwork`, unchanged if it is unknown."""
    part, _, rest = key.partition(".")
    if part != "features":
        return key
    number, _, name = rest.partition(".")
    if not architecture.startswith("resnet"):
        return f"backbone.features.{rest}"
    known = number.isdecimal() and int(number) < len(_RESNET)
    return f"backbone.{_RESNET[int(number)]}.{name}" if known else key


def _plain(values: Any) -> Any:
    """Return the numbers of an array or a tensor as a list, and anything else unchanged."""
    if isinstance(values, (np.ndarray, Tensor)):
        return values.tolist()
    return values


def _whitenings(learned: Any, source: str) -> list[tuple[str, Whitening]]:
    found = []
    for name, kinds in (learned or {}).items() if isinstance(learned or {}, Mapping) else ():
        for kind in ("ss", "ms"):
            try:
                m, P = (np.asarray(kinds[kind][part], np.float64) for part in ("m", "P"))
                found.append((f"{name}/{kind}", Whitening(m.reshape(-1), P)))
            except (KeyError, TypeError, ValueError) as error:
                raise DiffusionError(
                    f"{source}: meta: Lw: expected whitenings ({error!r})"
                ) from None
    return found
