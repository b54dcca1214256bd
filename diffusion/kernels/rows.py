"""Compiled loops that compare rows of arrays, given as their bytes."""

from __future__ import annotations

from typing import Any

from .threads import parallel


@parallel(lambda old, new, out: len(out), grain=4096)
def unequal(start: int, stop: int, old: Any, new: Any, out: Any) -> None:
    """Find the rows (m, bytes) of two arrays that are not equal; `out` (m,) is bool."""
    for i in range(start, stop):
        bits = 0
        for t in range(new.shape[1]):
            bits |= old[i, t] ^ new[i, t]
        out[i] = bits != 0


@parallel(lambda old_starts, old_stops, old, starts, stops, new, width, out: len(out), grain=512)
def unequal_stretches(
    start: int,
    stop: int,
    old_starts: Any,
    old_stops: Any,
    old: Any,
    starts: Any,
    stops: Any,
    new: Any,
    width: int,
    out: Any,
) -> None:
    """Find the rows (m,) that are not equal, of which row i is at starts[i] to stops[i] of `new`.

    `old` and `new` are the bytes of the entries, `width` bytes each. Rows that `out` (m,) already
    has as unequal are not compared.
    """
    for i in range(start, stop):
        count = stops[i] - starts[i]
        if out[i] or old_stops[i] - old_starts[i] != count:
            out[i] = True
            continue
        first, begin, bits = starts[i] * width, old_starts[i] * width, 0
        for t in range(count * width):
            bits |= old[begin + t] ^ new[first + t]
        out[i] = bits != 0
