"""Quality, speed and index size of every solver on the same collections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, cast

import diffusion
from diffusion.baselines import expansion
from diffusion.solvers import Solver

from ..data.collections import Collection
from ..measure import index_bytes, percent, precision_of, timed
from ..table import Table

SOLVERS: tuple[Solver, ...] = (
    diffusion.CG(),
    diffusion.Spectral(rank=100),
    diffusion.Spectral(rank=400),
    diffusion.Hybrid(rank=100),
    diffusion.Columns(),
    diffusion.Truncated(size=300),
    diffusion.Truncated(size=1000),
    diffusion.Local(),
    diffusion.Local(certify=0),
    diffusion.Chebyshev(),
)


def compare(
    collections: Sequence[Collection], affinity: str, solvers: Sequence[Solver] = SOLVERS
) -> Table:
    """Rank every collection with each solver, as far down as the solver reaches."""
    table = Table(
        f"**Solvers**, affinity {affinity!r}",
        (
            "solver",
            *(f"{collection.name}: mAP" for collection in collections),
            "ms/query",
            "offline, s",
            "index, MB",
        ),
        notes=[
            "ms/query, offline and index are those of the last collection, of "
            f"{len(collections[-1].gallery)} items. ms/query: time for the first 100 results. "
            "index: vectors, graph and what the solver prepared."
        ],
    )
    for solver in solvers:
        figures = []
        for collection in collections:
            ranker = diffusion.Reranker(affinity=affinity, solver=solver)
            figure, online, offline = _measured(ranker, collection)
            figures.append(figure)
        size = index_bytes(ranker) / 1e6
        table.rows.append([_short(solver), *figures, online, offline, size])
    return table


def _measured(ranker: diffusion.Reranker, collection: Collection) -> tuple[float, float, float]:
    """Fit a collection; return the mAP, the milliseconds per query and the seconds of the fit."""
    X, Q = expansion.normalize(collection.gallery), expansion.normalize(collection.queries)
    ranker.fit(X[:200]).search(Q[:40], 100)  # compiles the kernels
    _, offline = timed(lambda: ranker.fit(X))
    _, online = timed(lambda: ranker.search(Q, 100))
    ids = ranker.search(Q, len(X))[1]
    precision = precision_of(ids, collection.gallery_labels, collection.query_labels)
    return percent(precision), 1000 * online / len(Q), offline


def _short(solver: Solver) -> str:
    """Return the name of a solver with the settings that differ from its defaults."""
    settings, default = asdict(cast(Any, solver)), asdict(cast(Any, type(solver)()))
    changed = (f"{name}={value}" for name, value in settings.items() if value != default[name])
    return f"{type(solver).__name__}({', '.join(changed)})"
