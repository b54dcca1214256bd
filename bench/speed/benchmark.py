"""How fast, as ratios within one run: beside what one would otherwise use, and beside the machine.

Everything runs in this process, one thing after the other, on the same cores.
"""

from __future__ import annotations

import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import cg as scipy_cg

import diffusion
from diffusion.affinity import PowerAffinity
from diffusion.graph.graph import Graph
from diffusion.kernels.blocks import laplacian_block
from diffusion.kernels.threads import chunks
from diffusion.neighbors.index import Exact, NeighborIndex
from diffusion.solvers.cg import CG
from diffusion.transfer import RegularizedLaplacian

from ..data.collections import lattice_lists, manifold
from ..measure import PeakMemory, seconds_of
from ..table import Table
from . import context as speed_context
from . import solvers as speed_solvers

N, D, K, QUERIES, ALPHA, TOL = 100_000, 128, 50, 64, 0.99, 1e-6
SIDES = (22, 100)  # of the lattices: 10,648 and 1,000,000 nodes


def run(*, long: bool = False) -> list[Table]:
    """Measure graph construction, the solvers, memory and loading."""
    print(f"{numba.get_num_threads()} threads; kernels are compiled before they are timed\n")
    warm_up()
    machine = machine_limits()
    index = NeighborIndex(manifold(N + QUERIES, D), "cosine", Exact())
    assert index.vectors is not None
    queries, index.vectors, index.size = index.vectors[N:], index.vectors[:N], N
    tables = []
    tables += _of_one_collection(index, queries, machine)
    del index
    tables.append(_show(memory_and_loading()))
    tables.append(_show(speed_context.growth()))
    return tables + speed_solvers.run(long)


def _of_one_collection(
    index: NeighborIndex, queries: NDArray[np.float32], machine: dict[str, float]
) -> list[Table]:
    lists: list[Any] = []
    search = seconds_of(lambda: lists.extend(index.neighbors(K)))
    scores, ids = lists
    graph, table = construction(scores, ids, search)
    context = speed_context.construction(scores, ids, search, *index.search(queries, K))
    return [_show(table), _show(context), _show(conjugate_gradient(graph, index, queries, machine))]


def _show(table: Table) -> Table:
    print(table, end="\n\n", flush=True)
    return table


def warm_up() -> None:
    """Compile every kernel, by a search in more nodes than one core is given alone."""
    scores, ids = lattice_lists(30, K)
    for affinity in ("context", "cosine"):
        ranker = diffusion.Reranker(k=K, affinity=affinity).fit_neighbors(scores, ids)
        ranker.rerank(scores[:33], ids[:33])
    NeighborIndex(manifold(2000), "cosine", Exact()).neighbors(K)


def machine_limits() -> dict[str, float]:
    """Measure bytes a second of a copy and operations a second of a matrix product."""
    source = np.ones(1 << 26, np.float32)
    target = np.empty_like(source)
    square = np.ones((4096, 4096), np.float32)
    square @ square
    copy = seconds_of(lambda: np.copyto(target, source), 5)
    multiply = seconds_of(lambda: square @ square, 3)
    return {"bytes": 2 * source.nbytes / copy, "operations": 2 * 4096**3 / multiply}


def construction(
    scores: NDArray[np.float32], ids: NDArray[np.int32], search: float
) -> tuple[Graph, Table]:
    """Time everything of `fit` that is not the neighbour search, against that search."""
    graphs: list[Graph] = []

    def build() -> None:
        edges = PowerAffinity(3.0).edges(scores, ids)
        graphs.append(Graph.from_neighbors(*edges))

    build_seconds = seconds_of(build, 3)
    graph = graphs[-1]
    table = Table(
        f"**Graph construction**, n = {N:,}, d = {D}, k = {K}",
        ("step", "seconds", "share of the search, %"),
        [
            ["exact k-NN search (faiss)", search, 100.0],
            [
                "all else: weights, reciprocity, order, components, W",
                build_seconds,
                100 * build_seconds / search,
            ],
        ],
        [
            f"{graph}; largest component {100 * graph.component_sizes[0] / N:.2f} % of the nodes, "
            f"{2 * graph.n_edges / N:.1f} entries a row of W"
        ],
    )
    return graph, table


def conjugate_gradient(
    graph: Graph, index: NeighborIndex, queries: NDArray[np.float32], machine: dict[str, float]
) -> Table:
    """Time the block solver against a loop of scipy's, both to the same true residual."""
    scores, ids = index.search(queries, 10)
    rows = np.repeat(np.arange(QUERIES), 10)
    y = sparse.csr_array(
        (PowerAffinity(3.0).weights(scores).ravel().astype(np.float64), (rows, ids.ravel())),
        shape=(QUERIES, N),
    )
    solver = CG(tol=TOL).prepare(graph, RegularizedLaplacian(ALPHA))
    solutions: list[Any] = []
    block = seconds_of(lambda: solutions.append(solver.solve(y)), 3)
    single = seconds_of(lambda: solver.solve(y[[0]]), 3)
    report = solutions[-1].report

    dense = y.toarray().astype(np.float32) * np.float32(1 - ALPHA)
    by_scipy = np.empty_like(dense)

    def loop(L: sparse.csr_array, right: NDArray[np.float32]) -> None:
        for q in range(len(right)):
            by_scipy[q], _ = scipy_cg(L, right[q], rtol=TOL, maxiter=1000)

    identity = sparse.eye_array(N, dtype=np.float32, format="csr")
    L = sparse.csr_array(identity - np.float32(ALPHA) * graph.W)
    reordered = sparse.csr_array(L[graph.order][:, graph.order])
    ours_order = seconds_of(lambda: loop(reordered, dense[:16][:, graph.order])) * QUERIES / 16
    scipy_loop = seconds_of(lambda: loop(L, dense))
    residual = np.linalg.norm(dense - (L.astype(np.float64) @ by_scipy.T).T, axis=1)
    residual /= np.linalg.norm(dense, axis=1)

    def row(name: str, seconds: float, m: int, worst: float | None) -> list[Any]:
        per_query = 1000 * seconds / m
        return [name, per_query, 1000 * scipy_loop / QUERIES / per_query, worst]

    P = np.ones((N, solver.block_size), np.float32)
    Q, sums = np.empty_like(P), np.empty((chunks(N), P.shape[1]))
    product = seconds_of(
        lambda: laplacian_block(
            graph.indptr, graph.indices, graph.weights, np.float32(ALPHA), P, Q, sums
        ),
        20,
    )
    operations = 2 * len(graph.indices) * P.shape[1] / product
    gathered = (len(graph.indices) * (8 + 4 * P.shape[1]) + Q.nbytes) / product
    least = (graph.indices.nbytes + graph.weights.nbytes + P.nbytes + Q.nbytes) / machine["bytes"]
    return Table(
        f"**Conjugate gradient**, {QUERIES} queries, {N:,} nodes, α = {ALPHA}, "
        f"relative residual {TOL:g}",
        ("solver", "ms/query", "times scipy's speed", "largest true residual"),
        [
            row("loop of scipy.sparse.linalg.cg", scipy_loop, QUERIES, float(residual.max())),
            row("the same, on our node order (16 queries)", ours_order, QUERIES, None),
            row("CG, one query", single, 1, None),
            row("CG, blocks of 32", block, QUERIES, float(report.residual.max())),
        ],
        [
            f"Iterations: {report.iterations.min()} to {report.iterations.max()}. One product of "
            f"W with a block takes {1000 * product:.1f} ms: {operations / 1e9:.0f} GFLOP/s (a "
            f"dense float32 product here: {machine['operations'] / 1e9:.0f}), "
            f"{gathered / 1e9:.0f} GB/s through the caches; if every byte came from memory only "
            f"once it would take {1000 * least:.1f} ms at the {machine['bytes'] / 1e9:.0f} GB/s "
            "of a copy."
        ],
    )


def memory_and_loading() -> Table:
    """Build from the neighbour lists of a small and a large lattice; save, load, answer."""
    table = Table(
        f"**Memory and loading**, k = {K} neighbour lists of a lattice, every one reciprocal",
        (
            "items",
            "lists, MB",
            "peak beyond lists, MB",
            "build, s",
            "index, MB",
            "load, ms",
            "first query, ms",
        ),
        notes=["load: median of 15; first query: after loading, residual 1e-6."],
    )
    for side in SIDES:
        scores, ids = lattice_lists(side, K)
        with PeakMemory() as memory:
            start = time.perf_counter()
            ranker = diffusion.Reranker(k=K, affinity="cosine").fit_neighbors(scores, ids)
            seconds = time.perf_counter() - start
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "index"
            ranker.save(path)
            size = sum(file.stat().st_size for file in path.rglob("*.npy"))
            load = seconds_of(partial(diffusion.load, path), 15)
            query = seconds_of(partial(diffusion.load(path).rerank, scores[0], ids[0]))
        table.rows.append(
            [
                f"{len(ids):,}",
                (scores.nbytes + ids.nbytes) / 1e6,
                memory.peak / 1e6,
                seconds,
                size / 1e6,
                1000 * load,
                1000 * query,
            ]
        )
        del ranker, scores, ids
    return table
