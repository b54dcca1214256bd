"""Retrieval with the descriptors of a network, or with histograms of colours."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

import diffusion
from diffusion import metrics
from features.description.recipe import Describer, Recipe
from features.images.reading import find_images, read_image
from features.networks.retrieval_network import RetrievalNetwork
from features.settings import ImageSettings, NetworkSettings, RunSettings
from features.training.evaluation import leave_one_out
from features.training.photos import Photos
from features.training.samples import labels_of_folders

from ..measure import percent

# Bins per channel of the histograms.
_BINS = 8


class Precision(NamedTuple):
    """The mAP in percent, of cosine similarity and of diffusion."""

    cosine: float
    diffused: float


def photos_of(folder: Path, network: RetrievalNetwork, size: int) -> Photos:
    """Return the photos of a folder, to be described with a network at a size."""
    recipe = Recipe(NetworkSettings(network.backbone.name), ImageSettings(size=size))
    return Photos(folder, Describer(recipe, network), RunSettings())


def judge(network: RetrievalNetwork, folder: Path, size: int) -> Precision:
    """Search the photos of a folder, with a subfolder per class, with each of them."""
    photos = photos_of(folder, network, size)
    return precision_of(photos.describe(), photos.files)


def judge_histograms(folder: Path, size: int) -> Precision:
    """Search by the joint histogram of red, green and blue; its square roots are compared."""
    files = find_images(folder)
    X = np.empty((len(files), _BINS**3), np.float32)
    for row, file in zip(X, files, strict=True):
        bins = read_image(os.path.join(folder, file), (size, size)).reshape(-1, 3) // (256 // _BINS)
        joint = np.ravel_multi_index(tuple(bins.T.astype(np.int64)), (_BINS,) * 3)
        row[:] = np.sqrt(np.bincount(joint, minlength=_BINS**3))
    return precision_of(X, files)


def precision_of(X: NDArray[np.float32], files: list[str]) -> Precision:
    """Return the mAP of descriptors; what is in the same folder as the query is relevant."""
    labels = labels_of_folders(files)
    return Precision(percent(leave_one_out(X, labels)), percent(_diffused(X, labels)))


def _diffused(X: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the average precision of each item as a query of the others, by diffusion."""
    n = len(X)
    ids = diffusion.Reranker().fit(X).search(X, n)[1]
    # The query is left out of its own results; what diffusion does not reach is not found.
    own = ids == np.arange(n)[:, None]
    found = np.where(own | (ids < 0), -1, ids)
    order = np.argsort(found < 0, axis=1, kind="stable")
    ranked = np.take_along_axis(found, order, axis=1)[:, : n - 1]
    hits = (ranked >= 0) & (labels[ranked] == labels[:, None])
    relevant = (labels[:, None] == labels).sum(axis=1) - 1
    return metrics.average_precision(hits, relevant)
