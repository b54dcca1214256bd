"""Batches of image files of equal size, decoded by threads ahead of their consumer."""

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

from diffusion.errors import DiffusionError
from diffusion.storage import sha256_of
from diffusion.validation import check_integer

from .reading import UnreadableImageError, read_image

# The most pixels in a batch, whatever the batch size.
_BATCH_PIXELS = 1 << 22
# Decoded images that may wait per worker, enough to keep every worker busy.
_AHEAD = 4
_MOST_WORKERS = 8

T = TypeVar("T")
R = TypeVar("R")


class Item(NamedTuple):
    """An image file: its name, size in bytes and modification time, and the size to resize to."""

    file: str
    bytes: int
    modified: int
    height: int
    width: int


class Batch(NamedTuple):
    """Positions in a list of images that are resized to the same height and width."""

    height: int
    width: int
    numbers: tuple[int, ...]


def check_workers(workers: int | None) -> int:
    """Return the number of decoding threads, by default one per core and at most eight."""
    if workers is None:
        return max(1, min(len(os.sched_getaffinity(0)), _MOST_WORKERS))
    return check_integer(workers, "workers", low=1)


def plan(items: Sequence[Item], batch_size: int) -> list[Batch]:
    """Group images by size and split the groups into batches, largest images first.

    With the largest images first, a run that needs too much memory fails at its start.
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
    """A decoded batch, and the images in it that could not be read."""

    batch: Batch
    images: Tensor | None  # (b, h, w, 3), uint8, the readable ones; None if there are none
    failed: dict[int, str]  # the reason, by the position of the image
    digests: list[bytes]  # of the files of the readable ones, if they are asked for


def decode(
    folder: str,
    items: Sequence[Item],
    batches: Sequence[Batch],
    workers: int,
    *,
    digests: bool = False,
) -> Generator[Decoded, None, None]:
    """Decode batches with threads and yield them in order, a few batches ahead of the consumer.

    With `digests`, each file is read a second time, while the system still holds its content, to
    compute its SHA-256; that of a file which is altered meanwhile is 0.
    """

    def read(task: tuple[int, int, int]) -> tuple[NDArray[np.uint8], bytes] | str:
        number, *size = task
        item = items[number]
        path = os.path.join(folder, item.file)
        try:
            image = read_image(path, (size[0], size[1]))
        except UnreadableImageError as error:
            return str(error).removeprefix(f"{path}: ")
        return image, _digest_of(path, item) if digests else b""

    tasks = ([(n, b.height, b.width) for n in b.numbers] for b in batches)
    with closing(ahead(read, tasks, workers)) as results:
        for batch, decoded in zip(batches, results, strict=True):
            readable = [result for result in decoded if not isinstance(result, str)]
            failed = {
                number: result
                for number, result in zip(batch.numbers, decoded, strict=True)
                if isinstance(result, str)
            }
            images = torch.from_numpy(np.stack([r[0] for r in readable])) if readable else None
            yield Decoded(batch, images, failed, [r[1] for r in readable])


def _digest_of(path: str, item: Item) -> bytes:
    """Return the SHA-256 of a file that has just been decoded; 0 unless it is still the same."""
    try:
        digest = bytes.fromhex(sha256_of(path))
        status = os.stat(path)
    except (DiffusionError, OSError):
        return bytes(32)
    same = (status.st_size, status.st_mtime_ns) == (item.bytes, item.modified)
    return digest if same else bytes(32)


def ahead(
    call: Callable[[T], R], batches: Iterable[Sequence[T]], workers: int
) -> Generator[list[R], None, None]:
    """Call a function on every task of every batch with threads, ahead of the consumer.

    Threads suffice, since Pillow releases the interpreter's lock while it decodes and resizes.
    """
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        waiting: deque[list[Future[R]]] = deque()
        coming = iter(batches)
        left = 0  # tasks submitted and not yet yielded

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
                # At least one batch beyond the one that the consumer is about to receive.
                while (not waiting or left < _AHEAD * workers) and submit():
                    pass
                yield results
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def in_order(
    call: Callable[[T], R], values: Sequence[T], workers: int, *, at_once: int = 1024
) -> Iterator[R]:
    """Call a function on each value with threads and yield the results in order."""
    with ThreadPoolExecutor(workers) as pool:
        coming = iter(values)
        while part := list(islice(coming, at_once)):
            yield from pool.map(call, part)
