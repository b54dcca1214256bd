"""The recipe of descriptors, stored so that queries are described as the collection was."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffusion.errors import DiffusionError
from diffusion.storage import as_path, sha256_of

from ..images.boxes import Box, box_pixels
from ..images.reading import WHOLE, Source, quiet, read_image, read_size
from ..images.sizes import fitted_size
from ..networks.backbones import backbone as make_backbone
from ..networks.fusing import fused
from ..networks.parts import in_parts
from ..networks.retrieval_network import RetrievalNetwork
from ..networks.trained import load_trained
from ..networks.weights import read_file
from ..settings import ImageSettings, NetworkSettings
from .retrieval_checkpoint import is_retrieval, load_retrieval
from .whitening import Whitening

_GROUPS: dict[str, Any] = {"network": NetworkSettings, "images": ImageSettings}


@dataclass(frozen=True)
class Recipe:
    """Everything that a descriptor depends on, except the image.

    Attributes
    ----------
    network : NetworkSettings
        Its `weights` are an absolute path.
    images : ImageSettings
    weights_sha256 : str or None
        Checksum of the file of weights; None without one.
    """

    network: NetworkSettings
    images: ImageSettings
    weights_sha256: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Any, source: str) -> Recipe:
        """Return the recipe that `as_dict` stored; `source` names it in the error."""
        try:
            fields = dict(fields)
            sha256 = fields.pop("weights_sha256")
            if "network" not in fields:  # before there were groups
                fields = {
                    group: {n: fields[n] for n in kind.__dataclass_fields__ if n in fields}
                    for group, kind in _GROUPS.items()
                }
            groups = {name: kind(**fields.pop(name)) for name, kind in _GROUPS.items()}
            if fields or not isinstance(sha256, str | None):
                raise TypeError(sorted(fields))
            return cls(groups["network"], groups["images"], sha256)
        except (KeyError, TypeError, ValueError) as error:
            raise DiffusionError(f"{source}: altered, its recipe is invalid ({error})") from None


def make_recipe(network: NetworkSettings, images: ImageSettings) -> Recipe:
    """Return the recipe of descriptors, with the checksum of the weights.

    Raises
    ------
    DiffusionError
        If there are no weights, or their file cannot be read.
    """
    if network.weights is None:
        if not str(network.backbone).startswith("hf:"):
            raise DiffusionError("weights: expected a file; random weights describe nothing")
        return Recipe(network, images)
    path = os.path.abspath(as_path(network.weights, "weights"))
    return Recipe(replace(network, weights=path), images, sha256_of(path))


def load_network(
    settings: NetworkSettings, *, seed: int = 0, allow_download: bool = False
) -> RetrievalNetwork:
    """Make a network from the name and weights of a backbone, or from a checkpoint.

    Parameters
    ----------
    settings : NetworkSettings
        `pooling` replaces that of a checkpoint, whose whitening is then not applied. `mean` and
        `std` are left to the caller.
    seed : int >= 0, default 0
        Seed of random weights, used without a file of weights.
    allow_download : bool, default False
        Whether a network of the Hugging Face hub may be downloaded.

    Returns
    -------
    RetrievalNetwork
        In evaluation mode, on the CPU.

    Raises
    ------
    DiffusionError
        If the file of weights does not fit the network, or does not name one.
    """
    weights, pooling = settings.weights, settings.pooling
    if settings.backbone is not None:
        head = pooling is not None and pooling.startswith("fc")
        trunk = make_backbone(
            settings.backbone, weights, head=head, seed=seed, allow_download=allow_download
        )
        return RetrievalNetwork(trunk, "gem" if pooling is None else pooling).eval()
    assert weights is not None  # NetworkSettings has one of the two
    state, meta = read_file(weights)
    if is_retrieval(meta):
        whole = load_retrieval(weights)[0]
    elif "features" in meta:
        whole = load_trained(weights, state, meta, allow_download=allow_download)
    else:
        raise DiffusionError(
            f"{os.fspath(weights)}: expected a checkpoint that names its network; for weights "
            "of a backbone alone, name the backbone"
        )
    return whole if pooling is None else RetrievalNetwork(whole.backbone, pooling).eval()


class Describer:
    """A recipe with its network loaded, ready to describe images.

    Parameters
    ----------
    recipe : Recipe
    network : RetrievalNetwork, optional
        Network to use instead of the one that the recipe names.
    whitening : Whitening, optional
        Applied to global and regional descriptors.
    device : str or torch.device, optional
        By default a GPU if there is one.
    allow_download : bool, default False
        Whether a network of the Hugging Face hub that the recipe names may be downloaded.

    Raises
    ------
    DiffusionError
        If the network cannot be loaded, or its weights have changed since the recipe was made.
    """

    def __init__(
        self,
        recipe: Recipe,
        network: RetrievalNetwork | None = None,
        whitening: Whitening | None = None,
        device: str | torch.device | None = None,
        allow_download: bool = False,
    ) -> None:
        self.recipe = recipe
        self.device = choose_device(device)
        if network is None:
            weights = recipe.network.weights
            if weights is not None and sha256_of(weights) != recipe.weights_sha256:
                raise DiffusionError(
                    f"{os.fspath(weights)}: expected the weights that made the descriptors, "
                    "these are others"
                )
            network = fused(load_network(recipe.network, allow_download=allow_download))
        self.network = network.to(self.device).eval()
        trunk = self.network.backbone
        trunk.mean = recipe.network.mean or trunk.mean
        trunk.std = recipe.network.std or trunk.std
        self.whitening = whitening
        if whitening is not None and len(whitening.mean) != network.dimension:
            raise DiffusionError(
                f"whitening: expected one of descriptors of dimension {network.dimension}, got "
                f"{len(whitening.mean)}"
            )

    @property
    def dimension(self) -> int:
        """Dimension of the descriptors."""
        return self.network.dimension if self.whitening is None else self.whitening.dimension

    def fitted(self, size: tuple[float, float]) -> tuple[int, int]:
        """Return the height and width to which an image of a given size is resized."""
        sides = self.network.backbone.sides
        return fitted_size(size, self.recipe.images.size, sides, square=self.recipe.images.square)

    @torch.inference_mode()
    def raw(self, images: Tensor) -> tuple[NDArray[np.float32], Any, Any]:
        """Describe a batch of images, without whitening.

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
        # The channels stay last in memory, as they were decoded; this is fast on CPUs.
        ready = self.network.backbone.normalize(images.to(self.device).permute(0, 3, 1, 2))
        # The fastest convolution of a GPU may not be reproducible to the bit.
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
            network, of = self.network, self.recipe.images
            descriptors = in_parts(lambda part: network.describe(part, of.scales), ready)
            if of.regions is None:
                return descriptors.float().cpu().numpy(), None, None
            grid = of.regions

            def described(part: Tensor) -> tuple[Tensor, Tensor]:
                vectors, boxes = network.describe_regions(part, grid, of.scales)
                return vectors, boxes[None]

            # The boxes are the same for all parts.
            regional, boxes = in_parts(described, ready)
        boxes = boxes[0]
        return (
            descriptors.float().cpu().numpy(),
            regional.float().cpu().numpy(),
            boxes.float().cpu().numpy(),
        )

    def describe_file(self, source: Source, box: Box | None = None) -> NDArray[np.float32]:
        """Describe an image file, or a part of it, and apply the whitening.

        Parameters
        ----------
        source : path-like or bytes
            An image file, or its content.
        box : sequence of float, optional
            Left, top, right, bottom of the part, in pixels of the upright image. The pixels that
            the box touches are described as an image of their own, resized by the factor that the
            whole image would be. What lies outside the image is cut off.

        Returns
        -------
        ndarray, shape (d,), float32

        Raises
        ------
        UnreadableImageError
            If the file cannot be read as an image; the message names it.
        DiffusionError
            If the box is not finite, has no area or lies outside the image.

        Notes
        -----
        That queries are cut out before the network sees them is the protocol of the Oxford and
        Paris buildings: Radenović, Iscen, Tolias, Avrithis, Chum. Revisiting Oxford and Paris.
        CVPR 2018.
        """
        with quiet():
            height, width = read_size(source)
            fitted, part = self.fitted((height, width)), WHOLE
            if box is not None:
                left, top, right, bottom = box_pixels(box, (height, width))
                part = (top / height, left / width, bottom / height, right / width)
                # An object in a larger photo is as large as the collection shows it.
                factor = min(1.0, self.recipe.images.size / max(height, width))
                fitted = self.fitted((factor * (bottom - top), factor * (right - left)))
            image = read_image(source, fitted, part)
        descriptor = self.raw(torch.from_numpy(image)[None])[0]
        return (descriptor if self.whitening is None else self.whitening.apply(descriptor))[0]


def choose_device(device: str | torch.device | None) -> torch.device:
    """Return the requested device, by default a GPU if there is one."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise DiffusionError(
            f"device: expected an available one, got {device!r} ({reason})"
        ) from None
    return chosen


def moved(recipe: Recipe, weights: str | os.PathLike[str]) -> Recipe:
    """Return a recipe with another path of its weights."""
    path = os.path.abspath(as_path(weights, "weights"))
    return replace(recipe, network=replace(recipe.network, weights=path))


def describer_of(
    fields: Mapping[str, Any],
    whitening: Whitening | None,
    source: str,
    *,
    weights: str | os.PathLike[str] | None = None,
    device: str | None = None,
    allow_download: bool = False,
) -> Describer:
    """Return the Describer for queries of a collection, from the recipe in its manifest.

    Nothing is downloaded at the word of a manifest, unless `allow_download` says so.
    """
    recipe = Recipe.from_dict(fields, source)
    if weights is not None:
        recipe = moved(recipe, weights)
    elif recipe.network.weights is not None and not Path(recipe.network.weights).is_file():
        raise DiffusionError(
            f"{os.fspath(recipe.network.weights)}: the weights that made the descriptors are no "
            "longer here; give their path (--weights FILE)"
        )
    return Describer(recipe, None, whitening, device, allow_download)
