"""Stages of tasks, each of which leaves one file or folder: a repeated stage runs what is missing.

A result is complete or absent: a task writes it beside its place and moves it there at the end. So
a stage that was interrupted, in whatever way, is resumed by calling it again.
"""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..errors import DiffusionError
from ..storage.files import array_header
from ..storage.results import result
from .executors import Executor

__all__ = ["result", "run_stage"]

# Seconds without the end of a task after which the workers are looked at.
_PERIOD = 2.0
# What says that the disk is full.
_FULL = (errno.ENOSPC, errno.EDQUOT)


def run_stage(
    executor: Executor,
    name: str,
    task: Callable[..., str],
    arguments: Sequence[tuple[Any, ...]],
    *,
    progress: bool = False,
) -> list[Path]:
    """Run the tasks of a stage whose results are missing.

    Parameters
    ----------
    executor : Executor
        Of `executors.open_executor`.
    name : str
        The name of the stage, for the progress bar and for errors.
    task : callable
        A function of a module, which workers import. ``task(*arguments[i])`` writes a file or
        folder with `result`, and returns its path, which is the first of its arguments.
    arguments : sequence of tuple
        The arguments of each task; the first is the path of its result, a different one for each.
    progress : bool, default False
        Show a progress bar with the time left on standard error.

    Returns
    -------
    list of Path, one for each task
        The paths of the results, all of which exist.

    Raises
    ------
    DiffusionError
        If the disk is full, if the worker of one task died four times, if workers cannot be
        reached any more, if there are none for too long (`executors.open_executor`), or if they
        write to a file system that is not that of this process.
    Exception
        The first exception of a task, as it is, with a note on the stage. The tasks that have not
        begun are cancelled; what is finished is kept.
    """
    paths = [Path(each[0]) for each in arguments]
    if len(set(paths)) < len(paths):
        raise ValueError("arguments: expected a different path for each task")
    missing = [place for place, path in enumerate(paths) if not _finished(path)]
    if missing:
        total = len(paths)
        with tqdm(
            total=total,
            initial=total - len(missing),
            desc=name,
            unit="task",
            disable=not progress,
        ) as bar:
            _run(executor, name, task, [arguments[place] for place in missing], bar)
    return paths


def _run(
    executor: Executor,
    name: str,
    task: Callable[..., str],
    arguments: Sequence[tuple[Any, ...]],
    bar: tqdm[Any],
) -> None:
    """Run tasks, and again those whose worker died."""
    done: queue.SimpleQueue[tuple[int, Future[Any]]] = queue.SimpleQueue()
    running: dict[int, Future[Any]] = {}
    tries = [0] * len(arguments)

    def begin(place: int) -> None:
        tries[place] += 1
        running[place] = executor.submit(task, *arguments[place])
        running[place].add_done_callback(lambda future: done.put((place, future)))

    try:
        for place in range(len(arguments)):
            begin(place)
        due = time.monotonic() + _PERIOD
        while running:
            if time.monotonic() >= due:
                executor.check(partial(_say, bar))
                due = time.monotonic() + _PERIOD
            try:
                place, future = done.get(timeout=_PERIOD)
            except queue.Empty:
                continue
            del running[place]
            path = Path(arguments[place][0])
            try:
                with full_disks_named(f"{name}: {path}"):
                    future.result()
            except executor.died as error:
                if tries[place] == executor.tries:
                    # Dask counts by itself, up to a number that its scheduler sets.
                    deaths = getattr(error, "allowed_failures", executor.tries - 1) + 1
                    raise DiffusionError(
                        f"{name}: {path}: its worker died {deaths} times, as it does when memory "
                        "runs out; expected fewer workers or smaller shards"
                    ) from error
                begin(place)
                continue
            except CancelledError:
                raise DiffusionError(
                    f"{name}: {path}: the workers cannot be reached any more; what is finished is "
                    "kept"
                ) from None
            except Exception as error:
                error.add_note(f"in stage {name}, of {path}")
                raise
            _check_written(name, path)
            bar.update()
    finally:
        for future in running.values():
            future.cancel()


def _say(bar: tqdm[Any], line: str) -> None:
    """Print a line above the progress bar, if there is one."""
    if not bar.disable:
        bar.write(line, file=sys.stderr)


def _finished(path: Path) -> bool:
    """Return whether there is a result; one with a damaged array is removed, to be made again.

    Only the sizes of the arrays are compared with what their headers say.
    """
    if not path.exists():
        return False
    if next(damaged_arrays(path), None) is None:
        return True
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    return False


def damaged_arrays(path: Path) -> Iterator[Path]:
    """Yield the .npy files of a result that are shorter or longer than their headers say."""
    arrays = path.rglob("*.npy") if path.is_dir() else [path] if path.suffix == ".npy" else []
    return (file for file in arrays if not _whole(file))


def _whole(file: Path) -> bool:
    """Return whether an .npy file is as long as its header says."""
    try:
        with open(file, "rb") as stream:
            header = array_header(stream, "biufcSUV")
            return stream.tell() + header.bytes == os.fstat(stream.fileno()).st_size
    except ValueError:
        return False


def _check_written(name: str, path: Path) -> None:
    """Raise unless the result of a task that has ended is there."""
    if path.exists():
        return
    with contextlib.suppress(OSError):
        os.listdir(path.parent)  # a network file system may have kept an older state
    if not path.exists():
        raise DiffusionError(
            f"{name}: {path}: expected the result of a task here; all workers must write to the "
            "same file system as this process"
        )


@contextlib.contextmanager
def full_disks_named(subject: str) -> Iterator[None]:
    """Turn the error of a full disk into one that names what was written, such as a result."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise DiffusionError(
            f"{subject}: cannot be written ({error.strerror}); what is finished is kept"
        ) from None
