"""The manifest of a directory of arrays: what the directory is, and which files it consists of."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DiffusionError
from .entries import is_entry
from .files import as_path, fingerprint, plain, read_whole, replacing

MANIFEST = "manifest.json"
UNFINISHED = "unfinished"

# The largest manifest that is read: an index has one of 10 kB, and an extraction that skipped a
# hundred thousand photos one of 20 MB.
MANIFEST_BYTES = 1 << 26


@dataclass(frozen=True)
class Format:
    """What a kind of directory is called, and what it may contain.

    Attributes
    ----------
    name : str
        The manifest's `format`.
    version : int
        The version of the format that is written.
    noun : str
        What error messages call such a directory, with its article, such as "an index".
    companions : frozenset of str
        Names of the other files and directories that its writer keeps beside the manifest.
    earlier : tuple of int
        The other versions of the format that are read.
    """

    name: str
    version: int
    noun: str
    companions: frozenset[str] = frozenset()
    earlier: tuple[int, ...] = ()


def write_manifest(
    path: Path, format: Format, content: Mapping[str, Any], arrays: Mapping[str, Any]
) -> None:
    """Replace the manifest atomically; `arrays` describes the files."""
    replace_manifest(path, signed(format, content, arrays))


def signed(format: Format, content: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Return a manifest with its checksum."""
    manifest = {"format": format.name, "version": format.version, **content, "arrays": arrays}
    return {**manifest, "checksum": _checksum(manifest)}


def replace_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    """Replace the manifest atomically."""
    with replacing(path / MANIFEST, "w", follow=False) as file:
        json.dump(manifest, file, indent=1, default=plain)


def read_manifest(path: str | os.PathLike[str], format: Format) -> dict[str, Any]:
    """Read and check the manifest alone.

    Raises
    ------
    DiffusionError
        If there is none, or it is truncated, altered, foreign, of another version or unfinished.
    """
    manifest = read_any(as_path(path), format)
    if UNFINISHED in manifest:
        raise DiffusionError(
            f"{path}: expected {format.noun}, this one is not finished; run the command that "
            "writes it again, it resumes"
        )
    return manifest


def read_any(path: Path, format: Format) -> dict[str, Any]:
    """Read and check a manifest, which may be that of a directory which is not finished."""
    file = path / MANIFEST
    try:
        manifest = json.loads(read_whole(file, MANIFEST_BYTES).decode())
        checksum = _checksum(manifest) if isinstance(manifest, dict) else None
    except FileNotFoundError:
        raise DiffusionError(f"{path}: expected {format.noun}, found no {MANIFEST}") from None
    except OSError as error:
        raise DiffusionError(f"{file}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError, MemoryError):
        raise DiffusionError(f"{file}: truncated or altered, not valid JSON") from None
    if not isinstance(manifest, dict) or manifest.get("format") != format.name:
        raise DiffusionError(f"{file}: expected format {format.name!r}, this is a foreign file")
    if manifest.get("version") not in (*format.earlier, format.version):
        earlier = ", ".join(map(str, format.earlier))
        raise DiffusionError(
            f"{file}: {format.noun} of version {manifest.get('version')}, this library reads "
            f"version {earlier and earlier + ' or '}{format.version}; a newer diffusion-rerank may "
            "read it"
        )
    if manifest.get("checksum") != checksum:
        raise DiffusionError(f"{file}: altered, its checksum does not match")
    entries = manifest.get("arrays")
    if not isinstance(entries, dict) or not all(map(is_entry, entries.values())):
        raise DiffusionError(f"{file}: altered, its arrays are not described as expected")
    return manifest


def peek_manifest(path: Path) -> dict[str, Any] | None:
    """Return a directory's manifest, of whatever format and unchecked; None without one."""
    with contextlib.suppress(OSError, ValueError, RecursionError, MemoryError):
        manifest = json.loads(read_whole(path / MANIFEST, MANIFEST_BYTES).decode())
        return manifest if isinstance(manifest, dict) else None
    return None


def _checksum(manifest: Mapping[str, Any]) -> str:
    return fingerprint({key: value for key, value in manifest.items() if key != "checksum"})
