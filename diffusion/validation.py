"""Checks of arguments, and their conversion to arrays."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
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

# Scores that differ by less than this, relative to their size, may have been equal before rounding.
_ROUNDING = 1e-4

# Number of rises without a fall that lists in an arbitrary order hardly ever have.
_MANY = 10


def check_integer(value: object, name: str, *, low: int) -> int:
    """Return `value` as an int from `low` to 2^31 - 1; raise an error that names the argument."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < low:
        raise DiffusionError(f"{name}: expected an integer of at least {low}, got {value!r}")
    if int(value) > _LARGEST:
        raise DiffusionError(f"{name}: expected an integer of at most {_LARGEST}, got {value!r}")
    return int(value)


def check_switch(value: object, name: str) -> bool:
    """Return a boolean, of numpy or not; raise DiffusionError for any other value."""
    if not isinstance(value, bool | np.bool_):
        raise DiffusionError(f"{name}: expected True or False, got {value!r}")
    return bool(value)


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


# --- arrays of other libraries ------------------------------------------------------------------


def is_single(values: Any) -> bool:
    """Return whether `values` is one vector or one list instead of a batch of them."""
    try:
        return np.ndim(values) == 1 and _lengths(values) <= {None}
    except (TypeError, ValueError, RuntimeError):  # ragged; the conversion reports anything else
        return False


def _lengths(values: Any) -> set[int | None]:
    """Return the lengths of the elements of a sequence, None for numbers; {} for other things."""
    if isinstance(values, np.ndarray) and (values.dtype != object or values.ndim != 1):
        return set()
    return set(map(_length, values)) if isinstance(values, list | tuple | np.ndarray) else set()


def _length(value: Any) -> int | None:
    try:
        return len(value)
    except TypeError:
        return None


def is_ragged(values: Any) -> bool:
    """Return whether `values` is a sequence of lists that numpy does not make a matrix of."""
    lengths = _lengths(values)
    return len(lengths) > 1 or (isinstance(values, np.ndarray) and not lengths <= {None})


def as_numeric(values: Any, name: str, kinds: str = "fiub") -> NDArray[Any]:
    """Convert to an array whose dtype is of one of some kinds; an empty list is of every kind."""
    noun = "integers" if kinds == "iu" else "real numbers"
    if hasattr(values, "toarray"):
        raise DiffusionError(
            f"{name}: a sparse array is not supported, got {type(values).__name__}; expected a "
            "dense one, as its toarray() returns"
        )
    try:
        if hasattr(values, "detach") and hasattr(values, "cpu"):
            # A torch tensor. It may need a gradient, be on a device, or have a type that numpy
            # does not have.
            values = values.detach().cpu()
            other = "bfloat16" in str(values.dtype) or "float8" in str(values.dtype)
            values = values.float() if other else values
        array = np.asarray(values)
        if array.dtype == object:
            array = _of_objects(array, name, noun)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        if isinstance(error, DiffusionError):
            raise
        reason = " ".join(str(error).split())
        raise DiffusionError(f"{name}: expected an array of {noun} ({reason})") from None
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise DiffusionError(f"{name}: expected an array without masked values")
    if array.dtype.kind not in kinds and (array.size or array.dtype.kind != "f"):
        # As scikit-learn words it.
        complex_ = ". Complex data not supported" if array.dtype.kind == "c" else ""
        raise DiffusionError(
            f"{name}: expected {noun}, got {type(values).__name__} of dtype {array.dtype}{complex_}"
        )
    return array


def count_of(values: object) -> int | None:
    """Return the number of rows, None for what has none and is an error elsewhere."""
    try:
        return len(values)  # type: ignore[arg-type]
    except TypeError:
        return None


def _shown(value: object) -> str:
    """Return the beginning of a value's text, on one line."""
    return " ".join(repr(value).split())[:40]


def _of_objects(array: NDArray[Any], name: str, noun: str) -> NDArray[Any]:
    """Convert an array of Python numbers, as a table with columns of several types gives it."""
    for value in array.flat:
        if not isinstance(value, Real):
            raise DiffusionError(
                f"{name}: expected {noun}, got an array of dtype object that holds {_shown(value)}"
            )
    whole = all(isinstance(value, Integral) and not isinstance(value, bool) for value in array.flat)
    return array.astype(np.int64 if whole else np.float64)


# --- vectors --------------------------------------------------------------------------------------


def center_of(values: ArrayLike, name: str) -> NDArray[np.float64]:
    """Return the mean (d,) of vectors (n, d), with 0 for values that are not finite."""
    array = as_numeric(values, name)
    _check_matrix(array, name)
    total = np.zeros(array.shape[1])
    rows = max(1, _BLOCK_VALUES // array.shape[1])
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, len(array), rows):
            total += array[start : start + rows].sum(axis=0, dtype=np.float64)
    return np.nan_to_num(total / len(array), posinf=0.0, neginf=0.0)


def _check_matrix(array: NDArray[Any], name: str, *, empty: bool = False) -> None:
    if array.ndim == 2 and array.shape[1] and (empty or len(array)):
        return
    got = f"got {array.shape}"
    if array.ndim == 2 and not array.shape[1]:
        # As scikit-learn words it.
        got = f"found 0 feature(s) (shape={array.shape}) while a minimum of 1 is required."
    raise DiffusionError(f"{name}: expected shape (n, d), n and d >= 1, {got}")


def as_vectors(
    values: ArrayLike,
    name: str,
    *,
    metric: str,
    dimension: int | None = None,
    center: NDArray[np.float64] | None = None,
    queries: bool = False,
) -> NDArray[np.float32]:
    """Check vectors and copy them to float32, L2-normalised for the cosine.

    Parameters
    ----------
    values : array_like, shape (n, d)
        Any real dtype. A memory-mapped array is read block by block. A torch tensor may be on a
        device, need a gradient, or be of type bfloat16.
    name : str
        The argument's name, for the error message.
    metric : {"cosine", "inner_product", "euclidean"}
        For `"cosine"` each row is divided by its norm; a zero row stays zero, so that its
        similarity to everything is 0.
    dimension : int, optional
        The dimension that the vectors must have.
    center : ndarray, shape (d,), optional
        Subtracted in float64, before the rounding to float32.
    queries : bool, default False
        Also accept one vector, of shape (d,), and no vector, of shape (0, d).

    Returns
    -------
    ndarray, shape (n, d), float32
        A C-contiguous copy.

    Raises
    ------
    DiffusionError
        If the shape or dtype is wrong, or a row contains NaN, an infinity or a value whose square
        overflows float32; the message names the row. Also if the array is sparse.
    """
    array = as_numeric(values, name)
    if queries and array.ndim == 1:
        array = array[None]
    _check_matrix(array, name, empty=queries)
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
                    f"float32; row {row} has {largest[row - start, 0]:g}, or more"
                )
            if center is not None:
                block -= center
        vectors[start : start + rows] = block
    return vectors


# --- lists ----------------------------------------------------------------------------------------


def as_lists(
    scores: ArrayLike,
    ids: ArrayLike,
    n: int | None = None,
    *,
    names: tuple[str, str],
    metric: str,
    show: Callable[[int], str] = str,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Check neighbour or result lists in the layout of faiss, and put each into order.

    Parameters
    ----------
    scores : array_like, shape (m, k), float
        Best first. A row in which a score exceeds an earlier one is sorted; equal scores keep
        their order. Ignored where the id is -1.
    ids : array_like, shape (m, k), int
        Values in [-1, n); -1 is padding. Floats and booleans are refused even if their values are
        integers: scores in the place of ids are a likely mistake.
    n : int, optional
        Number of items that the ids refer to; m by default.
    names : tuple of str
        Names of the two arguments in error messages.
    metric : str
        `"euclidean"` requires negative squared distances.
    show : callable, optional
        What errors call an id that is repeated.

    Returns
    -------
    scores : ndarray, shape (m, max(k, 1)), float32
    ids : ndarray, shape (m, max(k, 1)), int64 or int32
        int32 only if the ids are given as int32; arrays are not copied unless necessary.

    Raises
    ------
    DiffusionError
        If the lists are not as described; the message names the argument, the row, the value and
        its place in the row. Also if the scores rise ten times or more within the rows and fall
        nowhere: these are distances.

    Notes
    -----
    Sequences of sequences may differ in length. Lists without entries, of shape (m, 0), become
    one column of padding.
    """
    score_name, id_name = names
    if is_ragged(ids) or is_ragged(scores):
        scores, ids = rectangular(scores, ids, names)
    scores, ids = as_numeric(scores, score_name), as_numeric(ids, id_name, "iu")
    if ids.ndim == 2 and scores.shape != ids.shape:
        raise DiffusionError(
            f"{score_name}: expected the shape of {id_name}, {ids.shape}, got {scores.shape}"
        )
    if n is None and not ids.size and not len(ids):
        raise DiffusionError(f"{id_name}: expected a list for each item, got shape {ids.shape}")
    ids = as_ids(ids, id_name, n, show=show)
    if not scores.shape[1]:
        scores = np.zeros(ids.shape, np.float32)
    disordered = np.zeros(len(ids), bool)
    for part in _blocks(ids):
        # The checks use float64, so that a value that overflows float32 is recognised.
        block, real = scores[part].astype(np.float64), ids[part] >= 0
        _refuse(
            real & ~(np.abs(block) <= np.finfo(np.float32).max),
            part.start,
            f"{score_name}: expected finite float32 values",
            block,
        )
        if metric == "euclidean":
            _refuse(
                real & (block > 0),
                part.start,
                f"{score_name}: metric='euclidean' expects negative squared distances "
                "(faiss's L2 results D are passed as -D)",
                block,
            )
        # The running minimum skips padding, whatever its score.
        block[~real] = np.inf
        lowest = np.minimum.accumulate(block, axis=1)[:, :-1]
        disordered[part] = (real[:, 1:] & (block[:, 1:] > lowest)).any(axis=1)
    if disordered.any():
        if metric != "euclidean" and only_rise(scores, ids):
            raise DiffusionError(
                f"{score_name}: expected similarities, best first (for distances pass their "
                "negatives); these never fall along a row, and rise in many places"
            )
        scores, ids = _ordered(scores, ids, disordered)
    with np.errstate(over="ignore", invalid="ignore"):  # the value beside a -1 is not a score
        return np.ascontiguousarray(scores, dtype=np.float32), np.ascontiguousarray(ids)


def as_hits(
    scores: ArrayLike,
    ids: ArrayLike,
    n: int,
    *,
    names: tuple[str, str],
    metric: str,
    show: Callable[[int], str] = str,
) -> tuple[NDArray[np.float32], NDArray[np.int64], bool]:
    """Check result lists as `as_lists` does; also accept one list, and say whether it was one."""
    single = is_single(ids)
    if single:
        scores, ids = as_numeric(scores, names[0])[None], as_numeric(ids, names[1], "iu")[None]
    return *as_lists(scores, ids, n, names=names, metric=metric, show=show), single


def as_ids(
    ids: Any,
    name: str,
    n: int | None = None,
    *,
    rows: int | None = None,
    show: Callable[[int], str] = str,
) -> NDArray[Any]:
    """Check the ids of lists; return them as an array.

    Parameters
    ----------
    ids : array_like, shape (m, k), int
        Padded with -1. A sequence of sequences may have different lengths.
    name : str
        The argument's name, for the error message.
    n : int, optional
        The ids are below n; m by default.
    rows : int, optional
        The number of lists, one for each query.
    show : callable, optional
        What errors call an id that is repeated.

    Returns
    -------
    ndarray, shape (m, max(k, 1)), int64 or int32
        int32 only if the ids are given as int32.

    Raises
    ------
    DiffusionError
        If the ids are not as described, or one is repeated in a list; the message names the row,
        the id and its places.
    """
    if is_ragged(ids):
        ids = rectangular(ids, ids, (name, name))[1]
    ids = as_numeric(ids, name, kinds="iu")
    if ids.ndim != 2 or rows not in (None, len(ids)):
        expected = "(m, k)" if rows is None else f"({rows}, k), one list for each query"
        raise DiffusionError(f"{name}: expected shape {expected}, got {ids.shape}")
    n = len(ids) if n is None else n
    if not ids.shape[1]:
        return np.full((len(ids), 1), -1)
    for part in _blocks(ids):
        block = ids[part]
        outside = (block < -1) | (block >= n)
        _refuse(outside, part.start, f"{name}: expected ids in [-1, {n})", block)
        ordered = np.sort(block, axis=1)
        repeated = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
        if repeated.any():
            row, place = np.argwhere(repeated)[0]
            item = ordered[row, place]
            first, second = np.flatnonzero(block[row] == item)[:2]
            raise DiffusionError(
                f"{name}: expected each item at most once in a row, row {part.start + row} has "
                f"{show(item)} at places {first} and {second}"
            )
    return ids if ids.dtype == np.int32 else ids.astype(np.int64, copy=False)


def rectangular(
    scores: Any, ids: Any, names: tuple[str, str]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return sequences of lists as two arrays (m, k), with lists shorter than k padded."""
    rows: list[list[NDArray[Any]]] = []
    for values, name, kinds in zip((scores, ids), names, ("fiub", "iu"), strict=True):
        if _length(values) is None:
            raise DiffusionError(f"{name}: expected a sequence of lists, got {_shown(values)}")
        rows.append([as_numeric(v, f"{name}: row {i}", kinds) for i, v in enumerate(values)])
        for number, row in enumerate(rows[-1]):
            if row.ndim != 1:
                raise DiffusionError(f"{name}: row {number}: expected a list, got {row.ndim}-D")
    if len(rows[0]) != len(rows[1]):
        raise DiffusionError(
            f"{names[0]}: expected {len(rows[1])} rows, as in {names[1]}, got {len(rows[0])}"
        )
    shape = len(rows[1]), max(map(len, rows[1]), default=0)
    out_scores, out_ids = np.zeros(shape), np.full(shape, -1, np.int64)
    for number, (row_scores, row_ids) in enumerate(zip(*rows, strict=True)):
        if len(row_scores) != len(row_ids):
            raise DiffusionError(
                f"{names[0]}: row {number}: expected {len(row_ids)} scores, as in {names[1]}, "
                f"got {len(row_scores)}"
            )
        out_scores[number, : len(row_ids)] = row_scores
        out_ids[number, : len(row_ids)] = row_ids
    return out_scores, out_ids


def padding_last(
    scores: NDArray[np.float32], ids: NDArray[Any]
) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Move padding (id -1) to the end of each list and set its score to -inf.

    The order of the other entries is kept. `scores` and `ids` have shape (m, c).
    """
    padded = ids < 0
    if padded.any():
        order = np.argsort(padded, axis=1, kind="stable")
        scores = np.take_along_axis(np.where(padded, np.float32(-np.inf), scores), order, axis=1)
        ids = np.take_along_axis(ids, order, axis=1)
    return scores, ids


def _blocks(ids: NDArray[Any]) -> Iterator[slice]:
    """Yield slices of the rows of lists (m, k)."""
    rows = max(1, _BLOCK_VALUES // ids.shape[1])
    for start in range(0, len(ids), rows):
        yield slice(start, min(len(ids), start + rows))


def only_rise(scores: NDArray[Any], ids: NDArray[Any]) -> bool:
    """Return whether the scores rise many times and never fall, which only distances do.

    Taken for similarities, they would be sorted into the opposite order.
    """
    rises = 0
    for part in _blocks(ids):
        block, real = scores[part].astype(np.float64), ids[part] >= 0
        block[~real] = -np.inf
        highest = np.maximum.accumulate(block, axis=1)[:, :-1]
        later = real[:, 1:] & (highest > -np.inf)
        if (later & (block[:, 1:] < highest)).any():
            return False
        rise = np.subtract(block[:, 1:], highest, out=np.zeros(later.shape), where=later)
        rises += int(np.count_nonzero(rise > _ROUNDING * np.abs(highest)))
    return rises >= _MANY


def _ordered(
    scores: NDArray[Any], ids: NDArray[Any], rows: NDArray[np.bool_]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Sort some rows by descending score, padding last; equal scores keep their order."""
    keys = np.where(ids[rows] >= 0, -scores[rows].astype(np.float64), np.inf)
    order = np.argsort(keys, axis=1, kind="stable")
    scores, ids = scores.copy(), ids.copy()
    scores[rows] = np.take_along_axis(scores[rows], order, axis=1)
    ids[rows] = np.take_along_axis(ids[rows], order, axis=1)
    return scores, ids


def _refuse(bad: NDArray[np.bool_], start: int, message: str, values: NDArray[Any]) -> None:
    """Raise `message` with the row, the value and the place of the first True of `bad`."""
    if bad.any():
        row, place = np.argwhere(bad)[0]
        value = values[row, place].item()
        text = f"{value:.9g}" if isinstance(value, float) else str(value)
        raise DiffusionError(f"{message}; row {start + row} has {text} at place {place}")
