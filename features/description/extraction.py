"""Resumable extraction of the descriptors of a folder of images, which updates what is there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from diffusion import storage

from ..images.reading import Listing, list_folder, quiet
from ..settings import ImageSettings, NetworkSettings, RunSettings, as_settings
from . import sweep
from .descriptors import (
    DESCRIPTORS,
    FORMAT,
    MADE_WITH,
    PARTIAL,
    PHOTOS,
    REGION_BOXES,
    REGION_IMAGES,
    REGIONAL,
    Descriptors,
    check_target,
    earlier_descriptors,
    open_descriptors,
    source_arrays,
    whitening_arrays,
)
from .recipe import Describer, describer_of, make_recipe
from .sources import Changes, place_of
from .sweep import Sweep
from .update import Block, Update
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
    written without it.

    An earlier extraction with the same settings is updated: only images that are new or altered are
    described, and those that are gone are dropped; `changes` of the result counts them. An image
    whose name, size in bytes, modification time and status time are known is not read. The content
    of another file is read if its size is that of a known image, and an image whose SHA-256 is
    known keeps its descriptor, so that touching, renaming and moving files describes nothing again.
    Images that were skipped are tried again. The result is that of an extraction of the present
    folder up to the last bits of a descriptor, which depend on the images that share its batch
    (differences of some 1e-7 for unit vectors).

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
        return _Extraction(folder, out, describer, run).run(listing)


def update_folder(
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    run: RunSettings | None = None,
) -> Descriptors:
    """Update an extraction with the settings that it was made with.

    Parameters
    ----------
    folder : path-like
        Folder of images.
    out : path-like
        An earlier extraction.
    run : RunSettings, optional

    Returns
    -------
    Descriptors
        As `extract_folder` returns them.

    Raises
    ------
    DiffusionError
        If `out` holds no extraction, or its network cannot be loaded; none is downloaded.
    """
    run = as_settings(run, "run", RunSettings)
    listing = list_folder(folder)
    out = storage.as_path(out, "out")
    check_target(out, objects=False)
    earlier = open_descriptors(out)
    describer = describer_of(
        earlier.manifest["recipe"], earlier.whitening(), str(out), device=run.device
    )
    with storage.claimed(out, FORMAT), quiet():
        return _Extraction(os.fspath(folder), out, describer, run).run(listing)


class _Extraction:
    """One extraction, from what is known of the photos to the manifest."""

    def __init__(self, folder: str, out: Path, describer: Describer, run: RunSettings) -> None:
        self.folder, self.out, self.describer, self.run_settings = folder, out, describer, run
        self.shards = storage.Shards(out / PARTIAL)
        white = list(whitening_arrays(describer.whitening).values())
        self.made_with = {
            **sweep.settings_of(describer),
            "whitening": storage.fingerprint(white) if white else None,
        }

    def run(self, listing: Listing) -> Descriptors:
        """Describe what is not described yet, and write it with what is."""
        earlier, anew = earlier_descriptors(self.out, self.made_with)
        update = Update.of(self.folder, listing, self.describer, self.run_settings, earlier, anew)
        described = self._sweep(update)
        if update.is_idle(described):
            self.shards.discard()
            return update.left_alone()
        update = update.intact()
        if update.earlier is None:
            described = self._sweep(update)
        update.found.refuse_nothing(self.folder)
        described.run(self._describe, name="extract", digests=True)
        changes = self._assemble(update, described)
        self.shards.discard()
        return replace(open_descriptors(self.out), changes=changes)

    def _sweep(self, update: Update) -> Sweep:
        return update.sweep(self.shards, self.made_with)

    def _describe(self, images: Tensor, numbers: list[int]) -> dict[str, NDArray[Any]]:
        descriptors, regional, boxes = self.describer.raw(images)
        if regional is None:
            return {"descriptors": descriptors}
        # All images of a batch have the same regions.
        return {
            "descriptors": descriptors,
            "regional": regional.reshape(-1, regional.shape[2]),
            "counts": np.full(len(numbers), len(boxes)),
            "boxes": np.tile(boxes, (len(numbers), 1)),
        }

    def _blocks(self, update: Update, described: Sweep) -> Iterator[Block]:
        """Yield blocks of items with their arrays: those of before, and those described now."""
        earlier = update.earlier
        for numbers, rows in update.reused_blocks():
            assert earlier is not None
            arrays: dict[str, NDArray[Any]] = {"descriptors": earlier.vectors[rows]}
            if earlier.regional is not None:
                first, last = earlier.regions_of(rows)
                taken = sweep.places(first, last - first)
                arrays["counts"], arrays["regional"] = last - first, earlier.regional[taken]
                arrays["boxes"] = earlier.arrays[REGION_BOXES][taken]
            yield Block(numbers, update.known.digests[numbers], arrays)
        for content in described.contents():
            if content.numbers:
                arrays = dict(content.arrays)
                for name in {"descriptors", "regional"} & set(arrays):
                    arrays[name] = sweep.whitened(self.describer, arrays[name])
                yield Block(np.array(content.numbers), arrays["digests"], arrays)

    def _assemble(self, update: Update, described: Sweep) -> Changes | None:
        regional = self.describer.recipe.images.regions is not None
        counts = np.full(len(update.found.items), -1, np.int64)  # regions of each, -1 if it failed
        digests = update.known.digests.copy()
        for numbers, content, arrays in self._blocks(update, described):
            counts[numbers] = arrays.get("counts", 0)
            digests[numbers] = content
        kept = np.flatnonzero(counts >= 0)
        skipped = update.skipped(described)
        if not len(kept):
            update.found._replace(items=[], skipped=skipped).refuse_nothing(self.folder)
        row = np.cumsum(counts >= 0) - 1
        first = np.concatenate([[0], np.cumsum(counts[kept])])
        d, total = self.describer.dimension, int(first[-1])
        with storage.writing(self.out, FORMAT) as new:
            vectors = new.create(DESCRIPTORS, np.float32, (len(kept), d))
            if regional:
                of_regions = new.create(REGIONAL, np.float32, (total, d))
                images = new.create(REGION_IMAGES, np.int64, (total,))
                boxes = new.create(REGION_BOXES, np.float32, (total, 4))
            for numbers, _, part in self._blocks(update, described):
                rows = row[numbers]
                vectors[rows] = part["descriptors"]
                if regional:
                    places = sweep.places(first[rows], part["counts"])
                    of_regions[places] = part["regional"]
                    images[places] = np.repeat(rows, part["counts"])
                    boxes[places] = part["boxes"]
            for name, array in source_arrays(update.sources(kept, digests)).items():
                new.add(name, array)
            for name, array in whitening_arrays(self.describer.whitening).items():
                new.add(name, array)
            new.commit(
                {
                    **sweep.about_run(skipped, update.found, self.describer),
                    PHOTOS: place_of(self.folder, self.out),
                    MADE_WITH: self.made_with,
                    "images": len(kept),
                    "dimension": d,
                    "regions": total,
                }
            )
        return update.changes(kept)
