"""Resumable object discovery in a folder of photos.

Two passes over the photos (see `features.description.sweep`) run the network: the first finds the
regions of every photo, from which recurring objects are learned; the second finds these objects in
every photo. Activation maps are far too large to be kept from the first pass to the second.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from diffusion import storage
from diffusion.errors import DiffusionError
from diffusion.storage.strings import printable
from diffusion.validation import check_choice, check_integer

from ..description import sweep
from ..description.descriptors import (
    DESCRIPTORS,
    FORMAT,
    MADE_WITH,
    OBJECTS,
    PAGE,
    PARTIAL,
    PHOTOS,
    Descriptors,
    check_target,
    earlier_descriptors,
    source_arrays,
    whitening_arrays,
)
from ..description.recipe import Describer, make_recipe
from ..description.sources import place_of
from ..description.sweep import Sweep
from ..description.update import Update
from ..description.whitening import Whitening, load_whitening
from ..images.reading import Listing, list_folder, quiet
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
from .kept import FoundRegions, Located, earlier_blocks
from .locate import Locator, Mapper
from .opened import (
    BOX_IMAGES,
    BOX_WEIGHTS,
    BOXES,
    FOUND_VECTORS,
    FOUND_WEIGHTS,
    LEARNED,
    MAP_EXTENTS,
    MAP_SHAPES,
    MAPS,
    Objects,
    open_objects,
)
from .page import LEGEND, Picture, write_page
from .regions import find_regions

# Photos on the page.
_PICTURES = 12


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
    pictures: int = _PICTURES,
) -> Objects:
    """Learn the recurring objects of a folder of photos, and find them in each photo.

    All formats that Pillow decodes are read. Photos that cannot be read are skipped; `skipped` in
    the manifest lists them with the reason, and `passed_over` counts the other files by extension
    and lists the links to folders, which are not followed. After an interruption at any moment, the
    same call resumes and writes what it would have written without it.

    An earlier discovery is updated. The regions of photos that are known, as `extract_folder` knows
    them, are kept, and found in new and altered photos alone. The objects are then learned again
    from all regions, and located again in all photos, because they depend on all regions; neither
    is done if photos have only got other names or times. `descriptors.changes` of the result counts
    what has changed, and `learned_again` says whether the objects were learned.

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
    The network sees every photo twice. Disk: beside maps and descriptors, 4 c bytes per region, so
    that an update can learn from it. Memory: about 4 (c + d) bytes per region while objects are
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
        return _Work(folder, out, describer, settings, descriptor, pictures, run).run(listing)


def update_discovery(
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    run: RunSettings | None = None,
) -> Objects:
    """Update an object discovery with the settings that it was made with.

    Parameters
    ----------
    folder : path-like
        Folder of photos.
    out : path-like
        An earlier object discovery.
    run : RunSettings, optional

    Returns
    -------
    Objects
        As `discover_folder` returns them.

    Raises
    ------
    DiffusionError
        If `out` holds no discovery, or its network cannot be loaded; none is downloaded.
    """
    run = as_settings(run, "run", RunSettings)
    listing = list_folder(folder)
    out = storage.as_path(out, "out")
    check_target(out, objects=True)
    earlier = open_objects(out)
    describer = earlier.describer(device=run.device)
    about, settings = earlier.descriptors.manifest[OBJECTS], earlier.discovery().settings
    descriptor, pictures = about["descriptor"], about.get("pictures", _PICTURES)
    with storage.claimed(out, FORMAT), quiet():
        work = _Work(os.fspath(folder), out, describer, settings, descriptor, pictures, run)
        return work.run(listing)


def _opened(path: Path) -> Descriptors:
    """Open the descriptors of an object discovery whose regions were kept."""
    objects = open_objects(path)
    objects.regions()
    return objects.descriptors


class _Work:
    """One discovery, from the sizes of the photos to the manifest."""

    def __init__(
        self,
        folder: str,
        out: Path,
        describer: Describer,
        settings: DiscoverySettings,
        descriptor: str,
        pictures: int,
        run: RunSettings,
    ) -> None:
        self.folder, self.out = folder, out
        self.shards = storage.Shards(out / PARTIAL)
        self.describer, self.mapper = describer, Mapper(describer)
        self.settings, self.descriptor, self.pictures = settings, descriptor, pictures
        self.egm = EGM(**asdict(settings.feature_egm))
        self.run_settings = run
        self.network = sweep.settings_of(describer)
        # What the regions of a photo depend on, and what everything else depends on besides.
        self.made_with = {**self.network, "feature_egm": asdict(settings.feature_egm)}
        white = list(whitening_arrays(describer.whitening).values())
        self.about = {
            "descriptor": descriptor,
            "settings": json.loads(json.dumps(asdict(settings))),
            "whitening": storage.fingerprint(white) if white else None,
            "pictures": pictures,
        }

    def run(self, listing: Listing) -> Objects:
        earlier, anew = earlier_descriptors(self.out, self.made_with, _opened)
        update = Update.of(self.folder, listing, self.describer, self.run_settings, earlier, anew)
        regions = self._sweep_regions(update)
        if self._has_same_settings(update) and update.is_idle(regions):
            self.shards.discard()
            return replace(open_objects(self.out), descriptors=update.left_alone())
        update = update.intact()
        if update.earlier is None:
            regions = self._sweep_regions(update)
        update.found.refuse_nothing(self.folder)
        self.found = update.found
        regions.run(self._regions, name="regions", digests=True, passes=2)
        found = FoundRegions(update, regions)
        taken = self._taken_over(update, found)
        discovery = self._learned(found) if taken is None else taken.discovery()
        locator = Locator(self.mapper, discovery, self.descriptor)
        digest = storage.fingerprint(discovery.state())
        files = found.sources.files
        if taken is None:
            objects = self._locate(found, locator, digest)
            located: Callable[[], Iterator[Located]] = partial(self._blocks, objects)
        else:
            located = partial(earlier_blocks, taken)
        if taken is None or taken.files != files:
            self._page(locator, list(files))
        content = {
            **sweep.about_run(found.skipped, update.found, self.describer),
            PHOTOS: place_of(self.folder, self.out),
            MADE_WITH: self.made_with,
            OBJECTS: {**self.about, "digest": digest},
        }
        self._assemble(located, found, discovery, content)
        self.shards.discard()
        written = open_objects(self.out)
        described = replace(written.descriptors, changes=update.changes(found.kept))
        return replace(written, descriptors=described, learned_again=taken is None)

    def _sweep_regions(self, update: Update) -> Sweep:
        return update.sweep(self.shards, [self.made_with, "regions"])

    def _has_same_settings(self, update: Update) -> bool:
        """Return whether objects were discovered before with the same settings."""
        if update.earlier is None:
            return False
        about = update.earlier.manifest[OBJECTS]
        return {name: value for name, value in about.items() if name != "digest"} == self.about

    def _taken_over(self, update: Update, found: FoundRegions) -> Objects | None:
        """Return what was discovered before if the photos have only got other names or times.

        The objects depend on all regions and on the order of the photos.
        """
        if not self._has_same_settings(update):
            return None
        before, rows = open_objects(self.out), update.known.rows[found.kept]
        return before if np.array_equal(rows, np.arange(len(before.files))) else None

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

    def _learned(self, found: FoundRegions) -> ObjectDiscovery:
        """Return the fitted discovery, which is kept beside the shards until the end."""
        sources = found.sources
        photos = [found.names, list(sources.files), sources.digests]
        path = self.shards.path / storage.fingerprint([self.made_with, self.about, photos])
        with contextlib.suppress(DiffusionError):
            return ObjectDiscovery.load(path, verify=True)
        discovery = ObjectDiscovery(self.settings, progress=self.run_settings.progress)
        discovery.fit_regions([regions for _, regions in sorted(found, key=itemgetter(0))])
        self.shards.path.mkdir(exist_ok=True)
        discovery.save(path)
        return ObjectDiscovery.load(path)

    # --- locating ---------------------------------------------------------------------------------

    def _locate(self, found: FoundRegions, locator: Locator, digest: str) -> Sweep:
        """Pass over all photos, to locate the objects that were learned; numbers are rows."""
        items = [self.found.items[n] for n in found.kept]
        sizes = [self.found.sizes[n] for n in found.kept]
        settings = [self.network, {"discovery": digest, "as": self.descriptor}]
        objects = Sweep(self.folder, items, self.shards, settings, self.run_settings)

        def work(images: Tensor, rows: list[int]) -> dict[str, NDArray[Any]]:
            return self._objects(locator, images, rows, sizes)

        objects.run(work, name="objects", whole=True)
        return objects

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

    def _blocks(self, objects: Sweep) -> Iterator[Located]:
        for rows, _, part in objects.contents():
            white = sweep.whitened(self.describer, part["descriptors"])
            yield np.array(rows), {**part, "descriptors": white}

    def _assemble(
        self,
        located: Callable[[], Iterator[Located]],
        found: FoundRegions,
        discovery: ObjectDiscovery,
        content: dict[str, Any],
    ) -> None:
        """Write the arrays and the manifest."""
        n, d = len(found.kept), self.describer.dimension
        counts, cells = np.zeros(n, np.int64), np.zeros(n, np.int64)
        for rows, part in located():
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
            for rows, part in located():
                vectors[rows] = part["descriptors"]
                shapes[rows], extents[rows] = part["shapes"], part["extents"]
                maps[sweep.places(first_cell[rows], cells[rows])] = part["maps"]
                places = sweep.places(first_box[rows], part["counts"])
                boxes[places], weights[places] = part["boxes"], part["weights"]
                images[places] = np.repeat(rows, part["counts"])
            self._keep_regions(new, found, discovery)
            others = source_arrays(found.sources) | whitening_arrays(self.describer.whitening)
            others |= {LEARNED + name: array for name, array in discovery.state()[1].items()}
            for name, array in others.items():
                new.add(name, array)
            numbers = {"images": n, "dimension": d, "regions": len(discovery.vectors_), "boxes": m}
            new.commit({**content, **numbers})

    def _keep_regions(
        self, new: storage.Writing, found: FoundRegions, discovery: ObjectDiscovery
    ) -> None:
        """Keep the regions of each photo, so that an update finds those of new photos alone."""
        r, c = len(discovery.vectors_), len(discovery.whitening_.mean)
        weights = new.create(FOUND_WEIGHTS, np.float64, (r,))
        vectors = new.create(FOUND_VECTORS, np.float32, (r, c))
        for number, regions in found:
            row = int(np.searchsorted(found.kept, number))
            part = slice(discovery.starts_[row], discovery.starts_[row + 1])
            weights[part], vectors[part] = regions.weights, regions.vectors

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
