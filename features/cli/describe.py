"""The verbs of the command `features` that describe images and whiten descriptors."""

from __future__ import annotations

import argparse
import os

from diffusion.cli import command
from diffusion.errors import DiffusionError

from .arguments import (
    BY_DEFAULT,
    add_images,
    add_network,
    add_run,
    images_of,
    names_network,
    network_of,
    run_of,
    say_skipped,
)

# Largest number of matching pairs that a whitening is learned from: ample for a few thousand
# dimensions.
_PAIRS = 1 << 18


def add_verbs(verbs: command.Verbs) -> None:
    """Add `extract` and `whiten`."""
    extract = verbs.add(
        "extract", _extract, "Describe the images of a folder, or update descriptors."
    )
    extract.add_argument("folder", metavar="FOLDER", help="images; subfolders are read too")
    extract.add_argument(
        "out", metavar="OUT", help="folder to write, for `features index` and `features whiten`"
    )
    extract.add_argument(
        "--whitening", metavar="FILE", help="whitening that `features whiten` wrote"
    )
    add_network(extract, about=BY_DEFAULT)
    add_images(extract)
    add_run(extract)

    whiten = verbs.add("whiten", _whiten, "Learn a whitening from descriptors.")
    whiten.add_argument(
        "descriptors", metavar="DESCRIPTORS", help="folder that `features extract` wrote"
    )
    whiten.add_argument("whitening", metavar="WHITENING.npz", help="file to write")
    whiten.add_argument(
        "--supervised",
        action="store_true",
        help="learn from matching pairs: images of one folder show the same thing",
    )
    whiten.add_argument("--dimension", type=int, help="number of directions to keep (default all)")
    whiten.add_argument(
        "--shrinkage",
        type=float,
        help="shrinkage of the covariance, 0 to 1 (default estimated from the descriptors)",
    )


def _extract(options: argparse.Namespace) -> None:
    from ..description.descriptors import is_finished
    from ..description.extraction import extract_folder, update_folder

    if is_finished(options.out) and not names_network(options):
        written = update_folder(options.folder, options.out, run=run_of(options))
    else:
        written = extract_folder(
            options.folder,
            options.out,
            network_of(options),
            images=images_of(options),
            run=run_of(options),
            whitening=options.whitening,
        )
    skipped = written.manifest["skipped"]
    say_skipped(written.manifest, options.out)
    n, d = written.vectors.shape
    regions = "" if written.regional is None else f", {len(written.regional)} of regions"
    changes = "" if written.changes is None else f" ({written.changes})"
    command.report(
        f"{options.out}: {n} descriptors of dimension {d}{regions}; {len(skipped)} images skipped"
        f"{changes}"
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
    command.report(f"{options.whitening}: {len(learned.mean)} -> {learned.dimension} dimensions")
