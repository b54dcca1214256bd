"""Queries on indexes of more and more items: every figure at each size, and its growth."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..table import Table
from .queries import measure_queries
from .tiles import Tiles

Figures = dict[str, Any]


def ask(index: Path, tiles: Tiles, queries: int) -> Figures:
    """Measure queries near random items, in a process of their own."""
    rows = np.random.default_rng(1).choice(tiles.n, queries, replace=False)
    return flat(measure_queries(str(index), *tiles.queries(rows)))


def flat(figures: Mapping[str, Any], prefix: str = "") -> Figures:
    """Return nested figures as one level, {"pages": {"weights": 3}} as {"pages, weights": 3}."""
    found: Figures = {}
    for name, value in figures.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}, ")
        else:
            found[f"{prefix}{name}"] = value.item() if isinstance(value, np.generic) else value
    return found


def table(measured: Mapping[int, Figures]) -> Table:
    """Return the figures of indexes of so many items: a column for each, and the last ratio."""
    sizes = sorted(measured)
    found = Table(
        "**Queries on larger and larger indexes**",
        ("figure", *[f"{n:,} items" for n in sizes], "ratio of the last to the first"),
    )
    for name in dict.fromkeys(name for n in sizes for name in measured[n]):
        values = [measured[n].get(name) for n in sizes]
        found.rows.append([name, *values, _ratio(values[0], values[-1])])
    return found


def _ratio(first: Any, last: Any) -> float | None:
    if isinstance(first, int | float) and isinstance(last, int | float) and first:
        return last / first
    return None
