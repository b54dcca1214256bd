"""Retrieval by one descriptor per image, made from its salient regions and in other ways."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

import diffusion
from diffusion.baselines import expansion
from features.description.whitening import Whitening, learn_pca
from features.networks.frame import ImageActivations
from features.networks.pooling import region_maxima, rmac_regions
from features.objects.descriptors import sum_of_regions, weighted_mac
from features.objects.discovery import ObjectDiscovery
from features.objects.egm import Regions
from features.objects.maps import Map, feature_saliency
from features.objects.patches import cells_in
from features.objects.walk import resampled

from ..data import published
from ..measure import percent, precision_of
from ..table import Table
from .activations import Discovered, Seen

Vectors = NDArray[np.float32]

DIMENSION = 256
TRUE = "true boxes (upper line)"
ONE, SAMPLED, BY_WEIGHT = "OS.EGM", "OS.EGM-Δ", ", weighted by π"
WHOLE = f"{ONE} of the whole map{BY_WEIGHT}"


def descriptors_of(
    A: Map, F: Regions, S: NDArray[Any], regions: Regions, whole: Regions
) -> dict[str, Map]:
    """Describe an image in every way.

    The arguments are its map, the regions of its FS, its map of peaks (OS) with its regions, and
    the regions of its whole map on the same cells.
    """
    return {
        "MAC": sum_of_regions(A, _whole(A)),
        "R-MAC": expansion.normalize(unit(rmac(A)).sum(axis=0)[None])[0],
        "FS.EGM": sum_of_regions(A, F),
        f"FS.EGM{BY_WEIGHT}": sum_of_regions(A, F, weights="weighted"),
        ONE: sum_of_regions(A, regions),
        f"{ONE}{BY_WEIGHT}": sum_of_regions(A, regions, weights="weighted"),
        SAMPLED: sum_of_regions(A, regions, uniform=True),
        f"{SAMPLED}{BY_WEIGHT}": sum_of_regions(A, regions, weights="weighted", uniform=True),
        WHOLE: sum_of_regions(A, whole, weights="weighted"),
        "MAC weighted by OS": weighted_mac(A, S),
    }


def _whole(A: Map) -> Regions:
    return Regions(np.array([[0.0, 0.0, *A.shape[:0:-1]]]), np.ones(1))


def rmac(A: Map) -> Vectors:
    """Return the maxima (r, c) of a map's R-MAC regions."""
    regions = rmac_regions(*A.shape[1:])
    return region_maxima(torch.from_numpy(A)[None], regions)[0].numpy()


def asked_of(queries: Seen) -> list[Map]:
    """Return the part of each query's map that is in its first box."""
    return [shown(image.maps, queries.in_cells(i)) for i, image in enumerate(queries)]


def shown(A: Map, boxes: NDArray[np.float64]) -> Map:
    """Return the part of a map in the first of some boxes, given in cells."""
    top, left, height, width = cells_in(boxes[:1], A.shape[1:])[0]
    return np.ascontiguousarray(A[:, top : top + height, left : left + width])


def unit(X: NDArray[Any]) -> Vectors:
    """Return rows scaled to unit length."""
    return expansion.normalize(X)


def descriptors(
    found: Discovered, queries: Seen
) -> tuple[Table, dict[str, tuple[Vectors, Vectors]]]:
    """Rank images by one descriptor each for box queries, without and with diffusion.

    Returns
    -------
    Table
    dict of str to tuple of ndarray
        The whitened descriptors of images and of queries, by the name of the descriptor.
    """
    seen, whitening = found.seen, whitening_of(found)
    table = Table(
        f"**One descriptor per image, {seen.name}**: {len(queries)} box queries, {len(seen)} "
        f"images, mAP, beside the paper's",
        (
            "descriptor",
            "cosine",
            "diffusion, cosine, k = 50",
            "diffusion, as by default",
            *published.OBJECT_COLUMNS,
        ),
        notes=[
            f"All descriptors are whitened to {whitening.dimension} dimensions; the whitening is "
            "learned from the collection's FS regions. A query is a box, described by MAC; for Δ, "
            "by the sum over its uniform sampling; for R-MAC, by R-MAC. Diffusion is the Reranker "
            "with the paper's settings, and with its defaults. OS is the map of peaks. The paper's "
            "figures are with VGG, other images and k = 50. Plain sums are as in the paper; the "
            "weighted sums, the weighted MAC and the true boxes are not in it."
        ],
    )
    asked, vectors = _queries(queries), {}
    for name, rows in _gallery(found).items():
        X, Q = whitening.apply(np.array(rows)), whitening.apply(asked.get(name, asked["MAC"]))
        vectors[name] = (X, Q)
        rankings = (_cosine(X), _diffused(X, affinity="cosine"), _diffused(X))
        figures = [precision(rank(Q), seen, queries) for rank in rankings]
        theirs = published.OBJECT_DESCRIPTORS.get(name, (None,) * len(published.OBJECT_COLUMNS))
        table.rows.append([name, *figures, *theirs])
    return table, vectors


def _gallery(found: Discovered) -> dict[str, list[Map]]:
    """Return the descriptors of all images by name."""
    seen, discovery = found.seen, found.default
    gallery: dict[str, list[Map]] = {}
    for i, activations in enumerate(tqdm(seen, desc="descriptors", unit="image")):
        A, S = activations.maps, discovery.peaks(activations, i)
        F = discovery.feature_egm.regions(feature_saliency(A))
        whole = discovery.regions(coarse(discovery, activations, i, S))
        described = descriptors_of(A, F, S, discovery.regions(S), whole)
        described[TRUE] = unit(shown(A, seen.in_cells(i)).max(axis=(1, 2))[None])[0]
        for name, vector in described.items():
            gallery.setdefault(name, []).append(vector)
    return gallery


def coarse(discovery: ObjectDiscovery, activations: ImageActivations, i: int, peaks: Map) -> Map:
    """Return the whole map of an image on the cells of its peaks."""
    whole = discovery.saliency(activations, i, peaks=peaks)
    return resampled(whole, discovery.frame_of(activations), activations.frame, peaks.shape)


def _queries(queries: Seen) -> dict[str, Vectors]:
    """Return the descriptors of box queries by name; where a name is missing, MAC is meant."""
    asked = asked_of(queries)
    deltas = np.array([sum_of_regions(part, _whole(part), uniform=True) for part in asked])
    return {
        "MAC": unit(np.array([part.max(axis=(1, 2)) for part in asked])),
        "R-MAC": unit(np.array([unit(rmac(part)).sum(axis=0) for part in asked])),
        SAMPLED: deltas,
        f"{SAMPLED}{BY_WEIGHT}": deltas,
    }


def whitening_of(found: Discovered) -> Whitening:
    """Learn the whitening of descriptors from the regions of the collection."""
    whitening = learn_pca(np.concatenate([image.vectors for image in found.regions]))
    return whitening.reduced(min(DIMENSION, whitening.dimension))


def _cosine(X: Vectors) -> Callable[[Vectors], NDArray[Any]]:
    return lambda Q: expansion.search(Q, X, len(X))[1]


def _diffused(X: Vectors, **settings: Any) -> Callable[[Vectors], NDArray[Any]]:
    ranker = diffusion.Reranker(**settings).fit(X)
    return lambda Q: ranker.search(Q, len(X))[1]


def precision(ids: NDArray[Any], seen: Seen, queries: Seen) -> float:
    """Return the mAP in percent."""
    return percent(precision_of(ids, seen.labels, queries.labels))
