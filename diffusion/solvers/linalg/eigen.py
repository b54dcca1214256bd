"""The leading eigenpairs of W, by block Lanczos on a polynomial of W."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, sparse
from threadpoolctl import ThreadpoolController
from tqdm import tqdm

from ...errors import ConvergenceWarning
from ...graph.graph import Graph
from ...kernels.blocks import recurrence_block
from ...kernels.matrix import Matrix, read_only
from .blocks import SHARED_NODES, in_blocks, parts, side_by_side
from .components import known_vector

# Vectors filtered together; those of a small piece are shared out among cores in slabs.
_BLOCK = 32
_SLAB = 16

# Nodes whose share of a dense product is one task.
_PART = 2048

# A piece of at most this many nodes, or whose rank is half of its nodes, is solved densely.
_DENSE_NODES = 1200

# A column that loses all but this share of its norm to the basis is nothing but rounding error.
_CANCELLED = 1e-5

# Below this share of the largest squared singular value, a direction of a block is rounding error.
_DEPENDENT = 1e-10

# The filter: where it begins to grow, in multiples of the rank, and by how much it has grown at
# the smallest wanted eigenvalue.
_SPARE = 1.3
_GROWTH = 50.0

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Eigenpairs:
    """Eigenpairs of W restricted to some connected components.

    Every component also has the eigenvalue 1 with the eigenvector D^1/2 1, which is known and not
    among them.

    Attributes
    ----------
    nodes : ndarray, shape (s,), int32
        Where the nodes are stored, ascending.
    values : ndarray, shape (r,), float64
        Eigenvalues, descending.
    vectors : ndarray, shape (s, r), float32
        Orthonormal columns, orthogonal to the known eigenvectors.
    residuals : ndarray, shape (r,), float64
        ||W u - λ u|| for each.
    """

    nodes: NDArray[np.int32]
    values: Float64
    vectors: Float32
    residuals: Float64


def leading_eigenpairs(
    graph: Graph,
    nodes: NDArray[np.int32],
    rank: int,
    *,
    tol: float = 1e-4,
    seed: int = 0,
    progress: bool = False,
) -> Eigenpairs:
    """Find the algebraically largest eigenvalues of W on whole components, and their vectors.

    The eigenvectors D^1/2 1 of the components are known, are left out and do not count. The
    others come from block Lanczos with full orthogonalisation on T(W), T a Chebyshev polynomial
    that is at most 1 on [-1, a] and grows above a: negative eigenvalues, however large, are
    damped, and the wanted end is spread out. a lies a little below the wanted eigenvalues, where
    an estimate of the density of the spectrum puts it.

    Parameters
    ----------
    graph : Graph
    nodes : ndarray, shape (s,), int32
        Positions in storage order, ascending: all nodes of one or more components.
    rank : int
        Pairs wanted, at most s less the number of components.
    tol : float, default 1e-4
        Bound on ||W u - λ u||, which the smallest of the wanted pairs comes close to and the
        others are far below. Not below 2e-6: the vectors are float32.
    seed : int, default 0
        Of the random start.
    progress : bool, default False
        Show a bar on standard error.

    Returns
    -------
    Eigenpairs

    Warns
    -----
    ConvergenceWarning
        If a residual is above `tol`.

    Notes
    -----
    Memory: 4 s (m + rank) bytes for a basis of m vectors, m about 1.3 rank + 100 and at most
    4 rank + 256; 16 s² bytes where the rank is half of s.

    A block of 32 vectors sees an eigenvalue 32 times. Where there are more, as in many copies of
    one component, a random block that is orthogonal to what was found is looked at afterwards; it
    finds eigenvalues that were missed but for such as lie within about 1e-2 of the smallest.

    References
    ----------
    Saad. Numerical Methods for Large Eigenvalue Problems. SIAM 2011.
    Fang and Saad. A Filtered Lanczos Procedure for Extreme and Interior Eigenvalue Problems.
    SIAM J. Sci. Comput. 2012.
    Lin, Saad, Yang. Approximating Spectral Densities of Large Matrices. SIAM Review 2016.
    """
    piece = _Piece(graph, nodes)
    available = piece.size - piece.n_components
    rank = min(rank, available)
    if rank <= 0:
        empty = np.empty(0)
        return Eigenpairs(nodes, empty, np.empty((len(nodes), 0), np.float32), empty)
    if piece.size <= _DENSE_NODES or 2 * rank >= available:
        return _dense(piece, rank)
    # BLAS waits for its next call by spinning on the cores that the kernels then have to share,
    # which doubles their time: one thread for each call, and the calls side by side.
    with (
        _blas().limit(limits=1, user_api="blas"),
        tqdm(total=rank, desc="eigenpairs", unit="pair", disable=not progress) as bar,
    ):
        return _lanczos(piece, rank, max(tol, 2e-6), np.random.default_rng(seed), bar)


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


def _by_parts(size: int, apply: Callable[[slice], Any]) -> list[Any]:
    """Apply a function that is a BLAS call to parts of the nodes, side by side."""
    return side_by_side(apply, parts(size, _PART))


class _Piece:
    """The part of W that some components make, and the eigenvectors that are known of it."""

    def __init__(self, graph: Graph, nodes: NDArray[np.int32]) -> None:
        n = graph.n_nodes
        if len(nodes) == n:
            W = (graph.indptr, graph.indices, graph.weights)
        else:
            stored = sparse.csr_array((graph.weights, graph.indices, graph.indptr), shape=(n, n))
            part = stored[nodes][:, nodes]
            part.sort_indices()
            indices = part.indices.astype(np.int32, copy=False)
            W = (part.indptr.astype(np.int64, copy=False), indices, part.data)
        self.matrix = Matrix(*map(read_only, W))
        self.nodes = nodes
        self.size = len(nodes)
        self.known = known_vector(graph)[nodes]
        labels, component = np.unique(graph.components[graph.order[nodes]], return_inverse=True)
        self.n_components = len(labels)
        self._indicator = sparse.csr_array(
            (self.known, (component, np.arange(self.size))), shape=(len(labels), self.size)
        )

    def deflate(self, Z: Float32) -> None:
        """Make the columns of Z (s, b) orthogonal to the known eigenvectors."""
        Z -= self._indicator.T @ (self._indicator @ Z)

    def slabs(self, Z: Float32, apply: Callable[[Float32], Any]) -> list[Any]:
        """Apply a function to copies of slabs of the columns of Z, each in a thread."""
        # An edge that is read serves all columns of a slab: wide ones where cores share the nodes.
        width = _SLAB if self.size < SHARED_NODES else _BLOCK
        return in_blocks(
            lambda part: apply(Z[:, part].copy(order="C")), Z.shape[1], width, self.size
        )

    def step(self, scale: float, shift: float, P: Float32, Q: Float32) -> None:
        """Q = scale W P + shift P - Q."""
        recurrence_block(self.matrix, np.float32(scale), np.float32(shift), P, Q)

    def filter(self, Z: Float32, degree: int, cut: float) -> Float32:
        """T_degree((2 W - (cut - 1)) / (cut + 1)) Z: at most 1 for eigenvalues in [-1, cut]."""
        half, middle = (cut + 1) / 2, (cut - 1) / 2

        def apply(P: Float32) -> Float32:
            Q = np.zeros_like(P)
            self.step(1 / half, -middle / half, P, Q)
            for _ in range(degree - 1):
                self.step(2 / half, -2 * middle / half, Q, P)
                P, Q = Q, P
            return Q

        return np.concatenate(self.slabs(Z, apply), axis=1)

    def quotients(self, Z: Float32) -> tuple[Float64, Float64]:
        """Rayleigh quotients of unit columns, and the norms of what is left."""

        def apply(P: Float32) -> tuple[Float64, Float64]:
            Q = np.zeros_like(P)
            self.step(1.0, 0.0, P, Q)
            values = np.einsum("ic,ic->c", P, Q, dtype=np.float64)
            P *= values.astype(np.float32)
            Q -= P
            return values, _norms(Q)

        values, residuals = zip(*self.slabs(Z, apply), strict=True)
        return np.concatenate(values), np.concatenate(residuals)


def _dense(piece: _Piece, rank: int) -> Eigenpairs:
    """All of a small piece, by LAPACK in float64; 8 s² bytes."""
    s = piece.size
    indptr, indices, weights = piece.matrix
    W = sparse.csr_array((weights, indices, indptr), shape=(s, s)).astype(np.float64)
    dense = W.toarray()
    # The known eigenvectors go below every other eigenvalue.
    known = piece._indicator.astype(np.float64)
    dense -= 3 * (known.T @ known).toarray()
    values, vectors = linalg.eigh(dense, overwrite_a=True, subset_by_index=(s - rank, s - 1))
    values, vectors = values[::-1], vectors[:, ::-1]
    residuals = np.linalg.norm(W @ vectors - vectors * values, axis=0)
    return Eigenpairs(piece.nodes, values, vectors.astype(np.float32), residuals)


def _density(piece: _Piece, rng: np.random.Generator) -> Callable[[float], float]:
    """Estimate how many eigenvalues exceed a value, from Chebyshev moments of random vectors."""
    degree, vectors = 40, _SLAB
    Z = rng.standard_normal((piece.size, vectors), dtype=np.float32)
    piece.deflate(Z)

    def apply(P: Float32) -> Float64:
        Q = np.zeros_like(P)
        piece.step(1.0, 0.0, P, Q)
        first = np.vdot(P, P), np.vdot(P, Q)
        moments = list(first)
        for _ in range(degree - 1):
            # T_2k = 2 T_k T_k - T_0 and T_2k+1 = 2 T_k+1 T_k - T_1: two moments a product.
            moments.append(2 * np.vdot(Q, Q) - first[0])
            piece.step(2.0, 0.0, Q, P)
            P, Q = Q, P
            moments.append(2 * np.vdot(Q, P) - first[1])
        return np.array(moments, np.float64)

    moments = np.sum(piece.slabs(Z, apply), axis=0) / vectors
    s = np.arange(len(moments))
    N = len(moments) + 1
    # Jackson's damping: the estimate of the density stays non-negative.
    jackson = ((N - s) * np.cos(np.pi * s / N) + np.sin(np.pi * s / N) / np.tan(np.pi / N)) / N
    moments *= jackson

    def above(value: float) -> float:
        angle = np.arccos(value)
        terms = np.sin(s[1:] * angle) / s[1:]
        return float((moments[0] * angle + 2 * moments[1:] @ terms) / np.pi)

    return above


def _edge(above: Callable[[float], float], count: float) -> float:
    """Find the value that `count` eigenvalues exceed."""
    low, high = -1.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if above(middle) > count else (low, middle)
    return low


class _Basis:
    """An orthonormal basis V (m, s), row by row, and H = V A Vᵀ as far as it is known."""

    def __init__(self, piece: _Piece, capacity: int, rng: np.random.Generator) -> None:
        # Pages that are never written to take no memory.
        self.V = np.empty((capacity, piece.size), np.float32)
        self.H = np.zeros((capacity, capacity))
        self.size = 0
        self._piece = piece
        self._rng = rng

    def project(self, Z: Float32, begin: int = 0) -> Float64:
        """Make the columns of Z orthogonal to the vectors from `begin`; return the products."""
        V = self.V[begin : self.size]
        products = sum(_by_parts(len(Z), lambda part: V[:, part] @ Z[part]))

        def subtract(part: slice) -> None:
            Z[part] -= V[:, part].T @ products

        _by_parts(len(Z), subtract)
        return np.asarray(products, np.float64)

    def combine(self, S: Float32) -> Float32:
        """Return Vᵀ S, with the first vectors of the basis as S (m, r) has rows."""
        U = np.empty((self.V.shape[1], S.shape[1]), np.float32)

        def multiply(part: slice) -> None:
            U[part] = self.V[: len(S), part].T @ S

        _by_parts(len(U), multiply)
        return U

    def append(self, Z: Float32) -> None:
        """Add the columns of Z (s, b), made orthonormal; random ones take a dependent one's place.

        As many as there is room for.
        """
        Z = Z[:, : len(self.V) - self.size]
        safe = False
        while not safe:
            Z, kept = _orthonormal(Z)
            if not kept.all():
                fresh = self._rng.standard_normal((len(Z), len(kept)), dtype=np.float32)
                Z[:, ~kept] = fresh[:, ~kept] / np.float32(np.sqrt(len(Z)))
            self._piece.deflate(Z)
            self.project(Z)
            # What cancelled has left its rounding errors in the span of the basis: once more.
            safe = bool(kept.all() and (_norms(Z) > 0.5).all())
        Z, _ = _orthonormal(Z)
        V = self.V[self.size : self.size + Z.shape[1]]

        def store(part: slice) -> None:
            V[:, part] = Z[part].T

        _by_parts(len(Z), store)
        self.size += Z.shape[1]


def _norms(Z: Float32) -> Float64:
    return np.sqrt(np.einsum("ic,ic->c", Z, Z, dtype=np.float64))


def _orthonormal(Z: Float32) -> tuple[Float32, NDArray[np.bool_]]:
    """Rotate and scale columns to orthonormal ones; say which of them were not dependent."""
    scale = 1 / np.maximum(_norms(Z), 1e-30)
    gram = (Z.T @ Z).astype(np.float64) * scale * scale[:, None]
    squares, rotation = np.linalg.eigh(gram)
    kept = squares > _DEPENDENT * squares[-1]
    rotation *= scale[:, None] / np.sqrt(np.maximum(squares, _DEPENDENT))
    return Z @ rotation.astype(np.float32), kept


def _lanczos(
    piece: _Piece, rank: int, tol: float, rng: np.random.Generator, bar: Any
) -> Eigenpairs:
    above = _density(piece, rng)
    best: Eigenpairs | None = None
    # The density is an estimate: where the cut proves to lie too high, it is taken lower.
    for lower in (1, 3, 9, 27):
        count = lower * (_SPARE * rank + _BLOCK)
        cut, smallest = max(-0.9, _edge(above, count)), _edge(above, rank)
        stretch = 1 + 2 * (smallest - cut) / (1 + cut)
        # Odd, so that eigenvalues that round below -1 are the lowest.
        degree = int(np.clip(np.arccosh(_GROWTH) / np.arccosh(max(stretch, 1.001)), 3, 60)) | 1
        if 2 * count > piece.size:
            cut, degree = 0.0, 1  # hardly anything to damp: W itself, scaled
        pairs, complete = _attempt(piece, rank, tol, cut, degree, rng, bar)
        if best is None or pairs.values.sum() > best.values.sum() - tol:
            best = pairs
        if (complete and pairs.residuals.max() <= tol) or degree == 1:
            break
    assert best is not None
    missed = int(np.count_nonzero(best.residuals > tol))
    if missed:
        warnings.warn(
            f"{missed} of {rank} eigenpairs have residuals above {tol:g}, the largest "
            f"{best.residuals.max():.1e}; raise tol or change the rank",
            ConvergenceWarning,
            stacklevel=5,
        )
    return best


def _missed(
    piece: _Piece, U: Float32, smallest: float, tol: float, degree: int, rng: np.random.Generator
) -> Float32 | None:
    """Look for eigenvalues above the smallest found, with vectors orthogonal to U.

    A block of so many columns sees an eigenvalue that often and no more; a new random block,
    orthogonal to what was found, sees the others. Returns its filtered columns if they hold any.
    """
    Z = rng.standard_normal((piece.size, _SLAB), dtype=np.float32)
    cut = max(-0.9, smallest)
    # Rounding errors grow as what was found does, by 1e4 until they are removed again.
    each = max(1, int(np.arccosh(1e4) / np.arccosh(1 + 2 * max(1 - cut, 1e-3) / (1 + cut))))
    for _ in range(-(-degree // each)):
        piece.deflate(Z)
        Z -= U @ (U.T @ Z)
        Z = piece.filter(Z, each, cut)
        Z, _ = _orthonormal(Z)
    piece.deflate(Z)
    Z -= U @ (U.T @ Z)
    Z, _ = _orthonormal(Z)
    product = np.zeros_like(Z)
    piece.step(1.0, 0.0, Z, product)
    return Z if np.linalg.eigvalsh(Z.T @ product)[-1] > smallest + tol else None


def _attempt(
    piece: _Piece,
    rank: int,
    tol: float,
    cut: float,
    degree: int,
    rng: np.random.Generator,
    bar: Any,
) -> tuple[Eigenpairs, bool]:
    """Run Lanczos on the filter; return the pairs, and whether all of them lie above the cut."""
    capacity = min(piece.size - piece.n_components, 4 * rank + 8 * _BLOCK)
    basis = _Basis(piece, capacity, rng)
    Z = rng.standard_normal((piece.size, _BLOCK), dtype=np.float32)
    piece.deflate(Z)
    basis.append(piece.filter(Z, degree, cut))
    before = begin = 0
    check = int(1.2 * rank) + 3 * _BLOCK
    while True:
        end = basis.size
        Z = piece.filter(np.ascontiguousarray(basis.V[begin:end].T), degree, cut)
        norms = _norms(Z)
        piece.deflate(Z)
        # A V lies in the span of the basis and of what is new now: the products with earlier
        # blocks are 0.
        products = basis.project(Z, before)
        basis.H[before:end, begin:end] = products
        basis.H[begin:end, before:end] = products.T
        full = end == capacity
        Z[:, _norms(Z) < _CANCELLED * norms] = 0
        if not full:
            basis.append(Z)
        if end >= check or full:
            theta, S = linalg.eigh(basis.H[:end, :end], subset_by_index=(end - rank, end - 1))
            theta, S = theta[::-1], S[:, ::-1]
            complete = degree == 1 or bool(theta[-1] > 1)
            # From a residual of A to one of W, by the mean slope of A above the cut.
            slope = 2.0 if degree == 1 else np.maximum(theta - 1, 1e-3)
            left = np.linalg.norm(basis.V[end : basis.size] @ Z @ S[begin:end], axis=0) / slope
            bar.n = int(np.count_nonzero(left <= tol))
            bar.refresh()
            if left.max() <= tol or not complete or full:
                U = basis.combine(S.astype(np.float32))
                values, residuals = piece.quotients(U)
                missed = None
                if complete and basis.size < capacity and residuals.max() <= tol:
                    missed = _missed(piece, U, values.min(), tol, max(30, 2 * degree), rng)
                if missed is not None:
                    basis.append(missed)
                elif residuals.max() <= tol or not complete or full:
                    order = np.argsort(-values, kind="stable")
                    pairs = Eigenpairs(piece.nodes, values[order], U[:, order], residuals[order])
                    return pairs, complete
            check = end + max(_BLOCK, rank // 10)
        before, begin = begin, end
