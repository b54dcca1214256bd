"""Mining of training pairs: hard negatives, and positives and negatives from the manifold.

Descriptors are rows of arrays and are L2-normalised; images are identified by row numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.sparse import csgraph

import diffusion
from diffusion.baselines import expansion
from diffusion.errors import DiffusionError
from diffusion.validation import check_integer

from ..description.whitening import as_pairs

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Mined:
    """The images that each image may be compared with.

    Attributes
    ----------
    positives, negatives : list of ndarray of int64
        Rows of the matching and the non-matching images of each image, most useful first.
    """

    positives: list[Ids]
    negatives: list[Ids]

    @property
    def anchors(self) -> Ids:
        """Rows of the images that have positives and negatives."""
        both = [
            len(p) > 0 and len(n) > 0 for p, n in zip(self.positives, self.negatives, strict=True)
        ]
        return np.flatnonzero(both)


def groups_of_pairs(pairs: ArrayLike, n: int) -> Ids:
    """Return labels of n rows, equal for rows that are connected by a chain of pairs."""
    rows = as_pairs(pairs, n)
    links = sparse.coo_array((np.ones(len(rows)), (rows[:, 0], rows[:, 1])), shape=(n, n))
    return csgraph.connected_components(links, directed=False)[1].astype(np.int64)


def hard_negatives(X: ArrayLike, labels: ArrayLike, n: int = 5) -> list[Ids]:
    """Return the nearest images with other labels for each image, at most one per label.

    Parameters
    ----------
    X : array_like, shape (m, d)
    labels : array_like, shape (m,), int
    n : int >= 1, default 5
        Number of negatives per image, fewer if there are fewer other labels.

    Returns
    -------
    list of m ndarray of int64
        Rows of the negatives of each image, nearest first.

    References
    ----------
    Radenović, Tolias, Chum. CNN Image Retrieval Learns from BoW. ECCV 2016.
    """
    X, labels = expansion.normalize(X), np.asarray(labels)
    n = check_integer(n, "n", low=1)
    if labels.shape != X.shape[:1]:
        raise DiffusionError(f"labels: expected shape ({len(X)},), got {labels.shape}")
    wanted = min(n, len(np.unique(labels)) - 1)
    found: list[Ids] = [np.empty(0, np.int64)] * len(X)
    left, depth = np.arange(len(X)), min(len(X), 8 * n)
    # Where a list holds too few labels, search again for a list twice as long.
    while wanted and len(left):
        ids = expansion.search(X[left], X, depth)[1]
        short = []
        for row, neighbors in zip(left, ids, strict=True):
            others = neighbors[labels[neighbors] != labels[row]]
            first = np.sort(np.unique(labels[others], return_index=True)[1])[:wanted]
            found[row] = others[first]
            if len(first) < wanted:
                short.append(row)
        left, depth = np.array(short, np.int64), min(len(X), 2 * depth)
    return found


def same_label(labels: ArrayLike) -> list[Ids]:
    """Return the other images with the same label for each image."""
    labels = np.asarray(labels)
    order = np.argsort(labels, kind="stable")
    members = {labels[part[0]].item(): part for part in np.split(order, _starts(labels[order]))}
    return [members[label][members[label] != row] for row, label in enumerate(labels.tolist())]


def _starts(ordered: NDArray[np.generic]) -> Ids:
    return np.flatnonzero(ordered[1:] != ordered[:-1]) + 1


def mine_manifold(X: ArrayLike, k: int = 50, *, ranker: diffusion.Reranker | None = None) -> Mined:
    """Mine pairs without labels from the disagreement of diffusion and Euclidean distance.

    For each image, let M be the k images that diffusion ranks first and E its k nearest images. The
    positives are M without E: images that look different but are connected on the manifold. The
    negatives are E without M: images that look similar but are not connected.

    Parameters
    ----------
    X : array_like, shape (n, d)
    k : int >= 1, default 50
        Number of images in M and in E.
    ranker : Reranker, optional
        A Reranker that is not fitted yet; by default `diffusion.Reranker()`.

    Returns
    -------
    Mined
        The positives in the order of diffusion, the negatives nearest first.

    References
    ----------
    Iscen, Tolias, Avrithis, Chum. Mining on Manifolds: Metric Learning without Labels. CVPR 2018.
    """
    X = expansion.normalize(X)
    k = check_integer(k, "k", low=1)
    if len(X) < 3:
        raise DiffusionError(f"X: expected at least 3 descriptors, got {len(X)}")
    ranker = (diffusion.Reranker() if ranker is None else ranker).fit(X)
    depth = min(k + 1, len(X))
    near = _without_self(expansion.search(X, X, depth)[1], k)
    scores, ids = ranker.search(X, depth)
    # Images that diffusion does not reach have scores of 0 or less and are not in M.
    joined = _without_self(np.where(scores > 0, ids, -1), k)
    positives, negatives = [], []
    for manifold, euclidean in zip(joined, near, strict=True):
        manifold, euclidean = manifold[manifold >= 0], euclidean[euclidean >= 0]
        positives.append(manifold[~np.isin(manifold, euclidean)])
        negatives.append(euclidean[~np.isin(euclidean, manifold)])
    return Mined(positives, negatives)


def _without_self(ids: Ids, k: int) -> Ids:
    """Remove row i from list i, cut the lists to k and pad them with -1."""
    own = ids == np.arange(len(ids))[:, None]
    order = np.argsort(own, axis=1, kind="stable")
    moved = np.take_along_axis(np.where(own, -1, ids), order, axis=1)
    return moved[:, :k]
