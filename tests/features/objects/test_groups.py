"""Groups of boxes: average linkage, what is a group, and their numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from diffusion.errors import DiffusionError
from features.objects.groups import Groups, average_linkage, find_groups

# --- average linkage ------------------------------------------------------------------------------


def dense_average_linkage(A, least, sizes):
    """Merge clusters one pair at a time; every mean is over the pairs of items themselves."""
    clusters = [[i] for i in range(len(A))]
    weight = np.asarray(sizes, float)

    def mean(a, b):
        total = sum(A[i, j] * weight[i] * weight[j] for i in a for j in b)
        return total / (weight[a].sum() * weight[b].sum())

    while len(clusters) > 1:
        pairs = [(i, j) for i in range(len(clusters)) for j in range(i + 1, len(clusters))]
        best = max(pairs, key=lambda pair: mean(clusters[pair[0]], clusters[pair[1]]))
        if mean(clusters[best[0]], clusters[best[1]]) < least:
            break
        clusters[best[0]] = sorted(clusters[best[0]] + clusters.pop(best[1]))
    labels = np.empty(len(A), int)
    for cluster in clusters:
        labels[cluster] = cluster[0]
    return labels


@st.composite
def affinities(draw):
    """A sparse symmetric matrix without ties, and sizes of its rows."""
    n = draw(st.integers(1, 10))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    upper = np.triu(rng.random((n, n)) * (rng.random((n, n)) < draw(st.floats(0.05, 1))), 1)
    return upper + upper.T, rng.integers(1, 4, n)


@settings(max_examples=60, deadline=None)
@given(affinities(), st.floats(0.01, 0.9), st.booleans())
def test_merging_all_mutual_pairs_is_average_linkage(affinity, least, weighted):
    A, sizes = affinity
    sizes = sizes if weighted else np.ones(len(A), int)
    labels = average_linkage(sparse.csr_array(A), least, sizes if weighted else None)
    np.testing.assert_array_equal(labels, dense_average_linkage(A, least, sizes))


def test_absent_edges_count_as_zero():
    # Two triangles of likeness 1, joined by one edge of 0.9: a mean of 0.1 over nine pairs.
    A = np.kron(np.eye(2), np.ones((3, 3)))
    A[2, 3] = A[3, 2] = 0.9
    assert average_linkage(sparse.csr_array(A), 0.11).tolist() == [0, 0, 0, 3, 3, 3]
    assert average_linkage(sparse.csr_array(A), 0.09).tolist() == [0] * 6


def test_equal_likenesses_merge_the_first_pair():
    # A path: once its first edge is merged, the mean over the pair and the third is a half.
    path = np.diag(np.ones(3), 1)
    assert average_linkage(sparse.csr_array(path + path.T), 0.6).tolist() == [0, 0, 2, 2]
    path[2, 3] = 0
    assert average_linkage(sparse.csr_array(path + path.T), 0.6).tolist() == [0, 0, 2, 3]


# --- groups of boxes ------------------------------------------------------------------------------


def planted(seed=0, objects=6, photos=14, others=40):
    """Boxes of objects of different frequency, and boxes that resemble none."""
    rng = np.random.default_rng(seed)
    counts = photos - np.arange(objects)
    means = np.eye(32)[:objects]
    truth = np.repeat(np.arange(objects), counts)
    vectors = means[truth] + 0.05 * rng.standard_normal((len(truth), 32))
    images = np.concatenate([rng.permutation(photos)[:count] for count in counts])
    # What resembles nothing is spread over the other dimensions.
    alone = np.zeros((others, 32))
    alone[:, objects:] = rng.standard_normal((others, 32 - objects))
    vectors = np.concatenate([vectors, alone])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    images = np.concatenate([images, rng.integers(0, photos, others)])
    return vectors.astype(np.float32), images, np.concatenate([truth, np.full(others, -1)])


def partition(labels):
    return {frozenset(np.flatnonzero(labels == label)) for label in np.unique(labels[labels >= 0])}


def test_planted_objects_are_the_largest_groups():
    vectors, images, truth = planted()
    groups = find_groups(vectors, images)
    assert partition(truth) <= partition(groups.labels)
    # In descending order of the number of photos, as the objects are.
    np.testing.assert_array_equal(groups.labels[truth >= 0], truth[truth >= 0])
    assert groups.likeness.dtype == np.float32
    assert np.all((groups.likeness >= 0) & (groups.likeness <= 1))
    assert np.all((groups.likeness > 0) == (groups.labels >= 0))


def test_members_are_in_descending_order_of_likeness():
    groups = Groups(np.array([1, 0, -1, 0, 1, 0]), np.array([0.5, 0.2, 0, 0.9, 0.7, 0.4]))
    assert len(groups) == 2
    assert [rows.tolist() for rows in groups.members()] == [[3, 5, 1], [4, 0]]


def test_groups_do_not_depend_on_the_order_of_boxes():
    vectors, images, _ = planted(1)
    order = np.random.default_rng(2).permutation(len(vectors))
    groups, permuted = find_groups(vectors, images), find_groups(vectors[order], images[order])
    expected = {frozenset(order[list(rows)]) for rows in partition(permuted.labels)}
    assert partition(groups.labels) == expected
    np.testing.assert_allclose(permuted.likeness, groups.likeness[order], rtol=1e-5)


def test_repetition_within_a_photo_alone_is_no_group():
    vectors, images, truth = planted()
    images = np.where(truth == 2, 5, images)
    groups = find_groups(vectors, images)
    assert np.all(groups.labels[truth == 2] == -1)
    assert np.all(groups.likeness[truth == 2] == 0)
    assert frozenset(np.flatnonzero(truth == 1)) in partition(groups.labels)


def test_several_boxes_of_a_photo_may_be_in_one_group():
    vectors, images, truth = planted()
    images = np.where(truth == 2, np.arange(len(truth)) % 2, images)
    groups = find_groups(vectors, images)
    assert frozenset(np.flatnonzero(truth == 2)) in partition(groups.labels)
    assert np.all(groups.labels[truth == 2] == groups.labels[truth == 2].max())


def test_copies_are_alike():
    vectors, images, truth = planted()
    copies = np.repeat(vectors[-1:], 70, axis=0)  # more than a neighbour list holds
    groups = find_groups(np.concatenate([vectors, copies]), [*images, *range(100, 170)])
    own = groups.labels[len(vectors) :]
    assert np.all(own == 0)
    assert np.all(groups.labels[:-70][truth >= 0] == truth[truth >= 0] + 1)
    assert groups.likeness[len(vectors) :].min() > 0.8


def test_zero_vectors_are_in_no_group():
    vectors, images, truth = planted()
    vectors[truth == -1] = 0
    groups = find_groups(vectors, images)
    np.testing.assert_array_equal(groups.labels, truth)


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_boxes_make_no_group(count):
    groups = find_groups(np.ones((count, 8), np.float32), np.zeros(count, np.int64))
    assert groups.labels.tolist() == [-1] * count
    assert (len(groups), groups.members()) == (0, [])


def test_two_boxes():
    same = find_groups(np.ones((2, 8), np.float32), np.array([4, 9]))
    assert same.labels.tolist() == [0, 0]
    assert same.likeness.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("vectors", "images", "message"),
    [
        (np.ones(3), np.zeros(3, int), r"vectors: .*\(3,\)"),
        (np.ones((3, 2)), np.zeros(2, int), r"images: .*each of 3 boxes"),
        (np.ones((3, 2)), np.zeros(3), "images: .*float64"),
        (np.full((3, 2), np.nan), np.zeros(3, int), "X: .*finite|NaN|nan"),
    ],
)
def test_bad_input_is_named(vectors, images, message):
    with pytest.raises(DiffusionError, match=message):
        find_groups(vectors, images)
