"""The command `features`: images in, descriptors out."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from diffusion._version import __version__
from diffusion.cli import command
from diffusion.errors import DiffusionError

from .arguments import add_machine, add_network, common, say_skipped
from .objects import add_verbs

# Matching pairs that a whitening is learned from at most: plenty for some thousand dimensions.
_PAIRS = 1 << 18


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 0, or 2 for bad input."""
    return command.run(_parser(), arguments)


def _parser() -> command.Parser:
    parser = command.Parser(prog="features", description="Describe images for search.")
    parser.add_argument("--version", action="version", version=f"diffusion-rerank {__version__}")
    parser.set_defaults(smaller="; a smaller --size or --batch-size needs less")
    verbs = command.Verbs(parser)
    verb = verbs.add

    extract = verb("extract", _extract, "Describe every JPEG and PNG image of a folder.")
    extract.add_argument("folder", metavar="FOLDER", help="of images; read with its folders")
    extract.add_argument("out", metavar="OUT", help="folder to write, for `diffusion build`")
    add_network(extract)
    extract.add_argument(
        "--size", type=int, default=512, help="longer side of larger images (%(default)s)"
    )
    extract.add_argument(
        "--square", action="store_true", help="squash to a square, in place of the aspect ratio"
    )
    extract.add_argument(
        "--multi-scale", action="store_true", help="average over scales 1, 1/sqrt(2) and 1/2"
    )
    extract.add_argument(
        "--regions", choices=("rmac", "grid"), help="describe these regions of each image too"
    )
    extract.add_argument("--whitening", metavar="FILE", help="that `features whiten` wrote")
    add_machine(extract)

    whiten = verb("whiten", _whiten, "Learn a whitening from descriptors.")
    whiten.add_argument("descriptors", metavar="DESCRIPTORS", help="that `features extract` wrote")
    whiten.add_argument("whitening", metavar="WHITENING.npz", help="file to write")
    whiten.add_argument(
        "--supervised",
        action="store_true",
        help="from matching pairs: images of one folder show the same thing",
    )
    whiten.add_argument("--dimension", type=int, help="keep so many directions (all)")
    whiten.add_argument(
        "--shrinkage", type=float, help="of the covariance, 0 to 1 (estimated from the data)"
    )

    train = verb("train", _train, "Learn a network's descriptors from a folder of photos.")
    train.add_argument("folder", metavar="FOLDER", help="with a folder for each class")
    train.add_argument("out", metavar="OUT", help="folder to write; gone on with, if interrupted")
    add_network(train)
    train.add_argument(
        "--loss",
        default="contrastive",
        metavar="NAME",
        help="softmax, contrastive or triplet (%(default)s)",
    )
    train.add_argument("--pairs", metavar="FILE", help="lines of two matching files, a tab between")
    train.add_argument(
        "--manifold", action="store_true", help="without labels: mine pairs by diffusion"
    )
    train.add_argument(
        "--validation", metavar="FOLDER", help="with a folder for each class, for the mAP"
    )
    train.add_argument("--epochs", type=int, default=10, help="(%(default)s)")
    train.add_argument("--size", type=int, help="side of the images (the network's own)")
    train.add_argument("--learning-rate", type=float, default=1e-4, help="(%(default)g)")
    train.add_argument("--margin", type=float, help="(contrastive 0.7, triplet 0.1)")
    train.add_argument("--negatives", type=int, default=3, help="of an anchor (%(default)s)")
    train.add_argument("--anchors", type=int, default=2000, help="an epoch (%(default)s)")
    train.add_argument(
        "--neighbors", type=int, default=50, help="that mining looks at (%(default)s)"
    )
    train.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    add_machine(train)
    add_verbs(verbs)
    return parser


def _extract(options: argparse.Namespace) -> None:
    from ..description.extraction import extract_folder
    from ..networks.retrieval_network import MULTI_SCALE

    written = extract_folder(
        options.folder,
        options.out,
        pooling=options.pooling,
        size=options.size,
        square=options.square,
        scales=MULTI_SCALE if options.multi_scale else (1.0,),
        regions=options.regions,
        whitening=options.whitening,
        **common(options),
    )
    skipped = written.manifest["skipped"]
    say_skipped(skipped, options.out)
    n, d = written.vectors.shape
    regions = "" if written.regional is None else f", {len(written.regional)} of regions"
    print(
        f"{options.out}: {n} descriptors of dimension {d}{regions}; {len(skipped)} images skipped"
    )


def _whiten(options: argparse.Namespace) -> None:
    from ..description.descriptors import open_descriptors
    from ..description.whitening import learn_pca, learn_supervised, pairs_of

    if not options.whitening.endswith(".npz"):
        raise DiffusionError(f"{options.whitening}: expected a name that ends in .npz")
    descriptors = open_descriptors(options.descriptors)
    if descriptors.whitening() is not None:
        raise DiffusionError(f"{options.descriptors}: expected descriptors not whitened yet")
    settings = {"dimension": options.dimension, "shrinkage": options.shrinkage}
    if options.supervised:
        folders = [os.path.dirname(file) for file in descriptors.files]
        learned = learn_supervised(descriptors.vectors, pairs_of(folders, most=_PAIRS), **settings)
    else:
        learned = learn_pca(descriptors.vectors, **settings)
    learned.save(options.whitening)
    print(f"{options.whitening}: {len(learned.mean)} -> {learned.dimension} dimensions")


def _train(options: argparse.Namespace) -> None:
    from ..training.folder import train_folder

    names = (
        "pooling", "loss", "pairs", "manifold", "validation", "epochs", "size", "learning_rate",
        "margin", "negatives", "anchors", "neighbors", "seed",
    )  # fmt: skip
    trained = train_folder(
        options.folder,
        options.out,
        **{name: getattr(options, name) for name in names},
        **common(options),
    )
    first, last = trained.history[0], trained.history[-1]
    figures = f"loss {last['loss']:.4f} after {last['epoch']} epochs"
    if last["map"] is not None:
        figures += f", mAP {first['map']:.1f} -> {last['map']:.1f}"
    print(f"{trained.path}: {figures}")
