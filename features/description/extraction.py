"""A folder of photos into a folder of descriptors, resumable.

The images are described in shards (see `features.description.sweep`). At the end the shards become
arrays, and the manifest is written last.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from diffusion.errors import DiffusionError
from diffusion.storage import as_path
from diffusion.validation import check_integer

from ..images.batches import check_workers
from ..images.reading import find_images
from . import sweep
from .descriptors import (
    DESCRIPTORS,
    FILES,
    MANIFEST,
    OBJECTS,
    REGION_BOXES,
    REGION_IMAGES,
    REGIONAL,
    WHITENING,
    Descriptors,
    open_descriptors,
)
from .recipe import DEFAULT_SIZE, Describer, make_recipe
from .sweep import Found, Sweep, claimed
from .target import PARTIAL, check_target
from .whitening import Whitening, load_whitening

_OURS = {DESCRIPTORS, FILES, MANIFEST, REGIONAL, REGION_IMAGES, REGION_BOXES, WHITENING, PARTIAL}


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
        trained it wants `features.networks.backbones.IMAGENET_MEAN` and `IMAGENET_STD`.
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
    folder, out = os.fspath(folder), as_path(out, "out")
    check_target(out, _OURS, "descriptors", lambda manifest: OBJECTS not in manifest)
    describer = Describer(recipe, whitening=white, device=device)
    with claimed(out):
        found = sweep.scan(folder, files, describer, workers, progress=progress)
        return _extract(folder, out, found, describer, batch_size, workers, progress)


def _extract(
    folder: str,
    out: Path,
    found: Found,
    describer: Describer,
    batch_size: int,
    workers: int,
    progress: bool,
) -> Descriptors:
    """Describe what is not described yet, and put everything together."""
    settings = sweep.settings_of(describer, batch_size)
    partial = out / PARTIAL
    described = Sweep(folder, found.items, partial, settings, batch_size, workers)
    white = [] if describer.whitening is None else [sweep.digest_of(describer.whitening)]
    fingerprint = sweep.fingerprint([settings, white, described.keys, found.skipped])
    with contextlib.suppress(DiffusionError):
        complete = open_descriptors(out)
        if complete.manifest.get("fingerprint") == fingerprint and not described.can_read(
            sweep.failed_before(complete.manifest, found)
        ):
            shutil.rmtree(partial, ignore_errors=True)
            return complete
    found.refuse_nothing(folder)

    def work(images: Tensor, numbers: list[int]) -> dict[str, NDArray[Any]]:
        descriptors, regional, boxes = describer.raw(images)
        if regional is None:
            return {"descriptors": descriptors}
        # Of the images of a batch all have the same regions.
        return {
            "descriptors": descriptors,
            "regional": regional.reshape(-1, regional.shape[2]),
            "counts": np.full(len(numbers), len(boxes)),
            "boxes": np.tile(boxes, (len(numbers), 1)),
        }

    described.run(work, name="extract", progress=progress)
    _assemble(folder, out, found, describer, described, fingerprint)
    shutil.rmtree(partial, ignore_errors=True)
    return open_descriptors(out)


def _assemble(
    folder: str,
    out: Path,
    found: Found,
    describer: Describer,
    described: Sweep,
    fingerprint: str,
) -> None:
    regional = describer.recipe.regions is not None
    counts = np.full(len(found.items), -1, np.int64)  # regions of each image, -1 if it failed
    skipped = dict(found.skipped)
    for content in described.contents():
        counts[content.numbers] = content.arrays.get("counts", 0)
        for number, reason in content.failed.items():
            skipped[found.items[number].file] = reason
    kept = np.flatnonzero(counts >= 0)
    if not len(kept):
        Found([], [], skipped).refuse_nothing(folder)
    row = np.cumsum(counts >= 0) - 1
    first = np.concatenate([[0], np.cumsum(counts[kept])])
    d = describer.dimension
    shapes: dict[str, tuple[tuple[int, ...], type]] = {DESCRIPTORS: ((len(kept), d), np.float32)}
    if regional:
        total = int(first[-1])
        shapes[REGIONAL] = ((total, d), np.float32)
        shapes[REGION_IMAGES] = ((total,), np.int64)
        shapes[REGION_BOXES] = ((total, 4), np.float32)
    with contextlib.ExitStack() as stack:
        arrays = {
            name: stack.enter_context(sweep.writing(out / name, *shape))
            for name, shape in shapes.items()
        }
        for numbers, _, part in described.contents():
            if not numbers:
                continue
            rows = row[numbers]
            arrays[DESCRIPTORS][rows] = sweep.whitened(describer, part["descriptors"])
            if regional:
                places = sweep.places(first[rows], part["counts"])
                arrays[REGIONAL][places] = sweep.whitened(describer, part["regional"])
                arrays[REGION_IMAGES][places] = np.repeat(rows, part["counts"])
                arrays[REGION_BOXES][places] = part["boxes"]
        # Readers see the old extraction whole, none, or the new one whole.
        (out / MANIFEST).unlink(missing_ok=True)
    sweep.write_files(out / FILES, [found.items[number].file for number in kept])
    written = [*shapes, FILES]
    if describer.whitening is not None:
        describer.whitening.save(out / WHITENING)
        written.append(WHITENING)
    sweep.sweep_up(out, _OURS, written)
    about = {
        "recipe": describer.recipe.as_dict(),
        "images": len(kept),
        "dimension": d,
        "regions": int(first[-1]),
        "fingerprint": fingerprint,
    }
    sweep.write_manifest(out, about, skipped, describer, written)
