"""How much of a saliency map lies on the object."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from features.objects.discovery import ObjectDiscovery
from features.objects.maps import class_activation, coverage, crow_saliency, feature_saliency
from features.settings import DiscoverySettings

from ..table import Table
from .activations import PAPER, Discovered

# The best settings for objects pasted on photos; on other collections some maps are all wrong.
SHARP: dict[str, Any] = {"dimension": 256, "map_beta": 5.0, "contrast": (30, 60)}

BINS = 10
_BARS = " ▁▂▃▄▅▆▇█"

MapOf = Callable[[int], NDArray[Any]]


def kinds_of_maps(found: Discovered, classifier: NDArray[np.float32]) -> dict[str, MapOf]:
    """Return, by name, functions from the number of an image to a saliency map."""
    seen = found.seen

    def feature(i: int) -> NDArray[Any]:
        return feature_saliency(seen[i])

    def objects(discovery: ObjectDiscovery) -> MapOf:
        return lambda i: discovery.saliency(seen[i], i)

    def control(centrality: str, **settings: Any) -> MapOf:
        discovery = ObjectDiscovery(DiscoverySettings(centrality=centrality, **settings))
        return objects(discovery.fit_regions(found.regions))

    return {
        "uniform": lambda i: np.ones(seen.maps[i].shape[1:]),
        "FS": feature,
        "F̂⁵": lambda i: feature(i) ** 5,
        "CAM": lambda i: class_activation(seen[i], classifier),
        "CroW": lambda i: crow_saliency(seen[i]),
        "OS, paper's settings, g = 1": control("none", **PAPER),
        "OS, paper's settings, degree": control("degree", **PAPER),
        "OS, paper's settings": objects(found.paper),
        "OS, g = 1": control("none"),
        "OS, degree": control("degree"),
        "OS": objects(found.default),
        "OS, sharper": control("katz", **SHARP),
    }


def localisation(found: Discovered, classifier: NDArray[np.float32]) -> Table:
    """Measure the share of each kind of saliency map that lies in the true boxes."""
    seen = found.seen
    shown = [i for i in range(len(seen)) if len(seen.boxes[i])]
    inside = {i: coverage(seen.boxes[i], seen.maps[i].shape[1:], 1, 0) for i in shown}
    edges = [f"{b / BINS:.1f}" for b in range(BINS)]
    table = Table(
        f"**Localisation, {seen.name}**: {len(shown)} of {len(seen)} images have boxes",
        ("saliency", "mean", "median", "above FS, %", *edges, "histogram"),
        notes=[
            "Precision of a map: its saliency inside the true boxes over all of its saliency. "
            "Columns 0.0 to 0.9: percentage of the images whose precision lies between that value "
            "and 0.1 more. F̂⁵ is contrast alone; g = 1 is OS without centrality. Sharper: "
            "dimension 256, map_beta 5, contrast (30, 60). The mode in the paper, on INSTRE with "
            "VGG: FS about 0.2, OS 0.95."
        ],
    )
    kinds = kinds_of_maps(found, classifier)
    feature = kinds["FS"]
    plain = np.array([precision(feature(i), inside[i]) for i in shown])
    for name, of in tqdm(kinds.items(), desc=f"{seen.name}: saliency", unit="map"):
        values = np.array([precision(of(i), inside[i]) for i in shown])
        above = None if name == "FS" else round(100 * float(np.mean(values > plain)), 1)
        mean, median = float(values.mean()), float(np.median(values))
        table.rows.append([name, round(mean, 3), round(median, 3), above, *histogram(values)])
    return table


def precision(saliency: NDArray[Any], inside: NDArray[np.float64]) -> float:
    """Return the share of the saliency that is inside the boxes; 0 for a map of zeros."""
    total = float(saliency.sum())
    return float((saliency * inside).sum()) / total if total > 0 else 0.0


def histogram(values: Sequence[float] | NDArray[np.float64]) -> list[Any]:
    """Return the percentage of values in each tenth of [0, 1], and a bar chart of them as text."""
    counts = np.histogram(values, BINS, (0, 1))[0]
    shares = 100 * counts / len(values)
    heights = np.ceil(shares / max(shares.max(), 1) * (len(_BARS) - 1)).astype(int)
    return [*(round(float(share)) for share in shares), "".join(_BARS[h] for h in heights)]
