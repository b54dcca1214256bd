"""Hybrid diffusion: conjugate gradient accelerated by the leading eigenvectors of W."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ..change import Change
from ..storage.contents import Array, Arrays, Between, Layout, finite
from ..validation import check_integer, check_real
from .cg import BlockCG
from .linalg.components import known_vector, large_pieces
from .linalg.eigen import carried, leading_eigenpairs, pairs_layout


@dataclass
class Hybrid(BlockCG):
    """Conjugate gradient (CG), with the part in the r leading eigenvectors of W solved directly.

    The paper writes the solution as x = x_s + x_t, with eigenpairs (Λ, U) of W. The spectral part
    is x_s = U g(Λ) Uᵀ y with g(λ) = h(λ) - h(0). The temporal part x_t is the solution of
    (I - α (W - U Λ Uᵀ)) x_t = (1 - α) y by CG.

    Started from (1 - α) U Uᵀ y, that CG takes the same steps as CG on (I - α W) x = (1 - α) y
    started from x_0 = U h(Λ) Uᵀ y, whose residual is and remains orthogonal to U. This class
    implements the second form, for two reasons. It multiplies by U only once and not in every
    iteration. It also converges to the exact solution whatever the error of the eigenpairs:
    whenever CG computes the true residual r, the component of r in the span of U is removed,
    x += U (1 - αΛ)^-1 Uᵀ r, and CG is restarted.

    The condition number decreases to κ = (1 - α λ_n) / (1 - α λ_{r+1}). Each connected component
    also has the known eigenvector D^1/2 1, with D the degrees; it does not count towards the
    rank. The solution is exact for every rank, including 0.

    Parameters
    ----------
    rank : int >= 0, default 100
        Number of eigenpairs besides the known ones.
    tol, max_iter, block_size
        As for `CG`.
    pair_tol : float > 0, default 1e-4
        Bound on the residual ||W u - λ u|| of the eigenpairs.
    min_nodes : int >= 0, default 64
        Connected components of at most this many nodes are excluded from the computation of the
        eigenpairs.
    seed : int >= 0, default 0
        Seed of the random starting vectors of the eigensolver.

    Attributes
    ----------
    eigenvalues_ : ndarray, shape (rank,), float64
        Eigenvalues besides the known ones, descending.
    residuals_ : ndarray, shape (rank,), float64
        Residual ||W u - λ u|| of each eigenpair.

    Notes
    -----
    An update keeps eigenpairs and computes the others as `Spectral` does.

    The eigenvectors take 4 rank bytes per node, in addition to the working memory of `CG`.
    `report.residual` is the true relative residual ||b - L x|| / ||b||, with L = I - α W and
    b = (1 - α) y.

    References
    ----------
    Iscen, Avrithis, Tolias, Furon, Chum. Hybrid Diffusion: Spectral-Temporal Graph Filtering for
    Manifold Ranking. ACCV 2018.
    Erhel and Guyomarc'h. An Augmented Conjugate Gradient Method for Solving Consecutive Symmetric
    Positive Definite Linear Systems. SIAM J. Matrix Anal. Appl. 2000.

    Examples
    --------
    >>> import numpy as np, diffusion
    >>> graph = diffusion.Reranker(k=2).fit([[9, 1], [9, 2], [1, 9], [2, 9]]).graph_
    >>> solver = Hybrid(rank=2).prepare(graph, diffusion.RegularizedLaplacian())
    >>> bool(solver.solve(np.eye(4)[0]).report.converged.all())
    True
    """

    rank: int = 100
    tol: float = 1e-6
    max_iter: int = 200
    block_size: int = 32
    pair_tol: float = 1e-4
    min_nodes: int = 64
    seed: int = 0

    name: ClassVar[str] = "hybrid"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer(self.rank, "rank", low=0)
        check_real(self.pair_tol, "pair_tol", low=0.0, strict=True)
        check_integer(self.min_nodes, "min_nodes", low=0)
        check_integer(self.seed, "seed", low=0)

    def _precompute(
        self, progress: bool, checkpoint: str | os.PathLike[str] | None
    ) -> dict[str, NDArray[Any]]:
        return self._computed(progress, None, None)

    def _update(
        self, old: Hybrid, change: Change, touched: NDArray[np.bool_], progress: bool
    ) -> dict[str, NDArray[Any]]:
        old.check()
        return self._computed(progress, old, change)

    def _computed(
        self, progress: bool, old: Hybrid | None, change: Change | None
    ) -> dict[str, NDArray[Any]]:
        """Compute the eigenpairs, with the help of a solver for the graph before a change."""
        graph = self._graph
        for nodes in large_pieces(graph, self.min_nodes, per_component=False):
            start = None
            if old is not None and change is not None and old._arrays["vectors"].size:
                vectors, at = old._arrays["vectors"], old._arrays["nodes"]
                row_of = np.full(change.before + 1, -1, np.int64)  # the last one for added nodes
                row_of[at] = np.arange(len(at))
                place = row_of[self._positions(old, change)[0][nodes]]
                start = carried(vectors.__getitem__, place, vectors.shape[1])
            pairs = leading_eigenpairs(
                graph,
                nodes,
                self.rank,
                tol=self.pair_tol,
                seed=self.seed,
                progress=progress,
                start=start,
            )
            return {
                "nodes": pairs.nodes,
                "eigenvalues": pairs.values,
                "residuals": pairs.residuals,
                "vectors": pairs.vectors,
            }
        return {
            "nodes": np.empty(0, np.int32),
            "eigenvalues": np.empty(0),
            "residuals": np.empty(0),
            "vectors": np.empty((0, 0), np.float32),
        }

    def _layout(self, arrays: Arrays) -> Layout:
        return {
            "nodes": Array(np.int32, ("s",), Between(0, self._graph.n_nodes - 1)),
            "vectors": Array(np.float32, ("s", "r"), finite(np.float32)),
            **pairs_layout("r"),
        }

    def _attach(self) -> None:
        super()._attach()
        self._known: sparse.csr_array | None = None
        self.eigenvalues_ = self._arrays["eigenvalues"]
        self.residuals_ = self._arrays["residuals"]

    def _correct(
        self, x: NDArray[np.float64], r: NDArray[np.float32], columns: NDArray[np.bool_]
    ) -> int:
        if self._known is None:
            graph = self._graph
            entries = (known_vector(graph), graph.components[graph.order], np.arange(len(x) + 1))
            self._known = sparse.csr_array(entries, shape=(len(x), graph.n_components))
        known = self._known.T @ r
        known *= columns / (1.0 - self._alpha)
        x += self._known @ known
        vectors, nodes = self._arrays["vectors"], self._arrays["nodes"]
        if vectors.size:
            whole = len(nodes) == len(x)
            spectrum = vectors.T @ (r if whole else r[nodes])
            spectrum *= columns / (1.0 - self._alpha * self.eigenvalues_[:, None])
            if whole:
                x += vectors @ spectrum
            else:
                x[nodes] += vectors @ spectrum
        return 2 * (vectors.size + len(x))
