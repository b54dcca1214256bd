"""The verbs of the command `features` for object discovery."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffusion.cli import command
from diffusion.errors import DiffusionError
from diffusion.storage import replacing

from .arguments import add_machine, add_network, common, say_skipped


def add_verbs(verbs: command.Verbs) -> None:
    """Add `discover` and `locate`."""
    discover = verbs.add(
        "discover", _discover, "Find what recurs in the JPEG and PNG photos of a folder, and where."
    )
    discover.add_argument("folder", metavar="FOLDER", help="of photos; read with its folders")
    discover.add_argument(
        "out", metavar="OUT", help="folder to write: maps, boxes, descriptors, page.html"
    )
    add_network(discover, pooling=False)
    discover.add_argument(
        "--size", type=int, default=512, help="longer side of larger photos (%(default)s)"
    )
    discover.add_argument(
        "--descriptor",
        default="egm-weighted",
        metavar="NAME",
        help="egm (OS.EGM), egm-weighted, egm-delta (OS.EGM-delta) or mac (%(default)s)",
    )
    discover.add_argument("--whitening", metavar="FILE", help="that `features whiten` wrote")
    discover.add_argument("--pictures", type=int, default=12, help="on the page (%(default)s)")
    add_machine(discover)

    locate = verbs.add(
        "locate", _locate, "Find what recurs in a folder in other photos; a line of JSON each."
    )
    locate.add_argument("out", metavar="OUT", help="that `features discover` wrote")
    locate.add_argument("photos", nargs="+", metavar="PHOTO")
    locate.add_argument("--page", metavar="PAGE.html", help="write pictures of them")
    locate.add_argument("--maps", metavar="MAPS.npz", help="write their maps: map0, map1, ...")
    locate.add_argument("--weights", metavar="FILE", help="where the network's weights are now")
    locate.add_argument("--device", help="such as cpu or cuda:1 (a GPU where there is one)")


def _discover(options: argparse.Namespace) -> None:
    from ..objects.folder import discover_folder

    objects = discover_folder(
        options.folder,
        options.out,
        size=options.size,
        descriptor=options.descriptor,
        whitening=options.whitening,
        pictures=options.pictures,
        **common(options),
    )
    skipped = objects.descriptors.manifest["skipped"]
    say_skipped(skipped, options.out)
    n, d = objects.descriptors.vectors.shape
    print(
        f"{options.out}: {n} maps, {len(objects.boxes)} boxes, descriptors of dimension {d}; "
        f"{len(skipped)} images skipped; see {Path(options.out) / 'page.html'}"
    )


def _locate(options: argparse.Namespace) -> None:
    from ..description.sweep import plain_text
    from ..objects.opened import open_objects
    from ..objects.page import LEGEND, write_page

    if options.maps is not None and not options.maps.endswith(".npz"):
        raise DiffusionError(f"{options.maps}: expected a name that ends in .npz")
    locator = open_objects(options.out).locator(weights=options.weights, device=options.device)
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
        with replacing(options.maps) as file:
            np.savez(file, **maps)
    if options.page is not None:
        pictures = (locator.picture(photo, plain_text(photo)) for photo in options.photos)
        write_page(options.page, "What recurs in these photos", [LEGEND], pictures)


def _rounded(values: NDArray[Any], digits: int) -> Any:
    return np.asarray(values, float).round(digits).tolist()
