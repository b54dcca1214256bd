"""The command `features`: images in, descriptors out."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from diffusion import command
from diffusion._version import __version__
from diffusion.errors import DiffusionError

from .object_cli import add_verbs, say_skipped


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
    extract.add_argument(
        "--backbone",
        metavar="NAME",
        help="alexnet, vgg16, resnet18, resnet50, resnet101, mobilenet_v2, torchvision:NAME or "
        "hf:DIRECTORY-or-NAME; not needed where the weights' file says it",
    )
    extract.add_argument(
        "--weights", metavar="FILE", help="a state dict or a checkpoint, .safetensors or .pth"
    )
    extract.add_argument(
        "--pooling", metavar="NAME", help="mac, spoc, crow, gem, rmac, or a layer such as fc7"
    )
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
    extract.add_argument("--batch-size", type=int, default=32, help="(%(default)s)")
    extract.add_argument("--workers", type=int, help="threads that decode (one a core, at most 8)")
    extract.add_argument("--device", help="such as cpu or cuda:1 (a GPU where there is one)")
    extract.add_argument("-q", "--quiet", action="store_true", help="no progress bars")

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

    add_verbs(verbs)
    return parser


def _extract(options: argparse.Namespace) -> None:
    from .folder import extract_folder
    from .network import MULTI_SCALE

    written = extract_folder(
        options.folder,
        options.out,
        backbone=options.backbone,
        weights=options.weights,
        pooling=options.pooling,
        size=options.size,
        square=options.square,
        scales=MULTI_SCALE if options.multi_scale else (1.0,),
        regions=options.regions,
        whitening=options.whitening,
        batch_size=options.batch_size,
        workers=options.workers,
        device=options.device,
        progress=not options.quiet,
    )
    skipped = written.manifest["skipped"]
    say_skipped(skipped, options.out)
    n, d = written.vectors.shape
    regions = "" if written.regional is None else f", {len(written.regional)} of regions"
    print(
        f"{options.out}: {n} descriptors of dimension {d}{regions}; {len(skipped)} images skipped"
    )


def _whiten(options: argparse.Namespace) -> None:
    from .collection import open_descriptors
    from .whitening import learn_pca, learn_supervised, pairs_of

    if not options.whitening.endswith(".npz"):
        raise DiffusionError(f"{options.whitening}: expected a name that ends in .npz")
    descriptors = open_descriptors(options.descriptors)
    if descriptors.whitening() is not None:
        raise DiffusionError(f"{options.descriptors}: expected descriptors not whitened yet")
    settings = {"dimension": options.dimension, "shrinkage": options.shrinkage}
    if options.supervised:
        folders = [os.path.dirname(file) for file in descriptors.files]
        learned = learn_supervised(descriptors.vectors, pairs_of(folders), **settings)
    else:
        learned = learn_pca(descriptors.vectors, **settings)
    learned.save(options.whitening)
    print(f"{options.whitening}: {len(learned.mean)} -> {learned.dimension} dimensions")


if __name__ == "__main__":
    sys.exit(main())
