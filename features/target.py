"""The folder that an extraction writes to: nothing of anyone else's is touched."""

from __future__ import annotations

import re
from pathlib import Path

from diffusion.errors import DiffusionError

from .collection import (
    DESCRIPTORS,
    FILES,
    FORMAT,
    MANIFEST,
    REGION_BOXES,
    REGION_IMAGES,
    REGIONAL,
    WHITENING,
)

PARTIAL = "partial"
_SHARD = re.compile(r"\.?[0-9a-f]+\.npz(\.[0-9a-f]{8}\.tmp)?")
OURS = {DESCRIPTORS, FILES, MANIFEST, REGIONAL, REGION_IMAGES, REGION_BOXES, WHITENING, PARTIAL}


def check_target(out: Path) -> None:
    """Raise unless `out` is an extraction, what is left of one, is empty or does not exist."""
    if not out.exists():
        return
    if not out.is_dir():
        raise DiffusionError(f"{out}: expected a directory, this is a file")
    names = {entry.name for entry in out.iterdir()}
    foreign = {name for name in names if name not in OURS and not is_aside(name)}
    if MANIFEST in names and FORMAT not in (out / MANIFEST).read_text("utf-8", "replace"):
        foreign.add(MANIFEST)
    if PARTIAL in names and not _is_partial(out / PARTIAL):
        foreign.add(PARTIAL)
    if not names & {MANIFEST, PARTIAL}:
        foreign |= names & OURS  # by their names alone: an extraction has one of the two
    if foreign:
        raise DiffusionError(
            f"{out}: expected descriptors or an empty directory, found {min(foreign)!r}"
        )


def is_aside(name: str) -> bool:
    """Whether a name is that of a file that was being written."""
    match = re.fullmatch(r"\.(.+?)(\.[0-9a-f]{8})?\.tmp", name)
    return match is not None and match[1] in OURS


def _is_partial(path: Path) -> bool:
    """Whether all that a directory holds are shards."""
    return (
        path.is_dir()
        and not path.is_symlink()
        and all(_SHARD.fullmatch(entry.name) for entry in path.iterdir())
    )
