"""The answer for one query, in time that does not grow with the collection."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ..graph.graph import Graph
from ..kernels.bounds import INSIDE, ROW_SUM_SLACK, Bounds, bounds, certificate, shield
from ..kernels.local import Rows, State, Touched, empty_workspace, grow, relax, touch
from ..kernels.threads import contracting
from ..transfer import Transfer
from ..validation import check_integer, check_real
from .base import Report, Solution, Solver, as_observations, require_regularized_laplacian

# Room that a workspace starts with: touched nodes, edges.
_ROOM = (1 << 14, 1 << 18)

# A support that is too small costs more of the ranking than sweeps that are too few: the residual
# beside it is to be this share of the one that is allowed.
_BESIDE = 1.0 / 3.0

# Bounds fall about as support^(-1 / _GROWTH). A stage takes about so many sweeps over the support
# that it grows to, and makes it so many times larger at most.
_GROWTH = 0.68
_STAGE = 60
_LEAP = 32.0


@dataclass(frozen=True)
class LocalReport(Report):
    """The report of `Local`, with a bound on what is left.

    Attributes
    ----------
    bound : ndarray, shape (m,), float64
        No entry is further than this from the exact answer, in units of the square root of its
        degree: ``|x_i - x*_i| <= bound √d_i``, with 1 for the d of an isolated node.
    support : ndarray, shape (m,), int64
        Nodes on which x was solved for; x is 0 on the others.
    """

    bound: NDArray[np.float64]
    support: NDArray[np.int64]


@dataclass
class Local(Solver):
    """Relaxation on a growing neighbourhood of the query, with a certificate of the ranking.

    Solves L x = b, L = I - α W, b = (1 - α) y, on a *support* S of nodes around those of y, with
    x = 0 beside it. The residual r = b - L x then lies in S and on the nodes next to it, and the
    support grows by those where the scaled residual |r_i| / √d_i is largest, as in residual
    pushing. Within S successive over-relaxation takes a third of the sweeps of conjugate
    gradient, with ω = 2 / (1 + √(1 - α²)). Rows of the support are copied next to each other, so
    that a sweep touches nothing else: time and memory depend on the support, not on n.

    The first goal is a scaled residual of `tol`; `certify=0` stops there, with 99.5 of the best
    hundred right on a manifold of 10^6 nodes. The support then grows further until the best
    `certify` items are *certified*: provably the best of the exact answer x*, equal scores aside.
    The error e = x* - x solves L e = r, and P = D^-1 A is stochastic, so that by the maximum
    principle any v with (I - αP) v >= D^-1/2 r bounds D^-1/2 e from above. Here v = M φ + m:

    - φ is 1 beside the support and harmonic within it, (I - αP) φ = 0: it falls towards the
      query, and so does the bound. It is solved for beside x.
    - M = max r_i⁺ / √d_i / ((I - αP) φ)_i over the nodes beside the support,
    - m = max r_i⁺ / √d_i / (1 - α) over the support,

    and the same of r⁻ from below. (With φ = 1 it is the plain bound max |r_i| / √d_i / (1 - α),
    ten and more times larger.) The k best are certified when the lowest of their lower bounds is
    no less than the highest upper bound of any other node.

    Parameters
    ----------
    tol : float > 0, default 0.06
        Accuracy of the first goal: max |r_i| / √d_i is at most `tol` max |b_i| / √d_i, and a
        third of that beside the support.
    certify : int >= 0, default 10
        Best items to certify; 0 for none.
    max_work : int >= 1, default 100_000_000
        Edges multiplied for a query. Where it is spent, x is returned as it is:
        `report.converged` says whether a goal was reached, `report.certified` whether it was
        the certificate.
    threads : int >= 1 or None, default None
        Queries solved side by side; None is as many as there are cores.

    Notes
    -----
    Memory: 4 bytes a node, 4 more a thread, and for each thread up to twice 8 bytes an edge of
    the largest support and 60 a node touched. x is a CSR array of the supports.

    The report is a `LocalReport`: its `residual` is the true ||b - L x|| / ||b||, `iterations`
    the sweeps for x over the support as it was, and `bound` a bound on the error of
    every entry.

    References
    ----------
    Andersen, Chung, Lang. Local Graph Partitioning using PageRank Vectors. FOCS 2006.
    Bai, Zhou, Yang, Xiao. Faster Local Solvers for Graph Diffusion Equations. NeurIPS 2024.
    Zhou, Sun, Babanezhad Harikandeh, Guo, Yang, Xiao. Iterative Methods via Locally Evolving Set
    Process. NeurIPS 2024.
    Berman, Plemmons. Nonnegative Matrices in the Mathematical Sciences. 1979 (M-matrices).

    Examples
    --------
    >>> import numpy as np, diffusion
    >>> from diffusion.solvers.local import Local
    >>> angle = np.linspace(0, np.pi, 60)
    >>> X = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    >>> graph = diffusion.Reranker(k=4).fit(X).graph_
    >>> solver = Local(certify=5).prepare(graph, diffusion.RegularizedLaplacian(0.9))
    >>> solution = solver.solve(np.eye(60)[0])
    >>> bool(solution.report.certified[0])
    True
    """

    tol: float = 0.06
    certify: int = 10
    max_work: int = 100_000_000
    threads: int | None = None

    name: ClassVar[str] = "local"

    def __post_init__(self) -> None:
        check_real(self.tol, "tol", low=0.0, strict=True)
        check_integer(self.certify, "certify", low=0)
        check_integer(self.max_work, "max_work", low=1)
        if self.threads is not None:
            check_integer(self.threads, "threads", low=1)

    def prepare(
        self,
        graph: Graph,
        transfer: Transfer,
        *,
        progress: bool = False,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Take the graph and the transfer function, and the square roots of the degrees.

        Raises
        ------
        DiffusionError
            If the transfer function is not the regularised Laplacian.
        """
        roots = np.sqrt(graph.degrees[graph.order])
        # An isolated node has the equation x_i = b_i, in units of its own.
        roots[roots == 0] = 1.0
        roots = roots.astype(np.float32)
        return self.restore(graph, transfer, {"roots": roots, "largest": roots.max(keepdims=True)})

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return `roots` (n,), √d in storage order, and `largest` (1,) of them, float32."""
        return {"roots": self._roots, "largest": self._largest}

    def restore(self, graph: Graph, transfer: Transfer, arrays: dict[str, NDArray[Any]]) -> Self:
        """Take what `arrays` returned, memory-mapped; read nothing."""
        self._alpha = require_regularized_laplacian(self.name, transfer)
        self._graph = graph
        self._roots, self._largest = arrays["roots"], arrays["largest"]
        parts = (graph.indptr, graph.indices, graph.weights, self._roots, graph.order)
        self._matrix: Any = tuple(_read_only(array) for array in parts)
        self._idle: list[Any] = []  # workspaces; list.append and pop are atomic
        return self

    def solve(self, observations: Any, *, candidates: NDArray[np.int64] | None = None) -> Solution:
        """Diffuse observations, each by itself, on as many threads as `threads` says.

        Parameters
        ----------
        observations : sparse array or array_like, shape (m, n) or (n,)
            One a row, nodes in the user's order; few nodes each, or nothing is local.
        candidates : ndarray, optional
            Not used.

        Returns
        -------
        Solution
            x (m, n), csr_array of float32, and a `LocalReport`.

        Warns
        -----
        ConvergenceWarning
            If a row has not reached `tol` within `max_work`.
        """
        n = self._graph.n_nodes
        y = as_observations(observations, n)
        m = y.shape[0]
        places = self._graph.position[y.indices].astype(np.int64)
        values = (1.0 - self._alpha) * y.data

        def solve(row: int) -> Any:
            part = slice(y.indptr[row], y.indptr[row + 1])
            return self._solve_one(places[part], values[part])

        workers = min(m, self.threads or os.cpu_count() or 1)
        if workers > 1:
            with ThreadPoolExecutor(workers) as pool:
                answers = list(pool.map(solve, range(m)))
        else:
            answers = [solve(row) for row in range(m)]
        indptr = np.zeros(m + 1, np.int64)
        np.cumsum([len(ids) for ids, _, _ in answers], out=indptr[1:])
        x = sparse.csr_array(
            (
                np.concatenate([np.empty(0, np.float32), *(x for _, x, _ in answers)]),
                np.concatenate([np.empty(0, np.int32), *(ids for ids, _, _ in answers)]),
                indptr,
            ),
            shape=(m, n),
        )
        columns = list(zip(*(report for _, _, report in answers), strict=True)) or [()] * 7
        kinds = (np.float64, np.int64, bool, np.int64, bool, np.float64, np.int64)
        report = LocalReport(*(np.array(c, k) for c, k in zip(columns, kinds, strict=True)))
        report.warn("raise Local's max_work or tol, or lower alpha", stacklevel=2)
        return Solution(x, report)

    def _solve_one(self, places: NDArray[np.int64], values: NDArray[np.float64]) -> Any:
        """Return the ids (user's, ascending), the values and the report's entries of one row."""
        try:
            number, touched, rows = self._idle.pop()
        except IndexError:
            number = np.full(self._graph.n_nodes, -1, np.int32)
            touched, rows = empty_workspace(*_ROOM)
        indptr, indices, weights, roots, order = self._matrix
        touched, rows, state, limits, certified, squares = _solve(
            indptr,
            indices,
            weights,
            roots,
            order,
            float(self._largest[0]),
            number,
            touched,
            rows,
            places,
            values,
            self._alpha,
            self.tol,
            self.certify,
            self.max_work,
        )
        own = rows.own[: state.rows]
        x = touched.x[own].astype(np.float32)
        ids = order[touched.node[own]]
        largest = (np.abs(x) / touched.root[own]).max(initial=0.0)
        by_id = np.argsort(ids)
        ids, x = ids[by_id], x[by_id]
        b = np.abs(values)
        norm = np.linalg.norm(b)
        goal = self.tol * (b / roots[places]).max(initial=0.0)
        self._idle.append((number, touched, rows))
        beside = max(limits.above_beside, limits.below_beside) * (1.0 + limits.eta)
        bound = beside + max(limits.above_inside, limits.below_inside)
        report = (
            np.sqrt(squares) / norm if norm > 0 else 0.0,
            state.sweeps,
            certified or max(state.inside, state.beside) <= goal,
            state.work,
            certified,
            # What the rounding of x, and of √d, to float32 adds.
            bound * (1.0 + 2.0**-22) + largest * 2.0**-23,
            state.rows,
        )
        return ids, x, report


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    """Return a plain view: a kernel is compiled anew for memory that may be written to."""
    view = np.asarray(array).view()
    view.flags.writeable = False
    return view


@contracting
def _solve(
    indptr: Any,
    indices: Any,
    weights: Any,
    roots: Any,
    order: Any,
    largest_root: float,
    number: Any,
    T: Touched,
    R: Rows,
    places: Any,
    values: Any,
    alpha: float,
    tol: float,
    certify: int,
    max_work: int,
) -> tuple[Touched, Rows, State, Bounds, bool, float]:
    """Solve (I - α W) x = b for one sparse b, b[places] = values, storage order.

    `number` (n,) int32 is -1 everywhere, and is so again at the end. Returns the workspace, which
    may have been exchanged for a larger one, the state, the bounds, the certificate and ||r||².
    """
    n = indptr.shape[0] - 1
    scale = 0.0
    touched = 0
    if places.shape[0] > T.node.shape[0]:
        T, R = empty_workspace(2 * places.shape[0], R.columns.shape[0])
    for a in range(places.shape[0]):
        place = places[a]
        if values[a] != 0:
            number[place] = touched
            touch(T, touched, place, roots[place], values[a])
            scale = max(scale, abs(values[a]) / roots[place])
            touched += 1
    R.start[0] = 0
    omega = 2.0 / (1.0 + np.sqrt(1.0 - alpha * alpha))
    goal = tol * scale
    goal_beside = _BESIDE * goal
    state = State(touched, 0, 0.0, scale, 0, 0)
    B = Bounds(0.0, 0.0, 0.0, 0.0, 0.0)
    certified = False

    # First to the tolerance.
    while state.beside > goal_beside or state.inside > goal:
        before = state.work
        T, R, state = grow(
            indptr,
            indices,
            weights,
            roots,
            number,
            alpha,
            omega,
            T,
            R,
            state,
            goal_beside,
            n,
            max_work,
        )
        state = relax(T, R, state, alpha, omega, goal, max_work)
        if state.work == before or state.work + 2 * R.start[state.rows] > max_work:
            break

    # Then to the certificate: ever larger supports, each solved so well that the residual beside
    # it is what counts.
    floor = 1.0 - alpha * (1.0 + ROW_SUM_SLACK)
    finest = 1e-15 * scale / (1.0 - alpha)
    inner = state.inside
    while certify > 0:
        edges = R.start[state.rows]
        closed = state.touched == state.rows
        inner = max(finest, 1e-2 * inner if closed else INSIDE * state.beside)
        if state.inside > inner:
            state = relax(T, R, state, alpha, omega, inner, max_work - 2 * edges)
        if not closed and floor > 0:
            state = shield(T, R, state, alpha, omega, floor, max_work)
        B = bounds(T, R, state, alpha)
        certified, ratio = certificate(T, state, order, certify, n, largest_root, B)
        if certified or not floor > 0 or (closed and inner <= finest):
            break
        if closed:
            if state.work + 2 * edges > max_work:
                break
            continue
        # Straight to the support that the bounds, as they fall, will fit in the gap with.
        factor = max(1.5, ratio**_GROWTH) if ratio < np.inf else 4.0
        factor = min(_LEAP, factor, (max_work - state.work) / (_STAGE * edges + 1))
        if factor < 1.2:
            break
        rows = state.rows
        T, R, state = grow(
            indptr,
            indices,
            weights,
            roots,
            number,
            alpha,
            omega,
            T,
            R,
            state,
            0.0,
            int(factor * rows) + 16,
            max_work,
        )
        if state.rows == rows:
            break
    if certify == 0:
        B = bounds(T, R, state, alpha)

    squares = 0.0
    for t in range(state.touched):
        squares += T.residual[t] ** 2
        number[T.node[t]] = -1
    return T, R, state, B, certified, squares
