"""Object discovery: recurring regions of a collection, and object saliency maps of its images.

The regions in which single images have strong features are the nodes of one reciprocal neighbour
graph for the whole collection. A region that recurs in many images has a high centrality in it. The
object saliency of a position is high if central regions are similar to it, which distinguishes
recurring objects from other strong features.

Inputs are activations (c, h, w) with values >= 0 from any network, the same for all images.

Source: Siméoni, Iscen, Tolias, Avrithis, Chum. Unsupervised (deep) object discovery for instance
recognition. WACV 2018.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

import diffusion
from diffusion import storage
from diffusion.errors import DiffusionError
from diffusion.neighbors import Exact, NeighborIndex
from diffusion.storage.contents import Array, Contents, Offsets, finite
from diffusion.validation import check_integer

from ..description.whitening import Whitening, learn_pca
from ..settings import DiscoverySettings, as_settings
from .egm import EGM, Regions
from .maps import Map, as_activations, feature_saliency
from .regions import ImageRegions, find_regions

# Regions compared with at a time: 75 MiB of similarities to the positions of a map of 17 x 17.
_REGIONS_AT_ONCE = 1 << 16

_FORMAT = storage.Format("diffusion-rerank object discovery", 1, "a saved object discovery")
_LAYOUT = {
    "vectors": Array(np.float32, ("regions", "d")),
    "cells": Array(np.int64, ("regions", 4)),
    "saliency": Array(np.float32, ("regions",), finite(np.float32)),
    "centrality": Array(np.float32, ("regions",), finite(np.float32)),
    "starts": Array(np.int64, ("images",), Offsets("vectors")),
}


class ObjectDiscovery:
    """Object saliency from recurring regions of a collection.

    ``S(p) = F̂(p)^Θ Σ_i max(s(v_i, u_p) - s̄_p, 0)^β f_i^θ g_i``, where the sum runs over the
    regions i nearest to position p. v_i and u_p are the whitened descriptors of the region and of a
    patch around p, f_i is the feature saliency of the region and g_i its centrality in the graph of
    all regions. s̄_p is the mean similarity at the ranks of `contrast`, which suppresses what is
    similar to regions everywhere. S is 0 where F̂ is small. The regions of an image are excluded
    from its own sum, and no edge connects two regions of one image, because repetition within an
    image is not recurrence.

    Parameters
    ----------
    settings : DiscoverySettings, optional
        By default `DiscoverySettings()`.
    progress : bool, default False
        Show bars on standard error.

    Attributes
    ----------
    settings : DiscoverySettings
    feature_egm, object_egm : EGM
        Find the regions of the graph, on feature saliency, and those of an object saliency map.
    whitening_ : Whitening
    graph_ : diffusion.Graph
        Of the regions.
    vectors_ : ndarray, shape (r, d), float32
        Whitened descriptors of the regions, image by image.
    images_ : ndarray, shape (r,), int64
        The image of each region; the regions of image i are `starts_[i]` to `starts_[i + 1]`.
    starts_ : ndarray, shape (n_images + 1,), int64
    cells_ : ndarray, shape (r, 4), int64
        Top, left, height and width of each region on the map of its image.
    saliency_, centrality_ : ndarray, shape (r,), float32
        f and g of each region; g is divided by its mean.
    n_images_ : int

    Notes
    -----
    Memory: 4 (c + d) bytes per region during the fit, and 4 d bytes per region and the graph after
    it. Activations are read one image at a time and are not kept.

    References
    ----------
    Siméoni, Iscen, Tolias, Avrithis, Chum. Unsupervised (deep) object discovery for instance
    recognition. WACV 2018.
    """

    def __init__(
        self, settings: DiscoverySettings | None = None, *, progress: bool = False
    ) -> None:
        self.settings = as_settings(settings, "settings", DiscoverySettings)
        self.feature_egm = EGM(**asdict(self.settings.feature_egm))
        self.object_egm = EGM(**asdict(self.settings.object_egm))
        self.progress = progress

    # --- offline ----------------------------------------------------------------------------------

    def fit(self, maps: Iterable[Any]) -> Self:
        """Learn the recurring regions of a collection from the activations of its images.

        Parameters
        ----------
        maps : iterable of array_like or torch.Tensor, shape (c, h, w), >= 0
            One per image, of any heights and widths. They are consumed one at a time.

        Returns
        -------
        ObjectDiscovery
            Itself.
        """
        regions: list[ImageRegions] = []
        for A in tqdm(maps, desc="regions", unit="image", disable=not self.progress):
            try:
                regions.append(find_regions(A, self.feature_egm))
            except DiffusionError as error:
                raise DiffusionError(f"map {len(regions)}: {error}") from None
        return self.fit_regions(regions)

    def fit_regions(self, regions: Sequence[ImageRegions]) -> Self:
        """Learn the recurring regions from the regions of all images.

        Parameters
        ----------
        regions : sequence of ImageRegions
            One per image, as `find_regions` returns them.

        Raises
        ------
        DiffusionError
            If there are fewer than two images with regions, or all regions are alike.
        """
        counts = np.array([len(image.cells) for image in regions], np.int64)
        if np.count_nonzero(counts) < 2:
            raise DiffusionError(
                "regions: expected at least two images with salient regions, got "
                f"{np.count_nonzero(counts)}"
            )
        channels = regions[0].vectors.shape[1]
        for number, image in enumerate(regions):
            if image.vectors.shape[1] != channels:
                raise DiffusionError(
                    f"map {number}: expected {channels} channels, as the first has, got "
                    f"{image.vectors.shape[1]}"
                )
        vectors = np.concatenate([image.vectors for image in regions])
        settings, whitening = self.settings, learn_pca(vectors)
        if whitening.dimension > settings.dimension:
            whitening = whitening.reduced(settings.dimension)
        self._set(
            whitening,
            vectors=whitening.apply(vectors),
            cells=np.concatenate([image.cells for image in regions]),
            saliency=np.concatenate([image.saliency for image in regions]),
            starts=np.concatenate([[0], np.cumsum(counts)]),
        )
        scores, ids = self._neighbors(settings.k)
        ranker = diffusion.Reranker(
            k=settings.k, affinity="cosine", gamma=settings.beta, progress=self.progress
        )
        self.graph_ = ranker.fit_neighbors(scores, ids).graph_
        g = np.ones(len(vectors), np.float32)
        if settings.centrality == "katz":
            g = diffusion.katz(self.graph_, alpha=settings.alpha).values
        elif settings.centrality == "degree":
            g = diffusion.degree(self.graph_).astype(np.float32)
        # Without edges, all regions are equally central.
        self.centrality_ = g / g.mean() if g.any() else np.ones_like(g)
        return self

    # --- online -----------------------------------------------------------------------------------

    def saliency(self, activations: Any, image: int | None = None) -> Map:
        """Return the object saliency map of an image.

        Parameters
        ----------
        activations : array_like or torch.Tensor, shape (c, h, w), >= 0
        image : int, optional
            The image's number in the collection, if it belongs to it; its own regions are then
            excluded.

        Returns
        -------
        ndarray, shape (h, w), float32
            Values >= 0, up to a factor that is the same for all images.

        Raises
        ------
        DiffusionError
            If an argument is not as described, or nothing has been fitted.
        """
        A = self._check(activations)
        if image is not None and check_integer(image, "image", low=0) >= self.n_images_:
            raise DiffusionError(
                f"image: expected one of the collection's {self.n_images_}, got {image}"
            )
        settings, last = self.settings, self.settings.neighbors
        if settings.contrast is not None:
            last = max(last, settings.contrast[1])
        F = feature_saliency(A)
        kept = settings.feature_threshold * F.max() <= F
        scores, ids = self._nearest(self._describe_patches(A, kept), image, last)
        found = ids >= 0
        if settings.contrast is not None:
            first, last = settings.contrast
            compared, counted = scores[:, first:last], found[:, first:last]
            total = np.where(counted, compared, 0).sum(axis=1)
            scores = scores - (total / np.maximum(counted.sum(axis=1), 1))[:, None]
        nearest = slice(settings.neighbors)
        scores, ids, found = scores[:, nearest], ids[:, nearest], found[:, nearest]
        similarity = np.where(found, np.maximum(scores, 0), 0) ** settings.map_beta
        importance = self.saliency_**settings.region_exponent * self.centrality_
        S = np.zeros_like(F)
        recurring = (similarity * importance[ids]).sum(axis=1)
        S[kept] = F[kept] ** settings.feature_exponent * recurring
        return S

    def regions(self, saliency: Any) -> Regions:
        """Find the regions of an object saliency map."""
        return self.object_egm.regions(saliency)

    # --- storage ----------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Return the settings as JSON values, and by name the arrays that new images need.

        The graph is not among them: new images need the regions and their centrality alone.
        """
        self._fitted()
        arrays = {name: getattr(self, f"{name}_") for name in _LAYOUT}
        whitening = {"mean": self.whitening_.mean, "projection": self.whitening_.projection}
        return asdict(self.settings), {**arrays, **whitening}

    @classmethod
    def from_state(cls, settings: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Return the discovery whose state this is.

        Raises
        ------
        DiffusionError
            If it is the state of none.
        """
        try:
            discovery = cls(DiscoverySettings(**settings))
            whitening = Whitening(np.asarray(arrays["mean"]), np.asarray(arrays["projection"]))
            found = {name: arrays[name] for name in _LAYOUT}
            Contents(found, _LAYOUT, "arrays").check()
            if found["vectors"].shape[1] != whitening.dimension:
                raise ValueError(f"vectors of shape {found['vectors'].shape}")
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise DiffusionError(f"expected a saved object discovery ({error})") from None
        discovery._set(whitening, **found)
        return discovery

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write what has been learned to a directory, replacing what was saved there before.

        Parameters
        ----------
        path : path-like
            A directory that `save` wrote, that is empty or does not exist.
        """
        settings, arrays = self.state()
        content = {"library": diffusion.__version__, "settings": settings}
        storage.save(path, _FORMAT, content, arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, verify: bool = False) -> Self:
        """Open what `save` wrote, memory-mapped.

        Parameters
        ----------
        path : path-like
        verify : bool, default False
            Read every file first and compare its checksum.

        Raises
        ------
        DiffusionError
            If there is none, or it is truncated, altered or foreign.
        """
        stored = storage.load(path, _FORMAT, verify=verify)
        try:
            return cls.from_state(stored.manifest["settings"], stored.arrays)
        except (KeyError, DiffusionError) as error:
            raise DiffusionError(f"{path}: {error}") from None

    # --- inside -----------------------------------------------------------------------------------

    def _set(
        self,
        whitening: Whitening,
        *,
        vectors: NDArray[np.float32],
        cells: NDArray[np.int64],
        saliency: NDArray[np.float32],
        starts: NDArray[np.int64],
        centrality: NDArray[np.float32] | None = None,
    ) -> None:
        self.whitening_ = whitening
        self.vectors_ = vectors
        self.cells_ = cells
        self.saliency_ = saliency
        self.starts_ = starts
        self.n_images_ = len(starts) - 1
        self.images_ = np.repeat(np.arange(self.n_images_), np.diff(starts))
        if centrality is not None:
            self.centrality_ = centrality
        self._projection = torch.from_numpy(whitening.projection.astype(np.float32))
        self._shift = torch.from_numpy((whitening.projection @ whitening.mean).astype(np.float32))

    def _fitted(self) -> Self:
        if not hasattr(self, "centrality_"):
            raise DiffusionError("discovery: not fitted yet; call fit(maps) or load first")
        return self

    def _check(self, activations: Any) -> Map:
        A = as_activations(activations)
        expected = len(self._fitted().whitening_.mean)
        if len(A) != expected:
            raise DiffusionError(
                f"activations: expected {expected} channels, as the collection's have, got {len(A)}"
            )
        return A

    def _describe_patches(self, A: Map, kept: NDArray[np.bool_]) -> Tensor:
        """Return the whitened descriptors (m, d) of the patches around m positions kept."""
        reach = self.settings.patch // 2
        maxima = A
        # The maximum along each axis in turn. Slices are many times faster here than a pooling of
        # few cells and many channels, and three times faster than padding and shifting.
        for axis in (1, 2):
            along, maxima = maxima, maxima.copy()
            for shift in range(1, min(reach, A.shape[axis] - 1) + 1):
                low, high = [slice(None)] * 3, [slice(None)] * 3
                low[axis], high[axis] = slice(None, -shift), slice(shift, None)
                for to, of in ((low, high), (high, low)):
                    part = maxima[tuple(to)]
                    np.maximum(part, along[tuple(of)], out=part)
        X = torch.from_numpy(maxima[:, kept])
        # P (x / ||x|| - m). The division comes last, when there are fewer values to divide.
        norms = torch.linalg.vector_norm(X, dim=0).clamp(min=torch.finfo(X.dtype).tiny)
        return functional.normalize((self._projection @ X / norms).T - self._shift, dim=1)

    def _nearest(
        self, vectors: Tensor, image: int | None, k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """List the k nearest regions of vectors without those of one image; padded with -1."""
        scores = torch.full((len(vectors), k), -torch.inf)
        ids = torch.full((len(vectors), k), -1)
        for start in range(0, len(self.vectors_), _REGIONS_AT_ONCE):
            block = torch.from_numpy(self.vectors_[start : start + _REGIONS_AT_ONCE])
            found = vectors @ block.T
            if image is not None:
                own = np.clip(self.starts_[image : image + 2] - start, 0, len(block))
                found[:, own[0] : own[1]] = -torch.inf
            best, places = found.topk(min(k, len(block)), dim=1)
            places = torch.where(best > -torch.inf, places + start, -1)
            scores, order = torch.cat([scores, best], dim=1).topk(k, dim=1)
            ids = torch.cat([ids, places], dim=1).gather(1, order)
        return scores.numpy(), ids.numpy()

    def _neighbors(self, k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """List k nearest regions from other images for each region; padded with -inf and -1."""
        # However many of its own image are excluded, k others are among this many.
        most = int(np.diff(self.starts_).max())
        scores, ids = NeighborIndex(self.vectors_, "cosine", Exact()).search(
            self.vectors_, k + most
        )
        ids[self.images_[ids] == self.images_[:, None]] = -1
        order = np.argsort(ids < 0, axis=1, kind="stable")[:, :k]
        ids = np.take_along_axis(ids, order, axis=1)
        scores = np.take_along_axis(scores, order, axis=1)
        return np.where(ids < 0, np.float32(-np.inf), scores), ids
