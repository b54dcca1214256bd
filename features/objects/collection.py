"""What is learned from the nodes of a collection: whitening, whitened vectors and their graph."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

import diffusion
from diffusion.errors import DiffusionError
from diffusion.neighbors import Auto, NeighborIndex
from diffusion.storage.contents import Array, Contents, Offsets, finite

from ..description.whitening import Moments, Whitening
from ..settings import DiscoverySettings
from .nodes import ImageNodes

# Dimension of the whitened cells of fine maps.
_FINE_DIMENSION = 64

# Rows of neighbour lists from which nodes of the same image are taken out at a time.
_ROWS = 1 << 14


_LAYOUT = {
    "vectors": Array(np.float32, ("nodes", "d")),
    "cells": Array(np.int64, ("nodes", 4)),
    "saliency": Array(np.float32, ("nodes",), finite(np.float32)),
    "starts": Array(np.int64, ("images",), Offsets("vectors")),
}


class Learned(NamedTuple):
    """The nodes of a collection; the attributes are those of `ObjectDiscovery`."""

    whitening: Whitening
    fine_whitening: Whitening | None
    vectors: NDArray[np.float32]
    cells: NDArray[np.int64]
    saliency: NDArray[np.float32]
    starts: NDArray[np.int64]

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return by name the arrays to store."""
        arrays = {name: getattr(self, name) for name in _LAYOUT}
        for prefix, whitening in (("", self.whitening), ("fine_", self.fine_whitening)):
            if whitening is not None:
                arrays[f"{prefix}mean"] = whitening.mean
                arrays[f"{prefix}projection"] = whitening.projection
        return arrays

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Return what was stored.

        Raises
        ------
        KeyError, ValueError
            If arrays are missing, or are not what they must be.
        """
        Contents(arrays, _LAYOUT, "arrays").check()
        found = {name: arrays[name] for name in _LAYOUT}
        whitening, fine = (
            Whitening(np.asarray(arrays[f"{p}mean"]), np.asarray(arrays[f"{p}projection"]))
            if f"{p}mean" in arrays or not p
            else None
            for p in ("", "fine_")
        )
        assert whitening is not None
        if found["vectors"].shape[1] != whitening.dimension:
            raise ValueError(f"vectors of shape {found['vectors'].shape}")
        return cls(whitening, fine, **found)


def learn_collection(
    nodes: Collection[ImageNodes], dimension: int, *, progress: bool = False
) -> Learned:
    """Learn the whitening of nodes and of fine cells, and whiten the nodes.

    Parameters
    ----------
    nodes : collection of ImageNodes
        Iterated over twice.
    dimension : int >= 1
        The largest dimension of whitened nodes.
    progress : bool, default False

    Raises
    ------
    DiffusionError
        If there are fewer than two images with nodes, all nodes are alike, or images differ in
        their channels.
    """
    counts: list[int] = []
    cells, saliency = [], []
    moments: Moments | None = None
    of_fine: Moments | None = None
    for number, image in enumerate(
        tqdm(nodes, desc="whitening: moments", unit="image", disable=not progress)
    ):
        channels, fine = image.vectors.shape[1], image.fine.shape[1]
        if moments is None:
            moments = Moments(channels)
            of_fine = Moments(fine) if fine else None
        expected = moments.dimension, of_fine.dimension if of_fine else 0
        if (channels, fine) != expected:
            raise DiffusionError(
                f"map {number}: expected {expected[0]} channels and {expected[1]} of the fine map, "
                f"as the first has, got {channels} and {fine}"
            )
        counts.append(len(image.cells))
        cells.append(image.cells)
        saliency.append(image.saliency)
        if len(image.vectors):
            moments.add(image.vectors)
        if of_fine is not None and len(image.fine):
            of_fine.add(image.fine)
    if np.count_nonzero(counts) < 2:
        raise DiffusionError(
            "nodes: expected at least two images with strong features, got "
            f"{np.count_nonzero(counts)}"
        )
    assert moments is not None
    whitening = _first(moments.pca(), dimension)
    fine_whitening = None if of_fine is None else _first(of_fine.pca(), _FINE_DIMENSION)
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    vectors = np.empty((starts[-1], whitening.dimension), np.float32)
    for number, image in enumerate(
        tqdm(nodes, desc="whitening", unit="image", disable=not progress)
    ):
        if len(image.vectors):
            vectors[starts[number] : starts[number + 1]] = whitening.apply(image.vectors)
    return Learned(
        whitening,
        fine_whitening,
        vectors,
        np.concatenate(cells),
        np.concatenate(saliency),
        starts,
    )


def node_neighbors(
    vectors: NDArray[np.float32], starts: NDArray[np.int64], k: int, *, progress: bool = False
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """List the k nearest nodes of other images for each node.

    Parameters
    ----------
    vectors : ndarray, shape (r, d), float32
        Unit vectors, image by image.
    starts : ndarray, shape (n_images + 1,), int64
        The nodes of image i are starts[i] to starts[i + 1].
    k : int >= 1
    progress : bool, default False

    Returns
    -------
    scores : ndarray, shape (r, k), float32
        Cosine, in descending order, padded with -inf.
    ids : ndarray, shape (r, k), int64
        Padded with -1.

    Notes
    -----
    By exact search, or by an inverted file where that is faster (`diffusion.neighbors.Auto`).
    """
    sizes = np.diff(starts)
    images = np.repeat(np.arange(len(sizes)), sizes)
    # However many of its own image are left out, k others are among this many other nodes.
    width = k + int(sizes.max()) - 1
    index = NeighborIndex(vectors, "cosine", Auto(), k=width, progress=progress)
    found_scores, found = index.neighbors(width, progress=progress)
    scores = np.empty((len(vectors), k), np.float32)
    ids = np.empty((len(vectors), k), np.int64)
    for start in range(0, len(vectors), _ROWS):
        rows = slice(start, start + _ROWS)
        part = found[rows]
        part = np.where(images[part] == images[rows, None], -1, part)
        order = np.argsort(part < 0, axis=1, kind="stable")[:, :k]
        ids[rows] = np.take_along_axis(part, order, axis=1)
        scores[rows] = np.take_along_axis(found_scores[rows], order, axis=1)
    scores[ids < 0] = -np.inf
    return scores, ids


def node_graph(
    learned: Learned, settings: DiscoverySettings, *, progress: bool = False
) -> diffusion.Graph:
    """Return the reciprocal neighbour graph of the nodes of a collection."""
    scores, ids = node_neighbors(learned.vectors, learned.starts, settings.k, progress=progress)
    ranker = diffusion.Reranker(
        k=settings.k, affinity="cosine", gamma=settings.beta, progress=progress
    )
    return ranker.fit_neighbors(scores, ids).graph_


def node_centrality(graph: diffusion.Graph, settings: DiscoverySettings) -> NDArray[np.float32]:
    """Return the centrality g of each node of a graph, divided by its mean."""
    g = np.ones(graph.W.shape[0], np.float32)
    if settings.centrality == "katz":
        g = diffusion.katz(graph, alpha=settings.alpha).values
    elif settings.centrality == "degree":
        g = diffusion.degree(graph).astype(np.float32)
    # Without edges, all nodes are equally central.
    return g / g.mean() if g.any() else np.ones_like(g)


def _first(whitening: Whitening, dimension: int) -> Whitening:
    """Return at most so many directions of a whitening."""
    return whitening.reduced(min(dimension, whitening.dimension))
