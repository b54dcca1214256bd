"""The verb of the command `features` that shows what the units of a network respond to."""

from __future__ import annotations

import argparse
from pathlib import Path

from diffusion.cli import command

from ..settings import ImageSettings, NetworkSettings
from .arguments import add_network, add_options, add_run, from_options, run_of, say_skipped


def add_verbs(verbs: command.Verbs) -> None:
    """Add `inspect`."""
    inspect = verbs.add(
        "inspect", _inspect, "Show the photos and places that excite the channels of a layer most."
    )
    inspect.add_argument("folder", metavar="FOLDER", help="photos; subfolders are read too")
    inspect.add_argument(
        "out", metavar="OUT", help="folder to write: inspection.json and page.html"
    )
    inspect.add_argument(
        "--layer", metavar="NAME", help="stage of the network, such as layer3 (default the last)"
    )
    inspect.add_argument(
        "--channels",
        nargs="+",
        type=int,
        metavar="N",
        help="channels to show (default the 12 most selective ones that respond strongly)",
    )
    inspect.add_argument(
        "--count", type=int, default=9, metavar="N", help="photos per channel (default %(default)s)"
    )
    add_network(inspect, skip=("pooling",))
    add_options(inspect.add_argument_group("images"), ImageSettings, skip=("scales", "regions"))
    add_run(inspect)


def _inspect(options: argparse.Namespace) -> None:
    from ..inspection.folder import PAGE, inspect_folder

    found = inspect_folder(
        options.folder,
        options.out,
        from_options(NetworkSettings, options),
        layer=options.layer,
        channels=options.channels,
        count=options.count,
        images=from_options(ImageSettings, options),
        run=run_of(options),
    )
    manifest, (height, width) = found.manifest, found.field.size
    say_skipped(manifest, options.out)
    command.report(
        f"{options.out}: {len(found.channels)} of {manifest['channels']} channels of {found.layer} "
        f"on {manifest['images']} photos, receptive field {width} x {height} pixels; "
        f"{len(manifest['skipped'])} images skipped; see {Path(options.out) / PAGE}"
    )
