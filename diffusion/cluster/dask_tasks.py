"""Tasks on the workers of Dask: those of a cluster, or processes of this machine.

Dask is an optional dependency: `executors.open_executor` imports this module when it is asked for.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, InvalidStateError
from functools import partial
from multiprocessing import resource_tracker
from typing import Any

import dask
import distributed

from ..errors import DiffusionError
from ..kernels.threads import cores
from .executors import Executor, on_cores

# Seconds until a scheduler that does not answer is an error.
_TIMEOUT = 30
# Seconds without a worker, after which the user is told.
_TOLD_AFTER = 5.0
# The loggers of Dask and of what it is built on.
_LOGGERS = ("distributed", "tornado")
# What it sets in the environment beside what its configuration names.
_SET_BY_DASK = ("PYTHONHASHSEED", "__DASK_PARENT_PID")


class Dask:
    """Tasks on the workers of a Dask cluster, which gives a task to another worker if one dies."""

    tries = 1

    def __init__(
        self,
        client: Any,
        where: str,
        workers: int,
        cores: int,
        patience: float,
        replace: Callable[[], object] | None = None,
    ) -> None:
        self.workers, self._cores, self._replace = workers, cores, replace
        self.died: tuple[type[BaseException], ...] = (distributed.KilledWorker,)
        self.client, self._where, self._patience = client, where, patience
        self._missed: float | None = None  # since when there have been no workers
        self._told = False

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Run a function on a worker; the result of the future is None."""
        future: Future[Any] = Future()
        if self.client.status != "running":  # until it gives up, it would only collect tasks
            _cancel(future)
            return future
        try:
            # Not pure: tasks of the same arguments are not the same task if one is repeated.
            task = self.client.submit(on_cores, self._cores, function, *arguments, pure=False)
        except Exception:
            if self.client.status == "running":
                raise
            _cancel(future)
            return future
        future.add_done_callback(partial(_pass_cancellation, task))
        task.add_done_callback(partial(_pass_outcome, future))
        return future

    def check(self, say: Callable[[str], None]) -> None:
        """Raise if the scheduler is lost, or if there have been no workers for too long.

        Missing workers are replaced, if that is this process's business.
        """
        if self.client.status != "running":
            raise DiffusionError(
                f"cluster: {self._where}: the scheduler cannot be reached any more; what is "
                "finished is kept"
            )
        try:
            count = len(self.client.nthreads())
        except (OSError, RuntimeError):  # the next call says whether the scheduler is lost
            return
        if count < self.workers and self._replace is not None:
            self._replace()
        if count:
            if self._told:
                say(f"cluster: {self._where}: {count} workers")
            self._missed, self._told = None, False
            return
        now = time.monotonic()
        self._missed = now if self._missed is None else self._missed
        if now - self._missed >= self._patience:
            raise DiffusionError(
                f"cluster: {self._where}: expected a worker within {self._patience:g} seconds, "
                "there is none; what is finished is kept"
            )
        if now - self._missed >= min(_TOLD_AFTER, self._patience / 2) and not self._told:
            say(
                f"cluster: {self._where}: 0 workers; waiting for one, at most "
                f"{self._patience:g} seconds"
            )
            self._told = True


def _pass_outcome(future: Future[Any], task: Any) -> None:
    """Give a future the outcome of a task of Dask.

    What the task returned is not fetched: the connection may be lost meanwhile.
    """
    with contextlib.suppress(InvalidStateError):  # cancelled
        if task.status == "finished":
            future.set_result(None)
        elif task.status == "error":
            try:
                error = task.exception()
            except Exception as problem:  # one that cannot be fetched or unpacked
                error = problem
            future.set_exception(error)
        else:
            _cancel(future)


def _pass_cancellation(task: Any, future: Future[Any]) -> None:
    """Cancel the task of a future that is cancelled."""
    if future.cancelled() and task.status == "pending":
        with contextlib.suppress(Exception):  # a lost scheduler cancels nothing any more
            task.cancel()


def _cancel(future: Future[Any]) -> None:
    future.cancel()
    future.set_running_or_notify_cancel()


@contextlib.contextmanager
def local(workers: int, patience: float) -> Iterator[Executor]:
    """Start a cluster of processes of this machine; `patience` is as in `open_executor`."""
    each = max(1, cores() // workers)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_quiet())
        stack.enter_context(_same_environment())
        try:
            with _uninterrupted():
                cluster = distributed.LocalCluster(
                    n_workers=workers,
                    threads_per_worker=1,
                    # Dask counts mapped files as memory of a worker, which it would pause or end.
                    memory_limit=0,
                    dashboard_address=None,
                    # Its HTTP server would be for all machines, on a port that others may have.
                    scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
                    silence_logs=logging.CRITICAL,
                )
                stack.enter_context(cluster)
                client = stack.enter_context(distributed.Client(cluster))
        except (OSError, RuntimeError) as error:
            raise DiffusionError(
                f"cluster: local:{workers}: the workers cannot be started ({error})"
            ) from error
        try:
            # Dask gives a worker up that has died and is not back within 15 seconds, as may happen
            # on a busy machine. To scale to the same number starts another one in its place.
            replace = partial(cluster.scale, workers)
            yield Dask(client, f"local:{workers}", workers, each, patience, replace)
        except BaseException:
            _kill(cluster)
            raise


def _kill(cluster: Any) -> None:
    """End the processes of a cluster, for whose tasks it would wait some seconds."""
    for nanny in cluster.workers.values():
        nanny.auto_restart = False
        with contextlib.suppress(ProcessLookupError, TypeError):  # it has none
            os.kill(nanny.pid, signal.SIGKILL)


@contextlib.contextmanager
def connected(address: str, patience: float) -> Iterator[Executor]:
    """Connect to the scheduler of a cluster; `patience` is as in `open_executor`."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(_quiet())
        try:
            client = stack.enter_context(distributed.Client(address, timeout=_TIMEOUT))
            threads = sum(client.nthreads().values())
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DiffusionError(
                f"cluster: {address}: no Dask scheduler answers ({reason})"
            ) from None
        # A cluster that grows with its tasks may have no worker yet.
        yield Dask(client, address, max(1, threads), 1, patience)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Let Dask log nothing: it writes pages on connections that end."""
    # Some of the loggers below the first have a level of their own.
    known = dict(logging.root.manager.loggerDict)
    below = [name for name in known if name.partition(".")[0] in _LOGGERS]
    loggers = [logging.getLogger(name) for name in {*_LOGGERS, *below}]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def _same_environment() -> Iterator[None]:
    """Take back at the end what Dask sets in the environment for the workers that it starts.

    It sets one thread for the numerical libraries, and leaves that to the processes that the user
    starts afterwards.
    """
    names = [*dask.config.get("distributed.nanny.pre-spawn-environ"), *_SET_BY_DASK]
    before = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let Ctrl-C end neither a cluster that is half started, nor its workers on their own.

    Threads that the block starts, and processes that these start at any time, never see it. In this
    process it is raised at the end of the block.
    """
    raised: list[bool] = []
    before = None
    if threading.current_thread() is threading.main_thread():
        before = signal.signal(signal.SIGINT, lambda *_: raised.append(True))
    # Whoever starts the tracker lets its thread see Ctrl-C afterwards.
    resource_tracker.ensure_running()
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        if before is not None:
            signal.signal(signal.SIGINT, before)
    if raised:
        raise KeyboardInterrupt
