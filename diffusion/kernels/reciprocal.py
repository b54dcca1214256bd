"""Compiled loops of k-reciprocal re-ranking: expansion, the Jaccard sum.

`ids` (n, k) int32 lists the neighbours of each item without itself, -1 padded. `mutual` (n, k) has,
of the places of two items in each other's lists, the later one, from 1; 0 where one is not there.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from .threads import parallel, serial


@serial
def _expand(i: int, ids: Any, mutual: Any, half: int, members: Any) -> int:
    """Write the expanded reciprocal set of item i to `members`, ascending; return its size."""
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


@parallel
def expanded_sizes(ids: Any, mutual: Any, half: int, sizes: Any) -> None:
    """Sizes (n,) of the expanded reciprocal sets."""
    n, k = mutual.shape
    for i in numba.prange(n):
        members = np.empty((1 + k) * (1 + half), np.int32)
        sizes[i] = _expand(i, ids, mutual, half, members)


@parallel
def expanded_rows(
    ids: Any,
    mutual: Any,
    half: int,
    vectors: Any,
    farthest: Any,
    indptr: Any,
    indices: Any,
    weights: Any,
) -> None:
    """Fill CSR rows with the expanded sets, weighted exp(-d) and L1-normalised.

    d is the square of 2 - 2<x_i, x_j>, divided by `farthest[i]`, and 0 for the item itself.
    """
    n, k = mutual.shape
    for i in numba.prange(n):
        members = np.empty((1 + k) * (1 + half), np.int32)
        size = _expand(i, ids, mutual, half, members)
        begin = indptr[i]
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


@parallel
def shared_weight(
    indptr: Any,
    indices: Any,
    data: Any,
    first: int,
    inverted_indptr: Any,
    inverted_indices: Any,
    inverted_data: Any,
    out: Any,
) -> None:
    """out[q, j] = Σ_l min(V[first + q, l], V_j,l): rows of V against its columns.

    V is CSR; the columns, "inverted lists", hold the rows j that `out` (m, n) has columns for.
    """
    for q in numba.prange(out.shape[0]):
        row = out[q]
        row[:] = 0
        for e in range(indptr[first + q], indptr[first + q + 1]):
            column, value = indices[e], data[e]
            for t in range(inverted_indptr[column], inverted_indptr[column + 1]):
                row[inverted_indices[t]] += min(value, inverted_data[t])
