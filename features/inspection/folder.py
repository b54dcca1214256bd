"""A resumable inspection of a network on a folder of photos."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from diffusion import storage
from diffusion.errors import DiffusionError
from diffusion.storage.strings import printable
from diffusion.validation import check_integer

from ..description import sweep
from ..description.recipe import Describer, make_recipe
from ..description.scan import Found, scan
from ..description.sources import plain_text
from ..description.sweep import Sweep
from ..images.reading import Listing, list_folder, quiet, read_image
from ..settings import ImageSettings, NetworkSettings, RunSettings, as_settings
from .activations import Ranking, maxima
from .occlusion import occlusion
from .page import LEGEND, Crop, Shown, write_page
from .receptive_field import ReceptiveField, receptive_field
from .units import check_channels, check_layer, maps_of, prepared

# Entries of the folder beside the manifest: the shards of an unfinished run, and what it wrote.
_PARTIAL, PAGE, FOUND = "partial", "page.html", "inspection.json"
FORMAT = storage.Format(
    "diffusion-rerank inspection", 1, "an inspection", frozenset({_PARTIAL, PAGE, FOUND})
)
# Channels that are shown if none are named.
SHOWN = 12


@dataclass(frozen=True, eq=False)
class Inspection:
    """What was found of the channels of a layer.

    Attributes
    ----------
    path : Path
        The folder that was written.
    layer : str
    field : ReceptiveField
        In pixels of the images that the network was given.
    channels : list of dict
        As `inspection.json` holds them, see `inspect_folder`.
    manifest : dict
        The recipe, and the photos that were skipped with the reason.
    """

    path: Path
    layer: str
    field: ReceptiveField
    channels: list[dict[str, Any]]
    manifest: dict[str, Any]


def inspect_folder(
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    network: NetworkSettings,
    *,
    layer: str | None = None,
    channels: Sequence[int] | None = None,
    count: int = 9,
    images: ImageSettings | None = None,
    run: RunSettings | None = None,
) -> Inspection:
    """Find the photos of a folder that excite the channels of a layer most, and show why.

    For each channel, `page.html` shows the receptive fields of the strongest units, one per photo,
    and of the strongest photo the activation map and the occlusion map. Photos that cannot be read
    are skipped; `skipped` in the manifest lists them with the reason. After an interruption at any
    moment, the same call resumes and writes what it would have written without it; if nothing has
    changed since it finished, it computes nothing.

    Parameters
    ----------
    folder : path-like
        Folder of photos; its subfolders are read too.
    out : path-like
        Folder to write: an earlier inspection, an empty folder or one that does not exist.
    network : NetworkSettings
        Network. It is not pooled, so `pooling` has to be None.
    layer : str, optional
        A stage of the trunk, such as "layer3" of ResNet or "block13" of MobileNetV2; by default the
        last one.
    channels : sequence of int, optional
        By default the twelve most selective ones of those that respond strongly, see Notes.
    count : int >= 1, default 9
        Number of photos per channel.
    images : ImageSettings, optional
        Size of the photos; by default `ImageSettings()`. `scales` and `regions` do not apply.
    run : RunSettings, optional
        Batch size, threads, device and progress bars; by default `RunSettings()`.

    Returns
    -------
    Inspection

    Raises
    ------
    DiffusionError
        If an argument is not as described, no photo can be read, or `out` holds anything else.

    Notes
    -----
    The selectivity of channel c is ::

        s_c = mean of the `count` largest a_c(x) over photos x / mean of |A_c(x)[p]| over x and p,

    where A_c(x)[p] is the activation in cell p and a_c(x) their maximum. It does not depend on the
    scale of a channel, and would be high for one that is hardly ever on. So only those half of the
    channels are considered whose largest activation is not below the median over all channels.

    `inspection.json` holds `layer`, `receptive_field` and `channels`: the `channel`, its
    `selectivity`, its `photos`, by descending `value` and each with `file`, `cell` (row, column)
    and `box` (left, top, right, bottom in pixels of the upright photo, clipped to it), and the
    `occlusion` of the first: `score`, `size` and `stride` in pixels of the `image` (height, width)
    that the network was given, and `drops`, the map.

    The network sees every photo once, and then the strongest photo of each channel about 256 times,
    with a square of an eighth of its longer side over each place.

    References
    ----------
    Zeiler, Fergus. Visualizing and Understanding Convolutional Networks. ECCV 2014.
    """
    network = as_settings(network, "network", NetworkSettings)
    images = as_settings(images, "images", ImageSettings)
    run = as_settings(run, "run", RunSettings)
    count = check_integer(count, "count", low=1)
    _refuse_others(network, images)
    recipe = make_recipe(network, images)
    listing = list_folder(folder)
    folder, out = os.fspath(folder), storage.as_path(out, "out")
    storage.check_target(out, FORMAT)
    # The caller named the backbone, unless a file of weights does.
    named = network.backbone is not None
    describer = Describer(recipe, None, None, run.device, allow_download=named)
    with storage.claimed(out, FORMAT), quiet():
        return _Work(folder, out, describer, layer, channels, count, run).run(listing)


def _refuse_others(network: NetworkSettings, images: ImageSettings) -> None:
    """Raise if settings are given that an inspection does not have."""
    if network.pooling is not None:
        raise DiffusionError("pooling: expected None, an inspection does not pool the maps")
    for name in ("scales", "regions"):
        if getattr(images, name) != getattr(ImageSettings(), name):
            raise DiffusionError(f"{name}: expected the default, an inspection has no other")


class _Chosen(NamedTuple):
    """The channels that are shown, and the photos that excite them most."""

    channels: list[int]
    selectivity: NDArray[np.float64]  # of each channel that is shown
    ranking: Ranking  # of all channels
    skipped: dict[str, str]


class _Work:
    """One inspection, from the sizes of the photos to the manifest."""

    def __init__(
        self,
        folder: str,
        out: Path,
        describer: Describer,
        layer: str | None,
        channels: Sequence[int] | None,
        count: int,
        run: RunSettings,
    ) -> None:
        self.folder, self.out = folder, out
        self.describer, self.trunk = describer, describer.network.backbone
        self.layer = check_layer(self.trunk, layer)
        self.named = None
        if channels is not None:
            self.named = check_channels(self.trunk, self.layer, channels)
        self.count, self.run_settings = count, run
        self.field = receptive_field(self.trunk, self.layer)
        self.shards = storage.Shards(out / _PARTIAL)
        self.made_with = {**sweep.settings_of(describer), "layer": self.layer}

    def run(self, listing: Listing) -> Inspection:
        found = scan(self.folder, listing, self.describer, self.run_settings)
        found.refuse_nothing(self.folder)
        responses = Sweep(self.folder, found.items, self.shards, self.made_with, self.run_settings)
        key = storage.fingerprint(
            [self.made_with, self.named, self.count, found.items, found.skipped]
        )
        if self._is_done(key, found, responses):
            self.shards.discard()
            return self._opened()
        responses.run(self._responses, name="activations")
        chosen = self._chosen(found, responses)
        drawn = self._draw(chosen, found)
        content = {
            "layer": self.layer,
            "receptive_field": asdict(self.field),
            "channels": [
                self._entry(place, chosen, found, name) for place, name in enumerate(drawn)
            ],
        }
        with storage.replacing(self.out / FOUND, "w", follow=False) as file:
            json.dump(content, file, indent=1)
        read = len(found.items) + len(found.skipped) - len(chosen.skipped)
        count = self.trunk.stages[self.layer].channels
        write_page(
            self.out / PAGE,
            f"What excites {self.layer} of {self.trunk.name}",
            self._text(len(drawn), count, read),
            self._shown(chosen, found, drawn),
        )
        about = {
            **sweep.about_run(chosen.skipped, found, self.describer),
            "key": key,
            "files": {name: storage.sha256_of(self.out / name) for name in (FOUND, PAGE)},
            "images": read,
            "layer": self.layer,
            "channels": count,
        }
        storage.save(self.out, FORMAT, about, {})
        self.shards.discard()
        return self._opened()

    # --- photos -----------------------------------------------------------------------------------

    def _responses(self, images: Tensor, items: list[int]) -> dict[str, NDArray[Any]]:
        """Return the maxima of all channels, their cells, and the mean activations."""
        maps = maps_of(self.trunk, prepared(self.trunk, images), self.layer)
        values, cells = maxima(maps)
        sums = maps.abs().double().sum(dim=(2, 3)).cpu().numpy()
        positions = np.full(len(items), maps.shape[2] * maps.shape[3], np.int64)
        return {
            "values": values,
            "cells": cells.astype(np.int32),
            "sums": sums,
            "positions": positions,
        }

    def _chosen(self, found: Found, responses: Sweep) -> _Chosen:
        count = self.trunk.stages[self.layer].channels
        ranking, skipped = Ranking(count, self.count), dict(found.skipped)
        total, positions = np.zeros(count), 0
        for numbers, failed, arrays in responses.contents():
            skipped |= {found.items[number].file: reason for number, reason in failed.items()}
            if numbers:
                ranking.add(numbers, arrays["values"], arrays["cells"].astype(np.int64))
                total += arrays["sums"].sum(axis=0)
                positions += int(arrays["positions"].sum())
        if not positions:
            found._replace(items=[], skipped=skipped).refuse_nothing(self.folder)
        selectivity = selectivities(ranking.values, total / positions)
        channels = self.named
        if channels is None:
            channels = most_selective(ranking.values[:, 0], selectivity, SHOWN)
        return _Chosen(channels, selectivity[channels], ranking, skipped)

    # --- the strongest photos ---------------------------------------------------------------------

    def _draw(self, chosen: _Chosen, found: Found) -> list[str]:
        """Write the maps of the strongest photo of each channel to shards; return their names."""
        names = []
        for channel in tqdm(
            chosen.channels,
            desc="occlusion",
            unit="channel",
            disable=not self.run_settings.progress,
        ):
            number = int(chosen.ranking.numbers[channel, 0])
            item = found.items[number]
            names.append(storage.fingerprint([self.made_with, "maps", channel, item]))
            if self.shards.has(names[-1]):
                continue
            image = self._image(found, number)
            ready = prepared(self.trunk, torch.from_numpy(image)[None])
            activations = maps_of(self.trunk, ready, self.layer)[0, channel].float().cpu().numpy()
            covered = occlusion(self.trunk, image, channel, self.layer)
            self.shards.write(
                names[-1],
                {"activations": activations, "drops": covered.drops},
                score=covered.score,
                size=covered.size,
                stride=covered.stride,
                image=covered.image,
            )
        return names

    def _image(self, found: Found, number: int) -> NDArray[np.uint8]:
        """Decode a photo at the size that the network takes."""
        item = found.items[number]
        return read_image(os.path.join(self.folder, item.file), (item.height, item.width))

    def _drawn(self, name: str) -> storage.Shard:
        shard = self.shards.read(name)
        if shard is None:
            raise DiffusionError(f"{self.shards.file(name)}: damaged after it was written")
        return shard

    # --- what is written --------------------------------------------------------------------------

    def _text(self, shown: int, channels: int, photos: int) -> list[str]:
        size, stride = self.field.size, self.field.stride
        which = (
            "the most selective of those that respond strongly" if self.named is None else "named"
        )
        return [
            f"{shown} of {channels} channels, {which}, on {photos} photos. A unit of this layer "
            f"sees {size[1]} x {size[0]} pixels; neighbouring units are {stride[1]} pixels apart.",
            LEGEND,
        ]

    def _entry(self, place: int, chosen: _Chosen, found: Found, drawn: str) -> dict[str, Any]:
        """Return what `inspection.json` says of a channel."""
        channel, ranking, shard = chosen.channels[place], chosen.ranking, self._drawn(drawn)
        photos = []
        for number, value, cell in zip(
            ranking.numbers[channel].tolist(),
            ranking.values[channel].tolist(),
            ranking.cells[channel].tolist(),
            strict=True,
        ):
            item, (down, across) = found.items[number], found.sizes[number]
            # Each side is rounded separately to one that the network takes.
            scale = np.array([across / item.width, down / item.height] * 2)
            box = self.field.boxes(cell, (item.height, item.width)) * scale
            file = plain_text(item.file)
            photos.append({"file": file, "value": value, "cell": cell, "box": box.tolist()})
        drops = {"drops": shard.arrays["drops"].tolist()}
        selectivity = float(chosen.selectivity[place])
        return {
            "channel": channel,
            "selectivity": selectivity,
            "photos": photos,
            "occlusion": {**shard.meta, **drops},
        }

    def _shown(self, chosen: _Chosen, found: Found, drawn: Sequence[str]) -> Iterator[Shown]:
        """Yield what the page shows of each channel."""
        ranking = chosen.ranking
        for channel, name in zip(chosen.channels, drawn, strict=True):
            best, crops = None, []
            for number, value, cell in zip(
                ranking.numbers[channel],
                ranking.values[channel],
                ranking.cells[channel],
                strict=True,
            ):
                image = self._image(found, number)
                best = image if best is None else best
                box = self.field.boxes(cell, (image.shape[0], image.shape[1]))
                crops.append(Crop(printable(found.items[number].file), float(value), image, box))
            arrays, about = self._drawn(name)
            yield Shown(
                channel,
                crops,
                arrays["activations"],
                self._frame(),
                arrays["drops"],
                about["stride"],
            )

    def _frame(self) -> tuple[float, float, float, float]:
        """Return left and top of the first cell, and its sides: a cell is centred in its field."""
        (down, across), (top, left) = self.field.stride, self.field.offset
        height, width = self.field.size
        return left + (width - across) / 2, top + (height - down) / 2, across, down

    def _is_done(self, key: str, found: Found, responses: Sweep) -> bool:
        """Return whether what is there is what this run would write.

        Photos that could not be decoded are tried again, for the disk may have failed.
        """
        try:
            manifest = storage.read_manifest(self.out, FORMAT)
            files = {name: storage.sha256_of(self.out / name) for name in (FOUND, PAGE)}
        except DiffusionError:
            return False
        if (manifest.get("key"), manifest.get("files")) != (key, files):
            return False
        skipped = {entry["file"] for entry in manifest["skipped"]}
        again = [n for n, item in enumerate(found.items) if plain_text(item.file) in skipped]
        return not responses.can_read(again)

    def _opened(self) -> Inspection:
        content = json.loads((self.out / FOUND).read_text("utf-8"))
        manifest = storage.read_manifest(self.out, FORMAT)
        return Inspection(self.out, self.layer, self.field, content["channels"], manifest)


def selectivities(values: NDArray[np.float32], means: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return s_c of channels with the largest values (c, k) and the mean |activation| (c,).

    It is 0 for a channel that is never above 0.
    """
    strength = np.where(values[:, 0] > 0, values.mean(axis=1, dtype=np.float64), 0.0)
    # Where the mean is 0, so is the strength.
    return np.maximum(strength, 0.0) / np.where(means > 0, means, 1.0)


def most_selective(
    largest: NDArray[np.float32], selectivity: NDArray[np.float64], count: int
) -> list[int]:
    """Return the channels of the highest selectivity, of those whose maximum reaches the median."""
    strong = largest >= np.median(largest)
    order = np.lexsort((-selectivity, ~strong))
    return [int(channel) for channel in order[: min(count, int(strong.sum()))]]
