"""How fast the other solvers are: local, spectral and columns, each beside what one would use."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, eigsh
from scipy.sparse.linalg import cg as scipy_cg
from tqdm import tqdm

import diffusion
from diffusion import IVF, RegularizedLaplacian
from diffusion.affinity import PowerAffinity
from diffusion.graph.graph import Graph
from diffusion.solvers.columns import Columns
from diffusion.solvers.linalg.eigen import leading_eigenpairs
from diffusion.solvers.local import Local, LocalReport

from ..data.collections import manifold
from ..table import Table

ALPHA, K, D = 0.99, 50, 64
LOCAL_NODES = (10_000, 1_000_000)
LOCAL_QUERIES, EXACT_QUERIES = 60, 10
SPECTRAL = (20_000, 200)
SPECTRAL_LONG = (100_000, 1000)
LIMIT = 600.0  # seconds that the long comparison gives eigsh
COLUMNS_NODES, COLUMNS_SIZE, COLUMNS_SAMPLE = 20_000, 1000, 120


def _graph(n: int) -> tuple[Graph, sparse.csr_array]:
    """Return the graph of a manifold by IVF, and observations of ten nodes each."""
    method = IVF(nlist=max(64, 2 * int(n**0.5)), nprobe=12)
    scores, ids = diffusion.nearest_neighbors(manifold(n, D), K, method=method)
    graph = diffusion.Reranker(k=K, affinity="cosine").fit_neighbors(scores, ids).graph_
    chosen = np.random.default_rng(1).choice(n, LOCAL_QUERIES, replace=False)
    weights = PowerAffinity(3.0).weights(scores[chosen, :10])
    rows = np.repeat(np.arange(LOCAL_QUERIES), 10)
    y = sparse.csr_array(
        (weights.ravel().astype(np.float64), (rows, ids[chosen, :10].ravel())),
        shape=(LOCAL_QUERIES, n),
    )
    return graph, y


def _system(graph: Graph) -> sparse.csr_array:
    """Return I - α W, float32, in our node order, which is the faster one for scipy too."""
    n = graph.n_nodes
    W = sparse.csr_array((graph.weights, graph.indices, graph.indptr), shape=(n, n))
    identity = sparse.eye_array(n, dtype=np.float32, format="csr")
    return sparse.csr_array(identity - np.float32(ALPHA) * W)


def _one_by_one(solver: Local, y: sparse.csr_array) -> tuple[NDArray[np.float64], LocalReport]:
    """Solve the rows of y one at a time; return the seconds of each and the report."""
    seconds, reports = [], []
    for row in range(y.shape[0]):
        part = y[[row]]
        start = time.perf_counter()
        solution = solver.solve(part)
        seconds.append(time.perf_counter() - start)
        reports.append(solution.report)
    return np.array(seconds), LocalReport.concatenate(reports)  # type: ignore[return-value]


def local() -> Table:
    """Time one query by `Local`, fast and certified, against 20 iterations of scipy's CG."""
    transfer = RegularizedLaplacian(ALPHA)
    table = Table(
        f"**Local solver**, one query of ten nodes at a time, k = {K}, α = {ALPHA}, IVF lists",
        ("nodes", "solver", "ms/query", "share of scipy's time", "top-100 agreement, %",
         "certified within 1/4, %", "within 1/20, %", "edges, millions"),
    )  # fmt: skip
    for n in LOCAL_NODES:
        graph, y = _graph(n)
        exact = diffusion.CG(tol=1e-6).prepare(graph, transfer).solve(y[:EXACT_QUERIES]).x
        assert isinstance(exact, np.ndarray)
        L = _system(graph)
        times = []
        for row in range(3):
            b = np.zeros(n, np.float32)
            part = y[[row]]
            b[graph.position[part.indices]] = (1 - ALPHA) * part.data
            start = time.perf_counter()
            scipy_cg(L, b, rtol=1e-12, maxiter=20)
            times.append(time.perf_counter() - start)
        reference = float(np.median(times))
        table.rows.append(
            [f"{n:,}", "scipy.sparse.linalg.cg, 20 it.", 1000 * reference, "1", *[None] * 3,
             20 * len(graph.indices) / 1e6]
        )  # fmt: skip
        single = sparse.csr_array(y.multiply(y == y.max(axis=1).toarray()[:, None]))
        for name, solver, observed in (
            ("Local(certify=0)", Local(certify=0, threads=1), y),
            ("Local()", Local(threads=1), y),
            ("Local(), one node observed", Local(threads=1), single),
        ):
            solver.prepare(graph, transfer)
            solver.solve(observed[[0]])
            seconds, report = _one_by_one(solver, observed)
            agreement = None
            if observed is y:
                x = solver.solve(y[:EXACT_QUERIES]).x
                assert not isinstance(x, np.ndarray)
                agreement = 100 * float(np.mean([_agree(x, exact, q) for q in range(len(exact))]))
            shares: list[Any] = [None, None]
            if solver.certify:
                shares = [
                    100 * float(np.mean(report.certified & (seconds <= reference / part)))
                    for part in (4, 20)
                ]
            table.rows.append(
                [f"{n:,}", name, 1000 * float(np.median(seconds)),
                 _share(float(np.median(seconds)) / reference), agreement, *shares,
                 float(report.work.mean()) / 1e6]
            )  # fmt: skip
        table.notes.append(f"{n:,} nodes: {graph}")
        del L, exact, graph
    return table


def _share(part: float) -> str:
    return f"1/{1 / part:.0f}" if part < 0.7 else f"{part:.1f}"


def _agree(x: sparse.csr_array, exact: NDArray[np.float32], row: int, k: int = 100) -> float:
    """Return the share of the exact top k that a sparse answer finds."""
    own = x[[row]]
    best = own.indices[np.argsort(-own.data, kind="stable")[:k]]
    return len(np.intersect1d(best, np.argsort(-exact[row], kind="stable")[:k])) / k


class _TooLong(Exception):  # noqa: N818
    pass


def spectral(n: int, rank: int, limit: float | None = None, tol: float = 1e-4) -> Table:
    """Time the leading eigenpairs against scipy's eigsh, which may be stopped at a limit."""
    scores, ids = diffusion.nearest_neighbors(
        manifold(n, D), K, method=IVF(nlist=2 * int(n**0.5), nprobe=12)
    )
    graph = diffusion.Reranker(k=K, affinity="cosine").fit_neighbors(scores, ids).graph_
    W = sparse.csr_array((graph.weights, graph.indices, graph.indptr), shape=(n, n))

    def residual(values: NDArray[Any], vectors: NDArray[Any]) -> float:
        worst = 0.0
        for first in range(0, len(values), 50):
            U = vectors[:, first : first + 50].astype(np.float64)
            error = W @ U - U * values[first : first + 50]
            worst = max(worst, float(np.linalg.norm(error, axis=0).max()))
        return worst

    warm = diffusion.Reranker(k=10, affinity="cosine").fit(manifold(3000, D)).graph_
    leading_eigenpairs(warm, np.arange(3000, dtype=np.int32), 50)
    start = time.perf_counter()
    pairs = leading_eigenpairs(graph, np.arange(n, dtype=np.int32), rank, tol=tol)
    ours = time.perf_counter() - start
    products = 0
    start = time.perf_counter()

    def matvec(v: NDArray[Any]) -> NDArray[Any]:
        nonlocal products
        products += 1
        if limit is not None and time.perf_counter() - start > limit:
            raise _TooLong
        return W @ v.astype(np.float32)

    operator = LinearOperator((n, n), matvec=matvec, dtype=np.float32)
    table = Table(
        f"**Spectral, offline**: the {rank} largest eigenpairs of {n:,} nodes",
        ("eigensolver", "seconds", "speed", "largest residual"),
    )
    try:
        their_values, their_vectors = eigsh(operator, k=rank, which="LA", tol=1e-3)
        theirs = time.perf_counter() - start
        table.rows.append(
            [
                "scipy.sparse.linalg.eigsh, tol 1e-3",
                theirs,
                1.0,
                residual(their_values, their_vectors),
            ]
        )
    except _TooLong:
        theirs = time.perf_counter() - start
        table.rows.append(["scipy.sparse.linalg.eigsh, tol 1e-3, stopped", theirs, 1.0, None])
        table.notes.append(
            f"eigsh was stopped, unfinished, after {products} products with W: its time is a lower "
            f"bound. At rank 200 on 20,000 nodes it needs about 960, in proportion "
            f"{960 * rank // 200} here, and each costs more as the basis grows."
        )
    table.rows.append(
        [
            f"leading_eigenpairs, tol {tol:g}",
            ours,
            theirs / ours,
            residual(pairs.values, pairs.vectors),
        ]
    )
    return table


def columns() -> Table:
    """Time the offline columns against a joblib loop over scipy's CG, extrapolated."""
    n, size = COLUMNS_NODES, COLUMNS_SIZE
    graph, y = _graph(n)
    L = _system(graph)
    sample = np.random.default_rng(2).choice(n, COLUMNS_SAMPLE, replace=False)

    def neighborhood(i: int) -> NDArray[np.int64]:
        """Breadth-first from i: not timed, the loop gets it for nothing."""
        seen = [i]
        known = {i}
        for p in seen:
            if len(seen) >= size:
                break
            for j in graph.indices[graph.indptr[p] : graph.indptr[p + 1]].tolist():
                if j not in known:
                    known.add(j)
                    seen.append(j)
        return np.array(seen[:size])

    def column(T: NDArray[np.int64]) -> NDArray[np.float32]:
        b = np.zeros(len(T), np.float32)
        b[0] = 1 - ALPHA
        return scipy_cg(L[T][:, T], b, rtol=1e-6, maxiter=1000)[0]

    given = [neighborhood(int(i)) for i in sample]
    start = time.perf_counter()
    Parallel(n_jobs=-1, prefer="threads")(delayed(column)(T) for T in given)
    loop = (time.perf_counter() - start) * n / len(sample)
    warm = (
        diffusion.Reranker(k=5, affinity="cosine")
        .fit(np.random.default_rng(0).random((100, 4)))
        .graph_
    )
    Columns(size=20).prepare(warm, RegularizedLaplacian(ALPHA))
    start = time.perf_counter()
    solver = Columns(size=size).prepare(graph, RegularizedLaplacian(ALPHA))
    ours = time.perf_counter() - start
    solver.solve(y[[0]])
    online = []
    for row in range(y.shape[0]):
        part = y[[row]]
        start = time.perf_counter()
        solver.solve(part)
        online.append(time.perf_counter() - start)
    return Table(
        f"**Columns, offline**: {n:,} nodes, L = {size}",
        ("solver", "seconds", "speed", "online, ms/query"),
        [
            ["joblib over scipy.sparse.linalg.cg, neighbourhoods given", loop, 1.0, None],
            [f"Columns(size={size})", ours, loop / ours, 1000 * float(np.median(online))],
        ],
        [f"The joblib loop is extrapolated from {len(sample)} nodes."],
    )


def run(long: bool) -> list[Table]:
    """Measure local, spectral and columns; `long` adds the large eigenproblem."""
    jobs = [columns, lambda: spectral(*SPECTRAL), local]
    if long:
        jobs.append(lambda: spectral(*SPECTRAL_LONG, limit=LIMIT))
    tables = []
    for job in tqdm(jobs, desc="solvers", unit="table"):
        tables.append(job())
        print(tables[-1], end="\n\n", flush=True)
    return tables
