"""The benchmark `speed`: ratios, within one run, to other programs and to the machine's limits.

Everything runs in this process, one step after the other, on the same cores.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

import diffusion
from diffusion.kernels.threads import cores
from diffusion.neighbors import IVF, Exact, NeighborIndex

from ..data.collections import lattice_lists, manifold
from ..measure import seconds_of
from ..table import Table, show
from . import (
    cold_start,
    columns,
    conjugate_gradient,
    construction,
    context,
    crossings,
    local,
    spectral,
    whole_call,
)
from .problems import K, Sizes

DEFAULT = Sizes()


def run(*, long: bool = False, sizes: Sizes = DEFAULT) -> list[Table]:
    """Measure graph construction, memory, loading and every solver.

    `long` adds the large eigenproblem.
    """
    print(f"{cores()} threads; kernels are compiled before they are timed\n")
    warm_up(sizes.warm)
    tables = one_collection(sizes)
    jobs: list[Callable[[], Table]] = [
        partial(cold_start.measure, sizes.cold),
        partial(construction.memory_and_loading, sizes.lattices),
        partial(context.growth, sizes.context_lattices, sizes.context_nodes),
        partial(columns.measure, *sizes.columns),
        partial(spectral.measure, *sizes.spectral),
        partial(local.measure, sizes.local_nodes, sizes.local_queries, sizes.exact_queries),
        partial(whole_call.measure, sizes.whole_nodes, sizes.whole_queries),
        partial(crossings.measure, sizes.crossing_nodes, sizes.crossing_counts),
        partial(construction.neighbour_lists, *sizes.lists),
    ]
    if long:
        jobs.append(partial(spectral.measure, *sizes.spectral_long, limit=sizes.limit))
    return tables + [show(job()) for job in tqdm(jobs, desc="speed", unit="table")]


def one_collection(sizes: Sizes) -> list[Table]:
    """Measure graph construction, contextual affinity and CG on the same vectors."""
    n = sizes.nodes
    index = NeighborIndex(manifold(n + sizes.queries, sizes.dimension), "cosine", Exact())
    assert index.vectors is not None
    queries, index.vectors, index.size = index.vectors[n:], index.vectors[:n], n
    lists: list[Any] = []
    search = seconds_of(lambda: lists.extend(index.neighbors(K)))
    scores, ids = lists
    graph, table = construction.measure(scores, ids, search, sizes.dimension)
    affinity = context.construction(scores, ids, search, *index.search(queries, K))
    machine = machine_limits(sizes.copied, sizes.multiplied)
    first_stage = index.search(queries, 10)
    cg = conjugate_gradient.measure(graph, *first_stage, machine)
    return [show(table), show(affinity), show(cg)]


def warm_up(side: int) -> None:
    """Compile every kernel by a search in a lattice of side³ nodes."""
    scores, ids = lattice_lists(side, K)
    for affinity in ("context", "cosine"):
        ranker = diffusion.Reranker(k=K, affinity=affinity).fit_neighbors(scores, ids)
        ranker.rerank(scores[:33], ids[:33])
    for method in (Exact(), IVF()):
        NeighborIndex(manifold(2000), "cosine", method).neighbors(K)


def machine_limits(copied: int, multiplied: int) -> dict[str, float]:
    """Measure the bytes per second of a copy and the operations per second of a matrix product."""
    source = np.ones(copied, np.float32)
    target = np.empty_like(source)
    square: NDArray[np.float32] = np.ones((multiplied, multiplied), np.float32)
    square @ square
    copy = seconds_of(lambda: np.copyto(target, source), 5)
    multiply = seconds_of(lambda: square @ square, 3)
    return {"bytes": 2 * source.nbytes / copy, "operations": 2 * multiplied**3 / multiply}
