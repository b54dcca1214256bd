"""Whitening of descriptors: PCA, and supervised whitening from matching pairs.

PCA and shrinkage are not those of scikit-learn, whose `PCA` and `LedoitWolf` either compute in the
float32 of the descriptors (relative error of the variances 1e-4) or hold several float64 copies of
all rows. Here rows are converted in blocks. The tests compare the shrinkage with scikit-learn's.
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
from diffusion.storage import DAMAGED, as_path, errors_named, opened, read_archive, replacing
from diffusion.validation import as_vectors, check_integer, check_real

# Directions with less than this share of the largest variance are rounding errors.
_RANK = 1e-10
# Rows per block, which bounds the float64 copy of a block to 32 MiB for d = 2048.
_ROWS = 2048


@dataclass(frozen=True, eq=False)
class Whitening:
    """An affine map of descriptors, x -> P (x - m), followed by L2 normalisation.

    Attributes
    ----------
    mean : ndarray, shape (d,), float64
        The mean m.
    projection : ndarray, shape (d', d), float64
        The projection P, most important direction first.
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
        """Length d' of the whitened descriptors."""
        return len(self.projection)

    def reduced(self, dimension: int) -> Whitening:
        """Return a whitening with the first `dimension` directions only."""
        dimension = check_integer(dimension, "dimension", low=1)
        if dimension > self.dimension:
            raise DiffusionError(f"dimension: expected at most {self.dimension}, got {dimension}")
        return Whitening(self.mean, self.projection[:dimension])

    def apply(self, X: ArrayLike) -> NDArray[np.float32]:
        """Whiten descriptors.

        Parameters
        ----------
        X : array_like, shape (n, d)
            Descriptors, which are L2-normalised first, as in the learning of the whitening.

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
        """Write an .npz file of `mean` and `projection`, which appears only once it is complete."""
        with errors_named(path), replacing(as_path(path)) as file:
            np.savez(file, mean=self.mean, projection=self.projection)


def load_whitening(path: str | os.PathLike[str]) -> Whitening:
    """Read a file that `Whitening.save` wrote.

    Raises
    ------
    DiffusionError
        If the file cannot be read or does not hold a whitening.
    """
    try:
        with opened(as_path(path), links=True) as stream:
            mean, projection = read_archive(stream, ("mean", "projection")).values()
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
    """Learn PCA whitening, which makes the components uncorrelated and of variance 1.

    P = Λ^-½ Vᵀ, where V Λ Vᵀ is the covariance of X. The `dimension` directions of the largest
    variance are kept, in descending order.

    Parameters
    ----------
    X : array_like, shape (n, d)
        Descriptors, n >= 2, which are L2-normalised first.
    dimension : int >= 1, optional
        Length d' of the whitened descriptors; by default the number of directions in which X
        varies.
    shrinkage : float in [0, 1], optional
        Weight δ of the mean variance μ in the shrunk covariance (1 - δ) C + δ μ I. Shrinkage
        limits the amplification of directions whose variance is estimated poorly from n samples.
        By default the estimate of Ledoit and Wolf, which approaches 0 as n grows; 0 means the
        covariance itself.

    Returns
    -------
    Whitening

    Raises
    ------
    DiffusionError
        If an argument is not as described, or X varies in fewer than `dimension` directions.

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


class Moments:
    """The mean and covariance of descriptors that are seen block by block, for PCA whitening.

    Descriptors are L2-normalised first. With r = x - x_0, where x_0 is the mean of the first block,
    the sums of r, r rᵀ, ||r||², ||r||² r and ||r||⁴ are kept in float64; the covariance C and the
    fourth central moment that `learn_pca` needs follow from them. The shift by x_0 keeps the
    difference between E[r rᵀ] and E[r] E[r]ᵀ accurate.

    Parameters
    ----------
    dimension : int >= 1
        Length d of the descriptors.

    Attributes
    ----------
    count : int
        Number of descriptors seen.

    Notes
    -----
    Memory: 8 d² bytes, and twice 2048 descriptors.
    """

    def __init__(self, dimension: int) -> None:
        self.count = 0
        self.dimension = check_integer(dimension, "dimension", low=1)
        self._held: list[NDArray[np.float32]] = []
        self._shift: NDArray[np.float64] | None = None
        self._sum = np.zeros(dimension)
        self._products = np.zeros((dimension, dimension))
        self._squared = 0.0  # the sum of ||r||^2
        self._skewed = np.zeros(dimension)  # the sum of ||r||^2 r
        self._fourth = 0.0  # the sum of ||r||^4

    def add(self, X: ArrayLike) -> None:
        """Take descriptors (n, d) into account, n >= 1."""
        X = as_vectors(X, "X", metric="cosine", dimension=self.dimension)
        self._held.append(X)
        self.count += len(X)
        # Products of many rows at a time are many times faster.
        if sum(map(len, self._held)) >= _ROWS:
            self._flush()

    def pca(self, dimension: int | None = None, *, shrinkage: float | None = None) -> Whitening:
        """Return what `learn_pca` returns for all descriptors seen, up to rounding.

        By default as many directions as the descriptors vary in; see `learn_pca`.

        Raises
        ------
        DiffusionError
            If there were fewer than two descriptors, all are equal, or an argument is not as
            described there.
        """
        if self.count < 2:
            raise DiffusionError(f"X: expected at least 2 descriptors, got {self.count}")
        self._flush()
        assert self._shift is not None
        m, mm = self._sum / self.count, self._products / self.count
        # ||r - m||^2 = ||r||^2 - 2 m.r + ||m||^2; the mean of its square is expanded.
        square = float(m @ m)
        fourth = (
            self._fourth / self.count
            + 4 * float(m @ mm @ m)
            - 4 * float(m @ self._skewed) / self.count
            + 2 * square * self._squared / self.count
            - 3 * square**2
        )
        variances, directions = linalg.eigh(mm - np.outer(m, m))
        spread = _Spread(
            np.maximum(variances[::-1], 0), directions[:, ::-1], max(0.0, fourth), self.count
        )
        count = _count(spread.variances, dimension, "X")
        projection = _scaled(spread.directions[:, :count], spread.shrunk(shrinkage)[:count])
        return Whitening(self._shift + m, projection)

    def _flush(self) -> None:
        """Add what is held to the sums."""
        if not self._held:
            return
        rows, self._held = np.concatenate(self._held), []
        if self._shift is None:
            self._shift = rows.mean(axis=0, dtype=np.float64)
        for start in range(0, len(rows), _ROWS):
            part = rows[start : start + _ROWS] - self._shift
            squares = np.square(part).sum(axis=1)
            self._sum += part.sum(axis=0)
            self._products += part.T @ part
            self._squared += float(squares.sum())
            self._skewed += squares @ part
            self._fourth += float(squares @ squares)


def learn_supervised(
    X: ArrayLike,
    pairs: ArrayLike,
    dimension: int | None = None,
    *,
    shrinkage: float | None = None,
) -> Whitening:
    """Learn whitening from matching pairs, whose differences then have variance 1.

    Let S = L Lᵀ be the mean of (x_i - x_j)(x_i - x_j)ᵀ over the pairs, C the covariance of X, and V
    the eigenvectors of L^-1 C L^-ᵀ. Then P = Vᵀ L^-1, of which the `dimension` directions of the
    largest variance are kept.

    Parameters
    ----------
    X : array_like, shape (n, d)
        Descriptors, which are L2-normalised first.
    pairs : array_like, shape (m, 2), int
        Pairs of row numbers whose descriptors show the same object. The mean m is the mean of the
        rows in the first column, each counted as often as it occurs there.
    dimension : int >= 1, optional
        Length d' of the whitened descriptors, at most d; by default d.
    shrinkage : float in [0, 1], optional
        Shrinkage of S, as for `learn_pca`. With 0, S must have full rank, which takes at least d
        pairs.

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
            f"pairs: expected differences that span all {d} directions, got {len(rows)} pairs that "
            "do not; use more pairs or a shrinkage above 0"
        )
    inner = _scaled(spread.directions, shrunk)  # L^-1 up to a rotation, which V compensates
    count = d if dimension is None else check_integer(dimension, "dimension", low=1)
    if count > d:
        raise DiffusionError(f"dimension: expected at most {d}, got {count}")
    outer = _spread(n, lambda part: (vectors[part] - mean) @ inner.T).directions
    return Whitening(mean, _signed(outer[:, :count]).T @ inner)


def as_pairs(pairs: ArrayLike, n: int) -> NDArray[np.int64]:
    """Validate pairs (m, 2) of two different row numbers each, in [0, n)."""
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
    """Return all pairs of rows with equal labels, or a random choice of them.

    Parameters
    ----------
    labels : array_like, shape (n,)
    most : int >= 1, optional
        The largest number of pairs to return; by default all are returned.
    seed : int >= 0, default 0
        Seed of the random choice.

    Returns
    -------
    ndarray, shape (m, 2), int64

    Raises
    ------
    DiffusionError
        If no two labels are equal.
    """
    labels = np.asarray(labels)
    if labels.ndim != 1:
        raise DiffusionError(f"labels: expected shape (n,), got {labels.shape}")
    seed = check_integer(seed, "seed", low=0)
    _, members, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    order = np.argsort(members, kind="stable")
    starts = np.cumsum(sizes) - sizes
    # Pairs are numbered, label by label, and only the chosen ones are computed.
    counts = sizes * (sizes - 1) // 2
    ends = np.cumsum(counts)
    total = int(counts.sum())
    if not total:
        raise DiffusionError("labels: expected at least two equal labels")
    if most is None or total <= check_integer(most, "most", low=1):
        numbers = np.arange(total)
    else:
        rng = np.random.default_rng(seed)
        numbers = np.sort(rng.choice(total, most, replace=False, shuffle=False))
    label = np.searchsorted(ends, numbers, side="right")
    within = numbers - (ends - counts)[label]
    # Members i < j form the pair number j (j - 1) / 2 + i. The next line corrects rounding errors.
    second = ((1 + np.sqrt(1 + 8 * within)) / 2).astype(np.int64)
    second -= second * (second - 1) // 2 > within
    first = within - second * (second - 1) // 2
    return order[starts[label, None] + np.stack([first, second], axis=1)]


class _Spread(NamedTuple):
    """The spread of rows r: eigenvalues and eigenvectors of the mean of r rᵀ, and two moments."""

    variances: NDArray[np.float64]  # descending
    directions: NDArray[np.float64]  # in columns
    fourth: float  # the mean of ||r||^4
    rows: int

    def shrunk(self, shrinkage: float | None) -> NDArray[np.float64]:
        """Return the variances after shrinkage towards their mean."""
        if shrinkage is None:
            share = self._ledoit_wolf()
        else:
            share = 1.0 if shrinkage == 1 else check_real(shrinkage, "shrinkage", low=0, high=1)
        return (1 - share) * self.variances + share * self.variances.mean()

    def _ledoit_wolf(self) -> float:
        if self.rows < 2:
            return 1.0  # the estimate is undefined for one sample
        squares = float(self.variances @ self.variances)
        error = (self.fourth - squares) / self.rows
        spread = squares - self.variances.sum() ** 2 / len(self.variances)
        return min(1.0, max(0.0, error) / spread) if spread > 0 else 0.0


def _spread(count: int, rows: Callable[[slice], NDArray[np.float64]]) -> _Spread:
    """Measure the spread of `count` rows, which `rows` returns in blocks."""
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
        raise DiffusionError(f"{name}: expected descriptors that differ, all are equal")
    if dimension is None:
        return directions
    if check_integer(dimension, "dimension", low=1) > directions:
        raise DiffusionError(
            f"dimension: expected at most {directions}, the number of directions in {name}, "
            f"got {dimension}"
        )
    return int(dimension)


def _scaled(directions: NDArray[np.float64], variances: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(divide="ignore"):
        return (_signed(directions) / np.sqrt(variances)).T


def _signed(directions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Choose the sign of each eigenvector so that its largest entry is positive."""
    largest = np.abs(directions).argmax(axis=0)
    return directions * np.where(directions[largest, np.arange(directions.shape[1])] < 0, -1, 1)
