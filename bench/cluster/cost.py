"""What a build over shards costs beside that of one process on the same lists."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..table import Table
from .builds import SINGLE, Build, build
from .tiles import Tiles


def measure(tiles: Tiles, lists: Path, folder: Path, where: str) -> list[Build]:
    """Build both indexes below a folder: `single/index` and `sharded/index`."""
    builds = []
    for name, place in (("single", SINGLE), ("sharded", where)):
        (folder / name).mkdir()
        builds.append(build(place, tiles.n, lists, folder / name / "index"))
    return builds


def table(builds: Sequence[Build]) -> Table:
    """Return the table of time and memory of builds, with ratios to the first."""
    found = Table(
        f"**Build over shards**, {builds[0].n:,} items",
        (
            "build",
            "seconds",
            "ratio",
            "CPU seconds",
            "coordinator, MB",
            "each worker, MB",
            "with mapped files, MB",
            "shuffled, MB",
            "written, MB",
            "peak disk, MB",
        ),
        notes=[
            "Memory: the peak of anonymous memory of each process; with mapped files, that of the "
            "largest process. Written: by all processes, in all stages.",
            "Seconds are those from the lists in files to the saved index, without the start of "
            f"the processes, which for {builds[-1].where} takes "
            f"{builds[-1].steps.get('start', 0.0):.1f} s.",
        ],
    )
    for each in builds:
        processes = each.usage.processes
        workers = [_mb(process.anonymous) for process in processes if process.role == "worker"]
        found.rows.append(
            [
                _name(each),
                each.seconds,
                each.seconds / builds[0].seconds,
                each.usage.cpu,
                _mb(each.usage.peak("coordinator")),
                ", ".join(map(str, workers)) or None,
                _mb(max(process.resident for process in processes)),
                _mb(each.shuffled) or None,
                _mb(each.usage.written),
                _mb(each.peak),
            ]
        )
    return found


def _name(each: Build) -> str:
    return "one process" if each.where == SINGLE else f"{each.where}, {each.shards} shards"


def _mb(size: int) -> int:
    return round(size / 1e6)
