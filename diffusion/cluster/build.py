"""The build of an index from neighbour lists that are stored by shard.

Every stage is a list of tasks, one per shard. What a task has written is not computed again: after
an interruption, the same call goes on where it was.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import storage
from .._version import __version__
from ..affinity import Context, Pointwise
from ..errors import DiffusionError
from ..fitted import settings_of
from ..graph import Graph
from ..ids import ItemIds
from ..index_state import INDEX
from ..kernels.lists import copy_without_self
from ..reranker import Reranker
from ..validation import as_lists
from . import context, graph, pointwise
from .executors import Executor
from .shards import Part, Shards, save
from .stages import Stages

_IDS = re.compile(r"ids_(\d+)\.npy")


def build_sharded(
    lists: str | os.PathLike[str],
    out: str | os.PathLike[str],
    ranker: Reranker | None = None,
    *,
    executor: Executor,
    item_ids: ArrayLike | None = None,
    work: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> None:
    """Build an index from neighbour lists that are stored by shard.

    The index equals the one that ``ranker.fit_neighbors(scores, ids, item_ids=item_ids)`` and
    ``save`` make of the lists of all shards; only the order in which nodes are stored is another,
    so that scores may differ in the last digits.

    Parameters
    ----------
    lists : path-like
        A folder of ``ids_0000.npy`` and ``scores_0000.npy``, ``ids_0001.npy`` and so on: the lists
        (m, w) of the items of each shard, as `Reranker.fit_neighbors` takes them. Items are
        numbered through all shards, in the order of the numbers of the files. Shards may be of
        different lengths, and all lists are of one width.
    out : path-like
        The index, a directory that `diffusion.load` opens.
    ranker : Reranker, optional
        The parameters of the index; it is not changed. By default, ``Reranker()``.
    executor : Executor
        Where the tasks run, see `executors.open_executor`.
    item_ids : array_like, shape (n,), int or str, optional
        The ids of the items. The lists hold row numbers all the same.
    work : path-like, optional
        The folder of intermediate results, which all workers must reach; by default `out` with
        ``.build`` appended. It is removed at the end. After an interruption, the same call resumes.
    progress : bool, default False
        Show progress bars on standard error.

    Raises
    ------
    DiffusionError
        If a parameter or a file is not as described; the message names the file and the row.

    Notes
    -----
    Memory of a task: about as much as `Reranker.fit_neighbors` takes for the items of a shard, and
    what they refer to in other shards, `CHUNK` items at a time. Only three things are held whole,
    by one process: the components (`graph.components`), `item_ids`, and what the solver prepares.
    Disk: the intermediate results take up to 2,500 bytes per item with the contextual affinity.
    """
    ranker = Reranker() if ranker is None else ranker
    components = ranker._components()
    affinity = components.affinity
    out = storage.as_path(out, "out")
    storage.check_target(out, INDEX)
    files = _files(storage.as_path(lists, "lists"))
    lengths, width = _shape(files)
    n = sum(lengths)
    items = ItemIds.rows(n) if item_ids is None else ItemIds.of(item_ids, n, "item_ids")
    parameters = {
        **ranker._stored(components, None),
        "query_k": int(ranker.query_k),
        "cautious": bool(ranker.cautious),
    }
    k = min(affinity.listed(parameters["k"]), width)
    # Results of other lists or other settings are never taken for those of these.
    settings = [__version__, _inputs(files), settings_of(affinity), ranker.metric, k]
    folder = Path(f"{out}.build") if work is None else storage.as_path(work, "work")
    made = folder / storage.fingerprint(settings)[:16]
    shards = Shards(str(made.absolute()), (0, *np.cumsum(lengths).tolist()))
    stages = Stages(shards, executor, progress)
    stages.run("lists", given_lists, k, ranker.metric, each=files)
    if isinstance(affinity, Context):
        whole, parts = context.make_edges(stages, affinity)
    else:
        assert isinstance(affinity, Pointwise)
        whole, parts = pointwise.make_edges(stages, affinity)
    stages.run("nodes", graph.nodes)
    stages.run("matrix", graph.matrix)
    stages.run_once("components", graph.components)
    with storage.errors_named(out), storage.writing(out, INDEX) as new:
        made_graph = _graph(new, shards)
        for name, part in parts.items():
            _fill(new, f"affinity_{name}", shards.count, part)
        solver = components.solver.prepare(made_graph, components.transfer, progress=progress)
        arrays = {f"affinity_{name}": array for name, array in whole.items()}
        arrays |= {f"solver_{name}": array for name, array in solver.arrays().items()}
        arrays |= {f"ids_{name}": array for name, array in items.arrays().items()}
        for name, array in arrays.items():
            new.add(name, array)
        sizes = {
            "items": n,
            "dimension": None,
            "edges": made_graph.n_edges,
            "components": made_graph.n_components,
            "isolated": made_graph.n_isolated,
        }
        new.commit({"library": __version__, "parameters": parameters, "sizes": sizes})
    shutil.rmtree(made)
    with contextlib.suppress(OSError):  # other results are in it
        folder.rmdir()


def _graph(new: storage.Writing, shards: Shards) -> Graph:
    """Write the arrays of the graph, and return it."""
    parts = graph.graph_parts(shards)
    arrays: dict[str, Any] = {}
    for name, part in parts.items():
        arrays[name] = _fill(new, f"graph_{name}", shards.count, part)
    isolated = [np.count_nonzero(parts["degrees"](p) == 0) for p in range(shards.count)]
    return Graph(
        **arrays,
        n_edges=len(arrays["indices"]) // 2,
        n_components=int(shards.array("components", 0, "count")[0]),
        n_isolated=sum(isolated),
    )


def _fill(new: storage.Writing, name: str, count: int, part: Part) -> NDArray[Any]:
    """Write an array of an index from its parts, one after the other."""
    shapes = [part(p).shape for p in range(count)]
    shape, dtype = (sum(length for length, *_ in shapes), *shapes[0][1:]), part(0).dtype
    if not math.prod(shape):
        array = np.empty(shape, dtype)
        new.add(name, array)
        return array
    array, begin = new.create(name, dtype, shape), 0
    for p in range(count):
        own = part(p)
        array[begin : begin + len(own)] = own
        begin += len(own)
    return np.asarray(array)


# --- input --------------------------------------------------------------------------------------


def _files(folder: Path) -> list[tuple[str, str]]:
    """Return the files of ids and scores of each shard."""
    try:
        names = sorted(
            (int(found[1]), found[0])
            for found in map(_IDS.fullmatch, os.listdir(folder))
            if found is not None
        )
    except OSError as error:
        raise DiffusionError(f"{folder}: cannot be read ({error.strerror or error})") from None
    if not names:
        raise DiffusionError(f"{folder}: expected files ids_0000.npy and so on, found none")
    folder = folder.absolute()
    return [(str(folder / name), str(folder / f"scores{name[3:]}")) for _, name in names]


def _shape(files: Sequence[tuple[str, str]]) -> tuple[list[int], int]:
    """Return the length of each shard, and the width of all lists."""
    lengths, widths = [], []
    for pair in files:
        shapes = [storage.read_array(file).shape for file in pair]
        if len(shapes[0]) != 2 or shapes[0] != shapes[1]:
            raise DiffusionError(
                f"{pair[1]}: expected scores (m, w) as there are ids in {pair[0]}, got "
                f"shapes {shapes[1]} and {shapes[0]}"
            )
        lengths.append(shapes[0][0])
        widths.append(shapes[0][1])
        if widths[-1] != widths[0]:
            raise DiffusionError(
                f"{pair[0]}: expected lists of width {widths[0]} as in {files[0][0]}, got "
                f"{widths[-1]}"
            )
    if not 0 < sum(lengths) < 2**31:
        raise DiffusionError(
            f"{files[0][0]}: expected 1 to 2147483647 lists in all files, got {sum(lengths)}"
        )
    return lengths, max(1, widths[0])


def _inputs(files: Sequence[tuple[str, str]]) -> list[Any]:
    """Return what tells the given files from others: names, sizes and times of the last change."""
    found = [(file, os.stat(file)) for pair in files for file in pair]
    return [[file, stat.st_size, stat.st_mtime_ns] for file, stat in found]


def given_lists(
    path: str, shards: Shards, p: int, files: tuple[str, str], k: int, metric: str
) -> str:
    """Check the lists of a shard, and keep the k best others of each item: `scores` and `ids`."""
    a, b = shards.bounds(p)
    out_scores, out_ids = np.empty((b - a, k), np.float32), np.empty((b - a, k), np.int32)
    if a < b:
        ids, scores = map(storage.read_array, files)
        names = files[1], files[0]
        scores, ids = as_lists(scores, ids, shards.n, names=names, metric=metric)
        copy_without_self(scores, ids, a, out_scores, out_ids)
    return save(path, {"scores": out_scores, "ids": out_ids})
