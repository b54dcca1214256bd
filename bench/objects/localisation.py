"""How well saliency maps and their boxes show where the objects are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from features.networks.frame import ImageActivations
from features.objects.egm import Regions
from features.objects.maps import feature_saliency

from ..table import Table
from .activations import Discovered
from .measures import Agreement, Place, agreement

# The maps of the table, in its order.
UNIFORM, FEATURE, CONTRAST = "uniform", "FS", "contrast alone, F̂⁵"
PAPER, PEAKS, WALK = "OS, paper's settings", "peaks", "whole map of F̂⁵, without recurrence"
NONE, KATZ, DEFAULT = "whole map, g = 1", "whole map, Katz", "whole map, degree (default)"


def places(found: Discovered, activations: ImageActivations, image: int) -> dict[str, Place]:
    """Return every kind of map of an image, with its boxes, by name."""
    frame, default = activations.frame, found.default
    F, F5 = feature_saliency(activations.maps), feature_saliency(activations.maps) ** 5
    S, peaks = found.paper.peaks(activations, image), default.peaks(activations, image)
    everywhere = Regions(np.array([[0.0, 0.0, *F.shape[::-1]]]), np.ones(1))
    maps = {
        UNIFORM: Place(np.ones_like(F), frame, everywhere),
        FEATURE: Place(F, frame, default.feature_egm.regions(F)),
        CONTRAST: Place(F5, frame, default.regions(F5)),
        PAPER: Place(S, frame, found.paper.regions(S)),
        PEAKS: Place(peaks, frame, default.regions(peaks)),
    }
    starts = (
        (WALK, default, F5),
        (NONE, found.none, found.none.peaks(activations, image)),
        (KATZ, found.katz, found.katz.peaks(activations, image)),
        (DEFAULT, default, peaks),
    )
    for name, discovery, start in starts:
        whole = discovery.saliency(activations, image, peaks=start)
        maps[name] = Place(whole, discovery.frame_of(activations), discovery.boxes(whole))
    return maps


def localisation(found: Discovered) -> Table:
    """Compare every kind of map, and the boxes found on it, with the true boxes."""
    seen = found.seen
    shown = [i for i in range(len(seen)) if len(seen.boxes[i])]
    agreements: dict[str, list[Agreement]] = {}
    for i in tqdm(shown, desc=f"{seen.name}: maps", unit="image"):
        for name, place in places(found, seen[i], i).items():
            agreements.setdefault(name, []).append(agreement(place, seen.boxes[i]))
    return Table(
        f"**Localisation, {seen.name}**: {len(shown)} of {len(seen)} images have boxes, "
        f"{sum(len(boxes) for boxes in seen.boxes)} in all",
        ("map", "precision", "median", "pointing", "best box", "recall", "boxes right"),
        [[name, *summary(all_of)] for name, all_of in agreements.items()],
        [
            "Precision: share of the map that is inside the true boxes, mean and median over "
            "images. Pointing: share of the images whose largest value is inside one. Best box: "
            "share of the images whose heaviest box overlaps a true one by one half or more. "
            "Recall: share of the true boxes that any box overlaps so. Boxes right: share of the "
            "boxes that overlap a true one so. Whole maps: peaks x border prior, walk, clip; the "
            "boxes are theirs. The other boxes are those of EGM, for the uniform map the image."
        ],
    )


def summary(agreements: Sequence[Agreement]) -> list[Any]:
    """Return the figures of a row: precision, median, pointing, best box, recall, boxes right."""

    def total(name: str) -> int:
        return sum(getattr(one, name) for one in agreements)

    precisions = [one.precision for one in agreements]
    count = len(agreements)
    figures = (
        float(np.mean(precisions)),
        float(np.median(precisions)),
        sum(one.pointing for one in agreements) / count,
        total("best") / count,
        total("recalled") / total("true"),
        total("right") / max(total("found"), 1),
    )
    return [round(figure, 3) for figure in figures]
