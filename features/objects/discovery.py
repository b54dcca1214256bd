"""Object discovery: recurring places of a collection, and object saliency maps of its images.

The places in which single images have strong features are the nodes of one reciprocal neighbour
graph for the whole collection. A node whose like recurs in many images has a high centrality in it.
A position is a peak of object saliency if central nodes are similar to it, which distinguishes
recurring objects from other strong features. A random walk over similar cells extends the peaks to
whole objects.

Inputs are activations of any network, the same for all images: `ImageActivations`, or arrays
(c, h, w) with values >= 0.

Source of the peaks: Siméoni, Iscen, Tolias, Avrithis, Chum. Unsupervised (deep) object discovery
for instance recognition. WACV 2018.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

import diffusion
from diffusion import storage
from diffusion.errors import DiffusionError
from diffusion.storage.contents import Array, Contents, finite
from diffusion.validation import check_integer

from ..networks.frame import Frame, ImageActivations
from ..networks.pooling import region_maxima
from ..settings import DiscoverySettings, as_settings
from .border import border_prior
from .boxes import clipped, find_boxes
from .collection import Learned, learn_collection, node_centrality, node_graph
from .egm import EGM, Regions
from .lookup import NodeLookup
from .maps import Map, as_saliency, feature_saliency
from .nodes import ImageNodes, find_nodes, split
from .patches import CellWhitening, cells_in, patch_maxima
from .walk import resampled, walk

_FORMAT = storage.Format("diffusion-rerank object discovery", 2, "a saved object discovery")
_VALUES = Array(np.float32, ("nodes",), finite(np.float32))
_LAYOUT = {"saliency": _VALUES, "centrality": _VALUES}

# Where the cells of an array without a frame are: boxes are then in cells.
_CELLS = Frame(1.0, 0.0, 0.0)


class ObjectDiscovery:
    """Object saliency from recurring places of a collection.

    Peaks: ``S(p) = F̂(p)^Θ Σ_i max(s(v_i, u_p), 0)^β f_i^θ g_i``, where the sum runs over the nodes
    i nearest to position p. v_i and u_p are the whitened descriptors of the node and of a patch
    around p, f_i is the feature saliency of the node and g_i its centrality in the graph of all
    nodes, divided by its mean. S is 0 where F̂ is small. The nodes of an image are excluded from its
    own sum, and no edge connects two nodes of one image, because repetition within an image is not
    recurrence.

    Whole objects: S is multiplied by the border prior, resampled to the cells of the fine map, and
    extended by a random walk with restart over similar cells, x = r S + (1 - r) P x; then Otsu's
    threshold t of x is subtracted, max(x - t, 0).

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
        Find the regions of feature saliency that may be nodes, and those of a map of peaks.
    whitening_ : Whitening
    fine_whitening_ : Whitening or None
        Of the cells of fine maps, if the collection has them.
    graph_ : diffusion.Graph
        Of the nodes, after a fit; it is not saved.
    vectors_ : ndarray, shape (r, d), float32
        Whitened descriptors of the nodes, image by image.
    images_ : ndarray, shape (r,), int64
        The image of each node; the nodes of image i are `starts_[i]` to `starts_[i + 1]`.
    starts_ : ndarray, shape (n_images + 1,), int64
    cells_ : ndarray, shape (r, 4), int64
        Top, left, height and width of what each node describes on the map of its image.
    saliency_, centrality_ : ndarray, shape (r,), float32
        f and g of each node; g is divided by its mean.
    n_images_ : int

    Notes
    -----
    Memory: 4 d bytes per node and the graph, and 4 d more with more than 32,768 nodes, which are
    then also held sorted by cell; `fit` also holds all `ImageNodes`, 4 c bytes per node.
    Activations are read one image at a time and are not kept.

    References
    ----------
    Siméoni, Iscen, Tolias, Avrithis, Chum. Unsupervised (deep) object discovery for instance
    recognition. WACV 2018. Zhu, Liang, Wei, Sun. Saliency Optimization from Robust Background
    Detection. CVPR 2014 (the border prior).
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
        """Learn the recurring places of a collection from the activations of its images.

        Parameters
        ----------
        maps : iterable of ImageActivations, or of array_like or torch.Tensor (c, h, w), >= 0
            One per image, of any heights and widths. They are consumed one at a time.

        Returns
        -------
        ObjectDiscovery
            Itself.
        """
        nodes: list[ImageNodes] = []
        for A in tqdm(maps, desc="nodes", unit="image", disable=not self.progress):
            try:
                nodes.append(find_nodes(A, self.settings))
            except DiffusionError as error:
                raise DiffusionError(f"map {len(nodes)}: {error}") from None
        return self.fit_nodes(nodes)

    def fit_nodes(self, nodes: Collection[ImageNodes]) -> Self:
        """Learn the recurring places from the nodes of all images.

        Parameters
        ----------
        nodes : collection of ImageNodes
            One per image, as `find_nodes` returns them. They are iterated over twice, once for the
            whitening and once to whiten, and need not be in memory.

        Raises
        ------
        DiffusionError
            If there are fewer than two images with nodes, or all nodes are alike.
        """
        progress = self.progress
        learned = learn_collection(nodes, self.settings.dimension, progress=progress)
        self.graph_ = node_graph(learned, self.settings, progress=progress)
        lookup = NodeLookup.build(learned.vectors, learned.starts, progress=progress)
        self._set(learned, node_centrality(self.graph_, self.settings), lookup)
        return self

    # --- online -----------------------------------------------------------------------------------

    def peaks(self, activations: Any, image: int | None = None) -> Map:
        """Return the peaks of object saliency of an image: the map of the paper.

        Parameters
        ----------
        activations : ImageActivations, or array_like or torch.Tensor, shape (c, h, w), >= 0
        image : int, optional
            The image's number in the collection, if it belongs to it; its own nodes are then
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
        return self._peaks(self._checked(activations)[0], image)

    def saliency(
        self, activations: Any, image: int | None = None, *, peaks: Any | None = None
    ) -> Map:
        """Return the saliency map of an image, in which whole objects are salient.

        Parameters
        ----------
        activations : ImageActivations, or array_like or torch.Tensor, shape (c, h, w), >= 0
        image : int, optional
            As for `peaks`.
        peaks : array_like, shape (h, w), >= 0, optional
            Peaks to start from, by default those that `peaks` returns.

        Returns
        -------
        ndarray, shape (h', w') or (h, w), float32
            Values >= 0 on the cells of the fine map, or of the coarse map if the collection or the
            image has no fine one; `frame_of` says where they are.

        Raises
        ------
        DiffusionError
            If an argument is not as described, or nothing has been fitted.
        """
        if peaks is None:
            return self.maps(activations, image)[1]
        A, fine = self._checked(activations)
        S = as_saliency(peaks, "peaks").astype(np.float32)
        if S.shape != A.shape[1:]:
            raise DiffusionError(
                f"peaks: expected the shape of the map, {A.shape[1:]}, got {S.shape}"
            )
        vectors = self._patches(A) if self.settings.border or fine is None else None
        return self._extended(S, vectors, fine, activations)

    def maps(self, activations: Any, image: int | None = None) -> tuple[Map, Map]:
        """Return what `peaks` and `saliency` return, in less time than one after the other.

        Parameters
        ----------
        activations : ImageActivations, or array_like or torch.Tensor, shape (c, h, w), >= 0
        image : int, optional
            As for `peaks`.
        """
        A, fine = self._checked(activations)
        vectors = self._patches(A) if self.settings.border or fine is None else None
        S = self._peaks(A, image, vectors)
        return S, self._extended(S, vectors, fine, activations)

    def frame_of(self, activations: Any) -> Frame:
        """Return where the cells of the saliency map of an image are.

        Those of an array, which has no frame, have the width 1 and begin at 0.
        """
        coarse, fine = _frames(activations)
        return coarse if fine is None or self._fitted().fine_whitening_ is None else fine

    def regions(self, peaks: Any) -> Regions:
        """Find the regions of a map of peaks, by a Gaussian mixture."""
        return self.object_egm.regions(peaks)

    def boxes(self, saliency: Any) -> Regions:
        """Find the boxes of the objects in a map that `saliency` returned."""
        return find_boxes(saliency)

    def describe_boxes(self, activations: Any, boxes: Any) -> NDArray[np.float32]:
        """Describe boxes of an image by the whitened maxima of the coarse activations in them.

        Parameters
        ----------
        activations : ImageActivations, or array_like or torch.Tensor, shape (c, h, w), >= 0
        boxes : array_like, shape (k, 4)
            Left, top, right, bottom in cells of the saliency map. A coarse cell belongs to a box
            that contains its centre; every box has at least one.

        Returns
        -------
        ndarray, shape (k, d), float32
            Unit vectors.
        """
        A, _ = self._checked(activations)
        boxes = np.asarray(boxes, np.float64)
        if boxes.ndim != 2 or boxes.shape[1] != 4 or not np.isfinite(boxes).all():
            raise DiffusionError(f"boxes: expected finite numbers (k, 4), got {boxes.shape}")
        if not len(boxes):
            return np.empty((0, self.whitening_.dimension), np.float32)
        coarse = _frames(activations)[0].to_cells(self.frame_of(activations).to_pixels(boxes))
        cells = cells_in(coarse, A.shape[1:])
        return self._whiten(region_maxima(torch.from_numpy(A)[None], cells)[0].numpy().T)

    # --- storage ----------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Return the settings as JSON values, and by name the arrays that new images need.

        The graph is not among them: new images need the nodes and their centrality alone.
        """
        self._fitted()
        arrays = {**self._learned.arrays(), "centrality": self.centrality_}
        return asdict(self.settings), {**arrays, **self._lookup.arrays()}

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
            learned = Learned.of(arrays)
            Contents(arrays, _LAYOUT, "arrays").check()
            lookup = NodeLookup.restored(arrays, learned.vectors, learned.starts, "arrays")
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise DiffusionError(f"expected a saved object discovery ({error})") from None
        discovery._set(learned, arrays["centrality"], lookup)
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

    def _set(self, learned: Learned, centrality: NDArray[np.float32], lookup: NodeLookup) -> None:
        self._learned, self._lookup = learned, lookup
        self.whitening_, self.fine_whitening_ = learned.whitening, learned.fine_whitening
        self.vectors_, self.cells_ = learned.vectors, learned.cells
        self.saliency_, self.starts_ = learned.saliency, learned.starts
        self.centrality_ = centrality
        self.n_images_ = len(self.starts_) - 1
        self.images_ = np.repeat(np.arange(self.n_images_), np.diff(self.starts_))
        self._whiten = CellWhitening(learned.whitening)
        fine = learned.fine_whitening
        self._whiten_fine = None if fine is None else CellWhitening(fine)

    def _fitted(self) -> Self:
        if not hasattr(self, "centrality_"):
            raise DiffusionError("discovery: not fitted yet; call fit(maps) or load first")
        return self

    def _checked(self, activations: Any) -> tuple[Map, Map | None]:
        """Return the coarse map, and the fine one if the walk is to use it."""
        A, fine = split(activations)
        expected = len(self._fitted().whitening_.mean)
        if len(A) != expected:
            raise DiffusionError(
                f"activations: expected {expected} channels, as the collection's have, got {len(A)}"
            )
        if fine is None or self.fine_whitening_ is None:
            return A, None
        if len(fine) != (expected := len(self.fine_whitening_.mean)):
            raise DiffusionError(
                f"activations: expected {expected} channels of the fine map, as the collection's "
                f"have, got {len(fine)}"
            )
        return A, fine

    def _patches(self, A: Map) -> NDArray[np.float32]:
        """Return the whitened descriptors (h, w, d) of the patches around all positions."""
        return self._whiten.grid(patch_maxima(A, self.settings.patch))

    def _peaks(self, A: Map, image: int | None, vectors: NDArray[np.float32] | None = None) -> Map:
        """Return the peaks, with the descriptors of all patches if they are known."""
        if image is not None and check_integer(image, "image", low=0) >= self.n_images_:
            raise DiffusionError(
                f"image: expected one of the collection's {self.n_images_}, got {image}"
            )
        settings = self.settings
        F = feature_saliency(A)
        kept = settings.feature_threshold * F.max() <= F
        if vectors is None:
            u = self._whiten(patch_maxima(A, settings.patch)[:, kept])
        else:
            u = vectors[kept]
        scores, ids = self._lookup.nearest(u, settings.neighbors, image)
        similarity = np.where(ids >= 0, np.maximum(scores, 0), 0) ** settings.map_beta
        importance = self.saliency_[ids] ** settings.region_exponent * self.centrality_[ids]
        S = np.zeros_like(F)
        S[kept] = F[kept] ** settings.feature_exponent * (similarity * importance).sum(axis=1)
        return S

    def _extended(
        self,
        peaks: Map,
        vectors: NDArray[np.float32] | None,
        fine: Map | None,
        activations: Any,
    ) -> Map:
        """Return whole objects from peaks, and the descriptors of patches where they are used."""
        S = peaks
        if self.settings.border and vectors is not None:
            S = S * border_prior(vectors)
        frame, to_frame = _frames(activations)
        if fine is not None and to_frame is not None and self._whiten_fine is not None:
            S = resampled(S, frame, to_frame, fine.shape[1:])
            vectors = self._whiten_fine.grid(fine)
        return clipped(walk(S, vectors, restart=self.settings.restart))


def _frames(activations: Any) -> tuple[Frame, Frame | None]:
    """Return the frames of the coarse and of the fine map."""
    if isinstance(activations, ImageActivations):
        return activations.frame, activations.fine_frame
    return _CELLS, None
