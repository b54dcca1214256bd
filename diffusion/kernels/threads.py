"""The decorators that compile loops, and the threads that compiled loops run on."""

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

# Number of nodes per chunk: few enough to share chunks among many cores, and enough to amortise
# the cost of a task.
CHUNK = 512


def _compiled(**options: Any) -> Callable[[Any], Any]:
    """Return numba.njit with a cache on disk, or without if no directory is writable."""

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


# Only "contract" of fastmath is used: a fused multiply-add is faster and more accurate, whereas
# reassociation is only faster.
parallel = _compiled(parallel=True, fastmath={"contract"})
serial = _compiled()
contracting = _compiled(fastmath={"contract"})


@parallel
def _launch(out: Any) -> None:
    for i in numba.prange(out.shape[0]):
        out[i] = 1.0


def chunks(n: int) -> int:
    """Return the number of chunks of n nodes."""
    return -(-n // CHUNK)


_lock = threading.RLock()
_state = {"used": False, "forked": False}


@cache
def _layer() -> str:
    """Launch numba's threads; return the name of the threading layer that numba has chosen."""
    # The launch sets the number of threads of the OpenMP library that numba loads. If torch uses
    # the same library, that would change the last bits of all later convolutions.
    loaded = ThreadpoolController().select(user_api="openmp").lib_controllers
    before = [(library, library.num_threads) for library in loaded]
    try:
        _launch(np.zeros(1))
    finally:
        for library, threads in before:
            library.set_num_threads(threads)
    return str(numba.threading_layer())


def concurrent() -> bool:
    """Return whether kernels may run in several Python threads at the same time.

    They may on numba's OpenMP and TBB layers. Numba's own layer "workqueue", which it uses if
    neither is installed, would abort the process.
    """
    with _lock:
        return _layer() != "workqueue"


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Reserve the kernels for this thread if they must not run concurrently.

    Raises
    ------
    DiffusionError
        If the process was forked from one that had used the kernels. The threads of OpenMP do not
        survive a fork, and a kernel would wait for them indefinitely or abort.
    """
    if _state["forked"]:
        raise DiffusionError(
            "process: forked after a search or a fit, which the threads of OpenMP do not survive; "
            "expected the start method 'spawn', or a fork before the first search or fit"
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
    """Run the kernels that this Python thread calls on the given number of cores."""
    before = numba.get_num_threads()
    numba.set_num_threads(cores)
    try:
        yield
    finally:
        numba.set_num_threads(before)
