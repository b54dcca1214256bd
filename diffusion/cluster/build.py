"""The build of an index from neighbour lists that are stored by shard.

Every stage is a list of tasks, one per shard. What a task has written is not computed again: after
an interruption, the same call goes on where it was.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import storage
from .._version import __version__
from ..affinity import Context, Pointwise
from ..copies import Copies
from ..errors import DiffusionError
from ..fitted import Components, Fitted, settings_of
from ..ids import ItemIds
from ..index_state import INDEX
from ..kernels.lists import copy_without_self
from ..reranker import Reranker
from ..transfer import CustomTransfer
from ..validation import as_lists, check_integer
from . import context, graph, pointwise
from .executors import Executor
from .final import Final
from .inputs import Input, check_same_rows, open_input
from .numbering import number_lists
from .placing import place_lists
from .search import VectorCells, place_vectors
from .shards import Shards, save
from .stages import StageReport, Stages, size_of
from .tasks import full_disks_named

_IDS = re.compile(r"ids_(\d+)\.npy")
_AFFINITY = "affinity_"
# Number of items in a shard.
_SHARD = 1 << 17
_PATH = str | os.PathLike[str]


class _Given(NamedTuple):
    """The neighbour lists that an index is built from."""

    scores: Input
    ids: Input


def build_sharded(
    lists: _PATH | tuple[_PATH, _PATH] | None,
    out: _PATH,
    ranker: Reranker | None = None,
    *,
    executor: Executor,
    vectors: _PATH | Input | None = None,
    item_ids: ArrayLike | Input | None = None,
    shards: int | None = None,
    work: _PATH | None = None,
    progress: bool = False,
) -> list[StageReport]:
    """Build an index from vectors or neighbour lists that are stored by shard.

    From neighbour lists, the index equals the one that
    ``ranker.fit_neighbors(scores, ids, X, item_ids=item_ids)`` and ``save`` make of the rows of all
    shards; only the order in which nodes are stored is another, so that scores may differ in their
    last digits. From vectors, lists are searched first, and copies of an item stay items of their
    own; an inverted file has other cells than that of ``fit``, and finds other lists where these
    are not exact.

    Parameters
    ----------
    lists : path-like, tuple of path-like, or None
        The neighbour lists (n, w) that `Reranker.fit_neighbors` takes: a folder of
        ``scores_0000.npy``, ``ids_0000.npy``, ``scores_0001.npy`` and so on, or the scores and the
        ids, each a .npy or Parquet file or a folder of such files (`open_input`). Ids are row
        numbers, from 0 for the first row of the first file on. None for lists that are searched
        among `vectors`.
    out : path-like
        The index, a directory that `diffusion.load` opens.
    ranker : Reranker, optional
        The parameters of the index; it is not changed. By default, ``Reranker()``.
    executor : Executor
        Where the tasks run, see `executors.open_executor`.
    vectors : path-like or Input, optional
        The vectors (n, d), a file or a folder, or what `open_input` returns of it, from which an
        index for `search` is made. Without them, only `rerank` is available.
    item_ids : array_like, shape (n,), int or str, or Input, optional
        The ids of the items, or what `open_input` returns of a file or folder of them, such as a
        column of Parquet files beside the vectors. The lists hold row numbers all the same.
    shards : int >= 1, optional
        Number of shards, of about equal length. By default, one for every 131,072 items.
    work : path-like, optional
        The folder of intermediate results, which all workers must reach; by default `out` with
        ``.build`` appended. They are removed at the end. After an interruption, the same call
        resumes; a call with other parameters or files does not use them, nor remove them.
    progress : bool, default False
        Show progress bars on standard error.

    Returns
    -------
    list of StageReport
        What each stage took, without those that an earlier call had finished.

    Raises
    ------
    DiffusionError
        If a parameter or a file is not as described; the message names the argument, the file or
        the row.

    Notes
    -----
    Memory of a task: about as much as `Reranker.fit_neighbors` takes for the items of a shard, and
    what they refer to in other shards, `shards.CHUNK` items at a time. Held whole, by one process:
    the components of the shards (`graph.components`), `item_ids`, what the solver prepares, and
    `vectors` with the index over them.
    """
    ranker = Reranker() if ranker is None else ranker
    components = ranker._components()
    if isinstance(components.transfer, CustomTransfer):
        raise DiffusionError(
            "transfer: a CustomTransfer holds a function, which no index can store; expected one "
            "of the named transfer functions"
        )
    out = storage.as_path(out, "out")
    storage.check_target(out, INDEX)
    inputs = _inputs(lists, vectors, item_ids)
    length = components.affinity.listed(ranker._k)
    starts = _starts(inputs.items.size, shards)

    # Results of other input or other settings are never taken for those of these.
    basis = [inputs.fingerprint(), starts, __version__, ranker.metric, length]
    basis += [settings_of(part) for part in (components.affinity, components.method)]
    folder = Path(f"{out}.build") if work is None else storage.as_path(work, "work")
    made = folder / storage.fingerprint([*basis, components.method.name])[:16]
    ranges = Shards(str(made.absolute()), starts)
    stages = Stages(ranges, executor, progress, [])
    # Of what this process writes; tasks name theirs.
    with full_disks_named(str(made)):
        searched = _searched(stages, inputs, ranker, components, length)
        stages = _placed(stages, inputs, searched, ranker.metric, length)
        number_lists(stages, ranges)
        final = Final(stages, ranges)
        fitted = _fitted(stages, final, inputs, searched, ranker, components)
        files = {name: final.file(name) for name in final.names()}
        files |= {} if searched is None else {k: Path(v) for k, v in searched.found.files.items()}
        _commit(fitted, ranker, out, files)
    shutil.rmtree(made)
    with contextlib.suppress(OSError):  # other results are in it
        folder.rmdir()
    return stages.reports


# --- input ----------------------------------------------------------------------------------------


class _Inputs(NamedTuple):
    """What an index is built from."""

    given: _Given | None
    vectors: Input | None
    items: ItemIds

    def fingerprint(self) -> list[str | None]:
        """Return what tells these files from others."""
        found = [*(self.given or (None, None)), self.vectors]
        return [None if each is None else each.fingerprint() for each in found]


def _inputs(lists: Any, vectors: Any, item_ids: Any) -> _Inputs:
    """Open the input that `build_sharded` takes, and check that it fits together."""
    given = None if lists is None else _opened(lists)
    found = vectors if isinstance(vectors, Input | None) else open_input(vectors, "vectors")
    inputs = [*(given or ()), *(() if found is None else (found,))]
    if not inputs:
        raise DiffusionError("lists: expected neighbour lists, or vectors to find them among")
    check_same_rows([*inputs, *([item_ids] if isinstance(item_ids, Input) else [])])
    n = inputs[0].n
    if n > np.iinfo(np.int32).max:
        raise DiffusionError(f"{inputs[0].name}: expected at most 2147483647 rows, got {n}")
    if item_ids is None:
        return _Inputs(given, found, ItemIds.rows(n))
    ids = item_ids.read(0, n) if isinstance(item_ids, Input) else item_ids
    return _Inputs(given, found, ItemIds.of(ids, n, "item_ids"))


def _opened(lists: Any) -> _Given:
    """Open neighbour lists, as `build_sharded` takes them; no row is read."""
    if isinstance(lists, tuple):
        if len(lists) != 2:
            raise DiffusionError(f"lists: expected scores and ids, got {len(lists)} paths")
        scores, ids = lists
        given = _Given(open_input(scores, "scores"), open_input(ids, "ids", kinds="iu"))
    else:
        given = _of_one_folder(storage.as_path(lists, "lists"))
    check_same_rows(given)
    if given.scores.width != given.ids.width:
        raise DiffusionError(
            f"scores: expected {given.ids.width[0]} for each item, as there are ids, got "
            f"{given.scores.width[0]}"
        )
    return given


def _of_one_folder(folder: Path) -> _Given:
    """Open the files of scores and of ids in a folder."""
    try:
        found = [match[1] for match in map(_IDS.fullmatch, os.listdir(folder)) if match]
    except OSError as error:
        raise DiffusionError(f"lists: {folder}: cannot be read ({error.strerror})") from None
    found.sort(key=int)
    for place, number in enumerate(found or [""]):
        if not number or int(number) != place:
            raise DiffusionError(
                f"lists: {folder}: expected a folder of ids_0000.npy, scores_0000.npy and so on, "
                f"found no ids of number {place}"
            )
    names = [[f"{name}_{number}.npy" for number in found] for name in ("scores", "ids")]
    scores, ids = ([str(folder.absolute() / name) for name in each] for each in names)
    return _Given(_input("scores", scores, "f"), _input("ids", ids, "iu"))


def _input(name: str, files: list[str], kinds: str) -> Input:
    """Return the input of .npy files, which are alike."""
    starts, found = [0], set()
    for file in files:
        array = storage.read_array(file)
        found.add((array.shape[1:], array.dtype.str))
        if array.ndim != 2 or array.dtype.kind not in kinds or len(found) > 1:
            raise DiffusionError(
                f"{name}: {file}: expected lists (m, w) of one width and type, got {array.dtype} "
                f"of shape {array.shape}"
            )
        starts.append(starts[-1] + len(array))
    if not starts[-1]:
        raise DiffusionError(f"{name}: {files[0]}: expected at least one list in all files")
    width, dtype = found.pop()
    return Input(name, tuple(files), tuple(starts), width, dtype)


def _starts(n: int, count: int | None) -> tuple[int, ...]:
    """Return where ranges of rows start, of which there are as many as shards."""
    count = -(-n // _SHARD) if count is None else check_integer(count, "shards", low=1)
    return tuple(n * p // count for p in range(count + 1))


# --- lists ----------------------------------------------------------------------------------------


def _searched(
    stages: Stages, inputs: _Inputs, ranker: Reranker, components: Components, k: int
) -> VectorCells | None:
    """Make the search index of the vectors, and search lists unless they are given."""
    if inputs.vectors is None:
        return None
    begin, work = time.perf_counter(), stages.shards.work
    searched = place_vectors(
        stages.executor,
        work,
        inputs.vectors,
        ranker.metric,
        components.method,
        k=k,
        shards=stages.shards.count,
        lists=inputs.given is None and not stages.dropped("placed"),
        progress=stages.progress,
    )
    seconds, size = time.perf_counter() - begin, size_of(Path(work) / "search")
    stages.reports.append(StageReport("search", stages.shards.count, seconds, size))
    return searched


def _placed(
    stages: Stages, inputs: _Inputs, searched: VectorCells | None, metric: str, length: int
) -> Stages:
    """Divide the items among shards, unless the search has; return the stages over these."""
    given = inputs.given
    if given is None:
        assert searched is not None
        return stages.over(searched.shards)
    k = min(length, max(1, *given.ids.width))
    zero = np.empty(0, np.int32) if searched is None else searched.without_direction()
    stages.run("given", given_lists, given, k, metric, zero)
    return stages.over(place_lists(stages, stages.shards.count))


def given_lists(
    path: str,
    shards: Shards,
    p: int,
    given: _Given,
    k: int,
    metric: str,
    zero: NDArray[np.int32],
) -> str:
    """Check the lists of a shard, and keep the k best others of each item: `scores` and `ids`.

    The items `zero` are in no list, and have none.
    """
    a, b = shards.bounds(p)
    out_scores, out_ids = np.empty((b - a, k), np.float32), np.empty((b - a, k), np.int32)
    if a < b:
        scores, ids = given.scores.read(a, b), given.ids.read(a, b)
        names = f"scores from row {a} on", f"ids from row {a} on"
        scores, ids = as_lists(scores, ids, shards.n, names=names, metric=metric)
        if len(zero):
            dropped = np.isin(ids, zero) | np.isin(np.arange(a, b), zero)[:, None]
            ids = np.where(dropped, ids.dtype.type(-1), ids)
        copy_without_self(scores, ids, a, out_scores, out_ids)
    return save(path, {"scores": out_scores, "ids": out_ids})


# --- the index ------------------------------------------------------------------------------------


def _fitted(
    stages: Stages,
    final: Final,
    inputs: _Inputs,
    searched: VectorCells | None,
    ranker: Reranker,
    components: Components,
) -> Fitted:
    """Make the graph and what the affinity and the solver keep."""
    arrays = _edges(stages, components, final)
    found = graph.make_graph(stages, final)
    n = inputs.items.size
    components.affinity.restore(arrays, n)
    index = None if searched is None else searched.index()
    return Fitted(
        ranker._stored(components, index),
        components.affinity,
        components.score,
        components.solver.prepare(found, components.transfer, progress=stages.progress),
        found,
        index,
        inputs.items,
        Copies.none(n),
    )


def _edges(stages: Stages, components: Components, final: Final) -> dict[str, NDArray[Any]]:
    """Make the stage `edges`, and return the arrays of the affinity."""
    affinity = components.affinity
    if isinstance(affinity, Context):
        own = context.make_edges(stages, affinity, final)
    else:
        assert isinstance(affinity, Pointwise)
        own = pointwise.make_edges(stages, affinity, final)
    written = {
        name.removeprefix(_AFFINITY): name for name in final.names() if name.startswith(_AFFINITY)
    }
    return {**own, **{name: final.array(file) for name, file in written.items()}}


def _commit(fitted: Fitted, ranker: Reranker, out: Path, files: dict[str, Path]) -> None:
    """Write the index: the arrays that tasks have written, and the others of a fit."""
    state = fitted.state(int(ranker.query_k), bool(ranker.cautious))
    with storage.errors_named(out), storage.writing(out, INDEX) as new:
        for name, array in state.arrays.items():
            if name in files:
                new.adopt(name, files[name])
            else:
                new.add(name, array)
        content = {"parameters": state.parameters, "sizes": state.sizes}
        new.commit({"library": __version__, **content})
