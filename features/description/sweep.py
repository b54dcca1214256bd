"""Resumable passes over the images of a folder.

Images are grouped by size into batches, and batches into shards. A shard is written atomically
under a name that its content determines: the files with their sizes and times, and everything else
that the outcome depends on. After an interruption, even a kill, the same pass finds the finished
shards and computes the others. Batches do not depend on what was finished before, so the outcome
is the same to the bit.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from diffusion._version import __version__
from diffusion.errors import DiffusionError
from diffusion.storage import Shards, fingerprint

from ..images.batches import Batch, Item, check_workers, decode, plan
from ..images.reading import Listing, decoder
from ..settings import RunSettings
from .recipe import Describer
from .scan import Found
from .sources import DIGEST_BYTES, plain_text

# Images per shard: an interruption costs the work on this many at most, on half of them on average.
SHARD_IMAGES = 128
# The time of a pass is estimated from so many seconds of work, and said again if it turns out to be
# longer or shorter by this factor.
_FORECAST_SECONDS, _CORRECTED = 2.0, 1.5


def settings_of(describer: Describer) -> dict[str, Any]:
    """Return what the outputs of a network depend on besides the images, their last bits apart.

    The path of the weights is not part of it; their checksum is.
    """
    recipe = describer.recipe.as_dict()
    recipe["network"]["weights"] = None
    return {
        "recipe": recipe,
        "device": describer.device.type,
        "versions": [__version__, torch.__version__, decoder()],
    }


def _last_bits(run: RunSettings) -> dict[str, Any]:
    """Return what only the last bits of a network's outputs depend on, but for the batches."""
    return {"threads": torch.get_num_threads(), "batch_size": run.batch_size}


class Shard(NamedTuple):
    """Batches that are written together, and the fingerprint of their content to the last bit."""

    batches: list[Batch]
    name: str


class Content(NamedTuple):
    """The content of a shard: the images that were read, the others, and the results.

    Without an image that could be read there are no arrays.
    """

    numbers: list[int]
    failed: dict[int, str]
    arrays: dict[str, NDArray[Any]]


class _Forecast:
    """An estimate of the time of a pass, which grows with the number of pixels.

    Parameters
    ----------
    batches : sequence of Batch
    place : tuple of int
        The number of the pass, from 1, and the number of passes.
    """

    def __init__(self, batches: Sequence[Batch], place: tuple[int, int]) -> None:
        self._pixels = [batch.height * batch.width * len(batch.numbers) for batch in batches]
        self._images = sum(len(batch.numbers) for batch in batches)
        self._place, self._done = place, 0
        self._said: list[float] = []
        self._began = self._first = time.monotonic()

    def after_batch(self) -> str:
        """Return what to say after a batch: the time after two seconds of work, otherwise nothing.

        The first batch may take longer, because the network and the decoders are still starting.
        What was said after it is corrected if the batches that follow take another time.
        """
        now, (number, passes) = time.monotonic(), self._place
        self._done += 1
        if self._done == 1:
            self._first = now
        start, since = (0, self._began) if self._done == 1 else (1, self._first)
        enough = now - since >= _FORECAST_SECONDS and len(self._said) < 2
        if passes == 1 or not enough or self._done == len(self._pixels):
            return ""
        seconds = (now - since) * sum(self._pixels) / sum(self._pixels[start : self._done])
        if self._said and 1 / _CORRECTED < seconds / self._said[0] < _CORRECTED:
            return ""
        self._said.append(seconds)
        which = f"each of {passes} passes" if number == 1 else f"pass {number} of {passes}"
        return f"about {in_words(seconds)} for {which}, {self._images} images"


class Sweep:
    """One pass over images.

    Parameters
    ----------
    folder : str
    items : sequence of Item
    finished : Shards
        The shards on disk.
    settings : JSON value
        Everything that the outcome depends on, except the images.
    run : RunSettings
    numbers : sequence of int, optional
        The positions of the items to pass over; by default all of them.
    """

    def __init__(
        self,
        folder: str,
        items: Sequence[Item],
        finished: Shards,
        settings: Any,
        run: RunSettings,
        numbers: Sequence[int] | None = None,
    ) -> None:
        self.folder, self.items, self.finished = folder, items, finished
        self.numbers = range(len(items)) if numbers is None else numbers
        self.workers, self.progress = check_workers(run.workers), run.progress
        self.shards = list(self._shards([settings, _last_bits(run)], run.batch_size))

    @property
    def names(self) -> list[str]:
        """Fingerprints of the outcome to the last bit, shard by shard."""
        return [shard.name for shard in self.shards]

    def run(
        self,
        work: Callable[[Tensor, list[int]], dict[str, NDArray[Any]]],
        *,
        name: str,
        digests: bool = False,
        whole: bool = False,
        place: tuple[int, int] = (1, 1),
    ) -> None:
        """Compute and write the shards that are missing.

        Parameters
        ----------
        work : callable
            Takes images (b, h, w, 3), uint8, and their numbers; returns arrays by name, the first
            of them with one row per image. The arrays of the batches of a shard are concatenated.
        name : str
            Label of the progress bar.
        digests : bool, default False
            Add an array "digests", the SHA-256 of the file of each image.
        whole : bool, default False
            Raise if an image cannot be read, instead of recording it as failed.
        place : tuple of int, default (1, 1)
            The number of this pass, from 1, and the number of passes. If there are several, the
            time of each is said once it is known, since the progress bar shows that of one.
        """
        missing = [shard for shard in self.shards if not self._is_finished(shard)]
        batches = [batch for shard in missing for batch in shard.batches]
        left = sum(len(batch.numbers) for batch in batches)
        total = len(self.numbers)
        with (
            tqdm(
                total=total,
                initial=total - left,
                desc=name,
                unit="image",
                disable=not self.progress,
            ) as bar,
            contextlib.closing(
                decode(self.folder, self.items, batches, self.workers, digests=digests)
            ) as decoded,
        ):
            forecast = _Forecast(batches, place)
            for shard in missing:
                parts: list[dict[str, NDArray[Any]]] = []
                failed: dict[int, str] = {}
                for part in islice(decoded, len(shard.batches)):
                    failed.update(part.failed)
                    if whole and failed:
                        number, reason = next(iter(failed.items()))
                        raise DiffusionError(
                            f"{self.items[number].file}: altered during the run ({reason})"
                        )
                    if part.images is not None:
                        numbers = [n for n in part.batch.numbers if n not in part.failed]
                        arrays = work(part.images, numbers)
                        if digests:
                            content = np.frombuffer(b"".join(part.digests), np.uint8)
                            arrays["digests"] = content.reshape(len(numbers), DIGEST_BYTES)
                        parts.append(arrays)
                    bar.update(len(part.batch.numbers))
                    if self.progress and (line := forecast.after_batch()):
                        bar.write(f"{name}: {line}", file=sys.stderr)
                self._write(shard, parts, failed)

    def can_read(self, numbers: Sequence[int]) -> bool:
        """Return whether any of some images can be read now: the disk may have failed before."""
        batches = [Batch(*self.items[n][3:], (n,)) for n in numbers]
        with contextlib.closing(decode(self.folder, self.items, batches, self.workers)) as decoded:
            return any(not part.failed for part in decoded)

    def contents(self) -> Iterator[Content]:
        """Yield the content of each shard in turn."""
        for shard in self.shards:
            content = self._read(shard)
            if content is None:
                file = self.finished.file(shard.name)
                raise DiffusionError(f"{file}: damaged after it was written")
            yield content

    def _shards(self, settings: Any, batch_size: int) -> Iterator[Shard]:
        batches: list[Batch] = []
        count = 0
        planned = plan([self.items[n] for n in self.numbers], batch_size)
        for number, batch in enumerate(planned, 1):
            batches.append(batch._replace(numbers=tuple(self.numbers[n] for n in batch.numbers)))
            count += len(batch.numbers)
            if count >= SHARD_IMAGES or number == len(planned):
                items = [[self.items[n] for n in batch.numbers] for batch in batches]
                yield Shard(batches, fingerprint([settings, items]))
                batches, count = [], 0

    def _write(
        self, shard: Shard, parts: list[dict[str, NDArray[Any]]], failed: dict[int, str]
    ) -> None:
        names = parts[0] if parts else ()
        arrays = {name: np.concatenate([part[name] for part in parts]) for name in names}
        self.finished.write(shard.name, arrays, failed=failed)

    def _is_finished(self, shard: Shard) -> bool:
        content = self._read(shard)
        return content is not None and not self.can_read(list(content.failed))

    def _read(self, shard: Shard) -> Content | None:
        """Return the content of a finished shard; None if there is none, or it is damaged."""
        found = self.finished.read(shard.name)
        if found is None:
            return None
        failed = {int(number): reason for number, reason in found.meta.get("failed", {}).items()}
        numbers = [n for batch in shard.batches for n in batch.numbers if n not in failed]
        if len(next(iter(found.arrays.values()), ())) != len(numbers):
            return None
        return Content(numbers, failed, found.arrays)


# --- what is written ------------------------------------------------------------------------------


def passed_over(listing: Listing) -> dict[str, Any]:
    """Return what a manifest says of the files of a folder that are no images, and of its links."""
    links = [plain_text(link) for link in listing.links]
    others = {plain_text(suffix): count for suffix, count in listing.others.items()}
    return {"passed_over": {"files": others, "linked_folders": links}}


def about_run(skipped: Mapping[str, str], found: Found, describer: Describer) -> dict[str, Any]:
    """Return what the manifest of every run contains: the recipe, the skipped images, the machine.

    Parameters
    ----------
    skipped : mapping
        The images that could not be read, with the reason.
    found : Found
    describer : Describer
    """
    return {
        "recipe": describer.recipe.as_dict(),
        "skipped": [
            {"file": plain_text(f), "reason": plain_text(r)} for f, r in sorted(skipped.items())
        ],
        **passed_over(found.listing),
        "torch": torch.__version__,
        "device": describer.device.type,
    }


def in_words(seconds: float) -> str:
    """Return a time in words, as roughly as it is known.

    >>> in_words(100), in_words(100 * 60)
    ('2 minutes', '2 hours')
    """
    for unit, length in (("hour", 3600), ("minute", 60), ("second", 1)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.0f} {unit}s"
    return "a second"


def places(first: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return `counts[i]` consecutive numbers from `first[i]` on, for every i in turn."""
    inside = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(first, counts) + inside


def whitened(describer: Describer, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return descriptors with the whitening of the describer applied, if it has one."""
    return vectors if describer.whitening is None else describer.whitening.apply(vectors)
