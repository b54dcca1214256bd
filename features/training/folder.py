"""Learning descriptors from a folder of photos, resumable after every epoch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from diffusion.errors import DiffusionError
from diffusion.storage import as_path
from diffusion.validation import check_choice, check_integer, check_real

from ..description.recipe import Describer, Recipe, check_statistics, choose_device, load_network
from ..description.sweep import claimed
from ..images.batches import check_workers
from ..images.reading import quiet
from ..networks.trained import check_stored
from .photos import Photos
from .samples import supervise
from .trainer import CURVE, HISTORY, NETWORK, STATE, Settings, Trained, Trainer

LOSSES = ("softmax", "contrastive", "triplet")
MARGINS = {"softmax": 0.0, "contrastive": 0.7, "triplet": 0.1}


def train_folder(
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    backbone: str | None = None,
    weights: str | os.PathLike[str] | None = None,
    pooling: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    loss: str = "contrastive",
    pairs: str | os.PathLike[str] | None = None,
    manifold: bool = False,
    validation: str | os.PathLike[str] | None = None,
    epochs: int = 10,
    size: int | None = None,
    batch_size: int = 32,
    learning_rate: float = 1e-4,
    margin: float | None = None,
    negatives: int = 3,
    anchors: int = 2000,
    neighbors: int = 50,
    seed: int = 0,
    workers: int | None = None,
    device: str | None = None,
    progress: bool = False,
) -> Trained:
    """Train a network on a folder of photos.

    Photos of one folder are of one class, unless `pairs` or `manifold` says otherwise. With the
    contrastive and the triplet loss, tuples are mined anew before each epoch, with the network
    of then: an anchor, a photo that matches, and the hardest photos that do not. Each time a
    photo is seen, it is another part of it, squashed to a square, lighter or darker. Batch
    normalisation keeps its statistics.

    Equal photos, weights, settings and seed give equal networks on the same machine, also where
    the training was interrupted: the same call goes on after the last whole epoch.

    Parameters
    ----------
    folder : path-like
        Read with the folders in it; what is no image is left out.
    out : path-like
        A folder that is a training, is empty or does not exist. It receives
        `network.safetensors`, `history.json` and `curve.svg`.
    backbone, weights, pooling, mean, std
        As `features.extract_folder` takes them. Without weights the network learns from nothing.
    loss : {"softmax", "contrastive", "triplet"}, default "contrastive"
    pairs : path-like, optional
        Lines of two matching files with a tab between.
    manifold : bool, default False
        Learn without labels, from what `features.training.mining.mine_manifold` finds.
    validation : path-like, optional
        A folder with a folder a class: its mAP, each photo a query, is measured every epoch.
    epochs : int >= 1, default 10
    size : int >= 1, optional
        Side of the squares that are learned from, and longest side of validation photos; by
        default what the trunk was trained on.
    batch_size : int >= 2, default 32
        Images at a time, whole tuples of them.
    learning_rate : float > 0, default 1e-4
        Of AdamW at the beginning; it goes down to 0 along a cosine.
    margin : float > 0, optional
        By default 0.7 for the contrastive loss, 0.1 for the triplet loss.
    negatives : int >= 1, default 3
        Of each anchor.
    anchors : int >= 1, default 2000
        Tuples an epoch, at most one a photo.
    neighbors : int >= 1, default 50
        The k of `mine_manifold`.
    seed : int >= 0, default 0
    workers, device, progress
        As for `features.extract_folder`.

    Returns
    -------
    Trained

    Raises
    ------
    DiffusionError
        If an argument is not as described, there is nothing to learn from, or `out` holds
        anything else, or another training.

    References
    ----------
    Radenović, Tolias, Chum. CNN Image Retrieval Learns from BoW. ECCV 2016. Iscen, Tolias,
    Avrithis, Chum. Mining on Manifolds: Metric Learning without Labels. CVPR 2018.
    """
    check_choice(loss, "loss", LOSSES)
    if loss == "softmax" and (manifold or pairs is not None):
        raise DiffusionError("loss: 'softmax' needs classes, not pairs or a manifold")
    network = load_network(backbone, weights, pooling, seed=check_integer(seed, "seed", low=0))
    check_stored(network)
    settings = Settings(
        loss,
        check_integer(epochs, "epochs", low=1),
        network.backbone.sides.nearest(
            network.backbone.input_size if size is None else check_integer(size, "size", low=1)
        ),
        check_integer(batch_size, "batch_size", low=2),
        check_real(learning_rate, "learning_rate", low=0.0, strict=True),
        MARGINS[loss] if margin is None else check_real(margin, "margin", low=0.0, strict=True),
        check_integer(negatives, "negatives", low=1),
        check_integer(anchors, "anchors", low=1),
        check_integer(neighbors, "neighbors", low=1),
        seed,
    )
    statistics = check_statistics(mean, std)
    recipe = Recipe(size=settings.size, mean=statistics["mean"], std=statistics["std"])
    known = supervise(pairs=pairs, manifold=manifold)
    workers = check_workers(workers)
    chosen = choose_device(device)
    out = as_path(out, "out")
    _check_target(out)
    with quiet():
        describer = Describer(recipe, network, device=chosen)
        photos = Photos(folder, describer, workers, progress)
        judged = None
        if validation is not None:
            judged = Photos(validation, describer, workers, progress)
        trainer = Trainer(network, settings, photos, judged, known, progress)
        trainer.sign(weights, pairs)
    with claimed(out, "training"):
        return trainer.run(out)


def _check_target(out: Path) -> None:
    """Raise unless `out` is a training, is empty or does not exist."""
    if out.exists() and not out.is_dir():
        raise DiffusionError(f"{out}: expected a directory, this is a file")
    ours = {NETWORK, STATE, HISTORY, CURVE}
    for entry in out.iterdir() if out.exists() else ():
        if entry.name not in ours and not entry.name.endswith(".tmp"):
            raise DiffusionError(
                f"{out}: expected a training or an empty directory, found {entry.name!r}"
            )
