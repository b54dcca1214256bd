"""Arrays of the user that are kept in shards: .npy or Parquet files, each with some of the rows."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import DiffusionError
from ..storage.files import array_header, as_path, fingerprint, opened, read_array

_NPY, _PARQUET = ".npy", ".parquet"
_DIGITS = re.compile(r"(\d+)")
_NUMBERED = re.compile(r"(.*?)(\d+)", re.DOTALL)
# What a kind of type is called in errors.
_NOUNS = {"f": "floats", "i": "integers", "u": "integers", "U": "str"}


class _Header(NamedTuple):
    """What is known of a shard before its rows are read."""

    rows: int
    width: tuple[int, ...]
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class Input:
    """An array of n rows in one or more files, of which tasks read parts.

    `open_input` makes one. It holds names and numbers only, so that it can be sent to workers.

    Attributes
    ----------
    name : str
        The argument that it was given as, for errors.
    files : tuple of str
        Absolute paths of the shards.
    starts : tuple of int, shape (files + 1,)
        File p has rows starts[p] to starts[p + 1]; it may have none.
    width : tuple of int
        The shape of a row: (d,), or () for one value per row.
    dtype : str
        As numpy writes types; "<U0" stands for strings of any length.
    column : str or None
        The column of Parquet files.
    states : tuple of tuple of int
        Size and time of modification of each file when this was made.
    """

    name: str
    files: tuple[str, ...]
    starts: tuple[int, ...]
    width: tuple[int, ...]
    dtype: str
    column: str | None = None
    states: tuple[tuple[int, int], ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "states", tuple(self._state(file) for file in self.files))

    @property
    def n(self) -> int:
        """Number of rows."""
        return self.starts[-1]

    def read(self, first: int, last: int) -> NDArray[Any]:
        """Read rows `first` to `last` of the numbering over all files.

        Returns
        -------
        ndarray, shape (last - first, *width)
            In memory. Strings are as long as they need to be.

        Raises
        ------
        DiffusionError
            If a file has been removed or changed since `open_input`; the message names it.
        """
        if not 0 <= first <= last <= self.n:
            raise ValueError(f"expected rows from 0 to {self.n}, got {first} to {last}")
        parts = [np.empty((0, *self.width), self.dtype)]
        for number, (begin, end) in enumerate(pairwise(self.starts)):
            low, high = max(first, begin), min(last, end)
            if low < high:
                parts.append(self._part(number, low - begin, high - begin))
        return parts[1] if len(parts) == 2 else np.concatenate(parts)

    def _part(self, number: int, first: int, last: int) -> NDArray[Any]:
        """Read some rows of one file."""
        file = self.files[number]
        found = _header(self.name, file, self.column)
        if self._state(file) != self.states[number]:
            raise DiffusionError(f"{self.name}: {file}: was changed while it was being used")
        if self.column is not None:
            return _parquet_rows(self.name, file, self.column, first, last, found)
        return np.array(read_array(file)[first:last])

    def fingerprint(self) -> str:
        """Return what tells this input from another: names, sizes, times and shapes of the files.

        The content is not read.
        """
        names = [Path(file).name for file in self.files]
        shape = [self.starts, self.width, self.dtype, self.column]
        return fingerprint([names, [list(state) for state in self.states], *shape])

    def _state(self, file: str) -> tuple[int, int]:
        try:
            found = os.stat(file)
        except OSError as error:
            raise DiffusionError(
                f"{self.name}: {file}: cannot be read ({error.strerror})"
            ) from None
        return found.st_size, found.st_mtime_ns


def open_input(
    path: str | os.PathLike[str],
    name: str,
    *,
    kinds: str = "f",
    ndim: int = 2,
    column: str | None = None,
) -> Input:
    """Open an array that is kept in shards, and check that they fit together; no row is read.

    Parameters
    ----------
    path : path-like
        A .npy or Parquet file, or a folder of either. The shards of a folder are in the order of
        their names, in which numbers count as numbers: "part-2.npy" comes before "part-10.npy".
        Other files in the folder are ignored.
    name : str
        The argument's name, for errors.
    kinds : str, default "f"
        The kinds of types that are expected: floats "f", integers "iu", strings "U".
    ndim : {1, 2}, default 2
        2 for one vector or list per row, of the same length in all rows; 1 for one value per row.
    column : str, optional
        The column of Parquet files: by default `name`.

    Returns
    -------
    Input

    Raises
    ------
    DiffusionError
        If there is no shard, if one cannot be read, has another type or width than the first or
        is missing between two numbers; the message names it.
    """
    files = _files(as_path(path, name), name)
    of_parquet = files[0].suffix == _PARQUET
    column = (column or name) if of_parquet else None
    first: _Header | None = None
    counts, longest = [0], 0
    for file in files:
        found = _header(name, str(file), column)
        if found.dtype.kind not in kinds or len(found.width) != ndim - 1:
            raise DiffusionError(
                f"{name}: {file}: expected {_NOUNS[kinds[0]]} in {ndim} dimensions, got "
                f"{_shown(found)}"
            )
        first = first or found
        if _unlike(found, first.width, first.dtype):
            raise DiffusionError(
                f"{name}: {file}: expected {_shown(first)} as in {files[0].name}, got "
                f"{_shown(found)}"
            )
        counts.append(found.rows)
        longest = max(longest, found.dtype.itemsize)
    assert first is not None
    if not sum(counts):
        raise DiffusionError(f"{name}: {path}: expected at least one row")
    dtype = np.dtype("<U0") if first.dtype.kind == "U" else first.dtype
    starts = tuple(accumulate(counts))
    absolute = tuple(os.path.abspath(file) for file in files)
    return Input(name, absolute, starts, first.width, dtype.str, column)


def check_same_rows(inputs: Sequence[Input]) -> None:
    """Raise a DiffusionError unless all inputs have the same number of rows."""
    for other in inputs[1:]:
        if other.n != inputs[0].n:
            raise DiffusionError(
                f"{other.name}: expected {inputs[0].n} rows, as many as {inputs[0].name} has, got "
                f"{other.n}"
            )


def _unlike(found: _Header, width: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
    """Return whether rows of a shard are not like those of another; strings differ in length."""
    same = found.dtype.kind == dtype.kind == "U" or found.dtype == dtype
    return not same or found.width != width


def _shown(header: _Header) -> str:
    shape = ", ".join(map(str, ("n", *header.width)))
    return f"{header.dtype.name} of shape ({shape}{',' * (not header.width)})"


# --- files ----------------------------------------------------------------------------------------


def _files(path: Path, name: str) -> list[Path]:
    """Return the shards at a path, in their order."""
    if not path.exists():
        raise DiffusionError(f"{name}: {path}: cannot be read (No such file or directory)")
    if not path.is_dir():
        if path.suffix not in (_NPY, _PARQUET):
            raise DiffusionError(f"{name}: {path}: expected a .npy or Parquet file, or a folder")
        return [path]
    found: dict[str, list[Path]] = {_NPY: [], _PARQUET: []}
    for entry in path.iterdir():
        if entry.suffix in found and not entry.name.startswith("."):
            found[entry.suffix].append(entry)
    arrays, tables = found[_NPY], found[_PARQUET]
    if bool(arrays) == bool(tables):
        raise DiffusionError(
            f"{name}: {path}: expected a folder of .npy files or of Parquet files, got "
            f"{len(arrays)} and {len(tables)} of them"
        )
    files = sorted(arrays or tables, key=lambda file: _natural(file.name))
    _check_complete(files, name)
    return files


def _natural(text: str) -> tuple[list[tuple[str, int]], str]:
    """Return what orders names by the numbers in them."""
    parts = _DIGITS.split(text)
    numbers = [*map(int, parts[1::2]), 0]
    return list(zip(parts[::2], numbers, strict=True)), text


def _check_complete(files: list[Path], name: str) -> None:
    """Raise if the names end with numbers, one of which is missing between the others."""
    found = [_NUMBERED.fullmatch(file.stem) for file in files]
    if len({match and match[1] for match in found}) > 1:
        return
    numbers = [int(match[2]) for match in found if match]
    for before, number, file in zip(numbers, numbers[1:], files[1:], strict=False):
        if number != before + 1:
            match = _NUMBERED.fullmatch(file.stem)
            assert match is not None
            wanted = f"{match[1]}{str(before + 1).zfill(len(match[2]))}{file.suffix}"
            raise DiffusionError(f"{name}: {file.with_name(wanted)}: this shard is missing")


def _header(name: str, file: str, column: str | None) -> _Header:
    """Return what is known of a shard.

    Raises
    ------
    DiffusionError
        If it cannot be read or is damaged.
    """
    try:
        return _npy_header(file) if column is None else _parquet_header(name, file, column)
    except OSError as error:
        raise DiffusionError(
            f"{name}: {file}: cannot be read ({error.strerror or error})"
        ) from None
    except ValueError as error:
        if isinstance(error, DiffusionError):
            raise
        raise DiffusionError(f"{name}: {file}: {error}") from None


def _npy_header(file: str) -> _Header:
    with opened(file, links=True) as stream:
        found = array_header(stream, "fiuU")
        if found.fortran and len(found.shape) > 1:
            raise ValueError("expected an array in C order")
        size = os.fstat(stream.fileno()).st_size
        if stream.tell() + found.bytes != size:
            raise ValueError(
                f"truncated or damaged: expected {stream.tell() + found.bytes} bytes, got {size}"
            )
    if not found.shape:
        raise ValueError("expected rows, got a single number")
    return _Header(found.shape[0], found.shape[1:], found.dtype)


# --- Parquet --------------------------------------------------------------------------------------


def _parquet() -> Any:
    """Import the reader of Parquet files.

    Raises
    ------
    DiffusionError
        If it is not installed.
    """
    try:
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise DiffusionError(
            "Parquet files need pyarrow, which is not installed (pip install pyarrow)"
        ) from None
    return pyarrow.parquet


def _opened_table(parquet: Any, name: str, file: str, column: str) -> Any:
    table = parquet.ParquetFile(file, memory_map=True)
    names = table.schema_arrow.names
    if column not in names:
        table.close()
        raise DiffusionError(f"{name}: {file}: expected a column {column!r}, got {names}")
    return table


def _parquet_header(name: str, file: str, column: str) -> _Header:
    import pyarrow.types as types

    with _opened_table(_parquet(), name, file, column) as table:
        kind = table.schema_arrow.field(column).type
        rows: int = table.metadata.num_rows
        width: tuple[int, ...] = ()
        if types.is_fixed_size_list(kind):
            width = (kind.list_size,)
        elif types.is_list(kind) or types.is_large_list(kind):
            head = next(table.iter_batches(batch_size=1, columns=[column]), None)
            length = head.column(0)[0].as_py() if head is not None and len(head) else None
            width = (len(length or ()),)
        value = kind.value_type if width else kind
        if types.is_string(value) or types.is_large_string(value):
            return _Header(rows, width, np.dtype("<U0"))
        if types.is_integer(value) or types.is_floating(value):
            return _Header(rows, width, np.dtype(value.to_pandas_dtype()))
        raise ValueError(f"expected numbers or str in column {column!r}, got {kind}")


def _parquet_rows(
    name: str, file: str, column: str, first: int, last: int, header: _Header
) -> NDArray[Any]:
    """Read some rows of a column; the memory is that of the row groups that have them."""
    parts, begin = [], 0
    with _opened_table(_parquet(), name, file, column) as table:
        for group in range(table.num_row_groups):
            end = begin + table.metadata.row_group(group).num_rows
            low, high = max(first, begin), min(last, end)
            if low < high:
                values = table.read_row_group(group, columns=[column]).column(0)
                chunk = values.slice(low - begin, high - low).combine_chunks()
                parts.append(_as_rows(chunk, header, f"{name}: {file}: row {low}"))
            begin = end
    return np.concatenate(parts)


def _as_rows(values: Any, header: _Header, source: str) -> NDArray[Any]:
    """Convert the values of a column, (m,) or lists of equal length, to an array."""
    rows = len(values)
    # `flatten` takes the slice into account, and leaves out lists that are null.
    flat = values.flatten() if header.width else values
    lengths = np.full(rows, 1) if not header.width else np.asarray(values.value_lengths())
    if values.null_count or flat.null_count or (lengths != (header.width or (1,))[0]).any():
        raise DiffusionError(
            f"{source} and those after it: expected values without null, and lists of equal length"
        )
    if header.dtype.kind == "U":
        return np.array(flat.to_pylist(), dtype=str).reshape(rows, *header.width)
    return np.asarray(flat.to_numpy(zero_copy_only=False)).reshape(rows, *header.width)
