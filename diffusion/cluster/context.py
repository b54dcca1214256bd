"""The edges of the contextual affinity, which compares the neighbourhoods of items.

The stages are the steps of `Context.edges`. Each task runs the loops of that method on the items of
its shard and the items of others that these refer to, `CHUNK` items at a time. Equal sums are
ordered by row, whatever numbers the loops are given, and sums are exact.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..affinity import Context
from ..affinity import context as whole
from ..kernels import context as loops
from ..kernels import encodings as blocks
from ..kernels import scaling
from ..kernels.context import Encodings, Holders, Scales, Sets
from ..kernels.locality import locality_order
from ..kernels.matrix import read_only
from .final import Final, Source
from .numbering import rows_of
from .numbers import Local
from .shards import Shards, chunks, save, take_lists
from .shuffle import Inbox, records_of
from .stages import Stages


def make_edges(stages: Stages, affinity: Context, final: Final) -> dict[str, NDArray[Any]]:
    """Make the stage `edges` from the stage `lists`, and write the arrays of the affinity.

    Returns
    -------
    dict of str to ndarray
        The arrays of the affinity that are not written.
    """
    shards = stages.shards
    width = stages.fact("width", lambda: int(shards.array("lists", 0, "ids").shape[1]))
    k = affinity.depth_of(width)
    scales = whole.scales_of(affinity.scales, k)
    if affinity.scaling:
        stages.run("local", local_scales, affinity)
        final.by_row({"affinity_local_scale": Source("local", "local_scale")})
    stages.run("ranked", ranked, affinity)
    given = {"affinity_scores": Source("lists", "scores", (0, k))}
    if affinity.scaling:
        given["affinity_order"] = Source("ranked", "order")
    if width > k:
        spare = k, k + whole.SPARE
        given["affinity_spare_scores"] = Source("lists", "scores", spare)
        given["affinity_spare_ids"] = Source("lists", "ids", spare, items=True)
    final.by_row(given)
    stages.drop("local", "lists")
    stages.run("levels", levels, scales)
    final.by_row(
        {
            "affinity_ids": Source("ranked", "ids", items=True),
            "affinity_levels": Source("levels", "levels"),
            "affinity_reach": Source("levels", "reach"),
        }
    )
    stages.run("encoded", encoded, affinity, scales)
    stages.drop("levels")
    stages.run("holders", holders)
    stages.run("similar", similar)
    stages.drop("encoded")
    stages.run("inverted", inverted, each=stages.fact("inverted", lambda: _before(shards)))
    elements = ("holders", "holders_high")
    final.by_place({f"affinity_{name}": Source("inverted", name) for name in elements})
    ends = ("starts", "stops")
    final.by_row({f"affinity_{name}": Source("inverted", name) for name in ends})
    stages.drop("holders", "inverted")
    stages.run("compared", compared)
    final.by_row(
        {
            "affinity_similar": Source("similar", "similar", items=True),
            "affinity_overlaps": Source("similar", "overlaps"),
        }
    )
    stages.drop("ranked", "similar")
    stages.run("edges", edges, affinity)
    stages.drop("compared")
    return {"ranks": scales.ranks.astype(np.uint8)}


def _cut(affinity: Context, k: int) -> NDArray[np.int64]:
    return np.unique(np.minimum(affinity.scales, k)).astype(np.int64)


def _before(shards: Shards) -> list[int]:
    """Return the number of elements of inverted lists in the shards before each."""
    counts = [len(shards.array("holders", p, "holders")) for p in range(shards.count)]
    before: list[int] = (np.cumsum(counts) - counts).tolist()
    return before


def _near_each_other(ids: NDArray[np.int32], first: int) -> NDArray[np.int32]:
    """Return an order of the rows of lists (m, k) in which neighbours among them are close."""
    local = Local(first, first + len(ids))
    order: NDArray[np.int32] = locality_order(local.of(ids))
    return order


# --- lists ----------------------------------------------------------------------------------------


def local_scales(path: str, shards: Shards, p: int, affinity: Context) -> str:
    """Compute the local scales of the items of a shard: `local_scale`."""
    given = shards.array("lists", p, "ids"), shards.array("lists", p, "scores")
    k = affinity.depth_of(given[0].shape[1])
    ids, scores = (read_only(np.ascontiguousarray(array[:, :k])) for array in given)
    out = np.empty(len(ids), np.float32)
    scaling.local_scales(ids, scores, out)
    return save(path, {"local_scale": out})


def ranked(path: str, shards: Shards, p: int, affinity: Context) -> str:
    """Sort the lists of a shard by scaled scores, and send the ranks to the items listed.

    The result has `ids`, the scaled `scores`, `order` and `ranks` (m, k), see `ScaledLists`.
    """
    a, b = shards.bounds(p)
    given = shards.array("lists", p, "ids"), shards.array("lists", p, "scores")
    k = affinity.depth_of(given[0].shape[1])
    ids, scores = (np.ascontiguousarray(array[:, :k]) for array in given)
    order = {}
    if affinity.scaling:
        places = np.empty(ids.shape, np.uint8)
        sorted_ids, sorted_scores = np.empty_like(ids), np.empty_like(scores)
        factor, of_all = np.float32(affinity.scaling), shards.rows("local", "local_scale")
        for first, last in chunks(a, b):
            part = slice(first - a, last - a)
            local = Local(first, last)
            local.add(ids[part])
            lists = read_only(local.of(ids[part])), read_only(scores[part])
            near = np.empty(lists[0].shape, np.int32)
            out = near, sorted_scores[part], places[part]
            scaling.scale_lists(*lists, of_all.take(local.rows), factor, *out)
            sorted_ids[part] = np.take_along_axis(ids[part], places[part].astype(np.int64), axis=1)
        ids, scores, order = sorted_ids, sorted_scores, {"order": places}
    ranks = np.empty(ids.shape, np.uint8)
    loops.ranks_in_lists(ids, scores, ranks)
    own = {"ids": ids, "scores": scores, "ranks": ranks, **order}
    return save(path, {**own, **records_of(ids, ranks, a, shards)})


def _mutual(shards: Shards, stage: str, p: int, name: str, scales: Any) -> NDArray[np.uint8]:
    """Return the levels (m, k) of the mutual ranks in lists, see `mutual_levels`."""
    a, _ = shards.bounds(p)
    ids, ranks = shards.array(stage, p, name), shards.array(stage, p, "ranks")
    out = np.empty(ids.shape, np.uint8)
    for rows, theirs in Inbox(shards, stage, p).reverse(ids, a, 0):
        level = np.searchsorted(scales, np.maximum(ranks[rows], theirs))
        out[rows] = np.where(theirs > 0, level, len(scales))
    return out


def levels(path: str, shards: Shards, p: int, scales: Scales) -> str:
    """Compute the levels of the neighbours of a shard as they are stored, and `reach`."""
    found = _mutual(shards, "ranked", p, "ids", scales.ranks)
    reach = np.take(shards.array("ranked", p, "scores"), scales.ranks - 1, axis=1)
    return save(path, {"levels": whole.packed_levels(found, len(scales.ranks)), "reach": reach})


# --- encodings ------------------------------------------------------------------------------------


def encoded(path: str, shards: Shards, p: int, affinity: Context, scales: Scales) -> str:
    """Encode the items of a shard, and send the values to the items that are the entries.

    The result has `entries` and `values` (m, size), see `Encodings`.
    """
    a, b = shards.bounds(p)
    size = min(affinity.size, shards.n)
    out = Encodings(np.empty((b - a, size), np.int32), np.empty((b - a, size), np.uint16))
    for first, last in chunks(a, b):
        part = slice(first - a, last - a)
        _encode(shards, p, (first, last), scales, Encodings(out.ids[part], out.values[part]))
    own = {"entries": out.ids, "values": out.values}
    return save(path, {**own, **records_of(out.ids, out.values, a, shards)})


def _encode(
    shards: Shards, p: int, bounds: tuple[int, int], scales: Scales, out: Encodings
) -> None:
    """Write the encodings of a range of the items of a shard."""
    first, last = bounds
    begin, _ = shards.bounds(p)
    own = shards.array("ranked", p, "ids")[first - begin : last - begin]
    local = Local(first, last)
    local.add(own[:, : int(scales.spread[-1]) - 1])
    members = local.rows
    ids = shards.rows("ranked", "ids").take(members)
    stored = shards.rows("levels", "levels").take(members)
    # Of other items the loop reads no list. Those without a level are not counted at all.
    known = whole.unpacked_levels(stored, ids.shape[1]) < len(scales.ranks)
    local.add(np.where(known, ids, np.int32(-1)))
    rows = local.rows
    sets = Sets(*map(read_only, (local.of(ids), stored, rows_of(shards)[rows])))
    order = _near_each_other(own, first)
    blocks.encode(order, order, sets, scales, out)
    out.ids[:] = np.where(out.ids >= 0, rows[out.ids], np.int32(-1))


def holders(path: str, shards: Shards, p: int) -> str:
    """Make the inverted lists of a shard: for each entry, the items whose encodings have it.

    The result has `indptr` (m + 1,), and the elements of `Holders`.
    """
    a, b = shards.bounds(p)
    lengths, lower = [np.zeros(1, np.int64)], [np.empty(0, np.uint32)]
    high = [np.empty(0, whole.high_type(shards.n))]
    for counts, items, values in Inbox(shards, "encoded", p).lists(a, b):
        lengths.append(counts)
        lower.append(((items & 0xFFFF).astype(np.uint32) << np.uint32(16)) | values)
        high.append((items >> 16).astype(high[0].dtype))
    found = {"holders": np.concatenate(lower), "holders_high": np.concatenate(high)}
    return save(path, {"indptr": np.cumsum(np.concatenate(lengths)), **found})


def inverted(path: str, shards: Shards, p: int, before: int) -> str:
    """Give the inverted lists of a shard the items that are rows, and their places in the index.

    The result has `starts` and `stops` (m,), and the elements of `Holders`.
    """
    names = ("indptr", "holders", "holders_high")
    indptr, lower, high = (shards.array("holders", p, name) for name in names)
    out_lower, out_high, rows = np.empty_like(lower), np.empty_like(high), rows_of(shards)
    for first, last in chunks(0, len(lower)):
        part = slice(first, last)
        items = rows[(high[part].astype(np.int64) << 16) | (lower[part] >> np.uint32(16))]
        own = (items & 0xFFFF).astype(np.uint32) << np.uint32(16)
        out_lower[part] = own | (lower[part] & np.uint32(0xFFFF))
        out_high[part] = (items >> 16).astype(high.dtype)
    places = {"starts": indptr[:-1] + before, "stops": indptr[1:] + before}
    return save(path, {**places, "holders": out_lower, "holders_high": out_high})


# --- similarities ---------------------------------------------------------------------------------


def similar(path: str, shards: Shards, p: int) -> str:
    """List the items most similar to those of a shard: `similar` and `overlaps` (m, k)."""
    a, b = shards.bounds(p)
    entries, values = (shards.array("encoded", p, name) for name in ("entries", "values"))
    lists = shards.array("ranked", p, "ids")
    k = lists.shape[1]
    best, overlaps = np.empty((b - a, k), np.int32), np.empty((b - a, k), np.uint16)
    ages = read_only(rows_of(shards))
    for first, last in chunks(a, b):
        part = slice(first - a, last - a)
        local = Local(0, 0)
        local.add(entries[part])
        names = ("holders", "holders_high")
        indptr, *elements = take_lists(shards, "holders", local.rows, names)
        lists_of = Holders(*map(read_only, (indptr[:-1], indptr[1:], *elements)))
        order = _near_each_other(lists[part], first)
        items = (order + first).astype(np.int32)
        own = Encodings(local.of(entries[part]), values[part].copy())
        blocks.jaccard_lists(items, order, own, lists_of, ages, best[part], overlaps[part])
    return save(path, {"similar": best, "overlaps": overlaps})


def compared(path: str, shards: Shards, p: int) -> str:
    """Compute S of the items of a shard and those similar to them, and send the ranks to these.

    The result has `similar`, `S` and `ranks` (m, k).
    """
    a, b = shards.bounds(p)
    ids, overlaps = (shards.array("similar", p, name) for name in ("similar", "overlaps"))
    S, ranks = np.empty(ids.shape, np.float32), np.empty(ids.shape, np.uint8)
    for first, last in chunks(a, b):
        part = slice(first - a, last - a)
        local = Local(first, last)
        local.add(ids[part])
        listed = shards.rows("ranked", "ids").take(local.rows)
        scores = shards.rows("ranked", "scores").take(local.rows)
        units = np.empty(len(scores), np.float64)
        loops.units_of_lists(read_only(scores), units)
        lists = loops.Lists(read_only(local.of(listed)), read_only(scores), units)
        near = read_only(local.of(ids[part]))
        rows = np.arange(last - first, dtype=np.int32)
        loops.pair_similarities(rows, rows, near, read_only(overlaps[part]), lists, S[part])
        loops.ranks_of_values(S[part], ranks[part])
    own = {"similar": ids, "S": S, "ranks": ranks}
    return save(path, {**own, **records_of(ids, ranks, a, shards)})


def edges(path: str, shards: Shards, p: int, affinity: Context) -> str:
    """Weigh the edges of a shard: `ids` and `weights` (m, k), which both items give alike."""
    ids, S = shards.array("compared", p, "similar"), shards.array("compared", p, "S").copy()
    cut = _cut(affinity, ids.shape[1])
    found = _mutual(shards, "compared", p, "similar", cut)
    share = np.arange(len(cut), -1, -1, dtype=np.float32) / np.float32(len(cut))
    loops.contextual_weights(S, found, share, S)
    return save(path, {"ids": ids, "weights": S})
