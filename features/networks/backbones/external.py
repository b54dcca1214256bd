"""Trunks of torchvision and transformers, if these libraries are installed."""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from diffusion.errors import DiffusionError

from ..weights import load_into, read_file
from .base import Backbone, Stage, check_triple

# Side of the image that is used to find the channels and strides of the stages.
_PROBE = 224
# Files that hold the weights of a model of the hub, of which older ones have the second.
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
# Seconds to wait for an answer of the hub.
_PATIENCE = 10.0
# Children of torchvision networks after which there are vectors instead of maps.
_ENDS = ("avgpool", "classifier", "fc", "head", "heads", "dropout", "flatten", "permute")


def make(
    source: str,
    name: str,
    weights: str | os.PathLike[str] | None,
    seed: int,
    allow_download: bool,
) -> Backbone:
    """Make the trunk "torchvision:NAME" or "hf:NAME"; see `features.backbone`."""
    if not name:
        raise DiffusionError(f"name: expected the name of a network after '{source}:'")
    if source == "torchvision":
        return _torchvision(name, weights, seed)
    if weights is not None:
        raise DiffusionError("weights: expected None, since a backbone of transformers has its own")
    return _hf(name, allow_download)


class _External(Backbone):
    """A trunk that runs modules of another library, with stages found from one test image."""

    def __init__(self, name: str, run: nn.Module, stages: dict[str, Stage]) -> None:
        super().__init__()
        self.name = name
        self.run = run
        self.stages = stages
        self.last = list(stages)[-1]

    def _head_steps(self) -> Iterable[tuple[str | None, nn.Module]]:
        return ()


class _Children(_External):
    """The children of a torchvision network, run in sequence."""

    run: nn.Sequential

    def _steps(self) -> Iterable[tuple[str | None, nn.Module]]:
        return ((name if name in self.stages else None, m) for name, m in self.run.named_children())


class _Hub(_External):
    """A backbone of transformers, which returns the maps of all stages at once."""

    def _maps(self, images: Tensor, wanted: set[str]) -> dict[str, Tensor]:
        found = self.run(pixel_values=images).feature_maps
        return {name: m for name, m in zip(self.stages, found, strict=True) if name in wanted}


def _torchvision(name: str, weights: str | os.PathLike[str] | None, seed: int) -> Backbone:
    models = _need("torchvision.models", "torchvision")
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            network = models.get_model(name, weights=None)
    except (ValueError, TypeError) as error:
        raise DiffusionError(f"name: torchvision has no network {name!r} ({error})") from None
    if weights is not None:
        load_into(network, read_file(weights)[0], os.fspath(weights))
    # Some networks keep their trunk in `features`, the others among their own children.
    inside = network.features if hasattr(network, "features") else network
    children = OrderedDict[str, nn.Module]()
    for child, module in inside.named_children():
        if child in _ENDS:
            break
        children[child] = module
    trunk = nn.Sequential(children).eval()

    def probe(images: Tensor) -> dict[str, Tensor]:
        maps = {}
        for child, module in trunk.named_children():
            images = maps[child] = module(images)
        return maps

    return _Children(f"torchvision:{name}", trunk, _stages(name, probe))


def _hf(name: str, allow_download: bool) -> Backbone:
    transformers = _need("transformers", "transformers")
    folder = os.path.isdir(name)
    to_download = allow_download and not folder and _is_to_download(name)
    # A folder may name weights of timm, which come from the hub.
    with nullcontext() if to_download or (allow_download and folder) else _offline():
        return _of_transformers(transformers, name, allow_download, to_download)


def _of_transformers(
    transformers: Any, name: str, allow_download: bool, to_download: bool
) -> Backbone:
    # No model brings code of its own, and none that is here asks the hub for anything.
    local = {"local_files_only": not to_download, "trust_remote_code": False}
    try:
        config = transformers.AutoConfig.from_pretrained(name, **local)
        if not allow_download and str(getattr(config, "model_type", "")).startswith("timm"):
            raise OSError("timm would download its weights")
        names = list(config.stage_names)
        # All stages except the stem, for which many networks give no channels. Loaded by the
        # class itself, since AutoBackbone.from_pretrained asks the hub even for a local folder.
        with torch.device("meta"):
            kind = type(transformers.AutoBackbone.from_config(config))
        with _without_warnings():
            model, loaded = kind.from_pretrained(
                name,
                out_features=names[1:],
                local_files_only=local["local_files_only"],
                output_loading_info=True,
            )
        model.eval()
        if loaded["missing_keys"]:
            raise ValueError(f"no weights of {min(loaded['missing_keys'])}")
    except (OSError, ValueError, AttributeError, KeyError) as error:
        if isinstance(error, OSError) and not (allow_download or os.path.isdir(name)):
            raise DiffusionError(
                f"name: expected hf:{name} on this machine: a file names it, and nothing is "
                "downloaded at the word of a file; if you trust it, allow the download "
                "(--allow-download, allow_download=True) or run `hf download` first"
            ) from None
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise DiffusionError(
            f"name: {name!r} is not a backbone of transformers ({reason})"
        ) from None

    def probe(images: Tensor) -> dict[str, Tensor]:
        return dict(zip(names[1:], model(pixel_values=images).feature_maps, strict=True))

    network = _Hub(f"hf:{name}", model, _stages(name, probe))
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(name, **local)
        network.mean = check_triple(list(processor.image_mean), "mean")
        network.std = check_triple(list(processor.image_std), "std", positive=True)
    except (OSError, ValueError, AttributeError, TypeError, ImportError):
        pass  # without a description of its images, the statistics of ImageNet apply
    return network


def _is_to_download(name: str) -> bool:
    """Return whether the files of a model are not on this machine.

    Raises
    ------
    DiffusionError
        At once, if they are not and the hub cannot be reached. transformers would try for half a
        minute, and say that there is no such model.
    """
    hub = _need("huggingface_hub", "huggingface_hub")
    try:
        cached = {
            file: isinstance(hub.try_to_load_from_cache(name, file), str)
            for file in ("config.json", *_WEIGHTS)
        }
        if cached["config.json"] and any(cached[file] for file in _WEIGHTS):
            return False
        hub.get_hf_file_metadata(hub.hf_hub_url(name, "config.json"), timeout=_PATIENCE)
    except (hub.errors.HfHubHTTPError, hub.errors.HFValidationError):
        pass  # transformers says what is wrong with the name
    except Exception as error:  # of a client of HTTP that depends on the version
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DiffusionError(
            f"name: expected hf:{name} on this machine or a connection to the Hugging Face hub "
            f"({reason}); without one, run `hf download {name}` elsewhere, or name a network whose "
            "weights are in a file (--backbone NAME --weights FILE)"
        ) from None
    return True


@contextmanager
def _offline() -> Iterator[None]:
    """Keep the hub's client from asking for anything, be it only for what it reports of itself."""
    constants = _need("huggingface_hub.constants", "huggingface_hub")
    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Leave out what transformers logs of weights that a backbone does not need."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _need(module: str, package: str) -> Any:
    try:
        return import_module(module)
    except ImportError:
        raise DiffusionError(
            f"name: expected {package} to be installed (pip install {package})"
        ) from None


def _stages(name: str, probe: Callable[[Tensor], dict[str, Tensor]]) -> dict[str, Stage]:
    """Return the stages of a trunk, found from the shapes of its maps of a black image."""
    try:
        with torch.no_grad():
            maps = probe(torch.zeros(1, 3, _PROBE, _PROBE))
        stages = {
            stage: Stage(found.shape[1], round(_PROBE / found.shape[2]))
            for stage, found in maps.items()
            if found.ndim == 4
        }
    except (RuntimeError, TypeError, AttributeError, IndexError) as error:
        reason = str(error).splitlines()[0]
        raise DiffusionError(f"name: {name!r} gives no feature maps ({reason})") from None
    if len(stages) < len(maps) or not stages:
        raise DiffusionError(f"name: {name!r} gives no feature maps of shape (b, c, h, w)")
    return stages
