"""Speed of the contextual affinity beside the neighbour search that it follows."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffusion import Context
from diffusion.graph import Graph

from ..data.collections import lattice_lists
from ..measure import PeakMemory, seconds_of, timed
from ..table import Table
from .problems import manifold_lists


def construction(
    scores: NDArray[np.float32],
    ids: NDArray[np.int32],
    search: float,
    query_scores: NDArray[np.float32],
    query_ids: NDArray[np.int64],
) -> Table:
    """Time encoding, Jaccard lists and graph beside the search that made the neighbour lists."""
    made: list[Any] = []

    def build() -> None:
        affinity = Context()
        made[:] = affinity, Graph.from_neighbors(*affinity.edges(scores, ids), overwrite=True)

    build_seconds = seconds_of(build)
    affinity, graph = made

    def one_by_one() -> None:
        for row in range(len(query_ids)):
            affinity.observe(query_scores[row : row + 1], query_ids[row : row + 1], 10)

    one_by_one()
    each = 1000 * seconds_of(one_by_one) / len(query_ids)
    together = 1000 * seconds_of(lambda: affinity.observe(query_scores, query_ids, 10))
    return Table(
        f"**Contextual affinity**, n = {len(ids):,}, scales {affinity.scales}",
        ("step", "seconds", "share of the search, %"),
        [
            ["exact k-NN search (faiss)", search, 100.0],
            ["encoding, Jaccard lists, graph", build_seconds, 100 * build_seconds / search],
        ],
        [
            f"Encoding and similarities of a query: {each:.2f} ms alone, "
            f"{together / len(query_ids):.2f} ms in a batch of {len(query_ids)}. {graph}"
        ],
    )


def growth(sides: Sequence[int], sizes: Sequence[int]) -> Table:
    """Measure time and memory of the build on growing lattices and growing manifolds."""
    table = Table(
        "**Contextual affinity, growth**: time and memory of the build after the neighbour search",
        (
            "collection",
            "items",
            "search, µs/item",
            "context, µs/item",
            "of all cores, µs/item",
            "graph, µs/item",
            "peak beyond lists, bytes/item",
            "kept, bytes/item",
        ),
        notes=[
            "search: an inverted file, of the manifolds only; lattices have their lists given. of "
            "all cores: processor time of the context. kept: for the context, without the graph; "
            "up to 592 bytes of it are read by updates of the collection alone."
        ],
    )
    for side in sides:
        scores, wide = lattice_lists(side)
        table.rows.append(["lattice", *_build(scores, wide.astype(np.int32), None)])
    for n in sizes:
        lists, search = timed(partial(manifold_lists, n, max(64, 2 * int(n**0.5))))
        table.rows.append(["manifold", *_build(*lists, search)])
        del lists
    return table


def _build(scores: NDArray[np.float32], ids: NDArray[np.int32], search: float | None) -> list[Any]:
    """Return the cells of a row: the items, and the costs of each."""
    n = len(ids)
    affinity = Context()
    with PeakMemory() as memory:
        start = time.process_time()
        edges, context = timed(partial(affinity.edges, scores, ids))
        busy = time.process_time() - start
        _, seconds = timed(partial(Graph.from_neighbors, *edges, overwrite=True))
    kept = sum(array.nbytes for array in affinity.arrays().values())
    times = [1e6 * each / n for each in (context, busy, seconds)]
    return [
        f"{n:,}",
        None if search is None else 1e6 * search / n,
        *times,
        memory.peak / n,
        kept / n,
    ]
