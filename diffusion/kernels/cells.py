"""Loops over the cells of an inverted file: k-means, and the search of cells by matrix products."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .threads import contracting, parallel, serial

# Rows and columns of a block of products, which stays in the cache of a core.
_ROWS, _COLUMNS = 256, 512

# Products compared at a time with the worst score of a list, and partial sums of a score.
_CHUNK, _LANES = 32, 16

# The bit of the sign of a score, and the least room for entries beside the best.
_SIGN, _LEAST_ROOM = np.uint64(1 << 31), 64


class Level(NamedTuple):
    """Vectors by cell: those of cell c are at starts[c] to stops[c]."""

    vectors: Any  # (places, d) float32
    ids: Any  # (places,) int32: what each vector is called in results
    starts: Any  # (cells,) int64
    stops: Any  # (cells,) int64


class Asked(NamedTuple):
    """Queries, those with near cells next to each other."""

    vectors: Any  # (m, d) float32
    own: Any  # (m,) int32: the id that is left out of the results of each, or -1
    rows: Any  # (m,) int32: the row of the output that each is written to
    cells: Any  # (m, p) int32: the cells to search, padded with -1
    blocks: Any  # (b + 1,) int64: where the blocks begin that are searched together


# --- searching ------------------------------------------------------------------------------------


@contracting
def _half_squares(vectors: Any, out: Any) -> None:
    """Compute half the squared norms of vectors."""
    for a in range(vectors.shape[0]):
        total = np.float32(0)
        for t in range(vectors.shape[1]):
            total += vectors[a, t] * vectors[a, t]
        out[a] = np.float32(0.5) * total


@contracting
def exact_score(a: Any, b: Any, euclidean: bool, lanes: Any) -> Any:
    """Return the inner product or the negative squared distance of two vectors.

    The order of summation depends on the dimension alone, so that a pair has the same score
    whatever block it was found in.
    """
    d = a.shape[0]
    lanes[:] = 0
    whole = d - d % _LANES
    if euclidean:
        for begin in range(0, whole, _LANES):
            for t in range(_LANES):
                difference = a[begin + t] - b[begin + t]
                lanes[t] -= difference * difference
        for t in range(whole, d):
            lanes[t - whole] -= (a[t] - b[t]) * (a[t] - b[t])
    else:
        for begin in range(0, whole, _LANES):
            for t in range(_LANES):
                lanes[t] += a[begin + t] * b[begin + t]
        for t in range(whole, d):
            lanes[t - whole] += a[t] * b[t]
    total = np.float32(0)
    for t in range(_LANES):
        total += lanes[t]
    return total


# --- the best entries -----------------------------------------------------------------------------
#
# A key holds a score and a number, the better the lower: by descending score, equal scores by
# ascending number. Keys are compared by one instruction.


@serial
def _key(score: Any, number: Any) -> Any:
    bits = np.uint64(np.float32(score + np.float32(0)).view(np.uint32))  # -0 becomes 0
    if bits < _SIGN:
        bits = _SIGN - np.uint64(1) - bits
    return (bits << np.uint64(32)) | np.uint64(number)


@serial
def _score_of(key: Any) -> Any:
    bits = key >> np.uint64(32)
    if bits < _SIGN:
        bits = _SIGN - np.uint64(1) - bits
    return np.uint32(bits).view(np.float32)


@serial
def _number_of(key: Any) -> Any:
    return np.int32(key & np.uint64(0xFFFFFFFF))


@serial
def _select(keys: Any, size: int, k: int) -> None:
    """Bring the k lowest keys to the front, the highest of these to the place k - 1."""
    low, high = 0, size - 1
    while low < high:
        # The median of three is the pivot, and stops both scans.
        middle = (low + high) // 2
        if keys[middle] < keys[low]:
            keys[middle], keys[low] = keys[low], keys[middle]
        if keys[high] < keys[low]:
            keys[high], keys[low] = keys[low], keys[high]
        if keys[high] < keys[middle]:
            keys[high], keys[middle] = keys[middle], keys[high]
        pivot, a, b = keys[middle], low, high
        while a <= b:
            while keys[a] < pivot:
                a += 1
            while pivot < keys[b]:
                b -= 1
            if a <= b:
                keys[a], keys[b] = keys[b], keys[a]
                a, b = a + 1, b - 1
        if k - 1 <= b:
            high = b
        elif k - 1 >= a:
            low = a
        else:
            return


class _Best(NamedTuple):
    """The best entries of each query of a block."""

    keys: Any  # (m, room) uint64, room > k
    filled: Any  # (m,) int64: the number of keys
    worst: Any  # (m,) float32: what a score must reach


@contracting
def _keep_best(
    products: Any, bias: Any, first: int, ids: Any, own: int, k: int, best: Any, query: int
) -> None:
    """Enter the products of a query among its best, except that of the item itself.

    The vectors are at the places `first` on, which are the numbers of the keys. Scores are products
    less `bias`. When there is no more room, only the best k keys are kept.
    """
    keys, filled, worst = best.keys[query], best.filled[query], best.worst[query]
    size = products.shape[0]
    for begin in range(0, size, _CHUNK):
        end = min(size, begin + _CHUNK)
        if end - begin == _CHUNK:
            # Counting has no branches, so that it is compiled to vector instructions.
            some = np.int32(0)
            for a in range(begin, begin + _CHUNK):
                some += np.int32(products[a] - bias[a] >= worst)
            if some == 0:
                continue
        for a in range(begin, end):
            s = products[a] - bias[a]
            if s >= worst and ids[first + a] != own:
                keys[filled] = _key(s, first + a)
                filled += 1
                if filled == keys.shape[0]:
                    _select(keys, filled, k)
                    filled, worst = k, _score_of(keys[k - 1])
    best.filled[query], best.worst[query] = filled, worst


@contracting
def _write_best(
    keys: Any,
    filled: int,
    query: Any,
    level: Any,
    by_distance: bool,
    highest: float,
    lanes: Any,
    scores: Any,
    ids: Any,
) -> None:
    """Write the k best entries of a query, by scores in a fixed order of summation."""
    k = scores.shape[0]
    if filled > k:
        _select(keys, filled, k)
        filled = k
    for e in range(filled):
        place = _number_of(keys[e])
        score = exact_score(query, level.vectors[place], by_distance, lanes)
        keys[e] = _key(min(score, np.float32(highest)), level.ids[place])
    keys[:filled].sort()
    for e in range(filled):
        scores[e], ids[e] = _score_of(keys[e]), _number_of(keys[e])
    scores[filled:] = -np.inf
    ids[filled:] = -1


# --- the cells of a block -------------------------------------------------------------------------


@serial
def _by_cell(cells: Any, count: Any, listed: Any, first: Any, asking: Any) -> int:
    """List the cells that a block of queries asks for, and for each cell the queries.

    `count`, a number for each cell, is 0 before and after. The queries of cell listed[x] are
    asking[first[x] : first[x + 1]]. Returns the number of cells.
    """
    m, p = cells.shape
    found = 0
    for a in range(m):
        for e in range(p):
            c = cells[a, e]
            if c >= 0:
                if count[c] == 0:
                    listed[found] = c
                    found += 1
                count[c] += 1
    total = 0
    for x in range(found):
        c = listed[x]
        first[x] = total
        total += count[c]
        count[c] = first[x]
    first[found] = total
    for a in range(m):
        for e in range(p):
            c = cells[a, e]
            if c >= 0:
                asking[count[c]] = a
                count[c] += 1
    for x in range(found):
        count[listed[x]] = 0
    return found


@contracting
def _search_cell(
    queries: Any,
    own: Any,
    asking: Any,
    level: Any,
    cell: int,
    euclidean: bool,
    gathered: Any,
    bias: Any,
    products: Any,
    k: int,
    best: Any,
) -> None:
    """Compare some queries of a block with the vectors of a cell."""
    d = queries.shape[1]
    for r in range(0, asking.shape[0], _ROWS):
        rows = min(_ROWS, asking.shape[0] - r)
        for a in range(rows):
            q = asking[r + a]
            for t in range(d):
                gathered[a, t] = queries[q, t]
        for begin in range(level.starts[cell], level.stops[cell], _COLUMNS):
            end = min(level.stops[cell], begin + _COLUMNS)
            vectors = level.vectors[begin:end]
            if euclidean:
                _half_squares(vectors, bias)
            block = products[: rows * (end - begin)].reshape(rows, end - begin)
            np.dot(gathered[:rows], vectors.T, block)
            for a in range(rows):
                q = asking[r + a]
                _keep_best(block[a], bias, begin, level.ids, own[q], k, best, q)


@parallel(lambda asked, *_: len(asked.blocks) - 1, grain=1)
def search_cells(
    start: int,
    stop: int,
    asked: Any,
    level: Any,
    by_distance: bool,
    highest: float,
    out_scores: Any,
    out_ids: Any,
) -> None:
    """List the k best vectors of the cells that each query asks for.

    Scores are inner products, or with `by_distance` negative squared distances, and at most
    `highest`; those of the listed vectors are computed in a fixed order of summation. Lists are
    padded with -inf and -1.
    """
    d, p, k = asked.vectors.shape[1], asked.cells.shape[1], out_scores.shape[1]
    most = 0
    for b in range(start, stop):
        most = max(most, asked.blocks[b + 1] - asked.blocks[b])
    rows = min(most, _ROWS)
    gathered = np.empty((rows, d), np.float32)
    products = np.empty(rows * _COLUMNS, np.float32)
    bias = np.zeros(_COLUMNS, np.float32)
    lanes = np.empty(_LANES, np.float32)
    count = np.zeros(level.starts.shape[0], np.int64)
    listed, asking = np.empty(most * p, np.int32), np.empty(most * p, np.int32)
    first = np.empty(most * p + 1, np.int64)
    room = k + max(k, _LEAST_ROOM)
    best = _Best(
        np.empty((most, room), np.uint64), np.empty(most, np.int64), np.empty(most, np.float32)
    )
    for b in range(start, stop):
        part = slice(asked.blocks[b], asked.blocks[b + 1])
        queries, own = asked.vectors[part], asked.own[part]
        best.filled[:] = 0
        best.worst[:] = -np.inf
        found = _by_cell(asked.cells[part], count, listed, first, asking)
        for x in range(found):
            _search_cell(
                queries,
                own,
                asking[first[x] : first[x + 1]],
                level,
                listed[x],
                by_distance,
                gathered,
                bias,
                products,
                k,
                best,
            )
        for a in range(queries.shape[0]):
            row = asked.rows[part.start + a]
            _write_best(
                best.keys[a],
                best.filled[a],
                queries[a],
                level,
                by_distance,
                highest,
                lanes,
                out_scores[row],
                out_ids[row],
            )


# --- k-means --------------------------------------------------------------------------------------


@parallel(lambda points, offsets, *_: len(offsets) - 1, grain=1)
def k_means(
    start: int,
    stop: int,
    points: Any,
    offsets: Any,
    centroids: Any,
    centroid_offsets: Any,
    iterations: int,
) -> None:
    """Improve centroids by Lloyd's iterations, for each of several groups of points.

    Group g has the points offsets[g] to offsets[g + 1], and the centroids likewise. A centroid
    that no point is nearest to moves to a point.
    """
    products = np.empty(0, np.float32)
    for g in range(start, stop):
        own = points[offsets[g] : offsets[g + 1]]
        means = centroids[centroid_offsets[g] : centroid_offsets[g + 1]]
        count = means.shape[0]
        if count == 0:
            continue
        if products.shape[0] < _ROWS * count:
            products = np.empty(_ROWS * count, np.float32)
        bias, sums = np.empty(count, np.float32), np.empty(means.shape, np.float32)
        sizes = np.empty(count, np.int64)
        for _ in range(iterations):
            _half_squares(means, bias)
            sums[:] = 0
            sizes[:] = 0
            for begin in range(0, own.shape[0], _ROWS):
                block = own[begin : min(own.shape[0], begin + _ROWS)]
                near = products[: block.shape[0] * count].reshape(block.shape[0], count)
                np.dot(block, means.T, near)
                for a in range(block.shape[0]):
                    c = _nearest(near[a], bias)
                    sizes[c] += 1
                    for t in range(own.shape[1]):
                        sums[c, t] += block[a, t]
            for c in range(count):
                for t in range(own.shape[1]):
                    if sizes[c] > 0:
                        means[c, t] = sums[c, t] / np.float32(sizes[c])
                    else:
                        means[c, t] = own[c * own.shape[0] // count, t]


@serial
def _nearest(products: Any, bias: Any) -> int:
    best, nearest = np.float32(-np.inf), 0
    for c in range(products.shape[0]):
        score = products[c] - bias[c]
        if score > best:
            best, nearest = score, c
    return nearest
