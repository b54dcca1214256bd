"""A folder of photos into a folder of descriptors, resumable.

The images are described in shards (see `features.description.sweep`). At the end the shards become
arrays, and the manifest is written last.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from diffusion.errors import DiffusionError
from diffusion.storage import as_path

from ..images.reading import find_images
from ..settings import ImageSettings, NetworkSettings, RunSettings, as_settings
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
from .recipe import Describer, make_recipe
from .sweep import Found, Sweep, claimed
from .target import PARTIAL, check_target
from .whitening import Whitening, load_whitening

_OURS = {DESCRIPTORS, FILES, MANIFEST, REGIONAL, REGION_IMAGES, REGION_BOXES, WHITENING, PARTIAL}


def extract_folder(
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    network: NetworkSettings,
    *,
    images: ImageSettings | None = None,
    run: RunSettings | None = None,
    whitening: str | os.PathLike[str] | Whitening | None = None,
) -> Descriptors:
    """Describe every JPEG and PNG image of a folder.

    Images that cannot be read are skipped; `skipped` in the manifest lists them with the reason.
    After an interruption at any moment, the same call resumes and writes what it would have
    written without it. A complete extraction of the same files is not repeated, unless an image
    that was skipped can be read now.

    Parameters
    ----------
    folder : path-like
        Folder of images; its subfolders are read too.
    out : path-like
        Folder to write: an earlier extraction, an empty folder or one that does not exist.
        `open_descriptors` reads it.
    network : NetworkSettings
        Network and pooling.
    images : ImageSettings, optional
        Size, scales and regions; by default `ImageSettings()`.
    run : RunSettings, optional
        Batch size, threads, device and progress bars; by default `RunSettings()`.
    whitening : path-like or Whitening, optional
        Whitening applied to all descriptors.

    Returns
    -------
    Descriptors

    Raises
    ------
    DiffusionError
        If an argument is not as described, no image can be read, or `out` holds anything else.

    Examples
    --------
    >>> network = NetworkSettings("alexnet", "alexnet.safetensors", pooling="gem")
    >>> extract_folder("photos", "descriptors", network)  # doctest: +SKIP
    """
    recipe = make_recipe(
        as_settings(network, "network", NetworkSettings),
        as_settings(images, "images", ImageSettings),
    )
    run = as_settings(run, "run", RunSettings)
    white = whitening if isinstance(whitening, Whitening | None) else load_whitening(whitening)
    files = find_images(folder)
    folder, out = os.fspath(folder), as_path(out, "out")
    check_target(out, _OURS, "descriptors", lambda manifest: OBJECTS not in manifest)
    describer = Describer(recipe, whitening=white, device=run.device)
    with claimed(out):
        found = sweep.scan(folder, files, describer, run)
        return _extract(folder, out, found, describer, run)


def _extract(
    folder: str, out: Path, found: Found, describer: Describer, run: RunSettings
) -> Descriptors:
    """Describe what is not described yet, and assemble the shards."""
    settings = sweep.settings_of(describer, run.batch_size)
    partial = out / PARTIAL
    described = Sweep(folder, found.items, partial, settings, run)
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

    described.run(work, name="extract")
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
    regional = describer.recipe.images.regions is not None
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
