"""Compiled loops of ranking: the fusion of scores, and the best items of each row."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .context import is_before, unit_of
from .matrix import SparseRows, read_only
from .threads import borrowing, contracting, parallel, serial

_LOWEST = np.finfo(np.float32).min


# --- the best items of a row ---------------------------------------------------------------------


@borrowing
def _before(ages: Any, value_a: Any, id_a: Any, value_b: Any, id_b: Any) -> bool:
    """Return whether a ranks before b: by value, equal ones as `is_before` has it."""
    return value_a > value_b or (value_a == value_b and is_before(ages, id_a, id_b))


@borrowing
def _sift_down(ages: Any, values: Any, ids: Any, size: int) -> None:
    """Restore a heap with the last-ranked entry at its root after the root was replaced."""
    root = 0
    while True:
        child = 2 * root + 1
        if child >= size:
            return
        if child + 1 < size and _before(
            ages, values[child], ids[child], values[child + 1], ids[child + 1]
        ):
            child += 1
        if not _before(ages, values[root], ids[root], values[child], ids[child]):
            return
        values[root], values[child] = values[child], values[root]
        ids[root], ids[child] = ids[child], ids[root]
        root = child


@borrowing
def begin_best(values: Any, ids: Any) -> None:
    """Empty a list of the best entries: a heap, padded with -inf and -1."""
    values[:] = -np.inf
    ids[:] = -1


@borrowing
def offer(ages: Any, values: Any, ids: Any, value: Any, item: Any) -> None:
    """Keep an entry if it ranks before the last of the best ones and is positive."""
    if value > 0 and _before(ages, value, item, values[0], ids[0]):
        values[0], ids[0] = value, item
        _sift_down(ages, values, ids, values.shape[0])


@borrowing
def end_best(ages: Any, values: Any, ids: Any) -> None:
    """Sort the best entries by descending value, equal ones as `is_before` has it."""
    for size in range(values.shape[0] - 1, 0, -1):
        values[0], values[size] = values[size], values[0]
        ids[0], ids[size] = ids[size], ids[0]
        _sift_down(ages, values, ids, size)


#: The filter that allows every item.
EVERYTHING = read_only(np.empty(0, np.uint8))


@borrowing
def _allows(allowed: Any, item: Any) -> bool:
    """Return whether a filter allows an item: `allowed` (n,) uint8, or (0,) for every item."""
    return allowed.shape[0] == 0 or allowed[item] != 0


@parallel(lambda x, *_: len(x), grain=4)
def largest_positive(
    start: int, stop: int, x: Any, allowed: Any, out_values: Any, out_ids: Any
) -> None:
    """Write the k largest positive entries of each row of x (m, n), in descending order.

    Only items that are allowed are written. Equal entries are ordered by ascending id. `out_values`
    and `out_ids` (m, k) are padded with -inf and -1.
    """
    n, by_row = x.shape[1], np.empty(0, np.int32)
    for row in range(start, stop):
        values, ids = out_values[row], out_ids[row]
        begin_best(values, ids)
        for i in range(n):
            # Ids ascend, so an equal value never displaces one that is already kept.
            if x[row, i] > values[0] and _allows(allowed, i):
                offer(by_row, values, ids, x[row, i], i)
        end_best(by_row, values, ids)


@parallel(lambda x, *_: len(x.counts), grain=1)
def largest_positive_sparse(
    start: int, stop: int, x: SparseRows, allowed: Any, out_values: Any, out_ids: Any
) -> None:
    """Write what `largest_positive` does, for sparse rows."""
    by_row = np.empty(0, np.int32)
    for row in range(start, stop):
        values, ids = out_values[row], out_ids[row]
        begin_best(values, ids)
        for e in range(x.starts[row], x.starts[row] + x.counts[row]):
            if x.values[e] >= values[0] and _allows(allowed, x.ids[e]):
                offer(by_row, values, ids, x.values[e], x.ids[e])
        end_best(by_row, values, ids)


@parallel(lambda x, *_: len(x.counts), grain=4)
def depth_of_filtered(
    start: int,
    stop: int,
    x: SparseRows,
    fused: SparseRows,
    allowed: Any,
    last: Any,
    out_reached: Any,
    out_depth: Any,
) -> None:
    """Write how many allowed items x reaches, and how many fused scores are at least `last` (m,).

    The second number is the place in a ranking of all items that the last allowed one has.
    """
    for row in range(start, stop):
        reached = depth = 0
        for e in range(x.starts[row], x.starts[row] + x.counts[row]):
            reached += x.values[e] > 0 and allowed[x.ids[e]] != 0
        for e in range(fused.starts[row], fused.starts[row] + fused.counts[row]):
            depth += fused.values[e] >= last[row]
        out_reached[row], out_depth[row] = reached, depth


# --- a few items of a row ------------------------------------------------------------------------


class Few(NamedTuple):
    """A hash table of a few items, with a value of each."""

    keys: Any  # (slots,) int32, -1 where empty; a power of two, at least twice the items
    values: Any  # (slots,)


@serial
def few(items: int, values: Any) -> Few:
    """Make an empty table for that many items; `values` is an empty array of the type to use."""
    slots = 16
    while slots < 2 * items:
        slots *= 2
    keys = np.empty(slots, np.int32)
    keys[:] = -1
    return Few(keys, np.zeros(slots, values.dtype))


@borrowing
def slot_of(keys: Any, item: Any) -> int:
    """Return the slot that holds an item, or the empty one in which it belongs."""
    mask = np.uint32(keys.shape[0] - 1)
    # Knuth's multiplicative hashing, in 32 bits.
    slot = ((np.uint32(item) * np.uint32(2654435761)) >> np.uint32(7)) & mask
    while keys[slot] >= 0 and keys[slot] != item:
        slot = (slot + np.uint32(1)) & mask
    return slot  # type: ignore[return-value]


# --- fusion --------------------------------------------------------------------------------------


class FirstStage(NamedTuple):
    """The results of the first stage; ids of n and more are of items that the graph lacks."""

    scores: Any  # (m, c) float32, best first
    ids: Any  # (m, c) int64, -1 padded at the end


class LocalScale(NamedTuple):
    """Local scaling of first-stage scores: s'_qj = s_qj - factor (r_q + r_j)."""

    factor: float
    items: Any  # (n,) float32, r of the items; (0,) if the factor is 0
    queries: Any  # (m,) float32, r of the queries


@borrowing
def _scaled(score: Any, item: Any, scale: LocalScale, row: int) -> Any:
    """Return s' of a score and an item; the r of an item that the graph lacks is the query's."""
    if scale.factor == 0:
        return np.float64(score)
    own = scale.queries[row]
    other = scale.items[item] if item < scale.items.shape[0] else own
    return np.float64(score) - scale.factor * (np.float64(own) + np.float64(other))


class Beside(NamedTuple):
    """The evidence that is added to the diffused score: weight (J + e)."""

    J: SparseRows
    first: FirstStage
    scale: LocalScale
    depth: int  # number of candidates of the first stage that have an e
    weight: float


@borrowing
def _evidence(first: FirstStage, scale: LocalScale, row: int, e: Any) -> None:
    """Compute e of the best candidates of a query, minus the least e; 0 where they are padded."""
    scores, size = first.scores[row], 0
    while size < e.shape[0] and scores[size] > -np.inf:
        size += 1
    e[:] = 0
    if size == 0:
        return
    spread = unit_of(scores[: e.shape[0]])
    best = -np.inf
    for a in range(size):
        e[a] = _scaled(scores[a], first.ids[row, a], scale, row)
        best = max(best, e[a])
    least = 1.0
    for a in range(size):
        z = (best - e[a]) / spread if spread > 0 else 0.0
        e[a] = 1 / ((1 + z) * (1 + z))
        least = min(least, e[a])
    for a in range(size):
        e[a] -= least


@parallel(lambda first, *_: len(first.ids), grain=64)
def evidence(
    start: int,
    stop: int,
    first: FirstStage,
    scale: LocalScale,
    depth: int,
    weight: float,
    out: Any,
) -> None:
    """Write the evidence weight e of the candidates of the first stage to `out` (m, c)."""
    depth = min(depth, first.ids.shape[1])
    e = np.empty(depth, np.float64)
    for row in range(start, stop):
        _evidence(first, scale, row, e)
        out[row] = 0
        for a in range(depth):
            out[row, a] = weight * e[a]


@borrowing
def _rooted(share: Any) -> Any:
    """Return share^(3/8) by square roots, which a processor computes for several at a time."""
    fourth = np.sqrt(np.sqrt(share))
    return fourth * np.sqrt(fourth)


@contracting
def _gather(beside: Beside, row: int, n: int) -> Few:
    """Return which of n items have evidence beside the diffused score, and that evidence."""
    J, first, scale, depth, weight = beside
    depth = min(depth, first.ids.shape[1])
    table = few(J.counts[row] + depth, np.empty(0, np.float64))
    keys, values = table
    for t in range(J.starts[row], J.starts[row] + J.counts[row]):
        slot = slot_of(keys, J.ids[t])
        keys[slot] = J.ids[t]
        values[slot] = J.values[t]
    e = np.empty(depth, np.float64)
    _evidence(first, scale, row, e)
    for a in range(depth):
        if 0 <= first.ids[row, a] < n:
            slot = slot_of(keys, first.ids[row, a])
            keys[slot] = first.ids[row, a]
            values[slot] += e[a]
    for slot in range(values.shape[0]):
        values[slot] *= weight
    return table


@parallel(lambda x, *_: len(x), grain=1)
def fuse(start: int, stop: int, x: Any, weights: Any, beside: Beside) -> None:
    """Replace each row of diffused scores x (m, n) by the fused score of each item.

    f_j = (x'_j / max x')^(3/8) + weight (J_j + e_j), x' = weights max(x, 0); `weights` (n,) is the
    diagonal of D^-1/2.
    """
    n = x.shape[1]
    for row in range(start, stop):
        largest = np.float32(0)
        for i in range(n):
            x[row, i] = max(x[row, i], np.float32(0)) * weights[i]
            largest = max(largest, x[row, i])
        if largest > 0:
            for i in range(n):
                x[row, i] = _rooted(x[row, i] / largest)
        keys, values = _gather(beside, row, n)
        for slot in range(keys.shape[0]):
            if keys[slot] >= 0:
                x[row, keys[slot]] += np.float32(values[slot])


@parallel(lambda x, *_: len(x.counts), grain=1)
def fuse_sparse(
    start: int, stop: int, x: SparseRows, roots: Any, n: int, beside: Beside, out: SparseRows
) -> None:
    """Write what `fuse` computes, for sparse rows x of n items, to `out`.

    `roots` has the square root of the degree of each entry of x, and 1 for a degree of 0. A row of
    `out` has room for all items of x and of `beside`.
    """
    for row in range(start, stop):
        begin, count = x.starts[row], x.counts[row]
        ids, fused = out.ids[out.starts[row] :], out.values[out.starts[row] :]
        largest = np.float32(0)
        for t in range(count):
            ids[t] = x.ids[begin + t]
            fused[t] = max(x.values[begin + t], np.float32(0)) / np.float64(roots[begin + t])
            largest = max(largest, fused[t])
        if not largest > 0:
            largest = np.float32(1)
        keys, values = _gather(beside, row, n)
        for t in range(count):
            fused[t] = _rooted(fused[t] / largest)
            slot = slot_of(keys, ids[t])
            if keys[slot] >= 0:
                fused[t] += np.float32(values[slot])
                values[slot] = 0
        for slot in range(keys.shape[0]):
            if values[slot] > 0:
                ids[count], fused[count] = keys[slot], values[slot]
                count += 1
        out.counts[row] = count


# --- candidates of the first stage ---------------------------------------------------------------


@serial
def copy_ordered(scores: Any, ids: Any, n: int, distances: bool, out: Any) -> bool:
    """Copy the scores (m, c) of lists that are in order, and say whether all of them are.

    The ids of such a list are different ones in [0, n), and the padding, -1, is at its end. Its
    scores are finite in float32, descend, and are 0 or less if they are negative distances. `out`
    (m, c), float32, is padded with -inf.
    """
    most = np.float64(np.finfo(np.float32).max)
    m, c = ids.shape
    for row in range(m):
        keys, _ = few(c, np.empty(0, np.int8))
        last = np.float64(0.0) if distances else np.inf
        size = 0
        while size < c and ids[row, size] != -1:
            item, score = ids[row, size], scores[row, size]
            if not (0 <= item < n and -most <= score <= most and score <= last):
                return False
            slot = slot_of(keys, item)
            if keys[slot] >= 0:
                return False
            keys[slot] = item
            out[row, size] = last = score
            size += 1
        for a in range(size, c):
            if ids[row, a] != -1:
                return False
            out[row, a] = -np.inf
    return True


@parallel(lambda x, ids, *_: len(ids), grain=4)
def entries(start: int, stop: int, x: SparseRows, ids: Any, out: Any) -> None:
    """Look up the entries of sparse rows at `ids` (m, c), -1 padded; 0 where not stored."""
    c = ids.shape[1]
    for row in range(start, stop):
        keys, places = few(c, np.empty(0, np.int64))
        for a in range(c):
            out[row, a] = 0
            if ids[row, a] >= 0:
                slot = slot_of(keys, ids[row, a])
                keys[slot], places[slot] = ids[row, a], a
        for e in range(x.starts[row], x.starts[row] + x.counts[row]):
            slot = slot_of(keys, x.ids[e])
            if keys[slot] >= 0:
                out[row, places[slot]] = x.values[e]


@parallel(lambda first, *_: len(first.ids), grain=32)
def append_unreached(
    start: int,
    stop: int,
    first: FirstStage,
    best: Any,
    allowed: Any,
    out_scores: Any,
    out_ids: Any,
) -> None:
    """Fill lists (m, k) of all reached items up with the other candidates of the first stage.

    They keep their order. Their score is the first-stage score minus the query's best one, `best`
    (m,). Candidates that are not allowed are left out.
    """
    k, c = out_ids.shape[1], first.ids.shape[1]
    for row in range(start, stop):
        filled = 0
        while filled < k and out_ids[row, filled] >= 0:
            filled += 1
        if filled == k:
            continue
        keys, _ = few(filled, np.empty(0, np.int8))
        for t in range(filled):
            keys[slot_of(keys, out_ids[row, t])] = out_ids[row, t]
        for a in range(c):
            item = first.ids[row, a]
            if item < 0 or filled == k or not _allows(allowed, item):
                continue
            if keys[slot_of(keys, item)] < 0:
                out_ids[row, filled] = item
                out_scores[row, filled] = behind(first.scores[row, a], best[row])
                filled += 1


# --- candidates that the graph lacks -------------------------------------------------------------


@parallel(lambda first, *_: len(first.ids), grain=32)
def insert_unknown(
    start: int,
    stop: int,
    first: FirstStage,
    n: int,
    own: Any,
    allowed: Any,
    out_scores: Any,
    out_ids: Any,
) -> None:
    """Insert candidates with ids of n and more into ranked lists (m, k), by their evidence.

    Their evidence is in `own` (m, c); those with 0 are left out. Behind equal scores, they keep
    their order.
    """
    k = out_ids.shape[1]
    for row in range(start, stop):
        scores, ids = out_scores[row], out_ids[row]
        for a in range(first.ids.shape[1]):
            item, score = first.ids[row, a], own[row, a]
            if item < n or score <= 0 or score <= scores[k - 1] or not _allows(allowed, item):
                continue
            t = k - 1
            while t > 0 and scores[t - 1] < score:
                scores[t], ids[t] = scores[t - 1], ids[t - 1]
                t -= 1
            scores[t], ids[t] = score, item


@parallel(lambda first, *_: len(first.ids), grain=32)
def keep_unknown(
    start: int,
    stop: int,
    first: FirstStage,
    n: int,
    own: Any,
    allowed: Any,
    out_scores: Any,
    out_ids: Any,
) -> None:
    """Let no candidate with an id of n or more be lost by the cut of ranked lists (m, k).

    Those of the k best allowed candidates that are not in the list take the last places, in the
    order of the first stage, instead of the last items that are none of them.
    """
    k = out_ids.shape[1]
    for row in range(start, stop):
        scores, ids = out_scores[row], out_ids[row]
        keys, listed = few(k, np.empty(0, np.int8))
        lost = seen = 0
        for a in range(first.ids.shape[1]):
            item = first.ids[row, a]
            if item >= 0 and seen < k and _allows(allowed, item):
                seen += 1
                if item >= n:
                    keys[slot_of(keys, item)] = item
                    lost += 1
        for t in range(k):
            if ids[t] >= n:
                slot = slot_of(keys, ids[t])
                lost -= keys[slot] >= 0
                listed[slot] = 1
        if lost == 0:
            continue
        # The others that are left move together, from the end on.
        free, drop = k, lost
        for t in range(k - 1, -1, -1):
            keep = ids[t] >= n and keys[slot_of(keys, ids[t])] >= 0
            if not keep and drop > 0:
                drop -= 1
            else:
                free -= 1
                scores[free], ids[free] = scores[t], ids[t]
        for t in range(free, k):
            scores[t - free], ids[t - free] = scores[t], ids[t]
        free, seen = k - lost, 0
        for a in range(first.ids.shape[1]):
            item = first.ids[row, a]
            if item >= 0 and seen < k and _allows(allowed, item):
                seen += 1
                if item >= n and listed[slot_of(keys, item)] == 0:
                    alone = own[row, a]
                    rest = behind(first.scores[row, a], first.scores[row, 0])
                    ids[free], scores[free] = item, alone if alone > 0 else rest
                    free += 1


@borrowing
def behind(score: Any, best: Any) -> Any:
    """Return how far a first-stage score is behind the best one: 0 or less, and finite."""
    return max(np.float32(score - best), np.float32(_LOWEST))


# --- regions -------------------------------------------------------------------------------------


@parallel(lambda x, *_: len(x), grain=4)
def pooled(start: int, stop: int, x: Any, groups: Any, weights: Any, out: Any) -> None:
    """Add weights[j] x[row, j] to out[row, groups[j]] for x (m, n); `out` must be filled with 0."""
    n = x.shape[1]
    for row in range(start, stop):
        for j in range(n):
            out[row, groups[j]] += weights[j] * x[row, j]
