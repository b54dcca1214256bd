"""How images become descriptors: written down, so that a query is described as the gallery was."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffusion.errors import DiffusionError
from diffusion.storage import as_path
from diffusion.validation import check_choice, check_integer

from ..images.reading import fitted_size, quiet, read_image, read_size
from ..networks.backbones import backbone as make_backbone
from ..networks.backbones.base import Triple, check_triple
from ..networks.fusing import fused
from ..networks.pooling import REGIONS
from ..networks.retrieval_checkpoint import is_retrieval, load_retrieval
from ..networks.retrieval_network import RetrievalNetwork, check_scales
from ..networks.trained import load_trained
from ..networks.weights import read_file
from .whitening import Whitening

# Longest side of an image; published figures on landmarks have 1024.
DEFAULT_SIZE = 512


@dataclass(frozen=True)
class Recipe:
    """What a descriptor depends on, but for the image.

    Attributes
    ----------
    backbone : str or None
        As `features.backbone` takes it; None where the weights' file says it.
    weights : str or None
        An absolute path.
    weights_sha256 : str or None
    pooling : str or None
        None where the weights' file says it.
    size : int
        Longest side of the images.
    square : bool
        Images are squashed to a square of that side, in place of keeping their aspect ratio.
    scales : tuple of float
    regions : {"rmac", "grid"} or None
    mean, std : tuple of three float, or None
        Of the images, by channel; None where they are the network's own.
    """

    backbone: str | None = None
    weights: str | None = None
    weights_sha256: str | None = None
    pooling: str | None = None
    size: int = DEFAULT_SIZE
    square: bool = False
    scales: tuple[float, ...] = (1.0,)
    regions: str | None = None
    mean: Triple | None = None
    std: Triple | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        fields = asdict(self)
        return {name: list(v) if isinstance(v, tuple) else v for name, v in fields.items()}

    @classmethod
    def from_dict(cls, fields: Any, source: str) -> Recipe:
        """Return the recipe that `as_dict` wrote down; `source` is what the error calls it."""
        try:
            given = {"mean": None, "std": None, **fields}  # which early ones do not have
            texts = ("backbone", "weights", "weights_sha256", "pooling", "regions")
            if set(given) != set(cls.__dataclass_fields__) or not all(
                given[name] is None or isinstance(given[name], str) for name in texts
            ):
                raise TypeError(sorted(given))
            statistics = check_statistics(given["mean"], given["std"])
            recipe = cls(**{**given, "scales": check_scales(given["scales"]), **statistics})
            check_integer(recipe.size, "size", low=1)
            return recipe
        except (TypeError, ValueError) as error:
            raise DiffusionError(f"{source}: altered, its recipe is none ({error})") from None


def make_recipe(
    backbone: str | None = None,
    weights: str | os.PathLike[str] | None = None,
    *,
    pooling: str | None = None,
    size: int = DEFAULT_SIZE,
    square: bool = False,
    scales: Any = (1.0,),
    regions: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Recipe:
    """Check what a recipe is made of, and read the weights' checksum.

    Raises
    ------
    DiffusionError
        If an argument is not as described, or the file cannot be read.
    """
    if backbone is None and weights is None:
        raise DiffusionError("backbone: expected a network's name, or weights that say it")
    if weights is None and not str(backbone).startswith("hf:"):
        raise DiffusionError("weights: expected a file, random weights describe nothing")
    if regions is not None:
        check_choice(regions, "regions", tuple(REGIONS))
    return Recipe(
        backbone,
        None if weights is None else os.path.abspath(as_path(weights, "weights")),
        None if weights is None else checksum(weights),
        pooling,
        check_integer(size, "size", low=1),
        bool(square),
        check_scales(scales),
        regions,
        **check_statistics(mean, std),
    )


def check_statistics(mean: Any, std: Any) -> dict[str, Triple | None]:
    """Return the `mean` and `std` of a recipe, checked."""
    return {
        "mean": None if mean is None else check_triple(mean, "mean"),
        "std": None if std is None else check_triple(std, "std", positive=True),
    }


def checksum(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DiffusionError(f"{path}: cannot be read ({error.strerror or error})") from None


def load_network(
    backbone: str | None = None,
    weights: str | os.PathLike[str] | None = None,
    pooling: str | None = None,
    *,
    seed: int = 0,
) -> RetrievalNetwork:
    """Make a network from a trunk's name and weights, or from a checkpoint that says both.

    Parameters
    ----------
    backbone : str, optional
        As `features.backbone` takes it. Without it, `weights` is a checkpoint of
        cnnimageretrieval-pytorch or of `features train`.
    weights : path-like, optional
    pooling : str, optional
        In place of the checkpoint's, without its whitening; of a trunk alone, "gem" by default.
    seed : int >= 0, default 0
        Of random weights, where there are no others.

    Returns
    -------
    RetrievalNetwork
        In evaluation mode, on the CPU.

    Raises
    ------
    DiffusionError
        If the file does not fit.
    """
    if backbone is not None:
        network = make_backbone(backbone, weights, head=_is_code(pooling), seed=seed)
        return RetrievalNetwork(network, "gem" if pooling is None else pooling).eval()
    if weights is None:
        raise DiffusionError("backbone: expected a network's name, or weights that say it")
    state, meta = read_file(weights)
    if is_retrieval(meta):
        whole = load_retrieval(weights)[0]
    elif "features" in meta:
        whole = load_trained(weights, state, meta)
    else:
        raise DiffusionError(
            f"{os.fspath(weights)}: expected a checkpoint that names its network; for the weights "
            "of a trunk alone, name the backbone"
        )
    return whole if pooling is None else RetrievalNetwork(whole.backbone, pooling).eval()


def _is_code(pooling: str | None) -> bool:
    """Whether a pooling is a fully connected layer, so that the head is needed."""
    return pooling is not None and pooling.startswith("fc")


class Describer:
    """A recipe ready to describe images.

    Parameters
    ----------
    recipe : Recipe
    network : RetrievalNetwork, optional
        In place of the one that the recipe names.
    whitening : Whitening, optional
        Applied to global and regional descriptors.
    device : str or torch.device, optional
        By default a GPU where there is one.

    Raises
    ------
    DiffusionError
        If the network cannot be loaded, or its weights are others than when the recipe was made.
    """

    def __init__(
        self,
        recipe: Recipe,
        network: RetrievalNetwork | None = None,
        whitening: Whitening | None = None,
        device: str | torch.device | None = None,
    ) -> None:
        self.recipe = recipe
        self.device = choose_device(device)
        if network is None:
            if recipe.weights is not None and checksum(recipe.weights) != recipe.weights_sha256:
                raise DiffusionError(
                    f"{recipe.weights}: expected the weights that made the descriptors, these are "
                    "others"
                )
            network = fused(load_network(recipe.backbone, recipe.weights, recipe.pooling))
        self.network = network.to(self.device).eval()
        trunk = self.network.backbone
        trunk.mean, trunk.std = recipe.mean or trunk.mean, recipe.std or trunk.std
        self.whitening = whitening
        if whitening is not None and len(whitening.mean) != network.dimension:
            raise DiffusionError(
                f"whitening: expected one of descriptors of dimension {network.dimension}, got "
                f"{len(whitening.mean)}"
            )

    @property
    def dimension(self) -> int:
        """Length of a descriptor."""
        return self.network.dimension if self.whitening is None else self.whitening.dimension

    def fitted(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the height and width that an image of a height and width is resized to."""
        sides = self.network.backbone.sides
        return fitted_size(size, self.recipe.size, sides, square=self.recipe.square)

    @torch.inference_mode()
    def raw(self, images: Tensor) -> tuple[NDArray[np.float32], Any, Any]:
        """Describe a batch, before any whitening.

        Parameters
        ----------
        images : Tensor, shape (b, h, w, 3), uint8
            As `read_image` decodes them.

        Returns
        -------
        descriptors : ndarray, shape (b, d), float32
        regional : ndarray, shape (b, r, d), float32, or None
        boxes : ndarray, shape (r, 4), float32, or None
            Each region as (top, left, bottom, right) in [0, 1].
        """
        # The channels stay last in memory, which is how they were decoded and fast on CPUs.
        ready = self.network.backbone.normalize(images.to(self.device).permute(0, 3, 1, 2))
        # A GPU's fastest convolution need not be one that repeats itself to the bit.
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
            descriptors = self.network.describe(ready, self.recipe.scales)
            if self.recipe.regions is None:
                return descriptors.float().cpu().numpy(), None, None
            regional, boxes = self.network.describe_regions(
                ready, self.recipe.regions, self.recipe.scales
            )
        return (
            descriptors.float().cpu().numpy(),
            regional.float().cpu().numpy(),
            boxes.float().cpu().numpy(),
        )

    def describe_file(self, path: str | os.PathLike[str]) -> NDArray[np.float32]:
        """Describe an image file, whitened: shape (d,), float32.

        Raises
        ------
        UnreadableImageError
            If it is no image that can be read; it is named.
        """
        with quiet():
            image = read_image(path, self.fitted(read_size(path)))
        descriptor = self.raw(torch.from_numpy(image)[None])[0]
        return (descriptor if self.whitening is None else self.whitening.apply(descriptor))[0]


def choose_device(device: str | torch.device | None) -> torch.device:
    """Return the device asked for, by default a GPU where there is one."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise DiffusionError(
            f"device: expected one that is there, got {device!r} ({reason})"
        ) from None
    return chosen


def moved(recipe: Recipe, weights: str | os.PathLike[str]) -> Recipe:
    """Return a recipe whose weights lie elsewhere now."""
    return replace(recipe, weights=os.path.abspath(as_path(weights, "weights")))


def describer_of(
    fields: Mapping[str, Any],
    whitening: Whitening | None,
    source: str,
    *,
    weights: str | None = None,
    device: str | None = None,
) -> Describer:
    """Return what describes queries as a manifest's recipe says."""
    recipe = Recipe.from_dict(fields, source)
    if weights is not None:
        recipe = moved(recipe, weights)
    elif recipe.weights is not None and not Path(recipe.weights).is_file():
        raise DiffusionError(
            f"{recipe.weights}: the weights that made the descriptors are not there any more; say "
            "where they are now (--weights FILE)"
        )
    return Describer(recipe, whitening=whitening, device=device)
