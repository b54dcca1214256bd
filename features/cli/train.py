"""The verb of the command `features` that trains a network."""

from __future__ import annotations

import argparse

from diffusion.cli import command

from ..settings import PRETEXTS, NetworkSettings, TrainingSettings
from .arguments import add_network, add_options, add_run, from_options, run_of


def add_verbs(verbs: command.Verbs) -> None:
    """Add `train`."""
    train = verbs.add("train", _train, "Train a network's descriptors on a folder of photos.")
    train.add_argument(
        "folder", metavar="FOLDER", help="photos, with a subfolder per class or clip"
    )
    train.add_argument(
        "out", metavar="OUT", help="folder to write; an interrupted training is resumed"
    )
    train.add_argument(
        "--pairs", metavar="FILE", help="lines of two matching files, separated by a tab"
    )
    train.add_argument(
        "--manifold", action="store_true", help="train without labels, on pairs mined by diffusion"
    )
    train.add_argument(
        "--pretext",
        choices=PRETEXTS,
        help="train without labels: on tiles of the photos (jigsaw, context), or on patches "
        "followed through clips, one subfolder of frames each (tracks)",
    )
    train.add_argument(
        "--validation", metavar="FOLDER", help="photos with a subfolder per class, to measure mAP"
    )
    add_network(train)
    add_options(train.add_argument_group("training"), TrainingSettings)
    add_run(train)


def _train(options: argparse.Namespace) -> None:
    from ..training.folder import train_folder

    trained = train_folder(
        options.folder,
        options.out,
        from_options(NetworkSettings, options),
        training=from_options(TrainingSettings, options),
        run=run_of(options),
        pairs=options.pairs,
        manifold=options.manifold,
        pretext=options.pretext,
        validation=options.validation,
    )
    first, last = trained.history[0], trained.history[-1]
    figures = f"loss {last['loss']:.4f} after {last['epoch']} epochs"
    if last["map"] is not None:
        figures += f", mAP {first['map']:.1f} -> {last['map']:.1f}"
    command.report(f"{trained.path}: {figures}")
