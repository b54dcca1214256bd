"""Whitening of descriptors: PCA, and supervised from pairs that show the same thing."""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg

from diffusion.errors import DiffusionError
from diffusion.expansion import normalize
from diffusion.storage import as_path, replacing
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
    except (ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
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
    X = as_vectors(X, "X", metric="cosine").astype(np.float64)
    if len(X) < 2:
        raise DiffusionError(f"X: expected at least 2 descriptors, got {len(X)}")
    mean = X.mean(axis=0)
    variances, directions = _spectrum(X - mean)
    shrunk = _shrink(variances, shrinkage, X - mean)
    count = _count(variances, dimension, "X")
    return Whitening(mean, _scaled(directions[:, :count], shrunk[:count]))


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
    X = as_vectors(X, "X", metric="cosine").astype(np.float64)
    rows = as_pairs(pairs, len(X))
    mean = X[rows[:, 0]].mean(axis=0)
    differences = X[rows[:, 0]] - X[rows[:, 1]]
    variances, directions = _spectrum(differences)
    shrunk = _shrink(variances, shrinkage, differences)
    if shrunk[-1] <= _RANK * shrunk[0]:
        raise DiffusionError(
            f"pairs: expected differences in all {X.shape[1]} directions, got {len(rows)} pairs "
            "that leave some out; more pairs or a shrinkage above 0"
        )
    inner = _scaled(directions, shrunk)  # L^-1 but for a rotation, which V takes up
    count = X.shape[1] if dimension is None else check_integer(dimension, "dimension", low=1)
    if count > X.shape[1]:
        raise DiffusionError(f"dimension: expected at most {X.shape[1]}, got {count}")
    _, outer = _spectrum((X - mean) @ inner.T)
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
    found = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        first, second = np.triu_indices(len(members), 1)
        found.append(np.stack([members[first], members[second]], axis=1))
    pairs = np.concatenate(found) if found else np.empty((0, 2), np.int64)
    if not len(pairs):
        raise DiffusionError("labels: expected two of one label at least")
    if most is not None and len(pairs) > check_integer(most, "most", low=1):
        chosen = np.random.default_rng(seed).permutation(len(pairs))[:most]
        pairs = pairs[np.sort(chosen)]
    return pairs.astype(np.int64)


def _spectrum(rows: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return eigenvalues, descending, and eigenvectors, in columns, of the mean of r rᵀ."""
    variances, directions = linalg.eigh(rows.T @ rows / len(rows))
    return np.maximum(variances[::-1], 0), directions[:, ::-1]


def _shrink(
    variances: NDArray[np.float64], shrinkage: float | None, rows: NDArray[np.float64]
) -> NDArray[np.float64]:
    if shrinkage is None and len(rows) > 1:
        from sklearn.covariance import ledoit_wolf_shrinkage

        share = float(ledoit_wolf_shrinkage(rows, assume_centered=True))
    elif shrinkage is None or shrinkage == 1:
        share = 1.0  # of one sample the estimate is not defined
    else:
        share = check_real(shrinkage, "shrinkage", low=0.0, high=1.0)
    return (1 - share) * variances + share * variances.mean()


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
