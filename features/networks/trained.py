"""Storage of trained networks in one safetensors file that describes itself."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffusion.errors import DiffusionError

from .backbones import backbone
from .backbones.base import check_triple
from .pooling import POOLINGS, GeM
from .retrieval_network import RetrievalNetwork
from .weights import load_into, write_file

_KEY = "features"


def save_trained(path: str | os.PathLike[str], network: RetrievalNetwork) -> None:
    """Write a network with a named trunk and pooling, which appears only once it is complete.

    Parameters
    ----------
    path : path-like
        A name that ends in ".safetensors".
    network : RetrievalNetwork

    Raises
    ------
    DiffusionError
        If the pooling is not one of `POOLINGS`, or the file cannot be written.
    """
    if Path(path).suffix != ".safetensors":
        raise DiffusionError(f"{os.fspath(path)}: expected a name that ends in .safetensors")
    pooling = check_stored(network)
    trunk = network.backbone
    content = {
        "backbone": trunk.name,
        "pooling": pooling,
        "exponents": len(network.pool.p) if isinstance(network.pool, GeM) else 0,
        "whiten": None if network.whiten is None else network.whiten.out_features,
        "mean": list(trunk.mean),
        "std": list(trunk.std),
    }
    # The head is not needed to describe images.
    state = {
        name: value
        for name, value in network.state_dict().items()
        if not name.startswith(("backbone.classifier.", "backbone.fc."))
    }
    write_file(path, state, {_KEY: json.dumps(content, sort_keys=True)})


def check_stored(network: RetrievalNetwork) -> str:
    """Return the name of the pooling of a network; raise if the network cannot be stored."""
    names = [name for name, kind in POOLINGS.items() if type(network.pool) is kind]
    if not names:
        raise DiffusionError(f"pooling: expected one of {', '.join(POOLINGS)}")
    return names[0]


def load_trained(
    path: str | os.PathLike[str],
    state: Mapping[str, Tensor],
    meta: Mapping[str, Any],
    *,
    allow_download: bool = False,
) -> RetrievalNetwork:
    """Build the network that `save_trained` wrote from what `read_file` returns for it.

    With `allow_download`, a backbone "hf:NAME" that the file names is downloaded where it is not on
    this machine.

    Raises
    ------
    DiffusionError
        If the file was not written by `save_trained`.
    """
    source = os.fspath(path)
    try:
        content = json.loads(meta[_KEY])
        name, pooling, width = (content[key] for key in ("backbone", "pooling", "whiten"))
        mean, std = check_triple(content["mean"], "mean"), check_triple(content["std"], "std")
        if not isinstance(name, str) or pooling not in POOLINGS:
            raise ValueError(f"{name!r}, {pooling!r}")
        exponents = int(content["exponents"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DiffusionError(f"{source}: expected a trained network ({error!r})") from None
    with torch.device("meta"):
        trunk = backbone(name, head=False, mean=mean, std=std, allow_download=allow_download)
        pool = POOLINGS[pooling]() if pooling != "gem" else GeM(
            channels=None if exponents == 1 else exponents, learned=True
        )  # fmt: skip
        whiten = None if width is None else nn.Linear(trunk.channels, int(width))
        network = RetrievalNetwork(trunk, pool, whiten)
    load_into(network, state, source)
    return network.eval()
