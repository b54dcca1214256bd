"""Builds over shards of equal size for more and more items: what an item costs at each size."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from diffusion import DiffusionError

from ..table import Table
from .builds import Build, build
from .tiles import K, Tiles

# What is kept free beyond the estimate.
_MARGIN = 1.1


def shards_of(n: int, rows: int) -> int:
    """Return the number of shards of n items of about `rows` each."""
    return max(1, round(n / rows))


def disk_of(each: Build) -> float:
    """Return the bytes that a build takes on disk per item at its peak, with the given lists."""
    return each.peak / each.n + 8 * K


def check_disk(folder: Path, n: int, per_item: float) -> None:
    """Raise a DiffusionError if a build of n items does not fit on the disk of a folder."""
    needed, free = _MARGIN * n * per_item, shutil.disk_usage(folder).free
    if needed > free:
        raise DiffusionError(
            f"largest: {n:,} items need about {needed / 1e9:.1f} GB in {folder}, of which "
            f"{free / 1e9:.1f} GB are free; expected at most "
            f"{int(free / (_MARGIN * per_item)):,} items"
        )


def fitting(folder: Path, sizes: Sequence[int], per_item: float) -> list[int]:
    """Return the sizes of builds that fit on the disk of a folder."""
    free = shutil.disk_usage(folder).free
    return [n for n in sizes if _MARGIN * n * per_item <= free]


def measure(
    sizes: Sequence[int],
    rows: int,
    where: str,
    folder: Path,
    look: Callable[[Path, Tiles], None] | None = None,
) -> tuple[list[Build], list[str]]:
    """Build indexes of `sizes` items in shards of `rows`, one after the other.

    After the first one, a build that fails or does not fit on the disk is the end of the series.

    Parameters
    ----------
    sizes : sequence of int
    rows : int
    where : str
        Where tasks run.
    folder : Path
        Where the files are, until they are removed after each build.
    look : callable, optional
        Called with each index and its collection before it is removed.

    Returns
    -------
    builds : list of Build
    notes : list of str
        Why the series ended early, if it did.
    """
    builds: list[Build] = []
    for n in tqdm(sizes, desc="scale", unit="build"):
        tiles = Tiles(n)
        case = folder / f"{tiles.n}"
        try:
            if builds:
                check_disk(folder, tiles.n, disk_of(builds[-1]))
            tiles.write(case / "lists", shards_of(tiles.n, rows))
            (case / "built").mkdir()
            builds.append(build(where, tiles.n, case / "lists", case / "built" / "index"))
            shutil.rmtree(case / "lists")
            if look is not None:
                look(case / "built" / "index", tiles)
        except (RuntimeError, DiffusionError, OSError) as error:
            if not builds:
                raise
            return builds, [f"The measurement ended at {tiles.n:,} items: {error}."]
        finally:
            shutil.rmtree(case, ignore_errors=True)
    return builds, []


def table(builds: Sequence[Build], notes: Sequence[str] = ()) -> Table:
    """Return the table of builds of ascending size, with more notes."""
    times = np.array([each.seconds / each.n for each in builds])
    found = Table(
        f"**Builds of more and more items**, {builds[0].where}, k = {K}",
        (
            "items",
            "shards",
            "tasks",
            "seconds",
            "µs/item",
            "ratio to the first",
            "CPU µs/item",
            "worker, MB",
            "worker and files, MB",
            "coordinator, MB",
            "coordinator and files, MB",
            "peak disk, GB",
            "shuffled, bytes/item",
            "written, bytes/item",
            "index, bytes/item",
        ),
        notes=[
            "Memory: the peak of anonymous memory of the largest worker and of the coordinator, "
            "and the peak together with pages of mapped files, which the system takes back where "
            "memory is needed.",
            "Disk: without the given lists, which take 400 bytes per item.",
            *notes,
        ],
    )
    for each, ratio in zip(builds, times / times[0], strict=True):
        usage = each.usage
        found.rows.append(
            [
                f"{each.n:,}",
                each.shards,
                each.tasks,
                each.seconds,
                1e6 * each.seconds / each.n,
                float(ratio),
                1e6 * usage.cpu / each.n,
                *[
                    round(usage.peak(role, kind) / 1e6)
                    for role in ("worker", "coordinator")
                    for kind in ("anonymous", "resident")
                ],
                each.peak / 1e9,
                round(each.shuffled / each.n),
                round(usage.written / each.n),
                round(sum(each.index.values()) / each.n),
            ]
        )
    return found
