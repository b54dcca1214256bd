"""Retrieval checkpoints in the layout of cnnimageretrieval-pytorch.

A dict of `meta` and `state_dict`. The trunk is the torchvision network's children in a row,
`features.N`, without its head; `pool.p` is GeM's exponent, `whiten` a linear layer.

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

from ..description.whitening import Whitening
from .backbones import BACKBONES, backbone
from .backbones.base import check_triple
from .pooling import MAC, RMAC, GeM, SPoC
from .retrieval_network import RetrievalNetwork
from .weights import load_into, read_file

# The first children of a ResNet, by their place in the row.
_RESNET = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
_POOLINGS = ("mac", "spoc", "gem", "gemmp", "rmac")


def load_retrieval(
    path: str | os.PathLike[str],
) -> tuple[RetrievalNetwork, dict[str, Whitening]]:
    """Load a checkpoint of cnnimageretrieval-pytorch: trunk, pooling, whitening.

    Parameters
    ----------
    path : path-like
        Of one of the architectures AlexNet, VGG-16, ResNet-18, 50, 101, with pooling "mac",
        "spoc", "gem", "gemmp" or "rmac", and a whitening over the whole descriptor or none.

    Returns
    -------
    network : RetrievalNetwork
        In evaluation mode, on the CPU, with the mean and standard deviation of the checkpoint.
    whitenings : dict of str to Whitening
        What was learned after the training, of `meta["Lw"]`: by the name of its training set and
        "ss" or "ms", for one scale or several: "retrieval-SfM-120k/ms". Often empty.

    Raises
    ------
    DiffusionError
        If the file is no such checkpoint, or its network is of another kind.
    """
    state, meta = read_file(path)
    source = os.fspath(path)
    architecture, pooling = meta.get("architecture"), meta.get("pooling")
    if architecture not in BACKBONES or architecture == "mobilenet_v2" or pooling not in _POOLINGS:
        raise DiffusionError(
            f"{source}: expected a retrieval checkpoint whose meta names an architecture and a "
            f"pooling that are known here, got {architecture!r} and {pooling!r}"
        )
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
    """Whether the meta of a checkpoint is that of a retrieval network."""
    return "architecture" in meta and "pooling" in meta


def _width(state: Mapping[str, Tensor], channels: int) -> int:
    bias = state.get("whiten.bias")
    return len(bias) if bias is not None and bias.ndim == 1 and len(bias) else channels


def _rename(key: str, architecture: str) -> str:
    """Return a parameter's name in a `RetrievalNetwork`; an unknown one stays, to be refused."""
    part, _, rest = key.partition(".")
    if part != "features":
        return key
    number, _, name = rest.partition(".")
    if not architecture.startswith("resnet"):
        return f"backbone.features.{rest}"
    known = number.isdecimal() and int(number) < len(_RESNET)
    return f"backbone.{_RESNET[int(number)]}.{name}" if known else key


def _plain(values: Any) -> Any:
    """Return numbers that may stand in an array or a tensor as a list."""
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
                raise DiffusionError(f"{source}: meta: Lw: no whitening ({error!r})") from None
    return found
