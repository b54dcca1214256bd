"""Passes over the images of a folder, resumable.

Images are grouped by size into batches, batches into shards. A shard is written whole under a
name that its content determines: the files with their sizes and times, and everything that the
outcome depends on. The same pass after an interruption, even a kill, finds the shards that are
there and computes the others; since batches do not depend on what was there before, the outcome is
the same to the bit.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from diffusion._version import __version__
from diffusion.errors import DiffusionError
from diffusion.storage import DAMAGED, replacing
from diffusion.storage.files import create_array
from diffusion.storage.lock import lock_directory, unlock

from ..images.batches import Batch, Item, check_workers, decode, in_order, plan
from ..images.reading import UnreadableImageError, decoder, quiet, read_size
from ..settings import RunSettings
from .descriptors import FORMAT, MANIFEST, VERSION, digest
from .recipe import Describer
from .target import PARTIAL, is_aside
from .whitening import Whitening

# Images a shard: what an interruption costs at most, and half of it on average.
SHARD_IMAGES = 128


class Found(NamedTuple):
    """The images of a folder: those that can be worked on, and the others with the reason."""

    items: list[Item]
    sizes: list[tuple[int, int]]  # height and width of each item as the file has it, upright
    skipped: dict[str, str]

    def refuse_nothing(self, folder: str) -> None:
        """Raise where there is no image to work on."""
        if not self.items:
            file, reason = next(iter(self.skipped.items()))
            raise DiffusionError(
                f"{folder}: expected an image that can be read; none of {len(self.skipped)} can, "
                f"{file}: {reason}"
            )


def scan(folder: str, files: Sequence[str], describer: Describer, run: RunSettings) -> Found:
    """Read the size of every image, and note those that have none."""

    def measure(file: str) -> tuple[Item, tuple[int, int]] | str:
        path = os.path.join(folder, file)
        if "\n" in file or "\r" in file:
            return "its name holds a line break"
        try:
            size = read_size(path)
            status = os.stat(path)
            item = Item(file, status.st_size, status.st_mtime_ns, *describer.fitted(size))
            return item, size
        except UnreadableImageError as error:
            return str(error).removeprefix(f"{path}: ")
        except OSError as error:
            return error.strerror or str(error)

    outcome, workers = Found([], [], {}), check_workers(run.workers)
    with tqdm(total=len(files), desc="scan", unit="image", disable=not run.progress) as bar:
        for file, found in zip(files, in_order(measure, files, workers), strict=True):
            if isinstance(found, str):
                outcome.skipped[file] = found
            else:
                outcome.items.append(found[0])
                outcome.sizes.append(found[1])
            bar.update()
    return outcome


def settings_of(describer: Describer, batch_size: int) -> dict[str, Any]:
    """Return what the outputs of a network depend on besides the images.

    The path of the weights is not part of it; their checksum is.
    """
    recipe = describer.recipe.as_dict()
    recipe["network"]["weights"] = None
    return {
        "recipe": recipe,
        "batch_size": batch_size,
        "device": describer.device.type,
        "versions": [__version__, torch.__version__, decoder()],
    }


def _machine() -> dict[str, Any]:
    """Return what the last bits of a network's numbers depend on, and nothing more."""
    return {"threads": torch.get_num_threads()}


def failed_before(manifest: Mapping[str, Any], found: Found) -> list[int]:
    """Return the numbers of the images that a complete run could not read."""
    before = {entry["file"] for entry in manifest["skipped"]}
    return [n for n, item in enumerate(found.items) if plain_text(item.file) in before]


class Shard(NamedTuple):
    """Batches that are written together, what determines them, and the name of their file.

    The name says the machine's part too: shards whose last bits would differ are not mixed. A
    finished run is the same run on any machine.
    """

    batches: list[Batch]
    key: str
    name: str


class Content(NamedTuple):
    """What is known of the images of a shard: without arrays where none could be read."""

    numbers: list[int]
    failed: dict[int, str]
    arrays: dict[str, NDArray[Any]]


class Sweep:
    """One pass over images.

    Parameters
    ----------
    folder : str
    items : sequence of Item
    partial : Path
        Folder for the shards.
    settings : JSON value
        Everything that the outcome depends on, but for the images.
    run : RunSettings
    """

    def __init__(
        self, folder: str, items: Sequence[Item], partial: Path, settings: Any, run: RunSettings
    ) -> None:
        self.folder, self.items, self.partial = folder, items, partial
        self.workers, self.progress = check_workers(run.workers), run.progress
        self.shards = list(self._shards(settings, run.batch_size))

    @property
    def keys(self) -> list[str]:
        """What determines the outcome, shard by shard."""
        return [shard.key for shard in self.shards]

    @property
    def names(self) -> list[str]:
        """What determines the outcome to the last bit, shard by shard."""
        return [shard.name for shard in self.shards]

    def run(
        self,
        work: Callable[[Tensor, list[int]], dict[str, NDArray[Any]]],
        *,
        name: str,
        whole: bool = False,
    ) -> None:
        """Compute and write the shards that are not there.

        Parameters
        ----------
        work : callable
            Takes images (b, h, w, 3), uint8, and their numbers; returns arrays by name, the first
            of them with a row an image. Those of the batches of a shard are joined.
        name : str
            Of the progress bar.
        whole : bool, default False
            Raise where an image cannot be read, in place of noting it.
        """
        self.partial.mkdir(exist_ok=True)
        missing = [shard for shard in self.shards if not self._is_finished(shard)]
        batches = [batch for shard in missing for batch in shard.batches]
        left = sum(len(batch.numbers) for batch in batches)
        total = len(self.items)
        with (
            tqdm(
                total=total,
                initial=total - left,
                desc=name,
                unit="image",
                disable=not self.progress,
            ) as bar,
            contextlib.closing(decode(self.folder, self.items, batches, self.workers)) as decoded,
        ):
            for shard in missing:
                parts: list[dict[str, NDArray[Any]]] = []
                failed: dict[int, str] = {}
                for part in islice(decoded, len(shard.batches)):
                    failed.update(part.failed)
                    if whole and failed:
                        number, reason = next(iter(failed.items()))
                        raise DiffusionError(
                            f"{self.items[number].file}: altered while it was worked on ({reason})"
                        )
                    if part.images is not None:
                        numbers = [n for n in part.batch.numbers if n not in part.failed]
                        parts.append(work(part.images, numbers))
                    bar.update(len(part.batch.numbers))
                self._write(shard, parts, failed)

    def can_read(self, numbers: Sequence[int]) -> bool:
        """Whether one of some images can be read: what failed may have been the disk's fault."""
        batches = [Batch(*self.items[n][3:], (n,)) for n in numbers]
        with contextlib.closing(decode(self.folder, self.items, batches, self.workers)) as decoded:
            return any(not part.failed for part in decoded)

    def contents(self) -> Iterator[Content]:
        """Read the shards one after the other."""
        for shard in self.shards:
            content = self._read(shard)
            if content is None:
                raise DiffusionError(f"{self._path(shard)}: damaged since it was written")
            yield content

    def _shards(self, settings: Any, batch_size: int) -> Iterator[Shard]:
        batches: list[Batch] = []
        count = 0
        planned, machine = plan(self.items, batch_size), _machine()
        for number, batch in enumerate(planned, 1):
            batches.append(batch)
            count += len(batch.numbers)
            if count >= SHARD_IMAGES or number == len(planned):
                items = [[self.items[n] for n in batch.numbers] for batch in batches]
                key = fingerprint([settings, items])
                yield Shard(batches, key, fingerprint([key, machine]))
                batches, count = [], 0

    def _path(self, shard: Shard) -> Path:
        return self.partial / f"{shard.name}.npz"

    def _write(
        self, shard: Shard, parts: list[dict[str, NDArray[Any]]], failed: dict[int, str]
    ) -> None:
        names = parts[0] if parts else ()
        arrays = {name: np.concatenate([part[name] for part in parts]) for name in names}
        reasons = np.frombuffer(json.dumps(failed).encode(), np.uint8)
        with replacing(self._path(shard)) as file:
            np.savez(file, failed=reasons, **arrays)  # type: ignore[arg-type]

    def _is_finished(self, shard: Shard) -> bool:
        content = self._read(shard)
        return content is not None and not self.can_read(list(content.failed))

    def _read(self, shard: Shard) -> Content | None:
        """Return what a finished shard holds; None without it."""
        try:
            with (
                open(self._path(shard), "rb") as stream,
                np.load(stream, allow_pickle=False) as file,
            ):
                failed = {int(n): text for n, text in json.loads(file["failed"].tobytes()).items()}
                arrays = {name: file[name] for name in file.files if name != "failed"}
        except FileNotFoundError:
            return None
        except (OSError, *DAMAGED):
            return None  # damaged after it was written: computed again
        numbers = [n for batch in shard.batches for n in batch.numbers if n not in failed]
        if len(next(iter(arrays.values()), ())) != len(numbers):
            return None
        return Content(numbers, failed, arrays)


# --- the folder that is written -------------------------------------------------------------------


@contextlib.contextmanager
def claimed(out: Path, kind: str = "extraction") -> Iterator[None]:
    """Hold the lock of a folder, making it; what fails in it is one clear error."""
    try:
        lock = lock_directory(out, wait=False)
    except BlockingIOError:
        raise DiffusionError(f"{out}: another {kind} is writing here") from None
    except OSError as error:
        raise DiffusionError(f"{out}: cannot be written ({error.strerror})") from None
    try:
        with quiet():
            yield
    except OSError as error:
        raise DiffusionError(f"{out}: cannot be written ({error.strerror or error})") from None
    finally:
        unlock(lock)


@contextlib.contextmanager
def writing(path: Path, shape: tuple[int, ...], dtype: type) -> Iterator[NDArray[Any]]:
    """Open an .npy for writing row by row, which takes its place once it is whole."""
    aside = path.with_name(f".{path.name}.tmp")
    try:
        array = create_array(aside, dtype, shape)
        yield array
        array.flush()
        with open(aside, "rb") as file:
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def write_files(path: Path, names: Sequence[str]) -> None:
    """Write file names, one a line."""
    with replacing(path) as file:
        file.write("".join(f"{name}\n" for name in names).encode("utf-8", "surrogateescape"))


def sweep_up(out: Path, ours: Collection[str], written: Collection[str]) -> None:
    """Remove what an earlier run wrote and this one did not, and what was being written."""
    for name in set(ours) - {*written, PARTIAL}:
        (out / name).unlink(missing_ok=True)
    for entry in out.iterdir():
        if is_aside(entry.name, ours):
            entry.unlink()


def write_manifest(
    out: Path,
    about: Mapping[str, Any],
    skipped: Mapping[str, str],
    describer: Describer,
    written: Collection[str],
) -> None:
    """Write what makes the folder complete.

    Parameters
    ----------
    out : Path
    about : mapping
        What is particular to its kind.
    skipped : mapping
        The images that could not be read, with the reason.
    describer : Describer
    written : collection of str
        The other files, for their sizes and checksums.
    """
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        **about,
        "skipped": [
            {"file": plain_text(f), "reason": plain_text(r)} for f, r in sorted(skipped.items())
        ],
        "torch": torch.__version__,
        "device": describer.device.type,
        "files": {
            name: {"bytes": (out / name).stat().st_size, "sha256": digest(out / name)}
            for name in sorted(written)
        },
    }
    with replacing(out / MANIFEST) as file:
        file.write(json.dumps(manifest, indent=1, sort_keys=True).encode())


def places(first: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return `counts[i]` consecutive numbers from `first[i]` on, for every i in turn."""
    inside = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(first, counts) + inside


def whitened(describer: Describer, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return descriptors as they are written."""
    return vectors if describer.whitening is None else describer.whitening.apply(vectors)


def digest_of(whitening: Whitening) -> str:
    """Return the SHA-256 of a whitening's numbers."""
    joined = np.concatenate([whitening.mean[None], whitening.projection])
    return hashlib.sha256(np.ascontiguousarray(joined).tobytes()).hexdigest()


def fingerprint(content: Any) -> str:
    """Return the SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def plain_text(text: str) -> str:
    """Return text without what stands for undecodable bytes of a file name."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
