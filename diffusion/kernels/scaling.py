"""Compiled loops that rank neighbour lists by locally scaled scores.

A scaled score is rounded once, to single precision, so that equal ones compare equal for items and
for queries, on every machine.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .context import PLACE
from .threads import borrowing, parallel

_MOST = float(np.finfo(np.float32).max)


@borrowing
def local_scale(scores: Any, count: int) -> Any:
    """Return the score at place `PLACE` of a list of `count` entries, or the last; 0 for none."""
    return scores[min(PLACE, count) - 1] if count > 0 else np.float32(0)


@borrowing
def scaled_score(score: Any, scale: Any, factor: Any) -> Any:
    """Return score - factor * scale, of float32 numbers, rounded to float32 and finite.

    The product is exact in double precision: whether it is fused with the difference, which the
    compiler decides, makes no difference.
    """
    value = np.float64(score) - np.float64(factor) * np.float64(scale)
    return np.float32(min(_MOST, max(-_MOST, value)))


@borrowing
def insert_scaled(
    count: int, key: Any, item: int, score: Any, keys: Any, ids: Any, own: Any
) -> int:
    """Insert an entry into lists in descending order of `keys`, after equal ones.

    `ids` and `own`, its item and score, are kept in the same order. Returns the place.
    """
    at = count
    while at > 0 and keys[at - 1] < key:
        keys[at], ids[at], own[at] = keys[at - 1], ids[at - 1], own[at - 1]
        at -= 1
    keys[at], ids[at], own[at] = key, item, score
    return at


@parallel(lambda ids, *_: len(ids), grain=4096)
def local_scales(start: int, stop: int, ids: Any, scores: Any, out: Any) -> None:
    """Compute the `local_scale` (n,), float32, of lists (n, k) that are padded with -1."""
    for i in range(start, stop):
        count = 0
        while count < min(PLACE, ids.shape[1]) and ids[i, count] >= 0:
            count += 1
        out[i] = local_scale(scores[i], count)


@parallel(lambda ids, *_: len(ids), grain=256)
def scale_lists(
    start: int,
    stop: int,
    ids: Any,
    scores: Any,
    scales: Any,
    factor: Any,
    out_ids: Any,
    out_scores: Any,
    order: Any,
) -> None:
    """Sort lists (n, k) by scaled scores; equal ones keep their order.

    `scales` (n,) are the local scales of the items. `out_scores` are the scaled scores, and `order`
    (n, k), uint8, the places of the entries in the given lists. All lists are padded at the end.
    """
    k = ids.shape[1]
    for i in range(start, stop):
        for a in range(k):
            j, key = ids[i, a], np.float32(-np.inf)
            if j >= 0:
                key = scaled_score(scores[i, a], scales[j], factor)
            insert_scaled(a, key, j, np.uint8(a), out_scores[i], out_ids[i], order[i])


@parallel(lambda array, *_: len(array), grain=1024)
def put_back(start: int, stop: int, array: Any, order: Any, out: Any) -> None:
    """Write the values (m, k) of entries of sorted lists to their places in the given lists."""
    for i in range(start, stop):
        for a in range(array.shape[1]):
            out[i, order[i, a]] = array[i, a]
