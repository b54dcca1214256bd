"""The processes of the service: one that listens and supervises, and workers that answer.

The supervisor opens the port, starts the workers, replaces one that ends, and ends them all. Each
worker maps the same index and makes the application of its own. Workers share nothing else: what
one of them saves, the others see on disk.
"""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, NoReturn

from tqdm import tqdm

from .. import storage
from ..compilation import warm_up
from ..errors import DiffusionError
from ..index_state import INDEX
from ..validation import check_integer
from .app import create_app
from .collection import Collection
from .photos import open_photos
from .security import Settings

try:
    from fastapi import FastAPI
    from uvicorn import Config
    from uvicorn.supervisors import Multiprocess
    from uvicorn.supervisors.multiprocess import Process
except ModuleNotFoundError as error:
    raise DiffusionError(
        f"serve: {error.name} is not installed (pip install 'diffusion-rerank[serve]')"
    ) from None

# Connections that wait to be accepted, and those that a worker accepts at once. With more of them,
# clients that come together would all have the worker that is first, and stay with it.
_BACKLOG, _AT_ONCE = 2048, 1

# Seconds for the requests in flight when the service ends, and for the rest of it afterwards.
_GRACE, _REST = 30, 10

# Seconds in which a worker must show that it lives. A compilation may keep it from doing so.
_SIGN_OF_LIFE = 60

# The exit status of a worker that could not start, by which uvicorn knows not to start another.
_NOT_STARTED = 3

# What numba, faiss and the libraries of linear algebra read when they are imported.
_THREADS = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Service:
    """What a worker serves.

    Attributes
    ----------
    index : str
        The directory of the index.
    settings : Settings
    read_only : bool, default False
    photos : bool, default False
        Whether photos are described and shown.
    folder, weights : str or None, default None
        The folder of the photos and the weights of the network, if they are not where the index
        says.
    """

    index: str
    settings: Settings
    read_only: bool = False
    photos: bool = False
    folder: str | None = None
    weights: str | None = None

    def application(self) -> FastAPI:
        """Open what is served, compile what answering needs, and return the application.

        Raises
        ------
        DiffusionError
            If the index or its photos cannot be opened, or a library is missing.
        """
        collection = Collection(self.index, read_only=self.read_only)
        photos = None
        if self.photos:
            photos = open_photos(self.index, self.folder, weights=self.weights)
        solver = collection.info()["solver"]
        warm_up(*(() if solver == "auto" else (solver,)))
        return create_app(collection, settings=self.settings, photos=photos)


def serve(
    service: Service,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    workers: int = 1,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Serve an index until the process gets SIGTERM or SIGINT.

    Requests in flight are finished then, for at most 30 seconds; an update that takes longer is
    given up, before or after it was saved. A worker that ends otherwise is replaced. Call this in
    the main thread of a process that does nothing else.

    Parameters
    ----------
    service : Service
    host : str, default "127.0.0.1"
        The address to listen on. There is a warning if others than this machine can reach it and
        the settings have no token.
    port : int from 0 to 65535, default 8000
        0 takes one that is free.
    workers : int >= 1, default 1
        Number of processes that answer. They share the cores: unless environment variables such as
        NUMBA_NUM_THREADS say otherwise, each computes with the number of cores divided by that of
        the workers.
    ready : callable, optional
        Called with the address, such as ``"http://127.0.0.1:8000"``, when all workers can answer.

    Raises
    ------
    DiffusionError
        If the port is taken, or a worker cannot start, as with an index that cannot be opened.
    """
    check_integer(workers, "workers", low=1)
    storage.read_manifest(service.index, INDEX)  # a worker would take seconds to find none
    with listening(host, port) as sock, _threads(workers):
        address = address_of(sock)
        if service.settings.token is None and not is_local(host):
            warnings.warn(
                f"{address} can be reached by others, who may read and change the index; expected "
                "a token",
                stacklevel=2,
            )
        news, told = multiprocessing.Pipe(duplex=False)
        config = Config(
            functools.partial(_application, service, told),
            factory=True,
            workers=workers,
            lifespan="on",
            ws="none",
            backlog=_AT_ONCE if workers > 1 else _BACKLOG,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_GRACE,
            timeout_worker_healthcheck=_SIGN_OF_LIFE,
        )
        supervisor = _Supervisor(config, sock, news, lambda: ready and ready(address))
        supervisor.run()
        if supervisor.failure is not None:
            raise DiffusionError(supervisor.failure)


# --- the supervisor -------------------------------------------------------------------------------


class _Supervisor(Multiprocess):
    """Uvicorn's supervisor, which also says when all workers are ready and why one is not.

    Parameters
    ----------
    config : Config
    sock : socket
        Listening.
    news : Connection
        From which come the pids of workers that are ready, and why others could not start.
    ready : callable

    Attributes
    ----------
    failure : str or None
        Why the service ended, unless it was told to.
    """

    def __init__(
        self, config: Config, sock: socket.socket, news: Connection, ready: Callable[[], Any]
    ) -> None:
        super().__init__(config, [sock])
        self.failure: str | None = None
        self._news, self._ready = news, ready
        self._missing = config.workers  # those that were never ready
        self._asked: dict[Process, float] = {}  # who owes a sign of life, and since when

    def keep_subprocess_alive(self) -> None:
        """Replace workers that have ended; end the service if one cannot start."""
        for sock in self.sockets:
            sock.listen(_BACKLOG)  # a worker that starts sets it to what it accepts at once
        # First who has ended, then what they said before, which says why.
        ended = [process for process in self.processes if process.exitcode is not None]
        while self._news.poll():
            self._hear(self._news.recv())
        if self.should_exit.is_set():
            return
        for process in ended:
            if self._missing or process.exitcode == _NOT_STARTED:
                self._fail(f"serve: a worker ended with status {process.exitcode} while it started")
                return
            _logger.warning("worker %d ended with status %d", process.pid, process.exitcode)
            self._replace(process)
        # Those that start with the service may take as long as they need.
        for process in [] if self._missing else [*self.processes]:
            if self._hangs(process):
                _logger.warning("worker %d gives no sign of life and is killed", process.pid)
                self._replace(process)

    def _hangs(self, process: Process) -> bool:
        """Return whether a worker owes a sign of life for too long; if it owes none, ask for one.

        Uvicorn waits for the answer, and meanwhile for nothing else: neither for signals, nor for
        the end of the very worker.
        """
        asked = self._asked.get(process)
        with contextlib.suppress(OSError, EOFError):  # it has just ended
            if asked is None:
                process.parent_conn.send(b"ping")
                self._asked[process] = time.monotonic()
            elif process.parent_conn.poll():
                process.parent_conn.recv()
                del self._asked[process]
            else:
                return time.monotonic() - asked > _SIGN_OF_LIFE
        return False

    def _replace(self, process: Process) -> None:
        self._asked.pop(process, None)
        process.kill()
        process.join()
        new = Process(self.config, self.sockets)
        new.start()
        self.processes[self.processes.index(process)] = new

    def _hear(self, news: int | str) -> None:
        if isinstance(news, str):
            self._fail(news)
        elif self._missing:
            self._missing -= 1
            if not self._missing:
                self._ready()

    def _fail(self, reason: str) -> None:
        self.failure = reason
        self.should_exit.set()

    def terminate_all(self) -> None:
        """Tell the workers to end; from now on, connections are refused."""
        for sock in self.sockets:
            sock.close()
        super().terminate_all()

    def join_all(self) -> None:
        """Wait for the workers to end, and end those that take too long."""
        deadline = time.monotonic() + _GRACE + _REST
        for process in self.processes:
            process.process.join(max(0.0, deadline - time.monotonic()))
            if process.exitcode is None:
                _logger.warning("worker %d did not end in time and is killed", process.pid)
                process.kill()
                process.join()


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """Listen on an address.

    Raises
    ------
    DiffusionError
        If it is none of this machine, or is taken.
    """
    if check_integer(port, "port", low=0) > 65535:
        raise DiffusionError(f"port: expected an integer of at most 65535, got {port}")
    if not host:  # the system takes it for all addresses
        raise DiffusionError("host: expected an address to listen on, got ''")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        sock = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except (OSError, UnicodeError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).partition(" (while ")[0]
        raise DiffusionError(f"cannot listen on {host}, port {port}: {reason}") from None
    # As a socket of TCP by name: asyncio takes no other for one, and leaves Nagle's algorithm on,
    # which holds the end of an answer back for 40 ms.
    with socket.socket(fileno=sock.detach()) as sock:
        yield sock


def address_of(sock: socket.socket) -> str:
    """Return the URL of a listening socket."""
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_local(host: str) -> bool:
    """Return whether only this machine can reach what listens on an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@contextlib.contextmanager
def _threads(workers: int) -> Iterator[None]:
    """Let processes that are started compute with their share of the cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    share = str(max(1, (cores or 1) // workers))
    ours = [name for name in _THREADS if name not in os.environ]
    os.environ.update(dict.fromkeys(ours, share))
    try:
        yield
    finally:
        for name in ours:
            del os.environ[name]


# --- a worker -------------------------------------------------------------------------------------


def _application(service: Service, told: Connection) -> FastAPI:
    """Return the application of a worker; say that it is ready, or why it is not."""
    _end_with_parent()
    # The default lock of progress bars, which nobody sees here, is a semaphore of the system that
    # a process leaves behind when a signal ends it.
    tqdm.set_lock(threading.RLock())
    try:
        app = service.application()
    except Exception as error:
        _end(told, error)
    told.send(os.getpid())
    return app


def _end(told: Connection, error: Exception) -> NoReturn:
    kind = "" if isinstance(error, DiffusionError) else f"{type(error).__name__}: "
    told.send(f"{kind}{error}")
    sys.exit(_NOT_STARTED)


def _end_with_parent() -> None:
    """End this process, as SIGTERM does, when the supervisor has ended without doing so."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_GRACE + _REST)
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()
