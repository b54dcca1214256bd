"""Groups of boxes that show the same object, from the graph of the boxes of all photos.

The likeness of two boxes is A^(1/3), where A is the weight of their edge in the graph of
`diffusion` with the contextual affinity, which is the cube of a similarity. It is in [0, 1], and 0
for boxes that are not among each other's nearest. Boxes are merged by average linkage: the likeness
of two clusters is the mean over all pairs of their boxes, in which an absent edge counts as 0, so
that a few edges between large clusters do not merge them.

Reference: Sumengen, Rajagopalan, Citovsky, Simcha, Bachem, Mitra, Blasiak, Liang, Kumar. Scaling
Hierarchical Agglomerative Clustering to Billion-sized Datasets. 2021, arXiv 2105.11653: merging all
pairs of mutual nearest clusters at once gives the result of merging one pair at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

import diffusion
from diffusion.errors import DiffusionError

# Clusters with a smaller mean likeness are not merged. On scenes of one pasted object and of three,
# groups agree best with the objects from 0.18 and from 0.12 on.
LEAST_LIKENESS = 0.15

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Groups:
    """Boxes grouped by the object that they show.

    Attributes
    ----------
    labels : ndarray, shape (m,), int64
        The group of each box, -1 for none. Groups are numbered from 0 by descending number of
        photos, and those of as many photos by their first photo, then by their first box.
    likeness : ndarray, shape (m,), float32
        Mean likeness of each box to the other boxes of its group, in [0, 1]; 0 in no group.
    """

    labels: Ints
    likeness: NDArray[np.float32]

    def __len__(self) -> int:
        """Return the number of groups."""
        return int(self.labels.max(initial=-1)) + 1

    def members(self) -> list[Ints]:
        """Return the numbers of the boxes of each group, by descending likeness."""
        order = np.lexsort((-self.likeness, self.labels))
        order = order[self.labels[order] >= 0]
        return np.split(order, np.flatnonzero(np.diff(self.labels[order])) + 1) if len(self) else []


def find_groups(vectors: ArrayLike, images: ArrayLike, *, progress: bool = False) -> Groups:
    """Group the boxes of a collection by the objects that they show.

    Parameters
    ----------
    vectors : array_like, shape (m, d)
        Descriptors of the boxes, finite; only their directions count. A box whose descriptor is
        zero is in no group.
    images : array_like, shape (m,), int >= 0
        Number of the photo of each box.
    progress : bool, default False
        Show bars on standard error.

    Returns
    -------
    Groups
        Each has boxes of two photos at least; several boxes of a photo may be in one group.

    Raises
    ------
    DiffusionError
        If `vectors` or `images` are not as described.

    Notes
    -----
    Memory: that of a `diffusion.Reranker` of m items, about 2 kB per box, and no array of m x m.
    Boxes with the same descriptor are one node of the graph, with the likeness 1 to each other.

    The affinity compares neighbourhoods, not similarities themselves. Background that resembles
    itself forms groups as objects do, most of them small.
    """
    X = np.asarray(vectors, np.float32)
    if X.ndim != 2:
        raise DiffusionError(f"vectors: expected shape (boxes, dimension), got {X.shape}")
    photos = np.asarray(images)
    if photos.shape != (len(X),) or (len(X) and photos.dtype.kind not in "iu"):
        raise DiffusionError(
            f"images: expected a photo's number for each of {len(X)} boxes, got {photos.dtype} of "
            f"shape {photos.shape}"
        )
    none = Groups(np.full(len(X), -1), np.zeros(len(X), np.float32))
    if len(X) < 2:
        return none
    ranker = diffusion.Reranker(solver="cg", progress=progress).fit(X)
    nodes = ranker.nodes_.astype(np.int64)
    likeness = _likeness_of(ranker.graph_)
    copies = np.bincount(nodes)
    clusters = average_linkage(likeness, LEAST_LIKENESS, copies)[nodes]
    within = _mean_within(likeness, copies, nodes, clusters)
    labels = _numbered(np.where(X.any(axis=1), clusters, -1), photos)
    return Groups(labels, np.where(labels >= 0, within, 0).astype(np.float32))


def average_linkage(
    likeness: sparse.csr_array, least: float, sizes: NDArray[np.integer] | None = None
) -> Ints:
    """Merge the two clusters of the highest mean likeness until it is below `least`.

    Parameters
    ----------
    likeness : sparse array, shape (n, n)
        Symmetric and >= 0. Entries that are not stored are 0, and the diagonal is ignored.
    least : float > 0
    sizes : ndarray, shape (n,), int >= 1, optional
        Number of items that each row stands for, by default 1.

    Returns
    -------
    ndarray, shape (n,), int64
        The cluster of each row: the number of its first row. Among equal likenesses, the pair with
        the lowest such number is merged first, then the one with the lowest other number.

    Notes
    -----
    The likeness of a merged cluster to a third one is a weighted mean of those of its parts. It is
    no higher than the higher of the two, so that two clusters that are nearest to each other are
    merged at some time whatever else is merged before. All such pairs are merged at once in each
    round; in practice there are some tens of rounds, each of which sorts the edges that are left.
    Clusters without a neighbour at `least` or more never have one again, and their edges are
    dropped.
    """
    edges = sparse.triu(likeness, 1, format="coo")
    low, high = (ends.astype(np.int64) for ends in edges.coords)
    n, total = likeness.shape[0], edges.data.astype(np.float64)
    count = np.ones(n) if sizes is None else np.asarray(sizes, np.float64)
    count, into, labels = count.copy(), np.arange(n), np.arange(n)
    if sizes is not None:
        total = total * count[low] * count[high]
    while True:
        mean = total / (count[low] * count[high])
        near = mean >= least
        if not near.any():
            return labels
        first, second = _mutual(low[near], high[near], mean[near])
        into[second] = first
        count[first] += count[second]
        labels = into[labels]
        active = np.zeros(n, bool)
        active[low[near]] = active[high[near]] = True
        kept = active[low] & active[high]
        low, high, total = _contracted(into[low[kept]], into[high[kept]], total[kept], n)


def _mutual(low: Ints, high: Ints, mean: NDArray[np.float64]) -> tuple[Ints, Ints]:
    """Return the pairs of clusters that are nearest to each other, the lower number first."""
    here, there = np.concatenate([low, high]), np.concatenate([high, low])
    order = np.lexsort((there, -np.concatenate([mean, mean]), here))
    here, there = here[order], there[order]
    first = np.diff(here, prepend=-1) > 0
    here, there = here[first], there[first]
    # A neighbour has a neighbour too, so that it is in `here`.
    mutual = (there[np.searchsorted(here, there)] == here) & (here < there)
    return here[mutual], there[mutual]


def _contracted(
    a: Ints, b: Ints, total: NDArray[np.float64], n: int
) -> tuple[Ints, Ints, NDArray[np.float64]]:
    """Return the edges between different clusters, each once, with the sums of their weights."""
    between = a != b
    a, b, total = a[between], b[between], total[between]
    pairs, place = np.unique(np.minimum(a, b) * n + np.maximum(a, b), return_inverse=True)
    low, high = np.divmod(pairs, n)
    sums = np.asarray(np.bincount(place, total, len(pairs)), np.float64)
    return low, high, sums


def _likeness_of(graph: diffusion.Graph) -> sparse.csr_array:
    """Return A^(1/3) of a graph, whose W is D^-1/2 A D^-1/2."""
    root = sparse.diags_array(np.sqrt(graph.degrees))
    likeness = sparse.csr_array(root @ graph.W @ root)
    likeness.data = np.cbrt(likeness.data)
    return likeness


def _mean_within(
    likeness: sparse.csr_array, copies: NDArray[np.integer], nodes: Ints, clusters: Ints
) -> NDArray[np.float64]:
    """Return the mean likeness (m,) of each item to the others of its cluster, 0 if alone."""
    of_node = np.empty(len(copies), np.int64)
    of_node[nodes] = clusters
    edges = likeness.tocoo()
    row, column = edges.coords
    same = (of_node[row] == of_node[column]) & (row != column)
    row, column, values = row[same], column[same], edges.data[same]
    total = np.bincount(row, values * copies[column], len(copies)) + (copies - 1)
    others = np.bincount(clusters, minlength=len(nodes))[clusters] - 1
    return np.minimum(total[nodes] / np.maximum(others, 1), 1)


def _numbered(clusters: Ints, photos: NDArray[np.integer]) -> Ints:
    """Return the group (m,) of each item, of those clusters that are in two photos at least."""
    rows = np.flatnonzero(clusters >= 0)
    photo = np.unique(photos, return_inverse=True)[1]
    # Every pair of a cluster and a photo once, at its first row.
    pairs, first = np.unique(
        clusters[rows] * np.int64(len(photos)) + photo[rows], return_index=True
    )
    cluster, start, count = np.unique(pairs // len(photos), return_index=True, return_counts=True)
    earliest = pairs[start] % len(photos)
    order = np.lexsort((first[start], earliest, -count))
    order = order[count[order] >= 2]
    number = np.full(len(photos), -1)
    number[cluster[order]] = np.arange(len(order))
    return np.where(clusters >= 0, number[clusters], -1)
