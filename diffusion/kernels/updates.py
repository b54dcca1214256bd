"""Compiled loops that bring lists, inverted lists and a graph up to date after a change.

An update recomputes a few rows of each array and copies the others. Rows of sparse arrays are given
by `starts` and `stops`: there may be gaps between them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .context import Encodings, Holders, holder_of
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
    start: int, stop: int, rows: Any, ids: Any, scores: Any, scales: Any, out: Any
) -> None:
    """Compute the levels (m, k) of the entries of the lists of some items.

    They are those of `mutual_levels` for the ranks that `ranks_in_lists` gives.
    """
    k = ids.shape[1]
    for p in range(start, stop):
        i = rows[p]
        for a in range(k):
            j = ids[i, a]
            out[p, a] = len(scales)
            b = -1 if j < 0 else _place_of(i, ids[j])
            if b >= 0:
                rank = max(_rank_at(a, scores[i]), _rank_at(b, scores[j]))
                s = 0
                while scales[s] < rank:
                    s += 1
                out[p, a] = s


@parallel(lambda rows, *_: len(rows), grain=64)
def reverse_scores(start: int, stop: int, rows: Any, ids: Any, scores: Any, out: Any) -> None:
    """Look up the scores (m, k) that the entries of some lists give to the lists' own items.

    The score is -inf where an entry does not list the item.
    """
    for p in range(start, stop):
        i = rows[p]
        for a in range(ids.shape[1]):
            j = ids[i, a]
            b = -1 if j < 0 else _place_of(i, ids[j])
            out[p, a] = -np.inf if b < 0 else scores[j, b]


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
def count_kept(start: int, stop: int, counts: Any, lists: Holders, dropped: Any, hit: Any) -> None:
    """Count the entries of inverted lists whose item is not dropped, and mark lists without all."""
    starts, stops, holders, high = lists
    for l in range(start, stop):  # noqa: E741
        kept = 0
        for e in range(starts[l], stops[l]):
            item, _ = holder_of(holders, high, e)
            kept += not dropped[item]
        counts[l] = kept
        hit[l] = kept < stops[l] - starts[l]


@parallel(lambda hit, *_: len(hit), grain=1024)
def copy_kept(
    start: int, stop: int, hit: Any, lists: Holders, dropped: Any, starts: Any, out: Any, high: Any
) -> None:
    """Copy inverted lists without the entries of dropped items, list l to starts[l] on of `out`."""
    for l in range(start, stop):  # noqa: E741
        t = starts[l]
        for e in range(lists.starts[l], lists.stops[l]):
            if hit[l]:
                item, _ = holder_of(lists.holders, lists.high, e)
                if dropped[item]:
                    continue
            out[t], high[t] = lists.holders[e], lists.high[e]
            t += 1


@serial
def add_entries(items: Any, encodings: Encodings, ends: Any, out: Any, high: Any, hit: Any) -> None:
    """Add the encodings of items to inverted lists, of which list l ends at ends[l]; mark them."""
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
                hit[l] = True


@parallel(lambda hit, *_: len(hit), grain=1024)
def mark_holders(start: int, stop: int, hit: Any, lists: Holders, out: Any) -> None:
    """Mark the items of the inverted lists that are marked."""
    for l in range(start, stop):  # noqa: E741
        if hit[l]:
            for e in range(lists.starts[l], lists.stops[l]):
                item, _ = holder_of(lists.holders, lists.high, e)
                out[item] = True


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
                column = moved[old.indices[e]]
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
