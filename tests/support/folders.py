"""The content of folders that the library writes."""

from __future__ import annotations

import re
from pathlib import Path

# A save names its folder at random, and the checksum of the manifest covers that name.
_RANDOM = rb'arrays-[0-9a-f]{8}|"checksum": "[0-9a-f]+"'


def contents(path: Path) -> dict[str, bytes]:
    """Return the bytes of every file in a folder by name, without what is random in them."""
    found = {}
    for file in sorted(Path(path).rglob("*")):
        if file.is_file():
            name = re.sub("arrays-[0-9a-f]{8}", "arrays", file.relative_to(path).as_posix())
            found[name] = re.sub(_RANDOM, b"", file.read_bytes())
    return found
