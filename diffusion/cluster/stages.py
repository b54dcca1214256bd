"""The stages of a build: one task for each shard, or one for all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from .executors import Executor
from .shards import Shards
from .tasks import run_stage


class Stages(NamedTuple):
    """Runs the stages of a build, where there is no result yet.

    Attributes
    ----------
    shards : Shards
    executor : Executor
    progress : bool
        Whether to show progress bars on standard error.
    """

    shards: Shards
    executor: Executor
    progress: bool

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
        run_stage(self.executor, stage, task, listed, progress=self.progress)

    def run_once(self, stage: str, task: Callable[..., str]) -> None:
        """Call ``task(path, shards)``; the result is that of shard 0."""
        path = str(self.shards.folder(stage, 0))
        run_stage(self.executor, stage, task, [(path, self.shards)], progress=self.progress)
