"""Transfer functions h, which define what diffusion computes.

Diffusion maps an observation y to x = h(W) y, where W is the symmetrically normalised adjacency of
the graph. The eigenvalues λ of W lie in [-1, 1]. How x is computed is up to the solver.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, cast, runtime_checkable

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import NDArray

from .errors import DiffusionError
from .validation import check_choice, check_integer, check_real

# The highest degree at which a polynomial is tried as an approximation.
_MAX_DEGREE = 4096


@runtime_checkable
class Transfer(Protocol):
    """A function on the spectrum of W."""

    @property
    def increasing(self) -> bool:
        """Whether h is non-decreasing on [-1, 1], so that large eigenvalues matter most."""

    def __call__(self, eigenvalues: Any) -> NDArray[np.float64]:
        """Evaluate h at eigenvalues in [-1, 1], any shape."""


@dataclass(frozen=True)
class RegularizedLaplacian:
    """The regularised Laplacian kernel, h(λ) = (1 - α) / (1 - α λ).

    x = h(W) y solves (I - α W) x = (1 - α) y. It is the stationary point of a random walk that
    continues with probability α and restarts from y with probability 1 - α.

    Parameters
    ----------
    alpha : float in [0, 1), default 0.99
        With 0, the result is the observation itself; as α approaches 1, only the connected
        component matters.

    References
    ----------
    Zhou, Weston, Gretton, Bousquet, Schölkopf. Ranking on Data Manifolds. NIPS 2003.
    Iscen, Tolias, Avrithis, Furon, Chum. Efficient Diffusion on Region Manifolds. CVPR 2017.

    Examples
    --------
    >>> float(RegularizedLaplacian(0.5)(1.0))
    1.0
    >>> float(RegularizedLaplacian(0.5)(0.0))
    0.5
    """

    alpha: float = 0.99

    name: ClassVar[str] = "regularized_laplacian"
    increasing: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_real(self.alpha, "alpha", low=0.0, high=1.0)

    def __call__(self, eigenvalues: Any) -> NDArray[np.float64]:
        """Evaluate h at eigenvalues in [-1, 1], any shape."""
        return (1.0 - self.alpha) / (1.0 - self.alpha * np.asarray(eigenvalues, dtype=np.float64))


@dataclass(frozen=True)
class HeatKernel:
    """The heat kernel of the normalised Laplacian, h(λ) = exp(-t (1 - λ)).

    Parameters
    ----------
    t : float > 0, default 20.0
        Diffusion time; as t approaches 0, the result approaches the observation.

    References
    ----------
    Kondor and Lafferty. Diffusion Kernels on Graphs and Other Discrete Structures. ICML 2002.

    Examples
    --------
    >>> float(HeatKernel(3.0)(1.0))
    1.0
    """

    t: float = 20.0

    name: ClassVar[str] = "heat_kernel"
    increasing: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_real(self.t, "t", low=0.0, strict=True)

    def __call__(self, eigenvalues: Any) -> NDArray[np.float64]:
        """Evaluate h at eigenvalues in [-1, 1], any shape."""
        return np.exp(-self.t * (1.0 - np.asarray(eigenvalues, dtype=np.float64)))


@dataclass(frozen=True)
class TruncatedRandomWalk:
    """A random walk with restart of at most T steps, h(λ) = Σ_{s=0..T} (α λ)^s / Σ_{s=0..T} α^s.

    As T approaches infinity, it approaches the regularised Laplacian.

    Parameters
    ----------
    alpha : float in [0, 1), default 0.99
    steps : int >= 0, default 10
        The number of steps T. With even values, h decreases and then increases on the negative
        half of the spectrum.

    Examples
    --------
    >>> float(TruncatedRandomWalk(0.5, 1)(-1.0)) == 0.5 / 1.5
    True
    """

    alpha: float = 0.99
    steps: int = 10

    name: ClassVar[str] = "truncated_random_walk"

    def __post_init__(self) -> None:
        check_real(self.alpha, "alpha", low=0.0, high=1.0)
        check_integer(self.steps, "steps", low=0)

    @property
    def increasing(self) -> bool:
        """Whether h is non-decreasing: it is if the number of steps is odd or 0, or α is 0."""
        return self.steps % 2 == 1 or self.steps == 0 or self.alpha == 0

    def __call__(self, eigenvalues: Any) -> NDArray[np.float64]:
        """Evaluate h at eigenvalues in [-1, 1], any shape."""
        u = self.alpha * np.asarray(eigenvalues, dtype=np.float64)
        # The closed form; 1 - u is at least 1 - α.
        total = (1 - self.alpha ** (self.steps + 1)) / (1 - self.alpha)
        return (1 - u ** (self.steps + 1)) / (1 - u) / total


@dataclass(frozen=True)
class CustomTransfer:
    """A transfer function given as a callable.

    Parameters
    ----------
    function : callable
        Takes an array of eigenvalues in [-1, 1], float64, and returns finite values of the same
        shape.
    kind : {"general", "increasing"}, default "general"
        `"increasing"` declares that the function is non-decreasing on [-1, 1], as solvers with a
        truncated basis require; this is checked on a grid.

    Notes
    -----
    An index with such a transfer function cannot be saved.
    """

    function: Callable[[NDArray[np.float64]], Any]
    kind: str = "general"

    name: ClassVar[str] = "custom"

    def __post_init__(self) -> None:
        check_choice(self.kind, "kind", ("general", "increasing"))
        if not callable(self.function):
            raise DiffusionError(f"function: expected a callable, got {self.function!r}")
        values = self(np.linspace(-1.0, 1.0, 1001))
        if self.increasing and (np.diff(values) < -1e-12 * np.abs(values).max()).any():
            raise DiffusionError(
                "kind: expected 'general', because the function decreases somewhere"
            )

    @property
    def increasing(self) -> bool:
        """Whether h is declared to be non-decreasing."""
        return self.kind == "increasing"

    def __call__(self, eigenvalues: Any) -> NDArray[np.float64]:
        """Evaluate h at eigenvalues in [-1, 1], any shape."""
        argument = np.asarray(eigenvalues, dtype=np.float64)
        values = np.asarray(self.function(argument), dtype=np.float64)
        if values.shape != argument.shape or not np.isfinite(values).all():
            raise DiffusionError(
                f"function: expected finite values of shape {argument.shape}, got {values!r:.60}"
            )
        return values


TRANSFERS: dict[str, type[Any]] = {
    kind.name: kind for kind in (RegularizedLaplacian, HeatKernel, TruncatedRandomWalk)
}


def chebyshev_coefficients(transfer: Transfer, tol: float) -> NDArray[np.float64]:
    """Compute the coefficients c of h(λ) ≈ Σ_s c_s T_s(λ) on [-1, 1].

    Parameters
    ----------
    transfer : Transfer
    tol : float
        Bound on the sum of the omitted coefficients, relative to the largest |h|.

    Raises
    ------
    DiffusionError
        If h is not smooth enough for a polynomial of degree 4096.

    References
    ----------
    Trefethen. Approximation Theory and Approximation Practice. SIAM 2013.
    """
    allowed = tol * np.abs(transfer(np.linspace(-1, 1, 101))).max()
    degree = 16
    while degree <= _MAX_DEGREE:
        coefficients: NDArray[np.float64] = chebyshev.chebinterpolate(cast(Any, transfer), degree)
        rest = np.cumsum(np.abs(coefficients[::-1]))[::-1]
        # The whole upper half has to be negligible; otherwise aliasing is not negligible either.
        if rest[degree // 2] <= allowed:
            return coefficients[: max(1, int(np.argmax(rest <= allowed)))]
        degree *= 2
    raise DiffusionError(
        f"transfer: {transfer!r} is not smooth enough for a polynomial of degree {_MAX_DEGREE} to "
        f"reach {tol:g}"
    )
