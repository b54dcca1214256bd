"""Which items have a name that contains a text."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray

from .collection import View

# Answers that are kept of a state.
_MASKS = 16


class Names:
    """The names of the items of one state as one text.

    Memory: the names, 8 bytes for each, and a byte for each and each of the last answers.

    Parameters
    ----------
    names : iterable of str

    Attributes
    ----------
    containing : callable
        Takes a text, and returns which names contain it, be it in other case: shape (n,), bool.
    """

    def __init__(self, names: Iterable[str]) -> None:
        parts = [_folded(name) for name in names]
        sizes = np.fromiter(map(len, parts), np.int64, len(parts))
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
        text = np.frombuffer(b"".join(parts), np.uint8)
        # Not of a method: names that refer to themselves would stay until the garbage collector
        # comes by.
        self.containing = lru_cache(_MASKS)(partial(_containing, text, offsets))


def _containing(
    names: NDArray[np.uint8], offsets: NDArray[np.int64], text: str
) -> NDArray[np.bool_]:
    """Return which names contain a text, in upper or lower case; shape (n,)."""
    wanted = np.frombuffer(_folded(text), np.uint8)
    out = np.zeros(len(offsets) - 1, bool)
    if not len(wanted):
        return np.ones(len(out), bool)
    # In UTF-8, the bytes of a text are found only where its characters are.
    last = max(0, len(names) - len(wanted) + 1)
    places = np.flatnonzero(names[:last] == wanted[0])
    for step, byte in enumerate(wanted[1:], 1):
        places = places[names[places + step] == byte]
    rows = np.searchsorted(offsets, places, side="right") - 1
    out[rows[places + len(wanted) <= offsets[rows + 1]]] = True
    return out


def _folded(text: str) -> bytes:
    return text.casefold().encode("utf-8", "surrogatepass")


class NameFilter:
    """Which items of a state have a name that contains a text; those of the last state are kept.

    Parameters
    ----------
    name : callable, optional
        Returns the name of an item, given by its id; by default, that is its id as text.
    """

    def __init__(self, name: Callable[[int | str], str] = str) -> None:
        self._name = name
        self._names: tuple[int, Names] | None = None  # of the last version
        self._lock = threading.Lock()

    def mask(self, view: View, text: str) -> NDArray[np.bool_]:
        """Return which items of a state have a name that contains a text, shape (n,)."""
        with self._lock:
            if self._names is None or self._names[0] != view.version:
                ids = view.ranker.fitted().items.all().tolist()
                self._names = view.version, Names(map(self._name, ids))
            return self._names[1].containing(text)
