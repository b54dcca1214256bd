"""Where tasks run: threads, processes, or Dask, behind the interface of concurrent.futures.

Dask is an optional dependency, which is imported only when it is asked for.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Protocol

from ..errors import DiffusionError
from ..kernels.threads import cores, using_cores

_COUNTED = re.compile(r"(threads|processes|local):([1-9][0-9]{0,3})")
_ADDRESS = re.compile(r"(?!(threads|processes|local):)([a-z]+://)?[^\s/:]+:[0-9]{1,5}|[a-z]+://\S+")
# Where seconds to wait for workers are looked up, and what they are by default.
_PATIENCE, _DEFAULT_PATIENCE = "DIFFUSION_CLUSTER_PATIENCE", 600.0


class Executor(Protocol):
    """Runs tasks elsewhere.

    Attributes
    ----------
    workers : int
        Number of tasks that run at the same time.
    died : tuple of exception types
        What the future of a task raises if its worker died.
    tries : int
        How often a task is to be submitted if its worker dies; one if the executor repeats it.
    """

    workers: int
    died: tuple[type[BaseException], ...]
    tries: int

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Run a function that workers can import, and return its future.

        What the function returns may stay where it ran: the result of the future is that, or None.
        """

    def check(self, say: Callable[[str], None]) -> None:
        """Check that tasks can still end; to be called now and then by who waits for them.

        Parameters
        ----------
        say : callable
            Is called with a line for the user if there are no workers, or workers again.

        Raises
        ------
        DiffusionError
            If the scheduler is lost, or there have been no workers for too long.
        """


@contextlib.contextmanager
def open_executor(where: str, *, patience: float | None = None) -> Iterator[Executor]:
    """Start workers, or connect to those of a cluster, and release them at the end.

    Compiled loops of a task use as many cores as there are for each worker, one on a cluster. If
    the block that holds the executor raises, tasks that have not begun are cancelled; running ones
    are ended, except on threads, where they are waited for, and on a cluster, where nobody waits
    for them.

    Parameters
    ----------
    where : str
        "threads:N", "processes:N" (N processes of this machine), "local:N" (a cluster of Dask with
        N processes of this machine), or the address of a Dask scheduler, such as
        "tcp://10.0.0.1:8786", whose workers share a file system with this process.
    patience : float > 0, optional
        Seconds that tasks wait while a cluster has no worker. By default, what the environment
        variable DIFFUSION_CLUSTER_PATIENCE says, or 600.

    Yields
    ------
    Executor

    Raises
    ------
    DiffusionError
        If `where` is none of these, Dask is needed and not installed, or no scheduler answers.

    Notes
    -----
    "processes" and "local" start new interpreters, which import the main module: a script must
    begin its work under ``if __name__ == "__main__":``.

    While the block runs, Dask logs nothing in this process: what goes wrong is raised.
    """
    seconds = _patience(patience)
    counted = _COUNTED.fullmatch(where) if isinstance(where, str) else None
    if counted is not None:
        kind, workers = counted[1], int(counted[2])
        if kind == "local":
            opened = _dask().local(workers, seconds)
        else:
            opened = (_threads if kind == "threads" else _processes)(workers)
    elif isinstance(where, str) and _ADDRESS.fullmatch(where):
        opened = _dask().connected(where, seconds)
    else:
        raise DiffusionError(
            "cluster: expected 'threads:N', 'processes:N', 'local:N' with N from 1 to 9999, or the "
            f"address of a Dask scheduler, got {where!r}"
        )
    with opened as executor:
        yield executor


def _patience(given: float | None) -> float:
    """Return how many seconds tasks wait for workers."""
    name: str = "patience"
    value: Any = given
    if value is None:
        name, value = _PATIENCE, os.environ.get(_PATIENCE, _DEFAULT_PATIENCE)
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not seconds > 0:
        raise DiffusionError(f"{name}: expected seconds > 0, got {value!r}")
    return seconds


def _dask() -> Any:
    """Import the tasks on Dask.

    Raises
    ------
    DiffusionError
        If Dask is not installed.
    """
    try:
        import distributed  # noqa: F401
    except ModuleNotFoundError as error:
        raise DiffusionError(
            f"cluster: {error.name} is not installed (pip install 'diffusion-rerank[cluster]')"
        ) from None
    from . import dask_tasks

    return dask_tasks


def on_cores(count: int, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function whose compiled loops use so many cores."""
    with using_cores(count):
        return function(*arguments)


# --- threads and processes ------------------------------------------------------------------------


class _Threads:
    """Tasks on threads of this process."""

    died: tuple[type[BaseException], ...] = ()
    tries = 4

    def __init__(self, workers: int) -> None:
        self.workers, self._cores = workers, max(1, cores() // workers)
        self.pool = ThreadPoolExecutor(workers, "diffusion-task")

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        return self.pool.submit(on_cores, self._cores, function, *arguments)

    def check(self, say: Callable[[str], None]) -> None:
        """Do nothing: who has died is replaced."""


class _Processes(_Threads):
    """Tasks on processes, each of which a thread starts, waits for and replaces.

    One `ProcessPoolExecutor` of several processes would end them all as soon as one has died.
    """

    died: tuple[type[BaseException], ...] = (BrokenProcessPool,)

    def __init__(self, workers: int) -> None:
        super().__init__(workers)
        self._own = threading.local()
        self._lock = threading.Lock()
        self._started: dict[ProcessPoolExecutor, int] = {}
        self._closed = False

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        return self.pool.submit(self._run, function, *arguments)

    def _run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a task on the process of this thread."""
        process = self._process()
        try:
            return process.submit(on_cores, self._cores, function, *arguments).result()
        except BrokenProcessPool:
            self._forget(process)
            raise

    def _process(self) -> ProcessPoolExecutor:
        """Return the process of this thread; start one if there is none."""
        process: ProcessPoolExecutor | None = getattr(self._own, "process", None)
        if process is not None:
            return process
        # A fork would copy the locks that other threads hold.
        spawn = multiprocessing.get_context("spawn")
        process = ProcessPoolExecutor(1, mp_context=spawn, initializer=_prepare_process)
        try:
            number = process.submit(os.getpid).result()
        except BaseException:
            process.shutdown(wait=False)
            raise
        with self._lock:
            self._own.process = process
            self._started[process] = number
            if self._closed:
                os.kill(number, signal.SIGTERM)
        return process

    def _forget(self, process: ProcessPoolExecutor) -> None:
        """Release what a process that has died leaves."""
        self._own.process = None
        with self._lock:
            self._started.pop(process, None)
        process.shutdown()

    def kill(self) -> None:
        """End all processes, those that run tasks too."""
        with self._lock:
            self._closed = True
            for number in self._started.values():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(number, signal.SIGTERM)

    def shutdown(self) -> None:
        """Wait for all processes to end."""
        for process in list(self._started):
            process.shutdown()


def _prepare_process() -> None:
    """Let a process end with the one that started it, which alone answers to Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)  # a process pool would wait for tasks from nobody

    threading.Thread(target=follow, daemon=True).start()


@contextlib.contextmanager
def _threads(workers: int) -> Iterator[Executor]:
    executor = _Threads(workers)
    try:
        yield executor
    finally:
        executor.pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _processes(workers: int) -> Iterator[Executor]:
    executor = _Processes(workers)
    try:
        yield executor
    except BaseException:
        executor.pool.shutdown(wait=False, cancel_futures=True)
        executor.kill()
        raise
    finally:
        executor.pool.shutdown(cancel_futures=True)
        executor.shutdown()
