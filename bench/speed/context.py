"""Speed of the contextual affinity beside the neighbour search that it follows."""

from __future__ import annotations

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
        made[:] = affinity, Graph.from_neighbors(*affinity.edges(scores, ids))

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


def growth(sides: Sequence[int]) -> Table:
    """Measure time and memory of `Context.edges` on the neighbour lists of growing lattices."""
    table = Table(
        "**Contextual affinity, growth**, neighbour lists of a lattice",
        ("items", "seconds", "µs/item", "peak beyond lists, bytes/item", "kept, bytes/item"),
    )
    for side in sides:
        scores, wide = lattice_lists(side)
        ids = wide.astype(np.int32)
        n = len(ids)
        affinity = Context()
        with PeakMemory() as memory:
            edges, seconds = timed(partial(affinity.edges, scores, ids))
        kept = sum(array.nbytes for array in affinity.arrays().values())
        table.rows.append([f"{n:,}", seconds, 1e6 * seconds / n, memory.peak / n, kept / n])
        del edges, affinity, scores, ids, wide
    return table
