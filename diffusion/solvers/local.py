"""Local diffusion, whose cost per query does not grow with the collection."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn

import numpy as np
from numpy.typing import NDArray

from ..kernels import local as kernels
from ..kernels import threads
from ..kernels.matrix import SparseRows, read_only
from ..kernels.support import DAMAGED, FULL, LocalGraph, Workspace, empty_workspace
from ..storage.contents import Array, Arrays, Between, Layout, damaged
from ..validation import check_integer, check_real
from .base import Report, Solution, Solver

# Initial capacity of a workspace: touched nodes, edges.
_ROOM = (1 << 14, 1 << 18)

# The relative error of Σ_j W_ij √d_j = √d_i, of numbers in float32, in a row that is not damaged.
_SLACK = 1e-3

# The factor by which a workspace that was too small is enlarged.
_MORE = 4


@dataclass(frozen=True)
class LocalReport(Report):
    """The report of `Local`, with a bound on the error.

    Attributes
    ----------
    bound : ndarray, shape (m,), float64
        Bound on the error of every entry, relative to the square root of the degree d_i:
        ``|x_i - x*_i| <= bound √d_i``, where x* is the exact solution and d_i is taken as 1 for
        an isolated node.
    support : ndarray, shape (m,), int64
        Number of nodes for which x was solved; x is 0 at all other nodes.
    """

    bound: NDArray[np.float64]
    support: NDArray[np.int64]


@dataclass
class Local(Solver):
    """Relaxation on a growing neighbourhood of the query, with a certificate of the ranking.

    The solver computes L x = b, with L = I - α W and b = (1 - α) y, on a *support* S: a set of
    nodes around those of the observation y. x is 0 outside S. The residual r = b - L x is then
    non-zero only in S and at the neighbours of S. Single nodes are relaxed in turn, as in local
    successive over-relaxation: where the scaled residual ``|r_i| / √d_i`` is above the goal, with
    d_i the degree, x_i += ω r_i, and node i belongs to the support from then on. The rows of W that
    belong to the support are copied to contiguous memory, so that time and memory depend on the
    size of the support and not on the number of nodes n. The observation should have few nodes.

    The first goal follows what a ranking needs: the scaled residual is at most `tol` √(1 - α) times
    the `top`-th largest ``|x_i| / √d_i``. Since that value is not known in advance, the solution is
    worked down to decreasing levels until `top` values are above the level. On a graph of
    neighbours, the error that remains is almost the same multiple of √d_i at all nodes of a
    connected piece of the support. It is therefore estimated, from the balance of the residual,
    and added. With `certify=0` the solver stops there; on graphs of 1,000 to 10^6 nodes, 99 of the
    best hundred items are then correct, whether one node is observed or ten.

    Otherwise the support grows further until the best `certify` items are *certified*: they are
    proven to be the best of the exact solution x*, up to equal scores. It grows by the neighbours
    with the largest scaled residual, and within S the system is solved by sweeps of successive
    over-relaxation with ω = 2 / (1 + √(1 - α²)), which takes a third of the sweeps of conjugate
    gradient. The error e = x* - x satisfies L e = r. As P = D^-1 A is stochastic, with A the
    adjacency matrix and D its degrees, the maximum principle holds: any v with
    (I - αP) v >= D^-1/2 r bounds D^-1/2 e from above. The solver uses v = M φ + m, where

    - φ is 1 outside the support and satisfies (I - αP) φ = 0 within it. It decreases towards the
      query, and so does the bound. It is computed in addition to x.
    - M = max r_i⁺ / √d_i / ((I - αP) φ)_i over the neighbours of the support,
    - m = max r_i⁺ / √d_i / (1 - α) over the support,

    with r⁺ the positive part of r. The negative part r⁻ gives a bound from below in the same way.
    (φ = 1 gives the simple bound ``max |r_i| / √d_i / (1 - α)``, which is at least ten times
    larger.)
    The k best items are certified when the smallest of their lower bounds is at least the
    largest upper bound of all other nodes.

    Parameters
    ----------
    tol : float > 0, default 0.2
        Accuracy of the first goal: ``max |r_i| / √d_i`` is at most `tol` √(1 - α) times the
        `top`-th largest ``|x_i| / √d_i``. Values below ``10^-6 max |b_i| / √d_i`` are not resolved.
    top : int >= 1, default 100
        Number of best items whose order is to be at rest. A `Reranker` raises it to the length of
        the lists that it is asked for.
    certify : int >= 0, default 10
        Number of best items to certify; 0 for none.
    max_work : int >= 1, default 100_000_000
        Maximum number of multiplications by an edge weight per query. If it is exhausted, x is
        returned as it is: `report.converged` tells whether a goal has been reached, and
        `report.certified` whether the items are certified.
    threads : int >= 1 or None, default None
        Number of queries solved concurrently. None is the number of cores.

    Notes
    -----
    The solution x is a CSR array whose entries are the nodes of the supports. The report is a
    `LocalReport`: `residual` is the true relative residual ``||b - L x|| / ||b||``, `iterations` is
    the number of sweeps for x, over the nodes known at the time of the sweep, and `bound` is a
    bound on the error of every entry. With `certify=0` the constant that is added makes x a better
    solution in the support and leaves a step at its edge, which the residual and the bound include.

    The offline work, which an update repeats, is the square roots of the degrees.

    Memory: 4 bytes per node, which stay on disk in an index that was loaded, and for each thread up
    to 16 bytes per edge of the largest support and up to 250 bytes per touched node (a node of the
    support or a neighbour of it).

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

    tol: float = 0.2
    top: int = 100
    certify: int = 10
    max_work: int = 100_000_000
    threads: int | None = None

    name: ClassVar[str] = "local"
    limit: ClassVar[str | None] = "max_work"

    def __post_init__(self) -> None:
        check_real(self.tol, "tol", low=0.0, strict=True)
        check_integer(self.top, "top", low=1)
        check_integer(self.certify, "certify", low=0)
        check_integer(self.max_work, "max_work", low=1)
        if self.threads is not None:
            check_integer(self.threads, "threads", low=1)

    def _precompute(
        self, progress: bool, checkpoint: str | os.PathLike[str] | None
    ) -> dict[str, NDArray[Any]]:
        roots = np.sqrt(self._graph.degrees[self._graph.order])
        # An isolated node has the equation x_i = b_i, whatever its scale.
        roots[roots == 0] = 1.0
        roots = roots.astype(np.float32)
        return {"roots": roots, "largest": roots.max(keepdims=True)}

    def _layout(self, arrays: Arrays) -> Layout:
        least, most = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
        return {
            "largest": Array(np.float32, (1,), Between(least, most)),
            "roots": Array(np.float32, (self._graph.n_nodes,), Between(least, "largest")),
        }

    def check(self) -> None:
        """Check the arrays if they are small, except the edges; a solve checks what it reads."""
        self._graph.contents.check_small()
        self._contents.check_small(("largest",))

    def _attach(self) -> None:
        self._idle: list[Workspace] = []  # list.append and pop are atomic
        self._local: LocalGraph | None = None

    def for_depth(self, depth: int) -> Solver:
        """Return a solver whose `top` is at least `depth`."""
        if depth <= self.top:
            return self
        deeper = copy.copy(self)
        deeper.top = depth
        return deeper

    def _solve(self, y: SparseRows, candidates: NDArray[np.int64] | None) -> Solution:
        if self._local is None:
            roots, largest = self._arrays["roots"], float(self._arrays["largest"][0])
            slack = np.inf if self._graph.contents.checked else _SLACK
            order = self._nodes.order
            self._local = LocalGraph(self._matrix, order, read_only(roots), largest, slack)
        graph = self._local

        def solve(row: int) -> Any:
            part = slice(y.starts[row], y.starts[row] + y.counts[row])
            ids, values = y.ids[part], y.values[part]
            by_id = np.argsort(ids)  # rounding depends on the order
            places = self._places(ids[by_id])
            return self._solve_one(graph, places, (1.0 - self._alpha) * values[by_id])

        answers = threads.side_by_side(solve, range(len(y.counts)), self.threads)
        columns = list(zip(*(report for *_, report in answers), strict=True)) or [()] * 7
        kinds = (np.float64, np.int64, bool, np.int64, bool, np.float64, np.int64)
        report = LocalReport(*(np.array(c, k) for c, k in zip(columns, kinds, strict=True)))
        counts = report.support
        if len(answers) == 1:
            ids, x, roots = answers[0][:3]
        else:
            ids = np.concatenate([np.empty(0, np.int32), *(ids for ids, *_ in answers)])
            x, roots = (
                np.concatenate([np.empty(0, np.float32), *(answer[i] for answer in answers)])
                for i in (1, 2)
            )
        rows = SparseRows(np.cumsum(counts) - counts, counts, ids, x)
        return Solution(rows, report, roots=roots)

    def _places(self, ids: NDArray[np.int32]) -> NDArray[np.int64]:
        """Return where nodes are stored."""
        order, position = self._nodes.order, self._nodes.position
        places = position[ids].astype(np.int64)
        fine = (places >= 0) & (places < len(order))
        if not (fine.all() and (order[places] == ids).all()):
            self._fail()
        return places

    def _fail(self) -> NoReturn:
        """Raise the error that says what is wrong with the arrays."""
        self._graph.check()
        self._contents.check()
        raise damaged(self._source, "roots", "the roots of the degrees of this graph")

    def _solve_one(
        self, graph: LocalGraph, places: NDArray[np.int64], values: NDArray[np.float64]
    ) -> Any:
        """Return the ids (the user's), x, √d and the report of one observation."""
        try:
            work = self._idle.pop()
        except IndexError:
            work = empty_workspace(*_ROOM)
        certify = min(self.certify, self._graph.n_nodes)
        settings = kernels.Settings(self._alpha, float(self.tol), self.top, certify, self.max_work)
        solve = kernels.solve_certified if certify else kernels.solve
        answer = solve(graph, settings, work, places, values)
        while answer.state.halt == FULL:
            # Begun again: later observations find the larger workspace.
            room = len(work.touched.node), len(work.rows.columns)
            work = empty_workspace(*(_MORE * size for size in room))
            answer = solve(graph, settings, work, places, values)
        state, limits, certified, squares, rested = answer
        if state.halt == DAMAGED:
            self._idle.append(work)
            self._fail()
        ids = np.empty(state.rows, np.int32)
        x, roots = np.empty((2, state.rows), np.float32)
        largest = kernels.take(graph.order, work, state.rows, ids, x, roots)
        self._idle.append(work)
        if not (self._graph.contents.checked or kernels.different(ids, self._graph.n_nodes)):
            self._fail()
        norm = np.linalg.norm(values)
        beside = max(limits.above_beside, limits.below_beside) * (1.0 + limits.eta)
        bound = beside + max(limits.above_inside, limits.below_inside)
        report = (
            np.sqrt(squares) / norm if norm > 0 else 0.0,
            state.sweeps,
            certified or rested,
            state.work,
            certified,
            # Includes the rounding of x and of √d to float32.
            bound * (1.0 + 2.0**-22) + largest * 2.0**-23,
            state.rows,
        )
        return ids, x, roots, report
