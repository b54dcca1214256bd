"""Which images to compare while learning: hard negatives, and pairs from the manifold.

Everything here works on descriptors, L2-normalised rows, and on row numbers.
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
    """What each image may be compared with; an image without either is no anchor.

    Attributes
    ----------
    positives, negatives : list of ndarray of int64
        Rows for each image, most useful first.
    """

    positives: list[Ids]
    negatives: list[Ids]

    @property
    def anchors(self) -> Ids:
        """Rows that have both."""
        both = [
            len(p) > 0 and len(n) > 0 for p, n in zip(self.positives, self.negatives, strict=True)
        ]
        return np.flatnonzero(both)


def groups_of_pairs(pairs: ArrayLike, n: int) -> Ids:
    """Return a label for each of n rows: the same for rows that a chain of pairs joins."""
    rows = as_pairs(pairs, n)
    links = sparse.coo_array((np.ones(len(rows)), (rows[:, 0], rows[:, 1])), shape=(n, n))
    return csgraph.connected_components(links, directed=False)[1].astype(np.int64)


def hard_negatives(X: ArrayLike, labels: ArrayLike, n: int = 5) -> list[Ids]:
    """Return each image's nearest images of other labels, at most one of each label.

    Parameters
    ----------
    X : array_like, shape (m, d)
    labels : array_like, shape (m,), int
    n : int >= 1, default 5
        Negatives an image, fewer where there are fewer other labels.

    Returns
    -------
    list of m ndarray of int64
        Nearest first.

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
    # Lists that are too short to hold enough labels are asked for again, twice as long.
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
    """Return each image's images of the same label, itself left out."""
    labels = np.asarray(labels)
    order = np.argsort(labels, kind="stable")
    members = {labels[part[0]].item(): part for part in np.split(order, _starts(labels[order]))}
    return [members[label][members[label] != row] for row, label in enumerate(labels.tolist())]


def _starts(ordered: NDArray[np.generic]) -> Ids:
    return np.flatnonzero(ordered[1:] != ordered[:-1]) + 1


def mine_manifold(X: ArrayLike, k: int = 50, *, ranker: diffusion.Reranker | None = None) -> Mined:
    """Mine pairs without labels, where diffusion and the Euclidean distance disagree.

    With M the k images that diffusion ranks first for an image and E its k nearest: positives are
    M without E, which the manifold joins though they look different; negatives are E without M,
    which look alike though no way along the manifold leads there.

    Parameters
    ----------
    X : array_like, shape (n, d)
    k : int >= 1, default 50
    ranker : Reranker, optional
        Not fitted yet; by default `diffusion.Reranker()`.

    Returns
    -------
    Mined
        Positives in diffusion's order, negatives nearest first.

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
    # What diffusion does not reach follows with scores of 0 and less: nothing of the manifold.
    joined = _without_self(np.where(scores > 0, ids, -1), k)
    positives, negatives = [], []
    for manifold, euclidean in zip(joined, near, strict=True):
        manifold, euclidean = manifold[manifold >= 0], euclidean[euclidean >= 0]
        positives.append(manifold[~np.isin(manifold, euclidean)])
        negatives.append(euclidean[~np.isin(euclidean, manifold)])
    return Mined(positives, negatives)


def _without_self(ids: Ids, k: int) -> Ids:
    """Take row i out of list i, closing the gap; cut to k, padded with -1."""
    own = ids == np.arange(len(ids))[:, None]
    order = np.argsort(own, axis=1, kind="stable")
    moved = np.take_along_axis(np.where(own, -1, ids), order, axis=1)
    return moved[:, :k]
