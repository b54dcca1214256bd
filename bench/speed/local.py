"""Speed of the local solver beside 20 iterations of scipy's CG and the published local solvers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import cg as scipy_cg

import diffusion
from diffusion import RegularizedLaplacian
from diffusion.graph import Graph
from diffusion.solvers.local import Local, LocalReport

from ..measure import seconds_of, timed
from ..rivals.local_solvers import SOLVERS, Rival
from ..table import Table
from .problems import ALPHA, K, internal_adjacency, observed_graph, system

# The published solvers are measured at the largest tolerance, each 0.7 of the one before, at which
# their agreement with the exact top 100 is at least this.
_AGREEMENT = 0.99


def measure(sizes: Sequence[int], queries: int, compared: int) -> Table:
    """Time queries one at a time, and compare the first `compared` of them with exact answers."""
    table = Table(
        f"**Local solver**, one query at a time, k = {K}, α = {ALPHA}, IVF lists",
        (
            "nodes",
            "observed",
            "solver",
            "ms/query",
            "share of scipy's time",
            "top-100 agreement, %",
            "certified within 1/4, %",
            "within 1/20, %",
            "edges, millions",
        ),
    )
    transfer = RegularizedLaplacian(ALPHA)
    for n in sizes:
        graph, y = observed_graph(n, queries)
        reference = _by_scipy(graph, y)
        theirs = [1000 * reference, "1", *[None] * 3, 20 * len(graph.indices) / 1e6]
        table.rows.append([f"{n:,}", "", "scipy.sparse.linalg.cg, 20 iterations", *theirs])
        single = sparse.csr_array(y.multiply(y == y.max(axis=1).toarray()[:, None]))
        for count, observed in (("10", y), ("1", single)):
            exact = diffusion.CG(tol=1e-6).prepare(graph, transfer).solve(observed[:compared]).x
            assert isinstance(exact, np.ndarray)
            for name, solver in (
                ("Local(certify=0)", Local(certify=0, threads=1)),
                ("Local()", Local(threads=1)),
            ):
                solver.prepare(graph, transfer)
                figures = _row(solver, observed, reference, exact)
                table.rows.append([f"{n:,}", count, name, *figures])
            for name, solve in SOLVERS.items():
                rival = Rival(graph, ALPHA, solve)
                figures = _published(rival, observed, reference, exact)
                table.rows.append([f"{n:,}", count, name, *figures])
        table.notes.append(f"{n:,} nodes: {graph}")
        del exact, graph, rival
    return table


def _by_scipy(graph: Graph, y: sparse.csr_array) -> float:
    """Return the median seconds of 20 iterations of scipy's CG for the first three queries."""
    L = system(internal_adjacency(graph))
    seconds = []
    for row in range(3):
        b = np.zeros(graph.n_nodes, np.float32)
        part = y[[row]]
        b[graph.position[part.indices]] = (1 - ALPHA) * part.data
        seconds.append(seconds_of(lambda: scipy_cg(L, b, rtol=1e-12, maxiter=20)))  # noqa: B023
    return float(np.median(seconds))


def _row(
    solver: Local, y: sparse.csr_array, reference: float, exact: NDArray[np.float32]
) -> list[Any]:
    """Return the figures of a prepared solver, with its time as a share of scipy's."""
    solver.solve(y[[0]])
    seconds, report = _one_by_one(solver, y)
    x = solver.solve(y[: len(exact)]).x
    assert not isinstance(x, np.ndarray)
    rows = [slice(*x.indptr[row : row + 2]) for row in range(len(exact))]
    shared = [_agree(x.indices[r], x.data[r], e) for r, e in zip(rows, exact, strict=True)]
    shares: list[Any] = [None, None]
    if solver.certify:
        shares = [
            100 * float(np.mean(report.certified & (seconds <= reference / part)))
            for part in (4, 20)
        ]
    median = float(np.median(seconds))
    work = float(report.work.mean()) / 1e6
    agreement = 100 * float(np.mean(shared))
    return [1000 * median, _share(median / reference), agreement, *shares, work]


def _published(
    rival: Rival, y: sparse.csr_array, reference: float, exact: NDArray[np.float32]
) -> list[Any]:
    """Return the figures of a published solver at the tolerance that its accuracy needs."""
    parts = [slice(*y.indptr[row : row + 2]) for row in range(y.shape[0])]
    queries = [(y.indices[part], y.data[part]) for part in parts]
    eps, agreement = 1.0, 0.0
    while agreement < _AGREEMENT and eps > 1e-6:
        eps *= 0.7
        solved = [rival.solve(*query, eps) for query in queries[: len(exact)]]
        agreement = float(np.mean([_agree(*x, e) for x, e in zip(solved, exact, strict=True)]))
    median = float(np.median([seconds_of(lambda: rival.solve(*q, eps)) for q in queries]))  # noqa: B023
    return [1000 * median, _share(median / reference), 100 * agreement, *[None] * 3]


def _one_by_one(solver: Local, y: sparse.csr_array) -> tuple[NDArray[np.float64], LocalReport]:
    """Solve the rows of y one at a time; return the seconds of each and the joined report."""
    parts = [y[[row]] for row in range(y.shape[0])]
    solved = [timed(lambda: solver.solve(part)) for part in parts]  # noqa: B023
    reports = [solution.report for solution, _ in solved]
    seconds = np.array([seconds for _, seconds in solved])
    return seconds, LocalReport.concatenate(reports)  # type: ignore[return-value]


def _share(part: float) -> str:
    return f"1/{1 / part:.0f}" if part < 0.7 else f"{part:.1f}"


def _agree(
    ids: NDArray[np.integer], x: NDArray[Any], exact: NDArray[np.float32], k: int = 100
) -> float:
    """Return the share of the exact top k that a sparse answer finds."""
    best = ids[np.argsort(-x, kind="stable")[:k]]
    return len(np.intersect1d(best, np.argsort(-exact, kind="stable")[:k])) / k
