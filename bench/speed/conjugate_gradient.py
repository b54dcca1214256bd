"""Speed of the conjugate gradient solver beside a loop over scipy's."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import cg as scipy_cg

from diffusion.devices import blocks_on
from diffusion.graph import Graph
from diffusion.kernels.matrix import Nodes
from diffusion.solvers.cg import CG
from diffusion.transfer import RegularizedLaplacian

from ..measure import seconds_of
from ..table import Table
from .problems import ALPHA, observations, system

TOL = 1e-6


def measure(
    graph: Graph,
    scores: NDArray[np.float32],
    ids: NDArray[np.int64],
    machine: dict[str, float],
) -> Table:
    """Time the block solver beside a loop over scipy's, both to the same true residual."""
    y = observations(scores, ids, graph.n_nodes)
    m = len(ids)
    solver = CG(tol=TOL).prepare(graph, RegularizedLaplacian(ALPHA))
    solutions: list[Any] = []
    block = seconds_of(lambda: solutions.append(solver.solve(y)), 3)
    single = seconds_of(lambda: solver.solve(y[[0]]), 3)
    report = solutions[-1].report
    loop, ordered, worst = _scipy(graph, y)

    def row(name: str, seconds: float, queries: int, residual: float | None) -> list[Any]:
        return [name, 1000 * seconds / queries, loop / m / (seconds / queries), residual]

    return Table(
        f"**Conjugate gradient**, {m} queries, {graph.n_nodes:,} nodes, α = {ALPHA}, "
        f"relative residual {TOL:g}",
        ("solver", "ms/query", "times scipy's speed", "largest true residual"),
        [
            row("loop over scipy.sparse.linalg.cg", loop, m, worst),
            row(f"the same, in our node order ({min(16, m)} queries)", ordered, m, None),
            row("CG, one query", single, 1, None),
            row("CG, blocks of 32", block, m, float(report.residual.max())),
        ],
        [
            f"Iterations: {report.iterations.min()} to {report.iterations.max()}. "
            + _product(graph, solver.block_size, machine)
        ],
    )


def _scipy(graph: Graph, y: sparse.csr_array) -> tuple[float, float, float]:
    """Solve with scipy, one query after the other.

    Return the seconds, those in our node order, and the largest true relative residual.
    """
    dense = y.toarray().astype(np.float32) * np.float32(1 - ALPHA)
    solved = np.empty_like(dense)

    def loop(L: sparse.csr_array, right: NDArray[np.float32]) -> None:
        for q in range(len(right)):
            solved[q], _ = scipy_cg(L, right[q], rtol=TOL, maxiter=1000)

    L = system(graph.W)
    reordered = sparse.csr_array(L[graph.order][:, graph.order])
    part = dense[:16][:, graph.order]
    ordered = seconds_of(lambda: loop(reordered, part)) * len(dense) / len(part)
    seconds = seconds_of(lambda: loop(L, dense))
    residual = np.linalg.norm(dense - (L.astype(np.float64) @ solved.T).T, axis=1)
    residual /= np.linalg.norm(dense, axis=1)
    return seconds, ordered, float(residual.max())


def _product(graph: Graph, block_size: int, machine: dict[str, float]) -> str:
    """Return a sentence on the speed of one product of W with a block, and what limits it."""
    blocks = blocks_on("cpu", graph.matrix, Nodes(graph.order, graph.position, graph.degrees))
    P, Q = blocks.zeros(block_size), blocks.zeros(block_size)
    P += 1
    seconds = seconds_of(lambda: blocks.laplacian(ALPHA, P, Q), 20)
    operations = 2 * len(graph.indices) * block_size / seconds
    gathered = (len(graph.indices) * (8 + 4 * block_size) + Q.nbytes) / seconds
    least = (graph.indices.nbytes + graph.weights.nbytes + P.nbytes + Q.nbytes) / machine["bytes"]
    return (
        f"One product of W with a block takes {1000 * seconds:.1f} ms: "
        f"{operations / 1e9:.0f} GFLOP/s (a dense float32 product here: "
        f"{machine['operations'] / 1e9:.0f}), {gathered / 1e9:.0f} GB/s through the caches. "
        f"Reading every byte from memory once would take {1000 * least:.1f} ms at the "
        f"{machine['bytes'] / 1e9:.0f} GB/s of a copy, {100 * least / seconds:.0f} % of that time."
    )
