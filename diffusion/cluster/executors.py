"""Where tasks run: threads, processes, or Dask, behind the interface of concurrent.futures.

Dask is an optional dependency, which is imported only when it is asked for.
"""

from __future__ import annotations

import contextlib
import logging
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
# Seconds until a scheduler that does not answer is an error.
_TIMEOUT = 30


class Executor(Protocol):
    """Runs tasks elsewhere.

    Attributes
    ----------
    workers : int
        Number of tasks that run at the same time.
    died : tuple of exception types
        What the future of a task raises if its worker died. The task may be submitted again.
    """

    workers: int
    died: tuple[type[BaseException], ...]

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Run a function that workers can import, and return its future."""


@contextlib.contextmanager
def open_executor(where: str) -> Iterator[Executor]:
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
    begin its work under ``if __name__ == "__main__":``. Tasks wait for as long as a cluster has no
    workers.
    """
    counted = _COUNTED.fullmatch(where) if isinstance(where, str) else None
    if counted is not None:
        kind, workers = counted[1], int(counted[2])
        start = {"threads": _threads, "processes": _processes, "local": _local}[kind]
        with start(workers) as executor:
            yield executor
    elif isinstance(where, str) and _ADDRESS.fullmatch(where):
        with _cluster(where) as executor:
            yield executor
    else:
        raise DiffusionError(
            "cluster: expected 'threads:N', 'processes:N', 'local:N' with N from 1 to 9999, or the "
            f"address of a Dask scheduler, got {where!r}"
        )


def _on_cores(count: int, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function whose compiled loops use so many cores."""
    with using_cores(count):
        return function(*arguments)


# --- threads and processes ------------------------------------------------------------------------


class _Threads:
    """Tasks on threads of this process."""

    died: tuple[type[BaseException], ...] = ()

    def __init__(self, workers: int) -> None:
        self.workers, self._cores = workers, max(1, cores() // workers)
        self.pool = ThreadPoolExecutor(workers, "diffusion-task")

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        return self.pool.submit(_on_cores, self._cores, function, *arguments)


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
            return process.submit(_on_cores, self._cores, function, *arguments).result()
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


# --- Dask -----------------------------------------------------------------------------------------


class _Dask:
    """Tasks on the workers of a Dask cluster, which gives a task to another worker if one dies."""

    def __init__(self, client: Any, workers: int, cores: int) -> None:
        self.workers, self._cores = workers, cores
        self.died: tuple[type[BaseException], ...] = (_distributed().KilledWorker,)
        # Not pure: tasks of the same arguments are not the same task if one is repeated.
        self.client = client
        self._pool = client.get_executor(pure=False)

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future: Future[Any] = self._pool.submit(_on_cores, self._cores, function, *arguments)
        return future


def _distributed() -> Any:
    """Import `distributed`.

    Raises
    ------
    DiffusionError
        If it is not installed.
    """
    try:
        import distributed
    except ModuleNotFoundError as error:
        raise DiffusionError(
            f"cluster: {error.name} is not installed (pip install 'diffusion-rerank[cluster]')"
        ) from None
    return distributed


@contextlib.contextmanager
def _local(workers: int) -> Iterator[Executor]:
    distributed = _distributed()
    each = max(1, cores() // workers)
    with contextlib.ExitStack() as stack:
        try:
            cluster = distributed.LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                # Dask counts mapped files as memory of a worker, which it would pause or end.
                memory_limit=0,
                dashboard_address=None,
                silence_logs=logging.CRITICAL,
            )
            stack.enter_context(cluster)
            client = stack.enter_context(distributed.Client(cluster))
        except (OSError, RuntimeError) as error:
            raise DiffusionError(
                f"cluster: local:{workers}: the workers cannot be started ({error})"
            ) from error
        yield _Dask(client, workers, each)


@contextlib.contextmanager
def _cluster(address: str) -> Iterator[Executor]:
    distributed = _distributed()
    try:
        client = distributed.Client(address, timeout=_TIMEOUT)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DiffusionError(f"cluster: {address}: no Dask scheduler answers ({reason})") from None
    with client:
        threads = sum(worker["nthreads"] for worker in _workers_of(client))
        # A cluster that grows with its tasks may have no worker yet.
        yield _Dask(client, max(1, threads), 1)


def _workers_of(client: Any) -> list[dict[str, Any]]:
    return list(client.scheduler_info(n_workers=-1)["workers"].values())
