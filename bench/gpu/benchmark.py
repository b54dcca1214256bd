"""The benchmark `gpu`: building and re-ranking on a GPU, stage by stage.

The figures are those of one process. The first call on the device, which starts it, is not timed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

import diffusion
from diffusion import CG, Context, Reranker
from diffusion.devices import blocks_on
from diffusion.graph import Graph
from diffusion.kernels.matrix import Nodes
from diffusion.transfer import RegularizedLaplacian

from ..data.collections import manifold
from ..measure import seconds_of, timed
from ..speed.problems import ALPHA, DIMENSION, K, observations
from ..table import Table, show


@dataclass(frozen=True)
class Sizes:
    """How large the problem is; the defaults are those of the printed tables.

    Attributes
    ----------
    nodes, queries : int
    columns : tuple of int
        Widths of the blocks that W is multiplied with.
    compared : int
        Queries whose answers are compared with those of the CPU.
    copied : int
        Bytes copied on the device, to measure it.
    """

    nodes: int = 1_000_000
    queries: int = 1000
    columns: tuple[int, ...] = (32, 64, 128, 256)
    compared: int = 32
    copied: int = 1 << 32


DEFAULT = Sizes()


def run(*, device: str = "cuda", sizes: Sizes = DEFAULT) -> list[Table]:
    """Measure the contextual encoding, the product of W and a block, and re-ranking."""
    if device == "cuda" and not torch.cuda.is_available():
        print("No GPU is available to torch on this machine; there is nothing to measure.")
        return []
    X = manifold(sizes.nodes + sizes.queries, DIMENSION)
    X, Q = X[: sizes.nodes], X[sizes.nodes :]
    index = diffusion.neighbors.NeighborIndex(X, "cosine", method_of(sizes.nodes))
    lists, first = index.neighbors(K), index.search(Q, 100)
    ranker = Reranker(k=K, alpha=ALPHA, affinity=Context(device=device), solver=CG(device=device))
    ranker.fit_neighbors(*lists)
    bytes_per_second = copy_of(device, sizes.copied)
    tables = [
        show(encoding(*lists, device)),
        show(products(ranker.graph_, device, sizes.columns, bytes_per_second)),
        show(reranking(ranker, first, sizes)),
    ]
    return tables


def method_of(n: int) -> diffusion.IVF | diffusion.Exact:
    """Return the method that finds the neighbours, which are not what is measured."""
    if n < 20_000:
        return diffusion.Exact()
    return diffusion.IVF(nlist=2 * int(n**0.5), nprobe=12)


def encoding(scores: NDArray[np.float32], ids: NDArray[np.int32], device: str) -> Table:
    """Encode a collection on the device and on the CPU."""
    rows, edges = [], []
    for name in (device, "cpu"):
        found, seconds = timed(lambda: Context(device=name).edges(scores, ids))  # noqa: B023
        edges.append(found)
        rows.append([name, seconds, 1e6 * seconds / len(ids)])
    equal = all(np.array_equal(a, b) for a, b in zip(*edges, strict=True))
    title = f"**Contextual affinity on a device**, {len(ids):,} items"
    note = f"Edges and weights are {'the same' if equal else 'different'}."
    return Table(title, ("device", "seconds", "µs/item"), rows, [note])


def copy_of(device: str, size: int) -> float:
    """Return the bytes per second of a copy on the device, each byte read and written."""
    source = torch.ones(size // 4, device=device.removeprefix("torch:"))
    target = torch.empty_like(source)

    def copy() -> float:
        target.copy_(source)
        return float(target[-1])  # waits for the device

    copy()
    return 2 * source.nbytes / seconds_of(copy, 10)


def products(graph: Graph, device: str, columns: tuple[int, ...], copy: float) -> Table:
    """Time the product of W with blocks of several widths, beside a copy of the same bytes."""
    matrix = graph.matrix
    blocks = blocks_on(device, matrix, Nodes(graph.order, graph.position, graph.degrees))
    stored = 8 * len(graph.indices)
    rows = []
    for b in columns:
        P, Q = blocks.zeros(b), blocks.zeros(b)
        P += 1

        def product() -> Any:
            return blocks.laplacian(ALPHA, P, Q)  # noqa: B023

        product()
        seconds = seconds_of(product, 10)
        least = stored + 2 * 4 * b * graph.n_nodes
        gathered = stored + 4 * b * (len(graph.indices) + graph.n_nodes)
        rows.append(
            [b, 1000 * seconds, 100 * least / copy / seconds, gathered / seconds / 1e9, copy / 1e9]
        )
    title = (
        f"**Product of I - αW with a block on a device**, {graph.n_nodes:,} nodes, "
        f"{len(graph.indices):,} weights"
    )
    header = ("columns", "ms", "% of a copy's speed", "GB/s gathered", "GB/s of a copy")
    note = (
        "The bytes of a copy are those of W and of both blocks, once each. A row of the block is "
        "gathered for every weight, from a cache or from memory."
    )
    return Table(title, header, rows, [note])


def reranking(
    ranker: Reranker, first: tuple[NDArray[np.float32], NDArray[np.int64]], sizes: Sizes
) -> Table:
    """Time each stage of re-ranking, and compare the answers with those of the CPU."""
    scores, ids = first
    ranker.rerank(scores[:2], ids[:2])
    whole, seconds = timed(lambda: ranker.rerank(scores, ids))
    report = ranker.report_
    y = observations(scores[:, :10], ids[:, :10], ranker.n_items_)
    # As many at a time as a Reranker diffuses.
    width = max(32, (1 << 26) // ranker.n_items_ // 32 * 32)

    def solve() -> None:
        for start in tqdm(range(0, len(ids), width), desc="solve", unit="block"):
            ranker.solver_.solve(y[start : start + width])

    _, solving = timed(solve)
    few = y[: sizes.compared]
    on_cpu = CG().prepare(ranker.graph_, RegularizedLaplacian(ALPHA))
    expected, x = on_cpu.solve(few).x, ranker.solver_.solve(few).x
    error = np.abs(x - expected).max(axis=1) / np.abs(expected).max(axis=1)
    rows = [
        ["solutions, copied to the CPU", solving],
        ["observations, fusion and ranking (CPU)", max(0.0, seconds - solving)],
        ["the whole call", seconds],
    ]
    return Table(
        f"**Re-ranking on a device**, {len(ids):,} queries, {ranker.n_items_:,} nodes",
        ("stage", "seconds"),
        rows,
        [
            f"Iterations: {report.iterations.min()} to {report.iterations.max()}; largest true "
            f"residual {report.residual.max():.1e}. Largest difference to the solution of the CPU, "
            f"relative to the largest score of a query: {error.max():.1e}. Ids in the lists: "
            f"{np.count_nonzero(whole[1] >= 0):,}."
        ],
    )
