"""How loops are compiled, and the threads that they run on."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numba
import numpy as np
from threadpoolctl import ThreadpoolController

from ..errors import DiffusionError

# Nodes a chunk: small enough to share out among many cores, large enough to amortise the task.
CHUNK = 512


def _compiled(**options: Any) -> Callable[[Any], Any]:
    """Return a decorator: numba.njit, with a cache on disk if there is a place to write to."""

    def decorate(function: Any) -> Any:
        try:
            return _forgiving(numba.njit(cache=True, nogil=True, **options)(function))
        except RuntimeError:
            return numba.njit(nogil=True, **options)(function)

    return decorate


def _forgiving(dispatcher: Any) -> Any:
    """Let a dispatcher compile anew if its cache was written by another version of the library.

    numba compares the source file's time, but only after it has read the index of the cache,
    which may name argument types that no longer exist.
    """
    cache: Any = getattr(dispatcher, "_cache", None)
    if not hasattr(cache, "load_overload"):
        return dispatcher
    load = cache.load_overload

    def load_overload(*arguments: Any) -> Any:
        try:
            return load(*arguments)
        except (AttributeError, ImportError):
            cache.flush()
            return None

    cache.load_overload = load_overload
    return dispatcher


# "contract" alone: a fused multiply-add is faster and more accurate; reassociation is only faster.
parallel = _compiled(parallel=True, fastmath={"contract"})
serial = _compiled()
contracting = _compiled(fastmath={"contract"})


@parallel
def _launch(out: Any) -> None:
    for i in numba.prange(out.shape[0]):
        out[i] = 1.0


def chunks(n: int) -> int:
    """Return the number of chunks that n nodes make."""
    return -(-n // CHUNK)


_lock = threading.RLock()
_state = {"used": False, "forked": False}


@cache
def _layer() -> str:
    """Launch numba's threads, which chooses their layer, and return its name."""
    # The launch sets the number of threads of the OpenMP library that numba loads, which may be
    # the one that torch runs on: there it would change the last bits of every convolution to come.
    loaded = ThreadpoolController().select(user_api="openmp").lib_controllers
    before = [(library, library.num_threads) for library in loaded]
    try:
        _launch(np.zeros(1))
    finally:
        for library, threads in before:
            library.set_num_threads(threads)
    return str(numba.threading_layer())


def concurrent() -> bool:
    """Whether kernels may run from several Python threads at once.

    They may on numba's OpenMP and TBB layers. Its own "workqueue", the last resort where neither
    is installed, aborts the process.
    """
    with _lock:
        return _layer() != "workqueue"


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Hold the kernels for this thread alone where they must not run concurrently.

    Raises
    ------
    DiffusionError
        In a process that was forked from one that had used them: the threads that OpenMP keeps
        do not survive a fork, and a kernel would wait for them or abort.
    """
    if _state["forked"]:
        raise DiffusionError(
            "process: forked from one that had already searched or fitted, which the threads of "
            "OpenMP do not survive; expected the start method 'spawn', or a fork before first use"
        )
    _state["used"] = True
    with contextlib.nullcontext() if concurrent() else _lock:
        yield


def _after_fork() -> None:
    _state["forked"] = _state["used"]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def cores() -> int:
    """Return the number of cores that the kernels called by this Python thread run on."""
    return numba.get_num_threads()


@contextlib.contextmanager
def using_cores(cores: int) -> Iterator[None]:
    """Run the kernels that this Python thread calls on so many cores."""
    before = numba.get_num_threads()
    numba.set_num_threads(cores)
    try:
        yield
    finally:
        numba.set_num_threads(before)
