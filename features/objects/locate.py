"""Localisation of discovered objects in photos."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from diffusion import storage
from diffusion.validation import check_choice

from ..description.recipe import Describer
from ..description.sources import Sources
from ..description.sweep import whitened
from ..images.boxes import Box, box_pixels
from ..images.reading import Source, quiet, read_image, read_size
from ..networks.frame import FramedTrunk, ImageActivations
from ..networks.parts import PART_PIXELS
from ..networks.pooling import region_maxima
from .descriptors import sum_of_regions, weighted_mac
from .discovery import ObjectDiscovery
from .maps import Map
from .page import Picture, make_picture
from .patches import cells_in

# The paper's sum, the same weighted by π, the paper's Δ, and MAC of the map times saliency.
DESCRIPTORS = ("egm", "egm-weighted", "egm-delta", "mac")


@dataclass(frozen=True, eq=False)
class Located:
    """The objects that a discovery locates in a photo.

    Attributes
    ----------
    saliency : ndarray, shape (h, w), float32
        Map of whole objects, on the fine cells of the network if it has any.
    extent : ndarray, shape (4,), float64
        Left, top, right, bottom of the map in pixels of the upright photo; the outer cells may
        extend beyond it.
    boxes : ndarray, shape (k, 4), float32
        Left, top, right, bottom of the objects of the map in pixels of the upright photo, clipped
        to it, by descending weight.
    weights : ndarray, shape (k,), float32
        Their shares of the map's mass, which sum to 1.
    vectors : ndarray, shape (k, d), float32
        Whitened descriptors of the boxes, by which they are grouped; unit rows.
    descriptor : ndarray, shape (c,), float32
        L2-normalised, not whitened.
    """

    saliency: Map
    extent: NDArray[np.float64]
    boxes: NDArray[np.float32]
    weights: NDArray[np.float32]
    vectors: NDArray[np.float32]
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
    def activations(self, images: Tensor) -> list[ImageActivations]:
        """Return the activations of images (b, h, w, 3), uint8."""
        # On a processor, also the mirrored images and whole maps of a few images at a time.
        count = max(1, PART_PIXELS // (images.shape[1] * images.shape[2]))
        if self.describer.device.type != "cpu":
            count = len(images)
        found: list[ImageActivations] = []
        # The fastest convolution of a GPU may not be reproducible to the bit.
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
            for part in images.to(self.describer.device).split(count):
                ready = self._trunk.normalize(part.permute(0, 3, 1, 2))
                found += self._framed.activations(ready)
        return found

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
    sources : Sources, optional
        The photos of the collection. One of them is recognised by its content, and its own nodes
        are excluded as they were in the discovery.
    """

    def __init__(
        self,
        mapper: Mapper,
        discovery: ObjectDiscovery,
        descriptor: str,
        sources: Sources | None = None,
    ) -> None:
        self.mapper = mapper
        self.discovery = discovery
        self.descriptor = check_choice(descriptor, "descriptor", DESCRIPTORS)
        self._sources = sources

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
        return self.locate_in(activations, image.shape[:2], photo, self._number(source))

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
        image = self.mapper.read(source)
        activations = self.mapper.activations(torch.from_numpy(image)[None])[0]
        if box is None:
            peaks = self.discovery.peaks(activations, self._number(source))
            descriptor = self._descriptor(activations, peaks)
        else:
            with quiet():
                photo = read_size(source)
            scale = np.array([image.shape[1] / photo[1], image.shape[0] / photo[0]] * 2)
            sides = np.array([box_pixels(box, photo)]) * scale
            cells = cells_in(activations.frame.to_cells(sides), activations.maps.shape[1:])
            maxima = region_maxima(torch.from_numpy(activations.maps)[None], cells)[0]
            descriptor = functional.normalize(maxima, dim=1).numpy()[0]
        return whitened(self.mapper.describer, descriptor[None])[0]

    def locate_in(
        self,
        activations: ImageActivations,
        image: tuple[int, ...],
        photo: tuple[int, int],
        number: int | None = None,
    ) -> Located:
        """Locate objects in the activations of a photo.

        Parameters
        ----------
        activations : ImageActivations
        image : tuple of int
            Height and width of the image that the network was given.
        photo : tuple of int
            Height and width of the upright photo.
        number : int, optional
            Number of the photo in the collection, if it belongs to it.
        """
        peaks, S = self.discovery.maps(activations, number)
        found, frame = self.discovery.boxes(S), self.discovery.frame_of(activations)
        # Each side is rounded separately to one that the network takes.
        scale = np.array([photo[1] / image[1], photo[0] / image[0]] * 2)
        whole = np.array([[0, 0, S.shape[1], S.shape[0]]], float)
        boxes = frame.to_pixels(found.boxes) * scale
        bounds = np.array([photo[1], photo[0]] * 2, float)
        return Located(
            S,
            (frame.to_pixels(whole) * scale)[0],
            np.clip(boxes, 0, bounds).astype(np.float32),
            found.weights.astype(np.float32),
            self.discovery.describe_boxes(activations, found.boxes),
            self._descriptor(activations, peaks),
        )

    def picture(
        self, path: str | os.PathLike[str], caption: str, number: int | None = None
    ) -> Picture:
        """Return a photo with its maps and boxes, for `features.objects.page.write_page`."""
        number = self._number(path) if number is None else number
        image = self.mapper.read(path)
        activations = self.mapper.activations(torch.from_numpy(image)[None])[0]
        return make_picture(caption, image, activations, self.discovery, number)

    def _number(self, source: Source) -> int | None:
        """Return the number of a photo in the collection; None if it does not belong to it."""
        if self._sources is None:
            return None
        if isinstance(source, bytes):
            digest = hashlib.sha256(source).digest()
        else:
            digest = bytes.fromhex(storage.sha256_of(source))
        return self._sources.contents.get(digest)

    def _descriptor(self, activations: ImageActivations, peaks: Map) -> Map:
        """Return the descriptor of a photo, from the peaks of its objects as in the paper."""
        if self.descriptor == "mac":
            return weighted_mac(activations.maps, peaks)
        return sum_of_regions(
            activations.maps,
            self.discovery.regions(peaks),
            weights="weighted" if self.descriptor == "egm-weighted" else "plain",
            uniform=self.descriptor == "egm-delta",
        )
