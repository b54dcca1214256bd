from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion.cluster.numbers import Local
from diffusion.cluster.shards import Shards, save, take_lists
from diffusion.cluster.shuffle import Inbox, records_of
from diffusion.kernels.context import mutual_levels, ranks_in_lists
from tests.support.oracles import neighbor_lists


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr("diffusion.cluster.shards.CHUNK", 5)


def cut(n, count):
    """Starts of shards of about equal sizes, the first ones empty if there are more than rows."""
    return tuple(n * p // count for p in range(count + 1))


def sent(folder, ids, values, starts):
    """Let each shard send its values, and return the shards."""
    shards = Shards(str(folder), starts)
    for p in range(shards.count):
        a, b = shards.bounds(p)
        shards.folder("sent", p).parent.mkdir(exist_ok=True)
        save(shards.folder("sent", p), records_of(ids[a:b], values[a:b], a, shards))
    return shards


@settings(max_examples=8)
@given(neighbor_lists(), st.sampled_from([1, 2, 7, 25]))
def test_what_is_sent_back_equals_a_lookup(tmp_path_factory, lists, count):
    ids, weights = lists
    n = len(ids)
    shards = sent(tmp_path_factory.mktemp("work"), ids, weights, cut(n, count))
    dense = np.zeros((n, n), np.float32)
    for i in range(n):
        for j, w in zip(ids[i], weights[i], strict=True):
            if j >= 0:
                dense[i, j] = w
    for p in range(count):
        a, b = shards.bounds(p)
        inbox = Inbox(shards, "sent", p)
        for rows, values in inbox.reverse(ids[a:b], a, 0):
            for i, found in zip(range(a, b)[rows], values, strict=True):
                assert found.tolist() == [dense[j, i] if j >= 0 else 0 for j in ids[i]]
        found = [*inbox.lists(a, b), 3 * (np.empty(0, np.int64),)]
        lengths, sources, values = map(np.concatenate, zip(*found, strict=True))
        ends = np.cumsum(lengths)
        for j in range(a, b):
            part = slice(ends[j - a] - lengths[j - a], ends[j - a])
            expected = [i for i in range(n) if j in ids[i]]
            assert sources[part].tolist() == expected
            assert values[part].tolist() == [dense[i, j] for i in expected]


@settings(max_examples=8)
@given(neighbor_lists(), st.sampled_from([1, 2, 7, 25]))
def test_mutual_levels_are_those_of_one_process(tmp_path_factory, lists, count):
    ids, weights = lists
    n, k = ids.shape
    ranks, expected = np.empty(ids.shape, np.uint8), np.empty(ids.shape, np.uint8)
    ranks_in_lists(ids, -np.sort(-weights, axis=1), ranks)
    scales = np.unique([1, max(1, k // 2), k])
    mutual_levels(np.arange(n, dtype=np.int32), ids, ranks, scales, expected)
    shards = sent(tmp_path_factory.mktemp("work"), ids, ranks, cut(n, count))
    for p in range(count):
        a, b = shards.bounds(p)
        for rows, theirs in Inbox(shards, "sent", p).reverse(ids[a:b], a, 0):
            mutual = np.searchsorted(scales, np.maximum(ranks[a:b][rows], theirs))
            levels = np.where(theirs > 0, mutual, len(scales))
            np.testing.assert_array_equal(levels, expected[a:b][rows])


@given(st.lists(st.integers(-1, 30), max_size=40), st.integers(0, 10), st.integers(10, 20))
def test_local_numbers_lead_back(ids, first, last):
    ids = np.array(ids, np.int32)
    local = Local(first, last)
    local.add(ids[: len(ids) // 2])
    local.add(ids)
    rows, numbers = local.rows, local.of(ids)
    assert len(np.unique(rows)) == len(rows)
    assert rows[: last - first].tolist() == list(range(first, last))
    assert (numbers[ids < 0] == -1).all()
    assert (rows[numbers[ids >= 0]] == ids[ids >= 0]).all()
    assert (Local(first, last).of(ids)[(ids < first) | (ids >= last)] == -1).all()


@pytest.mark.parametrize("count", [1, 3, 20])
def test_rows_of_other_shards(tmp_path, rng, count):
    n = 11
    shards = Shards(str(tmp_path), cut(n, count))
    X = rng.standard_normal((n, 2))
    lengths = rng.integers(0, 4, n)
    ends = np.concatenate([[0], np.cumsum(lengths)])
    entries = np.arange(ends[-1])
    for p in range(count):
        a, b = shards.bounds(p)
        own = {"indptr": ends[a : b + 1] - ends[a], "entries": entries[ends[a] : ends[b]]}
        shards.folder("stage", p).parent.mkdir(exist_ok=True)
        save(shards.folder("stage", p), {"X": X[a:b], **own})
    rows = np.array([7, 0, 10, 3])
    np.testing.assert_array_equal(shards.rows("stage", "X").take(rows), X[rows])
    rows.sort()
    indptr, found = take_lists(shards, "stage", rows, ("entries",))
    expected = [entries[ends[row] : ends[row + 1]] for row in rows]
    assert np.diff(indptr).tolist() == [len(part) for part in expected]
    np.testing.assert_array_equal(found, np.concatenate(expected))
    indptr, found = take_lists(shards, "stage", rows[:0], ("entries",))
    assert indptr.tolist() == [0]
    assert not len(found)
