"""The verbs of the command `features` that index photos and search them by photo."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any

from diffusion.cli import command
from diffusion.cli.parameters import add_parameters, reranker_of
from diffusion.errors import DiffusionError

from ..settings import NetworkSettings
from .arguments import (
    add_images,
    add_network,
    add_run,
    add_stored_network,
    check_output,
    from_options,
    images_of,
    run_of,
    say_skipped,
)

if TYPE_CHECKING:
    from diffusion import Reranker
    from diffusion.index_state import IndexState

    from ..description.descriptors import Descriptors


def add_verbs(verbs: command.Verbs) -> None:
    """Add `index` and `search`."""
    index = verbs.add("index", _index, "Describe a folder of photos and build an index of them.")
    index.add_argument(
        "photos",
        metavar="PHOTOS",
        help="folder of photos, or one that `features extract` or `features discover` wrote",
    )
    index.add_argument("index", metavar="INDEX", help="directory to write")
    index.add_argument(
        "--descriptors",
        metavar="DIR",
        help="folder for the descriptors of the photos (default INDEX.descriptors)",
    )
    index.add_argument("--whitening", metavar="FILE", help="whitening that `features whiten` wrote")
    add_parameters(index.add_argument_group("graph and search"))
    add_network(index)
    add_images(index, skip=("regions",))
    add_run(index)

    search = verbs.add("search", _search, "Search an index of photos for photos like others.")
    search.add_argument("index", metavar="INDEX", help="directory that `features index` wrote")
    search.add_argument("photos", nargs="+", metavar="PHOTO", help="query photo")
    search.add_argument("-k", type=int, default=100, help="results per query (default %(default)s)")
    search.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="write results to an .npz file or a TREC run instead of printing names",
    )
    search.add_argument(
        "--page",
        metavar="FILE.html",
        help="write a page of the results before and after diffusion, with the chains of photos",
    )
    search.add_argument(
        "--photos",
        dest="root",
        metavar="FOLDER",
        help="the folder of the photos that were indexed, for --page",
    )
    add_stored_network(search)
    search.add_argument("-q", "--quiet", action="store_true", help="show no progress bars")


def _index(options: argparse.Namespace) -> None:
    from ..index.photos import build_index

    descriptors = _described(options)
    ranker = reranker_of(options, progress=not options.quiet)
    build_index(descriptors, options.index, ranker)
    command.report(f"{options.index}: {len(descriptors.files)} photos; {ranker.graph_}")


def _described(options: argparse.Namespace) -> Descriptors:
    """Return the descriptors of the photos, which are extracted unless PHOTOS holds descriptors."""
    from diffusion import storage
    from diffusion.index_state import INDEX

    from ..description.descriptors import is_described, open_descriptors

    storage.check_target(options.index, INDEX)
    if is_described(options.photos):
        for name in ("backbone", "weights", "pooling", "whitening", "descriptors"):
            if getattr(options, name) is not None:
                raise DiffusionError(
                    f"--{name}: not taken with {options.photos}, which holds descriptors already"
                )
        return open_descriptors(options.photos)
    from ..description.extraction import extract_folder

    out = options.descriptors or f"{os.fspath(options.index).rstrip(os.sep)}.descriptors"
    described = extract_folder(
        options.photos,
        out,
        from_options(NetworkSettings, options),
        images=images_of(options),
        run=run_of(options),
        whitening=options.whitening,
    )
    say_skipped(described.manifest, out)
    return described


def _search(options: argparse.Namespace) -> None:
    from diffusion import Reranker
    from diffusion.index_state import open_state
    from diffusion.storage import runs

    from ..index.photos import describe_queries, write_names

    check_output("-o", options.output)
    check_output("--page", options.page)
    state = open_state(options.index)
    ranker = Reranker.from_state(state).set_params(progress=not options.quiet)
    queries = describe_queries(
        state, options.photos, weights=options.weights, allow_download=options.allow_download
    )
    if options.page is not None:
        _write_page(options, state, ranker, queries)
    scores, ids = ranker.search(queries, options.k)
    if options.output is None:
        write_names(sys.stdout, state, options.photos, scores, ids)
    else:
        runs.write_results(options.output, scores, ids)


def _write_page(
    options: argparse.Namespace, state: IndexState, ranker: Reranker, queries: Any
) -> None:
    from ..index.page import write_search_page
    from ..index.photos import image_names

    if options.root is None or not os.path.isdir(options.root):
        raise DiffusionError(
            f"--photos: expected the folder of the photos that were indexed, got {options.root!r}"
        )
    missing = write_search_page(
        options.page,
        ranker,
        options.photos,
        queries,
        image_names(state).__getitem__,
        lambda name: os.path.join(options.root, name),
        options.k,
    )
    if missing:
        command.say("features", f"{len(missing)} photos cannot be read, such as {missing[0]}")
