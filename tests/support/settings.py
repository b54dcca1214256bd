"""Settings made from flat keyword arguments, so that tests can vary one field at a time."""

from __future__ import annotations

from dataclasses import fields
from typing import Any


def take(kind: Any, values: dict[str, Any]) -> Any:
    """Make settings of a kind from its fields in a dict, and remove these from the dict."""
    return kind(**{f.name: values.pop(f.name) for f in fields(kind) if f.name in values})
