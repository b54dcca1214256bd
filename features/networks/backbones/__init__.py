"""Convolutional trunks that load common checkpoints, and the LeNet of the demo."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import torch
from torch import nn

from diffusion.errors import DiffusionError
from diffusion.validation import check_integer

from ..weights import load_into, read_file
from .alexnet import AlexNet
from .base import IMAGENET_MEAN, IMAGENET_STD, Backbone, Sides, Stage, check_triple
from .lenet import LeNet
from .mobilenet import MobileNetV2
from .resnet import ResNet
from .vgg import VGG16

__all__ = [
    "BACKBONES",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "VGG16",
    "AlexNet",
    "Backbone",
    "LeNet",
    "MobileNetV2",
    "ResNet",
    "Sides",
    "Stage",
    "backbone",
]

_MAKERS: dict[str, Callable[..., Backbone]] = {
    "alexnet": AlexNet,
    "vgg16": VGG16,
    "resnet18": lambda classes: ResNet("resnet18", classes),
    "resnet50": lambda classes: ResNet("resnet50", classes),
    "resnet101": lambda classes: ResNet("resnet101", classes),
    "mobilenet_v2": MobileNetV2,
}
BACKBONES = tuple(_MAKERS)


def backbone(
    name: str,
    weights: str | os.PathLike[str] | None = None,
    *,
    head: bool = True,
    classes: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    seed: int = 0,
    allow_download: bool = True,
) -> Backbone:
    """Make a trunk, optionally with the weights of a file.

    Parameters
    ----------
    name : str
        "alexnet", "vgg16", "resnet18", "resnet50", "resnet101" or "mobilenet_v2";
        "torchvision:NAME" for a network of torchvision, "hf:DIRECTORY" or "hf:NAME" for a backbone
        of transformers, if these libraries are installed.
    weights : path-like, optional
        A file with a state dict that uses the names of torchvision, as
        `features.networks.weights.read_file` reads it. By default the weights are random, except
        for "hf:" models, which come with their own.
    head : bool, default True
        Whether to keep the fully connected layers. If not, the file may contain them or not.
    classes : int >= 1, optional
        Number of outputs of the classifier; by default that of the weights, or 1000 without.
    mean, std : three float, optional
        Mean and standard deviation of the images, instead of those of the network.
    seed : int >= 0, default 0
        Seed of random weights. The global random state of torch is not changed.
    allow_download : bool, default True
        Whether "hf:NAME" may be downloaded from the Hugging Face hub. Pass False where the name
        comes from a file that you do not trust; only local files are read then.

    Returns
    -------
    Backbone
        In evaluation mode, on the CPU, float32.

    Raises
    ------
    DiffusionError
        If the name is unknown, the file does not hold exactly the parameters of the network, or
        the library that the name refers to is not installed, or the network would have to be
        downloaded.

    Examples
    --------
    >>> trunk = backbone("resnet18", head=False)
    >>> trunk(trunk.normalize(torch.rand(1, 3, 64, 96))).shape
    torch.Size([1, 512, 2, 3])
    """
    if not isinstance(name, str):
        raise DiffusionError(f"name: expected a str, got {name!r}")
    seed = check_integer(seed, "seed", low=0)
    # All arguments are validated before a file is read.
    scale = {
        "mean": None if mean is None else check_triple(mean, "mean"),
        "std": None if std is None else check_triple(std, "std", positive=True),
    }
    source, colon, rest = name.partition(":")
    if colon and source in ("torchvision", "hf"):
        from . import external

        network = external.make(source, rest, weights, seed, allow_download)
    elif name in _MAKERS:
        network = _own(name, weights, head, classes, seed)
    else:
        expected = ", ".join([*map(repr, _MAKERS), "'torchvision:NAME'", "'hf:DIRECTORY-or-NAME'"])
        raise DiffusionError(f"name: expected one of {expected}, got {name!r}")
    for attribute, values in scale.items():
        if values is not None:
            setattr(network, attribute, values)
    return network.eval()


def _own(
    name: str,
    weights: str | os.PathLike[str] | None,
    head: bool,
    classes: int | None,
    seed: int,
) -> Backbone:
    maker = _MAKERS[name]
    if weights is None:
        return _random(maker, (1000 if classes is None else classes) if head else None, seed)
    state, _ = read_file(weights)
    with torch.device("meta"):
        whole, network = maker(1000), maker(None)
        # The last parameter is the bias of the classifier, with one number per class.
        *_, bias = names = tuple(whole.state_dict())
        if head:
            found = len(state[bias]) if bias in state and state[bias].ndim == 1 else 1000
            network = maker(max(1, found) if classes is None else classes)
    if not head:
        of_head = {key for key in names if key not in network.state_dict()}
        state = {key: value for key, value in state.items() if key not in of_head}
    load_into(network, state, os.fspath(weights))
    return network


def _random(maker: Callable[..., Backbone], classes: int | None, seed: int) -> Backbone:
    """Make a trunk with random weights that keep the activations in scale (He, ICCV 2015)."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = maker(classes)
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)
                nn.init.zeros_(module.bias)
    return network
