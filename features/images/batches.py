"""Image files decoded by workers, in batches of one size, ahead of what consumes them."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffusion.validation import check_integer

from .reading import UnreadableImageError, read_image

# Batches hold at most so many pixels, whatever their number of images.
_BATCH_PIXELS = 1 << 22
# Decoded images that wait, for each worker: enough that none ever waits for the network.
_AHEAD = 4
_MOST_WORKERS = 8

T = TypeVar("T")
R = TypeVar("R")


class Item(NamedTuple):
    """An image file as it was found, and the size that it is resized to."""

    file: str
    bytes: int
    modified: int
    height: int
    width: int


class Batch(NamedTuple):
    """Numbers of images of one size, in the order of their list."""

    height: int
    width: int
    numbers: tuple[int, ...]


def check_workers(workers: int | None) -> int:
    """Return the number of threads that decode; by default one a core, at most eight."""
    if workers is None:
        return max(1, min(len(os.sched_getaffinity(0)), _MOST_WORKERS))
    return check_integer(workers, "workers", low=1)


def plan(items: Sequence[Item], batch_size: int) -> list[Batch]:
    """Group images by size, largest first, and cut the groups into batches.

    The largest come first so that memory, where it does not suffice, runs out at once.
    """
    sizes: dict[tuple[int, int], list[int]] = {}
    for number, item in enumerate(items):
        sizes.setdefault((item.height, item.width), []).append(number)
    batches = []
    for height, width in sorted(sizes, key=lambda size: (-size[0] * size[1], size)):
        numbers = sizes[height, width]
        count = max(1, min(batch_size, _BATCH_PIXELS // (height * width)))
        for start in range(0, len(numbers), count):
            batches.append(Batch(height, width, tuple(numbers[start : start + count])))
    return batches


class Decoded(NamedTuple):
    """A batch of which some images may have failed."""

    batch: Batch
    images: Tensor | None  # (b, h, w, 3), uint8, of those that could be read; None without any
    failed: dict[int, str]  # the reason, by the image's number


def decode(
    folder: str, items: Sequence[Item], batches: Sequence[Batch], workers: int
) -> Generator[Decoded, None, None]:
    """Decode batches with threads, in order, a little ahead of the consumer."""

    def read(task: tuple[int, int, int]) -> NDArray[np.uint8] | str:
        number, *size = task
        path = os.path.join(folder, items[number].file)
        try:
            return read_image(path, (size[0], size[1]))
        except UnreadableImageError as error:
            return str(error).removeprefix(f"{path}: ")

    tasks = ([(n, b.height, b.width) for n in b.numbers] for b in batches)
    with closing(ahead(read, tasks, workers)) as results:
        for batch, decoded in zip(batches, results, strict=True):
            arrays = [result for result in decoded if not isinstance(result, str)]
            failed = {
                number: result
                for number, result in zip(batch.numbers, decoded, strict=True)
                if isinstance(result, str)
            }
            yield Decoded(batch, torch.from_numpy(np.stack(arrays)) if arrays else None, failed)


def ahead(
    call: Callable[[T], R], batches: Iterable[Sequence[T]], workers: int
) -> Generator[list[R], None, None]:
    """Call a function on every task of every batch with threads, ahead of the consumer.

    Threads, since Pillow decodes and resizes without the interpreter's lock.
    """
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        waiting: deque[list[Future[R]]] = deque()
        coming = iter(batches)
        left = 0  # tasks that wait

        def submit() -> bool:
            nonlocal left
            batch = next(coming, None)
            if batch is None:
                return False
            waiting.append([pool.submit(call, task) for task in batch])
            left += len(waiting[-1])
            return True

        try:
            while left < _AHEAD * workers and submit():
                pass
            while waiting:
                results = [future.result() for future in waiting.popleft()]
                left -= len(results)
                # One batch more than the one that the consumer is about to work on, at least.
                while (not waiting or left < _AHEAD * workers) and submit():
                    pass
                yield results
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def in_order(
    call: Callable[[T], R], values: Sequence[T], workers: int, *, at_once: int = 1024
) -> Iterator[R]:
    """Call a function with threads, yielding the results in order."""
    with ThreadPoolExecutor(workers) as pool:
        coming = iter(values)
        while part := list(islice(coming, at_once)):
            yield from pool.map(call, part)
