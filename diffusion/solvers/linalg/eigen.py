"""The leading eigenpairs of W, by block Lanczos on a polynomial of W.

`scipy.sparse.linalg.eigsh` computes the same; `python -m bench speed` compares the two.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import scipy  # scipy.linalg is imported when it is first used
from numpy.typing import NDArray
from scipy import sparse
from threadpoolctl import ThreadpoolController
from tqdm import tqdm

from ...errors import ConvergenceWarning
from ...graph.graph import Graph
from ...kernels import threads
from ...kernels.blocks import recurrence_block
from ...kernels.matrix import Matrix, read_only
from ...storage.contents import Array, Between, Layout
from .blocks import SHARED_NODES, in_blocks, parts
from .components import known_vector

# Number of vectors filtered together, and of those filtered by one core on a small piece.
_BLOCK = 32
_SLAB = 16

# Number of nodes in each task of a dense product.
_PART = 2048

# A piece is solved densely if it has at most this many nodes, or if the rank is at least half.
_DENSE_NODES = 1200

# If orthogonalisation leaves less than this fraction of the norm of a column, only rounding error
# is left.
_CANCELLED = 1e-5

# Below this fraction of the largest squared singular value, a direction of a block is rounding
# error.
_DEPENDENT = 1e-10

# The filter polynomial begins to grow at about the eigenvalue number _SPARE * rank, and has grown
# by _GROWTH at the smallest wanted eigenvalue.
_SPARE = 1.3
_GROWTH = 50.0

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

# A vector whose residual is at most this fraction of the tolerance is an eigenvector. The others
# are computed orthogonal to it, so that their residuals include a part of its own.
_SETTLED = 0.3

# The largest product of two columns that still count as orthogonal.
_ORTHONORMAL = 1e-5

# Spare pairs computed besides eigenvectors that are given, in case some of those are not among the
# leading ones any more: this number, and this fraction of the rank.
_SPARE_PAIRS = 8
_SPARE_SHARE = 0.05

# Eigenvalues of W lie in [-1, 1], up to rounding.
_LARGEST = 1 + 1e-2


@dataclass(frozen=True)
class Eigenpairs:
    """Eigenpairs of W restricted to some of its connected components.

    The known eigenvalue 1 of each component, with the eigenvector D^1/2 1, is not included.

    Attributes
    ----------
    nodes : ndarray, shape (s,), int32
        Positions of the nodes in storage order, ascending.
    values : ndarray, shape (r,), float64
        Eigenvalues, descending.
    vectors : ndarray, shape (s, r), float32
        Orthonormal columns, orthogonal to the known eigenvectors.
    residuals : ndarray, shape (r,), float64
        ||W u - λ u|| of each eigenpair.
    """

    nodes: NDArray[np.int32]
    values: Float64
    vectors: Float32
    residuals: Float64


def pairs_layout(length: str) -> Layout:
    """Return what the stored eigenvalues and residuals must be; `length` names their number."""
    return {
        "eigenvalues": Array(np.float64, (length,), Between(-_LARGEST, _LARGEST)),
        "residuals": Array(np.float64, (length,), Between(0, float(np.finfo(np.float64).max))),
    }


def leading_eigenpairs(
    graph: Graph,
    nodes: NDArray[np.int32],
    rank: int,
    *,
    tol: float = 1e-4,
    seed: int = 0,
    progress: bool = False,
    start: Float32 | None = None,
) -> Eigenpairs:
    """Compute the algebraically largest eigenvalues of W on whole components, with eigenvectors.

    The known eigenvectors D^1/2 1 of the components are excluded. The others are computed by
    block Lanczos with full orthogonalisation on T(W), where T is a Chebyshev polynomial that is
    at most 1 in magnitude on [-1, a] and grows above a. T damps negative eigenvalues of any
    magnitude, and increases the distances between the wanted eigenvalues. a lies slightly below
    the wanted eigenvalues, by an estimate of the density of the spectrum.

    Parameters
    ----------
    graph : Graph
    nodes : ndarray, shape (s,), int32
        Positions in storage order, ascending, of all nodes of one or more components.
    rank : int
        Number of eigenpairs, at most s minus the number of components.
    tol : float, default 1e-4
        Bound on ||W u - λ u||. The residual of the smallest eigenvalue is close to it, and those
        of the others are far below. Values below 2e-6 are raised to 2e-6, as the vectors are
        float32.
    seed : int, default 0
        Seed of the random starting vectors.
    progress : bool, default False
        Whether to show a progress bar on standard error.
    start : ndarray, shape (s, any), float32, optional
        Vectors of which many may be eigenvectors, such as those of a similar graph. If at least
        half of the pairs are among them, only the others are computed.

    Returns
    -------
    Eigenpairs

    Warns
    -----
    ConvergenceWarning
        If a residual is above `tol`.

    Notes
    -----
    Memory: 4 s (m + rank) bytes for a basis of m vectors, where m is about 1.3 rank + 100 and at
    most 4 rank + 256; 16 s² bytes if the rank is at least half of s.

    A block of 32 vectors finds at most 32 eigenvectors of one eigenvalue. An eigenvalue of higher
    multiplicity occurs, for example, if a component has many copies. Missed eigenvectors are
    therefore searched for afterwards with a random block that is orthogonal to those found. That
    finds all missed eigenvalues, except those within about 1e-2 of the smallest one.

    References
    ----------
    Saad. Numerical Methods for Large Eigenvalue Problems. SIAM 2011.
    Fang and Saad. A Filtered Lanczos Procedure for Extreme and Interior Eigenvalue Problems.
    SIAM J. Sci. Comput. 2012.
    Lin, Saad, Yang. Approximating Spectral Densities of Large Matrices. SIAM Review 2016.
    """
    piece = _Piece(graph, nodes)
    rank = min(rank, piece.available)
    if rank <= 0:
        empty = np.empty(0)
        return Eigenpairs(nodes, empty, np.empty((len(nodes), 0), np.float32), empty)
    if piece.size <= _DENSE_NODES or 2 * rank >= piece.available:
        return _dense(piece, rank)
    # Between calls, the threads of BLAS spin on the cores that the kernels need, which doubles the
    # time of the kernels. Each call therefore runs on one thread, and calls run concurrently.
    with (
        _blas().limit(limits=1, user_api="blas"),
        tqdm(total=rank, desc="eigenpairs", unit="pair", disable=not progress) as bar,
    ):
        tol, rng = max(tol, 2e-6), np.random.default_rng(seed)
        pairs = None if start is None else _completed(piece, rank, tol, rng, bar, start)
        if pairs is None:
            pairs = _lanczos(piece, rank, tol, rng, bar)
    missed = int(np.count_nonzero(pairs.residuals > tol))
    if missed:
        warnings.warn(
            f"{missed} of {rank} eigenpairs have residuals above {tol:g}, the largest "
            f"{pairs.residuals.max():.1e}; raise tol or change the rank",
            ConvergenceWarning,
            stacklevel=4,
        )
    return pairs


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


def _by_parts(size: int, apply: Callable[[slice], Any]) -> list[Any]:
    """Apply a function that calls BLAS to parts of the nodes, concurrently."""
    return threads.side_by_side(apply, parts(size, _PART))


def _inner(A: Float32, B: Float32) -> Float32:
    """Return Aᵀ B for A (s, a) and B (s, b)."""
    return np.asarray(sum(_by_parts(len(A), lambda part: A[part].T @ B[part])))


def _product(A: Float32, S: Float32) -> Float32:
    """Return A S for A (s, a) and S (a, b)."""
    return np.concatenate(_by_parts(len(A), lambda part: A[part] @ S))


class _Piece:
    """The part of W that belongs to some components, with its known eigenvectors.

    Attributes
    ----------
    fixed : ndarray, shape (s, l), float32, or None
        Further eigenvectors, orthonormal, that `deflate` leaves out.
    """

    def __init__(self, graph: Graph, nodes: NDArray[np.int32]) -> None:
        n = graph.n_nodes
        if len(nodes) == n:
            W = graph.matrix
        else:
            part = graph.matrix.csr()[nodes][:, nodes]
            part.sort_indices()
            indices = part.indices.astype(np.int32, copy=False)
            W = Matrix.of_csr(part.indptr.astype(np.int64, copy=False), indices, part.data)
        self.matrix = Matrix(*map(read_only, W))
        self.nodes = nodes
        self.size = len(nodes)
        self.known = known_vector(graph)[nodes]
        labels, component = np.unique(graph.components[graph.order[nodes]], return_inverse=True)
        self.n_components = len(labels)
        self.fixed: Float32 | None = None
        self._indicator = sparse.csr_array(
            (self.known, (component, np.arange(self.size))), shape=(len(labels), self.size)
        )

    @property
    def available(self) -> int:
        """The number of eigenvectors that are neither known nor fixed."""
        return self.size - self.n_components - (0 if self.fixed is None else self.fixed.shape[1])

    def deflate(self, Z: Float32) -> None:
        """Make the columns of Z (s, b) orthogonal to the known and the fixed eigenvectors."""
        Z -= self._indicator.T @ (self._indicator @ Z)
        if self.fixed is not None:
            Z -= _product(self.fixed, _inner(self.fixed, Z))

    def slabs(self, Z: Float32, apply: Callable[[Float32], Any]) -> list[Any]:
        """Apply a function to copies of slabs of the columns of Z, concurrently."""
        # An edge is read once for all columns of a slab, so that slabs are wide if cores share the
        # nodes.
        width = _SLAB if self.size < SHARED_NODES else _BLOCK
        return in_blocks(
            lambda part: apply(Z[:, part].copy(order="C")), Z.shape[1], width, self.size
        )

    def step(self, scale: float, shift: float, P: Float32, Q: Float32) -> None:
        """Q = scale W P + shift P - Q."""
        recurrence_block(self.matrix, np.float32(scale), np.float32(shift), P, Q)

    def filter(self, Z: Float32, degree: int, cut: float) -> Float32:
        """Return T_degree((2 W - (cut - 1)) / (cut + 1)) Z, which damps eigenvalues below `cut`."""
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
        """Return the Rayleigh quotients of unit columns, and the norms of the residuals."""

        def apply(P: Float32) -> tuple[Float64, Float64]:
            Q = np.zeros_like(P)
            self.step(1.0, 0.0, P, Q)
            values = np.einsum("ic,ic->c", P, Q, dtype=np.float64)
            P *= values.astype(np.float32)
            Q -= P
            return values, _norms(Q)

        values, residuals = zip(*self.slabs(Z, apply), strict=True)
        return np.concatenate(values), np.concatenate(residuals)


def carried(
    rows: Callable[[NDArray[np.int64]], Float32], place: NDArray[np.integer], rank: int
) -> Float32:
    """Return vectors of the graph before a change, at the nodes of the graph after it.

    Parameters
    ----------
    rows : callable
        Takes row numbers and returns these rows of the vectors, shape (m, rank).
    place : ndarray, shape (s,), int
        Which row each node had, -1 for none; its values are then 0.
    rank : int
    """
    out = np.zeros((len(place), rank), np.float32)
    kept = np.flatnonzero(place >= 0)
    out[kept] = rows(place[kept].astype(np.int64))
    return out


def _dense(piece: _Piece, rank: int) -> Eigenpairs:
    """Compute the eigenpairs of a small piece by LAPACK in float64, with a matrix of 8 s² bytes."""
    s = piece.size
    W = piece.matrix.csr().astype(np.float64)
    dense = W.toarray()
    # Move the known eigenvectors below all other eigenvalues.
    known = piece._indicator.astype(np.float64)
    dense -= 3 * (known.T @ known).toarray()
    values, vectors = scipy.linalg.eigh(dense, overwrite_a=True, subset_by_index=(s - rank, s - 1))
    values, vectors = values[::-1], vectors[:, ::-1]
    residuals = np.linalg.norm(W @ vectors - vectors * values, axis=0)
    return Eigenpairs(piece.nodes, values, vectors.astype(np.float32), residuals)


def _density(piece: _Piece, rng: np.random.Generator) -> Callable[[float], float]:
    """Return an estimator of the number of eigenvalues above a value.

    It is computed from the Chebyshev moments of random vectors.
    """
    degree, vectors = 40, _SLAB
    Z = rng.standard_normal((piece.size, vectors), dtype=np.float32)
    piece.deflate(Z)

    def apply(P: Float32) -> Float64:
        Q = np.zeros_like(P)
        piece.step(1.0, 0.0, P, Q)
        first = np.vdot(P, P), np.vdot(P, Q)
        moments = list(first)
        for _ in range(degree - 1):
            # Two moments per product: T_2k = 2 T_k T_k - T_0 and T_2k+1 = 2 T_k+1 T_k - T_1.
            moments.append(2 * np.vdot(Q, Q) - first[0])
            piece.step(2.0, 0.0, Q, P)
            P, Q = Q, P
            moments.append(2 * np.vdot(Q, P) - first[1])
        return np.array(moments, np.float64)

    moments = np.sum(piece.slabs(Z, apply), axis=0) / vectors
    s = np.arange(len(moments))
    N = len(moments) + 1
    # Jackson's damping keeps the estimated density non-negative.
    jackson = ((N - s) * np.cos(np.pi * s / N) + np.sin(np.pi * s / N) / np.tan(np.pi / N)) / N
    moments *= jackson

    def above(value: float) -> float:
        angle = np.arccos(value)
        terms = np.sin(s[1:] * angle) / s[1:]
        return float((moments[0] * angle + 2 * moments[1:] @ terms) / np.pi)

    return above


def _edge(above: Callable[[float], float], count: float) -> float:
    """Return the value that `count` eigenvalues exceed, by bisection."""
    low, high = -1.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if above(middle) > count else (low, middle)
    return low


class _Basis:
    """An orthonormal basis V (m, s), stored by rows, and the known entries of H = V A Vᵀ."""

    def __init__(self, piece: _Piece, capacity: int, rng: np.random.Generator) -> None:
        # Pages that are never written to do not take memory.
        self.V = np.empty((capacity, piece.size), np.float32)
        self.H = np.zeros((capacity, capacity))
        self.size = 0
        self._piece = piece
        self._rng = rng

    def project(self, Z: Float32, begin: int = 0) -> Float64:
        """Make the columns of Z orthogonal to the vectors from `begin` on; return the products."""
        V = self.V[begin : self.size]
        products = sum(_by_parts(len(Z), lambda part: V[:, part] @ Z[part]))

        def subtract(part: slice) -> None:
            Z[part] -= V[:, part].T @ products

        _by_parts(len(Z), subtract)
        return np.asarray(products, np.float64)

    def combine(self, S: Float32) -> Float32:
        """Return Vᵀ S for the first m vectors of the basis and S (m, r)."""
        U = np.empty((self.V.shape[1], S.shape[1]), np.float32)

        def multiply(part: slice) -> None:
            U[part] = self.V[: len(S), part].T @ S

        _by_parts(len(U), multiply)
        return U

    def append(self, Z: Float32) -> None:
        """Orthonormalise the columns of Z (s, b) and append them, up to the capacity of the basis.

        Linearly dependent columns are replaced by random ones.
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
            # Cancellation leaves rounding errors in the span of the basis; repeat if there was any.
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
    """Return an orthonormal basis of the columns, and which of its vectors are independent."""
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
    fixed = 0 if piece.fixed is None else piece.fixed.shape[1]
    best: Eigenpairs | None = None
    # The density is only an estimate. If the cut turns out to be too high, it is lowered.
    for lower in (1, 3, 9, 27):
        count = lower * (_SPARE * (rank + fixed) + _BLOCK) - fixed
        cut, smallest = max(-0.9, _edge(above, count)), _edge(above, rank)
        stretch = 1 + 2 * (smallest - cut) / (1 + cut)
        # Odd degrees map eigenvalues that rounding has moved below -1 to the lowest values.
        degree = int(np.clip(np.arccosh(_GROWTH) / np.arccosh(max(stretch, 1.001)), 3, 60)) | 1
        if 2 * count > piece.size:
            cut, degree = 0.0, 1  # few eigenvalues to damp: use W itself, scaled
        pairs, complete = _attempt(piece, rank, tol, cut, degree, rng, bar)
        if best is None or pairs.values.sum() > best.values.sum() - tol:
            best = pairs
        if (complete and pairs.residuals.max() <= tol) or degree == 1:
            break
    assert best is not None
    return best


def _completed(
    piece: _Piece, rank: int, tol: float, rng: np.random.Generator, bar: Any, start: Float32
) -> Eigenpairs | None:
    """Return the leading pairs, of which some eigenvectors are given by `start`.

    Returns None if fewer than half of the pairs are, or too many of those given are not leading.
    """
    norms = _norms(start)
    used = norms > 0.5
    given: Float32 = np.asarray(start[:, used] / norms[used], np.float32)
    piece.deflate(given)
    values, residuals = piece.quotients(given)
    settled = residuals <= _SETTLED * tol
    count = int(np.count_nonzero(settled))
    more = max(0, rank - count) + _SPARE_PAIRS + int(_SPARE_SHARE * rank)
    if 2 * count < rank or count + more > piece.available:
        return None
    fixed = given[:, settled]
    if np.abs(_inner(fixed, fixed) - np.eye(count)).max() > _ORTHONORMAL:
        return None
    piece.fixed = fixed
    found = _lanczos(piece, more, tol, rng, bar)
    piece.fixed = None
    values = np.concatenate([values[settled], found.values])
    residuals = np.concatenate([residuals[settled], found.residuals])
    order = np.argsort(-values, kind="stable")[:rank]
    # What has not been found is below what has.
    if values[order[-1]] < found.values[-1] or residuals[order].max() > tol:
        return None
    U = np.concatenate([fixed, found.vectors], axis=1)[:, order]
    return Eigenpairs(piece.nodes, values[order], U, residuals[order])


def _missed(
    piece: _Piece, U: Float32, smallest: float, tol: float, degree: int, rng: np.random.Generator
) -> Float32 | None:
    """Search for eigenvalues above the smallest one found, with vectors orthogonal to U.

    A block finds at most as many eigenvectors of an eigenvalue as it has columns. A new random
    block that is orthogonal to those found finds the others. Returns the filtered columns of the
    block if there are any, else None.
    """
    Z = rng.standard_normal((piece.size, _SLAB), dtype=np.float32)
    cut = max(-0.9, smallest)
    # Rounding errors in the span of U grow with the filter; they are removed before exceeding 1e4.
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
    """Run Lanczos on the filtered matrix; return the pairs, and whether all exceed the cut."""
    capacity = min(piece.available, 4 * rank + 8 * _BLOCK)
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
        # The columns of A V are in the span of the basis and the new vectors. Their products with
        # blocks before the last two are 0.
        products = basis.project(Z, before)
        basis.H[before:end, begin:end] = products
        basis.H[begin:end, before:end] = products.T
        full = end == capacity
        Z[:, _norms(Z) < _CANCELLED * norms] = 0
        if not full:
            basis.append(Z)
        if end >= check or full:
            theta, S = scipy.linalg.eigh(basis.H[:end, :end], subset_by_index=(end - rank, end - 1))
            theta, S = theta[::-1], S[:, ::-1]
            complete = degree == 1 or bool(theta[-1] > 1)
            # Convert residuals of A to residuals of W, by the mean slope of A above the cut.
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
