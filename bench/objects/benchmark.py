"""The benchmark `objects`: localisation, groups, descriptors, centrality and time of discovery."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from torch import Tensor
from tqdm import tqdm

import features
from features.networks.frame import ImageActivations
from features.objects.groups import find_groups

from ..data.collections import data_folder
from ..table import Table, show
from . import SECTIONS, scenes
from .activations import Discovered, Eye, discover, see
from .centrality import centrality
from .descriptors import descriptors
from .grouping import grouping_table
from .localisation import localisation
from .regional import regional
from .timing import seconds

Network = Callable[[Tensor], ImageActivations]

# Settings were chosen on the scenes of seed 0, nothing on those of this seed.
SEED = 2
DRAWN = {"gradient": 20, "leaves": 10, "noise": 10}  # objects over each background
SEVERAL = scenes.Sizes(objects=20)


def run(*, section: str | None = None) -> list[Table]:
    """Measure every section whose data are at hand, or one of them."""
    weights = data_folder() / "weights" / "mobilenet_v2.safetensors"
    grocery, raccoon = data_folder() / "grocery", data_folder() / "raccoon"
    if not weights.exists():
        print("objects: skipped, MobileNetV2's weights are not in DIFFUSION_DATA")
        return []
    eye = Eye(features.backbone("mobilenet_v2", weights))
    needs: dict[str, tuple[Callable[[], list[Table]], list[Path]]] = {
        "pasted": (lambda: pasted(eye, scenes.pasted(grocery, SEED)), [grocery]),
        "several": (lambda: several(eye, scenes.several(grocery, SEED, SEVERAL)), [grocery]),
        "drawn": (lambda: drawn(eye), []),
        "raccoons": (lambda: raccoons(eye, raccoon, grocery), [raccoon, grocery]),
        "time": (lambda: time(eye), []),
    }
    tables = []
    for name in SECTIONS if section is None else (section,):
        measure, folders = needs[name]
        absent = [folder.name for folder in folders if not folder.exists()]
        if absent:
            print(f"{name}: skipped, {' and '.join(absent)} are not in DIFFUSION_DATA\n")
            continue
        tables += measure()
    return tables


def pasted(eye: Network, pictures: scenes.Pictures) -> list[Table]:
    """Measure localisation, centrality, groups, descriptors and search on pasted objects."""
    found = discover(see(pictures, eye))
    tables = [*localised(found), show(centrality([found]))]
    assert pictures.queries is not None
    queries = see(pictures.queries, eye)
    table, vectors = descriptors(found, queries)
    return [*tables, show(table), show(regional(found, queries, vectors))]


def several(eye: Network, pictures: scenes.Pictures) -> list[Table]:
    """Measure localisation and groups where an image shows several objects."""
    return localised(discover(see(pictures, eye)))


def drawn(eye: Network) -> list[Table]:
    """Measure localisation in drawn scenes."""
    tables = []
    for background, n_objects in DRAWN.items():
        found = discover(see(scenes.drawn(background, n_objects, SEED), eye))
        tables.append(show(localisation(found)))
    return tables


def raccoons(eye: Network, raccoon: Path, grocery: Path) -> list[Table]:
    """Measure localisation and groups of raccoons among photos of groceries."""
    found = discover(see(scenes.raccoons(raccoon, grocery), eye))
    return [*localised(found), show(centrality([found]))]


def localised(found: Discovered) -> list[Table]:
    """Measure where objects are found, and which of them are found to be the same."""
    return [show(localisation(found)), show(grouped(found))]


def grouped(found: Discovered) -> Table:
    """Group the boxes of all images, and compare the groups with the true objects."""
    seen, discovery = found.seen, found.default
    vectors, boxes, counts = [], [], []
    for i, activations in enumerate(tqdm(seen, desc=f"{seen.name}: boxes", unit="image")):
        regions = discovery.boxes(discovery.saliency(activations, i))
        vectors.append(discovery.describe_boxes(activations, regions.boxes))
        boxes.append(discovery.frame_of(activations).to_pixels(regions.boxes))
        counts.append(len(regions))
    images = np.repeat(np.arange(len(seen)), counts)
    truths = list(zip(seen.boxes, seen.objects, strict=True))
    groups = find_groups(np.concatenate(vectors), images)
    return grouping_table(seen.name, groups, images, np.concatenate(boxes), truths)


def time(eye: Eye) -> list[Table]:
    """Measure the time of each step."""
    return [show(table) for table in seconds(eye, scenes.drawn("leaves", 5, SEED))]
