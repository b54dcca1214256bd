"""Time and memory of a program and of every process that it starts."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

# Seconds between two looks at the processes.
_INTERVAL = 0.2
# What is in the command line of the processes that `multiprocessing` starts. The tracker only
# removes what the others leave.
_ROLES = {"resource_tracker": "tracker", "spawn_main": "worker", "forkserver": "worker"}


@dataclass
class Process:
    """What was seen of a process.

    Attributes
    ----------
    role : {"coordinator", "worker", "tracker", "other"}
        The coordinator is the program itself.
    anonymous : int
        Peak of the memory that belongs to the process alone, without mapped files, in bytes.
    resident : int
        Peak of its memory with the pages of mapped files that were in it, which the system takes
        back where they are needed, in bytes.
    cpu : float
        Seconds of processor time.
    written : int
        Bytes that it caused to be written to storage.
    """

    role: str
    anonymous: int = 0
    resident: int = 0
    cpu: float = 0.0
    written: int = 0


@dataclass
class Usage:
    """What a program and the processes that it started have used; those are in their order."""

    seconds: float = 0.0
    output: str = ""
    processes: list[Process] = field(default_factory=list)

    @property
    def cpu(self) -> float:
        """Seconds of processor time of all processes."""
        return sum(process.cpu for process in self.processes)

    @property
    def written(self) -> int:
        """Bytes that all processes caused to be written to storage."""
        return sum(process.written for process in self.processes)

    def peak(self, role: str, name: str = "anonymous") -> int:
        """Return the largest peak of memory of the processes of a role, in bytes; 0 for none."""
        found = [getattr(process, name) for process in self.processes if process.role == role]
        return int(max(found, default=0))


def run(
    command: Sequence[str], look: Callable[[], None] = lambda: None, folder: Path | None = None
) -> Usage:
    """Run a program and watch its processes every 0.2 seconds.

    Parameters
    ----------
    command : sequence of str
        What runs until the end belongs to the program: itself, what it starts and so on.
    look : callable, optional
        Called again and again meanwhile, in another thread, and once at the end.
    folder : Path, optional
        Where the program runs; by default, where this one does.

    Returns
    -------
    Usage
        `output` is what the program printed.

    Raises
    ------
    RuntimeError
        If the program fails. What it wrote to standard error is to be seen there.
    """
    usage, found = Usage(), dict[tuple[int, float], Process]()
    start = time.perf_counter()
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as program:
        with _repeated(lambda: _watch(program.pid, found), _INTERVAL), _repeated(look, _INTERVAL):
            try:
                usage.output, _ = program.communicate()
            except BaseException:
                program.terminate()
                raise
        usage.seconds = time.perf_counter() - start
    look()
    if program.returncode:
        raise RuntimeError(f"{' '.join(command)}: ended with {program.returncode}")
    usage.processes = list(found.values())
    return usage


@contextlib.contextmanager
def _repeated(action: Callable[[], None], interval: float) -> Iterator[None]:
    """Repeat an action in a thread, which takes at most a tenth of the time of a processor."""
    stop = threading.Event()

    def repeat() -> None:
        wait = 0.0
        while not stop.wait(wait):
            start = time.perf_counter()
            action()
            wait = max(interval, 10 * (time.perf_counter() - start))

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _watch(number: int, found: dict[tuple[int, float], Process]) -> None:
    """Note what a process and those that it has started use now."""
    with contextlib.suppress(psutil.Error):
        program = psutil.Process(number)
        for process in [program, *program.children(recursive=True)]:
            with contextlib.suppress(psutil.Error, OSError):
                key = (process.pid, process.create_time())
                if key not in found:
                    found[key] = Process("coordinator" if process == program else _role(process))
                _note(process, found[key])


def _role(process: psutil.Process) -> str:
    command = " ".join(process.cmdline())
    return next((role for text, role in _ROLES.items() if text in command), "other")


def _note(process: psutil.Process, own: Process) -> None:
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines()
    )
    kilobytes = {name: int(status.get(name, "0").split()[0]) for name in ("RssAnon", "VmHWM")}
    own.anonymous = max(own.anonymous, 1024 * kilobytes["RssAnon"])
    own.resident = max(own.resident, 1024 * kilobytes["VmHWM"])
    times = process.cpu_times()
    own.cpu = times.user + times.system
    own.written = process.io_counters().write_bytes
