"""Resumable object discovery in a folder of photos.

Two passes over the photos (see `features.description.sweep`) run the network: the first finds the
regions of every photo, from which recurring objects are learned; the second finds these objects in
every photo. Activation maps are far too large to be kept from the first pass to the second.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from diffusion import storage
from diffusion.errors import DiffusionError
from diffusion.storage.strings import pack_strings, printable
from diffusion.validation import check_choice, check_integer

from ..description import sweep
from ..description.descriptors import (
    DESCRIPTORS,
    FILE_ENDS,
    FILES,
    FORMAT,
    OBJECTS,
    PAGE,
    PARTIAL,
    check_target,
    whitening_arrays,
)
from ..description.recipe import Describer, make_recipe
from ..description.sweep import Found, Sweep
from ..description.whitening import Whitening, load_whitening
from ..images.batches import Item
from ..images.reading import list_folder, quiet
from ..settings import (
    DiscoverySettings,
    ImageSettings,
    NetworkSettings,
    RunSettings,
    as_settings,
)
from . import locate
from .discovery import ObjectDiscovery
from .egm import EGM
from .locate import Locator, Mapper
from .opened import (
    BOX_IMAGES,
    BOX_WEIGHTS,
    BOXES,
    LEARNED,
    MAP_EXTENTS,
    MAP_SHAPES,
    MAPS,
    Objects,
    open_objects,
)
from .page import LEGEND, Picture, write_page
from .regions import ImageRegions, find_regions


def discover_folder(
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    network: NetworkSettings,
    *,
    images: ImageSettings | None = None,
    discovery: DiscoverySettings | None = None,
    run: RunSettings | None = None,
    descriptor: str = "egm-weighted",
    whitening: str | os.PathLike[str] | Whitening | None = None,
    pictures: int = 12,
) -> Objects:
    """Learn the recurring objects of a folder of photos, and find them in each photo.

    All formats that Pillow decodes are read. Photos that cannot be read are skipped; `skipped` in
    the manifest lists them with the reason, and `passed_over` counts the other files by extension
    and lists the links to folders, which are not followed. After an interruption at any moment, the
    same call resumes and writes what it would have written without it. A complete discovery of the
    same files is not repeated.

    Parameters
    ----------
    folder : path-like
        Folder of photos; its subfolders are read too.
    out : path-like
        Folder to write: an earlier object discovery, an empty folder or one that does not exist.
        `open_objects` reads it, and `open_descriptors` its descriptors; `page.html` shows some of
        the photos, and `discovery` holds what was learned, for `ObjectDiscovery.load`.
    network : NetworkSettings
        Network; its last convolution has to be followed by a ReLU. It is not pooled, so `pooling`
        has to be None.
    images : ImageSettings, optional
        Size of the photos; by default `ImageSettings()`. `scales` and `regions` do not apply.
    discovery : DiscoverySettings, optional
        How objects are found; by default `DiscoverySettings()`.
    run : RunSettings, optional
        Batch size, threads, device and progress bars; by default `RunSettings()`.
    descriptor : {"egm-weighted", "egm", "egm-delta", "mac"}, default "egm-weighted"
        Descriptor of a photo. `"egm"` is the paper's OS.EGM, the sum of the MACs (maximum
        activations) of the regions, and `"egm-weighted"` the same sum weighted by π;
        `"egm-delta"` is OS.EGM-Δ, with regions sampled uniformly inside each; `"mac"` is the MAC
        of the activations times object saliency.
    whitening : path-like or Whitening, optional
        Whitening applied to the descriptors.
    pictures : int >= 0, default 12
        Number of photos on the page, spread evenly over the list.

    Returns
    -------
    Objects

    Raises
    ------
    DiffusionError
        If an argument is not as described, fewer than two readable photos have a region, a photo
        is altered during the discovery, or `out` holds anything else.

    Notes
    -----
    The network sees every photo twice. Memory: about 4 (c + d) bytes per region while objects are
    learned, with c channels and d = `dimension`; a photo has a handful of regions.

    References
    ----------
    Siméoni, Iscen, Tolias, Avrithis, Chum. Unsupervised (deep) object discovery for instance
    recognition. WACV 2018.
    """
    network = as_settings(network, "network", NetworkSettings)
    images = as_settings(images, "images", ImageSettings)
    settings = as_settings(discovery, "discovery", DiscoverySettings)
    run = as_settings(run, "run", RunSettings)
    if network.pooling is not None:
        raise DiffusionError("pooling: expected None, object discovery does not pool the maps")
    for name in ("scales", "regions"):
        if getattr(images, name) != getattr(ImageSettings(), name):
            raise DiffusionError(f"{name}: expected the default, object discovery has no other")
    recipe = make_recipe(network, images)
    check_choice(descriptor, "descriptor", locate.DESCRIPTORS)
    pictures = check_integer(pictures, "pictures", low=0)
    white = whitening if isinstance(whitening, Whitening | None) else load_whitening(whitening)
    listing = list_folder(folder)
    folder, out = os.fspath(folder), storage.as_path(out, "out")
    check_target(out, objects=True)
    # The caller named the backbone, unless a file of weights does.
    named = network.backbone is not None
    describer = Describer(recipe, None, white, run.device, allow_download=named)
    with storage.claimed(out, FORMAT), quiet():
        found = sweep.scan(folder, listing, describer, run)
        return _Work(folder, out, found, describer, settings, descriptor, pictures, run).run()


class _Work:
    """One discovery, from the sizes of the photos to the manifest."""

    def __init__(
        self,
        folder: str,
        out: Path,
        found: Found,
        describer: Describer,
        settings: DiscoverySettings,
        descriptor: str,
        pictures: int,
        run: RunSettings,
    ) -> None:
        self.folder, self.out, self.found = folder, out, found
        self.shards = storage.Shards(out / PARTIAL)
        self.describer, self.mapper = describer, Mapper(describer)
        self.settings, self.descriptor, self.pictures = settings, descriptor, pictures
        self.egm = EGM(**asdict(settings.feature_egm))
        self.network = sweep.settings_of(describer, run.batch_size)
        self.run_settings = run

    def run(self) -> Objects:
        egm = asdict(self.settings.feature_egm)
        regions = self._sweep(self.found.items, {"of": "regions", "egm": egm})
        fitting = storage.fingerprint([regions.keys, asdict(self.settings)])
        white = list(whitening_arrays(self.describer.whitening).values())
        whole = [fitting, self.descriptor, self.pictures, self.found.skipped, white]
        fingerprint = storage.fingerprint(whole)
        with contextlib.suppress(DiffusionError):
            complete = open_objects(self.out)
            if complete.descriptors.manifest.get("fingerprint") == fingerprint:
                self.shards.discard()
                manifest = complete.descriptors.manifest | sweep.passed_over(self.found.listing)
                descriptors = replace(complete.descriptors, manifest=manifest)
                return replace(complete, descriptors=descriptors)
        self.found.refuse_nothing(self.folder)
        regions.run(self._regions, name="regions", passes=2)
        kept, skipped = self._readable(regions)
        discovery = self._learned(regions, kept, fitting)
        locator = Locator(self.mapper, discovery, self.descriptor)
        digest = storage.fingerprint(discovery.state())
        # From here on, images are numbered by their rows.
        items = [self.found.items[n] for n in kept]
        sizes = [self.found.sizes[n] for n in kept]
        objects = self._sweep(items, {"of": "objects", "discovery": digest, "as": self.descriptor})

        def work(images: Tensor, rows: list[int]) -> dict[str, NDArray[Any]]:
            return self._objects(locator, images, rows, sizes)

        objects.run(work, name="objects", whole=True)
        names = [item.file for item in items]
        self._page(locator, names)
        about = {"descriptor": self.descriptor, "digest": digest, "settings": asdict(self.settings)}
        content = {
            **sweep.about_run(skipped, self.found, self.describer),
            OBJECTS: about,
            "fingerprint": fingerprint,
        }
        self._assemble(objects, names, discovery, content)
        self.shards.discard()
        return open_objects(self.out)

    def _sweep(self, items: Sequence[Item], step: dict[str, Any]) -> Sweep:
        return Sweep(self.folder, items, self.shards, [self.network, step], self.run_settings)

    # --- learning ---------------------------------------------------------------------------------

    def _regions(self, images: Tensor, items: list[int]) -> dict[str, NDArray[Any]]:
        found = []
        for item, A in zip(items, self.mapper.activations(images), strict=True):
            try:
                found.append(find_regions(A, self.egm))
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
        """Return the items that can be read, and all images that cannot, with the reason."""
        skipped = dict(self.found.skipped)
        readable = np.zeros(len(self.found.items), bool)
        for numbers, failed, _ in regions.contents():
            readable[numbers] = True
            skipped |= {self.found.items[n].file: reason for n, reason in failed.items()}
        if not readable.any():
            self.found._replace(items=[], skipped=skipped).refuse_nothing(self.folder)
        return np.flatnonzero(readable), skipped

    def _learned(self, regions: Sweep, kept: NDArray[np.int64], fitting: str) -> ObjectDiscovery:
        """Return the fitted discovery, which is kept beside the shards until the end."""
        path = self.shards.path / storage.fingerprint([fitting, regions.names])
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
        discovery = ObjectDiscovery(self.settings, progress=self.run_settings.progress)
        discovery.fit_regions([found[number] for number in kept]).save(path)
        return ObjectDiscovery.load(path)

    # --- locating ---------------------------------------------------------------------------------

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

    def _assemble(
        self,
        objects: Sweep,
        names: list[str],
        discovery: ObjectDiscovery,
        content: dict[str, Any],
    ) -> None:
        """Write the arrays and the manifest."""
        n, d = len(names), self.describer.dimension
        counts, cells = np.zeros(n, np.int64), np.zeros(n, np.int64)
        for rows, _, part in objects.contents():
            counts[rows], cells[rows] = part["counts"], part["shapes"].prod(axis=1)
        first_box, first_cell = (np.cumsum(lengths) - lengths for lengths in (counts, cells))
        m = int(counts.sum())
        with storage.writing(self.out, FORMAT) as new:
            vectors = new.create(DESCRIPTORS, np.float32, (n, d))
            maps = new.create(MAPS, np.float32, (int(cells.sum()),))
            shapes = new.create(MAP_SHAPES, np.int64, (n, 2))
            extents = new.create(MAP_EXTENTS, np.float64, (n, 4))
            boxes = new.create(BOXES, np.float32, (m, 4))
            images = new.create(BOX_IMAGES, np.int64, (m,))
            weights = new.create(BOX_WEIGHTS, np.float32, (m,))
            for rows, _, part in objects.contents():
                vectors[rows] = sweep.whitened(self.describer, part["descriptors"])
                shapes[rows], extents[rows] = part["shapes"], part["extents"]
                maps[sweep.places(first_cell[rows], cells[rows])] = part["maps"]
                places = sweep.places(first_box[rows], part["counts"])
                boxes[places], weights[places] = part["boxes"], part["weights"]
                images[places] = np.repeat(rows, part["counts"])
            files, ends = pack_strings(names)
            others: dict[str, NDArray[Any]] = {FILES: files, FILE_ENDS: ends}
            others |= whitening_arrays(self.describer.whitening)
            others |= {LEARNED + name: array for name, array in discovery.state()[1].items()}
            for name, array in others.items():
                new.add(name, array)
            numbers = {"images": n, "dimension": d, "regions": len(discovery.vectors_), "boxes": m}
            new.commit({**content, **numbers})

    def _page(self, locator: Locator, names: list[str]) -> None:
        shown = min(self.pictures, len(names))
        rows = np.linspace(0, len(names) - 1, shown).astype(int)

        def pictures() -> Iterator[Picture]:
            for row in tqdm(
                rows, desc="pictures", unit="image", disable=not self.run_settings.progress
            ):
                path = os.path.join(self.folder, names[row])
                yield locator.picture(path, printable(names[row]), int(row))

        text = [
            f"{len(names)} photos, of which {shown} are shown. {LEGEND}",
            "Feature saliency is high where the network responds strongly to a photo by itself. "
            "Object saliency is high where something is shown that recurs in other photos.",
        ]
        write_page(self.out / PAGE, "Recurring objects in these photos", text, pictures())
