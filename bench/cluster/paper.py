"""Builds and queries that no single machine can run, estimated from what an item costs here."""

from __future__ import annotations

from collections.abc import Sequence

from ..table import Table
from .builds import Build

#: Numbers of items.
SIZES = (10**8, 10**9, 10**10)

# Shards are as large as those measured, or as many as this.
_SHARDS = 4000

# Largest number of rows of an index, which are int32.
_ROWS = 2**31 - 1

# Seconds to open a file, in each exchange one for each pair of shards: a network file system's.
_OPENED = 1e-3

# The stages whose tasks read what the tasks of all shards have sent, beside those of final arrays.
_EXCHANGES = ("placed", "positions", "levels", "holders", "edges")


def table(each: Build, workers: int, sizes: Sequence[int] = SIZES) -> Table:
    """Return what builds of more items take if an item costs what it did in one build.

    Parameters
    ----------
    each : Build
        The build that was measured, on `workers` workers.
    workers : int
    sizes : sequence of int
        Numbers of items.
    """
    measured = each.n / each.shards
    found = Table(
        f"**Larger builds, on paper**, from {each.n:,} items in {each.shards} shards",
        ("", *[f"{n:,} items" for n in sizes]),
        notes=[
            "Each figure is that of an item here, times the number of items; worker-hours are of "
            "cores like those here, with one core for each worker. Files are opened by every "
            "shard's task for every shard, in each exchange.",
        ],
    )
    index, shuffled = sum(each.index.values()) / each.n, each.shuffled / each.n
    hours = workers * each.seconds / each.n / 3600
    memory = each.usage.peak("worker") / measured
    tasks = each.tasks / each.shards
    exchanges = sum(name in _EXCHANGES or name.startswith("outgoing-") for name in each.stages)
    counts = [max(1, min(round(n / measured), _SHARDS)) for n in sizes]
    rows: list[tuple[str, list[float | str]]] = [
        ("shards", [f"{count:,}" for count in counts]),
        ("items of a shard", [f"{n // count:,}" for n, count in zip(sizes, counts, strict=True)]),
        ("given lists, TB", [8 * 50 * n / 1e12 for n in sizes]),
        ("index on disk, TB", [index * n / 1e12 for n in sizes]),
        ("most disk in use by the build, TB", [each.peak / each.n * n / 1e12 for n in sizes]),
        ("sent between shards, TB", [shuffled * n / 1e12 for n in sizes]),
        ("tasks", [f"{round(tasks * count):,}" for count in counts]),
        ("worker-hours", [hours * n for n in sizes]),
        (
            "memory of a worker, GB",
            [memory * n / count / 1e9 for n, count in zip(sizes, counts, strict=True)],
        ),
        (
            f"files opened in {exchanges} exchanges, hours of all workers at 1 ms",
            [exchanges * count**2 * _OPENED / 3600 for count in counts],
        ),
        ("mapped by every task: rows and positions, GB", [8 * n / 1e9 for n in sizes]),
        ("the index's row numbers", ["fit" if n <= _ROWS else "need 64 bits" for n in sizes]),
    ]
    found.rows += [[name, *values] for name, values in rows]
    return found
