"""How good descriptors of photos are, and what reading the photos costs beside the network."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import features
from features.description.whitening import pairs_of
from features.images.reading import find_images, fitted_size, quiet, read_image, read_size
from features.networks.fusing import fused
from features.training.evaluation import leave_one_out
from features.training.samples import labels_of_folders

from ..data.collections import data_folder
from ..table import Table

BACKBONE = "mobilenet_v2"
# Grocery's photos are 348 pixels wide and 348 or 464 high: 353 is the nearest 32 k + 1.
SQUARE, LONGEST = 225, 353
# The product pictures whose object is a class of ImageNet's, and its number.
ICONIC = {
    "Banana": 954,
    "Granny-Smith": 948,
    "Lemon": 951,
    "Orange": 950,
    "Pineapple": 953,
    "Pomegranate": 957,
    "Cabbage": 936,
    "Cucumber": 943,
    "Zucchini": 939,
    "Green-Bell-Pepper": 945,
    "Orange-Bell-Pepper": 945,
    "Red-Bell-Pepper": 945,
    "Yellow-Bell-Pepper": 945,
    "Brown-Cap-Mushroom": 947,
}
OVERHEAD_IMAGES, ROUNDS = 128, 3


# How each training of train/Packages differs from the defaults.
TRAININGS: dict[str, dict[str, Any]] = {
    "labels, softmax": {"loss": "softmax", "epochs": 6, "learning_rate": 3e-4},
    "no labels, manifold": {"manifold": True, "epochs": 2, "anchors": 600},
}


def run(*, long: bool = False) -> list[Table]:
    """Measure classification, retrieval and the overhead of extraction, where the data are.

    With `long`, trainings too.
    """
    weights = data_folder() / "weights" / "mobilenet_v2.safetensors"
    photos = data_folder() / "grocery"
    if not weights.exists() or not photos.exists():
        print("features: skipped, grocery and MobileNetV2's weights are not in DIFFUSION_DATA")
        return []
    tables = []
    parts: list[Callable[[], Table]] = [
        lambda: classification(weights, photos / "iconic"),
        lambda: overhead(weights, photos / "test" / "Packages"),
        lambda: retrieval(weights, photos),
    ]
    if long:
        parts.append(lambda: learning(weights, photos))
    for part in parts:
        tables.append(part())
        print(tables[-1], end="\n\n", flush=True)
    return tables


def classification(weights: Path, folder: Path) -> Table:
    """Ask the classifier about the product pictures whose object it knows."""
    table = Table(
        "**Product pictures whose object is a class of ImageNet's**, MobileNetV2",
        ("picture", "its class", "first", "probability of the first"),
    )
    network = features.backbone(BACKBONE, weights)
    for file in find_images(folder):
        name = Path(file).stem.removesuffix("_Iconic")
        if name in ICONIC:
            image = torch.from_numpy(read_image(folder / file, (network.input_size,) * 2))
            with torch.no_grad():
                outputs = network.classify(network.normalize(image.permute(2, 0, 1)[None]))
            chances = outputs.softmax(dim=1)[0]
            first = int(chances.argmax())
            table.rows.append([name, ICONIC[name], first, float(chances[first])])
    hits = sum(row[1] == row[2] for row in table.rows)
    table.notes.append(f"{hits} of {len(table.rows)} first.")
    return table


def overhead(weights: Path, folder: Path) -> Table:
    """Time extraction beside a bare loop of the network over the same tensors, decoded before."""
    table = Table(
        f"**Extraction** of {OVERHEAD_IMAGES} photos beside a bare forward loop, "
        f"{torch.get_num_threads()} threads",
        (
            "longest side",
            "bare loop, images/s",
            "the same, batch norm folded",
            "extraction, images/s",
            "share of the bare loop",
            "of the folded",
        ),
        notes=[
            f"Medians of {ROUNDS} rounds in turn. Extraction reads, decodes and resizes the files "
            "and writes the descriptors; the bare loops have their batches in memory. Extraction "
            "folds batch normalisation into the convolutions; the second loop does so too. Loading "
            "the network, in none of them, is taken off."
        ],
    )
    network = features.RetrievalNetwork(features.backbone(BACKBONE, weights, head=False))
    folded = fused(network)
    for size in (SQUARE, LONGEST, 513):
        with tempfile.TemporaryDirectory() as scratch:
            chosen = Path(scratch) / "photos"
            chosen.mkdir()
            for number, file in enumerate(find_images(folder)[:OVERHEAD_IMAGES]):
                (chosen / f"{number:04}.jpg").symlink_to(folder / file)
            batches = _decoded(chosen, size, network)
            loading = statistics.median(_seconds_loading(weights) for _ in range(ROUNDS))
            seconds: dict[str, list[float]] = {"bare": [], "folded": [], "extraction": []}
            for number in range(ROUNDS):
                for name, loop in (("bare", network), ("folded", folded)):
                    start = time.perf_counter()
                    with torch.inference_mode():
                        for batch in batches:
                            ready = loop.backbone.normalize(batch.permute(0, 3, 1, 2))
                            loop(ready).numpy()
                    seconds[name].append(time.perf_counter() - start)
                start = time.perf_counter()
                features.extract_folder(
                    chosen,
                    Path(scratch) / f"out{number}",
                    backbone=BACKBONE,
                    weights=weights,
                    size=size,
                )
                seconds["extraction"].append(time.perf_counter() - start - loading)
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        shares = (
            statistics.median(a / b for a, b in zip(seconds[n], seconds["extraction"], strict=True))
            for n in ("bare", "folded")
        )
        table.rows.append(
            [
                size,
                *(OVERHEAD_IMAGES / value for value in medians.values()),
                *(f"{100 * share:.0f} %" for share in shares),
            ]
        )
    return table


def _seconds_loading(weights: Path) -> float:
    start = time.perf_counter()
    fused(features.RetrievalNetwork(features.backbone(BACKBONE, weights, head=False)))
    return time.perf_counter() - start


def _decoded(folder: Path, size: int, network: features.RetrievalNetwork) -> list[torch.Tensor]:
    """Return the batches that extraction makes of a folder, in its order."""
    from features.images.batches import Item, plan

    files = [folder / file for file in find_images(folder)]
    with quiet():
        fitted = [fitted_size(read_size(f), size, network.backbone.sides) for f in files]
        items = [Item(str(f), 0, 0, *s) for f, s in zip(files, fitted, strict=True)]
        return [
            torch.from_numpy(
                np.stack([read_image(files[n], (batch.height, batch.width)) for n in batch.numbers])
            )
            for batch in plan(items, 32)
        ]


def retrieval(weights: Path, photos: Path) -> Table:
    """Describe grocery's test photos in several ways, and search them with each of themselves."""
    test = [line.split(", ") for line in (photos / "test.txt").read_text().splitlines() if line]
    labels = {file.removeprefix("test/"): int(label) for file, label, _ in test}
    table = Table(
        f"**Grocery**, {len(labels)} photos, cosine, every photo a query, MobileNetV2",
        ("descriptor", "dimension", "mAP", "mAP, packages among packages"),
        notes=[
            "Packages among packages: its photos searched among themselves. Whitenings are learned "
            "on train/Packages; the supervised one takes photos of one product as pairs."
        ],
    )

    def add(name: str, X: NDArray[np.float32], files: list[str]) -> None:
        truth = np.array([labels[file] for file in files])
        packages = np.array([file.startswith("Packages/") for file in files])
        figures = [
            _mean_precision(X, truth),
            _mean_precision(X[packages], truth[packages]),
        ]
        table.rows.append([name, X.shape[1], *figures])
        print(table.rows[-1], flush=True)

    given = data_folder() / "descriptors" / "grocery_test.npy"
    if given.exists():
        names = (given.parent / "grocery_test_files.txt").read_text().split("\n")
        X = np.load(given)
        add("given, GeM, squashed to 224", X, [n.removeprefix("test/") for n in names[: len(X)]])
    settings: dict[str, dict[str, Any]] = {
        f"GeM, squashed to {SQUARE}": {"size": SQUARE, "square": True},
        f"GeM, aspect kept, {LONGEST}": {"size": LONGEST},
        f"GeM, aspect kept, {LONGEST}, three scales": {
            "size": LONGEST,
            "scales": features.MULTI_SCALE,
        },
    }
    for name, chosen in settings.items():
        with tempfile.TemporaryDirectory() as scratch:
            out, learning = (
                features.extract_folder(
                    photos / part,
                    Path(scratch) / part.replace("/", "-"),
                    backbone=BACKBONE,
                    weights=weights,
                    progress=True,
                    **chosen,
                )
                for part in ("test", "train/Packages")
            )
            X = np.array(out.vectors)
            add(name, X, out.files)
            pairs = pairs_of([str(Path(file).parent) for file in learning.files])
            pca = features.learn_pca(learning.vectors)
            supervised = features.learn_supervised(learning.vectors, pairs)
            for kind, whitening in (("PCA", pca), ("supervised", supervised)):
                for dimension in (whitening.dimension, 256):
                    white = whitening.reduced(dimension).apply(X)
                    add(f"{name}, {kind} whitening", white, out.files)
    return table


def learning(weights: Path, photos: Path) -> Table:
    """Train on the photos of train/Packages; search test/Packages with each of its photos."""
    table = Table(
        "**Learning** from train/Packages, MobileNetV2, GeM: test/Packages searched with each of "
        f"its photos, cosine, {torch.get_num_threads()} threads",
        ("training", "epochs", "minutes", "mAP before", "mAP after", "gain"),
        notes=[
            "Settings but for those in bench/features.py are the defaults of `features train`; "
            f"squares of {SQUARE} are learned from, whole photos at {LONGEST} are searched."
        ],
    )
    with tempfile.TemporaryDirectory() as scratch:

        def judge(name: str, file: Path, backbone: str | None) -> float:
            found = features.extract_folder(
                photos / "test" / "Packages",
                Path(scratch) / f"described {name}",
                backbone=backbone,
                weights=file,
                size=LONGEST,
                progress=True,
            )
            return _mean_precision(found.vectors, labels_of_folders(found.files))

        before = judge("before", weights, BACKBONE)
        for name, settings in TRAININGS.items():
            start = time.perf_counter()
            trained = features.train_folder(
                photos / "train" / "Packages",
                Path(scratch) / name,
                backbone=BACKBONE,
                weights=weights,
                size=SQUARE,
                progress=True,
                **settings,
            )
            minutes = (time.perf_counter() - start) / 60
            after = judge(name, trained.path, None)
            epochs = settings["epochs"]
            table.rows.append([name, epochs, minutes, before, after, round(after - before, 1)])
            print(table.rows[-1], flush=True)
    return table


def _mean_precision(X: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    return round(100 * float(np.nanmean(leave_one_out(X, labels))), 1)
