"""Training of a network on a folder of photos, resumable after every epoch."""

from __future__ import annotations

import os
from dataclasses import replace

from diffusion import storage
from diffusion.errors import DiffusionError
from diffusion.validation import check_choice, check_integer

from ..description.recipe import Describer, Recipe, choose_device, load_network
from ..images.reading import quiet
from ..networks.trained import check_stored
from ..settings import (
    PRETEXTS,
    ImageSettings,
    NetworkSettings,
    RunSettings,
    TrainingSettings,
    as_settings,
)
from .objective import Objective
from .photos import Photos
from .pretext import make_pretext
from .samples import supervise
from .supervised import Supervised
from .trainer import MARGINS, TRAINING, Trained, Trainer


def train_folder(
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    network: NetworkSettings,
    *,
    training: TrainingSettings | None = None,
    run: RunSettings | None = None,
    pairs: str | os.PathLike[str] | None = None,
    manifold: bool = False,
    pretext: str | None = None,
    validation: str | os.PathLike[str] | None = None,
) -> Trained:
    """Train a network on a folder of photos.

    Photos of one subfolder are of one class, unless `pairs`, `manifold` or `pretext` is given.
    With the contrastive and the triplet loss, tuples are mined before each epoch with the current
    network: an anchor, a matching photo, and the hardest photos that do not match. Each time a
    photo is used, another part of it is cut out, resized to a square and made lighter or darker.
    Batch normalisation keeps its statistics.

    A pretext is not told which photos match, and has a loss of its own:

    - "jigsaw": nine tiles of a photo are put into another order, and the order is learned;
    - "context": it is learned on which side of the central tile each of the others is;
    - "tracks": each subfolder holds the frames of a clip, sorted by name. Patches are followed
      through the clip, and what a patch shows at the end is to match what it shows at the start.

    If it starts from random weights, the statistics of batch normalisation are those of the photos.

    Equal photos, weights, settings and seed give equal networks on the same machine. After an
    interruption the same call resumes after the last complete epoch and gives the same network. A
    complete training is not repeated.

    Parameters
    ----------
    folder : path-like
        Folder of photos; its subfolders are read too, and files that are no images are left out.
    out : path-like
        Folder to write: an earlier training, an empty folder or one that does not exist. It
        receives `network.safetensors`, `history.json` and `curve.svg`.
    network : NetworkSettings
        Network and pooling. Without weights training starts from random ones.
    training : TrainingSettings, optional
        Loss, epochs, learning rate and mining; by default `TrainingSettings()`.
    run : RunSettings, optional
        Batch size (at least 2), threads, device and progress bars; by default `RunSettings()`.
    pairs : path-like, optional
        File that lists matching photos: two files per line, separated by a tab.
    manifold : bool, default False
        Train without labels, on what `features.training.mining.mine_manifold` finds.
    pretext : {"jigsaw", "context", "tracks"}, optional
        Train without labels, on what the photos show by themselves. Of the settings of the loss
        and of mining, only `anchors` is used: at most so many tracks per epoch.
    validation : path-like, optional
        Folder with a subfolder per class, whose mean average precision (mAP) is measured after
        every epoch with each photo as a query.

    Returns
    -------
    Trained

    Raises
    ------
    DiffusionError
        If an argument is not as described, there is nothing to learn from, or `out` holds
        another training or anything else.

    References
    ----------
    Radenović, Tolias, Chum. CNN Image Retrieval Learns from BoW. ECCV 2016. Iscen, Tolias,
    Avrithis, Chum. Mining on Manifolds: Metric Learning without Labels. CVPR 2018. Noroozi,
    Favaro. Unsupervised Learning of Visual Representations by Solving Jigsaw Puzzles. ECCV 2016.
    Doersch, Gupta, Efros. Unsupervised Visual Representation Learning by Context Prediction. ICCV
    2015. Wang, Gupta. Unsupervised Learning of Visual Representations Using Videos. ICCV 2015.
    """
    network = as_settings(network, "network", NetworkSettings)
    training = as_settings(training, "training", TrainingSettings)
    run = as_settings(run, "run", RunSettings)
    check_integer(run.batch_size, "batch_size", low=2)
    if training.loss == "softmax" and (manifold or pairs is not None):
        raise DiffusionError("loss: 'softmax' needs classes, not pairs or a manifold")
    if pretext is not None:
        check_choice(pretext, "pretext", PRETEXTS)
        if manifold or pairs is not None:
            raise DiffusionError("pretext: expected neither pairs nor a manifold beside it")
        if training.loss != TrainingSettings.loss or training.margin is not None:
            raise DiffusionError("loss, margin: a pretext has a loss of its own, without a margin")
    # The caller named the backbone, unless a file of weights does.
    named = network.backbone is not None
    untrained = load_network(network, seed=training.seed, allow_download=named)
    check_stored(untrained)
    trunk = untrained.backbone
    side = trunk.sides.nearest(training.size or trunk.input_size)
    known = supervise(pairs=pairs, manifold=manifold)
    device = choose_device(run.device)
    out = storage.as_path(out, "out")
    storage.check_target(out, TRAINING)
    with quiet():
        recipe = Recipe(network, ImageSettings(size=side))
        describer = Describer(recipe, untrained, device=device)
        photos = Photos(folder, describer, run)
        judged = None if validation is None else Photos(validation, describer, run)
        settings = replace(training, size=side, margin=training.margin or MARGINS[training.loss])
        size = run.batch_size
        objective: Objective
        if pretext is None:
            objective = Supervised(untrained, settings, size, photos, known)
        else:
            random = network.weights is None
            objective = make_pretext(pretext, untrained, settings, size, photos, random=random)
        trainer = Trainer(untrained, settings, run, photos, judged, objective)
        trainer.sign(network.weights, pairs)
    with storage.claimed(out, TRAINING):
        return trainer.run(out)
