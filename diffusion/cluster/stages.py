"""The stages of a build: one task for each shard, or one for all."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from ..errors import DiffusionError
from ..storage.results import result
from .executors import Executor
from .shards import Shards
from .tasks import damaged_arrays, run_stage

_T = TypeVar("_T")


class StageReport(NamedTuple):
    """What a stage took.

    Attributes
    ----------
    name : str
    tasks : int
    seconds : float
        From the first task to the last, without those that were finished before.
    bytes : int
        Size of the results, without what tasks wrote to common arrays.
    """

    name: str
    tasks: int
    seconds: float
    bytes: int


class Stages(NamedTuple):
    """Runs the stages of a build, where there is no result yet.

    Attributes
    ----------
    shards : Shards
    executor : Executor
    progress : bool
        Whether to show progress bars on standard error.
    reports : list of StageReport
        Of the stages that were run.
    """

    shards: Shards
    executor: Executor
    progress: bool
    reports: list[StageReport]

    def over(self, shards: Shards) -> Stages:
        """Return the same with other shards of the same folder."""
        return self._replace(shards=shards)

    def run(
        self,
        stage: str,
        task: Callable[..., str],
        *arguments: Any,
        each: Sequence[Any] | None = None,
    ) -> None:
        """Call ``task(path, shards, p, *arguments)`` for each shard p.

        With `each`, element p of it comes before the other arguments.
        """
        every = range(self.shards.count)
        own = [()] * len(every) if each is None else [(argument,) for argument in each]
        paths = [str(self.shards.folder(stage, p)) for p in every]
        listed = [(paths[p], self.shards, p, *own[p], *arguments) for p in every]
        self._run(stage, task, listed)

    def run_once(self, stage: str, task: Callable[..., str], *arguments: Any) -> None:
        """Call ``task(path, shards, *arguments)``; the result is that of shard 0."""
        path = str(self.shards.folder(stage, 0))
        self._run(stage, task, [(path, self.shards, *arguments)])

    def fact(self, name: str, find: Callable[[], _T]) -> _T:
        """Return what `find` returned the first time: a JSON value, kept when results are not."""
        file = Path(self.shards.work) / "facts" / f"{name}.json"
        if file.exists():
            kept: _T = json.loads(file.read_text())
            return kept
        found = find()
        with result(file) as new:
            new.write_text(json.dumps(found))
        return found

    def dropped(self, stage: str) -> bool:
        """Return whether the results of a stage were deleted."""
        return self._mark(stage).exists()

    def drop(self, *stages: str) -> None:
        """Delete the results of stages that no later stage needs; they count as done."""
        for stage in stages:
            mark = self._mark(stage)
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()
            shutil.rmtree(self._folder(stage), ignore_errors=True)

    def _run(self, stage: str, task: Callable[..., str], listed: list[tuple[Any, ...]]) -> None:
        if self.dropped(stage):
            return
        self._check_undamaged([Path(each[0]) for each in listed])
        begin = time.perf_counter()
        run_stage(self.executor, stage, task, listed, progress=self.progress)
        seconds = time.perf_counter() - begin
        self.reports.append(StageReport(stage, len(listed), seconds, size_of(self._folder(stage))))

    def _check_undamaged(self, paths: list[Path]) -> None:
        """Raise if a result is damaged and cannot be made again."""
        if not (Path(self.shards.work) / "dropped").exists():
            return
        for path in paths:
            for file in damaged_arrays(path):
                raise DiffusionError(
                    f"{file}: damaged, and what it was made from is deleted already; remove "
                    f"{self.shards.work} to build anew"
                )

    def _folder(self, stage: str) -> Path:
        return self.shards.folder(stage, 0).parent

    def _mark(self, stage: str) -> Path:
        return Path(self.shards.work) / "dropped" / stage


def size_of(folder: Path) -> int:
    """Return the size of the files in a folder, and in those in it."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
