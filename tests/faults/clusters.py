"""What the campaign of faults on a cluster shares: shards, builds, processes and their ends.

Only the public face of a build is used: `build_sharded`, `diffusion build` and the folder of
intermediate results beside the index.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import psutil

import diffusion
from diffusion import DiffusionError, Reranker
from diffusion.cluster.build import build_sharded
from diffusion.cluster.executors import Executor
from tests.support.folders import contents

#: The folders of shards that an index is built from.
MODES = {
    "lists": ("scores", "ids"),
    "lists and vectors": ("scores", "ids", "vectors"),
    "vectors": ("vectors",),
}
ITEMS, SHARDS = 900, 3
# A busy machine may need this long for what takes a second.
_PATIENCE = 300


def write_shards(home: Path) -> None:
    """Write neighbour lists and vectors, three files of each."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((30, 8))[rng.integers(0, 30, ITEMS)]
    X = X + 0.4 * rng.standard_normal(X.shape)
    scores, ids = diffusion.nearest_neighbors(X, 40)
    for name, array in (("scores", scores), ("ids", ids), ("vectors", X.astype(np.float32))):
        (home / name).mkdir(parents=True)
        for number, part in enumerate(np.array_split(array, SHARDS)):
            np.save(home / name / f"{name}_{number:04d}.npy", part)


def build(home: Path, mode: str, executor: Executor, out: Path | None = None) -> None:
    """Build `home`/index, or another index, from the shards in `home`."""
    scores, ids, vectors = (home / name for name in ("scores", "ids", "vectors"))
    build_sharded(
        (scores, ids) if "ids" in MODES[mode] else None,  # type: ignore[arg-type]
        home / "index" if out is None else out,
        Reranker(k=8),
        executor=executor,
        vectors=vectors if "vectors" in MODES[mode] else None,
    )


def refusal(home: Path, mode: str, executor: Executor, out: Path | None = None) -> str:
    """Build an index; return the message of the error, or nothing."""
    try:
        build(home, mode, executor, out)
    except DiffusionError as error:
        return str(error)
    return ""


def start_build(home: Path, mode: str, where: str) -> subprocess.Popen[str]:
    """Start the same build as a command, in a process group of its own."""
    command = [sys.executable, "-c", "from diffusion.cli import main; raise SystemExit(main())"]
    command += ["build", *(["vectors"] if "vectors" in MODES[mode] else []), "index"]
    if "ids" in MODES[mode]:
        command += ["--neighbor-scores", "scores", "--neighbor-ids", "ids"]
    command += ["--cluster", where, "-k", "8", "--quiet"]
    return subprocess.Popen(
        command,
        cwd=home,
        env=_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}


def check_between(home: Path, whole: dict[str, bytes]) -> None:
    """Check what an interrupted build left: no index or a whole one, and whole results."""
    if (home / "index").exists():
        assert contents(home / "index") == whole
    for file in (home / "index.build").rglob("*.npy"):
        if not any(part.endswith(".tmp") for part in file.parts):
            with contextlib.suppress(FileNotFoundError):  # the build has gone on
                np.load(file, mmap_mode="r", allow_pickle=False)


class Acting:
    """An executor that does something else before it submits one of the tasks."""

    def __init__(
        self, executor: Executor, at: int = -1, act: Callable[[], None] = lambda: None
    ) -> None:
        self.workers, self.died, self.tries = executor.workers, executor.died, executor.tries
        self._executor, self._at, self._act = executor, at, act
        self.submitted = 0

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Submit a task."""
        if self.submitted == self._at:
            self._act()
        self.submitted += 1
        return self._executor.submit(function, *arguments)

    def check(self, say: Callable[[str], None]) -> None:
        """Check the workers."""
        self._executor.check(say)


# --- processes ------------------------------------------------------------------------------------


def workers_of(process: psutil.Process) -> list[psutil.Process]:
    """Return the workers that a process has started."""
    found = []
    for child in process.children():
        with contextlib.suppress(psutil.Error):
            if any("spawn_main" in argument for argument in child.cmdline()):
                found.append(child)
    return found


def kill_a_worker(rng: np.random.Generator) -> bool:
    """Kill a worker that this process has started; return whether there was one."""
    found = workers_of(psutil.Process())
    if found:
        with contextlib.suppress(psutil.NoSuchProcess):
            found[rng.integers(len(found))].kill()
            return True
    return False


@contextlib.contextmanager
def killing_workers(rng: np.random.Generator, most: int, pause: float) -> Iterator[list[float]]:
    """Kill workers of this process at random moments; yield the list of these moments."""
    done, kills = threading.Event(), []
    start = time.monotonic()

    def kill() -> None:
        while len(kills) < most and not done.wait(rng.uniform(0, pause)):
            if kill_a_worker(rng):
                kills.append(time.monotonic() - start)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield kills
    finally:
        done.set()
        thread.join()


def wait_for_results(process: subprocess.Popen[str], home: Path) -> None:
    """Wait until a build has a folder of intermediate results, or has ended."""
    while process.poll() is None and not (home / "index.build").exists():
        time.sleep(0.01)


def wait_for_workers(process: subprocess.Popen[str]) -> None:
    """Wait until a build has begun to start workers, or has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        while process.poll() is None and not workers_of(psutil.Process(process.pid)):
            time.sleep(0.01)


def end(process: subprocess.Popen[str], number: int, *, group: bool = False) -> tuple[int, str]:
    """Send a signal to a build, or to its whole group as Ctrl-C does; return status and errors.

    What it has started ends as well.
    """
    started = []
    with contextlib.suppress(psutil.NoSuchProcess):
        started = psutil.Process(process.pid).children(recursive=True)
    with contextlib.suppress(ProcessLookupError):
        (os.killpg if group else os.kill)(process.pid, number)
    status, errors = finish(process)
    _, alive = psutil.wait_procs(started, timeout=60)
    assert not alive, f"still running: {alive}"
    return status, errors


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for the end of a build; return its status and what it wrote to standard error."""
    try:
        _, errors = process.communicate(timeout=_PATIENCE)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    return process.returncode, errors


class Cluster:
    """A scheduler of Dask at a port that is kept, and two workers, each a process."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self._port}"
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, workers: int = 2) -> None:
        """Start the scheduler and the workers, which wait for it."""
        place = ("--host", "127.0.0.1", "--port", str(self._port))
        self._begin("dask_scheduler", *place, "--no-dashboard", "--dashboard-address", ":0")
        for _ in range(workers):
            self._begin(
                *("dask_worker", self.address, "--nthreads", "1", "--memory-limit", "0"),
                *("--no-nanny", "--no-dashboard"),
            )

    def _begin(self, module: str, *arguments: str) -> None:
        command = [sys.executable, "-m", f"distributed.cli.{module}", *arguments]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._processes.append(subprocess.Popen(command, env=_environment(), **quiet))

    def kill_scheduler(self) -> None:
        """Kill the scheduler."""
        self._processes[0].kill()

    def end(self) -> None:
        """Kill all processes."""
        for process in self._processes:
            process.kill()
            process.wait()
        self._processes.clear()


# --- disks ----------------------------------------------------------------------------------------


class Mounted:
    """A file system in memory, of a given number of KiB."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        path.mkdir()
        self.problem = self._mount("-t", "tmpfs", "-o", f"size={size}k", "tmpfs")

    def grow(self, size: int) -> None:
        """Give it another size."""
        assert not self._mount("-o", f"remount,size={size}k")

    def unmount(self) -> None:
        """Take it away, with what is in it."""
        subprocess.run(["umount", "--lazy", self.path], check=True)

    def _mount(self, *arguments: str) -> str:
        """Return what the system says against it, or nothing."""
        command = ["mount", *arguments, self.path]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stderr.strip() if done.returncode else ""
