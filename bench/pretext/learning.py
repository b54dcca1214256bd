"""The trainings of the benchmark, and the table of what they are worth."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from features.description.recipe import load_network
from features.networks.retrieval_network import RetrievalNetwork
from features.networks.trained import save_trained
from features.settings import NetworkSettings, RunSettings, TrainingSettings
from features.training.folder import train_folder
from features.training.statistics import settle
from features.training.trainer import Trained

from ..measure import timed
from ..table import Table
from .judging import judge, judge_histograms, photos_of

BACKBONE = "mobilenet_v2"
# Random networks of other kinds, for comparison.
OTHERS = ("alexnet", "resnet18")
COLUMNS = ("descriptor", "minutes of training", "mAP, cosine", "mAP, diffusion")


@dataclass(frozen=True)
class Lesson:
    """What networks learn from and are judged by.

    Attributes
    ----------
    photos, clips : Path
        Folders of photos, and of the frames of clips.
    judged : Path
        Folder with a subfolder per class, of photos that nothing is learned from.
    size : int
        Longer side of the photos that are judged.
    puzzle, patch : int
        Sides of the squares that puzzles are cut from, and of the patches of tracks.
    epochs : dict of str to int
        Epochs of each training: "jigsaw", "context", "tracks" and "mining".
    """

    photos: Path
    clips: Path
    judged: Path
    size: int
    puzzle: int
    patch: int
    epochs: dict[str, int] = field(default_factory=dict)


# Squares that mining learns from, and the settings of trainings that start from random weights.
_MINING: dict[str, Any] = {"size": 97, "anchors": 100, "neighbors": 20}
_BATCHES = {"tracks": 64, "jigsaw": 16, "context": 16}
_FROM_RANDOM: dict[str, Any] = {"learning_rate": 1e-3, "anchors": 600}


def compare(title: str, lesson: Lesson, scratch: Path, weights: Path | None) -> Table:
    """Judge networks that have learned nothing, from a pretext, by mining, or on ImageNet."""
    table = Table(title, COLUMNS)

    def show(name: str, network: RetrievalNetwork, seconds: float | None = None) -> None:
        minutes = None if seconds is None else seconds / 60
        table.rows.append([name, minutes, *judge(network, lesson.judged, lesson.size)])
        print(table.rows[-1], flush=True)

    def learn(name: str, start: Path | None = None, **settings: Any) -> tuple[Trained, float]:
        backbone = BACKBONE if start is None else None
        network = NetworkSettings(backbone, start)
        out = scratch / (name if start is None else f"{name} after {start.parent.name}")
        return timed(lambda: _train(name, lesson, out, network, **settings))

    table.rows.append(["colour histogram", None, *judge_histograms(lesson.judged, 128)])
    for other in (*OTHERS, BACKBONE):
        show(f"{other}, random", load_network(NetworkSettings(other)))
    network = load_network(NetworkSettings(BACKBONE))
    settle(network, photos_of(lesson.photos, network, lesson.size))
    show(f"{BACKBONE}, random, with the photos' statistics", network)
    # Without the statistics, all descriptors are equal, and there is nothing to mine.
    settled = scratch / "random.safetensors"
    save_trained(settled, network)
    if weights is not None:
        show(f"{BACKBONE}, ImageNet", load_network(NetworkSettings(BACKBONE, weights)))
    for name in ("tracks", "context", "jigsaw"):
        trained, seconds = learn(name, **_FROM_RANDOM)
        show(f"{BACKBONE}, {name}", trained.network, seconds)
        if name == "tracks":
            mined, more = learn("mining", trained.path)
            show(f"{BACKBONE}, tracks, then manifold mining", mined.network, seconds + more)
    trained, seconds = learn("mining", settled)
    show(f"{BACKBONE}, manifold mining", trained.network, seconds)
    return table


def _train(
    name: str, lesson: Lesson, out: Path, network: NetworkSettings, **settings: Any
) -> Trained:
    """Train on a pretext or by mining, for the epochs of the lesson."""
    mining = name == "mining"
    if mining:
        settings = {**_MINING, **settings}
    else:
        settings["size"] = lesson.patch if name == "tracks" else lesson.puzzle
    return train_folder(
        lesson.clips if name == "tracks" else lesson.photos,
        out,
        network,
        training=TrainingSettings(epochs=lesson.epochs[name], **settings),
        run=RunSettings(batch_size=_BATCHES.get(name, 32), progress=True),
        manifold=mining,
        pretext=None if mining else name,
    )
