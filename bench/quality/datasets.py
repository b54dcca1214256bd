"""Quality of given global and regional descriptors on a published data set, by its protocol.

`python -m bench quality --dataset roxford5k --descriptors DIR` reads descriptors from DIR, in the
layouts that `bench.data.descriptors` describes, and the ground truth from DIR or from the directory
DIFFUSION_DATA. For the data set `grocery`, DIR is one extraction of `grocery/test`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import diffusion
from diffusion import metrics
from diffusion.baselines import expansion
from diffusion.errors import DiffusionError

from ..data import published
from ..data.collections import data_folder
from ..data.descriptors import Descriptors, read_extraction, read_pair, stem
from ..data.protocols import GroundTruth, evaluate, read
from ..measure import timed
from ..table import Table, show

Ids = NDArray[np.int64]
Judge = Callable[[Ids], dict[str, float]]

# Data sets with the ground truth of another one, and photos that are relevant to no query.
_WITH_DISTRACTORS = {"oxford105k": "oxford5k", "paris106k": "paris6k"}


@dataclass(frozen=True)
class Task:
    """Images to search, queries, and the function that judges rankings."""

    name: str
    gallery: Descriptors
    queries: Descriptors
    judge: Judge


def run(dataset: str, descriptors: str, *, long: bool = False) -> list[Table]:
    """Measure every method that the descriptors allow; `long` adds the large eigenproblem.

    Raises
    ------
    DiffusionError
        If the descriptors or the ground truth are missing or do not fit together.
    """
    folder = Path(descriptors)
    task = grocery(folder) if dataset == "grocery" else landmarks(dataset, folder)
    tables = [measure(task, rankings(task, long=long), published.of_vectors(dataset))]
    if task.gallery.regions is not None and task.queries.regions is not None:
        of_regions = published.of_regions(dataset)
        tables.append(measure(task, regional_rankings(task), of_regions))
        tables[-1].title += f", {len(task.gallery.regions)} regions"
    return [show(table) for table in tables]


# --- tasks ---------------------------------------------------------------------------------------


def landmarks(dataset: str, folder: Path) -> Task:
    """Return the task of a data set of landmarks or objects, with its ground truth."""
    gallery, queries = read_pair(folder)
    truth = _truth(dataset, folder, gallery)
    gallery = gallery.named(truth.images, folder, others=dataset in _WITH_DISTRACTORS)
    queries = queries.named(truth.queries, folder)
    return Task(dataset, gallery, queries, lambda ids: evaluate(truth, ids))


def _truth(dataset: str, folder: Path, gallery: Descriptors) -> GroundTruth:
    """Read the ground truth, which lies beside the descriptors or in the data directory."""
    of = _WITH_DISTRACTORS.get(dataset, dataset)
    folders = [folder if folder.is_dir() else folder.parent, data_folder() / of]
    folders.append(data_folder() / "revisitop")
    names = [f"gnd_{of}.pkl", f"gnd_{of}.mat", f"gnd_{of.upper()}.mat", "groundtruth"]
    found = [place / name for place in folders for name in names if (place / name).exists()]
    # Text files may lie there without a directory of their own.
    found += [place for place in folders if any(place.glob("*_query.txt"))]
    if not found:
        raise DiffusionError(
            f"{of}: no ground truth; expected one of {', '.join(names)} in {folder} or {folders[1]}"
        )
    images = None if gallery.files is None else [stem(file) for file in gallery.files]
    return read(found[0], images)


def grocery(folder: Path) -> Task:
    """Return the task of searching grocery/test for a fifth of test/Packages, by fine class.

    The queries are the first fifth of a permutation of the packages, seed 0. They are not among
    the images searched.
    """
    everything = read_extraction(folder)
    listed = data_folder() / "grocery" / "test.txt"
    try:
        lines = [line.split(",") for line in listed.read_text().splitlines()]
    except OSError as error:
        raise DiffusionError(f"{listed}: cannot be read ({error.strerror})") from None
    classes = {stem(path, 99): int(fine) for path, fine, _ in lines}
    files = list(classes)
    # An extraction of grocery/test names its photos relative to that directory.
    if everything.files and not everything.files[0].startswith("test/"):
        everything = Descriptors(
            everything.vectors,
            everything.regions,
            everything.images,
            [f"test/{file}" for file in everything.files],
        )
    everything = everything.named(files, folder)
    labels = np.array([classes[file] for file in files])
    packages = np.flatnonzero([file.startswith("test/Packages/") for file in files])
    chosen = np.random.default_rng(0).permutation(packages)[: len(packages) // 5]
    rest = np.setdiff1d(np.arange(len(files)), chosen)

    def judge(ids: Ids) -> dict[str, float]:
        hits = metrics.hits_from_labels(ids, labels[rest], labels[chosen])
        return {
            "mAP": float(np.nanmean(metrics.average_precision(*hits))),
            "mP@10": float(np.nanmean(metrics.precision_at(*hits, 10))),
        }

    name = "grocery, packages in all"
    return Task(name, everything.select(rest), everything.select(chosen), judge)


# --- methods -------------------------------------------------------------------------------------


def rankings(task: Task, *, long: bool = False) -> Iterator[tuple[str, str, Ids, float]]:
    """Yield (key, method, full rankings, online seconds) by one vector per image."""
    X, Q = task.gallery.whole(), task.queries.whole()
    n = len(X)

    def expand() -> Ids:
        return expansion.search(expansion.average(Q, X, *expansion.search(Q, X, 10)), X, n)[1]

    yield "cosine", "cosine", *_timed(lambda: expansion.search(Q, X, n)[1])
    yield "AQE", "AQE (n = 10)", *_timed(expand)
    ranker = diffusion.Reranker(affinity="cosine", k=50, query_k=10, gamma=3.0, alpha=0.99).fit(X)
    method = "diffusion, CG (k = 50, α = 0.99)"
    yield "diffusion", method, *_timed(lambda: ranker.search(Q, n)[1])
    if long:
        rank = min(5000, n)
        ranker.set_params(solver=diffusion.Spectral(rank=rank)).fit(X)
        yield "spectral", f"spectral, rank {rank}", *_timed(lambda: ranker.search(Q, n)[1])
    ranker = diffusion.Reranker().fit(X)
    yield "default", "diffusion, as by default", *_timed(lambda: ranker.search(Q, n)[1])


def regional_rankings(task: Task) -> Iterator[tuple[str, str, Ids, float]]:
    """Yield (key, method, full rankings, online seconds) by the vectors of regions."""
    X, images = task.gallery.regions, task.gallery.images
    Q, queries = task.queries.regions, task.queries.images
    assert X is not None and images is not None and Q is not None  # noqa: PT018
    n = len(task.gallery)
    match = _timed(lambda: diffusion.r_match(Q, X, images, queries, n)[1])
    yield "R-match", "R-match", *match
    for affinity, settings in (("cosine", "k = 200, α = 0.99"), ("context", "as by default")):
        ranker = diffusion.RegionalReranker(affinity=affinity).fit(X, images)
        for pooling, name in (("sum", "sum"), ("gmp", "GMP")):
            ranker.set_params(pooling=pooling)
            method = f"regional, {name}"
            # Papers have figures of their own settings alone.
            key = method if affinity == "cosine" else f"{method}, default"
            ranked = _timed(lambda: ranker.search(Q, queries, n)[1])  # noqa: B023
            yield key, f"{method} ({settings})", *ranked


def _timed(rank: Callable[[], Ids]) -> tuple[Ids, float]:
    rank()  # compiles the kernels and fills the caches
    return timed(rank)


# --- tables --------------------------------------------------------------------------------------


def measure(
    task: Task,
    ranked: Iterator[tuple[str, str, Ids, float]],
    reported: tuple[tuple[str, ...], dict[str, published.Row]],
) -> Table:
    """Judge rankings beside the figures of papers; methods that only papers have come last."""
    columns, figures = reported
    rows: list[list[Any]] = []
    judged: dict[str, float] = {}
    seen = set()
    for key, method, ids, seconds in ranked:
        judged = task.judge(ids)
        ours = [round(100 * value, 1) for value in judged.values()]
        seen.add(key)
        beside = figures.get(key, (None,) * len(columns))
        rows.append([method, *ours, 1000 * seconds / len(ids), *beside])
    for key, row in figures.items():
        if key not in seen:
            rows.append([key, *[None] * (len(judged) + 1), *row])
    table = Table(
        f"**{task.name}**: {len(task.queries)} queries, {len(task.gallery)} images",
        ("method", *judged, "ms/query", *(f"published: {column}" for column in columns)),
        rows,
    )
    if columns:
        table.notes.append(
            "published: mAP that papers report for their descriptors; see bench/data/published.py."
        )
    return table
