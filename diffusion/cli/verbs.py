"""The command `diffusion` and its verbs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from .._version import __version__
from ..errors import DiffusionError
from . import build, command, evaluate, explain, info, search, serve, tune, update


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 0, or 2 for bad input."""
    return command.run(_parser(), arguments)


def _parser() -> command.Parser:
    parser = command.Parser(
        prog="diffusion", description="Re-rank nearest-neighbour search by graph diffusion."
    )
    parser.add_argument("--version", action="version", version=f"diffusion-rerank {__version__}")
    parser.set_defaults(smaller="; a smaller -k, or vectors in parts, needs less")
    verbs = command.Verbs(parser)
    for module in (build, update, search, explain, tune, evaluate, info, serve):
        module.add_verbs(verbs)
    demo = verbs.add("demo", _demo, "Moved: see `features demo`.")
    demo.add_argument("--folder", help=argparse.SUPPRESS)
    demo.add_argument("-q", "--quiet", action="store_true", help=argparse.SUPPRESS)
    return parser


def _demo(options: argparse.Namespace) -> None:
    raise DiffusionError("demo: this verb has moved; run `features demo`")
