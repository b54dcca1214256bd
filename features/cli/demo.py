"""The verb of the command `features` that runs the demonstration."""

from __future__ import annotations

import argparse

from diffusion.cli import command


def add_verbs(verbs: command.Verbs) -> None:
    """Add `demo`."""
    demo = verbs.add(
        "demo", _demo, "Train a small network on digits, index them, re-rank searches, and report."
    )
    demo.add_argument(
        "--folder", default="demo", help="folder for the index and the pages (default %(default)s)"
    )
    demo.add_argument("-q", "--quiet", action="store_true", help="show no progress bars")


def _demo(options: argparse.Namespace) -> None:
    from ..demo import digits

    digits.run(options.folder, progress=not options.quiet)
