"""Damage to files: bytes, arrays, JSON, archives, and what else can have the name of a file.

A folder of files is a dict of their bytes by name. A `Delta` says what differs from it: new bytes,
None for a file that is gone, or a `Special`. Mutators take a random generator, so that a seed
repeats them.
"""

from __future__ import annotations

import ast
import base64
import hashlib
import io
import json
import os
import pickletools
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tests.support.forgery import describe_file

Rng = np.random.Generator
Files = dict[str, bytes]


class Special(NamedTuple):
    """Something that is no ordinary file: "fifo", "directory", "link" (to `value`), "sparse"."""

    kind: str
    value: Any = None


Change = bytes | None | Special
Delta = dict[str, Change]

EXTREME_INTEGERS = (
    -1, 0, 1, 2, 7, 127, 128, 255, 256, 32767, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**32,
    2**53, 2**62, 2**63 - 1, 2**63, 2**64, 10**20, 10**400, -2, -(2**31), -(2**63),
)  # fmt: skip
EXTREME_NUMBERS = (
    float("nan"), float("inf"), -float("inf"), -0.0, 0.5, 1e-320, 1e-45, 1e-30, 3e38, 1e39, 1e308,
    -1.0, -1e30, 1.0, 2.0,
)  # fmt: skip
EXTREME_STRINGS = (
    "", " ", "0", "-1", "nan", "a" * 5000, "\x00", "\x1b[2J", "../../etc/passwd", "/dev/zero",
    "é\u202e", "\ud800", "{}", "None", "cosine", "cg", "ivf", "True", "%s%n", "\n",
)  # fmt: skip
DTYPES = (
    "<i8", "<i4", "<i2", "|i1", "<u8", "<u4", "<u2", "|u1", "<f8", "<f4", "<f2", ">i8", ">f4",
    ">i4", "|b1", "<c8", "<c16", "|O", "|V8", "|S4", "<U3", "<M8[D]", "<m8[ns]", "<f16", "|V0",
    "|S0", "<U0",
)  # fmt: skip


# --- folders --------------------------------------------------------------------------------------


def read_folder(folder: Path) -> Files:
    """Return the bytes of all files of a folder by their names in it."""
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def write_folder(folder: Path, files: Mapping[str, Change]) -> None:
    """Write files, and make what else is among them, in a new folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, Special):
            _make(path, content)


def _make(path: Path, special: Special) -> None:
    if special.kind == "fifo":
        os.mkfifo(path)
    elif special.kind == "directory":
        path.mkdir()
        if special.value:
            (path / "something").write_bytes(b"")
    elif special.kind == "link":
        path.symlink_to(special.value)
    elif special.kind == "sparse":
        with open(path, "wb") as file:
            file.write(special.value[0])
            file.truncate(special.value[1])
    else:
        raise ValueError(special.kind)


def applied(files: Files, delta: Delta) -> dict[str, Change]:
    """Return the files with a delta applied."""
    return {name: content for name, content in {**files, **delta}.items() if content is not None}


def resigned(files: Mapping[str, Change]) -> dict[str, Change]:
    """Return a folder of arrays whose manifest describes and signs its files as they are."""
    text = files.get("manifest.json")
    try:
        manifest = json.loads(text)  # type: ignore[arg-type]
    except (TypeError, ValueError, RecursionError):
        return dict(files)
    if not isinstance(manifest, dict):
        return dict(files)
    entries = manifest.get("arrays")
    for entry in entries.values() if isinstance(entries, dict) else ():
        for part in (entry, entry.get("patch")) if isinstance(entry, dict) else ():
            name = part.get("file") if isinstance(part, dict) else None
            content = files.get(name) if isinstance(name, str) else None
            if isinstance(content, bytes):
                _describe(part, content)
    return {**files, "manifest.json": signed(manifest)}


def _describe(entry: dict[str, Any], content: bytes) -> None:
    """Make an entry describe a file; one that was appended to keeps its length."""
    grown = "appended" in entry and type(entry.get("bytes")) is int
    if not grown:
        entry.pop("appended", None)
    describe_file(entry, content)
    header = header_of(content)
    if header is not None and not grown:
        entry |= {"dtype": header[0]["descr"], "shape": list(header[0]["shape"])}


def signed(manifest: dict[str, Any]) -> bytes:
    """Return a manifest as JSON with the checksum that the storage expects."""
    rest = {key: value for key, value in manifest.items() if key != "checksum"}
    try:
        text = json.dumps(rest, sort_keys=True)
    except (ValueError, TypeError, RecursionError):
        return json.dumps(manifest).encode()
    rest["checksum"] = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
    return json.dumps(rest).encode()


# --- bytes ----------------------------------------------------------------------------------------


def bit_flips(content: bytes, rng: Rng) -> bytes:
    """Flip one to three bits."""
    out = bytearray(content)
    for _ in range(rng.integers(1, 4) if out else 0):
        out[rng.integers(len(out))] ^= 1 << rng.integers(8)
    return bytes(out)


def byte_run(content: bytes, rng: Rng) -> bytes:
    """Overwrite a run of bytes."""
    if not content:
        return b"\0"
    start, length = _span(content, rng)
    fill = rng.integers(4)
    new = (
        rng.bytes(length),
        b"\0" * length,
        b"\xff" * length,
        bytes([rng.integers(256)]) * length,
    )[fill]
    return content[:start] + new + content[start + length :]


def extreme_value(content: bytes, rng: Rng) -> bytes:
    """Overwrite 1, 2, 4 or 8 bytes by a number that a reader may trip over."""
    code = rng.choice(list("bhiqfdBHIQ<>"[:10]))
    width = struct.calcsize(code)
    if len(content) < width:
        return content + b"\xff"
    if code in "fd":
        value: Any = EXTREME_NUMBERS[rng.integers(len(EXTREME_NUMBERS))]
        with np.errstate(over="ignore"):
            value = np.array(value).astype(np.float32 if code == "f" else np.float64)
    else:
        bits = 8 * width
        value = EXTREME_INTEGERS[rng.integers(len(EXTREME_INTEGERS))] % 2**bits
        if code.islower() and value >= 2 ** (bits - 1):
            value -= 2**bits
    place = int(rng.integers(len(content) - width + 1))
    if rng.random() < 0.7:  # arrays begin at a multiple of 64
        place -= place % width
    new = struct.pack(("<", ">")[int(rng.random() < 0.2)] + code, value)
    return content[:place] + new + content[place + width :]


def truncated(content: bytes, rng: Rng) -> bytes:
    """Cut the end off, or everything."""
    return content[: int(rng.integers(len(content) + 1))] if rng.random() < 0.9 else b""


def extended(content: bytes, rng: Rng) -> bytes:
    """Append bytes."""
    return content + (rng.bytes(int(rng.integers(1, 200))), b"\0" * 64, content)[rng.integers(3)]


def shifted(content: bytes, rng: Rng) -> bytes:
    """Insert, delete or repeat a run of bytes; everything after it moves."""
    start, length = _span(content, rng)
    how = rng.integers(3)
    if how == 0:
        return content[:start] + rng.bytes(length) + content[start:]
    if how == 1:
        return content[:start] + content[start + length :]
    return content[: start + length] + content[start:]


def _span(content: bytes, rng: Rng) -> tuple[int, int]:
    start = int(rng.integers(len(content))) if content else 0
    longest = max(1, min(len(content) - start, 1 << int(rng.integers(1, 10))))
    return start, int(rng.integers(1, longest + 1))


BYTES: tuple[Callable[[bytes, Rng], bytes], ...] = (
    bit_flips, bit_flips, byte_run, extreme_value, extreme_value, truncated, extended, shifted,
)  # fmt: skip


def any_bytes(content: bytes, rng: Rng) -> bytes:
    """Damage bytes in one way."""
    return BYTES[rng.integers(len(BYTES))](content, rng)


# --- .npy -----------------------------------------------------------------------------------------


def header_of(content: bytes) -> tuple[dict[str, Any], int] | None:
    """Return the header of an .npy file and the place at which its data begin; None if damaged."""
    try:
        if content[:6] != b"\x93NUMPY":
            return None
        wide = content[6] > 1
        length = int.from_bytes(content[8 : 12 if wide else 10], "little")
        start = (12 if wide else 10) + length
        header = ast.literal_eval(content[12 if wide else 10 : start].decode("latin1").strip())
        ok = {"descr", "shape", "fortran_order"} <= set(header) and isinstance(header["descr"], str)
        return (header, start) if ok and isinstance(header["shape"], tuple) else None
    except (IndexError, ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def npy(header: Mapping[str, Any], data: bytes, version: int = 1) -> bytes:
    """Return an .npy file with a header, whatever it says."""
    text = repr(dict(header)).encode("latin1", "replace")
    text += b" " * (-(len(text) + (11 if version == 1 else 13)) % 64) + b"\n"
    size = len(text).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + size + text + data


def npy_header(content: bytes, rng: Rng) -> bytes:
    """Rewrite the header of an .npy file: its dtype, its order, its shape, or the form of it."""
    found = header_of(content)
    if found is None:
        return any_bytes(content, rng)
    header, start = dict(found[0]), found[1]
    data, version = content[start:], 1
    how = rng.integers(9)
    if how <= 1:
        header["descr"] = DTYPES[rng.integers(len(DTYPES))]
    elif how == 2:
        header["fortran_order"] = not header["fortran_order"]
    elif how <= 5:
        header["shape"] = _other_shape(header["shape"], rng)
    elif how == 6:
        version = int(rng.choice([2, 3, 4, 0, 255]))
    elif how == 7:
        key = str(rng.choice(["descr", "fortran_order", "shape", "more"]))
        header[key] = (None, "x", -1, [1], {"a": 1}, (1.5,), 10**30)[rng.integers(7)]
    else:
        size = int(rng.choice([0, 1, 9, 10000, 65535]))
        return content[:8] + size.to_bytes(2, "little") + content[10:]
    return npy(header, data, version)


def _other_shape(shape: tuple[Any, ...], rng: Rng) -> tuple[Any, ...]:
    changed = list(shape)
    how = rng.integers(8)
    if how == 0:
        return tuple(reversed(changed))
    if how == 1:
        return (*changed, 1)
    if how == 2:
        return (1, *changed)
    if how == 3:
        return ()
    if how == 4 and len(changed) > 1:
        return (changed[0] * changed[1], *changed[2:])
    if changed:
        place = rng.integers(len(changed))
        changed[place] = (
            changed[place] + 1,
            max(0, changed[place] - 1),
            0,
            -1,
            2**31,
            2**62,
            2**64,
            changed[place] * 2,
        )[rng.integers(8)]
    return tuple(changed)


def npy_values(content: bytes, rng: Rng) -> bytes:
    """Change the values of an .npy file, which stays one: only their meaning can tell."""
    found = header_of(content)
    if found is None:
        return any_bytes(content, rng)
    try:
        array = np.load(io.BytesIO(content), allow_pickle=False).copy()
    except Exception:
        return any_bytes(content, rng)
    if not array.size or array.dtype.kind not in "fiub":
        return any_bytes(content, rng)
    out = io.BytesIO()
    np.save(out, _other_values(array, rng), allow_pickle=False)
    return out.getvalue()


def _other_values(array: Any, rng: Rng) -> Any:
    flat = array.reshape(-1)
    how = rng.integers(10)
    if how <= 3:  # a few values, of those that mean something
        for _ in range(rng.integers(1, 4)):
            flat[rng.integers(flat.size)] = _extreme_of(array, rng)
    elif how == 4:
        flat[:] = np.roll(flat, int(rng.choice([1, -1, 2, flat.size // 2])))
    elif how == 5:
        flat[:] = flat[::-1].copy()
    elif how == 6:
        flat[:] = rng.permutation(flat)
    elif how == 7:
        flat[:] = _extreme_of(array, rng)
    elif how == 8:
        kind = rng.choice([d for d in DTYPES if np.dtype(d).kind in "fiub"])
        with np.errstate(all="ignore"):
            return array.astype(str(kind))
    else:
        start = int(rng.integers(flat.size))
        return (flat[start:], flat[:start], np.concatenate([flat, flat[:start]]))[rng.integers(3)]
    return array


def _extreme_of(array: Any, rng: Rng) -> Any:
    if array.dtype.kind == "f":
        value = EXTREME_NUMBERS[rng.integers(len(EXTREME_NUMBERS))]
        with np.errstate(all="ignore"):
            return np.array(value).astype(array.dtype)
    if array.dtype.kind == "b":
        return bool(rng.integers(2))
    info, n = np.iinfo(array.dtype), len(array)
    near = [-1, 0, 1, n - 1, n, n + 1, 2 * n, info.min, info.max, info.max - 1]
    value = int(near[rng.integers(len(near))])
    return min(max(value, int(info.min)), int(info.max))


def any_npy(content: bytes, rng: Rng) -> bytes:
    """Damage an .npy file in one way."""
    return (npy_header, npy_values, npy_values, any_bytes)[rng.integers(4)](content, rng)


# --- JSON -----------------------------------------------------------------------------------------


def any_json(content: bytes, rng: Rng) -> bytes:
    """Damage a JSON file, mostly so that it remains one."""
    if rng.random() < 0.2:
        return any_bytes(content, rng)
    if rng.random() < 0.05:
        return JSON_BOMBS[rng.integers(len(JSON_BOMBS))](content)
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return any_bytes(content, rng)
    return json.dumps(other_json(value, rng)).encode()


def other_json(value: Any, rng: Rng) -> Any:
    """Change one or two places of a JSON value."""
    for _ in range(rng.integers(1, 3)):
        places = list(_places(value))
        if not places:
            return _extreme_json(rng)
        holder, key = places[rng.integers(len(places))]
        how = rng.integers(6)
        if how == 0:
            del holder[key]
        elif how == 1 and isinstance(holder, dict):
            holder[EXTREME_STRINGS[rng.integers(len(EXTREME_STRINGS))]] = holder.pop(key)
        elif how == 2:
            other, there = places[rng.integers(len(places))]
            holder[key] = json.loads(json.dumps(other[there]))
        else:
            holder[key] = _extreme_json(rng)
    return value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    keys = value if isinstance(value, dict) else range(len(value)) if _is_list(value) else ()
    for key in list(keys):
        yield value, key
        yield from _places(value[key])


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _extreme_json(rng: Rng) -> Any:
    how = rng.integers(5)
    if how == 0:
        return EXTREME_INTEGERS[rng.integers(len(EXTREME_INTEGERS))]
    if how == 1:
        return EXTREME_NUMBERS[rng.integers(len(EXTREME_NUMBERS))]
    if how == 2:
        return EXTREME_STRINGS[rng.integers(len(EXTREME_STRINGS))]
    return (None, True, False, [], {}, [[]], [None], {"name": "cg"}, [1, 2, 3], {"": {}})[
        rng.integers(10)
    ]


def _deep(_: bytes) -> bytes:
    return b"[" * 200_000 + b"]" * 200_000


def _deep_inside(content: bytes) -> bytes:
    return content.rstrip()[:-1] + b', "deep": ' + b'{"a":' * 900 + b"1" + b"}" * 900 + b"}"


def _giant(content: bytes) -> bytes:
    return content.rstrip()[:-1] + b', "giant": [' + b"0," * 4_000_000 + b"0]}"


def _spaces(content: bytes) -> bytes:
    return content + b" " * 30_000_000


def _long_number(content: bytes) -> bytes:
    return content.rstrip()[:-1] + b', "long": ' + b"9" * 100_000 + b"}"


JSON_BOMBS = (_deep, _deep_inside, _giant, _spaces, _long_number)


# --- archives and text ----------------------------------------------------------------------------


def any_zip(content: bytes, rng: Rng) -> bytes:
    """Damage an archive, mostly one of its members, whose checksum is then mended."""
    return _any_zip(content, rng, any_npy)


def any_torch(content: bytes, rng: Rng) -> bytes:
    """Damage a file of `torch.save`, mostly the pickle in it."""
    return _any_zip(content, rng, any_pickle)


def _any_zip(content: bytes, rng: Rng, damage: Callable[[bytes, Rng], bytes]) -> bytes:
    if rng.random() < 0.25:
        return any_bytes(content, rng)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    except Exception:
        return any_bytes(content, rng)
    compression = zipfile.ZIP_DEFLATED if rng.random() < 0.3 else zipfile.ZIP_STORED
    how = rng.integers(10)
    number = rng.integers(len(members)) if members else 0
    if members and how == 0:
        del members[number]
    elif members and how == 1:
        members.append((members[number][0], damage(members[number][1], rng)))
    elif members and how == 2:
        other = EXTREME_STRINGS[rng.integers(len(EXTREME_STRINGS))]
        name = other.replace("\ud800", "?").partition("\0")[0] or "?"
        members[number] = (name, members[number][1])
    elif members and how == 3:
        members[number] = (members[number][0], _bomb(rng))
        compression = zipfile.ZIP_DEFLATED
    elif members:
        meant = [n for n, (name, _) in enumerate(members) if name.endswith((".npy", ".pkl"))]
        if meant and rng.random() < 0.7:
            number = meant[rng.integers(len(meant))]
        name, inner = members[number]
        one = damage if name.endswith((".npy", ".pkl")) else any_bytes
        members[number] = (name, one(inner, rng))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # names that occur twice
        for name, inner in members:
            archive.writestr(zipfile.ZipInfo(name), inner, compression)  # without the time
    return out.getvalue()


def _bomb(rng: Rng) -> bytes:
    """Return an .npy file of 40 MB of zeros, or one whose header claims far more."""
    shape = ((5_000_000,), (1, 5_000_000), (5_000_000, 1), (2**40,), (2**31, 2**31))[
        rng.integers(5)
    ]
    data = b"\0" * (40_000_000 if np.prod([float(s) for s in shape]) < 1e8 else 1000)
    return npy({"descr": "<i8", "fortran_order": False, "shape": shape}, data)


def any_text(content: bytes, rng: Rng) -> bytes:
    """Damage a text file of fields: a field, a line, or its bytes."""
    if rng.random() < 0.2:
        return any_bytes(content, rng)
    lines = content.split(b"\n")
    number = int(rng.integers(len(lines)))
    how = rng.integers(7)
    if how == 0:
        del lines[number]
    elif how == 1:
        lines.insert(number, lines[int(rng.integers(len(lines)))])
    elif how == 2:
        lines[number], lines[-1] = lines[-1], lines[number]
    else:
        fields = lines[number].split()
        if fields:
            place = int(rng.integers(len(fields)))
            new = str(_extreme_json(rng)) if rng.random() < 0.8 else ""
            fields[place] = new.encode("utf-8", "replace")
        lines[number] = b" ".join(fields)
    if rng.random() < 0.02:
        lines = lines * 2000
    return b"\n".join(lines)


# What a pickle may name: what torch and numpy rebuild from, and what must never be run.
_GLOBALS = (
    "numpy dtype", "numpy ndarray", "numpy._core.multiarray _reconstruct",
    "numpy._core.multiarray scalar", "numpy.core.multiarray _reconstruct",
    "numpy.dtypes Float64DType", "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter", "torch FloatStorage", "torch LongStorage",
    "torch.storage UntypedStorage", "torch Size", "torch Tensor", "torch float32",
    "torch._utils _rebuild_sparse_tensor", "torch.serialization _get_layout", "torch device",
    "collections OrderedDict", "collections Counter", "_codecs encode", "builtins eval",
    "os system", "builtins getattr", "builtins bytearray", "builtins set",
)  # fmt: skip


# Instructions without an argument.
_PLAIN = b"ab(){]}.RbtNQstu0123\x85\x86\x87\x88\x89\x8f\x94"


def any_pickle(content: bytes, rng: Rng) -> bytes:
    """Damage a pickle, mostly one of its instructions, so that the others are still read."""
    if rng.random() < 0.2:
        return any_bytes(content, rng)
    try:
        found = list(pickletools.genops(content))
    except Exception:
        return any_bytes(content, rng)
    starts = [place for _, _, place in found if place is not None] + [len(content)]
    parts = [content[a:b] for a, b in pairwise(starts)]
    for _ in range(rng.integers(1, 3)):
        number = int(rng.integers(len(parts)))
        how = rng.integers(8)
        if how == 0:
            parts[number] = b""
        elif how == 1:
            parts.insert(number, parts[int(rng.integers(len(parts)))])
        elif how == 2:
            parts[number] = parts[int(rng.integers(len(parts)))]
        elif how == 3:  # any instruction that has no argument
            parts[number] = b"ab(){]}.RbtNQstu0123\x85\x86\x87\x88\x89\x8f\x94"[rng.integers(28) :][
                :1
            ]
        else:
            parts = _other_argument(parts, rng)
    return content[: starts[0]] + b"".join(parts)


def _other_argument(parts: list[bytes], rng: Rng) -> list[bytes]:
    """Replace the argument of an instruction: a global, a number, a text."""
    number = int(rng.integers(len(parts)))
    # Globals are rare and matter most.
    named = [n for n, part in enumerate(parts) if part[:1] == b"c"]
    if named and rng.random() < 0.4:
        number = named[rng.integers(len(named))]
    kind = parts[number][:1]
    if kind == b"c":
        new = _GLOBALS[rng.integers(len(_GLOBALS))].replace(" ", "\n")
        parts[number] = b"c" + new.encode() + b"\n"
    elif kind in b"KMJI" and kind:
        value = EXTREME_INTEGERS[rng.integers(len(EXTREME_INTEGERS))]
        data = (value % 2**64).to_bytes(8, "little")
        parts[number] = (b"J" + data[:4], b"\x8a\x08" + data)[rng.integers(2)]
    elif kind == b"X":
        new = EXTREME_STRINGS[rng.integers(len(EXTREME_STRINGS))].encode("utf-8", "replace")
        parts[number] = b"X" + struct.pack("<I", len(new)) + new
    else:
        parts[number] = any_bytes(parts[number], rng)
    return parts


# --- images ---------------------------------------------------------------------------------------


def any_png(content: bytes, rng: Rng) -> bytes:
    """Damage a PNG, mostly a chunk of it, whose checksum is then mended."""
    if rng.random() < 0.3:
        return any_bytes(content, rng)
    chunks, place = [], 8
    while place + 12 <= len(content):
        length = int.from_bytes(content[place : place + 4], "big")
        chunks.append((content[place + 4 : place + 8], content[place + 8 : place + 8 + length]))
        place += 12 + length
    if not chunks:
        return any_bytes(content, rng)
    number = int(rng.integers(len(chunks)))
    kind, body = chunks[number]
    how = rng.integers(5)
    if how == 0:
        chunks.insert(number, chunks[int(rng.integers(len(chunks)))])
    elif how == 1:
        del chunks[number]
    else:
        chunks[number] = (kind, any_bytes(body, rng))
    return content[:8] + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def any_safetensors(content: bytes, rng: Rng) -> bytes:
    """Damage a safetensors file, mostly its header, whose length is then mended."""
    if rng.random() < 0.3:
        return any_bytes(content, rng)
    length = int.from_bytes(content[:8], "little")
    header, data = content[8 : 8 + length], content[8 + length :]
    if rng.random() < 0.2:
        return content[: 8 + length] + any_bytes(data, rng)
    header = any_json(header, rng)
    if rng.random() < 0.1:
        length = int(rng.choice([0, 1, 2**31, 2**53, 100_000_001]))
        return length.to_bytes(8, "little") + header + data
    return len(header).to_bytes(8, "little") + header + data


# --- what is not a file ---------------------------------------------------------------------------


def any_special(content: bytes, rng: Rng) -> Change:
    """Replace a file by something that is none, or that is nothing but its size."""
    specials: tuple[Change, ...] = (
        None,
        Special("fifo"),
        Special("directory"),
        Special("directory", True),
        Special("link", "/dev/zero"),
        Special("link", "/dev/null"),
        Special("link", "nowhere"),
        Special("link", "."),
        Special("link", "manifest.json"),
        Special("link", "/proc/self/mem"),
        Special("sparse", (content, len(content) + (1 << 20))),
        Special("sparse", (content, 1 << 40)),
        Special("sparse", (b"", len(content))),
    )
    return specials[rng.integers(len(specials))]


# --- reduction ------------------------------------------------------------------------------------

Atom = tuple[str, int, Change]


def atoms_of(files: Files, delta: Delta) -> list[Atom]:
    """Divide a delta into the smallest changes that can be made alone.

    They are runs of changed bytes where a file keeps its length, and whole files otherwise.
    """
    atoms: list[Atom] = []
    for name, new in delta.items():
        old = files.get(name)
        if not isinstance(new, bytes) or old is None or len(new) != len(old):
            atoms.append((name, -1, new))
            continue
        place = 0
        while place < len(old):
            if old[place] == new[place]:
                place += 1
                continue
            end = place
            while end < len(old) and old[end] != new[end]:
                end += 1
            atoms.append((name, place, new[place:end]))
            place = end
    return atoms


def delta_of(files: Files, atoms: Sequence[Atom]) -> Delta:
    """Return the delta that changes make together."""
    delta: Delta = {}
    for name, place, new in atoms:
        if place < 0 or not isinstance(new, bytes):
            delta[name] = new
        else:
            held = delta.get(name, files[name])
            assert isinstance(held, bytes)
            delta[name] = held[:place] + new + held[place + len(new) :]
    return delta


def reduced(files: Files, delta: Delta, fails: Callable[[Delta], bool], tries: int = 40) -> Delta:
    """Return a smaller delta that fails in the same way, by delta debugging (Zeller, 1999)."""
    atoms, parts = atoms_of(files, delta), 2
    while len(atoms) > 1 and tries > 0:
        size = -(-len(atoms) // parts)
        for start in range(0, len(atoms), size):
            rest = atoms[:start] + atoms[start + size :]
            tries -= 1
            if rest and fails(delta_of(files, rest)):
                atoms, parts = rest, max(2, parts - 1)
                break
            if tries <= 0:
                break
        else:
            if parts >= len(atoms):
                break
            parts = min(len(atoms), 2 * parts)
    return delta_of(files, atoms)


# --- as JSON --------------------------------------------------------------------------------------


def to_json(files: Files, delta: Delta) -> dict[str, Any]:
    """Return a delta as JSON values: runs of bytes in hexadecimal by place, or a whole file."""
    out: dict[str, Any] = {}
    for name, place, new in atoms_of(files, delta):
        if isinstance(new, Special):
            value = new.value
            if new.kind == "sparse":
                value = [base64.b64encode(value[0]).decode(), value[1]]
            out[name] = {new.kind: value}
        elif new is None:
            out[name] = None
        elif place < 0:
            out[name] = {"content": base64.b64encode(zlib.compress(new, 9)).decode()}
        else:
            out.setdefault(name, {"bytes": {}})["bytes"][str(place)] = new.hex()
    return out


def from_json(files: Files, changes: Mapping[str, Any]) -> Delta:
    """Return the delta that `to_json` described."""
    atoms: list[Atom] = []
    for name, change in changes.items():
        if change is None:
            atoms.append((name, -1, None))
            continue
        ((kind, value),) = change.items()
        if kind == "bytes":
            atoms += [(name, int(place), bytes.fromhex(new)) for place, new in value.items()]
        elif kind == "content":
            atoms.append((name, -1, zlib.decompress(base64.b64decode(value))))
        elif kind == "sparse":
            atoms.append((name, -1, Special(kind, (base64.b64decode(value[0]), value[1]))))
        else:
            atoms.append((name, -1, Special(kind, value)))
    return delta_of(files, atoms)
