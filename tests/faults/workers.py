"""Worker processes that survive nothing: each does case after case, and is replaced when it dies.

A case may crash its process, never return, or ask for all memory; that is what is being tried. The
workers are forked from a server that has imported the libraries but run nothing, so a new one costs
little. A case hangs if its process has used more than so many seconds of processor time, or has not
run for as long: a busy machine does not make a hang.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import importlib
import multiprocessing
import os
import re
import resource
import signal
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from diffusion import DiffusionError

LIMIT = 10.0  # seconds
# A first case may compile loops.
_PATIENCE = 600.0
_CONTEXT = multiprocessing.get_context("forkserver")


class Outcome(NamedTuple):
    """What became of a case.

    `kind` is what a campaign calls its answers ("right", "wrong", ...), or "refused" (a
    `DiffusionError`), "error" (any other exception), "memory", "crash" or "hang". `detail` says
    more in one line, and equal failures say the same. `calls` counts those that a case made.
    """

    kind: str
    detail: str = ""
    calls: int = 0


class Pool:
    """Processes that perform the cases of a campaign.

    Parameters
    ----------
    campaign : str
        Name of a module with a function `prepare(folder)`, which is called once in each worker,
        and a function `perform(case)`, which returns an `Outcome`.
    folder : Path
        Where the campaign keeps its files.
    workers : int
    memory : int
        Bytes that a worker may allocate after `prepare`.
    limit : float
        Seconds of processor time after which a case hangs.
    """

    def __init__(
        self,
        campaign: str,
        folder: Path,
        *,
        workers: int = 2,
        memory: int = 1 << 30,
        limit: float = LIMIT,
    ) -> None:
        _CONTEXT.set_forkserver_preload([campaign])
        self._arguments = (campaign, folder, memory, limit)
        self._workers = [_Worker(*self._arguments) for _ in range(workers)]
        self.replaced = 0

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.kill()

    def run(self, cases: Iterable[Any]) -> Iterator[tuple[Any, Outcome]]:
        """Perform cases, and yield each with its outcome, in the order in which they end."""
        waiting = iter(cases)
        for worker in self._workers:
            worker.take(waiting)
        while any(worker.busy for worker in self._workers):
            connections = [worker.connection for worker in self._workers if worker.busy]
            ready = wait(connections, timeout=1.0)
            for number, worker in enumerate(self._workers):
                if not worker.busy:
                    continue
                outcome = worker.outcome(worker.connection in ready)
                if outcome is None:
                    continue
                case, worker.case = worker.case, None
                if not worker.alive:
                    worker.kill()
                    self.replaced += 1
                    worker = self._workers[number] = _Worker(*self._arguments)
                yield case, outcome
                worker.take(waiting)

    def one(self, case: Any) -> Outcome:
        """Perform one case."""
        return next(self.run([case]))[1]


class _Worker:
    def __init__(self, campaign: str, folder: Path, memory: int, limit: float) -> None:
        self._limit = limit
        self.connection, theirs = _CONTEXT.Pipe()
        self._log = Path(tempfile.mkstemp(suffix=".log", dir=folder)[1])
        arguments = (theirs, campaign, folder, memory, self._log)
        self._process = _CONTEXT.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()
        self.alive = True
        self.case: Any = None
        self._ready = False

    @property
    def busy(self) -> bool:
        return self.case is not None

    def take(self, waiting: Iterator[Any]) -> None:
        """Send the next case, if there is one."""
        self.case = next(waiting, None)
        if self.busy:
            with contextlib.suppress(BrokenPipeError):
                self.connection.send(self.case)
            self._since = self._moved = time.monotonic()
            self._used = self._started = self._processor_time()

    def outcome(self, ready: bool) -> Outcome | None:
        """Return the outcome of the case; None if it is not known yet."""
        if ready:
            try:
                message = self.connection.recv()
            except (EOFError, OSError):
                return self._end("crash")
            if message is not None:
                return Outcome(*message)
            self._ready = True  # prepared; its case begins now
            self._moved = time.monotonic()
            self._used = self._started = self._processor_time()
            return None
        now, used = time.monotonic(), self._processor_time()
        if used != self._used:
            self._used, self._moved = used, now
        limit = self._limit if self._ready else _PATIENCE
        if used - self._started > limit or now - self._moved > limit:
            return self._end("hang")
        return None

    def kill(self) -> None:
        self._process.kill()
        self._process.join()
        self.connection.close()
        self._log.unlink(missing_ok=True)

    def _end(self, kind: str) -> Outcome:
        """Kill the process, and say where it was."""
        self.alive = False
        if kind == "hang":
            # faulthandler writes where it hangs before the process goes.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGABRT)
            self._process.join(5)
            if self._process.exitcode is None:
                self._process.kill()
        self._process.join()
        code = self._process.exitcode
        name = signal.Signals(-code).name if code and code < 0 else f"exit status {code}"
        return Outcome(kind, f"{name} {_frame(self._log.read_text(errors='replace'))}")

    def _processor_time(self) -> float:
        try:
            fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _frame(log: str) -> str:
    """Return the innermost frame of our own in what faulthandler wrote."""
    frames = re.findall(r'File "([^"]+)", line (\d+) in (\S+)', log)
    ours = [f for f in frames if re.search(r"/(diffusion|features|bench)/", f[0])]
    for file, line, function in ours or frames[:1]:
        return f"at {'/'.join(Path(file).parts[-2:])}:{line} in {function}"
    return " ".join(log.split())[-200:]


def place(error: BaseException) -> str:
    """Return an exception in one line, with the innermost frame of our own."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if re.search(r"/(diffusion|features|bench)/", f.filename)]
    frame = (ours or frames)[-1]
    where = f"{'/'.join(Path(frame.filename).parts[-2:])}:{frame.lineno} in {frame.name}"
    return f"{type(error).__name__} at {where}: {' '.join(str(error).split())[:160]}"


def _serve(connection: Connection, campaign: str, folder: Path, memory: int, log: Path) -> None:
    with open(log, "w") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    faulthandler.enable()
    warnings.simplefilter("ignore")
    tqdm.set_lock(threading.RLock())  # its own is a semaphore, which a killed process leaves behind
    module = importlib.import_module(campaign)
    module.prepare(folder)
    gc.collect()
    gc.freeze()  # what the libraries hold is not looked through again after every case
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + memory, held + memory))
    connection.send(None)
    while True:
        try:
            case = connection.recv()
        except EOFError:
            return
        try:
            outcome = module.perform(case)
        except DiffusionError as error:
            outcome = Outcome("refused", str(error)[:200])
        except MemoryError as error:
            outcome = Outcome("memory", place(error))
        except BaseException as error:
            outcome = Outcome("error", place(error))
        gc.collect()
        # Equal failures say the same, whatever the folder.
        connection.send((outcome.kind, outcome.detail.replace(str(folder), ""), outcome.calls))
