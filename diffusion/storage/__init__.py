"""Directories of arrays and other files, written atomically and read back with checks.

A directory of arrays holds `manifest.json` and `arrays-xxxxxxxx/NAME.npy`. A `Format` says what it
is called, its version, and which companions its writer keeps beside the manifest.

Whole directories:

- `save(path, format, content, arrays, rows=None)` writes one, or replaces it; with `rows`, it
  writes only what differs from what is there;
- `writing(path, format)` does so piece by piece: its `Writing` has `add(name, array)`,
  `create(name, dtype, shape)` for arrays larger than memory, `adopt(name, path)` for files that
  others have written, and `commit(content)`;
- `load(path, format, verify=False)` returns a `Stored`: path, manifest, memory-mapped arrays;
- `read_manifest(path, format)` reads the manifest alone, `peek_manifest(path)` one of any format;
- `check_target(path, format, accepts=None)` raises unless a directory may be written to;
- `claimed(path, format)` holds one during long work: lock, unfinished manifest, clear errors;
- `remove(path, format)` deletes one, but nothing else that is in it.

All of them raise `DiffusionError`s that name the path.

Resumable work: `rows.RowsCheckpoint` keeps the rows of a fit, `Shards(path)` named .npz files, and
`results.result(path)` writes a file or folder that is complete or absent.

Single files: `opened(path)`, `replacing(path)`, `errors_named(path)`, which makes
`DiffusionError`s of the errors of the file system while one is written, `read_array(path)`,
`read_archive(stream)`, `sha256_of(path)`, `fingerprint(value)`, `as_path(path, name)`, and
`DAMAGED`, what numpy raises on damaged files. Result lists and TREC files are in `runs`; what the
arrays of a state must contain is declared and checked with `contents`.
"""

from .contents import Ragged
from .directory import Stored, check_target, claimed, load, remove
from .files import (
    DAMAGED,
    as_path,
    errors_named,
    fingerprint,
    opened,
    read_archive,
    read_array,
    replacing,
    sha256_of,
)
from .manifest import MANIFEST, Format, peek_manifest, read_manifest
from .saving import Writing, save, writing
from .shards import Shard, Shards

__all__ = [
    "DAMAGED",
    "MANIFEST",
    "Format",
    "Ragged",
    "Shard",
    "Shards",
    "Stored",
    "Writing",
    "as_path",
    "check_target",
    "claimed",
    "errors_named",
    "fingerprint",
    "load",
    "opened",
    "peek_manifest",
    "read_archive",
    "read_array",
    "read_manifest",
    "remove",
    "replacing",
    "save",
    "sha256_of",
    "writing",
]
