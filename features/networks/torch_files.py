"""A reader of the files that `torch.save` writes.

Our own, because torch's reader, `torch.load(weights_only=True)`, calls what the file names from a
long list: tensors of any size without data, numpy's `__setstate__`, functions of other libraries.
This one reads dense tensors and plain values. All storages together may not be larger than the
file, and a tensor not larger than its storage.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any, ClassVar

import torch
from torch import Tensor

from diffusion.errors import DiffusionError
from diffusion.storage import opened

from .plain_pickle import BROKEN, Inert, Reader, as_dict, reason, whole_numbers

# The storages of numbers and truth values, by the names that torch gives them.
_STORAGES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "BoolStorage": torch.bool, "LongStorage": torch.int64,
    "IntStorage": torch.int32, "ShortStorage": torch.int16, "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
}  # fmt: skip
# What files that are not archives begin with, each number pickled.
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


def read_checkpoint(path: Path) -> Any:
    """Read a file that `torch.save` wrote, as an archive or in the format before torch 1.6.

    Parameters
    ----------
    path : Path

    Returns
    -------
    object
        Plain values, numpy arrays, and tensors on the CPU.

    Raises
    ------
    DiffusionError
        If the file cannot be read, is damaged, or holds anything else.
    """
    try:
        with opened(path, links=True) as file:
            archive = file.read(4) == b"PK\x03\x04"
            file.seek(0)
            return _read_archive(file) if archive else _read_stream(file)
    except OSError as error:
        raise DiffusionError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (*BROKEN, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise DiffusionError(
            f"{path}: expected a torch checkpoint of dense tensors of numbers and of plain values "
            f"({reason(error)})"
        ) from None


def _read_archive(file: IO[bytes]) -> Any:
    with zipfile.ZipFile(file) as archive:
        _check_stored(archive, _length(file))
        parts = archive.infolist()
        roots = {root for root, _, name in (p.filename.partition("/") for p in parts)
                 if name == "data.pkl"}  # fmt: skip
        names = {p.filename for p in parts}
        if len(roots) != 1 or f"{min(roots)}/constants.pkl" in names:
            raise ValueError("it is another archive, perhaps a TorchScript program")
        root = roots.pop()
        if f"{root}/byteorder" in names and archive.read(f"{root}/byteorder") != b"little":
            raise ValueError("its numbers are big-endian")
        with archive.open(f"{root}/data.pkl") as pickled:
            return _ArchiveReader(pickled, _length(file), archive, root).load()


def _check_stored(archive: zipfile.ZipFile, length: int) -> None:
    """Raise a ValueError if an archive of so many bytes could be a bomb.

    torch compresses nothing. What is compressed could inflate to anything, and so could parts that
    lie in the same place of the file.
    """
    parts = archive.infolist()
    if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
        raise ValueError("its parts are compressed")
    if sum(max(part.file_size, part.compress_size) for part in parts) > length:
        raise ValueError("its parts are larger than the file")


def _read_stream(file: IO[bytes]) -> Any:
    if Reader(file).load() != _MAGIC or Reader(file).load() != _PROTOCOL:
        raise ValueError("it begins with none")
    system = Reader(file).load()
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ValueError("its numbers are big-endian")
    return _StreamReader(file, _length(file)).load()


def _length(file: IO[bytes]) -> int:
    here = file.tell()
    length = file.seek(0, 2)
    file.seek(here)
    return length


class _Storage(Inert):
    """A storage of so many numbers of a dtype; `data` is filled in when it has been read."""

    def __init__(self, dtype: torch.dtype, count: int) -> None:
        self.dtype, self.count = dtype, count
        self.data: bytearray | None = None

    @property
    def bytes(self) -> int:
        return self.count * self.dtype.itemsize

    def flat(self) -> Tensor:
        """Return the numbers as one row, which shares their memory."""
        if self.data is None or len(self.data) != self.bytes:
            raise ValueError("its tensors have no data")
        if not self.count:
            return torch.empty(0, dtype=self.dtype)
        return torch.frombuffer(self.data, dtype=self.dtype)


class _Tensor(Inert):
    """A tensor, as the arguments of `torch._utils._rebuild_tensor_v2` describe it."""

    def __init__(self, storage: Any, offset: Any, size: Any, stride: Any, *others: Any) -> None:
        if not isinstance(storage, _Storage):
            raise TypeError("it holds a tensor without a storage")
        self._storage = storage
        (self._offset,) = whole_numbers((offset,))
        self._size, self._stride = whole_numbers(size), whole_numbers(stride)
        if len(self._size) != len(self._stride):
            raise ValueError("it holds a tensor whose shape and strides differ in length")

    def made(self) -> Tensor:
        flat, count = self._storage.flat(), math.prod(self._size)
        if not count:
            if math.prod(max(side, 1) for side in self._size) >= 1 << 40:
                raise ValueError("it holds an empty tensor of a shape out of all proportion")
            return torch.empty(self._size, dtype=flat.dtype)
        steps = zip(self._size, self._stride, strict=True)
        last = self._offset + sum((side - 1) * step for side, step in steps)
        if count > len(flat) or last >= len(flat):
            raise ValueError("it holds a tensor that is larger than its storage")
        return flat.as_strided(self._size, self._stride, self._offset)


class _Parameter(Inert):
    """A parameter of a network, which is read as a tensor."""

    def __init__(self, data: Any, *others: Any) -> None:
        if not isinstance(data, _Tensor):
            raise TypeError("it holds a parameter without a tensor")
        self._data = data

    def made(self) -> Tensor:
        return self._data.made()


class _Ordered(dict[Any, Any]):
    """A dictionary; torch sets attributes of those of modules, which are left out."""

    def __setstate__(self, state: Any) -> None:
        pass


# A class is known by its name, and a dtype stands for its storages.
_KNOWN = {
    ("collections", "OrderedDict"): lambda items=(): _Ordered(as_dict(items)),
    ("collections", "Counter"): as_dict,
    ("torch", "Size"): whole_numbers,
    ("torch", "device"): lambda kind, *index: kind,
    ("torch._utils", "_rebuild_tensor"): _Tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _Tensor,
    ("torch._utils", "_rebuild_parameter"): _Parameter,
    **{("torch", name): dtype for name, dtype in _STORAGES.items()},
}


class _CheckpointReader(Reader):
    """A reader of the pickle in a file of torch, which has so many bytes."""

    known: ClassVar = {**Reader.known, **_KNOWN}

    def __init__(self, file: IO[bytes], length: int) -> None:
        super().__init__(file)
        self.storages: dict[str, _Storage] = {}
        self._left = length

    def persistent_load(self, pid: Any) -> _Storage:
        """Return the storage that a pickle refers to."""
        kind, dtype, key, _, count, *view = pid if isinstance(pid, tuple) else ()
        if kind != "storage" or not isinstance(key, str) or not isinstance(dtype, torch.dtype):
            raise ValueError("it refers to something that is no storage")
        if any(part is not None for part in view):
            raise ValueError("it holds parts of storages, as very old files do")
        (count,) = whole_numbers((count,))
        known = self.storages.get(key)
        if known is None:
            known = self.storages[key] = _Storage(dtype, count)
            self._left -= known.bytes
            if self._left < 0:
                raise ValueError("its tensors are larger than the file")
        elif (known.dtype, known.count) != (dtype, count):
            raise ValueError("it describes a storage in two ways")
        return known


class _ArchiveReader(_CheckpointReader):
    """The reader of the pickle in an archive, each of whose storages is a part of it."""

    def __init__(self, file: IO[bytes], length: int, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(file, length)
        self._archive, self._root = archive, root

    def complete(self) -> None:
        """Read the storages."""
        for key, storage in self.storages.items():
            storage.data = bytearray(self._archive.read(f"{self._root}/data/{key}"))


class _StreamReader(_CheckpointReader):
    """The reader of the last pickle in a file that is no archive, which the storages follow."""

    def complete(self) -> None:
        """Read the storages."""
        for key in Reader(self.file).load():
            storage = self.storages[key]
            count = int.from_bytes(self.file.read(8), "little")
            if count != storage.count:
                raise ValueError("its storages are not as it describes them")
            storage.data = bytearray(self.file.read(storage.bytes))
