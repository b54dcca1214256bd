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

import inspect
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

import diffusion
from diffusion.errors import DiffusionError
from diffusion.neighbors.index import Exact, NeighborIndex
from diffusion.storage import directory as storage
from diffusion.validation import check_choice, check_integer, check_real

from ..description.whitening import Whitening, learn_pca
from .egm import EGM, Regions
from .maps import Map, as_activations, feature_saliency
from .regions import ImageRegions, find_regions

CENTRALITIES = ("katz", "degree", "none")

# Settings for the two kinds of maps. Feature saliency is spread wide and needs sharpening.
FEATURE_EGM = EGM(exponent=4.0, threshold=0.4)
OBJECT_EGM = EGM(exponent=1.0, threshold=0.4)

# Regions compared with at a time: 75 MiB of similarities to the positions of a map of 17 x 17.
_REGIONS_AT_ONCE = 1 << 16

_KIND = "object discovery"
_ARRAYS = {
    "vectors": np.float32,
    "cells": np.int64,
    "saliency": np.float32,
    "centrality": np.float32,
    "starts": np.int64,
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
    feature_egm : EGM
        Finds the regions of the graph, on feature saliency.
    object_egm : EGM
        Finds the regions of an object saliency map.
    dimension : int >= 1, default 128
        Of the whitened descriptors; fewer where the regions have fewer directions.
    k : int >= 1, default 10
        Neighbours of a region in the graph.
    beta : float > 0, default 8
        Exponent of the similarity in the graph.
    alpha : float in [0, 1), default 0.99
        Of Katz centrality.
    centrality : {"katz", "degree", "none"}, default "katz"
        g. Where most regions hang together Katz centrality is nearly the square root of the
        degree; where the graph falls into many small parts it is
        not. The degree, which costs nothing, is sharper on objects over varied photos and loses
        to smooth ground, which it favours. "none" is g = 1, a control.
    neighbors : int >= 1, default 10
        Regions in the sum of a position.
    map_beta : float > 0, default 3
        Exponent β of the similarity in the sum. Above it maps are sharper, and wrong altogether
        more often.
    contrast : tuple of two int, optional
        First and last rank, the latter exclusive and counted from 0, whose mean similarity s̄_p
        is; by default s̄_p = 0. It takes back what is in every image, and an object that recurs
        in more regions than the first rank: (30, 60) is sharper on objects of a dozen images,
        and loses where few regions are alike.
    feature_exponent : float >= 0, default 2
        Θ.
    feature_threshold : float in [0, 1), default 0.4
        Positions where F̂ is below this part of its largest value are left out: smooth ground and
        the border recur in every image and are like each other, however slight.
    region_exponent : float >= 0, default 3
        θ.
    patch : int >= 1, odd, default 3
        Side of the patches in cells.
    progress : bool, default False
        Show bars on standard error.

    Attributes
    ----------
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
        self,
        *,
        feature_egm: EGM = FEATURE_EGM,
        object_egm: EGM = OBJECT_EGM,
        dimension: int = 128,
        k: int = 10,
        beta: float = 8.0,
        alpha: float = 0.99,
        centrality: str = "katz",
        neighbors: int = 10,
        map_beta: float = 3.0,
        contrast: tuple[int, int] | None = None,
        feature_exponent: float = 2.0,
        feature_threshold: float = 0.4,
        region_exponent: float = 3.0,
        patch: int = 3,
        progress: bool = False,
    ) -> None:
        self.feature_egm = _check_egm(feature_egm, "feature_egm")
        self.object_egm = _check_egm(object_egm, "object_egm")
        self.dimension = check_integer(dimension, "dimension", low=1)
        self.k = check_integer(k, "k", low=1)
        self.beta = check_real(beta, "beta", low=0.0, strict=True)
        self.alpha = check_real(alpha, "alpha", low=0.0, high=1.0)
        self.centrality = check_choice(centrality, "centrality", CENTRALITIES)
        self.neighbors = check_integer(neighbors, "neighbors", low=1)
        self.map_beta = check_real(map_beta, "map_beta", low=0.0, strict=True)
        self.contrast = _check_contrast(contrast)
        self.feature_exponent = check_real(feature_exponent, "feature_exponent", low=0.0)
        self.feature_threshold = check_real(
            feature_threshold, "feature_threshold", low=0.0, high=1.0
        )
        self.region_exponent = check_real(region_exponent, "region_exponent", low=0.0)
        self.patch = check_integer(patch, "patch", low=1)
        if self.patch % 2 == 0:
            raise DiffusionError(f"patch: expected an odd number of cells, got {patch}")
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
        whitening = learn_pca(vectors)
        if whitening.dimension > self.dimension:
            whitening = whitening.reduced(self.dimension)
        self._set(
            whitening,
            vectors=whitening.apply(vectors),
            cells=np.concatenate([image.cells for image in regions]),
            saliency=np.concatenate([image.saliency for image in regions]),
            starts=np.concatenate([[0], np.cumsum(counts)]),
        )
        scores, ids = self._neighbors(self.k)
        ranker = diffusion.Reranker(
            k=self.k, affinity="cosine", gamma=self.beta, progress=self.progress
        )
        self.graph_ = ranker.fit_neighbors(scores, ids).graph_
        g = np.ones(len(vectors), np.float32)
        if self.centrality == "katz":
            g = diffusion.katz(self.graph_, alpha=self.alpha).values
        elif self.centrality == "degree":
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
        last = self.neighbors if self.contrast is None else max(self.neighbors, self.contrast[1])
        F = feature_saliency(A)
        kept = self.feature_threshold * F.max() <= F
        scores, ids = self._nearest(self._describe_patches(A, kept), image, last)
        found = ids >= 0
        if self.contrast is not None:
            first, last = self.contrast
            compared, counted = scores[:, first:last], found[:, first:last]
            total = np.where(counted, compared, 0).sum(axis=1)
            scores = scores - (total / np.maximum(counted.sum(axis=1), 1))[:, None]
        nearest = slice(self.neighbors)
        scores, ids, found = scores[:, nearest], ids[:, nearest], found[:, nearest]
        similarity = np.where(found, np.maximum(scores, 0), 0) ** self.map_beta
        importance = self.saliency_**self.region_exponent * self.centrality_
        S = np.zeros_like(F)
        S[kept] = F[kept] ** self.feature_exponent * (similarity * importance[ids]).sum(axis=1)
        return S

    def regions(self, saliency: Any) -> Regions:
        """Find the regions of an object saliency map."""
        return self.object_egm.regions(saliency)

    # --- storage ----------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write what has been learned to a directory, replacing what was saved there before.

        Parameters
        ----------
        path : path-like
            A directory that `save` has written, that is empty or does not exist.

        Notes
        -----
        The graph is not stored: new images need the regions and their centrality alone.
        """
        self._fitted()
        content = {
            "library": diffusion.__version__,
            "kind": _KIND,
            "parameters": {
                name: asdict(value) if isinstance(value, EGM) else value
                for name, value in self.get_params().items()
                if name != "progress"
            },
        }
        arrays = {name: getattr(self, f"{name}_") for name in _ARRAYS}
        whitening = {"mean": self.whitening_.mean, "projection": self.whitening_.projection}
        storage.save(path, content, {**arrays, **whitening})

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
        stored = storage.load(path, verify=verify)
        manifest, arrays = stored.manifest, stored.arrays
        try:
            if manifest.get("kind") != _KIND:
                raise ValueError(f"an index of another kind, {manifest.get('kind')!r}")
            parameters = dict(manifest["parameters"])
            for name in ("feature_egm", "object_egm"):
                parameters[name] = EGM(**parameters[name])
            discovery = cls(**parameters)
            whitening = Whitening(np.asarray(arrays["mean"]), np.asarray(arrays["projection"]))
            found = {name: arrays[name] for name in _ARRAYS}
            r, d = len(found["vectors"]), whitening.dimension
            shapes = {"vectors": (r, d), "cells": (r, 4), "saliency": (r,), "centrality": (r,)}
            for name, dtype in _ARRAYS.items():
                array = found[name]
                if array.dtype != dtype or array.shape != shapes.get(name, array.shape):
                    raise ValueError(f"{name}: {array.dtype} of shape {array.shape}")
            starts = found["starts"]
            if starts[0] != 0 or starts[-1] != r or (np.diff(starts) < 0).any():
                raise ValueError("starts that do not go from 0 to the number of regions")
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise DiffusionError(f"{path}: expected a saved object discovery ({error})") from None
        discovery._set(whitening, **found)
        return discovery

    # --- inside -----------------------------------------------------------------------------------

    def get_params(self) -> dict[str, Any]:
        """Return the parameters by name."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

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
        reach = self.patch // 2
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


def _check_egm(egm: EGM, name: str) -> EGM:
    if not isinstance(egm, EGM):
        raise DiffusionError(f"{name}: expected an EGM, got {egm!r}")
    return egm


def _check_contrast(contrast: tuple[int, int] | None) -> tuple[int, int] | None:
    if contrast is None:
        return None
    if isinstance(contrast, str) or not isinstance(contrast, Sequence) or len(contrast) != 2:
        raise DiffusionError(f"contrast: expected two ranks or None, got {contrast!r}")
    first = check_integer(contrast[0], "contrast", low=0)
    return first, check_integer(contrast[1], "contrast", low=first + 1)
