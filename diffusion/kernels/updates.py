"""Compiled loops that bring lists, inverted lists and a graph up to date after a change.

An update recomputes a few rows of each array and copies the others. Rows of sparse arrays are given
by `starts` and `stops`: there may be gaps between them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .context import Encodings, Holders, holder_of, insert_largest
from .encodings import offer_key
from .graph import insert_column, normalized
from .matrix import Matrix
from .threads import borrowing, parallel, serial

# --- neighbour lists -----------------------------------------------------------------------------


@borrowing
def _place_of(i: int, row: Any) -> int:
    """Return the place of an item in a list, -1 if it is not there."""
    for a in range(row.shape[0]):
        if row[a] == i:
            return a
    return -1


@borrowing
def _rank_at(place: int, scores: Any) -> int:
    """Return one more than the number of entries with a higher score, which come first."""
    while place > 0 and scores[place - 1] == scores[place]:
        place -= 1
    return place + 1


@parallel(lambda rows, *_: len(rows), grain=64)
def levels_of_rows(
    start: int, stop: int, rows: Any, among: Any, ids: Any, scores: Any, scales: Any, out: Any
) -> None:
    """Compute the levels (m, k) of the entries of the lists of some items.

    They are those of `mutual_levels` for the ranks that `ranks_in_lists` gives. An entry of which
    neither the item nor the listed one is `among` (n,) those marked keeps its level.
    """
    k = ids.shape[1]
    for p in range(start, stop):
        i = rows[p]
        for a in range(k):
            j = ids[i, a]
            if not (among[i] or (j >= 0 and among[j])):
                continue
            out[p, a] = len(scales)
            b = -1 if j < 0 else _place_of(i, ids[j])
            if b >= 0:
                rank = max(_rank_at(a, scores[i]), _rank_at(b, scores[j]))
                s = 0
                while scales[s] < rank:
                    s += 1
                out[p, a] = s


@parallel(lambda rows, *_: len(rows), grain=64)
def levels_by_rank(
    start: int, stop: int, rows: Any, slots: Any, ids: Any, ranks: Any, scales: Any, out: Any
) -> None:
    """Compute the levels (m, k) of the entries of some lists from their ranks, in any order.

    They are those of `mutual_levels`. The ranks in the list of item i are row slots[i] of `ranks`,
    which has those of the items and of all that they list.
    """
    for p in range(start, stop):
        i = rows[p]
        for a in range(ids.shape[1]):
            j = ids[i, a]
            out[p, a] = len(scales)
            b = -1 if j < 0 else _place_of(i, ids[j])
            if b >= 0:
                rank = max(ranks[slots[i], a], ranks[slots[j], b])
                s = 0
                while scales[s] < rank:
                    s += 1
                out[p, a] = s


@parallel(lambda rows, *_: len(rows), grain=64)
def reverse_scores(
    start: int, stop: int, rows: Any, among: Any, ids: Any, scores: Any, out: Any
) -> None:
    """Look up the scores (m, k) that the entries of some lists give to the lists' own items.

    The score stays as it is where an entry does not list the item, or where neither of them is
    `among` (n,) those marked.
    """
    for p in range(start, stop):
        i = rows[p]
        for a in range(ids.shape[1]):
            j = ids[i, a]
            if j >= 0 and (among[i] or among[j]):
                b = _place_of(i, ids[j])
                if b >= 0:
                    out[p, a] = scores[j, b]


@parallel(lambda ids, *_: len(ids), grain=256)
def differing_rows(
    start: int, stop: int, ids: Any, values: Any, old_ids: Any, old_values: Any, none: Any, out: Any
) -> None:
    """Find the rows (m,) whose entries differ from the old ones; entries of value `none` are none.

    The entries of a row have an order.
    """
    k = ids.shape[1]
    for p in range(start, stop):
        a = b = 0
        same = True
        while same:
            while a < k and values[p, a] == none:
                a += 1
            while b < k and old_values[p, b] == none:
                b += 1
            if a == k or b == k:
                break
            same = ids[p, a] == old_ids[p, b] and values[p, a] == old_values[p, b]
            a += 1
            b += 1
        out[p] = not (same and a == b == k)


# --- encodings -----------------------------------------------------------------------------------


@parallel(lambda ids, *_: len(ids), grain=2048)
def reads_changed(start: int, stop: int, ids: Any, near: int, changed: Any, out: Any) -> None:
    """Mark the items whose own set, or that of one of their `near` first neighbours, has changed.

    `out` (n,) keeps the marks that it has.
    """
    for i in range(start, stop):
        read = changed[i]
        for a in range(near):
            j = ids[i, a]
            if j >= 0:
                read |= changed[j]
        out[i] |= read


@parallel(lambda counts, *_: len(counts), grain=1024)
def count_kept(
    start: int, stop: int, counts: Any, source: Any, lists: Holders, dropped: Any
) -> None:
    """Count the entries of inverted lists whose item is not dropped.

    New list l is old list source[l], or empty if that is -1.
    """
    starts, stops, holders, high = lists
    for l in range(start, stop):  # noqa: E741
        kept = 0
        if source[l] >= 0:
            for e in range(starts[source[l]], stops[source[l]]):
                item, _ = holder_of(holders, high, e)
                kept += not dropped[item]
        counts[l] = kept


@parallel(lambda counts, *_: len(counts), grain=1024)
def copy_kept(
    start: int,
    stop: int,
    counts: Any,
    source: Any,
    lists: Holders,
    dropped: Any,
    starts: Any,
    out: Any,
    out_high: Any,
) -> None:
    """Copy inverted lists without the entries of dropped items, to starts[l] on of `out`."""
    holders, high = lists.holders, lists.high
    for l in range(start, stop):  # noqa: E741
        if counts[l] == 0:
            continue
        t = starts[l]
        begin, end = lists.starts[source[l]], lists.stops[source[l]]
        every = counts[l] == end - begin
        for e in range(begin, end):
            item, _ = holder_of(holders, high, e)
            if every or not dropped[item]:
                out[t], out_high[t] = holders[e], high[e]
                t += 1


@serial
def add_entries(items: Any, encodings: Encodings, ends: Any, out: Any, high: Any) -> None:
    """Add the encodings of items to inverted lists, of which list l ends at ends[l]."""
    ids, values = encodings
    for p in range(len(items)):
        i = items[p]
        for a in range(ids.shape[1]):
            l = ids[p, a]  # noqa: E741
            if l >= 0:
                t = ends[l]
                out[t] = ((i & 0xFFFF) << 16) | values[p, a]
                high[t] = i >> 16
                ends[l] = t + 1


# --- most similar items --------------------------------------------------------------------------


@serial
def by_receiver(givers: Any, counts: Any, ids: Any, values: Any, n: int) -> tuple[Any, Any, Any]:
    """Sort what items offer by who receives it: return offsets (n + 1,), givers and values.

    The offers of givers[p] are the next counts[p] ones; `ids` are the receivers.
    """
    indptr = np.zeros(n + 1, np.int64)
    for e in range(len(ids)):
        indptr[ids[e] + 1] += 1
    for j in range(n):
        indptr[j + 1] += indptr[j]
    ends = indptr.copy()
    out_ids, out_values = np.empty(len(ids), np.int32), np.empty(len(ids), np.uint16)
    e = 0
    for p in range(len(givers)):
        for _ in range(counts[p]):
            t = ends[ids[e]]
            ends[ids[e]] = t + 1
            out_ids[t], out_values[t] = givers[p], values[e]
            e += 1
    return indptr, out_ids, out_values


class Listed(NamedTuple):
    """Lists of similar items and their overlaps, in descending order."""

    ids: Any  # (n, k) int32, -1 padded
    overlaps: Any  # (n, k) uint16


# What `merge_offers` has found a list to be.
SAME, CHANGED, INCOMPLETE = 0, 1, 2

# More than any `offer_key`.
_NOTHING = 1 << 60


@parallel(lambda source, *_: len(source), grain=1024)
def least_taken(
    start: int, stop: int, source: Any, left_out: Any, ages: Any, old: Listed, out: Any
) -> None:
    """Compute the least `offer_key` (n,) that the list of each item takes.

    The list of item j is row source[j], and `ages` are those before the change. A full one takes
    what is at least its last entry; items that are left out take nothing.
    """
    last = old.ids.shape[1] - 1
    for j in range(start, stop):
        if left_out[j]:
            out[j] = _NOTHING
        elif old.ids[source[j], last] < 0:
            out[j] = 0
        else:
            out[j] = offer_key(ages, old.overlaps[source[j], last], old.ids[source[j], last])


@borrowing
def _same_list(row: int, j: int, target: Any, old: Listed, out: Listed) -> bool:
    """Return whether a list is an old one, with the new rows of its items."""
    for a in range(old.ids.shape[1]):
        i = old.ids[row, a]
        if out.ids[j, a] != (-1 if i < 0 else target[i]):
            return False
        if out.overlaps[j, a] != old.overlaps[row, a]:
            return False
    return True


@parallel(lambda found, *_: len(found), grain=512)
def merge_offers(
    start: int,
    stop: int,
    found: Any,
    change: Any,
    left_out: Any,
    gone: Any,
    ages: Any,
    offers: Any,
    old: Listed,
    out: Listed,
) -> None:
    """Copy the lists that items have, without entries that are gone, and with what is offered.

    `offers` are those that `by_receiver` returns, which the lists take, and `change` the old row of
    each item and the new one of each old row. A list that was full and is not any more is
    incomplete: what else belongs there is not known. The rows of items that are left out are not
    written.
    """
    indptr, givers, values = offers
    source, target = change
    k = old.ids.shape[1]
    for j in range(start, stop):
        found[j] = SAME
        if left_out[j]:
            continue
        row, ids, overlaps = source[j], out.ids[j], out.overlaps[j]
        filled = had = 0
        for a in range(k):
            i = old.ids[row, a]
            had += i >= 0
            if i >= 0 and not gone[i]:
                ids[filled], overlaps[filled] = i, old.overlaps[row, a]
                filled += 1
        same = filled == had and indptr[j] == indptr[j + 1]
        for e in range(indptr[j], indptr[j + 1]):
            filled = insert_largest(ages, filled, givers[e], values[e], ids, overlaps)
        for a in range(filled, k):
            ids[a], overlaps[a] = -1, 0
        if had == k and filled < k:
            found[j] = INCOMPLETE
        elif not same and not _same_list(row, j, target, old, out):
            found[j] = CHANGED


# --- the graph -----------------------------------------------------------------------------------


class NewEdges(NamedTuple):
    """The edges of some nodes, and where the nodes are in storage."""

    ids: Any  # (m, w) int32
    weights: Any  # (m, w) float32, 0 for no edge
    slots: Any  # (n,) int32: the row of each node in this tuple, -1 for others
    position: Any  # (n,) int32
    degrees: Any  # (n,) float64


@borrowing
def _write_row(p: int, i: int, row: int, edges: NewEdges, out: Matrix) -> None:
    """Write the row of a node from its edges."""
    begin = end = out.starts[p]
    for a in range(edges.ids.shape[1]):
        edge = edges.weights[row, a]
        if edge > 0:
            j = edges.ids[row, a]
            weight = normalized(edge, edges.degrees[i], edges.degrees[j])
            insert_column(begin, end, edges.position[j], weight, out.indices, out.weights)
            end += 1


@borrowing
def _place_of_column(column: int, begin: int, end: int, indices: Any) -> int:
    """Return where a column is in a row with ascending columns, -1 if it is not there."""
    low, high = begin, end
    while low < high:
        middle = (low + high) >> 1
        if indices[middle] < column:
            low = middle + 1
        else:
            high = middle
    return low if low < end and indices[low] == column else -1


@borrowing
def _same_row(p: int, q: int, moved: Any, out: Matrix, old: Matrix) -> bool:
    """Return whether row p is the old row q with its columns moved."""
    begin, end = out.starts[p], out.stops[p]
    if end - begin != old.stops[q] - old.starts[q]:
        return False
    for e in range(old.starts[q], old.stops[q]):
        at = _place_of_column(moved[old.indices[e]], begin, end, out.indices)
        if at < 0 or out.weights[at] != old.weights[e]:
            return False
    return True


@parallel(lambda order, *_: len(order), grain=512)
def write_rows(
    start: int,
    stop: int,
    order: Any,
    places: Any,
    moved: Any,
    edges: NewEdges,
    old: Matrix,
    out: Matrix,
    touched: Any,
) -> None:
    """Write the rows of a changed graph: from their new edges, or as they were.

    `places` (n,) are the old storage positions of the nodes in storage order, -1 for new nodes,
    and `moved` the new position by the old one, -1 for removed nodes. Marks in `touched` (n,) the
    nodes whose rows have changed, by the user's order.
    """
    for p in range(start, stop):
        i, q = order[p], places[p]
        row = edges.slots[i]
        if row >= 0:
            _write_row(p, i, row, edges, out)
            touched[i] = q < 0 or not _same_row(p, q, moved, out, old)
        else:
            begin = end = out.starts[p]
            for e in range(old.starts[q], old.stops[q]):
                # No row but those with new edges has a removed column, except in a forged index.
                column = max(0, moved[old.indices[e]])
                insert_column(begin, end, column, old.weights[e], out.indices, out.weights)
                end += 1


@parallel(lambda rows, *_: len(rows), grain=64)
def write_columns(
    start: int, stop: int, rows: Any, edges: NewEdges, out: Matrix, touched: Any
) -> None:
    """Write the new weights of edges into the rows of the nodes whose own edges are as before."""
    for p in range(start, stop):
        j = rows[p]
        column = edges.position[j]
        for a in range(edges.ids.shape[1]):
            edge = edges.weights[p, a]
            i = edges.ids[p, a]
            if edge > 0 and edges.slots[i] < 0:
                row = edges.position[i]
                at = _place_of_column(column, out.starts[row], out.stops[row], out.indices)
                if at >= 0:
                    weight = np.float32(normalized(edge, edges.degrees[i], edges.degrees[j]))
                    if out.weights[at] != weight:
                        out.weights[at] = weight
                        touched[i] = True


@serial
def label_components(matrix: Matrix) -> Any:
    """Label the components of a graph; return the label of each row (n,), int32.

    They are numbered in the order of their first rows.
    """
    starts, stops, indices, _ = matrix
    n = starts.shape[0]
    labels = np.full(n, -1, np.int32)
    waiting = np.empty(n, np.int32)
    count = 0
    for first in range(n):
        if labels[first] >= 0:
            continue
        labels[first] = count
        waiting[0] = first
        size = 1
        while size > 0:
            size -= 1
            p = waiting[size]
            for e in range(starts[p], stops[p]):
                q = indices[e]
                if labels[q] < 0:
                    labels[q] = count
                    waiting[size] = q
                    size += 1
        count += 1
    return labels
