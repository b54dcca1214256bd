"""An index on disk: a directory of .npy files and one manifest.

The manifest names every file with its shape, dtype, size and SHA-256. A save writes the arrays
into a new subdirectory and commits them by replacing the manifest, which is atomic: a reader, or a
save that is interrupted, sees the old index or the new one and nothing between. Arrays are
memory-mapped on loading, nothing of them is read before it is used. No pickle anywhere.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from .errors import DiffusionError

FORMAT = "diffusion-rerank index"
VERSION = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Stored:
    """An opened index: its manifest, and its arrays by name, memory-mapped."""

    path: Path
    manifest: dict[str, Any]
    arrays: dict[str, NDArray[Any]]


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a file that takes the place of `path` only once it is written whole."""
    path = Path(path)
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(aside, mode) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def save(
    path: str | os.PathLike[str], content: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
) -> None:
    """Write an index, or replace the one at `path`.

    Parameters
    ----------
    path : path-like
        A directory that is an index, is empty or does not exist.
    content : mapping
        What the manifest says beside the arrays; JSON values.
    arrays : mapping of str to ndarray

    Raises
    ------
    DiffusionError
        If `path` holds something else, which is never touched.
    """
    path = Path(path)
    check_target(path)
    path.mkdir(parents=True, exist_ok=True)
    folder = path / f"arrays-{secrets.token_hex(4)}"
    folder.mkdir()
    entries: dict[str, Any] = {}
    try:
        entries = {name: _write_array(folder, name, array) for name, array in arrays.items()}
        _sync_directory(folder)
        manifest = {"format": FORMAT, "version": VERSION, **content, "arrays": entries}
        manifest["checksum"] = _manifest_checksum(manifest)
        with replacing(path / MANIFEST, "w") as file:
            json.dump(manifest, file, indent=1)
        _sync_directory(path)
    except BaseException:
        # Unless the interruption came after the commit: then the folder is the index.
        committed = False
        with contextlib.suppress(DiffusionError):
            committed = read_manifest(path)["arrays"] == entries
        if not committed:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    # What earlier saves left, the interrupted ones too. Arrays that this process has mapped from
    # there stay valid: the files are gone from the directory, not from under the mapping.
    for old in path.glob("arrays-*"):
        if old != folder:
            shutil.rmtree(old, ignore_errors=True)


def check_target(path: str | os.PathLike[str]) -> None:
    """Raise unless `path` is an index, is empty but for what a save left, or does not exist."""
    path = Path(path)
    if not path.exists():
        return
    if not path.is_dir():
        raise DiffusionError(f"{path}: expected a directory, this is a file")
    if (path / MANIFEST).exists():
        try:
            ours = json.loads((path / MANIFEST).read_text()).get("format") == FORMAT
        except (OSError, ValueError, AttributeError):
            ours = True  # damaged: a save may mend it
    else:
        ours = all(entry.name.startswith("arrays-") for entry in path.iterdir())
    if not ours:
        raise DiffusionError(f"{path}: expected an index or an empty directory, found other files")


def load(path: str | os.PathLike[str], *, verify: bool = False) -> Stored:
    """Open an index.

    Parameters
    ----------
    path : path-like
    verify : bool, default False
        Read every file and compare its checksum. Without it the manifest and the sizes are
        checked, in a time that does not depend on the index's size.

    Raises
    ------
    DiffusionError
        If there is no index, or it is truncated, altered, foreign or of a newer version.
    """
    path = Path(path)
    manifest = read_manifest(path)
    arrays = {}
    for name, entry in manifest["arrays"].items():
        file = path / entry["file"]
        try:
            size = file.stat().st_size
        except OSError as error:
            raise DiffusionError(f"{file}: cannot be read ({error.strerror})") from None
        if size != entry["bytes"]:
            raise DiffusionError(
                f"{file}: truncated or altered, expected {entry['bytes']} bytes, got {size}"
            )
        if verify and _checksum(file) != entry["sha256"]:
            raise DiffusionError(f"{file}: altered, its SHA-256 is not the manifest's")
        arrays[name] = _map_array(file, entry)
    return Stored(path, manifest, arrays)


def read_manifest(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read and check the manifest alone."""
    file = Path(path) / MANIFEST
    try:
        manifest = json.loads(file.read_text())
    except FileNotFoundError:
        raise DiffusionError(f"{path}: expected an index, found no {MANIFEST}") from None
    except OSError as error:
        raise DiffusionError(f"{file}: cannot be read ({error.strerror})") from None
    except ValueError:
        raise DiffusionError(f"{file}: truncated or altered, not valid JSON") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise DiffusionError(f"{file}: expected format {FORMAT!r}, this is a foreign file")
    if manifest.get("version") != VERSION:
        raise DiffusionError(
            f"{file}: index of version {manifest.get('version')}, this library reads version "
            f"{VERSION}; a newer diffusion-rerank may read it"
        )
    if manifest.get("checksum") != _manifest_checksum(manifest):
        raise DiffusionError(f"{file}: altered, its checksum does not match")
    entries = manifest.get("arrays")
    if not isinstance(entries, dict) or not all(map(_is_entry, entries.values())):
        raise DiffusionError(f"{file}: altered, its arrays are not described as expected")
    return manifest


def _is_entry(entry: Any) -> bool:
    """Whether a manifest entry is well-formed and stays inside the index."""
    kinds = {"file": str, "dtype": str, "shape": list, "bytes": int, "sha256": str}
    return (
        isinstance(entry, dict)
        and all(isinstance(entry.get(key), kind) for key, kind in kinds.items())
        and re.fullmatch(r"arrays-[0-9a-f]+/\w+\.npy", entry["file"]) is not None
    )


def _write_array(folder: Path, name: str, array: NDArray[Any]) -> dict[str, Any]:
    file = folder / f"{name}.npy"
    with open(file, "wb") as stream:
        np.save(stream, np.ascontiguousarray(array), allow_pickle=False)
        stream.flush()
        os.fsync(stream.fileno())
    return {
        "file": f"{folder.name}/{file.name}",
        "dtype": array.dtype.str,
        "shape": list(array.shape),
        "bytes": file.stat().st_size,
        "sha256": _checksum(file),
    }


def _map_array(file: Path, entry: dict[str, Any]) -> NDArray[Any]:
    try:
        # Copy-on-write, so that the array has the type of an ordinary one and a stray assignment
        # cannot reach the disk.
        array = np.load(file, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DiffusionError(f"{file}: altered, not a .npy file ({error})") from None
    if array.dtype.str != entry["dtype"] or list(array.shape) != entry["shape"]:
        raise DiffusionError(
            f"{file}: altered, expected {entry['dtype']} of shape {tuple(entry['shape'])}, got "
            f"{array.dtype.str} of shape {array.shape}"
        )
    return np.asarray(array)


def _checksum(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _manifest_checksum(manifest: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in manifest.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _sync_directory(path: Path) -> None:
    """Make the names in a directory durable, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
