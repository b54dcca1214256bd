"""Seconds, memory, bytes on disk and precision, as the benchmarks measure them."""

from __future__ import annotations

import gc
import platform
import re
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import psutil
from numpy.typing import ArrayLike, NDArray

import diffusion
from diffusion import metrics

Result = TypeVar("Result")


def timed(work: Callable[[], Result]) -> tuple[Result, float]:
    """Return the result of some work and the seconds that it takes."""
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def seconds_of(work: Callable[[], Any], repeats: int = 1) -> float:
    """Return the median of the seconds that some work takes."""
    return statistics.median(timed(work)[1] for _ in range(repeats))


def seconds_each(search: Callable[[int], Any], queries: Iterable[int]) -> list[float]:
    """Return the seconds of a search for each query, asked one at a time."""
    return [timed(lambda: search(query))[1] for query in queries]  # noqa: B023


def processor() -> str:
    """Return what kind of machine this is, as far as the system says."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    found = re.search(r"model name\s*: (.+)", text)
    return found[1] if found else platform.processor() or platform.machine()


class PeakMemory:
    """Watches the resident memory of this process within a `with` block.

    Attributes
    ----------
    peak : int
        The highest value above that at the start of the block, in bytes.
    """

    def __enter__(self) -> PeakMemory:
        gc.collect()
        self._process = psutil.Process()
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

    def _resident(self) -> int:
        return int(self._process.memory_info().rss)


def index_bytes(fitted: diffusion.Reranker | diffusion.RegionalReranker) -> int:
    """Return the bytes of the arrays of a saved index."""
    with tempfile.TemporaryDirectory() as folder:
        fitted.save(f"{folder}/index")
        return bytes_of_arrays(Path(folder))


def bytes_of_arrays(folder: Path) -> int:
    """Return the bytes of all `.npy` files below a directory."""
    return sum(file.stat().st_size for file in folder.rglob("*.npy"))


def precision_of(
    ids: NDArray[Any], gallery_labels: ArrayLike, query_labels: ArrayLike
) -> NDArray[np.float64]:
    """Return the average precision of each query; an item of the query's class is relevant."""
    hits = metrics.hits_from_labels(ids, gallery_labels, query_labels)
    return metrics.average_precision(*hits)


def percent(values: NDArray[np.float64]) -> float:
    """Return the mean in percent with one decimal, over the queries that have one (not NaN)."""
    return round(100 * float(np.nanmean(values)), 1)
