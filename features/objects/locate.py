"""Localisation of discovered objects in photos."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffusion.validation import check_choice

from ..description.recipe import Describer
from ..description.sweep import whitened
from ..images.boxes import Box, box_pixels
from ..images.reading import Source, quiet, read_image, read_size
from ..networks.frame import Frame, FramedTrunk
from .descriptors import sum_of_regions, weighted_mac
from .discovery import ObjectDiscovery
from .egm import Regions
from .maps import Map
from .page import Picture, make_picture

# The paper's sum, the same weighted by π, the paper's Δ, and MAC of the map times saliency.
DESCRIPTORS = ("egm", "egm-weighted", "egm-delta", "mac")


@dataclass(frozen=True, eq=False)
class Located:
    """The objects that a discovery locates in a photo.

    Attributes
    ----------
    saliency : ndarray, shape (h, w), float32
        Object saliency map.
    extent : ndarray, shape (4,), float64
        Left, top, right, bottom of the map in pixels of the upright photo; the outer cells may
        extend beyond it.
    boxes : ndarray, shape (k, 4), float32
        Left, top, right, bottom of the regions of the map in pixels of the upright photo, clipped
        to it, by descending weight.
    weights : ndarray, shape (k,), float32
        Weights π of the regions, which sum to 1.
    descriptor : ndarray, shape (c,), float32
        L2-normalised, not whitened.
    """

    saliency: Map
    extent: NDArray[np.float64]
    boxes: NDArray[np.float32]
    weights: NDArray[np.float32]
    descriptor: NDArray[np.float32]


class Mapper:
    """The backbone of a network, which gives the activation maps of images.

    Parameters
    ----------
    describer : Describer
        The output of its network's last convolution is used, before any pooling.
    """

    def __init__(self, describer: Describer) -> None:
        self.describer = describer
        self._trunk = describer.network.backbone
        self._framed = FramedTrunk(self._trunk)

    @torch.inference_mode()
    def activations(self, images: Tensor) -> Map:
        """Return the maps (b, c, h', w'), float32, of images (b, h, w, 3), uint8."""
        ready = self._trunk.normalize(images.to(self.describer.device).permute(0, 3, 1, 2))
        # The fastest convolution of a GPU may not be reproducible to the bit.
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
            return self._framed(ready).float().cpu().numpy()

    def frame(self, image: tuple[int, ...], cells: tuple[int, ...]) -> Frame:
        """Return the positions of the cells (h', w') of a map in an image (h, w)."""
        return self._framed.frame(image, cells)

    def read(self, source: Source) -> NDArray[np.uint8]:
        """Decode an image file at the size that the network takes."""
        with quiet():
            return read_image(source, self.describer.fitted(read_size(source)))


class Locator:
    """An object discovery together with the network of its maps, ready to locate objects.

    Parameters
    ----------
    mapper : Mapper
    discovery : ObjectDiscovery
        Fitted.
    descriptor : {"egm", "egm-weighted", "egm-delta", "mac"}
        See `features.discover_folder`.
    """

    def __init__(self, mapper: Mapper, discovery: ObjectDiscovery, descriptor: str) -> None:
        self.mapper = mapper
        self.discovery = discovery
        self.descriptor = check_choice(descriptor, "descriptor", DESCRIPTORS)

    def locate(self, source: Source) -> Located:
        """Locate the objects of the collection in a photo, which may be outside the collection.

        Parameters
        ----------
        source : path-like or bytes
            An image file, or its content.

        Raises
        ------
        UnreadableImageError
            If the file cannot be read as an image; the message names it.
        """
        image = self.mapper.read(source)
        activations = self.mapper.activations(torch.from_numpy(image)[None])[0]
        with quiet():
            photo = read_size(source)
        return self.locate_in(activations, image.shape[:2], photo)

    def describe_file(self, source: Source, box: Box | None = None) -> NDArray[np.float32]:
        """Describe a photo, or one object in it, to search the collection for it.

        Parameters
        ----------
        source : path-like or bytes
            An image file, or its content.
        box : sequence of float, optional
            Left, top, right, bottom of the object, in pixels of the upright photo, such as a row
            of `Located.boxes`. By default the photo is described by the objects that `locate`
            finds, as the collection was described.

        Returns
        -------
        ndarray, shape (d,), float32
            Whitened as the collection. The descriptor of a box is the MAC (maximum activations of
            convolutions), L2-normalised, of the cells of the photo's activation map whose centres
            are in the box; of the nearest cell if there are none.

        Raises
        ------
        UnreadableImageError
            If the file cannot be read as an image; the message names it.
        DiffusionError
            If the box is not finite, has no area or lies outside the photo.

        References
        ----------
        Siméoni, Iscen, Tolias, Avrithis, Chum. Unsupervised (deep) object discovery for instance
        recognition. WACV 2018: queries are boxes, described by MAC.
        """
        if box is None:
            descriptor = self.locate(source).descriptor
        else:
            descriptor = self._describe_box(source, box)
        return whitened(self.mapper.describer, descriptor[None])[0]

    def _describe_box(self, source: Source, box: Box) -> Map:
        with quiet():
            photo = read_size(source)
        sides = np.array(box_pixels(box, photo), float)
        image = self.mapper.read(source)
        A = self.mapper.activations(torch.from_numpy(image)[None])[0]
        frame = self.mapper.frame(image.shape[:2], A.shape[1:])
        scale = np.array([image.shape[1] / photo[1], image.shape[0] / photo[0]] * 2)
        low, high = frame.to_cells(sides * scale).reshape(2, 2)
        # A box that is narrower than a cell contains no centre, or one: it becomes one cell wide.
        limits, middle = np.array(A.shape[:0:-1], float), (low + high) / 2
        half = np.maximum(high - low, 1.0) / 2
        low = np.clip(middle - half, 0, limits - 1)
        high = np.clip(middle + half, 1, limits)
        region = Regions(np.concatenate([low, high])[None], np.ones(1))
        return sum_of_regions(A, region)

    def locate_in(
        self,
        activations: Map,
        image: tuple[int, ...],
        photo: tuple[int, int],
        number: int | None = None,
    ) -> Located:
        """Locate objects in the activation maps of a photo.

        Parameters
        ----------
        activations : ndarray, shape (c, h', w')
        image : tuple of int
            Height and width of the image that the network was given.
        photo : tuple of int
            Height and width of the upright photo.
        number : int, optional
            Number of the photo in the collection, if it belongs to it.
        """
        S = self.discovery.saliency(activations, number)
        regions = self.discovery.regions(S)
        frame = self.mapper.frame(image, S.shape)
        # Each side is rounded separately to one that the network takes.
        scale = np.array([photo[1] / image[1], photo[0] / image[0]] * 2)
        whole = np.array([[0, 0, S.shape[1], S.shape[0]]], float)
        boxes = frame.to_pixels(regions.boxes) * scale
        bounds = np.array([photo[1], photo[0]] * 2, float)
        return Located(
            S,
            (frame.to_pixels(whole) * scale)[0],
            np.clip(boxes, 0, bounds).astype(np.float32),
            regions.weights.astype(np.float32),
            _describe(self.descriptor, activations, S, regions),
        )

    def picture(
        self, path: str | os.PathLike[str], caption: str, number: int | None = None
    ) -> Picture:
        """Return a photo with its maps and regions, for `features.objects.page.write_page`."""
        image = self.mapper.read(path)
        A = self.mapper.activations(torch.from_numpy(image)[None])[0]
        frame = self.mapper.frame(image.shape[:2], A.shape[1:])
        return make_picture(caption, image, A, frame, self.discovery, number)


def _describe(kind: str, activations: Map, saliency: Map, regions: Regions) -> Map:
    if kind == "mac":
        return weighted_mac(activations, saliency)
    weights = "weighted" if kind == "egm-weighted" else "plain"
    return sum_of_regions(activations, regions, weights=weights, uniform=kind == "egm-delta")
