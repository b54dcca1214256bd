"""The neighbour search of a build over shards, from vectors alone.

An inverted file is made by tasks, each of which reads a range of the vectors. Its cells are divided
among the shards, so that the items of a shard are near each other, and the task of a shard searches
the cells nearest to each of its items. Where exact search is used, shards are ranges of rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import DiffusionError
from ..kernels.lists import copy_without_self
from ..neighbors import IVF, Auto, Exact, Method, NeighborIndex
from ..neighbors.auto import chosen, clear_cells, exact_is_better, sampled, warn_if_missed
from ..neighbors.cells import CHUNK, PER_CELL, Cells, Partition, nearest_of_rows
from . import inverted
from .executors import Executor
from .inputs import Input
from .shards import Shards, open_array, save
from .tasks import run_stage
from .vectors import VALUES, Run, Vectors, checked, opened_vectors, place

# Values of the sample that k-means is given, at most: 256 MiB of float32.
_SAMPLE_VALUES = 1 << 26

# Items compared with all others together.
_TOGETHER = 4096


class Found(NamedTuple):
    """The files of a search index over all vectors.

    Attributes
    ----------
    method : Exact or IVF
    files : dict of str to str
        Files of the arrays, by their names in `NeighborIndex.arrays`.
    recall : float or None
        If it was measured.
    """

    method: Exact | IVF
    files: dict[str, str]
    recall: float | None = None

    def array(self, name: str) -> NDArray[Any]:
        """Return an array of the index, memory-mapped for reading."""
        return open_array(Path(self.files[name]))

    def cells(self) -> Cells:
        """Return the cells of an inverted file, memory-mapped."""
        structure = (self.array(f"ivf_{name}") for name in ("ids", *inverted.STRUCTURE))
        return Cells.of(self.array("vectors"), *structure)


@dataclass(frozen=True)
class VectorCells:
    """What is known of a collection after the search.

    Attributes
    ----------
    shards : Shards
        Where the items of each shard are. With an inverted file they are those of some cells, in
        the order of its vectors; with exact search those of a range of rows.
    vectors : Vectors
    found : Found
    zero : str
        The file of the rows without a direction, in ascending order.
    auto : Auto or None
        What has chosen the method.
    k : int
    """

    shards: Shards
    vectors: Vectors
    found: Found
    zero: str
    auto: Auto | None
    k: int

    def without_direction(self) -> NDArray[np.int32]:
        """Return the rows of vectors of zeros, which no list has; none for the distance."""
        return open_array(Path(self.zero))

    def index(self) -> NeighborIndex:
        """Return the search index over the memory-mapped files."""
        found = self.found
        arrays = {name: found.array(name) for name in found.files}
        metric, shape = self.vectors.metric, self.vectors.shape
        return NeighborIndex.restore(
            arrays,
            metric,
            found.method,
            shape,
            recall=found.recall,
            auto=self.auto,
            k=self.k,
        )


def place_vectors(
    executor: Executor,
    work: str,
    vectors: Input,
    metric: str,
    method: Method,
    *,
    k: int,
    shards: int,
    lists: bool,
    progress: bool,
) -> VectorCells:
    """Search for the neighbours of all items, and divide these among shards.

    The stage `placed` is made, whose result for a shard has the `rows` (m,) of its items in the
    input, and their neighbour lists `scores` and `ids` (m, k) as `Reranker.fit` finds them: best
    first, equal scores by ascending row, without the item itself and without vectors of zeros, and
    padded with -inf and -1.

    Parameters
    ----------
    executor : Executor
    work : str
        The folder of results, which belongs to these arguments: what is there is not made again.
    vectors : Input
        Of shape (n, d).
    metric : {"cosine", "inner_product", "euclidean"}
    method : Auto, Exact or IVF
    k : int >= 1
        Length of the lists; n - 1 if that is less.
    shards : int >= 1
        Some are empty if there are fewer cells.
    lists : bool
        Without it, no list is made, and only the search index can be used.
    progress : bool
        Show progress bars on standard error.

    Returns
    -------
    VectorCells

    Raises
    ------
    DiffusionError
        If the method is another one, or a vector is not as `validation.as_vectors` expects it.

    Warns
    -----
    UserWarning
        If the recall is lower than that which `Auto` aims at, see `auto.tuned`.

    Notes
    -----
    The cells do not depend on the number of shards, nor does any result on the number of workers or
    cores. Lists depend on the number of shards where others than those listed have the same score
    as the last but for a rounding error, since this error depends on the items that are searched
    together.

    Memory of a task: 256 MiB for the vectors of a range and their copies, about 1 GiB for the one
    that trains centroids, and the lists of its shard. The files of vectors are memory-mapped.
    """
    if not isinstance(method, Auto | Exact | IVF):
        raise DiffusionError(
            f"method: expected 'auto', 'exact' or 'ivf' for a search over shards, got "
            f"{method.name!r}"
        )
    work = str(Path(work).absolute())
    run = Run(executor, f"{work}/search", progress)
    opened = opened_vectors(run, vectors, metric)
    n, d = opened.shape
    k = min(k, max(1, n - 1))
    auto = method if isinstance(method, Auto) else None
    exact = isinstance(method, Exact) or (auto is not None and exact_is_better(n, d))
    found = None if exact else _by_cell(run, opened, method, k)
    found = found or _by_row(run, opened, None if auto is None else 1.0)
    if auto is not None and found.recall is not None:
        warn_if_missed(found.recall, k, len(sampled(n)), auto)
    if opened.center is not None:
        found.files["center"] = str(place(run.work, "center", 0) / "center.npy")
    zero = _zero(run, opened, "checked" if isinstance(found.method, IVF) else "written")
    divided = Shards(work, _starts(found, n, shards))
    if lists:
        paths = [(str(divided.folder("placed", p)), *divided.bounds(p)) for p in range(shards)]
        listed = [(*own, found, metric, k, zero) for own in paths]
        run_stage(executor, "placed", placed, listed, progress=progress)
    return VectorCells(divided, opened, found, zero, auto, k)


def _by_row(run: Run, vectors: Vectors, recall: float | None) -> Found:
    """Store the vectors in the order of their rows."""
    file = run.common_file("written", "vectors", np.float32, vectors.shape)
    run.stage("written", checked, [(vectors, *own, 0, file) for own in vectors.ranges()])
    return Found(Exact(), {"vectors": file}, recall)


def _by_cell(run: Run, vectors: Vectors, method: Method, k: int) -> Found | None:
    """Make an inverted file; None if `Auto` finds that exact search is better."""
    n, d = vectors.shape
    work, ranges = run.work, vectors.ranges()
    tuned_ = place(work, "tuned", 0)
    if tuned_.exists() and not open_array(tuned_ / "probes.npy")[0]:
        return None
    settings = method if isinstance(method, IVF) else IVF()
    count = settings.cells(n)
    sample = min(n, max(count, min(PER_CELL * count, _SAMPLE_VALUES // d)))
    shares = [sample * last // n - sample * first // n for first, last in ranges]
    each = zip(ranges, shares, strict=True)
    run.stage("checked", checked, [(vectors, *own, share, None) for own, share in each])
    run.stage("trained", inverted.trained, [(work, len(ranges), count)])
    files = {
        "vectors": run.common_file("sorted", "vectors", np.float32, (n, d)),
        "ivf_ids": run.common_file("sorted", "ids", np.int32, (n,)),
    }
    if not all(place(work, "sorted", i).exists() for i in range(len(ranges))):
        run.stage("assigned", inverted.assigned, [(work, vectors, *own) for own in ranges])
        run.stage("divided", inverted.divided, [(work, len(ranges))])
        run.stage("sorted", inverted.sorted_, [(work, len(ranges), *own, files) for own in ranges])
    run.remove("assigned")
    for name in inverted.STRUCTURE:
        files[f"ivf_{name}"] = str(place(work, "divided", 0) / f"{name}.npy")
    if not isinstance(method, Auto):
        return Found(settings, files)
    found = Found(settings, files)
    metric = vectors.metric
    if not tuned_.exists():
        run.stage("compared", compared, [(found, metric, k, *own) for own in ranges])
        run.stage("tuned", tuned, [(work, len(ranges), found, metric, k, method)])
    run.remove("compared")
    probes = int(open_array(tuned_ / "probes.npy")[0])
    if not probes:
        run.remove("arrays/sorted")
        return None
    recall = float(open_array(tuned_ / "recall.npy")[0])
    return Found(IVF(nlist=count, nprobe=probes), files, recall)


def _zero(run: Run, vectors: Vectors, stage: str) -> str:
    """Store the rows without a direction, and return their file."""
    path = place(run.work, "zero", 0)
    if not path.exists():
        every = range(len(vectors.ranges()))
        rows = [open_array(place(run.work, stage, i) / "zero.npy") for i in every]
        save(path, {"rows": np.concatenate(rows)})
    return str(path / "rows.npy")


def _starts(found: Found, n: int, count: int) -> tuple[int, ...]:
    """Return where shards of about equal length start; those of cells have whole cells."""
    wanted = n * np.arange(count + 1) // count
    if not isinstance(found.method, IVF):
        return tuple(wanted.tolist())
    bounds = np.append(found.array("ivf_starts"), n)
    after = np.searchsorted(bounds, wanted)
    before = np.maximum(after - 1, 0)
    nearer = np.where(wanted - bounds[before] < bounds[after] - wanted, before, after)
    return tuple(bounds[nearer].tolist())


# --- tasks ----------------------------------------------------------------------------------------


def compared(path: str, found: Found, metric: str, k: int, first: int, last: int) -> str:
    """Compare a sample of the items with the vectors of a range, in the order of the cells.

    `scores` and `places` (m, k + 1) of the nearest are stored; a place is that of a vector in this
    order. The sample is one of places, too.
    """
    vectors = found.array("vectors")
    sample = sampled(len(vectors))
    own = sample.astype(np.int32)
    rows = slice(first, last)
    scores, places = nearest_of_rows(vectors[sample], own, vectors, rows, metric, k + 1, False)
    return save(path, {"scores": scores, "places": places})


def tuned(path: str, work: str, count: int, found: Found, metric: str, k: int, auto: Auto) -> str:
    """Choose the number of `probes`, 0 for exact search, and store it with the `recall`."""
    scores, places = (
        open_array(place(work, "compared", 0) / f"{name}.npy") for name in ("scores", "places")
    )
    for i in range(1, count):
        folder = place(work, "compared", i)
        scores = np.append(scores, open_array(folder / "scores.npy"), axis=1)
        places = np.append(places, open_array(folder / "places.npy"), axis=1)
        best = np.argsort(-scores, axis=1, kind="stable")[:, : k + 1]
        scores = np.take_along_axis(scores, best, 1)
        places = np.take_along_axis(places, best, 1)
    cells = found.cells()
    offsets = np.append(cells.starts, len(cells.vectors))
    parts = Partition(np.empty(0, np.int32), offsets, cells.centroids, cells.groups)
    # Of cells that begin at the same place, only the last has vectors.
    where = (np.searchsorted(offsets, places, side="right") - 1).astype(np.int32)
    queries = cells.vectors[sampled(len(cells.vectors))]
    method, recall = chosen(queries, metric, k, auto, parts, clear_cells(scores, where))
    probes = method.nprobe if isinstance(method, IVF) else 0
    return save(path, {"probes": np.array([probes]), "recall": np.array([recall])})


def placed(
    path: str, first: int, last: int, found: Found, metric: str, k: int, zero_file: str
) -> str:
    """Store the `rows` of the items of a shard, and their lists, `scores` and `ids`."""
    zero = open_array(Path(zero_file))
    scores = np.empty((last - first, k), np.float32)
    ids, rows = np.empty(scores.shape, np.int32), np.arange(first, last, dtype=np.int32)
    vectors = found.array("vectors")
    cells = None
    most = max(1, VALUES // vectors.shape[1])
    if isinstance(found.method, IVF):
        cells, size = found.cells(), min(CHUNK, most)
        rows = np.array(cells.ids[first:last])
    else:
        size = min(_TOGETHER, most)
    for start in range(first, last, size):
        own = slice(start, min(last, start + size))
        part = slice(own.start - first, own.stop - first)
        if cells is not None and isinstance(found.method, IVF):
            near = cells.search_own(own, k, found.method.nprobe, metric)
        else:
            every = slice(0, len(vectors))
            near = nearest_of_rows(vectors[own], rows[part], vectors, every, metric, k, False)
        scores[part], ids[part] = _without(*near, rows[part], zero)
    return save(path, {"rows": rows, "scores": scores, "ids": ids})


def _without(
    scores: NDArray[np.float32],
    ids: NDArray[np.int32],
    own: NDArray[np.int32],
    zero: NDArray[np.int32],
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Empty the lists of some of the items `own`, and take these out of all others."""
    if not len(zero):
        return scores, ids
    dropped = np.isin(ids, zero) | np.isin(own, zero)[:, None]
    out = np.empty_like(scores), np.empty_like(ids)
    # The item itself is in no list: with a negative first row, no other is taken for it.
    copy_without_self(scores, np.where(dropped, np.int32(-1), ids), -len(ids), *out)
    return out
