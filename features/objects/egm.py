"""Expanding Gaussian mixtures (EGM): the number and the positions of blobs in points or in a map.

Every point, or every position of a saliency map, starts as a Gaussian component of its own.
Expectation-maximisation moves and widens the components. After each iteration, the components that
others explain well enough are purged, so that the number of components need not be given.

Source: Avrithis, Kalantidis. Approximate Gaussian Mixtures for Large Scale Vocabularies.
ECCV 2012; for maps Siméoni, Iscen, Tolias, Avrithis, Chum. Unsupervised (deep) object discovery
for instance recognition. WACV 2018.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffusion.errors import DiffusionError

from ..settings import EGMSettings
from .maps import as_saliency

Array = NDArray[np.float64]

# The first iteration holds six (points, components) arrays in float64: 0.8 GB.
_MOST_POINTS = 4096


@dataclass(frozen=True)
class Mixture:
    """A mixture of axis-aligned Gaussians, by descending weight.

    Attributes
    ----------
    weights : ndarray, shape (k,), float64
        π, summing to 1.
    means : ndarray, shape (k, d), float64
        μ.
    variances : ndarray, shape (k, d), float64
        The diagonals of Σ.
    counts : tuple of int
        Number of components at the start and after each iteration.
    own_variance : float
        Variance of the Gaussian that represents a position of a map; 0 for points.
    """

    weights: Array
    means: Array
    variances: Array
    counts: tuple[int, ...]
    own_variance: float = 0.0

    def responsibilities(self, points: ArrayLike) -> Array:
        """Return the probability (n, k) of each component given each point (n, d)."""
        X = np.asarray(points, dtype=np.float64)
        return _responsibilities(X, self.weights, self.means, self.variances + self.own_variance)


@dataclass(frozen=True)
class Regions:
    """Regions of a map, by descending weight.

    Attributes
    ----------
    boxes : ndarray, shape (k, 4), float64
        Left, top, right, bottom in cells: position (y, x) of the map is the unit square from
        (x, y) to (x + 1, y + 1). Boxes lie within the map and are at least one cell wide and high.
    weights : ndarray, shape (k,), float64
        π, summing to 1.
    mixture : Mixture or None
        The mixture of the regions, in coordinates (x, y); None if the map is zero everywhere.
    """

    boxes: Array
    weights: Array
    mixture: Mixture | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    def cells(self) -> NDArray[np.int64]:
        """Return the boxes in whole positions, shape (k, 4): top, left, height and width.

        A position belongs to a box that contains its centre; every box has at least one.
        """
        low = np.ceil(self.boxes[:, :2] - 0.5).astype(np.int64)
        high = np.ceil(self.boxes[:, 2:] - 0.5).astype(np.int64)
        size = np.maximum(high - low, 1)
        return np.concatenate([low[:, ::-1], size[:, ::-1]], axis=1)


def fit_points(
    points: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    sigma: float,
    expansion: float = 0.2,
    purge: float = 0.55,
    max_iter: int = 15,
) -> Mixture:
    """Fit a mixture of isotropic Gaussians to points.

    Parameters
    ----------
    points : array_like, shape (n, d)
        Finite values, with n from 1 to 4096.
    weights : array_like, shape (n,), >= 0, optional
        Weights of the points, by default 1.
    sigma : float > 0
        Initial standard deviation of the components in each dimension. Half of the smallest
        distance between clusters that are to be distinguished is a good choice. If it is of the
        order of the distance between neighbouring points, isolated points remain components.
    expansion : float in [0, 1), default 0.2
        λ, which controls how much the points that another component explains better widen a
        component:
        D σ_k² = w Σ_in + (1 - w) Σ_out with w = (N_in / N_k) (1 - λ), where Σ_in and Σ_out are
        the mean squared distances of the points inside and outside; 0 is plain EM. A component
        that shares no points with another one grows until it does.
    purge : float in [0, 1], default 0.55
        τ: a component is kept if ρ = ||p||² / (||p||² + Σ <p, p_j>) >= τ, where the sum runs over
        the kept components j of larger weight. 0 keeps all components.
    max_iter : int >= 1, default 15
        Largest number of iterations. The fit stops earlier if no component is purged or moved.

    Returns
    -------
    Mixture

    Raises
    ------
    DiffusionError
        If an argument is not as described.

    Notes
    -----
    Memory: six n x n arrays of float64 in the first iteration, when each point is a component.
    """
    X, w = _as_points(points, weights)
    X, w = X[w > 0], w[w > 0] / float(w.sum())
    EGMSettings(sigma=sigma, expansion=expansion, purge=purge, max_iter=max_iter)  # checks them
    variances = np.full_like(X, sigma**2)
    return _fit(X, w, w, variances, 0.0, expansion, purge, max_iter, isotropic=True)


class EGM(EGMSettings):
    """Settings of the expanding Gaussian mixture by which a map's regions are found.

    The map is divided by its maximum, values below `threshold` are set to 0, and the others are
    raised to the power `exponent`, which gives S. Each position p with S > 0 is a Gaussian
    N(p, σ² I). The responsibility of component k for it is proportional to
    ``π_k ∫ N(x | p, σ² I) N(x | μ_k, Σ_k) dx = π_k N(p | μ_k, Σ_k + σ² I)``. The M-step is, with
    the weights s_p below and γ_pk normalised over k,
    ``N_k = Σ_p s_p γ_pk,  π_k = N_k / Σ N,  μ_k = Σ_p s_p γ_pk p / N_k,``
    ``Σ_k = σ² I + diag Σ_p s_p γ_pk (p - μ_k)² / N_k``.

    Parameters
    ----------
    exponent, threshold, sigma, m_step, expansion, purge, max_iter
        As `features.settings.EGMSettings` describes them.

    Raises
    ------
    DiffusionError
        If a setting is not as described.

    Examples
    --------
    >>> EGM(threshold=0.1).regions([[0, 9, 0, 0, 0, 5]]).cells().tolist()
    [[0, 0, 1, 3], [0, 4, 1, 2]]
    """

    def regions(self, saliency: ArrayLike) -> Regions:
        """Find the regions of a saliency map.

        Parameters
        ----------
        saliency : array_like, shape (h, w), >= 0
            At most 4096 positions may be above the threshold.

        Returns
        -------
        Regions
            Boxes are μ ± 2 standard deviations, clipped to the map. A constant map gives one
            region or a few regular ones; a map of zeros gives none.

        Raises
        ------
        DiffusionError
            If the map is not as described.
        """
        S = sharpen(as_saliency(saliency), self.exponent, self.threshold)
        ys, xs = np.nonzero(S)
        if not len(xs):
            return Regions(np.empty((0, 4)), np.empty(0))
        if len(xs) > _MOST_POINTS:
            raise DiffusionError(
                f"saliency: expected at most {_MOST_POINTS} positions above the threshold, got "
                f"{len(xs)}; pool the map or raise the threshold"
            )
        X = np.stack([xs, ys], axis=1).astype(np.float64) + 0.5
        pi = S[ys, xs] / S.sum()
        mixture = _fit(
            X,
            pi,
            pi if self.m_step == "weighted" else np.full(len(X), 1 / len(X)),
            np.full_like(X, self.sigma**2),
            self.sigma**2,
            self.expansion,
            self.purge,
            self.max_iter,
            isotropic=False,
        )
        reach = 2 * np.sqrt(mixture.variances)
        size = np.array(S.shape[::-1], float)
        # At least a whole cell, also where the border clips a box.
        low = np.clip(mixture.means - reach, 0, size - 1)
        high = np.clip(np.maximum(mixture.means + reach, low + 1), 1, size)
        return Regions(np.concatenate([low, high], axis=1), mixture.weights, mixture)


def sharpen(saliency: Array, exponent: float, threshold: float) -> Array:
    """Divide a map by its maximum, set values below the threshold to 0 and raise the others."""
    largest = saliency.max()
    if largest == 0:
        return np.zeros_like(saliency)
    S = saliency / largest
    return np.where(threshold > S, 0.0, S**exponent)


# --- the algorithm --------------------------------------------------------------------------------


def _fit(
    X: Array,
    pi: Array,
    weights: Array,
    variances: Array,
    own_variance: float,
    expansion: float,
    purge: float,
    max_iter: int,
    *,
    isotropic: bool,
) -> Mixture:
    means = X.copy()
    counts = [len(X)]
    for _ in range(max_iter):
        gamma = _responsibilities(X, pi, means, variances + own_variance)
        before = means
        pi, means, variances = _maximise(X, gamma, weights, expansion, isotropic)
        variances += own_variance
        kept = _purge(pi, means, variances, purge)
        pi, means, variances = pi[kept], means[kept], variances[kept]
        pi = pi / pi.sum()
        counts.append(len(pi))
        # If none was purged, `kept` is a permutation.
        if counts[-1] == counts[-2] and np.abs(means - before[kept]).max() < 1e-3 * np.sqrt(
            variances.max()
        ):
            break
    return Mixture(pi, means, variances, tuple(counts), own_variance)


def _gaussian_logarithms(points: Array, means: Array, variances: Array) -> Array:
    """Return log N(x | μ_k, Σ_k) of all points and components, (n, k), without (2π)^(-d/2)."""
    centre = means.mean(axis=0)  # keeps the expanded square exact far from the origin
    X, M = points - centre, means - centre
    precision = 1 / variances
    squared = X**2 @ precision.T - 2 * X @ (M * precision).T + (M**2 * precision).sum(axis=1)
    return -0.5 * (np.maximum(squared, 0) + np.log(variances).sum(axis=1))


def _responsibilities(X: Array, pi: Array, means: Array, variances: Array) -> Array:
    gamma = _gaussian_logarithms(X, means, variances)
    gamma += np.log(pi)
    gamma -= gamma.max(axis=1, keepdims=True)
    np.exp(gamma, out=gamma)
    gamma /= gamma.sum(axis=1, keepdims=True)
    return gamma


def _maximise(
    X: Array, gamma: Array, weights: Array, expansion: float, isotropic: bool
) -> tuple[Array, Array, Array]:
    """Return π, μ and the variances of the components, without those that explain nothing."""
    shares = gamma * weights[:, None]
    N = shares.sum(axis=0)
    alive = 1e-12 * N.max() < N
    if not alive.all():
        shares, N, gamma = shares[:, alive], N[alive], gamma[:, alive]
    means = shares.T @ X / N[:, None]
    variances = _second_moments(X, shares, means) / N[:, None]
    if expansion > 0:
        # Inner points of a component are those that no other component explains better.
        inner = np.zeros_like(shares)
        best = (np.arange(len(X)), np.argmax(gamma, axis=1))
        inner[best] = shares[best]
        N_in = inner.sum(axis=0)
        N_out = N - N_in
        sums_in = _second_moments(X, inner, means)
        sums_out = np.maximum(variances * N[:, None] - sums_in, 0)
        inside = sums_in / np.where(N_in > 0, N_in, 1)[:, None]
        outside = sums_out / np.where(N_out > 0, N_out, 1)[:, None]
        # Without outer points, the inner ones alone determine the variance.
        w = np.where(N_out > 1e-12 * N, N_in / N * (1 - expansion), 1.0)[:, None]
        variances = w * inside + (1 - w) * outside
    if isotropic:
        variances[:] = variances.mean(axis=1, keepdims=True)
    # A component on a single point must keep a density.
    floor = 1e-12 * max(float(np.ptp(X, axis=0).max()) ** 2, 1e-200)
    return N / N.sum(), means, np.maximum(variances, floor)


def _second_moments(X: Array, shares: Array, means: Array) -> Array:
    """Return Σ_n shares_nk (x_n - μ_k)², (k, d)."""
    centre = X.mean(axis=0)
    Y, M = X - centre, means - centre
    total = shares.sum(axis=0)[:, None]
    return np.maximum(shares.T @ Y**2 - 2 * M * (shares.T @ Y) + M**2 * total, 0)


def _purge(pi: Array, means: Array, variances: Array, purge: float) -> NDArray[np.int64]:
    """Return the indices of the components to keep, by descending π.

    <p_i, p_j> = π_i π_j N(μ_i | μ_j, Σ_i + Σ_j).
    """
    order = np.argsort(-pi, kind="stable")
    pi, means, variances = pi[order], means[order], variances[order]
    logarithms = np.tile(np.log(pi), (len(pi), 1))
    for mean, variance in zip(means.T, variances.T, strict=True):
        both = variance[:, None] + variance
        logarithms -= 0.5 * ((mean[:, None] - mean) ** 2 / both + np.log(both))
    # <p_i, p_j> / ||p_i||², in which π_i cancels once.
    own = np.diagonal(logarithms).copy()
    with np.errstate(over="ignore"):
        ratios = np.exp(logarithms - own[:, None])
    explained = np.zeros(len(pi))
    kept = []
    for i in range(len(pi)):
        if purge * (1 + explained[i]) <= 1:
            kept.append(i)
            explained += ratios[:, i]
    return order[kept]


# --- checks ---------------------------------------------------------------------------------------


def _as_points(points: Any, weights: Any) -> tuple[Array, Array]:
    try:
        X = np.asarray(points, dtype=np.float64)
    except (TypeError, ValueError):
        raise DiffusionError("points: expected an array of numbers of shape (n, d)") from None
    if X.ndim != 2 or 0 in X.shape or len(X) > _MOST_POINTS or not np.isfinite(X).all():
        raise DiffusionError(
            f"points: expected finite values (n, d), n from 1 to {_MOST_POINTS}, got shape "
            f"{X.shape}"
        )
    if weights is None:
        return X, np.ones(len(X))
    try:
        w = np.asarray(weights, dtype=np.float64)
    except (TypeError, ValueError):
        raise DiffusionError(f"weights: expected {len(X)} numbers") from None
    if w.shape != (len(X),) or not np.isfinite(w).all() or (w < 0).any() or not w.any():
        raise DiffusionError(
            f"weights: expected finite values >= 0 of shape ({len(X)},), not all 0"
        )
    return X, w
