"""Indexes that are altered on purpose, with checksums that fit what they contain."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def array_file(index: Path, name: str) -> Path:
    """Return the file of an array."""
    return index / json.loads((index / "manifest.json").read_text())["arrays"][name]["file"]


def change_manifest(index: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the manifest, and compute its checksum anew."""
    file = index / "manifest.json"
    manifest = json.loads(file.read_text())
    change(manifest)
    rest = {key: value for key, value in manifest.items() if key != "checksum"}
    text = json.dumps(rest, sort_keys=True)
    manifest["checksum"] = hashlib.sha256(text.encode()).hexdigest()
    file.write_text(json.dumps(manifest))


def entries_of(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the entries of all files of arrays, patches among them."""
    entries = list(manifest["arrays"].values())
    return entries + [entry["patch"] for entry in entries if "patch" in entry]


def describe_file(entry: dict[str, Any], content: bytes) -> None:
    """Make an entry describe a file; what was appended becomes one stretch."""
    first = min(entry["bytes"], len(content)) if "appended" in entry else len(content)
    parts = content[:first], content[first:]
    sizes = [{"bytes": len(part), "sha256": hashlib.sha256(part).hexdigest()} for part in parts]
    entry.update(sizes[0])
    if "appended" in entry:
        entry["appended"] = sizes[1:]


def sign(index: Path) -> None:
    """Make the manifest describe the files that are there, whatever they contain."""

    def describe(manifest: dict[str, Any]) -> None:
        for entry in entries_of(manifest):
            describe_file(entry, (index / entry["file"]).read_bytes())

    change_manifest(index, describe)


def change_array(index: Path, name: str, change: Callable[[Any], Any]) -> None:
    """Change an array in place, or replace it by what `change` returns, and sign the index."""
    file = array_file(index, name)
    array = np.load(file)
    result = change(array)
    array = array if result is None else result
    np.save(file, array)

    def describe(manifest: dict[str, Any]) -> None:
        manifest["arrays"][name].update(dtype=array.dtype.str, shape=list(array.shape))

    change_manifest(index, describe)
    sign(index)
