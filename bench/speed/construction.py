"""Speed of graph construction beside neighbour search; memory of a fit and loading of an index."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import diffusion
from diffusion import IVF, Exact
from diffusion.affinity import PowerAffinity
from diffusion.graph import Graph
from diffusion.neighbors import Auto, Method, NeighborIndex

from ..data.collections import descriptors, lattice_lists, manifold
from ..measure import PeakMemory, bytes_of_arrays, seconds_of, timed
from ..table import Table
from .problems import K


def measure(
    scores: NDArray[np.float32], ids: NDArray[np.int32], search: float, dimension: int
) -> tuple[Graph, Table]:
    """Time all of `fit` except the neighbour search, beside that search."""
    graphs: list[Graph] = []

    def build() -> None:
        edges = PowerAffinity(3.0).edges(scores, ids)
        graphs.append(Graph.from_neighbors(*edges))

    build_seconds = seconds_of(build, 3)
    graph, n = graphs[-1], len(ids)
    table = Table(
        f"**Graph construction**, n = {n:,}, d = {dimension}, k = {K}",
        ("step", "seconds", "share of the search, %"),
        [
            ["exact k-NN search (faiss)", search, 100.0],
            [
                "the rest: weights, reciprocity, order, components, W",
                build_seconds,
                100 * build_seconds / search,
            ],
        ],
        [
            f"{graph}; largest component {100 * graph.component_sizes[0] / n:.2f} % of the nodes, "
            f"{2 * graph.n_edges / n:.1f} entries per row of W"
        ],
    )
    return graph, table


def neighbour_lists(n: int, dimension: int, scenes: int) -> Table:
    """Time exact and approximate neighbour lists of a manifold and of scenes."""
    table = Table(
        f"**Neighbour lists**, n = {n:,}, d = {dimension}, k = {K}",
        ("method", "seconds", "times exact", "recall"),
        notes=["recall: share of the exact neighbours of 2,000 items."],
    )
    chosen = np.random.default_rng(0).permutation(n)[:2000]
    for name, vectors in (
        ("manifold", manifold(n, dimension)),
        ("scenes", descriptors(n, dimension, scenes)),
    ):
        _, exact, search = _timed_lists(vectors, Exact())
        table.rows.append([f"{name}: exact", search, 1.0, 1.0])
        for method in (IVF(), Auto()):
            used, ids, seconds = _timed_lists(vectors, method)
            pairs = zip(ids[chosen], exact[chosen], strict=True)
            recall = np.mean([len(set(one) & set(other)) / len(other) for one, other in pairs])
            table.rows.append([f"{method.name}: {used}", seconds, seconds / search, recall])
    return table


def _timed_lists(
    vectors: NDArray[np.float32], method: Method
) -> tuple[Method, NDArray[np.int32], float]:
    """Return the method that was used, the ids of the lists, and the seconds that all took."""

    def lists() -> tuple[Method, NDArray[np.int32]]:
        index = NeighborIndex(vectors, "cosine", method, k=K)
        return index.method, index.neighbors(K)[1]

    (used, ids), seconds = timed(lists)
    return used, ids, seconds


def memory_and_loading(sides: Sequence[int]) -> Table:
    """Measure memory and time of building, saving, loading and one query on lattices."""
    table = Table(
        f"**Memory and loading**, neighbour lists of a lattice, k = {K}, all reciprocal",
        (
            "items",
            "lists, MB",
            "peak beyond lists, MB",
            "build, s",
            "index, MB",
            "load, ms",
            "first query, ms",
        ),
        notes=["load: median of 15. first query: just after loading."],
    )
    for side in sides:
        scores, ids = lattice_lists(side, K)
        with PeakMemory() as memory:
            fit = partial(diffusion.Reranker(k=K, affinity="cosine").fit_neighbors, scores, ids)
            ranker, seconds = timed(fit)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "index"
            ranker.save(path)
            size = bytes_of_arrays(path)
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
        del fit, ranker, scores, ids
    return table
