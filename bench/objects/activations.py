"""Activation maps of a collection of pictures, and the objects discovered in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from features.networks.backbones.base import Backbone
from features.networks.frame import FramedTrunk
from features.objects.discovery import ObjectDiscovery
from features.objects.maps import Map
from features.objects.regions import ImageRegions, find_regions
from features.settings import DiscoverySettings

from .scenes import Pictures

# The paper states no exponent of the graph; the cube is that of diffusion elsewhere.
PAPER: dict[str, Any] = {"beta": 3.0}


@dataclass(frozen=True)
class Seen:
    """The activation maps of a collection.

    Attributes
    ----------
    name : str
    maps : list of ndarray, shape (c, h, w), float16
        Half precision halves the memory; the loss is far below the differences between regions.
    boxes : list of ndarray, shape (m, 4)
        The true boxes of each image, in cells of the map.
    labels : ndarray, shape (n,), int64
        The number of the object of each image; -1 for none.
    """

    name: str
    maps: list[NDArray[np.float16]]
    boxes: list[NDArray[np.float64]]
    labels: NDArray[np.int64]

    def __getitem__(self, number: int) -> Map:
        """Return the activation map of an image."""
        return self.maps[number].astype(np.float32)

    def __len__(self) -> int:
        return len(self.maps)

    def __iter__(self) -> Iterator[Map]:
        return (self[number] for number in range(len(self)))


def see(pictures: Pictures, trunk: Callable[[Tensor], Tensor]) -> Seen:
    """Compute the maps of pictures with a trunk that takes images (1, 3, h, w), uint8."""
    maps, boxes, labels = [], [], []
    framed = getattr(trunk, "frame", None)
    images = tqdm(pictures.collection(), desc=pictures.name, total=pictures.n_images, unit="image")
    for picture in images:
        image = torch.from_numpy(np.ascontiguousarray(picture.image)).permute(2, 0, 1)[None]
        A = trunk(image)[0].numpy()
        frame = framed(picture.image.shape[:2], A.shape[1:]) if framed else None
        maps.append(A.astype(np.float16))
        boxes.append(frame.to_cells(picture.boxes) if frame else picture.boxes)
        labels.append(picture.label)
    return Seen(pictures.name, maps, boxes, np.array(labels, np.int64))


class Eye:
    """A network with mirrored surroundings, which takes images (b, 3, h, w), uint8."""

    def __init__(self, network: Backbone) -> None:
        self.network = network.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.trunk = FramedTrunk(self.network)
        self.frame = self.trunk.frame
        weight: Any = network.head(network.codes[-1])[-1].weight
        self.classifier: NDArray[np.float32] = weight.detach().numpy()

    def __call__(self, images: Tensor) -> Tensor:
        """Return the maps (b, c, h', w') of images (b, 3, h, w), uint8."""
        with torch.inference_mode():
            ready = self.network.normalize(images)
            maps: Tensor = self.trunk(ready.contiguous(memory_format=torch.channels_last))
        return maps.contiguous()


@dataclass(frozen=True)
class Discovered:
    """The regions of a collection, and discoveries fitted to them with two kinds of settings."""

    seen: Seen
    regions: list[ImageRegions]
    paper: ObjectDiscovery
    default: ObjectDiscovery


def discover(seen: Seen) -> Discovered:
    """Find the regions of a collection, and fit the discovery of recurring objects to them."""
    egm = ObjectDiscovery().feature_egm
    regions = [find_regions(A, egm) for A in tqdm(seen, desc=f"{seen.name}: regions", unit="image")]
    settings = DiscoverySettings(**PAPER), DiscoverySettings()
    paper, default = (ObjectDiscovery(s).fit_regions(regions) for s in settings)
    return Discovered(seen, regions, paper, default)
