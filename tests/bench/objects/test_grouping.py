"""Agreement of groups with objects, by hand and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from bench.objects.grouping import adjusted_rand, agreement, grouping_table, shown_objects
from features.objects.groups import Groups

TRUTH = np.array([[0.0, 0, 10, 10], [20, 0, 30, 20]])


@pytest.mark.parametrize(
    ("box", "shown"),
    [
        ([0, 0, 10, 10], 4),
        ([0, 0, 10, 5], 4),  # half of it
        ([0, 0, 10, 4], -1),
        ([20, 0, 30, 11], 7),
        ([0, 0, 14, 20], 4),  # all of it, 2.8 times as large
        ([0, 0, 16, 20], -1),  # 3.2 times as large
        ([50, 50, 60, 60], -1),
    ],
)
def test_the_object_that_a_box_shows(box, shown):
    assert shown_objects(np.array([box], float), TRUTH, np.array([4, 7])).tolist() == [shown]


def test_photos_without_objects_show_background():
    none = np.empty((0, 4))
    assert shown_objects(TRUTH, none, np.empty(0, int)).tolist() == [-1, -1]
    assert shown_objects(none, TRUTH, np.array([4, 7])).tolist() == []


def test_agreement_by_hand():
    # Group 0: object 0 in photos 0, 1 and 1, and background; group 1: object 1, and object 0.
    groups = np.array([0, 0, 0, 0, 1, 1, -1])
    objects = np.array([0, 0, 0, -1, 1, 0, 1])
    images = np.array([0, 1, 1, 2, 2, 3, 3])
    present = [np.array(labels) for labels in ([0], [0], [1], [0, 1], [0, 2], [])]
    found = agreement(groups, objects, images, present)
    assert (found.groups, found.objects) == (2, 2)  # object 2 is in one photo only
    assert found.purity == pytest.approx(4 / 6)
    assert found.purity_shown == pytest.approx(4 / 5)
    # Object 0 is in four photos, of which group 0 holds two; object 1 in two, group 1 holds one.
    assert found.completeness == pytest.approx((2 / 4 + 1 / 2) / 2)
    assert found.rand == pytest.approx(adjusted_rand_score([0, 0, 0, 1, 0, 1], [0, 0, 0, 1, 1, 2]))


def test_adjusted_rand_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = rng.integers(0, 4, (2, 30))
        assert adjusted_rand(a, b) == pytest.approx(adjusted_rand_score(b, a))
    assert adjusted_rand(a, a) == 1


def test_nothing_is_grouped():
    none = np.full(2, -1)
    found = agreement(none, none, np.arange(2), [np.array([0]), np.array([0])])
    assert found == (0, 1, 0, 0, 0, 1)


def test_table():
    boxes = np.concatenate([TRUTH, TRUTH])
    groups = Groups(np.array([0, 1, 0, 1]), np.ones(4, np.float32))
    truths = [(TRUTH, np.array([0, 1]))] * 2
    table = grouping_table("scenes", groups, np.array([0, 0, 1, 1]), boxes, truths)
    assert table.rows == [[2, 4, 1.0, 1.0, 1.0, 1.0]]
    assert "4 boxes in 2 photos, of which 4 show one of 2 objects" in str(table)
