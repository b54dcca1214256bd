"""The change of a collection: rows stay dense, and few of them move."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from diffusion.change import Change


@given(st.integers(1, 30), st.data())
def test_a_removal_keeps_each_survivor_once_and_moves_as_few_as_possible(n, data):
    rows = data.draw(st.lists(st.integers(0, n - 1), unique=True, max_size=n))
    change = Change.removal(n, np.array(rows, np.int64))
    assert (change.before, change.after) == (n, n - len(rows))
    assert sorted(change.source.tolist()) == sorted(set(range(n)) - set(rows))
    assert change.target[change.source].tolist() == list(range(change.after))
    assert change.removed.tolist() == sorted(rows)
    # Only items from behind the new end move.
    assert change.moved.tolist() == sorted(row for row in rows if row < change.after)
    values = np.arange(n) * 10
    assert change.rows_of(values).tolist() == (change.source * 10).tolist()


def test_added_items_get_the_last_rows():
    change = Change.addition(3, 2)
    assert change.source.tolist() == [0, 1, 2, -1, -1]
    assert change.target.tolist() == [0, 1, 2]
    assert (change.added.tolist(), change.moved.tolist()) == ([3, 4], [])
    before = np.array([[1, 2], [3, 4], [5, 6]])
    assert change.rows_of(before, np.array([[7, 7], [8, 8]]))[2:].tolist() == [
        [5, 6],
        [7, 7],
        [8, 8],
    ]
