"""The decorators that compile loops, and the threads that compiled loops run on.

Loops are compiled for one thread each, released from the interpreter lock, and called on parts of
their range by a pool of threads of this package. Numba's own `parallel=True` takes twice as long to
compile, starts every core for a single row, and runs on OpenMP, whose threads do not survive a
fork and whose settings are shared with other libraries.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, update_wrapper
from pathlib import Path
from typing import Any, TypeVar

import numba

Task = TypeVar("Task")
Result = TypeVar("Result")

# Number of nodes per chunk: sums are computed for each chunk and then over the chunks, so that
# they do not depend on the number of threads.
CHUNK = 512

# A loop is cut into this many parts for each core, so that no core waits long for the others.
_PARTS = 8

_logger = logging.getLogger("diffusion")


# --- compilation ----------------------------------------------------------------------------------


@cache
def _version() -> str:
    """Return a fingerprint of the sources of all compiled loops."""
    content = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        content.update(file.read_bytes())
    return content.hexdigest()[:12]


def _compiled(function: Any, **options: Any) -> Any:
    """Return a function compiled by numba, kept in a cache on disk if a directory is writable."""
    options |= {"nogil": True, "error_model": "numpy"}
    try:
        dispatcher = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no directory can be written to
        dispatcher = numba.njit(**options)(function)
    stored = dispatcher._cache
    if hasattr(stored, "_cache_file"):
        # numba compares the time of one source file, but a compiled function contains those that
        # it calls from other files. The fingerprint of all sources in the name of its files also
        # keeps it from reading what another version of this package has left behind.
        files = stored._cache_file
        base = f"{files._index_name.removesuffix('.nbi')}.{_version()}"
        stored._cache_file = type(files)(files._cache_path, base, _version())
    _make_forgiving(stored)
    return dispatcher


def _make_forgiving(stored: Any) -> None:
    """Let the cache of a function announce compilation, and compile anew what it cannot read.

    numba does not make its files durable: a power cut leaves empty ones, which raise whatever
    pickle raises. Two processes that compile one function for different types at the same time may
    store both under one name. A full disk must not be the end of a search either.
    """
    load, save = stored.load_overload, stored.save_overload

    def load_overload(types: Any, context: Any) -> Any:
        try:
            found = load(types, context)
            damaged = found is not None and tuple(found.signature.args) != tuple(types)
        except Exception:
            damaged = True
        if damaged:
            found = None
            with contextlib.suppress(OSError):
                stored.flush()
        if found is None:
            _announce(getattr(stored, "cache_path", None))
        return found

    def save_overload(*arguments: Any) -> None:
        with contextlib.suppress(OSError):
            save(*arguments)

    stored.load_overload, stored.save_overload = load_overload, save_overload


_announced = threading.Event()


def _announce(folder: str | None) -> None:
    """Say once that loops are being compiled, and whether the result is kept."""
    if _announced.is_set():
        return
    _announced.set()
    _logger.warning(
        "diffusion-rerank: compiling loops for this machine, which takes about twenty seconds; %s",
        "no directory for the result is writable, so that every process compiles again; "
        "NUMBA_CACHE_DIR may name one"
        if folder is None
        else f"the result is kept in {folder}",
    )


def serial(function: Any) -> Any:
    """Compile a function that other compiled functions call, or that runs on one thread."""
    return _compiled(function)


def borrowing(function: Any) -> Any:
    """Compile a function that allocates nothing and returns numbers, for calls within loops.

    It leaves the reference counts of its arrays alone. Changing them is atomic: a call that does
    takes 20 nanoseconds, ten times as long as the work of a small function. numba has no public
    name for this option.
    """
    return _compiled(function, _nrt=False)


# Only "contract" of fastmath is used: a fused multiply-add is faster and more accurate, whereas
# reassociation is only faster.
def contracting(function: Any) -> Any:
    """Compile as `serial` does, with fused multiply-add."""
    return _compiled(function, fastmath={"contract"})


def inlined(function: Any) -> Any:
    """Let numba put the loops of a function into those that call it.

    A call of a compiled function counts the references to its arrays, which takes longer than a
    short row of a matrix.
    """
    return numba.njit(inline="always")(function)


def parallel(rows: Callable[..., int], grain: int) -> Callable[[Any], Any]:
    """Compile a loop and call it on parts of its range, on as many threads as `cores`.

    Parameters
    ----------
    rows : callable
        Takes the arguments of a call, and returns the length of the range.
    grain : int
        The smallest part worth a thread, about 50 microseconds of work. A shorter range runs on
        the calling thread.

    Returns
    -------
    callable
        Decorates a function of `start`, `stop` and the arguments, which processes that part of the
        range. No part may depend on the results of another.
    """

    def decorate(function: Any) -> Any:
        compiled = contracting(function)

        def call(*arguments: Any) -> None:
            total = rows(*arguments)
            size = max(grain, -(-total // (_PARTS * cores())))
            side_by_side(
                lambda begin: compiled(begin, min(total, begin + size), *arguments),
                range(0, total, size),
            )

        return update_wrapper(call, function)

    return decorate


def chunks(n: int) -> int:
    """Return the number of chunks of n nodes."""
    return -(-n // CHUNK)


# --- threads --------------------------------------------------------------------------------------


class _Cores(threading.local):
    """The number of cores that a Python thread may use."""

    count: int | None = None


_cores = _Cores()


def _all_cores() -> int:
    return numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]


def cores() -> int:
    """Return the number of cores that this Python thread may use.

    By default, this is the number of cores that the process may run on, or the value of the
    environment variable NUMBA_NUM_THREADS.
    """
    return _cores.count or _all_cores()


@contextlib.contextmanager
def using_cores(count: int) -> Iterator[None]:
    """Let this Python thread use the given number of cores."""
    before, _cores.count = _cores.count, count
    try:
        yield
    finally:
        _cores.count = before


class _Pool:
    """The threads that help the calling threads; they are started when first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads: ThreadPoolExecutor | None = None

    def submit(self, function: Callable[[], None]) -> Future[None] | None:
        """Run a function on a thread of the pool; None at the end of the process."""
        with self._lock:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(max(1, _all_cores() - 1), "diffusion")
        try:
            return self._threads.submit(function)
        except RuntimeError:
            return None


_pool = _Pool()


def side_by_side(
    function: Callable[[Task], Result], tasks: Iterable[Task], workers: int | None = None
) -> list[Result]:
    """Apply a function to each task on several threads; return the results in order.

    The calling thread takes tasks as well. It never waits for a task that has not begun, so that
    calls may be nested.

    Parameters
    ----------
    function : callable
        The first exception that it raises is raised again; the tasks that follow are not begun.
    tasks : iterable
    workers : int, optional
        Largest number of threads, by default `cores`.
    """
    tasks = list(tasks)
    workers = min(len(tasks), workers or cores())
    if workers <= 1:
        return [function(task) for task in tasks]
    results: list[Any] = [None] * len(tasks)
    places = iter(range(len(tasks)))  # the next task; taking it is atomic
    failed = threading.Event()

    def work() -> None:
        for place in places:
            if failed.is_set():
                return
            try:
                results[place] = function(tasks[place])
            except BaseException:
                failed.set()
                raise

    helpers = [_pool.submit(work) for _ in range(workers - 1)]
    try:
        work()
    finally:
        begun = [helper for helper in helpers if helper is not None and not helper.cancel()]
        errors = [error for error in (helper.exception() for helper in begun) if error]
    for error in errors:
        raise error
    return results


# --- processes ------------------------------------------------------------------------------------


def _after_fork() -> None:
    """Replace what a fork does not copy: the threads, and a lock that another thread held."""
    global _pool
    _pool = _Pool()
    # The threads of OpenMP, which faiss searches with, do not survive a fork, and a search would
    # wait for them indefinitely. One thread needs no others.
    faiss = sys.modules.get("faiss")
    if faiss is not None and hasattr(faiss, "omp_set_num_threads"):
        faiss.omp_set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
