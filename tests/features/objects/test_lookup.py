"""Nearest nodes: exact, and in cells, against brute force."""

from __future__ import annotations

import numpy as np
import pytest

from diffusion import DiffusionError
from features.objects import lookup
from features.objects.lookup import NodeLookup


def unit(X):
    return (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32)


def brute_force(vectors, starts, queries, k, image):
    S = queries @ vectors.T
    if image is not None:
        S[:, starts[image] : starts[image + 1]] = -np.inf
    order = np.argsort(-S, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(S, order, axis=1), order


@pytest.fixture(scope="module")
def clustered():
    """Clustered nodes of images of 0 to 49 nodes, in cells, of which about 1,000 are compared."""
    rng = np.random.default_rng(3)
    sizes = rng.integers(0, 50, 400)
    r = int(sizes.sum())
    centres = rng.standard_normal((60, 16))
    X = unit(centres[rng.integers(0, 60, r)] + 0.5 * rng.standard_normal((r, 16)))
    starts = np.append(0, np.cumsum(sizes))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lookup, "_EXACT", 1000)
        patch.setattr(lookup, "_COMPARED", 1000)
        yield X, starts, NodeLookup.build(X, starts)


@pytest.mark.parametrize("image", [None, 0, 2])
def test_exact_equals_brute_force(rng, image):
    X, starts = unit(rng.standard_normal((40, 5))), np.array([0, 12, 12, 30, 40])
    queries = unit(rng.standard_normal((7, 5)))
    scores, ids = NodeLookup.build(X, starts).nearest(queries, 6, image)
    expected, order = brute_force(X, starts, queries, 6, image)
    np.testing.assert_array_equal(ids, order)
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    assert (scores.dtype, ids.dtype) == (np.float32, np.int64)


def test_lists_are_padded(rng):
    X = unit(rng.standard_normal((5, 3)))
    scores, ids = NodeLookup(X, np.array([0, 2, 5])).nearest(X[:1], 4, 1)
    assert (ids[0, :2] >= 0).all()
    assert ids[0, 2:].tolist() == [-1, -1]
    assert np.isneginf(scores[0, 2:]).all()


def test_cells_find_nearly_all_and_never_own_nodes(clustered):
    X, starts, found_by = clustered
    assert found_by.arrays()  # these are more nodes than are compared one by one
    found = total = 0
    for image in range(0, 100, 5):
        queries = X[starts[image] : starts[image + 1]]
        scores, ids = found_by.nearest(queries, 10, image)
        expected, order = brute_force(X, starts, queries, 10, image)
        assert (ids >= 0).all()
        assert ((ids < starts[image]) | (ids >= starts[image + 1])).all()
        assert (np.diff(scores, axis=1) <= 0).all()
        np.testing.assert_allclose(scores, np.einsum("md,mkd->mk", queries, X[ids]), atol=1e-5)
        found += (scores >= expected[:, -1:] - 1e-6).sum()
        total += order.size
    assert found >= 0.95 * total


def test_restored_it_finds_the_same(clustered):
    X, starts, found_by = clustered
    arrays = found_by.arrays()
    again = NodeLookup.restored(arrays, X, starts, "a file")
    for one, other in zip(again.nearest(X[:50], 10), found_by.nearest(X[:50], 10), strict=True):
        np.testing.assert_array_equal(one, other)
    assert set(again.arrays()) == set(arrays)
    assert NodeLookup.restored({}, X[:100], starts[:3], "a file").arrays() == {}
    with pytest.raises(KeyError):
        NodeLookup.restored({}, X, starts, "a file")
    with pytest.raises(ValueError, match="lookup_offsets"):
        NodeLookup.restored(
            arrays | {"lookup_offsets": arrays["lookup_offsets"][1:]}, X, starts, "a file"
        )
    bad = NodeLookup.restored(
        arrays | {"lookup_order": arrays["lookup_order"] + 1}, X, starts, "a file"
    )
    with pytest.raises(DiffusionError, match=r"a file: .*lookup_order"):
        bad.nearest(X[:2], 10)


def test_no_query_gives_no_list(clustered):
    X, _, found_by = clustered
    assert found_by.nearest(X[:0], 10, 1)[1].shape == (0, 10)
