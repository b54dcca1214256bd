"""The verbs of the command `features` that index photos and search them by photo."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import sys
from typing import TYPE_CHECKING, Any

from diffusion import Reranker
from diffusion.cli import command
from diffusion.cli.parameters import add_parameters, reranker_of
from diffusion.errors import DiffusionError

from ..settings import NetworkSettings
from .arguments import (
    BY_DEFAULT,
    add_images,
    add_network,
    add_run,
    add_stored_network,
    check_output,
    from_options,
    images_of,
    names_network,
    network_of,
    run_of,
    say_skipped,
)

if TYPE_CHECKING:
    from diffusion.index_state import IndexState

    from ..description.descriptors import Descriptors


def add_verbs(verbs: command.Verbs) -> None:
    """Add `index` and `search`."""
    index = verbs.add(
        "index", _index, "Describe a folder of photos and index them, or update an index."
    )
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
    add_network(index, about=BY_DEFAULT)
    add_images(index, skip=("regions",))
    add_run(index)

    search = verbs.add("search", _search, "Search an index of photos for photos like others.")
    search.add_argument("index", metavar="INDEX", help="directory that `features index` wrote")
    search.add_argument("photos", nargs="+", metavar="PHOTO", help="query photo")
    search.add_argument(
        "--box",
        nargs=4,
        type=float,
        action="append",
        metavar=("X0", "Y0", "X1", "Y1"),
        help="search for this part of the one PHOTO: left, top, right, bottom in pixels of the "
        "upright photo",
    )
    search.add_argument("-k", type=int, default=100, help="results per query (default %(default)s)")
    search.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="write names, ranks and scores to a .json or .npz file or a TREC run (.trec, .run, "
        ".txt) instead of printing them",
    )
    search.add_argument(
        "--photos",
        dest="folder",
        metavar="FOLDER",
        help="folder of the indexed photos, if it was moved",
    )
    search.add_argument(
        "--page",
        metavar="FILE.html",
        help="write a page of the results before and after diffusion, with the chains of photos",
    )
    add_stored_network(search)
    search.add_argument("-q", "--quiet", action="store_true", help="show no progress bars")


def _index(options: argparse.Namespace) -> None:
    from ..description.descriptors import is_described
    from ..index.build import build_index

    _check(options)
    earlier = None if is_described(options.photos) else _earlier(options)
    update = earlier is not None and not names_network(options)
    descriptors = _described(options, earlier if update else None)
    built = build_index(descriptors, options.index, _reranker(options, update=update))
    if descriptors.changes is not None:
        command.report(f"{options.photos}: {descriptors.changes}")
    done = f" ({built})" if str(built) else ""
    command.report(f"{options.index}: {len(descriptors.files)} photos{done}; {built.ranker.graph_}")


def _check(options: argparse.Namespace) -> None:
    """Raise unless the index may be written, and PHOTOS is taken with the options."""
    from diffusion import storage
    from diffusion.index_state import INDEX

    from ..description.descriptors import is_described

    storage.check_target(options.index, INDEX)
    if is_described(options.photos):
        for name in ("backbone", "weights", "pooling", "whitening", "descriptors"):
            if getattr(options, name) is not None:
                raise DiffusionError(
                    f"--{name}: not taken with {options.photos}, which holds descriptors already"
                )


def _earlier(options: argparse.Namespace) -> str | None:
    """Return where the descriptors are that the index was built from, None if there are none."""
    from diffusion.index_state import open_state

    from ..description.descriptors import is_finished
    from ..index.photos import descriptor_folders

    places = [options.descriptors or _beside(options.index)]
    if options.descriptors is None:
        with contextlib.suppress(DiffusionError):
            places[:0] = descriptor_folders(open_state(options.index))
    return next(filter(is_finished, places), None)


def _described(options: argparse.Namespace, earlier: str | None) -> Descriptors:
    """Return the descriptors of the photos, which are extracted unless PHOTOS holds descriptors.

    Those at `earlier` are updated with their own settings, and others with those of the options.
    """
    from diffusion import storage

    from ..description.descriptors import OBJECTS, is_described, open_descriptors
    from ..description.extraction import extract_folder, update_folder

    if is_described(options.photos):
        return open_descriptors(options.photos)
    if earlier is None:
        # An index whose descriptors are gone is not replaced by one of another network.
        anew = storage.peek_manifest(storage.as_path(options.index)) is None
        described = extract_folder(
            options.photos,
            options.descriptors or _beside(options.index),
            network_of(options) if anew else from_options(NetworkSettings, options),
            images=images_of(options),
            run=run_of(options),
            whitening=options.whitening,
        )
    elif OBJECTS not in open_descriptors(earlier).manifest:
        described = update_folder(options.photos, earlier, run=run_of(options))
    else:
        from ..objects.folder import update_discovery

        described = update_discovery(options.photos, earlier, run=run_of(options)).descriptors
    say_skipped(described.manifest, described.path)
    return described


def _beside(index: str) -> str:
    return f"{os.fspath(index).rstrip(os.sep)}.descriptors"


def _reranker(options: argparse.Namespace, *, update: bool) -> Reranker:
    """Return the Reranker to fit: in an update, that of the index with the options given."""
    from diffusion.index_state import open_state

    ranker = reranker_of(options, progress=not options.quiet)
    if update:
        with contextlib.suppress(DiffusionError):
            default = Reranker().get_params()
            given = {n: v for n, v in ranker.get_params().items() if v != default[n]}
            earlier = Reranker.from_state(open_state(options.index))
            return Reranker(**{**earlier.get_params(), **given})
    return ranker


def _search(options: argparse.Namespace) -> None:
    from diffusion.index_state import open_state

    from ..index.photos import describe_queries, first_stage, photo_names
    from ..index.results import PhotoResults, check_suffix, write_file, write_lines

    if options.output is not None:
        check_suffix(options.output)
        check_output("-o", options.output)
    check_output("--page", options.page)
    if options.folder is not None and not os.path.isdir(options.folder):
        raise DiffusionError(
            f"--photos: expected the folder of the photos that were indexed, got {options.folder!r}"
        )
    boxes = _boxes(options)
    state = open_state(options.index)
    ranker = Reranker.from_state(state).set_params(progress=not options.quiet)
    queries = describe_queries(
        state,
        options.photos,
        boxes=boxes,
        weights=options.weights,
        allow_download=options.allow_download,
    )
    if options.page is not None:
        _write_page(options, state, ranker, queries, boxes)
    _say_outdated(options, state)
    scores, ids = ranker.search(queries, options.k)
    results = PhotoResults(options.photos, scores, photo_names(state, ids))
    if options.output is None:
        write_lines(sys.stdout, results)
    else:
        first = photo_names(state, first_stage(ranker, queries, options.k))
        write_file(options.output, results._replace(first=first))


def _boxes(options: argparse.Namespace) -> list[list[float]] | None:
    """Return the box of the query as a list, None without one."""
    boxes: list[list[float]] | None = options.box
    if boxes is not None and (len(boxes) > 1 or len(options.photos) > 1):
        raise DiffusionError(
            f"--box: expected one box in one PHOTO, got {len(boxes)} and {len(options.photos)} "
            f"photo{'s'[: len(options.photos) != 1]}"
        )
    return boxes


def _say_outdated(options: argparse.Namespace, state: IndexState) -> None:
    """Say on standard error if the photos have changed since they were indexed."""
    from ..index.photos import outdated

    found = outdated(state, options.folder)
    if found is not None:
        command.say(
            "features",
            f"{options.index} is older than {found.folder}: {found}; update it: features index "
            f"{shlex.quote(found.folder)} {shlex.quote(options.index)}",
        )


def _write_page(
    options: argparse.Namespace,
    state: IndexState,
    ranker: Reranker,
    queries: Any,
    boxes: list[list[float]] | None,
) -> None:
    from ..index.page import write_search_page
    from ..index.photos import image_names, photo_path

    # In indexes that an earlier version of this library wrote, ids are row numbers.
    names = dict(enumerate(image_names(state)))

    def path_of(name: str) -> str:
        try:
            return os.fspath(photo_path(state, name, options.folder))
        except DiffusionError:
            return ""  # the page shows an empty frame

    missing = write_search_page(
        options.page,
        ranker,
        options.photos,
        queries,
        lambda item: names.get(item, str(item)),
        path_of,
        options.k,
        boxes,
    )
    if missing:
        count = f"{len(missing)} photo{'s'[: len(missing) != 1]}"
        command.say("features", f"{count} cannot be read, such as {missing[0]}")
