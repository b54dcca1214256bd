"""Whitening of descriptors: PCA, and supervised from pairs that show the same thing.

PCA and shrinkage are not scikit-learn's: its `PCA` and `LedoitWolf` compute in the float32 of the
descriptors (variances off by 1e-4), or hold several float64 copies of all rows; here rows are read
in blocks. The tests compare the two.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg

from diffusion.baselines.expansion import normalize
from diffusion.errors import DiffusionError
from diffusion.storage import DAMAGED, as_path, replacing
from diffusion.validation import as_vectors, check_integer, check_real

# Directions of less than this share of the largest variance are rounding.
_RANK = 1e-10
# Rows turned at a time: the float64 copy of them is what this bounds, to 32 MiB for d = 2048.
_ROWS = 2048


@dataclass(frozen=True, eq=False)
class Whitening:
    """An affine map of descriptors, P (x - m), L2-normalised.

    Attributes
    ----------
    mean : ndarray, shape (d,), float64
        The m.
    projection : ndarray, shape (d', d), float64
        The P, most important direction first.
    """

    mean: NDArray[np.float64]
    projection: NDArray[np.float64]

    def __post_init__(self) -> None:
        if (
            self.projection.ndim != 2
            or 0 in self.projection.shape
            or self.mean.shape != self.projection.shape[1:]
        ):
            raise DiffusionError(
                "whitening: expected a mean (d,) and a projection (d', d), got "
                f"{self.mean.shape} and {self.projection.shape}"
            )
        if not (np.isfinite(self.mean).all() and np.isfinite(self.projection).all()):
            raise DiffusionError("whitening: expected finite values, found NaN or infinity")

    @property
    def dimension(self) -> int:
        """Length d' of what comes out."""
        return len(self.projection)

    def reduced(self, dimension: int) -> Whitening:
        """Keep the first `dimension` directions."""
        dimension = check_integer(dimension, "dimension", low=1)
        if dimension > self.dimension:
            raise DiffusionError(f"dimension: expected at most {self.dimension}, got {dimension}")
        return Whitening(self.mean, self.projection[:dimension])

    def apply(self, X: ArrayLike) -> NDArray[np.float32]:
        """Whiten descriptors.

        Parameters
        ----------
        X : array_like, shape (n, d)
            L2-normalised first, as those that the whitening was learned from were.

        Returns
        -------
        ndarray, shape (n, d'), float32
            L2-normalised rows.

        Raises
        ------
        DiffusionError
            If X is not as described.
        """
        X = as_vectors(X, "X", metric="cosine", dimension=len(self.mean))
        out = np.empty((len(X), self.dimension), np.float32)
        for start in range(0, len(X), _ROWS):
            rows = X[start : start + _ROWS].astype(np.float64) - self.mean
            out[start : start + _ROWS] = normalize(rows @ self.projection.T)
        return out

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an .npz of `mean` and `projection`, whole or not at all."""
        try:
            with replacing(as_path(path)) as file:
                np.savez(file, mean=self.mean, projection=self.projection)
        except OSError as error:
            raise DiffusionError(f"{path}: cannot be written ({error.strerror or error})") from None


def load_whitening(path: str | os.PathLike[str]) -> Whitening:
    """Read what `Whitening.save` wrote.

    Raises
    ------
    DiffusionError
        If the file cannot be read or holds anything else.
    """
    try:
        with open(as_path(path), "rb") as stream:
            file = np.load(stream, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("a single array")
            mean, projection = (np.asarray(file[name]) for name in ("mean", "projection"))
        if mean.dtype.kind != "f" or projection.dtype.kind != "f":
            raise ValueError(f"{mean.dtype} and {projection.dtype}")
        return Whitening(mean.astype(np.float64), projection.astype(np.float64))
    except OSError as error:
        raise DiffusionError(f"{path}: cannot be read ({error.strerror or error})") from None
    except DAMAGED as error:
        raise DiffusionError(f"{path}: expected a whitening of this library ({error})") from None


def learn_pca(
    X: ArrayLike, dimension: int | None = None, *, shrinkage: float | None = None
) -> Whitening:
    """Learn PCA whitening: uncorrelated directions of variance 1, those of most variance first.

    P = Λ^-½ Vᵀ with V Λ Vᵀ the covariance of X, of which the largest `dimension` stay.

    Parameters
    ----------
    X : array_like, shape (n, d)
        Descriptors, n >= 2; L2-normalised first.
    dimension : int >= 1, optional
        The d'; by default as many as X has directions.
    shrinkage : float in [0, 1], optional
        Share δ of the mean variance μ that is mixed into the covariance, (1 - δ) C + δ μ I,
        which keeps directions that n samples say little of from being blown up. By default
        Ledoit and Wolf's estimate, which goes to 0 as n grows; 0 is the covariance itself.

    Returns
    -------
    Whitening

    Raises
    ------
    DiffusionError
        If an argument is not as described, or X has fewer directions than asked for.

    References
    ----------
    Jégou, Chum. Negative Evidences and Co-occurences in Image Retrieval: The Benefit of PCA and
    Whitening. ECCV 2012. Ledoit, Wolf. A Well-Conditioned Estimator for Large-Dimensional
    Covariance Matrices. Journal of Multivariate Analysis, 2004.
    """
    vectors = as_vectors(X, "X", metric="cosine")
    if len(vectors) < 2:
        raise DiffusionError(f"X: expected at least 2 descriptors, got {len(vectors)}")
    mean = vectors.mean(axis=0, dtype=np.float64)
    spread = _spread(len(vectors), lambda part: vectors[part] - mean)
    count = _count(spread.variances, dimension, "X")
    return Whitening(mean, _scaled(spread.directions[:, :count], spread.shrunk(shrinkage)[:count]))


def learn_supervised(
    X: ArrayLike,
    pairs: ArrayLike,
    dimension: int | None = None,
    *,
    shrinkage: float | None = None,
) -> Whitening:
    """Learn whitening from matching pairs: what differs within pairs has variance 1 after it.

    With S the mean of (x_i - x_j)(x_i - x_j)ᵀ over the pairs, S = L Lᵀ, and V the eigenvectors of
    L^-1 C L^-ᵀ, where C is the covariance of X: P = Vᵀ L^-1, of which the directions of the
    largest variance stay.

    Parameters
    ----------
    X : array_like, shape (n, d)
        Descriptors; L2-normalised first.
    pairs : array_like, shape (m, 2), int
        Row numbers of two descriptors that show the same thing. The mean is that of their first
        column, a row as often as it stands there.
    dimension : int >= 1, optional
        The d', at most d, which is the default.
    shrinkage : float in [0, 1], optional
        As for `learn_pca`, of S. At 0, S must have full rank, which takes at least d pairs.

    Returns
    -------
    Whitening

    Raises
    ------
    DiffusionError
        If an argument is not as described, or S is singular.

    References
    ----------
    Mikolajczyk, Matas. Improving Descriptors for Fast Tree Matching by Optimal Linear Projection.
    ICCV 2007. Radenović, Tolias, Chum. CNN Image Retrieval Learns from BoW. ECCV 2016.
    """
    vectors = as_vectors(X, "X", metric="cosine")
    n, d = vectors.shape
    rows = as_pairs(pairs, n)
    often = np.bincount(rows[:, 0], minlength=n)
    mean = np.einsum("n,nd->d", often, vectors, dtype=np.float64) / len(rows)

    def differences(part: slice) -> NDArray[np.float64]:
        first, second = rows[part].T
        return vectors[first].astype(np.float64) - vectors[second]

    spread = _spread(len(rows), differences)
    shrunk = spread.shrunk(shrinkage)
    if shrunk[-1] <= _RANK * shrunk[0]:
        raise DiffusionError(
            f"pairs: expected differences in all {d} directions, got {len(rows)} pairs "
            "that leave some out; more pairs or a shrinkage above 0"
        )
    inner = _scaled(spread.directions, shrunk)  # L^-1 but for a rotation, which V takes up
    count = d if dimension is None else check_integer(dimension, "dimension", low=1)
    if count > d:
        raise DiffusionError(f"dimension: expected at most {d}, got {count}")
    outer = _spread(n, lambda part: (vectors[part] - mean) @ inner.T).directions
    return Whitening(mean, _signed(outer[:, :count]).T @ inner)


def as_pairs(pairs: ArrayLike, n: int) -> NDArray[np.int64]:
    """Check pairs of row numbers, shape (m, 2), in [0, n), the two of a pair different."""
    array = np.asarray(pairs)
    if array.ndim != 2 or array.shape[1] != 2 or not len(array) or array.dtype.kind not in "iu":
        raise DiffusionError(
            f"pairs: expected integers of shape (m, 2), m >= 1, got {array.dtype} {array.shape}"
        )
    bad = (array < 0).any(axis=1) | (array >= n).any(axis=1) | (array[:, 0] == array[:, 1])
    if bad.any():
        row = int(np.argmax(bad))
        raise DiffusionError(
            f"pairs: expected two different rows in [0, {n}), row {row} is {array[row].tolist()}"
        )
    return array.astype(np.int64)


def pairs_of(labels: ArrayLike, *, most: int | None = None, seed: int = 0) -> NDArray[np.int64]:
    """Return all pairs of rows that have the same label, or that many of them, at random.

    Parameters
    ----------
    labels : array_like, shape (n,)
    most : int >= 1, optional
    seed : int >= 0, default 0

    Returns
    -------
    ndarray, shape (m, 2), int64

    Raises
    ------
    DiffusionError
        If no two labels are the same.
    """
    labels = np.asarray(labels)
    if labels.ndim != 1:
        raise DiffusionError(f"labels: expected shape (n,), got {labels.shape}")
    seed = check_integer(seed, "seed", low=0)
    _, members, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    order = np.argsort(members, kind="stable")
    starts = np.cumsum(sizes) - sizes
    # Pairs are numbered, label by label, and only those that are taken are written out.
    counts = sizes * (sizes - 1) // 2
    ends = np.cumsum(counts)
    total = int(counts.sum())
    if not total:
        raise DiffusionError("labels: expected two of one label at least")
    if most is None or total <= check_integer(most, "most", low=1):
        numbers = np.arange(total)
    else:
        rng = np.random.default_rng(seed)
        numbers = np.sort(rng.choice(total, most, replace=False, shuffle=False))
    label = np.searchsorted(ends, numbers, side="right")
    within = numbers - (ends - counts)[label]
    # Number j (j - 1) / 2 + i is that of the members i < j; the root may be off by its rounding.
    second = ((1 + np.sqrt(1 + 8 * within)) / 2).astype(np.int64)
    second -= second * (second - 1) // 2 > within
    first = within - second * (second - 1) // 2
    return order[starts[label, None] + np.stack([first, second], axis=1)]


class _Spread(NamedTuple):
    """How rows r spread: eigenvalues and eigenvectors of the mean of r rᵀ, and more of them."""

    variances: NDArray[np.float64]  # descending
    directions: NDArray[np.float64]  # in columns
    fourth: float  # the mean of ||r||^4
    rows: int

    def shrunk(self, shrinkage: float | None) -> NDArray[np.float64]:
        """Return the variances with a share of their mean mixed in."""
        if shrinkage is None:
            share = self._ledoit_wolf()
        else:
            share = 1.0 if shrinkage == 1 else check_real(shrinkage, "shrinkage", low=0, high=1)
        return (1 - share) * self.variances + share * self.variances.mean()

    def _ledoit_wolf(self) -> float:
        if self.rows < 2:
            return 1.0  # of one sample the estimate is not defined
        squares = float(self.variances @ self.variances)
        error = (self.fourth - squares) / self.rows
        spread = squares - self.variances.sum() ** 2 / len(self.variances)
        return min(1.0, max(0.0, error) / spread) if spread > 0 else 0.0


def _spread(count: int, rows: Callable[[slice], NDArray[np.float64]]) -> _Spread:
    """Measure `count` rows, of which `rows` returns a part, and never more at a time."""
    total: Any = 0.0
    fourth = 0.0
    for start in range(0, count, _ROWS):
        part = rows(slice(start, start + _ROWS))
        total = total + part.T @ part
        fourth += float((np.square(part).sum(axis=1) ** 2).sum())
    variances, directions = linalg.eigh(total / count)
    return _Spread(np.maximum(variances[::-1], 0), directions[:, ::-1], fourth / count, count)


def _count(variances: NDArray[np.float64], dimension: int | None, name: str) -> int:
    directions = int(np.count_nonzero(variances > _RANK * variances[0]))
    if not directions:
        raise DiffusionError(f"{name}: expected descriptors that differ, all are the same")
    if dimension is None:
        return directions
    if check_integer(dimension, "dimension", low=1) > directions:
        raise DiffusionError(
            f"dimension: expected at most {directions}, as many directions as {name} has, "
            f"got {dimension}"
        )
    return int(dimension)


def _scaled(directions: NDArray[np.float64], variances: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(divide="ignore"):
        return (_signed(directions) / np.sqrt(variances)).T


def _signed(directions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn each eigenvector so that its largest entry is positive, whatever LAPACK returned."""
    largest = np.abs(directions).argmax(axis=0)
    return directions * np.where(directions[largest, np.arange(directions.shape[1])] < 0, -1, 1)
