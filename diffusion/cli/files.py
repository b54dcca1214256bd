"""What the verbs print, and errors that name files instead of the library's arguments."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator
from typing import Any

from ..errors import DiffusionError
from ..storage.strings import printable


def print_facts(facts: dict[str, Any], as_json: bool) -> None:
    """Print names and values, as a table or as JSON, in which null stands for NaN and infinity."""
    if as_json:
        print(json.dumps(_finite(facts), indent=1, allow_nan=False))
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {item}" for key, item in value.items())
        text = f"{value:.4f}" if isinstance(value, float) else str(value)
        first, *others = map(printable, text.split("\n"))
        print(f"{name:<{width}}  {first}")
        for line in others:
            print(" " * (width + 2) + line)


def print_text(text: str) -> None:
    """Print lines of text, without control characters."""
    for line in text.split("\n"):
        print(printable(line))


def _finite(value: Any) -> Any:
    """Replace numbers that JSON does not have by None, in dictionaries and lists too."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextlib.contextmanager
def named(**files: str | None) -> Iterator[None]:
    """Replace the library's argument at the beginning of an error by the name of its file."""
    try:
        yield
    except DiffusionError as error:
        argument, _, rest = str(error).partition(":")
        if files.get(argument):
            raise DiffusionError(f"{files[argument]}:{rest}") from None
        raise
