"""A folder of photos into a folder of object discovery, resumable.

Two passes over the photos (see `features.description.sweep`), each with the network: one finds the
regions of every photo, from which it is learned what recurs; one sees every photo in the light of
that. Maps of activations are far too large to be kept from one to the other.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from diffusion.errors import DiffusionError
from diffusion.storage import as_path
from diffusion.validation import check_choice, check_integer

from ..description import sweep
from ..description.descriptors import (
    BOX_IMAGES,
    BOX_WEIGHTS,
    BOXES,
    DESCRIPTORS,
    FILES,
    MANIFEST,
    MAP_EXTENTS,
    MAP_SHAPES,
    MAPS,
    OBJECTS,
    WHITENING,
)
from ..description.recipe import DEFAULT_SIZE, Describer, make_recipe
from ..description.sweep import Found, Sweep, claimed
from ..description.target import PARTIAL, check_target
from ..description.whitening import Whitening, load_whitening
from ..images.batches import Item, check_workers
from ..images.reading import find_images
from . import locate
from .discovery import ObjectDiscovery
from .locate import Locator, Mapper
from .opened import ARRAYS, DISCOVERY, Objects, open_objects
from .page import LEGEND, Picture, write_page
from .regions import ImageRegions, find_regions

PAGE = "page.html"
_OURS = {*ARRAYS, FILES, WHITENING, MANIFEST, DISCOVERY, PAGE, PARTIAL}


def discover_folder(
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    backbone: str | None = None,
    weights: str | os.PathLike[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    size: int = DEFAULT_SIZE,
    descriptor: str = "egm-weighted",
    whitening: str | os.PathLike[str] | Whitening | None = None,
    discovery: ObjectDiscovery | None = None,
    pictures: int = 12,
    batch_size: int = 32,
    workers: int | None = None,
    device: str | None = None,
    progress: bool = False,
) -> Objects:
    """Learn what recurs in a folder of JPEG and PNG photos, and find it in each of them.

    A photo that cannot be read is skipped; the manifest's `skipped` names it with the reason.
    Interrupted, at whatever moment, the same call goes on where it was and writes what it would
    have written undisturbed. A complete discovery of the same files is not repeated.

    Parameters
    ----------
    folder : path-like
        Read with the folders in it.
    out : path-like
        A folder that is an object discovery, is empty or does not exist. It receives
        `descriptors.npy`, `files.txt`, one path a row, and `manifest.json`, which is what
        `diffusion build` reads; the arrays of `Objects` as `maps.npy`, `map_shapes.npy`,
        `map_extents.npy`, `boxes.npy`, `box_images.npy`, `box_weights.npy`; what was learned in
        `discovery/`, for `ObjectDiscovery.load`; `page.html`, pictures of some photos; with
        `whitening` a copy of it.
    backbone : str, optional
        As `features.backbone` takes it. Without it, `weights` is a checkpoint that names its
        network. Its last convolution has to be followed by a ReLU.
    weights : path-like, optional
    mean, std : three float, optional
        As for `features.extract_folder`.
    size : int >= 1, default 512
        The longer side of larger photos becomes this, the aspect ratio stays. Sides are rounded
        to those that the network takes.
    descriptor : {"egm-weighted", "egm", "egm-delta", "mac"}, default "egm-weighted"
        `"egm"` is the paper's OS.EGM, the sum of the regions' MACs, and `"egm-weighted"` the same
        weighted by π; `"egm-delta"` is OS.EGM-Δ, with regions sampled uniformly inside each;
        `"mac"` is MAC of the activations times object saliency.
    whitening : path-like or Whitening, optional
        Applied to the descriptors.
    discovery : ObjectDiscovery, optional
        Its parameters are taken; by default those of `ObjectDiscovery()`.
    pictures : int >= 0, default 12
        Photos on the page, spread evenly over the list.
    batch_size : int >= 1, default 32
        At most so many photos at a time; fewer where they are large.
    workers : int >= 1, optional
        Threads that decode; by default one a core, at most eight.
    device : str, optional
        By default a GPU where there is one.
    progress : bool, default False
        Show bars on standard error.

    Returns
    -------
    Objects

    Raises
    ------
    DiffusionError
        If an argument is not as described, fewer than two photos can be read that show anything,
        a photo is altered meanwhile, or `out` holds anything else.

    Notes
    -----
    The network sees every photo twice. Memory: about 4 (c + d) bytes a region while it is learned
    what recurs, of which photos have a handful each, c channels and d = `dimension`.

    References
    ----------
    Siméoni, Iscen, Tolias, Avrithis, Chum. Unsupervised (deep) object discovery for instance
    recognition. WACV 2018.
    """
    recipe = make_recipe(backbone, weights, mean=mean, std=std, size=size)
    check_choice(descriptor, "descriptor", locate.DESCRIPTORS)
    if not isinstance(discovery, ObjectDiscovery | None):
        raise DiffusionError(f"discovery: expected an ObjectDiscovery, got {discovery!r}")
    pictures = check_integer(pictures, "pictures", low=0)
    batch_size = check_integer(batch_size, "batch_size", low=1)
    workers = check_workers(workers)
    white = whitening if isinstance(whitening, Whitening | None) else load_whitening(whitening)
    files = find_images(folder)
    folder, out = os.fspath(folder), as_path(out, "out")
    check_target(out, _OURS, "an object discovery", lambda manifest: OBJECTS in manifest)
    describer = Describer(recipe, whitening=white, device=device)
    template = (discovery or ObjectDiscovery()).get_params()
    with claimed(out):
        found = sweep.scan(folder, files, describer, workers, progress=progress)
        return _Work(
            folder, out, found, describer, template, descriptor, pictures, batch_size, workers
        ).run(progress)


class _Work:
    """One discovery, from the photos' sizes to the manifest."""

    def __init__(
        self,
        folder: str,
        out: Path,
        found: Found,
        describer: Describer,
        template: dict[str, Any],
        descriptor: str,
        pictures: int,
        batch_size: int,
        workers: int,
    ) -> None:
        self.folder, self.out, self.found = folder, out, found
        self.partial = out / PARTIAL
        self.describer, self.mapper = describer, Mapper(describer)
        self.template, self.descriptor, self.pictures = template, descriptor, pictures
        self.settings = sweep.settings_of(describer, batch_size)
        self.batch_size, self.workers = batch_size, workers

    def run(self, progress: bool) -> Objects:
        egm = asdict(self.template["feature_egm"])
        regions = self._sweep(self.found.items, {"of": "regions", "egm": egm})
        fitting = sweep.fingerprint(
            [regions.keys, locate.settings_of(ObjectDiscovery(**self.template))]
        )
        white = self.describer.whitening
        whole = [fitting, self.descriptor, self.pictures, self.found.skipped]
        whole.append(None if white is None else sweep.digest_of(white))
        fingerprint = sweep.fingerprint(whole)
        with contextlib.suppress(DiffusionError):
            complete = open_objects(self.out)
            if complete.descriptors.manifest.get("fingerprint") == fingerprint:
                shutil.rmtree(self.partial, ignore_errors=True)
                return complete
        self.found.refuse_nothing(self.folder)
        regions.run(self._regions, name="regions", progress=progress)
        kept, skipped = self._readable(regions)
        discovery = self._learned(regions, kept, fitting, progress)
        locator = Locator(self.mapper, discovery, self.descriptor)
        learned = locate.digest(discovery)
        # From here on, images are numbered by their rows.
        items = [self.found.items[n] for n in kept]
        sizes = [self.found.sizes[n] for n in kept]
        objects = self._sweep(items, {"of": "objects", "discovery": learned, "as": self.descriptor})

        def work(images: Tensor, rows: list[int]) -> dict[str, NDArray[Any]]:
            return self._objects(locator, images, rows, sizes)

        objects.run(work, name="objects", progress=progress, whole=True)
        # Readers see the old discovery whole, none, or the new one whole.
        (self.out / MANIFEST).unlink(missing_ok=True)
        boxes = self._assemble(objects, len(items))
        names = [item.file for item in items]
        sweep.write_files(self.out / FILES, names)
        written = [*ARRAYS, FILES]
        if white is not None:
            white.save(self.out / WHITENING)
            written.append(WHITENING)
        discovery.save(self.out / DISCOVERY)
        self._page(locator, names, progress)
        sweep.sweep_up(self.out, _OURS, {*written, DISCOVERY, PAGE})
        about = {
            "recipe": self.describer.recipe.as_dict(),
            OBJECTS: {"descriptor": self.descriptor, "discovery": learned},
            "images": len(kept),
            "dimension": self.describer.dimension,
            "regions": len(discovery.vectors_),
            "boxes": boxes,
            "fingerprint": fingerprint,
        }
        sweep.write_manifest(self.out, about, skipped, self.describer, written)
        shutil.rmtree(self.partial, ignore_errors=True)
        return open_objects(self.out)

    def _sweep(self, items: Sequence[Item], step: dict[str, Any]) -> Sweep:
        settings = [self.settings, step]
        return Sweep(self.folder, items, self.partial, settings, self.batch_size, self.workers)

    # --- what recurs ------------------------------------------------------------------------------

    def _regions(self, images: Tensor, items: list[int]) -> dict[str, NDArray[Any]]:
        found = []
        for item, A in zip(items, self.mapper.activations(images), strict=True):
            try:
                found.append(find_regions(A, self.template["feature_egm"]))
            except DiffusionError as error:
                raise DiffusionError(f"{self.found.items[item].file}: {error}") from None
        return {
            "counts": np.array([len(one.cells) for one in found]),
            "cells": np.concatenate([one.cells for one in found]),
            "weights": np.concatenate([one.weights for one in found]),
            "saliency": np.concatenate([one.saliency for one in found]),
            "vectors": np.concatenate([one.vectors for one in found]),
        }

    def _readable(self, regions: Sweep) -> tuple[NDArray[np.int64], dict[str, str]]:
        """Return the items that could be read, and all images that could not, with the reason."""
        skipped = dict(self.found.skipped)
        readable = np.zeros(len(self.found.items), bool)
        for numbers, failed, _ in regions.contents():
            readable[numbers] = True
            skipped |= {self.found.items[n].file: reason for n, reason in failed.items()}
        if not readable.any():
            Found([], [], skipped).refuse_nothing(self.folder)
        return np.flatnonzero(readable), skipped

    def _learned(
        self, regions: Sweep, kept: NDArray[np.int64], fitting: str, progress: bool
    ) -> ObjectDiscovery:
        """Return the discovery; it is kept as soon as it is there, as the shards are."""
        path = self.partial / sweep.fingerprint([fitting, regions.names])
        with contextlib.suppress(DiffusionError):
            return ObjectDiscovery.load(path, verify=True)
        found: dict[int, ImageRegions] = {}
        for numbers, _, arrays in regions.contents():
            if not numbers:
                continue
            ends = np.cumsum(arrays["counts"])[:-1]
            parts = (
                np.split(arrays[name], ends) for name in ("cells", "weights", "saliency", "vectors")
            )
            for number, *fields in zip(numbers, *parts, strict=True):
                found[number] = ImageRegions(*fields)
        discovery = ObjectDiscovery(**{**self.template, "progress": progress})
        discovery.fit_regions([found[number] for number in kept])
        discovery.save(path)
        return ObjectDiscovery.load(path)

    # --- where it is ------------------------------------------------------------------------------

    def _objects(
        self, locator: Locator, images: Tensor, rows: list[int], sizes: list[tuple[int, int]]
    ) -> dict[str, NDArray[Any]]:
        located = [
            locator.locate_in(A, images.shape[1:3], sizes[row], row)
            for row, A in zip(rows, self.mapper.activations(images), strict=True)
        ]
        return {
            "descriptors": np.stack([one.descriptor for one in located]),
            "shapes": np.array([one.saliency.shape for one in located]),
            "maps": np.concatenate([one.saliency.ravel() for one in located]),
            "extents": np.stack([one.extent for one in located]),
            "counts": np.array([len(one.boxes) for one in located]),
            "boxes": np.concatenate([one.boxes for one in located]),
            "weights": np.concatenate([one.weights for one in located]),
        }

    def _assemble(self, objects: Sweep, n: int) -> int:
        """Write the arrays; return the number of boxes."""
        counts, cells = np.zeros(n, np.int64), np.zeros(n, np.int64)
        for rows, _, part in objects.contents():
            counts[rows], cells[rows] = part["counts"], part["shapes"].prod(axis=1)
        first_box, first_cell = (np.cumsum(lengths) - lengths for lengths in (counts, cells))
        m = int(counts.sum())
        shapes: dict[str, tuple[int, ...]] = {
            DESCRIPTORS: (n, self.describer.dimension),
            MAPS: (int(cells.sum()),),
            MAP_SHAPES: (n, 2),
            MAP_EXTENTS: (n, 4),
            BOXES: (m, 4),
            BOX_IMAGES: (m,),
            BOX_WEIGHTS: (m,),
        }
        with contextlib.ExitStack() as stack:
            arrays = {
                name: stack.enter_context(sweep.writing(self.out / name, shapes[name], dtype))
                for name, dtype in ARRAYS.items()
            }
            for rows, _, part in objects.contents():
                arrays[DESCRIPTORS][rows] = sweep.whitened(self.describer, part["descriptors"])
                arrays[MAP_SHAPES][rows], arrays[MAP_EXTENTS][rows] = (
                    part["shapes"],
                    part["extents"],
                )
                arrays[MAPS][sweep.places(first_cell[rows], cells[rows])] = part["maps"]
                places = sweep.places(first_box[rows], part["counts"])
                arrays[BOXES][places] = part["boxes"]
                arrays[BOX_IMAGES][places] = np.repeat(rows, part["counts"])
                arrays[BOX_WEIGHTS][places] = part["weights"]
        return m

    def _page(self, locator: Locator, names: list[str], progress: bool) -> None:
        shown = min(self.pictures, len(names))
        rows = np.linspace(0, len(names) - 1, shown).astype(int)

        def pictures() -> Iterator[Picture]:
            for row in tqdm(rows, desc="pictures", unit="image", disable=not progress):
                path = os.path.join(self.folder, names[row])
                yield locator.picture(path, sweep.plain_text(names[row]), int(row))

        text = [
            f"{len(names)} photos, of which {shown} are shown. {LEGEND}",
            "Feature saliency is what the network finds strong in each photo by itself, object "
            "saliency what recurs in the others.",
        ]
        write_page(self.out / PAGE, "What recurs in these photos", text, pictures())
