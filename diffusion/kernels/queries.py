"""Compiled loops of the contextual affinity for queries: their encodings and similarities.

Sums over items are kept by local number (see `locality`) in memory that one thread uses for all of
its queries, so that the cost of a query depends on what it reads alone.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .context import (
    Encodings,
    Holders,
    Scales,
    Sets,
    holder_of,
    insert_largest,
    jaccard_of,
    level_of,
    scale_weights,
    write_encoding,
)
from .locality import Numbers, forget, longer, new_numbers, number, number_of, with_room
from .matrix import SparseRows
from .ranking import FirstStage, begin_best, end_best, offer
from .scaling import insert_scaled, local_scale, scaled_score
from .threads import borrowing, parallel

_MOST = np.finfo(np.float32).max


class Known(NamedTuple):
    """What is known of the collection."""

    sets: Sets
    reach: Any  # (n, levels) float32: the scaled scores at the places of `Scales.ranks`
    local_scale: Any  # (n,) float32, or (0,) where scores are not scaled
    factor: Any  # float32, of the local scales


@borrowing
def _damaged(known: Known, item: int) -> bool:
    """Return whether what is known of an item is not of a collection of this size."""
    n, k = known.sets.ids.shape
    for a in range(k):
        if not -1 <= known.sets.ids[item, a] < n:
            return True
    if known.local_scale.shape[0] > 0 and not abs(known.local_scale[item]) <= _MOST:
        return True
    # Counted, because not every comparison with NaN is one that can be turned around.
    possible = 0
    for s in range(known.reach.shape[1]):
        possible += known.reach[item, s] <= _MOST
    return possible < known.reach.shape[1]


class Listed(NamedTuple):
    """Memory for the neighbours of a query."""

    ids: Any  # (depth,) int32
    levels: Any  # (depth,) uint8
    scores: Any  # (depth,) float32
    scaled: Any  # (depth,) float32


@borrowing
def _list_scaled(known: Known, first: FirstStage, q: int, out: Listed) -> int:
    """List the neighbours of a query by their scaled scores, and replace the scores that they have.

    `scaled` receives s_qj - f r_j, by which the query ranks its neighbours, and `scores`
    s_qj - f r_q, by which they rank the query. Items without lists are left out. Returns the number
    of neighbours, or -1 if a list is damaged.
    """
    count = 0
    for a in range(out.ids.shape[0]):
        j, score = first.ids[q, a], first.scores[q, a]
        if j < 0:
            break
        if _damaged(known, j):
            return -1
        # An item without a list, such as a zero vector, has no neighbourhood to compare with.
        if known.sets.ids[j, 0] >= 0:
            out.ids[count], out.scores[count] = j, score
            count += 1
    if known.local_scale.shape[0] == 0:
        for a in range(count):
            out.scaled[a] = out.scores[a]
        return count
    own = local_scale(out.scores, count)
    for a in range(count):
        j, score = out.ids[a], out.scores[a]
        key = scaled_score(score, known.local_scale[j], known.factor)
        score = scaled_score(score, own, known.factor)
        insert_scaled(a, key, j, score, out.scaled, out.ids, out.scores)
    return count


@borrowing
def _neighbours(known: Known, ranks: Any, first: FirstStage, q: int, out: Listed) -> int:
    """Write the neighbours of a query that have lists, and their levels (see `Sets`).

    A query is ranked as if it alone were added to the collection: its rank in the list of j is
    1 + the number of entries with a higher score, and at most ranks[s] if its score is at least
    reach[j, s], the score of the entry at that place. All scores are scaled. Returns the number of
    neighbours, or -1 if a list is damaged.
    """
    count = _list_scaled(known, first, q, out)
    own = 0
    for a in range(count):
        if a == 0 or out.scaled[a] != out.scaled[a - 1]:
            own = a + 1
        j, s = out.ids[a], 0
        while s < len(ranks) and (own > ranks[s] or out.scores[a] < known.reach[j, s]):
            s += 1
        out.levels[a] = s
    return count


class Weights(NamedTuple):
    """Memory for the weights of the elements of a set, by level."""

    sizes: Any  # (levels + 1,) int64
    weight: Any  # (levels + 1,) int64


@borrowing
def _weigh(levels: Any, ids: Any, itself: int, into: Weights, scales: Scales, mean: Any) -> None:
    """Compute the weights of the sets of one item, the member `mean[0]` of `mean[1]`."""
    sizes, weight = into
    n_levels, k = scales.ranks.shape[0], ids.shape[0]
    sizes[:] = 0
    for a in range(k):
        sizes[min(level_of(levels, a, k), n_levels)] += 1
    sizes[0] += itself >= 0
    for s in range(1, n_levels):
        sizes[s] += sizes[s - 1]
    scale_weights(sizes, scales, mean[0], mean[1], weight)


@borrowing
def _add(slots: Any, items: Any, sums: Any, count: int, item: Any, value: Any) -> int:
    """Add a value to the sum of an item; return the number of items."""
    x = number(slots, items, count, item)
    if x == count:
        sums[x] = 0
        count += 1
    sums[x] += value
    return count


@borrowing
def _sum_sets(
    names: Numbers, sums: Any, own: Any, sets: Sets, into: Weights, scales: Scales, members: int
) -> int:
    """Sum the weighted sets of a query and of its nearest neighbours; return the number of sums.

    `own` are the ids and the levels of the query's neighbours. A query is not a member of its own
    sets, unlike an item.
    """
    slots, items = names
    weight, n_levels = into.weight, scales.ranks.shape[0]
    count = 0
    for place in range(members):
        p = -1 if place == 0 else np.int64(own[0][place - 1])
        ids, levels = own
        if place > 0:
            ids, levels = sets.ids[p], sets.levels[p]
        _weigh(levels, ids, p, into, scales, (place, members))
        if p >= 0 and weight[0] > 0:
            count = _add(slots, items, sums, count, p, weight[0])
        k = ids.shape[0]
        for a in range(k):
            w = weight[min(level_of(levels, a, k), n_levels)]
            if w > 0:
                count = _add(slots, items, sums, count, ids[a], w)
    return count


@parallel(lambda known, scales, first, *_: len(first.ids), grain=4)
def encode_queries(
    start: int,
    stop: int,
    known: Known,
    scales: Scales,
    first: FirstStage,
    out: Encodings,
    damaged: Any,
) -> None:
    """Encode queries by their neighbours; `damaged` (m,) says where a list was found to be."""
    k, size, ages = known.sets.ids.shape[1], out.ids.shape[1], known.sets.ages
    depth = min(scales.ranks[-1], first.ids.shape[1])
    # At most one level per byte, so that a list of levels is as long as its list of ids.
    listed = Listed(
        np.empty(depth, np.int32),
        np.empty(depth, np.uint8),
        np.empty(depth, np.float32),
        np.empty(depth, np.float32),
    )
    room = depth + scales.spread[-1] * (k + 1)
    names, sums = new_numbers(room), np.empty(room, np.int64)
    n_levels = len(scales.ranks)
    into = Weights(np.empty(n_levels + 1, np.int64), np.empty(n_levels + 1, np.int64))
    best = np.empty(size, np.int64)
    for q in range(start, stop):
        neighbours = _neighbours(known, scales.ranks, first, q, listed)
        damaged[q] = neighbours < 0
        neighbours = max(0, neighbours)
        own = listed.ids[:neighbours], listed.levels[:neighbours]
        members = min(neighbours + 1, max(1, scales.spread[-1]))
        count = _sum_sets(names, sums, own, known.sets, into, scales, members)
        filled = 0
        for x in range(count):
            filled = insert_largest(ages, filled, names.ids[x], sums[x], out.ids[q], best)
        write_encoding(best, filled, out.ids[q], out.values[q])
        forget(names, count)


class Near(NamedTuple):
    """What the first stage says of the nearest items of queries."""

    ids: Any  # (m, c) int64, -1 padded
    evidence: Any  # (m, c) float32, >= 0


# --- Jaccard similarity --------------------------------------------------------------------------


@borrowing
def _entries(ids: Any, holders: Holders) -> int:
    """Return the total length of the inverted lists of an encoding's entries.

    -1 if one is not within its array.
    """
    starts, stops, low, _ = holders
    total = 0
    for l in ids:  # noqa: E741
        if l >= 0:
            if not 0 <= starts[l] <= stops[l] <= low.shape[0]:
                return -1
            total += stops[l] - starts[l]
    return total


@parallel(lambda encoding_ids, *_: len(encoding_ids), grain=512)
def jaccard_bounds(start: int, stop: int, encoding_ids: Any, holders: Holders, out: Any) -> None:
    """Compute an upper bound on the number of items that share an entry with each encoding.

    It is -1 where an inverted list is damaged.
    """
    for q in range(start, stop):
        out[q] = min(len(holders.starts), _entries(encoding_ids[q], holders))


@borrowing
def _sum_overlaps(names: Numbers, sums: Any, ids: Any, values: Any, holders: Holders) -> int:
    """Sum min(V_l, V_jl) over the entries l of an encoding, for every item j that shares one.

    Returns the number c of these items, or -1 - c if another number was among them.
    """
    slots, items = names
    starts, stops, low, high = holders
    count, fine = 0, True
    for a in range(ids.shape[0]):
        l = ids[a]  # noqa: E741
        if l < 0:
            continue
        own = np.int64(values[a])
        for e in range(starts[l], stops[l]):
            item, theirs = holder_of(low, high, e)
            if item < starts.shape[0]:
                count = _add(slots, items, sums, count, item, min(own, theirs))
            else:
                fine = False
    return count if fine else -1 - count


@parallel(lambda encodings, *_: len(encodings.ids), grain=2)
def compare(
    start: int,
    stop: int,
    encodings: Encodings,
    holders: Holders,
    sets: Sets,
    near: Near,
    J: SparseRows,
    y: SparseRows,
    width: int,
) -> None:
    """Compute the Jaccard similarity J of encodings to all items that share an entry with them.

    The rows of J have room for the bounds of `jaccard_bounds`. Those of y receive the `width`
    largest sums of J and the evidence of the first stage, in descending order, ties by age, of
    items that have lists. `J.counts` is -1 where an inverted list is damaged.
    """
    n, ages = len(holders.starts), sets.ages
    best, ids = np.empty(width, np.float32), np.empty(width, np.int64)
    names, sums = new_numbers(1 << 12), np.empty(1 << 12, np.int64)
    added = np.zeros(1 << 12, np.float32)
    for q in range(start, stop):
        room = min(n, _entries(encodings.ids[q], holders))
        names, sums = with_room(names, 0, room), longer(sums, room)
        if room > added.shape[0]:
            added = np.zeros(2 * room, np.float32)
        count = _sum_overlaps(names, sums, encodings.ids[q], encodings.values[q], holders)
        if count < 0:
            forget(names, -1 - count)
            J.counts[q], y.counts[q] = -1, 0
            continue
        begin_best(best, ids)
        for a in range(near.ids.shape[1]):
            # An item without a list, such as a zero vector, is similar to nothing.
            if near.ids[q, a] >= 0 and sets.ids[near.ids[q, a], 0] >= 0:
                x = number_of(names, near.ids[q, a])
                if x >= 0:
                    added[x] = near.evidence[q, a]
                else:
                    offer(ages, best, ids, near.evidence[q, a], near.ids[q, a])
        for x in range(count):
            item, similarity = np.int64(names.ids[x]), np.float32(jaccard_of(sums[x]))
            J.ids[J.starts[q] + x], J.values[J.starts[q] + x] = item, similarity
            both = similarity + added[x]
            added[x] = 0
            if both >= best[0]:
                offer(ages, best, ids, both, item)
        J.counts[q] = count
        forget(names, count)
        end_best(ages, best, ids)
        size = 0
        while size < width and ids[size] >= 0:
            y.ids[y.starts[q] + size], y.values[y.starts[q] + size] = ids[size], best[size]
            size += 1
        y.counts[q] = size
