"""Seconds and bytes of a piece of work."""

from __future__ import annotations

import gc
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def seconds_of(work: Callable[[], Any], repeats: int = 1) -> float:
    """Return the median seconds that some work takes."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


class PeakMemory:
    """Watches this process's resident memory; `peak` is the most above that at the start, bytes."""

    def __enter__(self) -> PeakMemory:
        gc.collect()
        self._stop = threading.Event()
        self._start = self._resident()
        self.peak = 0
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.005):
            self.peak = max(self.peak, self._resident() - self._start)

    @staticmethod
    def _resident() -> int:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * 4096
