"""Resumable object discovery in a folder of photos.

Two passes over the photos (see `features.description.sweep`) run the network: the first finds the
nodes of every photo, from which recurring objects are learned; the second finds these objects in
every photo. Activation maps are far too large to be kept from the first pass to the second.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

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
    FORMAT,
    GROUPS,
    MADE_WITH,
    OBJECTS,
    PAGE,
    PARTIAL,
    PHOTOS,
    Descriptors,
    check_target,
    earlier_descriptors,
    open_descriptors,
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
from .group_page import MOST_GROUPS, group_rows, groups_json
from .groups import Groups, find_groups
from .kept import FoundNodes, Located, as_arrays, earlier_blocks
from .locate import Locator, Mapper
from .nodes import find_nodes
from .opened import Objects, is_of_earlier_version, open_objects
from .page import LEGEND, Picture, write_page
from .writing import FoundBoxes, write_objects

# Photos on the page.
_PICTURES = 12
# What the nodes of a photo depend on, by the setting `nodes`.
_SETTINGS_OF_NODES = {
    "dense": ("nodes", "feature_threshold", "patch"),
    "regions": ("nodes", "feature_egm"),
}


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

    An earlier discovery is updated. The nodes of photos that are known, as `extract_folder` knows
    them, are kept, and found in new and altered photos alone. The objects are then learned again
    from all nodes, and located again in all photos, because they depend on all nodes; neither is
    done if photos have only got other names or times. `descriptors.changes` of the result counts
    what has changed, and `learned_again` says whether the objects were learned.

    Parameters
    ----------
    folder : path-like
        Folder of photos; its subfolders are read too.
    out : path-like
        Folder to write: an earlier object discovery, an empty folder or one that does not exist.
        `open_objects` reads it, and `open_descriptors` its descriptors; `page.html` shows some of
        the photos and the groups of boxes that show the same object, and `groups.json` lists them.
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
        Descriptor of a photo, from the peaks of object saliency and the Gaussian mixture (EGM) on
        them. `"egm"` is the paper's OS.EGM, the sum of the MACs (maximum activations) of the
        regions, and `"egm-weighted"` the same sum weighted by π;
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
        If an argument is not as described, fewer than two readable photos have a node, a photo
        is altered during the discovery, or `out` holds anything else.

    Notes
    -----
    The network sees every photo twice. With k nodes per photo, c channels, m <= 12 sampled cells of
    c' channels of the fine map, and d = `dimension`, the disk holds 4 (k c + m c' + k d) bytes per
    photo beside maps and descriptors, so that an update can learn from them, and twice as much
    while the work lasts; for photos of 512 x 512 pixels k is at most 81. The memory grows by
    4 d bytes per node and by the graph of the nodes.

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
    """Open the descriptors of an object discovery whose nodes were kept.

    Those of an earlier version have no nodes, and are returned without their sources, so that they
    are not taken over.
    """
    descriptors = open_descriptors(path)
    if is_of_earlier_version(descriptors):
        return replace(descriptors, sources=None)
    objects = open_objects(path)
    objects.nodes()
    return objects.descriptors


def _printable(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of groups whose names can be written to a page."""
    return {**row, "crops": [{**c, "name": printable(c["name"])} for c in row["crops"]]}


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
        self.run_settings = run
        self.network = sweep.settings_of(describer)
        # What the nodes of a photo depend on, and what everything else depends on besides.
        names = _SETTINGS_OF_NODES[settings.nodes]
        of_nodes = {name: value for name, value in asdict(settings).items() if name in names}
        self.made_with = {**self.network, "found": of_nodes}
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
        nodes = self._sweep_nodes(update)
        if self._has_same_settings(update) and update.is_idle(nodes):
            self.shards.discard()
            return replace(open_objects(self.out), descriptors=update.left_alone())
        update = update.intact()
        if update.earlier is None:
            nodes = self._sweep_nodes(update)
        update.found.refuse_nothing(self.folder)
        self.found = update.found
        nodes.run(self._nodes, name="nodes", digests=True, place=(1, 2))
        found = FoundNodes(update, nodes, self.shards)
        taken = self._taken_over(update, found)
        discovery = self._learned(found) if taken is None else taken.discovery()
        locator = Locator(self.mapper, discovery, self.descriptor)
        digest = storage.fingerprint(discovery.state())
        files = found.sources.files
        if taken is None:
            objects = self._locate(found, locator, digest)
            located: Callable[[], Iterator[Located]] = partial(self._blocks, objects)
            boxes = self._grouped(objects)
        else:
            located = partial(earlier_blocks, taken)
            groups = Groups(taken.box_groups, taken.box_likeness)
            boxes = FoundBoxes(taken.boxes, taken.box_images, groups)
        if taken is None or taken.files != files:
            self._show(locator, list(files), boxes)
        content = {
            **sweep.about_run(found.skipped, update.found, self.describer),
            PHOTOS: place_of(self.folder, self.out),
            MADE_WITH: self.made_with,
            OBJECTS: {**self.about, "digest": digest},
        }
        write_objects(self.out, self.describer, found, discovery, located, boxes, content)
        self.shards.discard()
        written = open_objects(self.out)
        described = replace(written.descriptors, changes=update.changes(found.kept))
        return replace(written, descriptors=described, learned_again=taken is None)

    def _sweep_nodes(self, update: Update) -> Sweep:
        return update.sweep(self.shards, [self.made_with, "nodes"])

    def _has_same_settings(self, update: Update) -> bool:
        """Return whether objects were discovered before with the same settings."""
        if update.earlier is None:
            return False
        about = update.earlier.manifest[OBJECTS]
        return {name: value for name, value in about.items() if name != "digest"} == self.about

    def _taken_over(self, update: Update, found: FoundNodes) -> Objects | None:
        """Return what was discovered before if the photos have only got other names or times.

        The objects depend on all nodes and on the order of the photos.
        """
        if not self._has_same_settings(update):
            return None
        before, rows = open_objects(self.out), update.known.rows[found.kept]
        return before if np.array_equal(rows, np.arange(len(before.files))) else None

    # --- learning ---------------------------------------------------------------------------------

    def _nodes(self, images: Tensor, items: list[int]) -> dict[str, NDArray[Any]]:
        found = []
        for item, activations in zip(items, self.mapper.activations(images), strict=True):
            try:
                found.append(find_nodes(activations, self.settings))
            except DiffusionError as error:
                raise DiffusionError(f"{self.found.items[item].file}: {error}") from None
        return as_arrays(found)

    def _learned(self, found: FoundNodes) -> ObjectDiscovery:
        """Return the fitted discovery, which is kept beside the shards until the end."""
        sources = found.sources
        photos = [found.names, list(sources.files), sources.digests]
        path = self.shards.path / storage.fingerprint([self.made_with, self.about, photos])
        with contextlib.suppress(DiffusionError):
            return ObjectDiscovery.load(path, verify=True)
        discovery = ObjectDiscovery(self.settings, progress=self.run_settings.progress)
        discovery.fit_nodes(found)
        self.shards.path.mkdir(exist_ok=True)
        discovery.save(path)
        return ObjectDiscovery.load(path)

    # --- locating ---------------------------------------------------------------------------------

    def _locate(self, found: FoundNodes, locator: Locator, digest: str) -> Sweep:
        """Pass over all photos, to locate the objects that were learned; numbers are rows."""
        items = [self.found.items[n] for n in found.kept]
        sizes = [self.found.sizes[n] for n in found.kept]
        settings = [self.network, {"discovery": digest, "as": self.descriptor}]
        objects = Sweep(self.folder, items, self.shards, settings, self.run_settings)

        def work(images: Tensor, rows: list[int]) -> dict[str, NDArray[Any]]:
            return self._objects(locator, images, rows, sizes)

        objects.run(work, name="objects", whole=True, place=(2, 2))
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
            "vectors": np.concatenate([one.vectors for one in located]),
        }

    def _grouped(self, objects: Sweep) -> FoundBoxes:
        """Return the boxes of all photos in the order of the photos, and their groups."""
        counts = np.zeros(len(objects.items), np.int64)
        for rows, _, part in objects.contents():
            counts[rows] = part["counts"]
        first, m = np.cumsum(counts) - counts, int(counts.sum())
        boxes, vectors = np.empty((m, 4), np.float32), np.empty((m, 0), np.float32)
        for rows, _, part in objects.contents():
            if not vectors.size:
                vectors = np.empty((m, part["vectors"].shape[1]), np.float32)
            inside = sweep.places(first[rows], part["counts"])
            boxes[inside], vectors[inside] = part["boxes"], part["vectors"]
        images = np.repeat(np.arange(len(counts)), counts)
        groups = find_groups(vectors, images, progress=self.run_settings.progress)
        return FoundBoxes(boxes, images, groups)

    def _blocks(self, objects: Sweep) -> Iterator[Located]:
        for rows, _, part in objects.contents():
            white = sweep.whitened(self.describer, part["descriptors"])
            yield np.array(rows), {**part, "descriptors": white}

    def _show(self, locator: Locator, names: list[str], boxes: FoundBoxes) -> None:
        """Write the page and the groups."""
        shown, quiet = min(self.pictures, len(names)), not self.run_settings.progress
        rows = np.linspace(0, len(names) - 1, shown).astype(int)
        groups = groups_json(boxes.groups, names, boxes.boxes, boxes.images)
        with storage.replacing(self.out / GROUPS, "w", follow=False) as file:
            json.dump(groups, file, indent=1)

        def pictures() -> Iterator[Picture]:
            for row in tqdm(rows, desc="pictures", unit="image", disable=quiet):
                path = os.path.join(self.folder, names[row])
                yield locator.picture(path, printable(names[row]), int(row))

        def path_of(name: str) -> str:
            return os.path.join(self.folder, name)

        def link_of(name: str) -> str:
            path = Path(os.path.relpath(path_of(name), self.out)).as_posix()
            return quote(path, errors="surrogateescape")

        text = [
            f"{len(names)} photos, of which {shown} are shown, with "
            f"{len(boxes.boxes)} boxes of objects. {LEGEND}",
            "Feature saliency is high where the network responds strongly to a photo by itself. "
            "The peaks of objects are where something is shown that recurs in other photos. Object "
            "saliency spreads from the peaks to what resembles them around, so that it fills the "
            "objects.",
            f"{len(groups)} groups of boxes show the same object in several photos; groups.json "
            "lists them all. A click on one opens its photo.",
        ]
        crops = tqdm(
            map(_printable, group_rows(groups, path_of, link_of)),
            desc="groups",
            unit="group",
            total=min(len(groups), MOST_GROUPS),
            disable=quiet,
        )
        title = "Recurring objects in these photos"
        write_page(self.out / PAGE, title, text, pictures(), crops)
