"""Regions that belong to images: the grouping of rows, and generalised max pooling."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from ..errors import DiffusionError
from ..validation import as_numeric, as_vectors, check_real

# Values of a temporary: 32 MiB of float64.
_BLOCK_VALUES = 1 << 22


@dataclass(frozen=True, eq=False)
class Groups:
    """Rows that belong to images or queries.

    Attributes
    ----------
    names : ndarray, shape (n,), int64
        The numbers of the groups that have a row, ascending.
    members : ndarray, shape (m,), int32
        The group of each row, as a position in `names`.
    """

    names: NDArray[np.int64]
    members: NDArray[np.int32]

    @classmethod
    def of(cls, numbers: ArrayLike, rows: Any, name: str) -> Self:
        """Check the group numbers (m,) of m rows; `name` is the argument that errors name."""
        array = as_numeric(numbers, name)
        expected = len(rows) if np.ndim(rows) else 0
        if array.shape != (expected,) or (array.size and array.dtype.kind not in "iu"):
            raise DiffusionError(
                f"{name}: expected integers of shape ({expected},), one for each row of vectors, "
                f"got {array.dtype} of shape {array.shape}"
            )
        bad = (array < 0) | (array > np.iinfo(np.int64).max)
        if bad.any():
            row = int(np.argmax(bad))
            raise DiffusionError(f"{name}: expected int64 of at least 0, row {row} is {array[row]}")
        names, members = np.unique(array.astype(np.int64, copy=False), return_inverse=True)
        return cls(names, members.astype(np.int32))

    @classmethod
    def of_queries(cls, queries: ArrayLike | None, vectors: NDArray[np.float32]) -> Self:
        """Check the query numbers (m,) of vectors (m, d): 0 to nq - 1; None is all 0."""
        groups = cls.of(
            np.zeros(len(vectors), int) if queries is None else queries, vectors, "queries"
        )
        wrong = groups.names != np.arange(len(groups.names))
        if wrong.any():
            raise DiffusionError(
                f"queries: expected every number from 0 to {groups.names[-1]}, "
                f"{int(np.argmax(wrong))} is left out"
            )
        return groups

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """The rows sorted by group, in ascending order within a group; shape (m,)."""
        return np.argsort(self.members, kind="stable")

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """The start of each group in `order`, followed by the number of rows, shape (n + 1,)."""
        return np.concatenate([[0], np.cumsum(self.sizes)])

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """Number of rows of each group, shape (n,)."""
        return np.bincount(self.members, minlength=len(self.names))


def matched(
    row: NDArray[np.integer],
    image: NDArray[np.integer],
    values: NDArray[np.floating],
    asked: NDArray[np.integer],
    n: int,
) -> sparse.csr_array:
    """Return the mean, over the regions of a query, of an image's best value for the region.

    Parameters
    ----------
    row, image : ndarray, shape (e,), int
        The region of a query and the image of each value, in any order.
    values : ndarray, shape (e,), float
        At least 0; an image that a region has no value for counts as 0.
    asked : ndarray, shape (r,), int
        The query of each of its regions, from 0 to b - 1, each of which has one.
    n : int
        Number of images.

    Returns
    -------
    sparse array, shape (b, n), float64
        Every image with a value has an entry, also if it is 0.
    """
    pair = row.astype(np.int64) * n + image
    order = np.argsort(pair, kind="stable")
    pair = pair[order]
    first = np.flatnonzero(np.diff(pair, prepend=-1))
    values = values[order].astype(np.float64)
    best = np.maximum.reduceat(values, first) if len(first) else values
    row, image = np.divmod(pair[first], n)
    sizes = np.bincount(asked)
    query = asked[row]
    return sparse.csr_array((best / sizes[query], (query, image)), shape=(len(sizes), n))


def best_first(
    rows: sparse.csr_array, width: int | None = None
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the entries of sparse rows as lists (b, width), equal values by ascending column.

    They are padded with -inf and -1; the width is that of the longest row by default, at least 1.
    """
    counts = np.diff(rows.indptr)
    row = np.repeat(np.arange(len(counts)), counts)
    order = np.lexsort((rows.indices, -rows.data, row))
    place = np.arange(len(row)) - np.repeat(rows.indptr[:-1], counts)
    width = int(counts.max(initial=1)) if width is None else width
    kept = place < width
    row, place, order = row[kept], place[kept], order[kept]
    values = np.full((len(counts), width), -np.inf)
    columns = np.full(values.shape, -1, np.int64)
    values[row, place], columns[row, place] = rows.data[order], rows.indices[order]
    return values, columns


def image_lists(
    scores: NDArray[np.float32],
    ids: NDArray[np.integer],
    asked: NDArray[np.integer],
    members: NDArray[np.integer],
    n: int,
    width: int | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Turn the neighbour lists of regions into lists of images.

    The score of an image is the mean, over the regions of a query, of the similarity of its region
    that is most similar. Regions that are not in a list are at most as similar as its last entry,
    whose score therefore stands for those of images that are not in it.

    Parameters
    ----------
    scores, ids : ndarray, shape (r, c)
        The lists of the regions of queries, best first, padded with -inf and -1.
    asked : ndarray, shape (r,), int
        The query of each region, from 0 to b - 1, each of which has one.
    members : ndarray, shape (m,), int
        The image of each region of the collection.
    n : int
        Number of images.
    width : int, optional
        Length of the lists, by default that of the longest.

    Returns
    -------
    scores, ids : ndarray, shape (b, width), float32 and int64
        Images that are in at least one list, best first, equal scores by ascending number; padded
        with -inf and -1.
    """
    row, place = np.nonzero(ids >= 0)
    last = np.where(ids >= 0, scores, np.inf).min(axis=1, initial=np.inf).astype(np.float64)
    last[np.isinf(last)] = 0  # an empty list
    above = scores[row, place] - last[row]
    best = best_first(matched(row, members[ids[row, place]], above, asked, n), width)
    base = np.bincount(asked, last) / np.bincount(asked)
    # Rounding must not make a mean of distances of 0 positive.
    most = float(scores.max(initial=0.0))
    return np.minimum(best[0] + base[:, None], most).astype(np.float32), best[1]


def generalized_max_pooling(
    X: ArrayLike, images: ArrayLike, *, regularization: float = 1.0
) -> NDArray[np.float32]:
    """Compute weights of the regions of each image, such that similar regions share one vote.

    With the L2-normalised regions of an image in the rows of Φ, the weights of its regions are
    ``w = (Φ Φᵀ + λ I)^-1 1``. For λ -> 0, the weighted sum ``Φᵀ w`` is equally similar to every
    region, whether there are many like it or none. For λ -> ∞, all weights are equal.

    Parameters
    ----------
    X : array_like, shape (m, d)
    images : array_like, shape (m,), int
        The image number of each region, >= 0, in any order.
    regularization : float > 0, default 1.0
        The λ.

    Returns
    -------
    ndarray, shape (m,), float32
        The weight of each region. With a small λ, it is negative for regions between others.

    Raises
    ------
    DiffusionError
        If an argument is not as described.

    Notes
    -----
    One linear system per image is solved; its number of unknowns is the number of regions or d,
    whichever is smaller. Images with equal numbers of regions are solved together.

    References
    ----------
    Murray, Jégou, Perronnin, Zisserman. Interferences in Match Kernels. TPAMI 2017.
    Iscen, Tolias, Avrithis, Furon, Chum. Efficient Diffusion on Region Manifolds. CVPR 2017.

    Examples
    --------
    Two equal regions get the weight 1 / (2 + λ) each, a region orthogonal to them 1 / (1 + λ).

    >>> generalized_max_pooling([[1, 0], [1, 0], [0, 1]], [7, 7, 7])
    array([0.33333334, 0.33333334, 0.5       ], dtype=float32)
    """
    ridge = check_real(regularization, "regularization", low=0.0, strict=True)
    array = as_numeric(X, "X")
    if array.ndim != 2:
        raise DiffusionError(f"X: expected shape (m, d), got {array.shape}")
    groups = Groups.of(images, array, "images")
    weights = np.empty(len(array), np.float32)
    for size in np.unique(groups.sizes):
        alike = np.flatnonzero(groups.sizes == size)
        step = max(1, _BLOCK_VALUES // int(size * (size + array.shape[1])))
        for start in range(0, len(alike), step):
            begins = groups.starts[alike[start : start + step]]
            rows = groups.order[begins[:, None] + np.arange(size)]
            regions = as_vectors(array[rows.ravel()], "X", metric="cosine").astype(np.float64)
            weights[rows] = _weights(regions.reshape(*rows.shape, -1), ridge)
    return weights


def _weights(phi: NDArray[np.floating], ridge: float) -> NDArray[np.floating]:
    """Solve (Φ Φᵀ + λ I) w = 1 for each Φ (r, d) of a stack (b, r, d)."""
    # Rounding to float32 has moved the norms away from 1 slightly; zero rows have the norm 0.
    norms = np.linalg.norm(phi, axis=2, keepdims=True)
    phi = np.divide(phi, norms, out=np.zeros_like(phi), where=norms > 0)
    b, r, d = phi.shape
    transposed = phi.transpose(0, 2, 1)
    if r <= d:
        return np.linalg.solve(phi @ transposed + ridge * np.eye(r), np.ones((b, r, 1)))[..., 0]
    # An equivalent system with d unknowns: (Φ Φᵀ + λ I)^-1 = (I - Φ (Φᵀ Φ + λ I)^-1 Φᵀ) / λ.
    total = phi.sum(axis=1)[..., None]
    return (1 - phi @ np.linalg.solve(transposed @ phi + ridge * np.eye(d), total))[..., 0] / ridge
