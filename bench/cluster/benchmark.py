"""The benchmark `cluster`: builds over shards, and queries on the indexes that they make.

Collections are given as neighbour lists, which are exact and cost little to make (`tiles`). Every
build is a program of its own; the processes that it starts are watched from here.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from diffusion.kernels.threads import cores

from ..measure import processor
from ..table import Table, show
from . import asking, constants, cost, equality, paper, scale
from .builds import Build
from .queries import Figures
from .tiles import Tiles

SECTIONS = ("equality", "scale", "queries", "constants", "paper")


@dataclass(frozen=True)
class Sizes:
    """How large the problems are; the defaults are those of the printed tables.

    Attributes
    ----------
    n : int
        Items of the build that is compared with that of one process. Collections consist of tiles:
        numbers of items are rounded up to what tiles hold.
    growing : tuple of int
        Items of the builds of more and more items.
    shard_rows : int
        Items of a shard.
    where : str
        Where tasks run: by default, on two processes of a cluster of Dask on this machine.
    queries : int
        Queries that are reranked.
    warm : int
        Items of the builds that compile the loops, and show how much disk an item takes.
    """

    n: int = 1_000_000
    growing: tuple[int, ...] = tuple(m * 1_000_000 for m in (1, 3, 10, 30))
    shard_rows: int = 125_000
    where: str = "local:2"
    queries: int = 20
    warm: int = 48_000


DEFAULT = Sizes()


def run(
    *,
    sections: Sequence[str] | None = None,
    n: int | None = None,
    largest: int | None = None,
    shard_rows: int | None = None,
    folder: str | None = None,
    sizes: Sizes = DEFAULT,
) -> list[Table]:
    """Measure builds over shards and queries on their indexes.

    Parameters
    ----------
    sections : sequence of str, optional
        Some of `SECTIONS`; by default all.
    n, shard_rows : int, optional
        Other values of those of `sizes`.
    largest : int, optional
        The most items; by default, as many of `sizes.growing` as there is space for on the disk.
    folder : str, optional
        Where files are made, and removed; by default, the system's folder of temporary files.
    sizes : Sizes

    Raises
    ------
    DiffusionError
        If the disk has not the space that the largest build needs.
    """
    chosen = SECTIONS if sections is None else tuple(sections)
    sizes = replace(sizes, n=n or sizes.n, shard_rows=shard_rows or sizes.shard_rows)
    print(f"{processor()}, {cores()} threads\n")
    with tempfile.TemporaryDirectory(dir=folder) as made:
        return _Run(Path(made), sizes, chosen, largest).tables()


class _Run:
    """The sections of one run, which share builds."""

    def __init__(
        self, folder: Path, sizes: Sizes, sections: Sequence[str], largest: int | None
    ) -> None:
        self._folder, self._sizes, self._sections = folder, sizes, sections
        per_item = self._warm_up()
        self._growing = self._those_that_fit(largest, per_item)
        if {"equality", "constants", "paper"} & set(sections):
            scale.check_disk(folder, sizes.n, 2 * per_item if "equality" in sections else per_item)

    def tables(self) -> list[Table]:
        tables: list[Table] = []
        builds: list[Build] = []
        if "equality" in self._sections:
            tables += self._equality(builds)
        if {"scale", "queries"} & set(self._sections):
            tables += self._scale(builds)
        if {"constants", "paper"} & set(self._sections):
            rows, where = self._sizes.shard_rows, self._sizes.where
            if not builds:
                builds, _ = scale.measure([self._sizes.n], rows, where, self._folder)
            largest = max(builds, key=lambda each: each.n)
            if "constants" in self._sections:
                tables += [show(constants.stages(largest)), show(constants.arrays(largest))]
            if "paper" in self._sections:
                tables.append(show(paper.table(largest, int(where.rpartition(":")[2]))))
        return tables

    def _equality(self, builds: list[Build]) -> list[Table]:
        tiles = Tiles(self._sizes.n)
        with tempfile.TemporaryDirectory(dir=self._folder) as made:
            folder = Path(made)
            tiles.write(folder / "lists", scale.shards_of(tiles.n, self._sizes.shard_rows))
            both = cost.measure(tiles, folder / "lists", folder, self._sizes.where)
            paths = [folder / name / "index" for name in ("single", "sharded")]
            spent = show(cost.table(both))
            builds.append(both[1])
            return [spent, show(equality.measure(paths[0], paths[1], tiles, self._sizes.queries))]

    def _scale(self, builds: list[Build]) -> list[Table]:
        asked: dict[int, Figures] = {}

        def ask(index: Path, tiles: Tiles) -> None:
            asked[tiles.n] = asking.ask(index, tiles, self._sizes.queries)

        look = ask if "queries" in self._sections else None
        rows = self._sizes.shard_rows
        found, notes = scale.measure(self._growing, rows, self._sizes.where, self._folder, look)
        builds += found
        tables = [show(scale.table(found, notes))] if "scale" in self._sections else []
        return [*tables, show(asking.table(asked))] if any(asked.values()) else tables

    def _warm_up(self) -> float:
        """Compile the loops, and return the bytes that an item takes on disk."""
        tiles = Tiles(self._sizes.warm)
        with tempfile.TemporaryDirectory(dir=self._folder) as made:
            folder = Path(made)
            tiles.write(folder / "lists", 4)
            both = cost.measure(tiles, folder / "lists", folder, self._sizes.where)
        return scale.disk_of(both[1])

    def _those_that_fit(self, largest: int | None, per_item: float) -> list[int]:
        if not {"scale", "queries"} & set(self._sections):
            return []
        if largest is None:
            sizes = scale.fitting(self._folder, self._sizes.growing, per_item)
            largest = sizes[-1] if sizes else self._sizes.growing[0]
        scale.check_disk(self._folder, largest, per_item)
        return [n for n in self._sizes.growing if n < largest] + [largest]
