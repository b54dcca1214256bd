"""Resumable extraction of the descriptors of a folder of images."""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from diffusion import storage
from diffusion.errors import DiffusionError
from diffusion.storage.strings import pack_strings

from ..images.reading import list_folder, quiet
from ..settings import ImageSettings, NetworkSettings, RunSettings, as_settings
from . import sweep
from .descriptors import (
    DESCRIPTORS,
    FILE_ENDS,
    FILES,
    FORMAT,
    PARTIAL,
    REGION_BOXES,
    REGION_IMAGES,
    REGIONAL,
    Descriptors,
    check_target,
    open_descriptors,
    whitening_arrays,
)
from .recipe import Describer, make_recipe
from .sweep import Found, Sweep
from .whitening import Whitening, load_whitening


def extract_folder(
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    network: NetworkSettings,
    *,
    images: ImageSettings | None = None,
    run: RunSettings | None = None,
    whitening: str | os.PathLike[str] | Whitening | None = None,
) -> Descriptors:
    """Describe every image of a folder, in any format that Pillow decodes.

    Images that cannot be read are skipped; `skipped` in the manifest lists them with the reason.
    `passed_over` counts the other files by extension and lists the links to folders, which are not
    followed.
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
    network = as_settings(network, "network", NetworkSettings)
    recipe = make_recipe(network, as_settings(images, "images", ImageSettings))
    run = as_settings(run, "run", RunSettings)
    white = whitening if isinstance(whitening, Whitening | None) else load_whitening(whitening)
    listing = list_folder(folder)
    folder, out = os.fspath(folder), storage.as_path(out, "out")
    check_target(out, objects=False)
    # The caller named the backbone, unless a file of weights does.
    named = network.backbone is not None
    describer = Describer(recipe, None, white, run.device, allow_download=named)
    with storage.claimed(out, FORMAT), quiet():
        found = sweep.scan(folder, listing, describer, run)
        return _extract(folder, out, found, describer, run)


def _extract(
    folder: str, out: Path, found: Found, describer: Describer, run: RunSettings
) -> Descriptors:
    """Describe what is not described yet, and assemble the shards."""
    settings = sweep.settings_of(describer, run.batch_size)
    shards = storage.Shards(out / PARTIAL)
    described = Sweep(folder, found.items, shards, settings, run)
    white = list(whitening_arrays(describer.whitening).values())
    fingerprint = storage.fingerprint([settings, white, described.keys, found.skipped])
    with contextlib.suppress(DiffusionError):
        complete = open_descriptors(out)
        if complete.manifest.get("fingerprint") == fingerprint and not described.can_read(
            sweep.failed_before(complete.manifest, found)
        ):
            shards.discard()
            return replace(complete, manifest=complete.manifest | sweep.passed_over(found.listing))
    found.refuse_nothing(folder)

    def work(images: Tensor, numbers: list[int]) -> dict[str, NDArray[Any]]:
        descriptors, regional, boxes = describer.raw(images)
        if regional is None:
            return {"descriptors": descriptors}
        # All images of a batch have the same regions.
        return {
            "descriptors": descriptors,
            "regional": regional.reshape(-1, regional.shape[2]),
            "counts": np.full(len(numbers), len(boxes)),
            "boxes": np.tile(boxes, (len(numbers), 1)),
        }

    described.run(work, name="extract")
    _assemble(folder, out, found, describer, described, fingerprint)
    shards.discard()
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
        found._replace(items=[], skipped=skipped).refuse_nothing(folder)
    row = np.cumsum(counts >= 0) - 1
    first = np.concatenate([[0], np.cumsum(counts[kept])])
    d, total = describer.dimension, int(first[-1])
    with storage.writing(out, FORMAT) as new:
        vectors = new.create(DESCRIPTORS, np.float32, (len(kept), d))
        if regional:
            of_regions = new.create(REGIONAL, np.float32, (total, d))
            images = new.create(REGION_IMAGES, np.int64, (total,))
            boxes = new.create(REGION_BOXES, np.float32, (total, 4))
        for numbers, _, part in described.contents():
            if not numbers:
                continue
            rows = row[numbers]
            vectors[rows] = sweep.whitened(describer, part["descriptors"])
            if regional:
                places = sweep.places(first[rows], part["counts"])
                of_regions[places] = sweep.whitened(describer, part["regional"])
                images[places] = np.repeat(rows, part["counts"])
                boxes[places] = part["boxes"]
        files, ends = pack_strings([found.items[number].file for number in kept])
        new.add(FILES, files)
        new.add(FILE_ENDS, ends)
        for name, array in whitening_arrays(describer.whitening).items():
            new.add(name, array)
        new.commit(
            {
                **sweep.about_run(skipped, found, describer),
                "images": len(kept),
                "dimension": d,
                "regions": total,
                "fingerprint": fingerprint,
            }
        )
