"""The command `features`: its parser, and what it says where a library is missing."""

from __future__ import annotations

import os
from collections.abc import Sequence

from diffusion._version import __version__
from diffusion.cli import command

from .. import EXTRA, install_hint
from . import demo, describe, inspect, objects, search, train


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0, or 2 for invalid input."""
    # Threads of torch that wait for each other in a loop take a processor from other programs, and
    # from the threads that decode photos. OpenMP reads this when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        return command.run(_parser(), arguments)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in EXTRA:
            raise
        command.say("features", f"error: {install_hint(error)}")
        return 2


def _parser() -> command.Parser:
    parser = command.Parser(prog="features", description="Describe, index and search photos.")
    parser.add_argument("--version", action="version", version=f"diffusion-rerank {__version__}")
    parser.set_defaults(smaller="; a smaller --size or --batch-size needs less")
    verbs = command.Verbs(parser)
    for module in (demo, search, describe, train, objects, inspect):
        module.add_verbs(verbs)
    return parser
