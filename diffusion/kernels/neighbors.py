"""Loops over neighbour lists that change: renumbering, scoring, and the entry of added items."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .cells import exact_score
from .threads import contracting, parallel, serial

# Rows and columns of a block of products, and products compared at a time with a threshold.
_ROWS, _COLUMNS, _CHUNK = 256, 512, 32

# A product may differ by this much from the score of a pair, relative to the squared norms.
_ROUNDING = 2.0**-16


class Added(NamedTuple):
    """Vectors that are new in a collection."""

    vectors: Any  # (m, d) float32
    ids: Any  # (m,) int32: their rows, -1 for those that belong into no list
    half_squares: Any  # (m,) float32: half the squared norm, or 0 where scores are products
    longest: float  # the largest norm


class Near(NamedTuple):
    """The added vectors that each cell of a collection is compared with."""

    starts: Any  # (cells,) int64
    stops: Any  # (cells,) int64
    places: Any  # int32: those of cell c are at starts[c] to stops[c]


@serial
def _enter(scores: Any, ids: Any, size: int, score: Any, j: int) -> None:
    """Enter an item into the first `size` entries of a list, before those that it is ahead of.

    Equal scores are ordered by ascending id.
    """
    t = size
    while t > 0 and (scores[t - 1] < score or (scores[t - 1] == score and ids[t - 1] > j)):
        if t < ids.shape[0]:
            scores[t], ids[t] = scores[t - 1], ids[t - 1]
        t -= 1
    if t < ids.shape[0]:
        scores[t], ids[t] = score, j


@parallel(lambda scores, ids, source, *_: len(source), grain=256)
def renumber_lists(
    start: int,
    stop: int,
    scores: Any,
    ids: Any,
    source: Any,
    target: Any,
    least: int,
    out_scores: Any,
    out_ids: Any,
    sizes: Any,
    dirty: Any,
) -> None:
    """Move lists (before, k) to the new rows of their items, and leave out removed items.

    `source` and `target` are those of a `Change`. The lists of added items are empty. `sizes`
    (after,) are the numbers of entries; `dirty` says whether one of the first `least` entries has
    gone, or equal scores have another order.
    """
    k = ids.shape[1]
    for i in range(start, stop):
        size, row = 0, source[i]
        dirty[i] = row < 0
        if row >= 0:
            for a in range(k):
                j = ids[row, a]
                if j < 0:
                    break
                j, s = target[j], scores[row, a]
                if j < 0:
                    dirty[i] |= a < least
                    continue
                if size > 0 and out_scores[i, size - 1] == s and out_ids[i, size - 1] > j:
                    dirty[i] = True
                    _enter(out_scores[i], out_ids[i], size, s, j)
                else:
                    out_scores[i, size], out_ids[i, size] = s, j
                size += 1
        sizes[i] = size
        for a in range(size, k):
            out_scores[i, a], out_ids[i, a] = -np.inf, -1


@parallel(lambda queries, own, vectors, ids, *_: len(ids), grain=16)
def score_others(
    start: int,
    stop: int,
    queries: Any,
    own: Any,
    vectors: Any,
    ids: Any,
    by_distance: bool,
    highest: float,
    out_scores: Any,
    out_ids: Any,
) -> None:
    """Compute the scores of listed items, and keep the best others of each query.

    Row i of `ids` (m, w), -1 where there is none, lists items that are near to item own[i], whose
    vector is queries[i]. The k best other than the item are written to `out_scores` and `out_ids`
    (m, k), which are padded with -inf and -1.
    """
    lanes = np.empty(16, np.float32)
    k = out_ids.shape[1]
    for i in range(start, stop):
        size = 0
        for a in range(ids.shape[1]):
            j = ids[i, a]
            if j < 0 or j == own[i]:
                continue
            s = exact_score(queries[i], vectors[j], by_distance, lanes)
            _enter(out_scores[i], out_ids[i], size, min(s, np.float32(highest)), j)
            size = min(size + 1, k)
        for a in range(size, k):
            out_scores[i, a], out_ids[i, a] = -np.inf, -1


# --- added items ----------------------------------------------------------------------------------


@contracting
def _admit_into(
    vector: Any,
    row: int,
    products: Any,
    bias: Any,
    places: Any,
    added: Any,
    by_distance: bool,
    highest: float,
    least: int,
    sizes: Any,
    scores: Any,
    ids: Any,
    lanes: Any,
) -> Any:
    """Enter added vectors into the list of an item, given their products with its vector.

    Returns 0 if the first `least` entries have not changed, 1 if they have, and 2 if an item that
    belongs into no list is among the best.
    """
    square, changed = np.float32(0), 0
    for t in range(vector.shape[0]):
        square += vector[t] * vector[t]
    count, size = products.shape[0], sizes[row]
    worst = scores[row, size - 1]
    low = _low(worst, square, added.longest, by_distance)
    for begin in range(0, count, _CHUNK):
        end = min(count, begin + _CHUNK)
        if end - begin == _CHUNK:
            # Counting has no branches, so that it is compiled to vector instructions.
            some = np.int32(0)
            for a in range(begin, begin + _CHUNK):
                some += np.int32(products[a] - bias[a] > low)
            if some == 0:
                continue
        for a in range(begin, end):
            if products[a] - bias[a] > low:
                place = places[a]
                score = exact_score(vector, added.vectors[place], by_distance, lanes)
                score = min(score, np.float32(highest))
                if score > worst:
                    if added.ids[place] < 0:
                        return 2
                    if score > scores[row, least - 1]:
                        changed = 1
                    _enter(scores[row], ids[row], size, score, added.ids[place])
                    size = min(size + 1, ids.shape[1])
                    worst = scores[row, size - 1]
                    low = _low(worst, square, added.longest, by_distance)
    sizes[row] = size
    return changed


@contracting
def _low(worst: Any, square: Any, longest: Any, by_distance: bool) -> Any:
    """Return what a product less the half square is above if the score is above `worst`."""
    if by_distance:
        margin = np.float32(_ROUNDING) * (square + abs(worst))
        return np.float32(0.5) * (worst + square) - margin
    return worst - np.float32(_ROUNDING) * np.sqrt(square) * np.float32(longest)


@parallel(lambda level, *_: len(level.starts), grain=1)
def admit(
    start: int,
    stop: int,
    level: Any,
    added: Any,
    near: Any,
    by_distance: bool,
    highest: float,
    least: int,
    sizes: Any,
    scores: Any,
    ids: Any,
    state: Any,
) -> None:
    """Enter added vectors into the lists (n, k) whose worst entry they beat.

    Those near a cell are compared with the vectors of the cell, except for vectors whose list has
    fewer than `least` entries. A list that is not full is extended, too, by what is ahead of its
    last entry. `sizes` (n,) are the numbers of entries, and are updated. `state` (n,) becomes 1
    where one of the first `least` entries changes, and 2 where a list must be searched again,
    because a vector that belongs into no list would be in it.
    """
    d = level.vectors.shape[1]
    gathered, bias = np.empty((_COLUMNS, d), np.float32), np.empty(_COLUMNS, np.float32)
    products = np.empty(_ROWS * _COLUMNS, np.float32)
    lanes = np.empty(16, np.float32)
    for c in range(start, stop):
        for first in range(near.starts[c], near.stops[c], _COLUMNS):
            places = near.places[first : min(near.stops[c], first + _COLUMNS)]
            columns = places.shape[0]
            for a in range(columns):
                gathered[a] = added.vectors[places[a]]
                bias[a] = added.half_squares[places[a]]
            for begin in range(level.starts[c], level.stops[c], _ROWS):
                end = min(level.stops[c], begin + _ROWS)
                block = products[: (end - begin) * columns].reshape(end - begin, columns)
                np.dot(level.vectors[begin:end], gathered[:columns].T, block)
                for a in range(end - begin):
                    row = level.ids[begin + a]
                    if sizes[row] < least or state[row] == 2:
                        continue
                    changed = _admit_into(
                        level.vectors[begin + a],
                        row,
                        block[a],
                        bias,
                        places,
                        added,
                        by_distance,
                        highest,
                        least,
                        sizes,
                        scores,
                        ids,
                        lanes,
                    )
                    state[row] = max(state[row], changed)
