"""The service as a process of its own, and what it takes of the machine."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

# Seconds for the service to end.
_ENDING = 60


class Service:
    """A service that runs.

    Attributes
    ----------
    address : str
        Such as ``"http://127.0.0.1:8000"``.
    """

    def __init__(self, process: subprocess.Popen[str], address: str) -> None:
        self.address = address
        self._root = psutil.Process(process.pid)

    def processor_seconds(self) -> float:
        """Return the processor time that all processes of the service have taken."""
        return sum(sum(one.cpu_times()[:2]) for one in self._processes())

    def resident(self) -> float:
        """Return the resident memory of all processes of the service, in MB."""
        return sum(one.memory_info().rss for one in self._processes()) / 1e6

    def _processes(self) -> list[psutil.Process]:
        return [self._root, *self._root.children(recursive=True)]


@contextmanager
def running(index: Path, workers: int = 1) -> Iterator[Service]:
    """Run `diffusion serve` on a free port of the loopback address."""
    command = [sys.executable, "-m", "diffusion.cli", "serve", str(index), "--port", "0"]
    process = subprocess.Popen(
        [*command, "--workers", str(workers)], stdout=subprocess.PIPE, text=True
    )
    with process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip().rpartition(" ")[2]
            if not address.startswith("http://"):
                raise RuntimeError(f"the service has not started: {address!r}")
            yield Service(process, address)
        finally:
            process.terminate()
            try:
                process.wait(_ENDING)
            except subprocess.TimeoutExpired:
                process.kill()
