"""The parts that the commands `diffusion` and `features` share: parser, errors, exit statuses."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from ..errors import ConvergenceWarning, DiffusionError
from ..storage.strings import printable


class Parser(argparse.ArgumentParser):
    """A parser that reports an error in one line."""

    def error(self, message: str) -> NoReturn:
        """Report an error, and exit with status 2."""
        say(self.prog, f"error: {message} (see {self.prog} --help)")
        raise SystemExit(2)


class Verbs:
    """The verbs of a command, each with its own parser."""

    def __init__(self, parser: Parser) -> None:
        self._verbs = parser.add_subparsers(
            dest="verb", required=True, metavar="VERB", parser_class=Parser
        )

    def add(self, name: str, run: Callable[[argparse.Namespace], None], text: str) -> Any:
        """Add a verb that runs a function; `text` is its help."""
        sub = self._verbs.add_parser(name, help=text[0].lower() + text[1:], description=text)
        sub.set_defaults(run=run)
        return sub


def say(command: str, message: str) -> None:
    """Print one line on standard error, which begins with the command's name."""
    line = f"{command.split()[0]}: {' '.join(message.split())}"
    print(printable(line), file=sys.stderr)


def report(line: str) -> None:
    """Print one line on standard output."""
    print(printable(line))


def run(parser: Parser, arguments: Sequence[str] | None) -> int:
    """Run the verb that the arguments name; return the exit status: 0, or 2 for bad input."""
    options = parser.parse_args(arguments)
    name = parser.prog
    try:
        with warnings.catch_warnings():
            # Only the text of a warning is printed, on one line.
            warnings.simplefilter("always", ConvergenceWarning)
            warnings.showwarning = lambda message, *_, **__: say(name, f"warning: {message}")
            options.run(options)
        sys.stdout.flush()
    except DiffusionError as error:
        say(name, f"error: {error}")
        return 2
    except BrokenPipeError:
        # The reader of the output has closed it, as `head` does; this is not an error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        say(name, "interrupted")
        return 130
    except MemoryError:
        say(name, f"error: not enough memory{options.smaller}")
        return 2
    except (OSError, UnicodeError, OverflowError) as error:
        say(name, f"error: {error}")
        return 2
    return 0
