"""Checks of arguments, and their conversion to arrays."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import DiffusionError

METRICS = ("cosine", "inner_product", "euclidean")

# Rows converted and checked at a time: bounds the float64 temporaries to a few MiB.
_BLOCK_VALUES = 1 << 20

_LARGEST = 2**31 - 1

# The largest norm: with a centre equally far out, squared distances reach 16 times its square,
# which still fits float32.
_LONGEST = 4e18


def check_integer(value: object, name: str, *, low: int) -> int:
    """Return `value` as an int from `low` to 2^31 - 1; raise an error that names the argument."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < low:
        raise DiffusionError(f"{name}: expected an integer of at least {low}, got {value!r}")
    if int(value) > _LARGEST:
        raise DiffusionError(f"{name}: expected an integer of at most {_LARGEST}, got {value!r}")
    return int(value)


def check_real(
    value: object, name: str, *, low: float, high: float = math.inf, strict: bool = False
) -> float:
    """Return `value` as a float in [low, high), or (low, high) if `strict`."""
    ok = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    if not ok or not (low < value if strict else low <= value) or not value < high:  # type: ignore[operator]
        bracket = "(" if strict else "["
        raise DiffusionError(
            f"{name}: expected a number in {bracket}{low:g}, {high:g}), got {value!r}"
        )
    return float(value)  # type: ignore[arg-type]


def check_choice(value: object, name: str, choices: tuple[str, ...]) -> str:
    """Return `value` if it is one of `choices`; raise an error that lists them."""
    if not isinstance(value, str) or value not in choices:
        expected = ", ".join(repr(choice) for choice in choices)
        raise DiffusionError(f"{name}: expected one of {expected}, got {value!r}")
    return value


def _as_numeric(values: ArrayLike, name: str, kinds: str = "fiub") -> NDArray[Any]:
    try:
        array = np.asarray(values)
    except (TypeError, ValueError) as error:
        raise DiffusionError(f"{name}: expected an array of numbers ({error})") from None
    if array.dtype.kind not in kinds:
        expected = "integers" if kinds == "iu" else "real numbers"
        raise DiffusionError(
            f"{name}: expected {expected}, got {type(values).__name__} of dtype {array.dtype}"
        )
    return array


def center_of(values: ArrayLike, name: str) -> NDArray[np.float64]:
    """Return the mean (d,) of vectors (n, d), with 0 for values that are not finite."""
    array = _as_numeric(values, name)
    if array.ndim != 2 or 0 in array.shape:
        raise DiffusionError(f"{name}: expected shape (n, d), n and d >= 1, got {array.shape}")
    total = np.zeros(array.shape[1])
    rows = max(1, _BLOCK_VALUES // array.shape[1])
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, len(array), rows):
            total += array[start : start + rows].sum(axis=0, dtype=np.float64)
    return np.nan_to_num(total / len(array), posinf=0.0, neginf=0.0)


def as_vectors(
    values: ArrayLike,
    name: str,
    *,
    metric: str,
    dimension: int | None = None,
    center: NDArray[np.float64] | None = None,
) -> NDArray[np.float32]:
    """Check vectors and copy them to float32, L2-normalised for the cosine.

    Parameters
    ----------
    values : array_like, shape (n, d)
        Any real dtype. A memory-mapped array is read block by block.
    name : str
        The argument's name, for the error message.
    metric : {"cosine", "inner_product", "euclidean"}
        For `"cosine"` each row is divided by its norm; a zero row stays zero, so that its
        similarity to everything is 0.
    dimension : int, optional
        The dimension that the vectors must have.
    center : ndarray, shape (d,), optional
        Subtracted in float64, before the rounding to float32.

    Returns
    -------
    ndarray, shape (n, d), float32
        A C-contiguous copy.

    Raises
    ------
    DiffusionError
        If the shape or dtype is wrong, or a row contains NaN, an infinity or a value whose square
        overflows float32; the message names the row.
    """
    array = _as_numeric(values, name)
    if array.ndim != 2 or 0 in array.shape:
        raise DiffusionError(f"{name}: expected shape (n, d), n and d >= 1, got {array.shape}")
    n, d = array.shape
    if dimension is not None and d != dimension:
        raise DiffusionError(
            f"{name}: expected vectors of dimension {dimension}, as the index holds, got {d}"
        )
    vectors = np.empty((n, d), dtype=np.float32)
    rows = max(1, _BLOCK_VALUES // d)
    for start in range(0, n, rows):
        block = array[start : start + rows].astype(np.float64)
        finite = np.isfinite(block).all(axis=1)
        if not finite.all():
            row = start + int(np.argmin(finite))
            raise DiffusionError(f"{name}: expected finite values, row {row} holds NaN or infinity")
        # First divide by the largest entry: the square of a large float64 overflows, too.
        largest = np.abs(block).max(axis=1, keepdims=True)
        scaled = np.divide(block, largest, out=np.zeros_like(block), where=largest > 0)
        norms = np.linalg.norm(scaled, axis=1, keepdims=True)
        if metric == "cosine":
            block = np.divide(scaled, norms, out=scaled, where=norms > 0)
        else:
            too_large = (norms * largest)[:, 0] > _LONGEST
            if too_large.any():
                row = start + int(np.argmax(too_large))
                raise DiffusionError(
                    f"{name}: expected norms up to {_LONGEST:g}, for squared distances that fit "
                    f"float32; row {row} has a larger one"
                )
            if center is not None:
                block -= center
        vectors[start : start + rows] = block
    return vectors


def as_lists(
    scores: ArrayLike, ids: ArrayLike, n: int | None = None, *, names: tuple[str, str], metric: str
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Check neighbour or result lists in the layout of faiss.

    Parameters
    ----------
    scores : array_like, shape (m, k), float
        Best first, non-increasing along a row. Ignored where the id is -1.
    ids : array_like, shape (m, k), int
        Values in [-1, n); -1 is padding.
    n : int, optional
        Number of items that the ids refer to; m by default.
    names : tuple of str
        Names of the two arguments in error messages.
    metric : str
        `"euclidean"` requires negative squared distances.

    Returns
    -------
    scores : ndarray, shape (m, k), float32
    ids : ndarray, shape (m, k), int64 or int32
        int32 only if the ids are given as int32; arrays are not copied unless necessary.

    Raises
    ------
    DiffusionError
        If the lists are not as described; the message names the argument and the row.
    """
    score_name, id_name = names
    scores = _as_numeric(scores, score_name)
    ids = _as_numeric(ids, id_name, kinds="iu")
    if ids.dtype == np.uint64 and ids.size and ids.max() > _LARGEST:
        raise DiffusionError(f"{id_name}: expected ids below 2^31, got {ids.max()}")
    if ids.ndim != 2 or 0 in ids.shape:
        raise DiffusionError(f"{id_name}: expected shape (m, k), m and k >= 1, got {ids.shape}")
    if scores.shape != ids.shape:
        raise DiffusionError(
            f"{score_name}: expected the shape of {id_name}, {ids.shape}, got {scores.shape}"
        )
    n = len(ids) if n is None else n
    if ids.dtype != np.int32:
        ids = ids.astype(np.int64, copy=False)
    rows = max(1, _BLOCK_VALUES // ids.shape[1])
    for start in range(0, len(ids), rows):
        block_ids = ids[start : start + rows]
        # The checks use float64, so that a value that overflows float32 is recognised.
        block = scores[start : start + rows].astype(np.float64)
        real = block_ids >= 0
        _refuse((block_ids < -1) | (block_ids >= n), start, f"{id_name}: expected ids in [-1, {n})")
        _refuse(
            real & ~(np.abs(block) <= np.finfo(np.float32).max),
            start,
            f"{score_name}: expected finite float32 values",
        )
        ordered = np.sort(block_ids, axis=1)
        _refuse(
            (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0),
            start,
            f"{id_name}: expected each item at most once in a row",
        )
        # The running minimum skips padding, whatever its score.
        block[~real] = np.inf
        lowest = np.minimum.accumulate(block, axis=1)[:, :-1]
        _refuse(
            real[:, 1:] & (block[:, 1:] > lowest),
            start,
            f"{score_name}: expected similarities, best first (for distances pass their "
            "negatives), which never increase along a row",
        )
        if metric == "euclidean":
            _refuse(
                real & (block > 0),
                start,
                f"{score_name}: metric='euclidean' expects negative squared distances "
                "(faiss's L2 results D are passed as -D)",
            )
    with np.errstate(over="ignore", invalid="ignore"):  # the value beside a -1 is not a score
        return np.ascontiguousarray(scores, dtype=np.float32), np.ascontiguousarray(ids)


def _refuse(bad: NDArray[np.bool_], start: int, message: str) -> None:
    """Raise `message` with the number of the first row of `bad` that contains True."""
    if bad.any():
        row = start + int(np.argmax(bad.any(axis=1)))
        raise DiffusionError(f"{message}; row {row} does not comply")
