"""Times of the solvers among which `Auto` chooses, on both sides of its choice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

import diffusion
from diffusion import CG, Local, RegularizedLaplacian, Truncated
from diffusion.solvers import Solver
from diffusion.solvers.auto import choose

from ..measure import seconds_of
from ..table import Table
from .problems import ALPHA, K, cells, manifold_lists, observations

# Conjugate gradient on more entries than these takes seconds and is left out.
_MOST = 10_000_000

# A component of more nodes is not solved whole.
_LARGEST_PART = 4_000


def measure(sizes: Sequence[int], counts: Sequence[int]) -> Table:
    """Time observations of ten nodes, solved together by each solver."""
    table = Table(
        f"**Choice of the solver**, contextual affinity, α = {ALPHA}, ms per observation",
        ("nodes", "entries of W", "observations", "truncated", "cg", "local", "chosen", "fastest"),
        notes=["chosen: by `solver='auto'`"],
    )
    transfer = RegularizedLaplacian(ALPHA)
    for n in sizes:
        scores, ids = manifold_lists(n, cells(n))
        graph = diffusion.Reranker(k=K).fit_neighbors(scores, ids).graph_
        entries = len(graph.indices)
        solvers: dict[str, Solver] = {"local": Local(certify=0)}
        if entries <= _MOST:
            solvers["cg"] = CG(tol=1e-4)
        if n <= _LARGEST_PART:
            solvers["truncated"] = Truncated(n)
        for solver in solvers.values():
            solver.prepare(graph, transfer)
        rng = np.random.default_rng(1)
        for count in counts:
            seeds = rng.choice(n, count, replace=n < count)
            y = observations(scores[seeds, :10], ids[seeds, :10], n)
            times = {}
            for name, solver in solvers.items():
                solver.solve(y)
                times[name] = 1000 * seconds_of(lambda: solver.solve(y), 5) / count  # noqa: B023
            chosen = choose(entries)
            table.rows.append(
                [
                    f"{n:,}",
                    f"{entries:,}",
                    count,
                    *(times.get(name) for name in ("truncated", "cg", "local")),
                    chosen,
                    min(times, key=times.__getitem__),
                ]
            )
    return table
