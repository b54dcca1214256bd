"""The benchmark `live`: a collection that items are added to and removed from, round after round.

A round removes 1 % of the items, adds as many others and saves the index. What comes of it is
compared with an index that is built anew from the items that are left.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

import diffusion
from diffusion import Reranker
from diffusion.neighbors import Exact, NeighborIndex

from ..data.collections import objects
from ..measure import seconds_of
from ..table import Table, show
from .stages import COLUMNS, Stages


@dataclass(frozen=True)
class Sizes:
    """How large the problem is; the defaults are those of the printed tables.

    Attributes
    ----------
    items, rounds : int
    share : float
        Fraction of the items that come, and that go, in a round.
    dimension : int
        Of the vectors.
    queries : int
        Queries whose answers are compared.
    sampled : int
        Items whose neighbour lists are compared with exact ones.
    warm : int
        Items of the collection on which the kernels are compiled.
    """

    items: int = 100_000
    rounds: int = 20
    share: float = 0.01
    dimension: int = 128
    queries: int = 200
    sampled: int = 1000
    warm: int = 2000


DEFAULT = Sizes()

# What comes and goes in a round, and whether the items of a round are close to each other.
KINDS = {"whole objects": True, "random items": False}


@dataclass
class Run:
    """A collection after all rounds, the collection built anew, and what was measured.

    Attributes
    ----------
    lived, rebuilt : Reranker
    fit, rebuild : Stages
    removals, additions : list of Stages
    saves : list of tuple of float
        Seconds and bytes written, for the first save and that of each round.
    folder : Path
        Where the index is.
    """

    lived: Reranker
    rebuilt: Reranker
    fit: Stages
    rebuild: Stages
    removals: list[Stages]
    additions: list[Stages]
    saves: list[tuple[float, int]]
    folder: Path


def run(
    *, items: int | None = None, rounds: int | None = None, sizes: Sizes = DEFAULT
) -> list[Table]:
    """Measure the time of updates, what they lead to, and what they write.

    `items` and `rounds` replace those of the sizes.
    """
    given = {"items": items, "rounds": rounds}
    sizes = replace(sizes, **{name: value for name, value in given.items() if value})
    warm_up(sizes)
    title = (
        f"{sizes.items:,} items, {sizes.rounds} rounds of {_turnover(sizes):,} items out and "
        f"as many in"
    )
    times = Table(
        f"**Time of a round**: {title}",
        ("what changes", "step", *COLUMNS, "% of a fit", "% beyond the search"),
        notes=[
            "The times of updates are medians over the rounds. Percentages are of the faster one "
            "of the fit and the rebuild."
        ],
    )
    answers = Table(
        f"**What the rounds lead to**: {title}",
        (
            "what changes",
            "recall of the lists, %",
            "of a rebuild's, %",
            "top 10 of a rebuild, %",
            "top 100 of a rebuild, %",
            "top 10 of two rebuilds, %",
            "top 100 of two rebuilds, %",
        ),
        notes=[
            "Two rebuilds are of the same items in two orders, which an approximate search depends "
            "on. A ranking of 100 is longer than what an object has items."
        ],
    )
    files = Table(
        f"**Files**: {title}",
        (
            "what changes",
            "first save, s",
            "MB",
            "save of a round, s",
            "MB written",
            "MB after all rounds",
            "MB of a rebuild",
            "load, ms",
            "load of a rebuild, ms",
        ),
    )
    for kind, local in tqdm(KINDS.items(), desc="live", unit="kind"):
        with tempfile.TemporaryDirectory() as folder:
            pool = pool_of(sizes, local)
            done = live(pool, sizes, Path(folder) / "index")
            times.rows += time_rows(kind, done)
            answers.rows.append([kind, *agreement(done, pool, sizes)])
            files.rows.append([kind, *file_row(done, Path(folder) / "rebuilt")])
    return [show(table) for table in (times, answers, files)]


def _turnover(sizes: Sizes) -> int:
    """Return how many items come, and how many go, in a round."""
    return max(1, int(sizes.share * sizes.items))


def warm_up(sizes: Sizes) -> None:
    """Compile every kernel, by updates of a small collection."""
    X = objects(sizes.warm + 20, sizes.dimension)
    ranker = Reranker().fit(X[: sizes.warm])
    ranker.remove(range(20)).add(X[sizes.warm :])
    ranker.search(X[:2])


def pool_of(sizes: Sizes, local: bool) -> NDArray[np.float32]:
    """Return the vectors of all items in the order in which they come, which is that they go in."""
    X = objects(sizes.items + sizes.rounds * _turnover(sizes), sizes.dimension)
    return X if local else X[np.random.default_rng(1).permutation(len(X))]


def live(pool: NDArray[np.float32], sizes: Sizes, folder: Path) -> Run:
    """Fit, save, update and save in rounds, and build the same collection anew."""
    n, m = sizes.items, _turnover(sizes)
    ranker = Reranker()
    with Stages() as fit:
        ranker.fit(pool[:n], ids=np.arange(n))
    saves = [saved(ranker, folder)]
    removals, additions = [], []
    for number in tqdm(range(sizes.rounds), desc="rounds", unit="round", leave=False):
        first, last = number * m, n + number * m
        with Stages() as removal:
            ranker.remove(np.arange(first, first + m))
        with Stages() as addition:
            ranker.add(pool[last : last + m], ids=np.arange(last, last + m))
        removals.append(removal)
        additions.append(addition)
        saves.append(saved(ranker, folder))
    first = sizes.rounds * m
    rebuilt = Reranker()
    with Stages() as rebuild:
        rebuilt.fit(pool[first:], ids=np.arange(first, len(pool)))
    return Run(ranker, rebuilt, fit, rebuild, removals, additions, saves, folder)


def saved(ranker: Reranker, folder: Path) -> tuple[float, int]:
    """Save an index; return the seconds and the bytes that are written."""
    before = _files(folder)
    seconds = seconds_of(lambda: ranker.save(folder))
    written = 0
    for file, (state, size) in _files(folder).items():
        old, old_size = before.get(file, (None, 0))
        if old != state:
            # A file that is the same one has grown.
            grown = old is not None and old[0] == state[0] and size >= old_size
            written += size - old_size if grown else size
    return seconds, written


def _files(folder: Path) -> dict[Path, tuple[tuple[int, int], int]]:
    """Return the files below a directory: which file each is, when it was written, and its size."""
    found = {}
    for file in folder.rglob("*"):
        if file.is_file():
            state = file.stat()
            found[file] = (state.st_ino, state.st_mtime_ns), state.st_size
    return found


def time_rows(kind: str, done: Run) -> list[list[Any]]:
    """Return the rows of the table of times."""
    whole = min(done.fit.whole, done.rebuild.whole)
    beyond = min(done.fit.beyond_search, done.rebuild.beyond_search)
    rows = []
    for step, stages in (
        ("fit", [done.fit]),
        ("rebuild", [done.rebuild]),
        ("remove", done.removals),
        ("add", done.additions),
    ):
        seconds = np.median([stage.row() for stage in stages], axis=0)
        rest = float(np.median([stage.beyond_search for stage in stages]))
        shares = 100 * float(seconds[0]) / whole, 100 * rest / beyond
        rows.append([kind, step, *map(float, seconds), *shares])
    return rows


def agreement(done: Run, pool: NDArray[np.float32], sizes: Sizes) -> list[float]:
    """Return the recall of the lists, that of a rebuild, and how far the rankings agree, in %.

    The rankings of a rebuild are compared with the updated ones, and with those of another rebuild.
    """
    rng = np.random.default_rng(2)
    first = sizes.rounds * _turnover(sizes)
    views = pool[rng.choice(np.arange(first, len(pool)), sizes.queries)]
    Q = views + 0.02 * rng.standard_normal(views.shape).astype(np.float32)
    order = rng.permutation(np.arange(first, len(pool)))
    other = Reranker().fit(pool[order], ids=order)
    lived, rebuilt, again = (
        ranker.search(Q, k=100)[1] for ranker in (done.lived, done.rebuilt, other)
    )
    pairs = ((lived, rebuilt), (again, rebuilt))
    shared = [overlap(ids[:, :k], expected[:, :k]) for ids, expected in pairs for k in (10, 100)]
    recalls = [recall(ranker, sizes.sampled) for ranker in (done.lived, done.rebuilt)]
    return [100 * value for value in (*recalls, *shared)]


def overlap(ids: NDArray[np.int64], expected: NDArray[np.int64]) -> float:
    """Return the mean share of expected ids, -1 apart, that are among the ids of the same row."""
    rows = zip(ids, expected, strict=True)
    return float(np.mean([np.isin(b[b >= 0], a).mean() for a, b in rows if (b >= 0).any()]))


def recall(ranker: Reranker, sampled: int) -> float:
    """Return the share of the exact neighbours of sampled items that are in their lists."""
    fitted = ranker.fitted()
    lists = fitted.affinity.neighbor_lists()
    assert isinstance(fitted.index, NeighborIndex)
    assert lists is not None
    ids = lists[1][:, : fitted.affinity.depth or None]  # without spare entries
    n, k = ids.shape
    rows = np.random.default_rng(3).choice(n, min(n, sampled), replace=False)
    exact = NeighborIndex(fitted.index.vectors_of(np.arange(n)), fitted.index.metric, Exact())
    _, found = exact.search(exact.vectors_of(rows), k + 1)
    expected = np.where(found == rows[:, None], -1, found)
    # An item that is not among its own neighbours has as many equal ones: the last one is left out.
    whole = (expected >= 0).all(axis=1)
    expected[whole, -1] = -1
    return overlap(ids[rows], expected)


def file_row(done: Run, folder: Path) -> list[float]:
    """Return the seconds of saves, megabytes on disk and milliseconds of loading."""
    saved(done.rebuilt, folder)
    seconds, written = np.median(done.saves[1:], axis=0)
    on_disk = [
        sum(size for _, size in _files(path).values()) / 1e6 for path in (done.folder, folder)
    ]
    loading = [
        1000 * seconds_of(lambda: diffusion.load(path), 5)  # noqa: B023
        for path in (done.folder, folder)
    ]
    first_seconds, first_bytes = done.saves[0]
    return [first_seconds, first_bytes / 1e6, float(seconds), written / 1e6, *on_disk, *loading]
