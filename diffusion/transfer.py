"""Transfer functions h: what diffusion computes, apart from how a solver computes it.

Diffusion answers an observation y with x = h(W) y, where W is the symmetrically normalised
adjacency of the graph, whose eigenvalues λ lie in [-1, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .validation import check_real


@dataclass(frozen=True)
class RegularizedLaplacian:
    """The regularised Laplacian kernel, h(λ) = (1 - α) / (1 - α λ).

    x = h(W) y solves (I - α W) x = (1 - α) y: the stationary point of a random walk that goes
    on with probability α and starts again from y with probability 1 - α.

    Parameters
    ----------
    alpha : float in [0, 1), default 0.99
        0 returns the observation itself; towards 1 only the connected component counts.

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

    def __post_init__(self) -> None:
        check_real(self.alpha, "alpha", low=0.0, high=1.0)

    def __call__(self, eigenvalues: float | NDArray[np.floating]) -> NDArray[np.float64]:
        """Evaluate h at eigenvalues in [-1, 1], any shape."""
        return (1.0 - self.alpha) / (1.0 - self.alpha * np.asarray(eigenvalues, dtype=np.float64))
