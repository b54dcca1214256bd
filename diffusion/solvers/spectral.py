"""Fast spectral ranking: diffusion as products by the leading eigenvectors of W."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ..change import Change
from ..errors import DiffusionError
from ..graph.graph import Graph
from ..kernels.matrix import SparseRows
from ..storage.contents import Array, Arrays, Between, Layout, Offsets, finite
from ..validation import check_integer, check_real
from .base import Report, Solution, Solver, as_observations
from .linalg.components import dense_components, joined, known_vector, large_pieces
from .linalg.eigen import Eigenpairs, carried, leading_eigenpairs, pairs_layout

# Number of values of a half-precision or memory-mapped basis converted at a time.
_BLOCK_VALUES = 1 << 24


@dataclass
class Spectral(Solver):
    """Truncated spectral filter x = U h(Λ) Uᵀ y, with the r largest eigenvalues of W.

    The known part of the spectrum does not count towards the rank. Every connected component has
    the eigenvalue 1 with the eigenvector D^1/2 1, with D the degrees, which is stored as one
    number per node. A component of at most `dense_nodes` nodes is solved exactly by its own block
    of h(W); an isolated node has x_i = h(0) y_i. The eigenpairs are those of the larger
    components.

    A truncated basis omits the smallest eigenvalues, which requires that h be non-decreasing. At
    full rank, with as many eigenpairs as the large components have nodes, every transfer function
    is applied exactly.

    Parameters
    ----------
    rank : int >= 0, default 400
        Number of eigenpairs besides the known ones.
    per_component : bool, default False
        If False, the eigenpairs are the `rank` largest of all large components together, which
        give the best approximation of h(W) y of that rank. If True, they are the `rank` largest
        of each large component, so that every component is represented, and the cost of a query
        depends on the components of its observation.
    tol : float > 0, default 1e-4
        Bound on the residual ||W u - λ u|| of the eigenpairs.
    dense_nodes : int >= 0, default 64
        Components of at most this many nodes are solved exactly, with up to 8 dense_nodes bytes
        per node.
    sparsity : float in [0, 1), default 0
        Fraction of the entries of U that are dropped, the smallest in magnitude.
    float16 : bool, default False
        Whether to store U in half precision, which halves the memory and rounds the entries to
        11 bits.
    reweighted : bool, default False
        Whether to add (1 - η_i) y_i to the scores, as FSRw in the paper. η_i is the norm of row i
        of U; it is 1 for a node that the basis represents completely. The paper adds
        (1 - η_i) <v_i, q> for every candidate of the query. Solvers have no similarities, and use
        the values of the observation in their place.
    seed : int >= 0, default 0
        Seed of the random starting vectors of the eigensolver.

    Attributes
    ----------
    eigenvalues_ : ndarray, shape (r,), float64
        Eigenvalues besides the known ones, descending. With `per_component`, those of the largest
        component come first, then those of the next.
    residuals_ : ndarray, shape (r,), float64
        Residual ||W u - λ u|| of each eigenpair, before `sparsity` and `float16` are applied.
    embedding_ : ndarray, shape (n, r'), float32
        Embedding of the nodes, whose inner products with `embed` are the diffusion scores;
        computed on each access.

    Raises
    ------
    DiffusionError
        By `prepare`, if the transfer function decreases somewhere and the rank is not full.

    Notes
    -----
    `report.residual` is ||L x - b|| / ||b|| for the regularised Laplacian, L = I - α W and
    b = (1 - α) y. With x = U h(Λ) Uᵀ y and L U = U (1 - αΛ), L x - b = -(1 - α) (y - U Uᵀ y): the
    residual is the part of y outside the basis, sqrt(1 - ||Uᵀ y||² / ||y||²), for every α. It is
    not an error of the computation, and every observation counts as converged. The effects of
    `sparsity`, `float16` and `reweighted` are not included.

    An update keeps the eigenpairs whose residual in the changed graph is still within a third of
    `tol`, and computes the others orthogonal to them. These are those of the parts of the graph
    that are nearly separate from the changed items. If they are less than half of the pairs, as
    after a change everywhere in a connected graph, all pairs are computed anew, and always with
    `float16` or `sparsity`. With `per_component`, components that have not changed keep theirs. The
    residuals are within `tol` in any case.

    Memory: 4 r bytes per node of the large components (2 r with `float16`, 8 r (1 - sparsity)
    with `sparsity`, 6 r (1 - sparsity) with both), and 20 bytes per node for the known
    eigenvectors. The offline computation takes about three times 4 r bytes per node, and an
    update twice as much.

    References
    ----------
    Iscen, Avrithis, Tolias, Furon, Chum. Fast Spectral Ranking for Similarity Search. CVPR 2018.

    Examples
    --------
    >>> import numpy as np, diffusion
    >>> X = [[9, 1], [9, 2], [1, 9], [2, 9]]
    >>> graph = diffusion.Reranker(k=2).fit(X).graph_
    >>> solver = Spectral(rank=10).prepare(graph, diffusion.RegularizedLaplacian(0.5))
    >>> solver.solve(np.eye(4)[0]).x.argmax()
    np.int64(0)
    """

    rank: int = 400
    per_component: bool = False
    tol: float = 1e-4
    dense_nodes: int = 64
    sparsity: float = 0.0
    float16: bool = False
    reweighted: bool = False
    seed: int = 0

    name: ClassVar[str] = "spectral"
    any_transfer: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_integer(self.rank, "rank", low=0)
        check_real(self.tol, "tol", low=0.0, strict=True)
        check_integer(self.dense_nodes, "dense_nodes", low=0)
        check_real(self.sparsity, "sparsity", low=0.0, high=1.0)
        check_integer(self.seed, "seed", low=0)
        for name in ("per_component", "float16", "reweighted"):
            if not isinstance(getattr(self, name), bool):
                raise DiffusionError(f"{name}: expected True or False, got {getattr(self, name)!r}")

    # --- offline ---------------------------------------------------------------------------------

    def _precompute(
        self, progress: bool, checkpoint: str | os.PathLike[str] | None
    ) -> dict[str, NDArray[Any]]:
        return self._computed(lambda nodes: self._leading(nodes, progress))

    def _update(
        self, old: Spectral, change: Change, touched: NDArray[np.bool_], progress: bool
    ) -> dict[str, NDArray[Any]]:
        parts = old._parts()
        first = np.cumsum([0, *(len(part.values) for part in parts)])
        part_of, row_of = np.full((2, change.before), -1, np.int64)
        for number, part in enumerate(parts):
            part_of[part.nodes], row_of[part.nodes] = number, np.arange(len(part.nodes))

        def pairs(nodes: NDArray[np.int32]) -> Eigenpairs:
            now = self._graph.order[nodes]
            source = change.source[now]
            owner = np.where(source < 0, -1, part_of[source])
            if owner.max(initial=-1) < 0:
                return self._leading(nodes, progress)
            # The part of the basis that most of the nodes belonged to.
            most = int(np.bincount(owner[owner >= 0]).argmax())
            place = np.where(owner == most, row_of[source], -1)
            part, own = parts[most], slice(first[most], first[most + 1])
            same = len(place) == len(part.nodes) and not (touched[now] | (place < 0)).any()
            # Rounded or incomplete vectors are no eigenvectors to the tolerance.
            if not same and (self.float16 or self.sparsity):
                return self._leading(nodes, progress)
            vectors = carried(part.rows, place, len(part.values))
            if same:
                return Eigenpairs(nodes, old.eigenvalues_[own], vectors, old.residuals_[own])
            return self._leading(nodes, progress, vectors)

        return self._computed(pairs)

    def _leading(
        self, nodes: NDArray[np.int32], progress: bool, start: NDArray[np.float32] | None = None
    ) -> Eigenpairs:
        graph, rank, tol, seed = self._graph, self.rank, self.tol, self.seed
        return leading_eigenpairs(
            graph, nodes, rank, tol=tol, seed=seed, progress=progress, start=start
        )

    def _computed(
        self, pairs_of: Callable[[NDArray[np.int32]], Eigenpairs]
    ) -> dict[str, NDArray[Any]]:
        """Do the offline work, given a function that returns the eigenpairs of some components."""
        graph, transfer = self._graph, self._transfer
        pieces = large_pieces(graph, self.dense_nodes, self.per_component)
        if not transfer.increasing:
            for nodes in pieces:
                available = len(nodes) - len(np.unique(graph.components[graph.order[nodes]]))
                if self.rank < available:
                    raise DiffusionError(
                        f"transfer: a truncated basis needs a non-decreasing function, got "
                        f"{transfer!r}; expected rank >= {available} here, or solver 'chebyshev'"
                    )
        pairs = [pairs_of(nodes) for nodes in pieces]
        small = dense_components(graph, transfer, self.dense_nodes)
        in_order = [np.argsort(graph.order[p.nodes]) for p in pairs]
        arrays = {
            "nodes": joined(
                [graph.order[p.nodes][o] for p, o in zip(pairs, in_order, strict=True)], np.int32
            ),
            "eigenvalues": joined([p.values for p in pairs], np.float64),
            "residuals": joined([p.residuals for p in pairs], np.float64),
            "shapes": np.array([p.vectors.shape for p in pairs], np.int64).reshape(-1, 2),
            "small_indptr": small.indptr.astype(np.int64),
            "small_indices": small.indices.astype(np.int32),
            "small_values": small.data,
        }
        vectors = [p.vectors[o] for p, o in zip(pairs, in_order, strict=True)]
        return arrays | self._basis_arrays(vectors)

    def _basis_arrays(self, vectors: list[NDArray[np.float32]]) -> dict[str, NDArray[Any]]:
        """Return the entries of U by rows, scaled by √(number of rows) to about 1 for float16."""
        scaled = [U * np.float32(np.sqrt(max(1, len(U)))) for U in vectors]
        kind = np.float16 if self.float16 else np.float32
        if not self.sparsity:
            return {"basis": joined([U.ravel() for U in scaled], kind)}
        kept = [_largest(U, self.sparsity) for U in scaled]
        return {
            "basis": joined([U.data for U in kept], kind),
            "basis_indptr": joined([U.indptr for U in kept], np.int64),
            "basis_indices": joined([U.indices for U in kept], np.int32),
        }

    def _layout(self, arrays: Arrays) -> Layout:
        n = self._graph.n_nodes
        ids, values = Between(0, n - 1), finite(np.float32)
        layout = {
            "shapes": Array(np.int64, ("parts", 2), _Shapes(0, n)),
            "nodes": Array(np.int32, ("rows",), ids),
            **pairs_layout("pairs"),
            "small_indptr": Array(np.int64, (n + 1,), Offsets("small_indices")),
            "small_indices": Array(np.int32, ("small",), ids),
            "small_values": Array(np.float32, ("small",), values),
            "basis": Array((np.float32, np.float16), ("entries",), values),
        }
        if "basis_indptr" in arrays:
            columns = Between(0, max(self.rank, 1) - 1)
            layout["basis_indices"] = Array(np.int32, ("entries",), columns)
            layout["basis_indptr"] = Array(np.int64, ("pointers",), _PartsInCSR(0, np.inf))
        return layout

    def _attach(self) -> None:
        self._opened: list[_Part] | None = None
        self.eigenvalues_ = self._arrays["eigenvalues"]
        self.residuals_ = self._arrays["residuals"]

    def _parts(self) -> list[_Part]:
        """Return the parts of the basis, which are set up on first use."""
        self.check()
        if self._opened is None:
            known = _known(self._graph)
            row = pair = entry = pointer = 0
            opened = []
            for s, r in np.asarray(self._arrays["shapes"]):
                basis: Any
                if "basis_indptr" in self._arrays:
                    indptr = np.asarray(self._arrays["basis_indptr"][pointer : pointer + s + 1])
                    part = slice(entry, entry + int(indptr[-1]))
                    columns, values = self._arrays["basis_indices"][part], self._arrays["basis"]
                    basis = (indptr, columns, values[part])
                    pointer += s + 1
                else:
                    part = slice(entry, entry + s * r)
                    basis = self._arrays["basis"][part].reshape(s, r)
                nodes = self._arrays["nodes"][row : row + s]
                values = np.asarray(self._arrays["eigenvalues"][pair : pair + r])
                opened.append(_Part(self._graph, known, nodes, values, basis))
                row, pair, entry = row + s, pair + r, part.stop
            self._opened = opened
        return self._opened

    # --- online ----------------------------------------------------------------------------------

    def _solve(self, rows: SparseRows, candidates: NDArray[np.int64] | None) -> Solution:
        m, n = len(rows.counts), self._graph.n_nodes
        y = rows.csr(n)
        a = self._arrays
        small = sparse.csr_array(
            (a["small_values"], a["small_indices"], a["small_indptr"]), shape=(n, n)
        )
        solved = np.diff(small.indptr) > 0
        work = (y != 0) @ np.diff(small.indptr)
        total = (y**2).sum(axis=1)
        inside = (y**2) @ solved.astype(float)
        norms = solved.astype(np.float64) if self.reweighted else None
        x = np.zeros((m, n), np.float32)
        exact = (y @ small).tocoo() if solved.any() else None
        for part in self._parts():
            own = part.select(y)
            touched = np.diff(own.indptr) > 0
            if touched.any():
                means, spectrum = part.analyse(own[touched])
                inside[touched] += (means**2).sum(axis=1) + (spectrum**2).sum(axis=1)
                spectrum *= self._transfer(part.values)
                means *= self._transfer(np.ones(1))
                part.synthesise(means, spectrum, x, np.flatnonzero(touched))
                work[touched] += part.entries + np.diff(own.indptr)[touched] * len(part.values)
            if norms is not None:
                norms[part.nodes] = part.row_norms
        if exact is not None:
            x[exact.row, exact.col] = exact.data
        if norms is not None:
            again = y.tocoo()
            x[again.row, again.col] += (1 - norms[again.col]) * again.data
        share = np.divide(inside, total, out=np.ones(m), where=total > 0)
        report = Report(
            np.sqrt(np.clip(1 - share, 0, 1)),
            np.zeros(m, np.int64),
            np.ones(m, bool),
            work.astype(np.int64),
            np.zeros(m, bool),
        )
        return Solution(x, report)

    # --- diffusion as a dot-product search -------------------------------------------------------

    @property
    def embedding_(self) -> NDArray[np.float32]:
        """Embedding of the nodes, U h(Λ)^1/2, shape (n, r'); computed on each access.

        Rows are in the user's order. For each part of the basis (one, or one per large component
        with `per_component`), the columns are its known eigenvectors and its `rank` other
        eigenvectors. Rows of isolated nodes and of small components are 0: the embedding has no
        columns for these components, and observations of large components do not reach them.
        """
        out = np.zeros((self._graph.n_nodes, self._width()), np.float32)
        first = 0
        for part, at_one, roots in self._roots():
            stop = first + part.n_components + len(roots)
            out[part.nodes, first + part.label] = at_one * part.known
            for rows in part.blocks():
                out[part.nodes[rows], stop - len(roots) : stop] = part.rows(rows) * roots
            first = stop
        return out

    def embed(self, observations: Any) -> NDArray[np.float32]:
        """Embed observations as h(Λ)^1/2 Uᵀ y, whose products with `embedding_` are the scores.

        Parameters
        ----------
        observations : sparse array or array_like, shape (m, n) or (n,)

        Returns
        -------
        ndarray, shape (m, r'), float32
            Embeddings, one per row. Observed values of isolated nodes and of small components
            are ignored.

        Raises
        ------
        DiffusionError
            If the transfer function is negative at an eigenvalue.
        """
        y = as_observations(observations, self._graph.n_nodes).csr(self._graph.n_nodes)
        columns = [np.empty((y.shape[0], 0))]
        for part, at_one, roots in self._roots():
            means, spectrum = part.analyse(part.select(y))
            columns += [at_one * means, spectrum * roots]
        return np.concatenate(columns, axis=1).astype(np.float32)

    def _width(self) -> int:
        return sum(part.n_components + len(part.values) for part in self._parts())

    def _roots(self) -> Iterator[tuple[_Part, float, NDArray[np.float64]]]:
        for part in self._parts():
            values = self._transfer(np.concatenate([[1.0], part.values]))
            if values.min() < 0:
                raise DiffusionError(
                    f"transfer: expected a non-negative function for an embedding, got "
                    f"{self._transfer!r}, which is {values.min():.3g} at an eigenvalue"
                )
            yield part, float(np.sqrt(values[0])), np.sqrt(values[1:])


@dataclass(frozen=True)
class _Shapes(Between):
    """The numbers of rows and columns of the parts of the basis."""

    def whole(self, array: NDArray[Any], arrays: Arrays) -> bool:
        """Return whether the parts take up the arrays, whose lengths may not overflow a sum."""
        shapes = array.tolist()
        rows, pairs = (sum(lengths) for lengths in zip((0, 0), *shapes, strict=True))
        sparse = "basis_indptr" in arrays
        length = len(arrays["basis_indptr"]) if sparse else len(arrays["basis"])
        expected = sum(s + 1 if sparse else s * r for s, r in shapes)
        lengths = len(arrays["nodes"]), len(arrays["eigenvalues"]), length
        return (rows, pairs, expected) == lengths

    def __str__(self) -> str:
        return "shapes of parts that add up to the lengths of the other arrays"


@dataclass(frozen=True)
class _PartsInCSR(Between):
    """The offsets of the rows of a sparse basis, part by part; each part begins at 0."""

    def whole(self, array: NDArray[Any], arrays: Arrays) -> bool:
        """Return whether each part is in CSR form, and all together take up the entries."""
        pointer = entry = 0
        for s, r in arrays["shapes"].tolist():
            indptr = array[pointer : pointer + s + 1]
            if indptr[0] != 0 or (indptr[1:] < indptr[:-1]).any():
                return False
            columns = arrays["basis_indices"][entry : entry + int(indptr[-1])]
            if columns.max(initial=-1) >= r:
                return False
            pointer, entry = pointer + s + 1, entry + int(indptr[-1])
        return entry == len(arrays["basis"])

    def __str__(self) -> str:
        return "offsets of the rows of each part, with columns of its own"


class _Part:
    """Large components of the graph, with their part of the basis."""

    def __init__(
        self,
        graph: Graph,
        known: NDArray[np.float64],
        nodes: NDArray[np.int32],
        values: NDArray[np.float64],
        basis: Any,
    ) -> None:
        self.nodes = nodes
        self.values = np.clip(values, -1.0, 1.0)
        self.known = known[nodes]
        labels, self.label = np.unique(graph.components[nodes], return_inverse=True)
        self.n_components = len(labels)
        self._everything = len(nodes) == graph.n_nodes
        self._scale = np.float32(1 / np.sqrt(max(1, len(nodes))))
        self._sparse = isinstance(basis, tuple)
        self._basis = basis
        self.entries = len(basis[2]) if self._sparse else basis.size

    def select(self, y: sparse.csr_array) -> sparse.csr_array:
        """Return the columns of y (m, n) that belong to this part."""
        return y if self._everything else y[:, self.nodes]

    def rows(self, which: Any) -> NDArray[np.float32]:
        """Return rows of U, dense."""
        if not self._sparse:
            return self._basis[which].astype(np.float32) * self._scale
        return self._matrix()[which].toarray() * self._scale

    def _matrix(self) -> sparse.csr_array:
        indptr, columns, values = self._basis
        return sparse.csr_array(
            (values.astype(np.float32), columns, indptr), shape=(len(self.nodes), len(self.values))
        )

    def blocks(self) -> Iterator[slice]:
        """Yield slices of the rows whose dense form has moderate size."""
        step = max(1, _BLOCK_VALUES // max(1, len(self.values)))
        for start in range(0, len(self.nodes), step):
            yield slice(start, min(len(self.nodes), start + step))

    @cached_property
    def row_norms(self) -> NDArray[np.float64]:
        """Norm of each row of U, including the known eigenvectors."""
        norms = self.known**2
        for rows in self.blocks():
            norms[rows] += (self.rows(rows).astype(np.float64) ** 2).sum(axis=1)
        return np.sqrt(norms)

    def analyse(self, y: sparse.csr_array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the coefficients of y (m, s) on the eigenvectors of this part.

        They are those of the known eigenvectors, shape (m, n_components), and of the others,
        shape (m, r).
        """
        m, components = y.shape[0], self.n_components
        entry = y.tocoo()
        means = np.zeros((m, components))
        np.add.at(means, (entry.row, self.label[entry.col]), entry.data * self.known[entry.col])
        spectrum = np.zeros((m, len(self.values)))
        observed = np.unique(entry.col)
        step = max(1, _BLOCK_VALUES // max(1, len(self.values)))
        for start in range(0, len(observed), step):
            some = observed[start : start + step]
            spectrum += y[:, some] @ self.rows(some).astype(np.float64)
        return means, spectrum

    def synthesise(
        self,
        means: NDArray[np.float64],
        spectrum: NDArray[np.float64],
        x: NDArray[np.float32],
        queries: NDArray[np.int64],
    ) -> None:
        """Write the combination of eigenvectors with these coefficients to rows of x (m, n)."""
        coefficients = (spectrum * self._scale).astype(np.float32)
        whole = self._everything and len(queries) == len(x)
        answer = x if whole else np.empty((len(queries), len(self.nodes)), np.float32)
        if self._sparse:
            answer[:] = (self._matrix() @ coefficients.T).T
        elif self._basis.dtype == np.float32:
            np.matmul(coefficients, self._basis.T, out=answer)
        else:
            for rows in self.blocks():
                answer[:, rows] = coefficients @ self._basis[rows].astype(np.float32).T
        for row, mean in zip(answer, means.astype(np.float32), strict=True):
            row += mean[self.label] * self.known.astype(np.float32)
        if not whole:
            x[np.ix_(queries, self.nodes)] = answer


def _known(graph: Graph) -> NDArray[np.float64]:
    """Return D^1/2 1, normalised to 1 in each component, in the user's order."""
    return known_vector(graph)[graph.position].astype(np.float64)


def _largest(U: NDArray[np.float32], sparsity: float) -> sparse.csr_array:
    """Return U without the given fraction of its entries, the smallest in magnitude."""
    count = int(sparsity * U.size)
    magnitude = np.abs(U)
    least = np.partition(magnitude, count, axis=None)[count] if count else 0
    return sparse.csr_array(np.where(magnitude >= least, U, np.float32(0)))
