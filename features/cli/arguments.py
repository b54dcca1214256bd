"""Arguments and messages that the verbs of the command `features` share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from diffusion.cli import command


def add_network(verb: argparse.ArgumentParser, *, pooling: bool = True) -> None:
    """Add what says which network describes, and, if asked for, how its maps are pooled."""
    verb.add_argument(
        "--backbone",
        metavar="NAME",
        help="alexnet, vgg16, resnet18, resnet50, resnet101, mobilenet_v2, torchvision:NAME or "
        "hf:DIRECTORY-or-NAME; not needed where the weights' file says it",
    )
    verb.add_argument(
        "--weights", metavar="FILE", help="a state dict or a checkpoint, .safetensors or .pth"
    )
    if pooling:
        verb.add_argument(
            "--pooling", metavar="NAME", help="mac, spoc, crow, gem, rmac, or a layer such as fc7"
        )
    for name in ("--mean", "--std"):
        verb.add_argument(
            name,
            type=float,
            nargs=3,
            metavar=("RED", "GREEN", "BLUE"),
            help="of the images in 0 to 1, where the weights want others than the network's",
        )


def add_machine(verb: argparse.ArgumentParser) -> None:
    """Add how the work is done."""
    verb.add_argument("--batch-size", type=int, default=32, help="(%(default)s)")
    verb.add_argument("--workers", type=int, help="threads that decode (one a core, at most 8)")
    verb.add_argument("--device", help="such as cpu or cuda:1 (a GPU where there is one)")
    verb.add_argument("-q", "--quiet", action="store_true", help="no progress bars")


def common(options: argparse.Namespace) -> dict[str, Any]:
    """Return what `add_network` and `add_machine` were given, pooling aside, for the call."""
    names = ("backbone", "weights", "mean", "std", "batch_size", "workers", "device")
    return {**{name: getattr(options, name) for name in names}, "progress": not options.quiet}


def say_skipped(skipped: list[dict[str, str]], out: str, *, named: int = 20) -> None:
    """Name the images that were skipped, not more than so many of them."""
    for entry in skipped[:named]:
        command.say("features", f"skipped {entry['file']}: {entry['reason']}")
    if len(skipped) > named:
        more = f"{len(skipped) - named} more; {Path(out) / 'manifest.json'} names all"
        command.say("features", f"skipped {more}")
