"""Queries on indexes of more and more items: every figure at each size, and its growth."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..table import Table
from .pages import PAGE
from .queries import Figures, measure_queries
from .tiles import Tiles

# Rows of the table: what they are called, and where the figure is.
_ROWS = {
    "opening, ms": ("load_ms",),
    "first answer, cold, ms": ("first_ms",),
    "cold, ms": ("cold_ms", "median"),
    "cold, 90 %, ms": ("cold_ms", "p90"),
    "cold, all arrays read ahead, ms": ("cold_read_ahead_ms", "median"),
    "warm, ms": ("warm_ms", "median"),
    "warm, 90 %, ms": ("warm_ms", "p90"),
    "pages read": ("pages_median",),
    "pages read, 90 %": ("pages_p90",),
    "pages read, all arrays read ahead": ("read_ahead_median",),
    "nodes that are not 0": ("support", "median"),
    "products with edges": ("pushes", "median"),
    "memory beside mapped files, MB": ("anonymous_mb",),
    "of it before the index is opened, MB": ("before_mb",),
    "index, MB": ("index_mb",),
}
_NOTE = (
    "Medians over the queries, or the value that 90 % of them do not exceed. Cold: no page of the "
    "index is in memory before the query; the first answer also prepares what all queries share. "
    f"Pages have {PAGE:,} bytes; pages read are counted with nothing read ahead. Products: entries "
    "of W that a solution multiplies."
)


def ask(index: Path, tiles: Tiles, queries: int) -> Figures:
    """Measure queries near random items, in a process of their own."""
    rows = np.random.default_rng(1).choice(tiles.n, queries, replace=False)
    return measure_queries(str(index), *tiles.queries(rows))


def table(measured: Mapping[int, Figures]) -> Table:
    """Return the figures of indexes of so many items: a column for each, and the last ratio."""
    sizes = sorted(measured)
    found = Table(
        "**Queries on larger and larger indexes**",
        ("figure", *[f"{n:,} items" for n in sizes], "ratio of the last to the first"),
        notes=[_NOTE],
    )
    for name, path in _ROWS.items():
        values = [_at(measured[n], path) for n in sizes]
        found.rows.append([name, *values, values[-1] / values[0] if values[0] else None])
    return found


def _at(figures: Figures, path: tuple[str, ...]) -> float:
    value: object = figures
    for name in path:
        assert isinstance(value, Mapping)
        value = value[name]
    assert isinstance(value, int | float)
    return value
