"""The benchmark `objects`: localisation, descriptors, centrality and time of object discovery."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import features

from ..data.collections import data_folder
from ..table import Table, show
from . import SECTIONS, scenes
from .activations import Eye, discover, see
from .centrality import centrality
from .descriptors import descriptors
from .localisation import localisation
from .regional import regional
from .timing import seconds

# Settings were chosen on the scenes of seed 0, nothing on those of this seed.
SEED = 2
DRAWN = {"gradient": 20, "leaves": 10, "noise": 10}  # objects over each background


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
        "drawn": (lambda: drawn(eye), []),
        "raccoons": (lambda: raccoons(eye, raccoon, grocery), [raccoon, grocery]),
        "time": (lambda: [show(seconds(eye, scenes.drawn("leaves", 5, SEED)))], []),
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


def pasted(eye: Eye, pictures: scenes.Pictures) -> list[Table]:
    """Measure localisation, centrality, descriptors and regional search on pasted objects."""
    found = discover(see(pictures, eye))
    tables = [show(localisation(found, eye.classifier)), show(centrality([found]))]
    assert pictures.queries is not None
    queries = see(pictures.queries, eye)
    table, vectors = descriptors(found, queries)
    return [*tables, show(table), show(regional(found, queries, vectors))]


def drawn(eye: Eye) -> list[Table]:
    """Measure localisation in drawn scenes."""
    tables = []
    for background, n_objects in DRAWN.items():
        found = discover(see(scenes.drawn(background, n_objects, SEED), eye))
        tables.append(show(localisation(found, eye.classifier)))
    return tables


def raccoons(eye: Eye, raccoon: Path, grocery: Path) -> list[Table]:
    """Measure localisation of raccoons among photos of groceries."""
    found = discover(see(scenes.raccoons(raccoon, grocery), eye))
    return [show(localisation(found, eye.classifier)), show(centrality([found]))]
