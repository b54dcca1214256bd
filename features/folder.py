"""A folder of photos into a folder of descriptors, resumable.

Images are grouped by size into batches, batches into shards. A shard is written whole under a
name that its content determines: the files with their sizes and times, and everything that the
descriptors depend on. The same command after an interruption, even a kill, finds the shards that
are there and computes the others; since batches do not depend on what was there before, the
outcome is the same to the bit. At the end the shards become arrays, and the manifest is written
last.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from diffusion._version import __version__
from diffusion.errors import DiffusionError
from diffusion.storage import (
    DAMAGED,
    as_path,
    create_array,
    lock_directory,
    replacing,
    unlock,
)
from diffusion.validation import check_integer

from . import collection
from .collection import (
    DESCRIPTORS,
    FILES,
    FORMAT,
    MANIFEST,
    REGION_BOXES,
    REGION_IMAGES,
    REGIONAL,
    VERSION,
    WHITENING,
    Descriptors,
    open_descriptors,
)
from .images import UnreadableImageError, decoder, find_images, quiet, read_size
from .loading import Batch, Item, check_workers, decode, in_order, plan
from .recipe import DEFAULT_SIZE, Describer, make_recipe
from .target import OURS, PARTIAL, check_target, is_aside
from .whitening import Whitening, load_whitening

# Images a shard: what an interruption costs at most, and half of it on average.
_SHARD_IMAGES = 128


def extract_folder(
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    backbone: str | None = None,
    weights: str | os.PathLike[str] | None = None,
    pooling: str | None = None,
    size: int = DEFAULT_SIZE,
    square: bool = False,
    scales: Sequence[float] = (1.0,),
    regions: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    whitening: str | os.PathLike[str] | Whitening | None = None,
    batch_size: int = 32,
    workers: int | None = None,
    device: str | None = None,
    progress: bool = False,
) -> Descriptors:
    """Describe every JPEG and PNG image of a folder.

    An image that cannot be read is skipped; the manifest's `skipped` names it with the reason.
    Interrupted, at whatever moment, the same call goes on where it was and writes what it would
    have written undisturbed. A complete extraction of the same files is not repeated, unless an
    image that it skipped can be read now.

    Parameters
    ----------
    folder : path-like
        Read with the folders in it.
    out : path-like
        A folder that is an extraction, is empty or does not exist. It receives
        `descriptors.npy`, `files.txt`, one path a row, and `manifest.json`; with `regions`
        `regions.npy`, `region_images.npy`, `region_boxes.npy`; with `whitening` a copy of it.
    backbone : str, optional
        As `features.backbone` takes it. Without it, `weights` is a checkpoint that names its
        network: of cnnimageretrieval-pytorch, or of `features train`.
    weights : path-like, optional
    pooling : str, optional
        As `features.RetrievalNetwork` takes it by name; by default the checkpoint's, or "gem".
    size : int >= 1, default 512
        The longer side of larger images becomes this, the aspect ratio stays. Sides are rounded
        to those that the network takes.
    square : bool, default False
        Squash images to a square of that side.
    scales : sequence of float, default (1.0,)
        `features.MULTI_SCALE` are the usual three.
    regions : {"rmac", "grid"}, optional
        Describe these regions of each image too.
    mean, std : three float, optional
        Of the images in [0, 1], by channel, in place of the network's: MobileNetV2 as torchvision
        trained it wants `features.backbones.IMAGENET_MEAN` and `IMAGENET_STD`.
    whitening : path-like or Whitening, optional
        Applied to all descriptors.
    batch_size : int >= 1, default 32
        At most so many images at a time; fewer where they are large.
    workers : int >= 1, optional
        Threads that decode; by default one a core, at most eight.
    device : str, optional
        By default a GPU where there is one.
    progress : bool, default False
        Show a bar on standard error.

    Returns
    -------
    Descriptors

    Raises
    ------
    DiffusionError
        If an argument is not as described, no image can be read, or `out` holds anything else.
    """
    recipe = make_recipe(
        backbone,
        weights,
        pooling=pooling,
        size=size,
        square=square,
        scales=scales,
        regions=regions,
        mean=mean,
        std=std,
    )
    batch_size = check_integer(batch_size, "batch_size", low=1)
    workers = check_workers(workers)
    white = whitening if isinstance(whitening, Whitening | None) else load_whitening(whitening)
    files = find_images(folder)
    out = as_path(out, "out")
    check_target(out)
    describer = Describer(recipe, whitening=white, device=device)
    try:
        lock = lock_directory(out, wait=False)
    except BlockingIOError:
        raise DiffusionError(f"{out}: another extraction is writing here") from None
    except OSError as error:
        raise DiffusionError(f"{out}: cannot be written ({error.strerror})") from None
    try:
        with quiet():
            work = _Work(os.fspath(folder), out, describer, batch_size, workers, progress)
            work.scan(files)
            return work.run()
    except OSError as error:
        raise DiffusionError(f"{out}: cannot be written ({error.strerror or error})") from None
    finally:
        unlock(lock)


class _Shard(NamedTuple):
    """Batches that are written together, and the name of their file."""

    batches: list[Batch]
    key: str


class _Work:
    """One extraction, from the files' sizes to the manifest."""

    def __init__(
        self,
        folder: str,
        out: Path,
        describer: Describer,
        batch_size: int,
        workers: int,
        progress: bool,
    ) -> None:
        self.folder, self.out, self.describer = folder, out, describer
        self.batch_size, self.workers, self.progress = batch_size, workers, progress
        self.items: list[Item] = []
        self.skipped: dict[str, str] = {}
        # What the numbers depend on beside the images. Where the weights lie is not part of it.
        self.settings = {
            **describer.recipe.as_dict(),
            "weights": None,
            "batch_size": batch_size,
            "device": describer.device.type,
            "versions": [__version__, torch.__version__, decoder()],
        }

    def scan(self, files: Sequence[str]) -> None:
        """Read the size of every image, and note those that have none."""

        def measure(file: str) -> Item | str:
            path = os.path.join(self.folder, file)
            if "\n" in file or "\r" in file:
                return "its name holds a line break"
            try:
                size = self.describer.fitted(read_size(path))
                status = os.stat(path)
                return Item(file, status.st_size, status.st_mtime_ns, *size)
            except UnreadableImageError as error:
                return str(error).removeprefix(f"{path}: ")
            except OSError as error:
                return error.strerror or str(error)

        with tqdm(total=len(files), desc="scan", unit="image", disable=not self.progress) as bar:
            for file, found in zip(files, in_order(measure, files, self.workers), strict=True):
                if isinstance(found, str):
                    self.skipped[file] = found
                else:
                    self.items.append(found)
                bar.update()

    def run(self) -> Descriptors:
        """Describe what is not described yet, and put everything together."""
        shards = list(self._shards())
        whitening = self.describer.whitening
        white = [] if whitening is None else [_digest_of(whitening)]
        fingerprint = _hash([self.settings, white, [s.key for s in shards], self.skipped])
        partial = self.out / PARTIAL
        with contextlib.suppress(DiffusionError):
            complete = open_descriptors(self.out)
            if complete.manifest.get("fingerprint") == fingerprint:
                before = {entry["file"] for entry in complete.manifest["skipped"]}
                failed = [n for n, item in enumerate(self.items) if _text(item.file) in before]
                if not self._can_read(failed):
                    shutil.rmtree(partial, ignore_errors=True)
                    return complete
        self._refuse_nothing()
        partial.mkdir(exist_ok=True)
        missing = [shard for shard in shards if not self._is_finished(shard)]
        left = sum(len(batch.numbers) for shard in missing for batch in shard.batches)
        with tqdm(
            total=len(self.items),
            initial=len(self.items) - left,
            desc="extract",
            unit="image",
            disable=not self.progress,
        ) as bar:
            self._describe(missing, bar.update)
        self._assemble(shards, fingerprint)
        shutil.rmtree(partial, ignore_errors=True)
        return open_descriptors(self.out)

    def _can_read(self, numbers: Sequence[int]) -> bool:
        """Whether one of some images can be read: what failed may have been the disk's fault."""
        batches = [Batch(*self.items[n][3:], (n,)) for n in numbers]
        with contextlib.closing(decode(self.folder, self.items, batches, self.workers)) as decoded:
            return any(not part.failed for part in decoded)

    def _refuse_nothing(self) -> None:
        if not self.items:
            file, reason = next(iter(self.skipped.items()))
            raise DiffusionError(
                f"{self.folder}: expected an image that can be read; none of "
                f"{len(self.skipped)} can, {file}: {reason}"
            )

    # --- shards ----------------------------------------------------------------------------------

    def _shards(self) -> Iterator[_Shard]:
        batches: list[Batch] = []
        count = 0
        planned = plan(self.items, self.batch_size)
        for number, batch in enumerate(planned, 1):
            batches.append(batch)
            count += len(batch.numbers)
            if count >= _SHARD_IMAGES or number == len(planned):
                items = [[self.items[n] for n in batch.numbers] for batch in batches]
                yield _Shard(batches, _hash([self.settings, items]))
                batches, count = [], 0

    def _path(self, shard: _Shard) -> Path:
        return self.out / PARTIAL / f"{shard.key}.npz"

    def _describe(self, shards: list[_Shard], advance: Callable[[int], Any]) -> None:
        batches = [batch for shard in shards for batch in shard.batches]
        with contextlib.closing(decode(self.folder, self.items, batches, self.workers)) as decoded:
            for shard in shards:
                parts: list[tuple[Any, ...]] = []
                failed: dict[int, str] = {}
                for part in islice(decoded, len(shard.batches)):
                    failed.update(part.failed)
                    if part.images is not None:
                        parts.append(self.describer.raw(part.images))
                    advance(len(part.batch.numbers))
                self._write(shard, parts, failed)

    def _write(self, shard: _Shard, parts: list[tuple[Any, ...]], failed: dict[int, str]) -> None:
        d = self.describer.network.dimension
        arrays = {
            "descriptors": np.concatenate([np.empty((0, d), np.float32), *(p[0] for p in parts)]),
            "failed": np.frombuffer(json.dumps(failed).encode(), np.uint8),
        }
        if self.describer.recipe.regions is not None:
            # Of the images of a batch all have the same regions.
            arrays |= {
                "regional": np.concatenate(
                    [np.empty((0, d), np.float32), *(p[1].reshape(-1, d) for p in parts)]
                ),
                "counts": np.concatenate(
                    [np.empty(0, np.int64), *(np.full(len(p[0]), len(p[2])) for p in parts)]
                ),
                "boxes": np.concatenate(
                    [
                        np.empty((0, 4), np.float32),
                        *(np.tile(p[2], (len(p[0]), 1)) for p in parts),
                    ]
                ),
            }
        with replacing(self._path(shard)) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    def _is_finished(self, shard: _Shard) -> bool:
        content = self._read(shard)
        return content is not None and not self._can_read([int(n) for n in content["failed"]])

    def _read(self, shard: _Shard) -> dict[str, Any] | None:
        """Return the images that a finished shard describes and failed at; None without it."""
        try:
            with (
                open(self._path(shard), "rb") as stream,
                np.load(stream, allow_pickle=False) as file,
            ):
                failed = json.loads(file["failed"].tobytes())
                numbers = [n for batch in shard.batches for n in batch.numbers]
                described = [n for n in numbers if str(n) not in failed]
                arrays = {name: file[name] for name in file.files if name != "failed"}
        except FileNotFoundError:
            return None
        except (OSError, *DAMAGED):
            return None  # damaged after it was written: computed again
        if len(arrays.get("descriptors", ())) != len(described):
            return None
        return {"numbers": described, "failed": failed, **arrays}

    # --- the whole -------------------------------------------------------------------------------

    def _assemble(self, shards: list[_Shard], fingerprint: str) -> None:
        regional = self.describer.recipe.regions is not None
        counts = np.full(len(self.items), -1, np.int64)  # regions of each image, -1 if it failed
        skipped = dict(self.skipped)
        for content in self._contents(shards):
            counts[content["numbers"]] = content["counts"] if regional else 0
            for number, reason in content["failed"].items():
                skipped[self.items[int(number)].file] = reason
        kept = np.flatnonzero(counts >= 0)
        if not len(kept):
            self.items, self.skipped = [], skipped
            self._refuse_nothing()
        row = np.cumsum(counts >= 0) - 1
        first = np.concatenate([[0], np.cumsum(counts[kept])])
        d = self.describer.dimension
        shapes: dict[str, tuple[tuple[int, ...], type]] = {
            DESCRIPTORS: ((len(kept), d), np.float32)
        }
        if regional:
            total = int(first[-1])
            shapes[REGIONAL] = ((total, d), np.float32)
            shapes[REGION_IMAGES] = ((total,), np.int64)
            shapes[REGION_BOXES] = ((total, 4), np.float32)
        with contextlib.ExitStack() as stack:
            arrays = {
                name: stack.enter_context(_writing(self.out / name, *shape))
                for name, shape in shapes.items()
            }
            for content in self._contents(shards):
                rows = row[content["numbers"]]
                if len(rows):
                    arrays[DESCRIPTORS][rows] = self._whitened(content["descriptors"])
                if regional and len(rows):
                    # The regions of an image stand together, as many as `counts` says.
                    inside = np.arange(content["counts"].sum()) - np.repeat(
                        np.cumsum(content["counts"]) - content["counts"], content["counts"]
                    )
                    places = np.repeat(first[rows], content["counts"]) + inside
                    arrays[REGIONAL][places] = self._whitened(content["regional"])
                    arrays[REGION_IMAGES][places] = np.repeat(rows, content["counts"])
                    arrays[REGION_BOXES][places] = content["boxes"]
            # Readers see the old extraction whole, none, or the new one whole.
            (self.out / MANIFEST).unlink(missing_ok=True)
        names = [self.items[number].file for number in kept]
        with replacing(self.out / FILES) as file:
            file.write("".join(f"{name}\n" for name in names).encode("utf-8", "surrogateescape"))
        written = [*shapes, FILES]
        if self.describer.whitening is not None:
            self.describer.whitening.save(self.out / WHITENING)
            written.append(WHITENING)
        for name in OURS - {*written, PARTIAL}:
            (self.out / name).unlink(missing_ok=True)
        for entry in self.out.iterdir():
            if is_aside(entry.name):
                entry.unlink()
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "recipe": self.describer.recipe.as_dict(),
            "images": len(kept),
            "dimension": d,
            "regions": int(first[-1]),
            "skipped": [{"file": _text(f), "reason": _text(r)} for f, r in sorted(skipped.items())],
            "torch": torch.__version__,
            "device": self.describer.device.type,
            "fingerprint": fingerprint,
            "files": {
                name: {
                    "bytes": (self.out / name).stat().st_size,
                    "sha256": collection.digest(self.out / name),
                }
                for name in sorted(written)
            },
        }
        with replacing(self.out / MANIFEST) as file:
            file.write(json.dumps(manifest, indent=1, sort_keys=True).encode())

    def _contents(self, shards: list[_Shard]) -> Iterator[dict[str, Any]]:
        for shard in shards:
            content = self._read(shard)
            if content is None:
                raise DiffusionError(f"{self._path(shard)}: damaged since it was written")
            yield content

    def _whitened(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        whitening = self.describer.whitening
        return vectors if whitening is None else whitening.apply(vectors)


@contextlib.contextmanager
def _writing(path: Path, shape: tuple[int, ...], dtype: type) -> Iterator[NDArray[Any]]:
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


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _digest_of(whitening: Whitening) -> str:
    joined = np.concatenate([whitening.mean[None], whitening.projection])
    return hashlib.sha256(np.ascontiguousarray(joined).tobytes()).hexdigest()


def _text(text: str) -> str:
    """Return text without what stands for undecodable bytes of a file name."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
