"""Compiled loops of k-reciprocal re-ranking: mutual ranks, expanded sets and the Jaccard sum.

The lists do not hold the item itself. The rank of an entry is its place in the list, from 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .lists import Lists, Rows
from .threads import parallel, serial


@parallel(lambda ids, *_: len(ids), grain=64)
def mutual_ranks(start: int, stop: int, ids: Any, ranks: Any, out: Any) -> None:
    """Compute mutual ranks: out[i, a] = max(ranks[i, a], ranks[j, b]) with j = ids[i, a].

    Here b is the place of i in the list of j (i = ids[j, b]). The entry is 0 if j does not list i.
    """
    k = ids.shape[1]
    for i in range(start, stop):
        for a in range(k):
            out[i, a] = 0
            j = ids[i, a]
            if j < 0:
                continue
            for b in range(k):
                if ids[j, b] == i:
                    out[i, a] = max(ranks[i, a], ranks[j, b])
                    break


@serial
def _expand(i: int, lists: Lists, half: int, members: Any) -> int:
    """Write the expanded reciprocal set of item i to `members` by ascending id; return its size."""
    ids, mutual = lists
    members[0] = i
    own = 1
    for a in range(mutual.shape[1]):
        if mutual[i, a] > 0:
            members[own] = ids[i, a]
            own += 1
    size = own
    for p in range(1, own):
        g = members[p]
        listed = shared = 1  # g itself is in both sets
        for b in range(half):
            if 0 < mutual[g, b] <= half:
                listed += 1
                for q in range(own):
                    if members[q] == ids[g, b]:
                        shared += 1
                        break
        if 3 * shared > 2 * listed:
            for b in range(half):
                if 0 < mutual[g, b] <= half:
                    members[size] = ids[g, b]
                    size += 1
    ordered = np.sort(members[:size])
    kept = 0
    for p in range(size):
        if p == 0 or ordered[p] != ordered[p - 1]:
            members[kept] = ordered[p]
            kept += 1
    return kept


@parallel(lambda lists, *_: len(lists.ids), grain=64)
def expanded_sizes(start: int, stop: int, lists: Lists, half: int, sizes: Any) -> None:
    """Compute the sizes (n,) of the expanded reciprocal sets."""
    k = lists.ids.shape[1]
    for i in range(start, stop):
        members = np.empty((1 + k) * (1 + half), np.int32)
        sizes[i] = _expand(i, lists, half, members)


@parallel(lambda lists, *_: len(lists.ids), grain=32)
def expanded_rows(
    start: int, stop: int, lists: Lists, half: int, vectors: Any, farthest: Any, out: Rows
) -> None:
    """Fill sparse rows with the expanded sets, weighted by exp(-d) and L1-normalised.

    The distance d is the square of 2 - 2<x_i, x_j> divided by `farthest[i]`, and 0 for the item
    itself.
    """
    k = lists.ids.shape[1]
    indices, weights = out.indices, out.values
    for i in range(start, stop):
        members = np.empty((1 + k) * (1 + half), np.int32)
        size = _expand(i, lists, half, members)
        begin = out.indptr[i]
        total = 0.0
        for p in range(size):
            j = members[p]
            distance = np.float32(0)
            if j != i:
                similarity = np.float32(0)
                for c in range(vectors.shape[1]):
                    similarity += vectors[i, c] * vectors[j, c]
                distance = (2 - 2 * min(similarity, np.float32(1))) ** 2 / farthest[i]
            indices[begin + p] = j
            weights[begin + p] = np.exp(-distance)
            total += weights[begin + p]
        for p in range(size):
            weights[begin + p] /= total


@parallel(lambda V, first, inverted, out: len(out), grain=4)
def shared_weight(start: int, stop: int, V: Rows, first: int, inverted: Rows, out: Any) -> None:
    """Compute out[q, j] = Σ_l min(V[first + q, l], V[j, l]), shape (m, n).

    `inverted` holds the columns of V, restricted to the n rows j to compare with.
    """
    indptr, indices, values = V
    inverted_indptr, items, weights = inverted
    for q in range(start, stop):
        row = out[q]
        row[:] = 0
        for e in range(indptr[first + q], indptr[first + q + 1]):
            column, value = indices[e], values[e]
            for t in range(inverted_indptr[column], inverted_indptr[column + 1]):
                row[items[t]] += min(value, weights[t])
