"""The safetensors format: tensors by name in one file, read without running anything of it.

Eight bytes, little-endian, say how long a JSON header is. It gives dtype, shape and place of each
tensor in the bytes that follow, which the tensors fill without gap or overlap.

References
----------
https://github.com/huggingface/safetensors, section "Format".
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusion.errors import DiffusionError
from diffusion.storage import as_path, replacing

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_METADATA = "__metadata__"
# The format's own limit; a longer header is not one.
_LONGEST_HEADER = 100_000_000


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file.

    Returns
    -------
    tensors : dict of str to Tensor
        Each of its own memory.
    metadata : dict of str to str

    Raises
    ------
    DiffusionError
        If the file cannot be read, or departs from the format in any way.
    """
    path = as_path(path)
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or not 2 <= length <= min(size - 8, _LONGEST_HEADER):
                raise _foreign(path, "its first eight bytes are no length of a header")
            entries = _header(path, file.read(length))
            metadata = _metadata(path, entries.pop(_METADATA, {}))
            places = _places(path, entries, size - 8 - length)
            # The bytes are filled without a gap, so that they are read in one go, in order.
            return {name: _tensor(path, file, *place) for name, place in places.items()}, metadata
    except OSError as error:
        raise DiffusionError(f"{path}: cannot be read ({error.strerror or error})") from None


def write(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a safetensors file, whole or not at all; the same content gives the same bytes.

    Raises
    ------
    DiffusionError
        If the file cannot be written, or a tensor is of a dtype that the format has not.
    """
    # Widest first, as the format's own library does, so that each tensor is aligned.
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {_METADATA: dict(sorted(metadata.items()))} if metadata else {}
    end = 0
    for name in order:
        tensor = tensors[name]
        if tensor.dtype not in _NAMES or name == _METADATA:
            raise DiffusionError(f"tensors: {name!r} of {tensor.dtype} cannot be stored")
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    try:
        with replacing(as_path(path)) as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name in order:
                flat = tensors[name].detach().cpu().contiguous().flatten()
                file.write(flat.view(torch.uint8).numpy().tobytes())
    except OSError as error:
        raise DiffusionError(f"{path}: cannot be written ({error.strerror or error})") from None


def _foreign(path: Path, reason: str) -> DiffusionError:
    return DiffusionError(f"{path}: expected a safetensors file ({reason})")


def _header(path: Path, text: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = dict(pairs)
        if len(names) != len(pairs):
            raise ValueError("a name stands twice")
        return names

    try:
        header = json.loads(text.decode(), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise _foreign(path, f"its header is no JSON: {error}") from None
    if not isinstance(header, dict):
        raise _foreign(path, "its header is no JSON object")
    return header


def _metadata(path: Path, metadata: Any) -> dict[str, str]:
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _foreign(path, f"its {_METADATA} does not hold strings")
    return metadata


def _places(
    path: Path, entries: dict[str, Any], size: int
) -> dict[str, tuple[int, int, torch.dtype, list[int]]]:
    """Return (start, end, dtype, shape) of each tensor by rising start, all of them checked."""
    places = {}
    for name, entry in entries.items():
        try:
            dtype, shape = _DTYPES[entry["dtype"]], entry["shape"]
            start, end = entry["data_offsets"]
        except (KeyError, TypeError, ValueError) as error:
            raise _foreign(path, f"{name!r} is not described as expected: {error!r}") from None
        numbers = [start, end, *shape] if isinstance(shape, list) else [None]
        if not all(type(number) is int and number >= 0 for number in numbers):
            raise _foreign(path, f"{name!r} has no shape and place in whole numbers")
        if end - start != math.prod(shape) * dtype.itemsize:
            raise _foreign(path, f"{name!r} has a place that its shape does not fill")
        places[name] = (start, end, dtype, shape)
    places = dict(sorted(places.items(), key=lambda item: item[1][:2]))
    filled = 0
    for name, (start, end, _, _) in places.items():
        if start != filled:
            raise _foreign(path, f"{name!r} leaves a gap or overlaps another")
        filled = end
    if filled != size:
        raise _foreign(path, f"truncated or altered: {filled} bytes described, {size} there")
    return places


def _tensor(
    path: Path, file: Any, start: int, end: int, dtype: torch.dtype, shape: list[int]
) -> Tensor:
    buffer = bytearray(end - start)
    if file.readinto(buffer) != len(buffer):
        raise _foreign(path, "it became shorter while it was read")
    try:
        values = torch.frombuffer(buffer, dtype=dtype) if buffer else torch.empty(0, dtype=dtype)
        return values.reshape(shape)
    except (RuntimeError, TypeError):  # a shape with a 0 may have any number beside it
        raise _foreign(path, "a tensor has a shape that none can have") from None
