"""A reader of untrusted pickles; our own because `pickle` runs what a file asks for.

The ground truth of published data sets and the checkpoints of torch are pickles of lists,
dictionaries, numbers, strings and arrays. This reader accepts only these types. Whatever else a
pickle names is replaced by an inert object, and arrays are built from their bytes and from checked
dtypes and shapes, because numpy's own `__setstate__` trusts a state that can be forged.

The base class is the standard library's reader in Python, which is `pickle._Unpickler`: the one in
C allocates memory by numbers in the file, and cannot be told which keys a dictionary may have.
"""

from __future__ import annotations

import io
import math
import pickle
import re
import struct
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np

from diffusion.errors import DiffusionError
from diffusion.storage import opened

# Dtypes as numpy writes them: numbers, truth values and text, but no objects and no records.
_DTYPES = re.compile(r"[?bBhHiIlLqQefd]|b1|[iu][1248]|f[248]|[US]\d{1,6}")
# A list that refers to another one twice, which does so again, and so on, is short in a file and
# endless when it is printed or compared. The content written out may have this many parts.
_MOST_PARTS = 10_000_000
_DEEPEST = 100
# Numbers beyond this many bits are in no file that is meant well, and cannot be printed.
_MOST_BITS = 1024

# The type checker takes it for the reader in C, which has no such methods to override.
_Unpickler: Any = pickle._Unpickler  # type: ignore[attr-defined, unused-ignore]

# What the reader raises for a damaged or forged pickle.
BROKEN = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
)


def load(path: str | Path) -> Any:
    """Read a pickle of plain types and numpy arrays.

    Parameters
    ----------
    path : path-like
        A pickle of any protocol, by Python 2 or 3.

    Returns
    -------
    object
        The content; arrays are read-only.

    Raises
    ------
    DiffusionError
        If the file cannot be read, is no pickle, or holds any other type; the message names it.
    """
    path = Path(path)
    try:
        with opened(path, links=True) as file:
            return Reader(io.BytesIO(file.read())).load()
    except OSError as error:
        raise DiffusionError(f"{path}: cannot be read ({error.strerror})") from None
    except BROKEN as error:
        raise DiffusionError(
            f"{path}: expected a pickle of plain types and numpy arrays ({reason(error)})"
        ) from None


def reason(error: Exception) -> str:
    """Return in words why a pickle was refused, for one line."""
    said = isinstance(error, pickle.UnpicklingError | ValueError | TypeError) and str(error)
    return " ".join((said or "damaged").split())[:200]


class Inert:
    """An object that stands for one of a type that a pickle names."""

    def __setstate__(self, state: Any) -> None:
        """Raise, because a state could be forged."""
        raise ValueError("it sets the state of what has none")

    def made(self) -> Any:
        """Return what the content holds in its place."""
        raise NotImplementedError


class Reader(_Unpickler):
    """The reader of one pickle from an open file.

    Parameters
    ----------
    file : binary file
    """

    # What a pickle may name, and what it is given instead.
    known: ClassVar[Mapping[tuple[str, str], Any]]

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file, encoding="latin1")
        self.file = file
        self._done: dict[int, tuple[Any, int]] = {}
        # Text that stands for bytes is converted once in a pickle that is meant well, and a
        # forged one can refer to the same text again and again.
        here = file.tell()
        self._text = file.seek(0, io.SEEK_END) - here
        file.seek(here)

    def load(self) -> Any:
        """Return the content, in which arrays have taken the places of inert objects."""
        content = super().load()
        self.complete()
        return self._plain(content, 0)[0]

    def complete(self) -> None:
        """Read what follows the pickle in the file; here nothing does."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the replacement of a type or a function, or raise."""
        # numpy 1 and Python 2 wrote other module names than numpy 2 and Python 3.
        where = module.replace("numpy.core.", "numpy._core.").replace("__builtin__", "builtins")
        if (where, name) == ("_codecs", "encode"):
            return partial(self._encode)
        try:
            known = self.known[where, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is neither") from None
        # A new function each time, because a pickle may set attributes of what it is given.
        return partial(known) if callable(known) and not isinstance(known, type) else known

    def persistent_load(self, pid: Any) -> Any:
        """Raise, because the pickle refers to an object outside itself."""
        raise pickle.UnpicklingError("it refers to something outside itself")

    def _encode(self, text: Any, encoding: Any = "latin1") -> bytes:
        """Return the bytes that early protocols write as text."""
        if not isinstance(text, str) or not isinstance(encoding, str):
            raise TypeError("it encodes what is no text")
        if encoding != "latin1":
            raise ValueError(f"it encodes text as {encoding!r}")
        self._text -= len(text)
        if self._text < 0:
            raise ValueError("it holds more bytes than its file")
        return text.encode("latin1")

    def _decode_string(self, value: bytes) -> str:
        """Return a string of Python 2, which may stand for its bytes."""
        text = _Text(value, "latin1")
        text.raw = value
        return text

    def _plain(self, value: Any, depth: int) -> tuple[Any, int]:
        """Return a value without inert objects, and the number of its parts written out."""
        if isinstance(value, int) and value.bit_length() > _MOST_BITS:
            raise ValueError("it holds a number out of all proportion")
        if not isinstance(value, list | tuple | dict | Inert):
            if not isinstance(value, str | bytes | bytearray | int | float | set | None):
                raise ValueError(f"it holds {type(value).__name__}, expected plain types")
            return value, 1
        if id(value) in self._done:
            return self._done[id(value)]
        if depth > _DEEPEST:
            raise ValueError(f"it is nested more than {_DEEPEST} deep, or holds itself")
        whole: Any
        if isinstance(value, Inert):
            whole, size = value.made(), 1
        else:
            inside = value.values() if isinstance(value, dict) else value
            parts = [self._plain(part, depth + 1) for part in inside]
            size = 1 + sum(count for _, count in parts)
            contents = [part for part, _ in parts]
            if isinstance(value, dict):
                whole = dict(zip(value, contents, strict=True))
            else:
                whole = tuple(contents) if isinstance(value, tuple) else contents
        if size > _MOST_PARTS:
            raise ValueError("it repeats itself out of all proportion")
        self._done[id(value)] = whole, size
        return whole, size

    # Hashing a tuple visits whatever is nested in it, so keys are checked before they are hashed.

    def load_dict(self) -> None:
        """Make a dictionary."""
        items = self.pop_mark()
        self.append(as_dict(zip(items[::2], items[1::2], strict=True)))

    def load_setitem(self) -> None:
        """Put one value into a dictionary."""
        value, key = self.stack.pop(), self.stack.pop()
        _dictionary(self.stack[-1])[_key(key)] = value

    def load_setitems(self) -> None:
        """Put values into a dictionary."""
        items = self.pop_mark()
        target = _dictionary(self.stack[-1])
        target.update(as_dict(zip(items[::2], items[1::2], strict=True)))

    def load_additems(self) -> None:
        """Put values into a set."""
        items = self.pop_mark()
        self.stack[-1].update(_set(items))

    def load_frozenset(self) -> None:
        """Make a set."""
        self.append(_set(self.pop_mark()))

    def load_bytearray8(self) -> None:
        """Read bytes of a stated number, without the memory for more than there are."""
        self.append(bytearray(self.read(int.from_bytes(self.read(8), "little"))))

    dispatch: ClassVar = {
        **_Unpickler.dispatch,
        pickle.DICT[0]: load_dict,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.ADDITEMS[0]: load_additems,
        pickle.FROZENSET[0]: load_frozenset,
        pickle.BYTEARRAY8[0]: load_bytearray8,
    }


def as_dict(items: Mapping[Any, Any] | Iterable[Any] = ()) -> dict[Any, Any]:
    """Return a dictionary of items whose keys are plain."""
    pairs = items.items() if isinstance(items, dict) else items
    return {_key(key): value for key, value in pairs}


def whole_numbers(values: Any) -> tuple[int, ...]:
    """Return a shape or the like as a tuple of integers >= 0."""
    if not isinstance(values, tuple | list) or len(values) > 32:
        raise TypeError("it holds an array without a shape")
    if not all(isinstance(value, int) and 0 <= value < 1 << 62 for value in values):
        raise ValueError("it holds an array of a negative shape or one that is no shape")
    return tuple(values)


def _key(key: Any) -> Any:
    if isinstance(key, tuple) and len(key) < 10 and not any(isinstance(k, tuple) for k in key):
        return tuple(map(_key, key))
    if not isinstance(key, str | bytes | int | float | None):
        raise TypeError(f"it holds a key that is a {type(key).__name__}")
    return key


def _dictionary(target: Any) -> dict[Any, Any]:
    if not isinstance(target, dict):
        raise TypeError("it puts items into what is no dictionary")
    return target


def _set(items: Iterable[Any] = ()) -> set[Any]:
    return set(map(_key, items))


class _Text(str):
    """A string of Python 2, with the bytes that it was made from."""

    raw: bytes


class _Kind(Inert):
    """The replacement of numpy.dtype, by name."""

    def __init__(self, name: Any, align: Any = False, copy: Any = False) -> None:
        if not isinstance(name, str) or not _DTYPES.fullmatch(name):
            shown = name if isinstance(name, str) else type(name).__name__
            raise ValueError(f"it holds an array of dtype {shown[:20]}, expected numbers or text")
        self._dtype = np.dtype(name)

    def __setstate__(self, state: Any) -> None:
        # Except for the order of bytes, the state of an accepted dtype follows from its name.
        if any(part is not None for part in state[2:5]):
            raise ValueError("it holds an array of records, expected numbers or text")
        if state[1] in ("<", ">"):
            self._dtype = self._dtype.newbyteorder(state[1])

    def made(self) -> np.dtype[Any]:
        return self._dtype


class _Array(Inert):
    """The replacement of numpy.ndarray, made from its bytes."""

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, column_major, values = state
        self.set(values, kind, shape, "F" if column_major is True else "C")

    def set(self, values: Any, kind: Any, shape: Any, order: Any) -> _Array:
        if not isinstance(kind, _Kind):
            raise TypeError("it holds an array without a dtype")
        if isinstance(values, _Text):
            values = values.raw
        if not isinstance(values, bytes | bytearray):
            raise TypeError("it holds an array of objects")
        dtype, shape = kind.made(), whole_numbers(shape)
        if math.prod(shape) * dtype.itemsize != len(values) or not dtype.itemsize:
            raise ValueError("it holds an array whose bytes are not those of its shape")
        # A view, since a pickle may refer to the same bytes many times.
        self._array = np.frombuffer(memoryview(values).toreadonly(), dtype).reshape(
            shape, order="F" if order == "F" else "C"
        )
        return self

    def made(self) -> np.ndarray[Any, Any]:
        return self._array


def _reconstruct(kind: Any, shape: Any, code: Any) -> _Array:
    """Return an array whose state follows in the pickle."""
    return _Array()


def _from_buffer(values: Any, kind: Any, shape: Any, order: Any) -> _Array:
    """Return an array as protocol 5 writes it."""
    return _Array().set(values, kind, shape, order)


def _scalar(kind: Any, values: Any) -> Any:
    """Return a number."""
    return _Array().set(values, kind, (), "C").made().item()


def _no_bytes() -> bytes:
    """Return empty bytes, which early protocols write as a call of `bytes`."""
    return b""


_KNOWN: dict[tuple[str, str], Callable[..., Any]] = {
    ("builtins", "set"): _set,
    ("builtins", "bytes"): _no_bytes,
    ("numpy", "dtype"): _Kind,
    ("numpy", "ndarray"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("numpy._core.numeric", "_frombuffer"): _from_buffer,
}
Reader.known = _KNOWN
