"""An index on disk: a directory of .npy files and one manifest.

The manifest names every file with its shape, dtype, size and SHA-256. A save writes the arrays
into a new subdirectory and commits them by replacing the manifest, which is atomic: a reader, or a
save that is interrupted, sees the old index or the new one and nothing between. Saves to one path
take turns, by a lock on its directory. Arrays are memory-mapped on loading, nothing of them is read
before it is used. No pickle anywhere.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DiffusionError

try:
    import fcntl
except ImportError:  # Windows: nothing is locked
    fcntl = None  # type: ignore[assignment]

FORMAT = "diffusion-rerank index"
VERSION = 1
MANIFEST = "manifest.json"

_FOLDER = re.compile(r"arrays-[0-9a-f]{8}")
_TEMPORARY = re.compile(r"\.manifest\.json\.[0-9a-f]{8}\.tmp")
# What numpy raises on a damaged .npy or .npz file, beside what the system does. RuntimeError: of an
# archive that says to be packed or encrypted as numpy packs none.
DAMAGED = (
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    RuntimeError,
    SyntaxError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
# How often `load` starts again because a save has replaced the index under it.
_TRIES = 10


@dataclass(frozen=True)
class Stored:
    """An opened index: its manifest, and its arrays by name, memory-mapped."""

    path: Path
    manifest: dict[str, Any]
    arrays: dict[str, NDArray[Any]]


def as_path(path: str | os.PathLike[str], name: str = "path") -> Path:
    """Return `path` as a Path; `name` is what the error calls it."""
    try:
        return Path(path)
    except TypeError:
        raise DiffusionError(f"{name}: expected a str or a path, got {path!r}") from None


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a file that takes the place of `path` only once it is written whole.

    Where `path` is a link, of what it points to. A pipe or a device is written to directly.
    """
    path = Path(path)
    # Before the link is resolved: /dev/stdout may lead to a pipe, which has no path. Where this is
    # a directory, opening it is the error.
    if path.exists() and not path.is_file():
        with open(path, mode) as file:
            yield file
        return
    path = Path(os.path.realpath(path))
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


def create_array(file: Path, dtype: Any, shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    """Make an .npy file, mapped for writing, on a disk that has room for all of it.

    Raises
    ------
    OSError
        If it cannot be made; where the disk is full, now, and not by a fatal signal when the
        mapping is written to.
    """
    array = np.lib.format.open_memmap(file, mode="w+", dtype=np.dtype(dtype), shape=shape)
    if hasattr(os, "posix_fallocate"):
        with open(file, "r+b") as stream:
            try:
                os.posix_fallocate(stream.fileno(), 0, file.stat().st_size)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                    raise
    return array


def lock_directory(path: Path, *, wait: bool = True) -> int | None:
    """Make a directory unless it exists, and lock it against other processes and threads.

    The lock is on the directory itself, so nothing is left behind; it ends with the process.

    Parameters
    ----------
    path : Path
    wait : bool, default True

    Returns
    -------
    int or None
        For `unlock`.

    Raises
    ------
    BlockingIOError
        If the lock is taken, unless `wait`.
    FileExistsError
        If `path` is a file.
    """
    while True:
        path.mkdir(parents=True, exist_ok=True)
        if fcntl is None:
            return None
        descriptor = None
        try:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                raise
            except OSError:
                pass  # a file system without locks
            # Whoever had the lock may have removed the directory.
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        except FileNotFoundError:
            pass
        except BaseException:
            unlock(descriptor)
            raise
        unlock(descriptor)


def unlock(descriptor: int | None) -> None:
    """Release what `lock_directory` returned."""
    if descriptor is not None:
        os.close(descriptor)


def save(
    path: str | os.PathLike[str], content: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
) -> None:
    """Write an index, or replace the one at `path`.

    Parameters
    ----------
    path : path-like
        A directory that is an index, is empty or does not exist.
    content : mapping
        What the manifest says beside the arrays; JSON values and numpy scalars.
    arrays : mapping of str to ndarray

    Raises
    ------
    DiffusionError
        If `path` holds something else, which is never touched.
    """
    path = as_path(path)
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        lock = lock_directory(path)
    except FileExistsError:
        raise DiffusionError(f"{path}: expected a directory, this is a file") from None
    try:
        check_target(path)
        _save(path, content, arrays)
    except BaseException:
        for made in missing:
            with contextlib.suppress(OSError):
                made.rmdir()
        raise
    finally:
        unlock(lock)


def _save(path: Path, content: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    folder = path / f"arrays-{secrets.token_hex(4)}"
    folder.mkdir()
    entries: dict[str, Any] = {}
    try:
        entries = {name: _write_array(folder, name, array) for name, array in arrays.items()}
        _sync_directory(folder)
        manifest = {"format": FORMAT, "version": VERSION, **content, "arrays": entries}
        manifest["checksum"] = _manifest_checksum(manifest)
        with replacing(path / MANIFEST, "w") as file:
            json.dump(manifest, file, indent=1, default=_plain)
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
    for old in list(path.iterdir()):
        if old == folder or not _is_ours(old):
            continue
        if old.is_dir():
            shutil.rmtree(old, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                old.unlink()


def check_target(path: str | os.PathLike[str]) -> None:
    """Raise unless `path` is an index, is empty but for what a save left, or does not exist."""
    path = as_path(path)
    if not path.exists():
        return
    if not path.is_dir():
        raise DiffusionError(f"{path}: expected a directory, this is a file")
    # Listed before the manifest is read, so that a first save that commits between is recognised.
    rest = [entry for entry in path.iterdir() if entry.name != MANIFEST]
    try:
        text = (path / MANIFEST).read_text(errors="replace")
    except FileNotFoundError:
        ours = all(map(_is_ours, rest))
    except OSError:
        ours = False
    else:
        try:
            manifest = json.loads(text)
            ours = isinstance(manifest, dict) and manifest.get("format") == FORMAT
        except (ValueError, RecursionError):
            # A save may mend a damaged index, which has arrays; no one else's manifest.
            ours = FORMAT in text or (bool(rest) and all(map(_is_ours, rest)))
    if not ours:
        raise DiffusionError(f"{path}: expected an index or an empty directory, found other files")


def _is_ours(entry: Path) -> bool:
    """Whether what stands in an index beside the manifest can only come from a save."""
    if _TEMPORARY.fullmatch(entry.name):
        return not entry.is_dir()
    if not _FOLDER.fullmatch(entry.name) or entry.is_symlink():
        return False
    try:
        with os.scandir(entry) as files:
            return all(
                file.name.endswith(".npy") and file.is_file(follow_symlinks=False) for file in files
            )
    except FileNotFoundError:  # another save has just removed it
        return True
    except OSError:
        return False


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
    path = as_path(path)
    manifest = read_manifest(path)
    for _ in range(_TRIES):
        try:
            return Stored(path, manifest, _open_arrays(path, manifest, verify))
        except DiffusionError:
            # A save may have replaced the index since its manifest was read.
            before, manifest = manifest, read_manifest(path)
            if manifest == before:
                raise
    return Stored(path, manifest, _open_arrays(path, manifest, verify))


def _open_arrays(path: Path, manifest: dict[str, Any], verify: bool) -> dict[str, NDArray[Any]]:
    arrays = {}
    for name, entry in manifest["arrays"].items():
        file = path / entry["file"]
        try:
            size = file.stat().st_size
            if size != entry["bytes"]:
                raise DiffusionError(
                    f"{file}: truncated or altered, expected {entry['bytes']} bytes, got {size}"
                )
            if verify and _checksum(file) != entry["sha256"]:
                raise DiffusionError(f"{file}: altered, its SHA-256 is not the manifest's")
        except OSError as error:
            raise DiffusionError(f"{file}: cannot be read ({error.strerror})") from None
        arrays[name] = _map_array(file, entry)
    return arrays


def read_manifest(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read and check the manifest alone."""
    file = as_path(path) / MANIFEST
    try:
        manifest = json.loads(file.read_text())
        checksum = _manifest_checksum(manifest) if isinstance(manifest, dict) else None
    except FileNotFoundError:
        raise DiffusionError(f"{path}: expected an index, found no {MANIFEST}") from None
    except OSError as error:
        raise DiffusionError(f"{file}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        raise DiffusionError(f"{file}: truncated or altered, not valid JSON") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise DiffusionError(f"{file}: expected format {FORMAT!r}, this is a foreign file")
    if manifest.get("version") != VERSION:
        raise DiffusionError(
            f"{file}: index of version {manifest.get('version')}, this library reads version "
            f"{VERSION}; a newer diffusion-rerank may read it"
        )
    if manifest.get("checksum") != checksum:
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
    except (OSError, *DAMAGED) as error:
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
    return hashlib.sha256(json.dumps(rest, sort_keys=True, default=_plain).encode()).hexdigest()


def _plain(value: Any) -> Any:
    """Turn a numpy scalar into a number that JSON can hold."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is no JSON value")


def _sync_directory(path: Path) -> None:
    """Make the names in a directory durable, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
