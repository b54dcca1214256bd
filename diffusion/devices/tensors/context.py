"""The contextual encoding as sorts and running sums of tensors.

Sums are computed in integers, as `kernels.context` does, so that encodings and similarities are
the same on every device.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...kernels.context import ONE, UNIT, Encodings, Holders, Scales, Sets

# Pairs of a key and a value that are summed at a time, at about 80 bytes each.
_PAIRS = 1 << 24

# A sum is compared together with its place in a row: at most 86 sets of 256 members.
_PLACES = 1 << 15

# More than any overlap of two encodings.
_OVERLAPS = 1 << 18


class TensorContext:
    """The loops of the contextual encoding on a device.

    The lists of the collection are copied to the device when they are first used, and kept there
    for as long as this object. The same arrays must be given every time.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._sent: dict[int, tuple[Any, torch.Tensor]] = {}

    def encode(
        self,
        items: NDArray[Any],
        places: NDArray[Any],
        sets: Sets,
        scales: Scales,
        out: Encodings,
    ) -> None:
        """Encode items; the arguments are those of `kernels.encodings.encode`."""
        n, k = sets.ids.shape
        ids, levels = self._kept(sets.ids), self._kept(sets.levels)
        width = out.values.shape[1]
        size = max(1, _PAIRS // (int(scales.spread[-1]) * (k + 1)))
        for start in range(0, len(items), size):
            part = slice(start, start + size)
            keys, weights = _memberships(self._send(items[part]).long(), ids, levels, scales)
            best, sums = _largest_sums(keys, weights, n, width)
            # A quotient of two tensors: of a number and a tensor, torch rounds the reciprocal too.
            unit = torch.tensor(UNIT, dtype=torch.float64, device=self._device)
            scale = unit / sums.sum(1, keepdim=True).double()
            values = (sums.double() * scale + 0.5).long()
            values[sums == 0] = 0
            best[values == 0] = -1
            rows, filled = places[part], best.shape[1]
            out.ids[rows, :filled], out.ids[rows, filled:width] = best.cpu().numpy(), -1
            out.values[rows, :filled], out.values[rows, filled:] = values.cpu().numpy(), 0

    def jaccard_lists(
        self,
        items: NDArray[Any],
        places: NDArray[Any],
        encodings: Encodings,
        holders: Holders,
        ages: NDArray[np.int32],
        out_ids: NDArray[np.int32],
        out_overlaps: NDArray[np.uint16],
    ) -> None:
        """List similar items; the arguments are those of `kernels.encodings.jaccard_lists`."""
        rows = Holders(*map(self._kept, holders))
        k, size = out_overlaps.shape[1], encodings.values.shape[1]
        ids = self._send(encodings.ids[places, :size]).long()
        values = self._send(encodings.values[places].astype(np.int32))
        place = ids.clamp(min=0)
        lengths = (rows.stops[place] - rows.starts[place]) * (ids >= 0)
        owners = self._send(items).long()
        for column in range(k):
            out_ids[places, column], out_overlaps[places, column] = -1, 0
        for part in _batches(lengths.sum(1).cpu().numpy()):
            row, other, overlap = _overlaps(
                owners[part], ids[part], values[part], lengths[part], rows
            )
            at, row, other, overlap = _nearest(row, other, overlap.clamp(max=UNIT), k)
            where = places[row.cpu().numpy() + part.start], at.cpu().numpy()
            out_ids[where] = other.cpu().numpy()
            out_overlaps[where] = overlap.cpu().numpy()

    def _send(self, array: NDArray[Any]) -> torch.Tensor:
        return torch.tensor(array, device=self._device)

    def _kept(self, array: NDArray[Any]) -> torch.Tensor:
        """Return an array of the collection on the device."""
        if id(array) not in self._sent:
            # torch computes with few unsigned types.
            signed = array
            if array.dtype in (np.uint16, np.uint32):
                signed = array.astype(np.uint32, copy=False).view(np.int32)
            self._sent[id(array)] = array, self._send(signed)
        return self._sent[id(array)][1]


def _memberships(
    items: torch.Tensor, ids: torch.Tensor, levels: torch.Tensor, scales: Scales
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the members of the sets that an encoding averages, and their weights, 0 for none.

    Each row has the sets of an item and of its nearest, as `kernels.context` describes them.
    """
    m, k, count = len(items), ids.shape[1], len(scales.ranks)
    whole, half, spread = (array.tolist() for array in scales[1:])
    centers = torch.cat([items[:, None], ids[items][:, : spread[-1] - 1].long()], 1)
    listed = centers >= 0
    members = listed.sum(1, keepdim=True)
    at = centers.clamp(min=0)
    near, level = ids[at], levels[at]
    if level.shape[2] != k:  # two levels per byte
        level = torch.stack([level & 15, level >> 4], 3).flatten(2)[..., :k]
    level = level.long().clamp(max=count)
    place = torch.arange(centers.shape[1], device=items.device)
    weight = torch.zeros((*centers.shape, count + 1), dtype=torch.int64, device=items.device)
    sizes = [1 + (level <= s).sum(2) for s in range(count)]
    for s in range(len(spread)):
        total = sizes[whole[s]] + sizes[half[s]]
        shared = len(spread) * members.clamp(max=spread[s]) * total
        each = torch.where(listed & (place < spread[s]), ONE // shared, 0)
        weight[..., whole[s]] += each
        weight[..., half[s]] += each
    for s in range(count - 2, -1, -1):
        weight[..., s] += weight[..., s + 1]
    keys = torch.cat([centers[..., None], near.long()], 2)
    weights = torch.cat([weight[..., :1], weight.gather(2, level)], 2)
    return keys.reshape(m, -1), weights.reshape(m, -1)


def _largest_sums(
    keys: torch.Tensor, weights: torch.Tensor, n: int, size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum the weights of equal keys in each row; return the largest sums, ties by ascending key."""
    keys, by_key = torch.where(weights > 0, keys, n).sort(1)
    running = weights.gather(1, by_key).cumsum(1)
    last = torch.ones_like(keys, dtype=torch.bool)
    last[:, :-1] = keys[:, 1:] != keys[:, :-1]
    # The running sum at the end of the key before, which is the largest one so far.
    before = torch.where(last, running, 0).cummax(1).values.roll(1, 1)
    before[:, 0] = 0
    sums = torch.where(last & (keys < n), running - before, 0)
    place = torch.arange(keys.shape[1], device=keys.device)
    best = (sums * _PLACES + (_PLACES - 1 - place)).topk(min(size, keys.shape[1]), 1).values
    return keys.gather(1, _PLACES - 1 - best % _PLACES), best // _PLACES


def _overlaps(
    owners: torch.Tensor,
    ids: torch.Tensor,
    values: torch.Tensor,
    lengths: torch.Tensor,
    holders: Holders,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sum min(V_l, V_jl) for each row and every other item j that shares an entry l with it.

    Returns rows, items and sums, in ascending order of rows and then of items.
    """
    n, size = len(holders.starts), ids.shape[1]
    lengths = lengths.flatten()
    entry = torch.repeat_interleave(lengths)
    begin = holders.starts[ids.flatten().clamp(min=0)] - (lengths.cumsum(0) - lengths)
    at = begin[entry] + torch.arange(len(entry), device=ids.device)
    # As `kernels.context.holder_of` takes an element apart.
    low, high = holders.holders[at], holders.high[at].int()
    items = (high << 16) | ((low >> 16) & 0xFFFF)
    smaller = torch.minimum(values.flatten()[entry], low & 0xFFFF)
    keys, by_key = (entry // size * n + items).sort()
    running = smaller[by_key].cumsum(0)
    last = torch.ones_like(keys, dtype=torch.bool)
    last[:-1] = keys[1:] != keys[:-1]
    keys, running = keys[last], running[last]
    sums = running.diff(prepend=running.new_zeros(1))
    row, other = keys // n, keys % n
    others = other != owners[row]
    return row[others], other[others], sums[others]


def _nearest(
    row: torch.Tensor, other: torch.Tensor, overlap: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Keep the k largest overlaps of each row, ties by ascending item; return their places too."""
    order = (row * _OVERLAPS + (_OVERLAPS - 1 - overlap)).sort(stable=True).indices
    row, other, overlap = row[order], other[order], overlap[order]
    place = torch.arange(len(row), device=row.device)
    first = torch.searchsorted(row, row)
    kept = place - first < k
    return (place - first)[kept], row[kept], other[kept], overlap[kept]


def _batches(pairs: NDArray[np.int64]) -> Iterator[slice]:
    """Cut rows into batches of up to `_PAIRS` pairs, each of at least one row."""
    ends, start = np.cumsum(pairs), 0
    while start < len(pairs):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + _PAIRS, side="right")))
        yield slice(start, stop)
        start = stop
