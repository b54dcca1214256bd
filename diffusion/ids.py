"""The ids by which a user names items. Inside, items are rows from 0 to n - 1.

Ids are int64 or str, or else they are the row numbers themselves. -1, and for str None and "",
stand for padding and are no ids.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from numbers import Integral
from typing import Any, ClassVar, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .change import Change
from .errors import DiffusionError
from .kernels import ids as kernels
from .kernels.ids import Keys
from .kernels.matrix import read_only
from .storage.contents import COMPUTED, Array, Arrays, Between, Contents, Offsets, damaged
from .validation import as_numeric, is_ragged

Rows: TypeAlias = NDArray[np.int64]

# Strings encoded at a time.
_BLOCK = 1 << 18

_NOTHING = np.empty(0, np.int64)


class Coded(NamedTuple):
    """Ids as numbers.

    Attributes
    ----------
    codes : ndarray of int64, or list of ndarray
        Of the shape of the ids; a list if their lists have different lengths. The rows of the
        items, -1 for padding, and n + i for the id ``unknown[i]``.
    unknown : ndarray, shape (u,), int64 or object
        The distinct ids that are not of the collection, ascending.
    """

    codes: Any
    unknown: NDArray[Any]


class ItemIds(ABC):
    """The ids of n items, by row.

    `rows`, `of` and `restored` make one. It does not change: `added` and `changed` return another.

    Attributes
    ----------
    size : int
        Number of items.
    plain : bool
        Whether ids are row numbers.
    named : bool
        Whether ids are str.
    """

    plain: ClassVar[bool] = False
    named: ClassVar[bool] = False

    size: int

    # --- making -----------------------------------------------------------------------------------

    @staticmethod
    def rows(n: int) -> ItemIds:
        """Return ids that are row numbers."""
        return RowNumbers(n)

    @staticmethod
    def of(values: Any, n: int | None, name: str) -> ItemIds:
        """Check the ids of the n rows of X that a user gives.

        Parameters
        ----------
        values : array_like, shape (n,), int or str
            Different ids in any order. Integers fit int64.
        n : int or None
            None if the caller compares it.
        name : str
            The argument's name, for errors.

        Raises
        ------
        DiffusionError
            If there are not n ids, if one is repeated or stands for padding, or if they are
            neither all integers nor all str.
        """
        found = _values(values, name)
        if n not in (None, len(found)):
            raise DiffusionError(
                f"{name}: expected {n} ids, one for each row of X, got {len(found)}"
            )
        if isinstance(found, np.ndarray):
            return Numbers.made(found, name)
        return Names.made(found, name)

    @staticmethod
    def restored(arrays: Arrays, n: int, source: str) -> ItemIds:
        """Return the ids of n items from the arrays that `arrays` returned; they are not read.

        Raises
        ------
        KeyError, ValueError
            If an array is missing, or has another type or shape than it must.
        """
        if not arrays:
            return RowNumbers(n)
        return (Numbers if "numbers" in arrays else Names).from_arrays(arrays, n, source)

    @abstractmethod
    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays to store."""

    # --- from ids to rows and back ----------------------------------------------------------------

    @abstractmethod
    def of_rows(self, codes: Rows, unknown: NDArray[Any] = _NOTHING) -> NDArray[Any]:
        """Return the ids of rows, or of the codes of a `Coded`.

        Parameters
        ----------
        codes : ndarray of int64
        unknown : ndarray, shape (u,)

        Returns
        -------
        ndarray
            Of the same shape: int64 padded with -1, or object (str) padded with None. Row numbers
            are returned as they are.
        """

    def all(self) -> NDArray[Any]:
        """Return the ids of all items, by row."""
        return self.of_rows(np.arange(self.size))

    def coded(self, values: Any, name: str) -> Coded:
        """Return ids as numbers.

        Parameters
        ----------
        values : array_like, of any shape, or sequence of lists of different lengths
            Ids of the kind of these, which need not be of the collection, and padding.
        name : str
            The argument's name, for errors.

        Raises
        ------
        DiffusionError
            If the values are not of that kind.
        """
        converted = self._convert(values, name)
        parts = converted if isinstance(converted, list) else [converted]
        flat = np.concatenate([np.ravel(part) for part in parts]) if parts else _NOTHING
        codes = self._find(flat)
        fresh = np.flatnonzero((codes < 0) & ~self._padding(flat))
        unknown = _NOTHING
        if len(fresh):
            unknown, places = np.unique(flat[fresh], return_inverse=True)
            codes[fresh] = self.size + places
        if converted is parts:
            return Coded(np.split(codes, np.cumsum([part.size for part in parts])[:-1]), unknown)
        return Coded(codes.reshape(np.shape(converted)), unknown)

    def only_known(self, values: Any, name: str) -> Any:
        """Return the codes of lists of ids, as `coded` does; raise an error if one is unknown."""
        codes, unknown = self.coded(values, name)
        if len(unknown):
            for number, row in enumerate(codes):
                for place, code in enumerate(np.ravel(row).tolist()):
                    if code >= self.size:
                        raise DiffusionError(
                            f"{name}: expected ids of the items, row {number} has "
                            f"{shown(unknown[code - self.size])} at place {place}"
                        )
        return codes

    def shown(self, code: int, unknown: NDArray[Any] = _NOTHING) -> str:
        """Return the text for errors of the id of a row, or of a code."""
        return shown(self.of_rows(np.array([code]), unknown)[0])

    def rows_of(self, values: Any, name: str) -> Rows:
        """Return the rows of ids (m,), or of one id; -1 for padding and what is unknown."""
        return self._find(self._listed_values(values, name))

    def row_of(self, value: Any, name: str) -> int:
        """Return the row of one id.

        Raises
        ------
        DiffusionError
            If it is not the id of an item.
        """
        rows = self._find(self._listed_values([value], name))
        if len(rows) != 1 or rows[0] < 0:
            raise DiffusionError(f"{name}: expected the id of an item, got {shown(value)}")
        return int(rows[0])

    def rows_to_remove(self, values: Any, name: str = "ids") -> Rows:
        """Return the rows of ids (m,), or of one id.

        Raises
        ------
        DiffusionError
            If one is not of the collection, or is repeated.
        """
        items = self._listed_values(values, name)
        rows = self._find(items)
        if (rows < 0).any():
            place = int(np.argmax(rows < 0))
            raise DiffusionError(
                f"{name}: expected ids of the collection, place {place} has {shown(items[place])}"
            )
        ordered = np.sort(rows)
        repeated = ordered[1:][ordered[1:] == ordered[:-1]]
        if len(repeated):
            first, second = np.flatnonzero(rows == repeated[0])[:2]
            raise DiffusionError(
                f"{name}: expected each id once, places {first} and {second} have "
                f"{shown(items[first])}"
            )
        return rows

    def _listed_values(self, values: Any, name: str) -> NDArray[Any]:
        """Return ids (m,), or one id, as an array (m,) of this kind."""
        if isinstance(values, str | Integral):
            values = [values]
        return self._checked(_values(values, name, padded=True), name)

    @abstractmethod
    def _find(self, flat: NDArray[Any]) -> Rows:
        """Return the rows of ids (m,), -1 for others."""

    def _convert(self, values: Any, name: str) -> Any:
        """Convert ids and padding to an array of this kind, or to a list of arrays (m,)."""
        if is_ragged(values):
            return [
                np.atleast_1d(_int64(as_numeric(row, f"{name}: row {number}", "iu"), name))
                for number, row in enumerate(values)
            ]
        return _int64(as_numeric(values, name, "iu"), name)

    def _checked(self, found: NDArray[np.int64] | list[Any], name: str) -> NDArray[Any]:
        """Return what `_values` found, an error unless it is of this kind."""
        if isinstance(found, np.ndarray):
            return found
        if found:
            raise DiffusionError(
                f"{name}: expected int64 ids, as the items have, got {shown(found[0])}"
            )
        return _NOTHING

    def _padding(self, flat: NDArray[Any]) -> NDArray[np.bool_]:
        """Return which of the converted values are padding."""
        return flat == -1

    # --- changes ----------------------------------------------------------------------------------

    def added(self, values: Any, count: int, name: str = "ids") -> ItemIds:
        """Return the ids with those of `count` items after them.

        Parameters
        ----------
        values : array_like, shape (count,), or None
            None numbers the items on, if nobody has ever given ids.
        count : int
        name : str

        Raises
        ------
        DiffusionError
            If the ids are not as `of` takes them, not of the kind of these, or in use.
        """
        if isinstance(values, str | Integral):
            values = [values]
        new = self._numbered(count, name) if values is None else _values(values, name)
        if len(new) != count:
            raise DiffusionError(
                f"{name}: expected {count} ids, one for each row of X, got {len(new)}"
            )
        return self._with(self._checked(new, name), name) if count else self

    @abstractmethod
    def _numbered(self, count: int, name: str) -> NDArray[np.int64]:
        """Return the numbers of further items, an error if users give ids."""

    @abstractmethod
    def _with(self, new: NDArray[Any], name: str) -> ItemIds:
        """Return the ids with further ones, which are of this kind."""

    @abstractmethod
    def changed(self, change: Change) -> ItemIds:
        """Return the ids after a change that adds nothing. No item gets another id."""


class RowNumbers(ItemIds):
    """Ids that are row numbers."""

    plain = True

    def __init__(self, n: int) -> None:
        self.size = n

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return nothing."""
        return {}

    def of_rows(self, codes: Rows, unknown: NDArray[Any] = _NOTHING) -> NDArray[Any]:
        """Return the row numbers, and unknown ids."""
        if not len(unknown):
            return codes
        known = codes < self.size
        return np.where(known, codes, unknown[np.where(known, 0, codes - self.size)])

    def _find(self, flat: NDArray[Any]) -> Rows:
        return np.where((flat >= 0) & (flat < self.size), flat, -1)

    def _numbered(self, count: int, name: str) -> NDArray[np.int64]:
        return np.arange(self.size, self.size + count)

    def _with(self, new: NDArray[Any], name: str) -> ItemIds:
        if np.array_equal(new, self._numbered(len(new), name)):
            return RowNumbers(self.size + len(new))
        return self._listed()._with(new, name)

    def changed(self, change: Change) -> ItemIds:
        """Return the numbers that the items keep."""
        return self._listed().changed(change)

    def _listed(self) -> Numbers:
        return Numbers.made(np.arange(self.size), "ids", following=self.size)


class _Tabled(ItemIds):
    """Ids with a hash table of their rows."""

    _keys: Keys
    _table: NDArray[np.int32]
    _contents: Contents
    _source: str

    def _open(
        self,
        size: int,
        keys: Keys,
        table: NDArray[np.int32],
        contents: Contents = COMPUTED,
        source: str = "ids",
    ) -> None:
        self.size = size
        self._keys = Keys(*map(read_only, keys))
        self._table = table
        self._contents, self._source = contents, source

    def _find(self, flat: NDArray[Any]) -> Rows:
        out = np.empty(len(flat), np.int64)
        asked = Keys(*map(read_only, self._packed(flat)))
        kernels.find(asked, self._keys, self.size, read_only(self._table), out)
        if (out == kernels.DAMAGED).any():
            self._fail("table", "rows of the ids, and empty slots")
        return out

    def _fail(self, name: str, expected: str) -> None:
        """Raise the error that says what is wrong with the arrays."""
        self._contents.check(by_rows=True)
        raise damaged(self._source, name, expected)

    def _table_with(self, keys: Keys, n: int, name: str) -> NDArray[np.int32]:
        """Return the table of n ids, of which the first are those of this one."""
        if _slots(n) > len(self._table):
            return _table_of(keys, n, name)
        table = self._table.copy()
        _insert(keys, self.size, n, table, name)
        return table

    def _table_after(self, change: Change, keys: Keys) -> NDArray[np.int32]:
        """Return the table after a change, and `keys` are those after it."""
        self._contents.check(by_rows=True)
        if len(self._table) > 4 * _slots(change.after):
            return _table_of(keys, change.after, "ids")
        table, moved = self._table.copy(), change.moved
        sources = change.source[moved].astype(np.int64)
        if not kernels.move(self._keys, change.removed, sources, moved, table):
            self._fail("table", "the rows of all ids")
        return table

    @abstractmethod
    def _packed(self, flat: NDArray[Any]) -> Keys:
        """Return converted ids as keys."""


class Numbers(_Tabled):
    """Ids of int64.

    Parameters
    ----------
    numbers : ndarray, shape (n,), int64
    table : ndarray of int32
    following : int or None
        The number of the next item, if nobody has given ids: larger than that of any item there
        ever was.
    """

    def __init__(
        self, numbers: Rows, table: NDArray[np.int32], following: int | None, **checks: Any
    ) -> None:
        self._numbers, self._following = numbers, following
        self._open(len(numbers), self._packed(numbers), table, **checks)

    @classmethod
    def made(cls, numbers: Rows, name: str, following: int | None = None) -> Numbers:
        """Make the table of ids."""
        if (numbers == -1).any():
            raise DiffusionError(
                f"{name}: expected ids other than -1, which stands for padding; row "
                f"{np.argmax(numbers == -1)} has it"
            )
        return cls(numbers, _table_of(_of_numbers(numbers), len(numbers), name), following)

    @classmethod
    def from_arrays(cls, arrays: Arrays, n: int, source: str) -> Numbers:
        """Return stored ids."""
        layout = {"numbers": Array(np.int64, (n,)), "table": _stored_table(arrays, n)}
        following = None
        if "next" in arrays:
            layout["next"] = Array(np.int64, (1,))
            following = int(arrays["next"][0])
        contents = Contents(arrays, layout, source)
        contents.read_singly()
        return cls(arrays["numbers"], arrays["table"], following, contents=contents, source=source)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the ids, the table and the number that follows."""
        own: dict[str, NDArray[Any]] = {"numbers": self._numbers, "table": self._table}
        return own if self._following is None else {**own, "next": np.array([self._following])}

    def of_rows(self, codes: Rows, unknown: NDArray[Any] = _NOTHING) -> NDArray[Any]:
        """Return the ids of rows."""
        out = np.full(codes.shape, -1, np.int64)
        known, others = (codes >= 0) & (codes < self.size), codes >= self.size
        out[known] = self._numbers[codes[known]]
        out[others] = unknown[codes[others] - self.size]
        return out

    def _packed(self, flat: NDArray[Any]) -> Keys:
        return _of_numbers(flat)

    def _numbered(self, count: int, name: str) -> NDArray[np.int64]:
        if self._following is None or self._following > np.iinfo(np.int64).max - count:
            raise DiffusionError(
                f"{name}: expected {count} ids, because the items of this index have ids that its "
                "user gave"
            )
        return self._following + np.arange(count)

    def _with(self, new: NDArray[Any], name: str) -> ItemIds:
        self._contents.check(by_rows=True)
        if (new == -1).any():
            raise DiffusionError(f"{name}: expected ids other than -1, which stands for padding")
        numbers = np.concatenate([self._numbers, new])
        table = self._table_with(_of_numbers(numbers), len(numbers), name)
        following = self._following
        if following is not None:
            following = max(following, min(int(new.max()) + 1, np.iinfo(np.int64).max))
        return Numbers(numbers, table, following)

    def changed(self, change: Change) -> ItemIds:
        """Return the ids of the items that are left."""
        numbers = change.rows_of(self._numbers)
        return Numbers(numbers, self._table_after(change, _of_numbers(numbers)), self._following)


class Names(_Tabled):
    """Ids of str, stored as the bytes of all, in UTF-8, and where each begins.

    Parameters
    ----------
    keys : Keys
    table : ndarray of int32
    """

    named = True

    def __init__(self, keys: Keys, table: NDArray[np.int32], **checks: Any) -> None:
        self._open(len(keys.offsets) - 1, keys, table, **checks)

    @classmethod
    def made(cls, names: list[str], name: str) -> Names:
        """Pack ids, and make their table."""
        keys = _packed_names(names, name)
        return cls(keys, _table_of(keys, len(names), name))

    @classmethod
    def from_arrays(cls, arrays: Arrays, n: int, source: str) -> Names:
        """Return stored ids."""
        layout = {
            "text": Array(np.uint8, ("bytes",)),
            "offsets": Array(np.int64, (n + 1,), Offsets("text"), by_rows=True),
            "table": _stored_table(arrays, n),
        }
        contents = Contents(arrays, layout, source)
        contents.read_singly()
        keys = Keys(arrays["text"], arrays["offsets"])
        return cls(keys, arrays["table"], contents=contents, source=source)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the bytes, where each id begins, and the table."""
        return {"text": self._keys.text, "offsets": self._keys.offsets, "table": self._table}

    def of_rows(self, codes: Rows, unknown: NDArray[Any] = _NOTHING) -> NDArray[Any]:
        """Return the ids of rows."""
        distinct, places = np.unique(codes, return_inverse=True)
        names = np.full(len(distinct), None, object)
        first, last = np.searchsorted(distinct, [0, self.size])
        names[last:] = unknown[distinct[last:] - self.size]
        rows = distinct[first:last]
        text, begins, ends = self._keys.text, *(self._keys.offsets[rows + i] for i in (0, 1))
        if not ((begins >= 0) & (begins <= ends) & (ends <= len(text))).all():
            self._fail("offsets", "offsets that never decrease")
        try:
            for place, begin, end in zip(
                range(first, last), begins.tolist(), ends.tolist(), strict=True
            ):
                names[place] = text[begin:end].tobytes().decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            raise damaged(self._source, "text", "ids in UTF-8") from None
        return names[places].reshape(codes.shape)

    def _packed(self, flat: NDArray[Any]) -> Keys:
        return _packed_names(flat.tolist(), None)

    def _padding(self, flat: NDArray[Any]) -> NDArray[np.bool_]:
        return np.fromiter((not item for item in flat), bool, len(flat))

    def _convert(self, values: Any, name: str) -> Any:
        if isinstance(values, np.ndarray) and values.ndim != 1:
            flat = self._checked(_values(values.ravel(), name, padded=True), name)
            return flat.reshape(values.shape)
        if not isinstance(values, list | tuple | np.ndarray) and hasattr(values, "__array__"):
            return self._convert(np.asarray(values), name)
        if any(isinstance(row, list | tuple | np.ndarray) for row in values):
            rows = [
                self._checked(_values(row, f"{name}: row {number}", padded=True), name)
                for number, row in enumerate(values)
            ]
            return np.stack(rows) if len({len(row) for row in rows}) == 1 else rows
        return self._checked(_values(values, name, padded=True), name)

    def _checked(self, found: NDArray[np.int64] | list[Any], name: str) -> NDArray[Any]:
        if isinstance(found, np.ndarray):
            if (found != -1).any():
                number = found[found != -1][0]
                raise DiffusionError(
                    f"{name}: expected str ids, as the items have, got {shown(number)}"
                )
            found = [None] * len(found)
        out = np.empty(len(found), object)
        out[:] = found
        return out

    def _numbered(self, count: int, name: str) -> NDArray[np.int64]:
        raise DiffusionError(
            f"{name}: expected {count} ids of str, because the items of this index have such ids"
        )

    def _with(self, new: NDArray[Any], name: str) -> ItemIds:
        self._contents.check(by_rows=True)
        more = _packed_names(new.tolist(), name)
        keys = Keys(
            np.concatenate([self._keys.text, more.text]),
            np.concatenate([self._keys.offsets, len(self._keys.text) + more.offsets[1:]]),
        )
        return Names(keys, self._table_with(keys, self.size + len(new), name))

    def changed(self, change: Change) -> ItemIds:
        """Return the ids of the items that are left."""
        self._contents.check(by_rows=True)
        sizes = np.diff(self._keys.offsets)[change.source]
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
        keys = Keys(np.empty(offsets[-1], np.uint8), offsets)
        kernels.gather(read_only(change.source), self._keys, keys)
        return Names(keys, self._table_after(change, keys))


# --- tables ---------------------------------------------------------------------------------------


def _slots(n: int) -> int:
    """Return the length of a table of n ids."""
    return 1 << max(3, (2 * n - 1).bit_length())


def _table_of(keys: Keys, n: int, name: str) -> NDArray[np.int32]:
    table = np.full(_slots(n), -1, np.int32)
    _insert(keys, 0, n, table, name)
    return table


def _insert(keys: Keys, first: int, last: int, table: NDArray[np.int32], name: str) -> None:
    """Enter rows into a table; raise an error that names the first id that is repeated."""
    keys = Keys(*map(read_only, keys))
    one, other = kernels.insert(keys, first, last, table)
    if other < 0:
        return
    if len(keys.offsets):
        content = keys.text[keys.offsets[other] : keys.offsets[other + 1]].tobytes()
        item: Any = content.decode("utf-8", "surrogatepass")
    else:
        item = keys.text.view(np.int64)[other]
    where = f"rows {one} and {other}" if one >= first else f"the collection and row {other - first}"
    raise DiffusionError(f"{name}: expected each id once, {where} have {shown(item)}")


def _stored_table(arrays: Arrays, n: int) -> Array:
    """Return what a stored table must be, for any power of two that is long enough."""
    slots = len(arrays["table"])
    if slots < _slots(n) or slots & (slots - 1):
        raise ValueError(f"table: {slots} slots for {n} ids")
    return Array(np.int32, (slots,), Between(-1, n - 1), by_rows=True)


# --- values ---------------------------------------------------------------------------------------


def _of_numbers(numbers: NDArray[Any]) -> Keys:
    return Keys(np.ascontiguousarray(numbers, np.int64).view(np.uint8), _NOTHING)


def _packed_names(names: Sequence[Any], name: str | None) -> Keys:
    """Return strings as keys; with the name of an argument, those that stand for padding raise."""
    parts, sizes = [], []
    for start in range(0, len(names), _BLOCK):
        # Any str has such an encoding, and no two have the same.
        block = [
            (item or "").encode("utf-8", "surrogatepass") for item in names[start : start + _BLOCK]
        ]
        parts.append(b"".join(block))
        sizes.append(np.fromiter(map(len, block), np.int64, len(block)))
    lengths = np.concatenate([np.zeros(1, np.int64), *sizes])
    if name is not None and not lengths[1:].all():
        raise DiffusionError(
            f"{name}: expected ids other than '', which stands for padding; row "
            f"{np.argmin(lengths[1:])} has it"
        )
    return Keys(np.frombuffer(b"".join(parts), np.uint8), np.cumsum(lengths))


def _int64(array: NDArray[Any], name: str) -> NDArray[np.int64]:
    """Convert integers, an error if one does not fit."""
    most = np.iinfo(np.int64).max
    if array.dtype == np.uint64 and array.size and array.max() > most:
        raise DiffusionError(f"{name}: expected integers up to {most}, got {array.max()}")
    return array.astype(np.int64, copy=False)


def _values(values: Any, name: str, *, padded: bool = False) -> NDArray[np.int64] | list[Any]:
    """Return ids (m,) as an array of int64 or as a list of str, an empty one as either.

    If they may be `padded`, the list may contain None.
    """
    if hasattr(values, "detach") and hasattr(values, "cpu"):
        values = as_numeric(values, name, "iu")
    if not isinstance(values, list | tuple | np.ndarray):
        if isinstance(values, str) or not hasattr(values, "__iter__"):
            raise DiffusionError(f"{name}: expected a list of ids, got {shown(values)}")
        values = np.asarray(values) if hasattr(values, "__array__") else list(values)
    if isinstance(values, np.ndarray):
        if values.ndim != 1:
            raise DiffusionError(f"{name}: expected shape (n,), got {values.shape}")
        if values.dtype.kind in "iu":
            return _int64(values, name).copy()
        if not len(values):
            return np.empty(0, np.int64)
        if values.dtype.kind not in "OUT":
            raise DiffusionError(
                f"{name}: expected ids of int64 or str, got an array of dtype {values.dtype}"
            )
        values = values.tolist()
    kinds = set(map(type, values)) - ({type(None)} if padded else set())
    if all(issubclass(kind, str) for kind in kinds) and (kinds or values):
        return list(values)
    if all(issubclass(kind, Integral) and kind is not bool for kind in kinds):
        try:
            return np.array(values, np.int64).reshape(-1)
        except (OverflowError, TypeError):  # None among integers
            pass
    odd = _odd_one(values, kinds)
    raise DiffusionError(
        f"{name}: expected ids of int64 or str, all of one kind; row {odd} has {shown(values[odd])}"
    )


def _odd_one(values: Sequence[Any], kinds: set[type]) -> int:
    """Return the place of the first value that is no id, or not of the kind of the first."""
    kind = str if isinstance(values[0], str) else Integral
    for place, value in enumerate(values):
        fits = kind is str or (isinstance(value, Integral) and abs(int(value)) < 1 << 63)
        if isinstance(value, bool) or not isinstance(value, kind) or not fits:
            return place
    return 0


def shown(item: object) -> str:
    """Return the text of an id for errors: str in quotation marks."""
    item = item.item() if isinstance(item, np.generic) else item
    return " ".join(repr(item).split())[:80]
