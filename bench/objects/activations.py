"""Activations of a collection of pictures, and the objects discovered in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from features.networks.backbones.base import Backbone
from features.networks.frame import FramedTrunk, ImageActivations
from features.objects.discovery import ObjectDiscovery
from features.objects.nodes import ImageNodes, find_nodes
from features.settings import DiscoverySettings

from .scenes import Pictures

# The paper states no exponents of similarity; the cube is that of diffusion elsewhere.
PAPER = DiscoverySettings(
    nodes="regions", centrality="katz", beta=3.0, feature_exponent=2.0, region_exponent=3.0
)


@dataclass(frozen=True)
class Seen:
    """The activations of a collection.

    Attributes
    ----------
    name : str
    images : list of ImageActivations
        Their arrays are float16, which halves the memory; the loss is far below the differences
        between cells.
    boxes : list of ndarray, shape (m, 4)
        The true boxes of each image, in pixels.
    objects : list of ndarray, shape (m,), int64
        The number of the object in each box.
    """

    name: str
    images: list[ImageActivations]
    boxes: list[NDArray[np.float64]]
    objects: list[NDArray[np.int64]]

    def __getitem__(self, number: int) -> ImageActivations:
        """Return the activations of an image."""
        return _as(self.images[number], np.float32)

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[ImageActivations]:
        return (self[number] for number in range(len(self)))

    @property
    def labels(self) -> NDArray[np.int64]:
        """The first object of each image, -1 where there is none."""
        return np.array([next(iter(objects), -1) for objects in self.objects], np.int64)

    def in_cells(self, number: int) -> NDArray[np.float64]:
        """Return the true boxes (m, 4) of an image in cells of its last map."""
        return self.images[number].frame.to_cells(self.boxes[number])


def see(pictures: Pictures, network: Callable[[Tensor], ImageActivations]) -> Seen:
    """Compute the activations of pictures with a function of one image (1, 3, h, w), uint8."""
    found, boxes, objects = [], [], []
    images = tqdm(pictures.collection(), desc=pictures.name, total=pictures.n_images, unit="image")
    for picture in images:
        found.append(_as(network(as_tensor(picture.image)), np.float16))
        boxes.append(picture.boxes)
        objects.append(picture.objects)
    return Seen(pictures.name, found, boxes, objects)


def as_tensor(image: NDArray[np.uint8]) -> Tensor:
    """Return an image (h, w, 3) as (1, 3, h, w)."""
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]


def _as(activations: ImageActivations, kind: Any) -> ImageActivations:
    fine = None if activations.fine is None else activations.fine.astype(kind)
    return replace(activations, maps=activations.maps.astype(kind), fine=fine)


class Eye:
    """A network with mirrored surroundings, which takes one image (1, 3, h, w), uint8."""

    def __init__(self, network: Backbone) -> None:
        self.network = network.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.trunk = FramedTrunk(self.network)

    def __call__(self, image: Tensor) -> ImageActivations:
        """Return the activations of the image."""
        with torch.inference_mode():
            return self.trunk.activations(self.ready(image))[0]

    def ready(self, image: Tensor) -> Tensor:
        """Return the image as the network takes it."""
        return self.network.normalize(image).contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Discovered:
    """A collection, and discoveries fitted to it.

    Attributes
    ----------
    seen : Seen
    regions : list of ImageNodes
        The EGM regions of each image, which are the paper's nodes.
    paper : ObjectDiscovery
        With the paper's settings.
    default, katz, none : ObjectDiscovery
        With dense nodes and the degree as by default, Katz centrality, and g = 1.
    """

    seen: Seen
    regions: list[ImageNodes]
    paper: ObjectDiscovery
    default: ObjectDiscovery
    katz: ObjectDiscovery
    none: ObjectDiscovery


def discover(seen: Seen) -> Discovered:
    """Find the nodes of a collection, and fit the discovery of recurring objects to them."""
    regions, nodes = [], []
    for activations in tqdm(seen, desc=f"{seen.name}: nodes", unit="image"):
        regions.append(find_nodes(activations, PAPER))
        nodes.append(find_nodes(activations, DiscoverySettings()))
    dense = [
        ObjectDiscovery(DiscoverySettings(centrality=name)).fit_nodes(nodes)
        for name in ("degree", "katz", "none")
    ]
    return Discovered(seen, regions, ObjectDiscovery(PAPER).fit_nodes(regions), *dense)
