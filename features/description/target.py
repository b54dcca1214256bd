"""The folder that a pass over images writes to: nothing of anyone else's is touched."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from diffusion.errors import DiffusionError

from .descriptors import FORMAT, MANIFEST

# Folder for the shards, in the one that is written to.
PARTIAL = "partial"
# A shard, or a folder of what was learned from shards.
_SHARD = re.compile(r"\.?[0-9a-f]+\.npz(\.[0-9a-f]{8}\.tmp)?|[0-9a-f]{64}")


def check_target(
    out: Path, ours: Collection[str], kind: str, accepts: Callable[[Mapping[str, Any]], bool]
) -> None:
    """Raise unless `out` is one of a kind, what is left of one, is empty or does not exist.

    Parameters
    ----------
    out : Path
    ours : collection of str
        Names of what it may hold.
    kind : str
        What the error calls it.
    accepts : callable
        Whether a manifest is of the kind.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise DiffusionError(f"{out}: expected a directory, this is a file")
    names = {entry.name for entry in out.iterdir()}
    foreign = {name for name in names if name not in ours and not is_aside(name, ours)}
    if MANIFEST in names and not _is_manifest(out / MANIFEST, accepts):
        foreign.add(MANIFEST)
    if PARTIAL in names and not _is_partial(out / PARTIAL):
        foreign.add(PARTIAL)
    if not names & {MANIFEST, PARTIAL}:
        foreign |= names & set(ours)  # by their names alone: one of ours has one of the two
    if foreign:
        raise DiffusionError(
            f"{out}: expected {kind} or an empty directory, found {min(foreign)!r}"
        )


def is_aside(name: str, ours: Collection[str]) -> bool:
    """Whether a name is that of a file that was being written."""
    match = re.fullmatch(r"\.(.+?)(\.[0-9a-f]{8})?\.tmp", name)
    return match is not None and match[1] in ours


def _is_manifest(path: Path, accepts: Callable[[Mapping[str, Any]], bool]) -> bool:
    """Whether a manifest, perhaps a damaged one, is of the kind."""
    text = path.read_text("utf-8", "replace")
    if FORMAT not in text:
        return False
    with contextlib.suppress(ValueError, RecursionError):
        manifest = json.loads(text)
        return isinstance(manifest, dict) and manifest.get("format") == FORMAT and accepts(manifest)
    return True


def _is_partial(path: Path) -> bool:
    """Whether all that a directory holds is what passes leave there."""
    return (
        path.is_dir()
        and not path.is_symlink()
        and all(_SHARD.fullmatch(entry.name) for entry in path.iterdir())
    )
