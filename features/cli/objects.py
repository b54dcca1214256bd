"""The verbs of the command `features` that discover and locate objects."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffusion.cli import command
from diffusion.errors import DiffusionError
from diffusion.storage import errors_named, replacing

from ..settings import DiscoverySettings, ImageSettings, NetworkSettings
from .arguments import (
    add_network,
    add_options,
    add_run,
    add_stored_network,
    check_output,
    from_options,
    names_network,
    run_of,
    say_skipped,
)


def add_verbs(verbs: command.Verbs) -> None:
    """Add `discover` and `locate`."""
    discover = verbs.add(
        "discover", _discover, "Find recurring objects in a folder of photos, or update them."
    )
    discover.add_argument("folder", metavar="FOLDER", help="photos; subfolders are read too")
    discover.add_argument(
        "out", metavar="OUT", help="folder to write: maps, boxes, groups, descriptors, page.html"
    )
    discover.add_argument(
        "--descriptor",
        default="egm-weighted",
        metavar="NAME",
        help="egm (OS.EGM), egm-weighted, egm-delta (OS.EGM-delta) or mac (default %(default)s)",
    )
    discover.add_argument(
        "--whitening", metavar="FILE", help="whitening that `features whiten` wrote"
    )
    discover.add_argument(
        "--pictures", type=int, default=12, help="photos on the page (default %(default)s)"
    )
    add_network(discover, skip=("pooling",))
    add_options(discover.add_argument_group("images"), ImageSettings, skip=("scales", "regions"))
    add_options(discover.add_argument_group("discovery"), DiscoverySettings)
    add_run(discover)

    locate = verbs.add(
        "locate", _locate, "Locate the objects of a discovery in photos; print JSON lines."
    )
    locate.add_argument("out", metavar="OUT", help="folder that `features discover` wrote")
    locate.add_argument("photos", nargs="+", metavar="PHOTO")
    locate.add_argument("--page", metavar="PAGE.html", help="write a page that shows the photos")
    locate.add_argument("--maps", metavar="MAPS.npz", help="write the maps as map0, map1, ...")
    add_stored_network(locate)
    locate.add_argument(
        "--device", help="device of the network, such as cpu or cuda:1 (default a GPU if any)"
    )


def _discover(options: argparse.Namespace) -> None:
    from ..description.descriptors import is_described
    from ..objects.folder import discover_folder, update_discovery

    named = names_network(options, DiscoverySettings, descriptor="egm-weighted", pictures=12)
    if not named and is_described(options.out):
        objects = update_discovery(options.folder, options.out, run=run_of(options))
    else:
        objects = discover_folder(
            options.folder,
            options.out,
            from_options(NetworkSettings, options),
            images=from_options(ImageSettings, options),
            discovery=from_options(DiscoverySettings, options),
            run=run_of(options),
            descriptor=options.descriptor,
            whitening=options.whitening,
            pictures=options.pictures,
        )
    skipped = objects.descriptors.manifest["skipped"]
    say_skipped(objects.descriptors.manifest, options.out)
    if objects.descriptors.changes is not None:
        command.report(f"{options.out}: {objects.done()}")
    n, d = objects.descriptors.vectors.shape
    command.report(
        f"{options.out}: {n} maps, {len(objects.boxes)} boxes, {len(objects.groups())} groups of "
        f"boxes, descriptors of dimension {d}; {len(skipped)} images skipped; "
        f"see {Path(options.out) / 'page.html'}"
    )


def _locate(options: argparse.Namespace) -> None:
    from diffusion.storage.strings import printable

    from ..objects.opened import open_objects
    from ..objects.page import LEGEND, write_page

    if options.maps is not None and not options.maps.endswith(".npz"):
        raise DiffusionError(f"{options.maps}: expected a name that ends in .npz")
    check_output("--maps", options.maps)
    check_output("--page", options.page)
    locator = open_objects(options.out).locator(
        weights=options.weights, device=options.device, allow_download=options.allow_download
    )
    maps: dict[str, Any] = {}
    for number, photo in enumerate(options.photos):
        located = locator.locate(photo)
        maps[f"map{number}"] = located.saliency
        line = {
            "file": photo,
            "boxes": _rounded(located.boxes, 1),
            "weights": _rounded(located.weights, 4),
            "map": {"shape": located.saliency.shape, "extent": _rounded(located.extent, 1)},
        }
        print(json.dumps(line))
    if options.maps is not None:
        with errors_named(options.maps), replacing(options.maps) as file:
            np.savez(file, **maps)
    if options.page is not None:
        pictures = (locator.picture(photo, printable(photo)) for photo in options.photos)
        write_page(options.page, "Recurring objects in these photos", [LEGEND], pictures)


def _rounded(values: NDArray[Any], digits: int) -> Any:
    return np.asarray(values, float).round(digits).tolist()
