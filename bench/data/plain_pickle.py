"""A safe reader of pickled ground truth; our own because `pickle` runs what a file asks for.

The ground truth of published data sets is often
a pickle of lists, dictionaries, numbers, strings and numpy arrays; this reader accepts only these
types. It builds the arrays from their bytes, because numpy's own reader trusts a state that can be
forged.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffusion.errors import DiffusionError

# Kinds of dtypes: numbers, truth values and text, but no objects and no records.
_KINDS = "biufUS"

# Hashing a tuple visits all tuples nested in it; a deeper nesting than this overflows the stack and
# ends the process. A pickled array takes four tuples.
_MOST_TUPLES = 50_000

_CODES = {code.code.encode("latin1"): code for code in pickletools.opcodes}

_BROKEN = (
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
        The content; each array is replaced by an object that `numpy.asarray` accepts.

    Raises
    ------
    DiffusionError
        If the file cannot be read, is no pickle, or holds any other type; the message names it.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DiffusionError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        _check_size(content)
        return _Reader(io.BytesIO(content), encoding="latin1").load()
    except _BROKEN as error:
        raise DiffusionError(
            f"{path}: expected a pickle of plain types and numpy arrays ({error})"
        ) from None


def _check_size(content: bytes) -> None:
    """Raise if reading would take memory or stack out of all proportion to the size of the file."""
    stream, tuples = io.BytesIO(content), 0
    while letter := stream.read(1):
        code = _CODES.get(letter)
        if code is None or code.name == "STOP":
            return  # the reader raises the error
        if code.name == "STRING":  # of Python 2, whose bytes pickletools takes for ASCII
            stream.readline()
            continue
        argument: Any = None if code.arg is None else code.arg.reader(stream)
        # Unpickling allocates a table as long as the largest memo number.
        if code.name in ("PUT", "LONG_BINPUT") and argument > len(content):
            raise ValueError(f"it numbers an object {argument}")
        tuples += code.name.startswith("TUPLE")
        if tuples > _MOST_TUPLES:
            raise ValueError(f"it holds more than {_MOST_TUPLES} tuples")


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Return the replacement of a type that numpy pickles, or raise."""
        # numpy 1 and Python 2 wrote other module names than numpy 2 and Python 3.
        where = module.replace("numpy.core.", "numpy._core.").replace("__builtin__", "builtins")
        known = _KNOWN.get((where, name))
        if known is None:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is neither")
        # A new function each time, because a pickle may set attributes of what it is given.
        return known if isinstance(known, type) else partial(known)

    def persistent_load(self, pid: Any) -> Any:
        """Raise, because the pickle refers to an object outside itself."""
        raise pickle.UnpicklingError("it refers to something outside itself")


class _Kind:
    """The replacement of numpy.dtype, by name."""

    def __init__(self, name: str, align: Any = False, copy: Any = False) -> None:
        self.dtype = np.dtype(str(name))
        if self.dtype.kind not in _KINDS:
            raise ValueError(f"it holds an array of dtype {name}, expected numbers or text")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        # For the accepted kinds, the rest of the state follows from the name.
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """The replacement of numpy.ndarray, made from its bytes."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, column_major, values = state
        self._set(values, kind, shape, "F" if column_major else "C")

    def _set(self, values: Any, kind: Any, shape: Any, order: str) -> _Array:
        if not isinstance(kind, _Kind):
            raise TypeError("it holds an array without a dtype")
        data = _encode(values) if isinstance(values, str) else bytes(values)
        flat = np.frombuffer(data, kind.dtype)
        self._array = flat.reshape(shape, order="F" if order == "F" else "C")
        return self

    def __array__(self, dtype: Any = None, copy: Any = None) -> NDArray[Any]:
        return np.array(self._array, dtype=dtype)

    def __len__(self) -> int:
        return len(self._array)


def _reconstruct(kind: Any, shape: Any, code: Any) -> _Array:
    """Return an array whose state follows in the pickle."""
    return _Array()


def _from_buffer(values: Any, kind: Any, shape: Any, order: Any) -> _Array:
    """Return an array as protocol 5 writes it."""
    return _Array()._set(values, kind, shape, order)


def _scalar(kind: Any, values: Any) -> Any:
    """Return a number."""
    return np.asarray(_Array()._set(values, kind, (), "C")).item()


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """Return the bytes that early protocols write as text."""
    if encoding != "latin1":
        raise ValueError(f"it encodes text as {encoding!r}")
    return str(text).encode("latin1")


def _no_bytes() -> bytes:
    """Return empty bytes, which early protocols write as a call of `bytes`."""
    return b""


_KNOWN: dict[tuple[str, str], Callable[..., Any]] = {
    ("builtins", "set"): set,
    ("builtins", "bytes"): _no_bytes,
    ("numpy", "dtype"): _Kind,
    ("numpy", "ndarray"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("numpy._core.numeric", "_frombuffer"): _from_buffer,
    ("_codecs", "encode"): _encode,
}
