from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import diffusion
from diffusion import joining


def unit_rows(X):
    return X / np.linalg.norm(X, axis=1, keepdims=True)


def unit_by_loops(X):
    """Return the mean of s_(1) - s_(12) over the items, one item at a time."""
    S = unit_rows(X) @ unit_rows(X).T
    ranges = []
    for i, row in enumerate(S):
        distinct = sorted({round(float(s), 6) for s in np.delete(row, i)}, reverse=True)
        ranges.append(distinct[0] - distinct[min(11, len(distinct) - 1)])
    return np.mean(ranges)


@pytest.fixture
def parts(rng):
    """Return two descriptors of 150 items, the cosines of one squeezed into a small range."""
    return rng.standard_normal((150, 9)), 8 + rng.standard_normal((150, 5))


def test_units_are_the_range_of_twelve_distinct_similarities(parts):
    # Three items have two exact duplicates each, and some have them in one descriptor only.
    X, Y = (np.concatenate([part, part[:3], part[:3]]) for part in parts)
    X[-1] += 1
    joined = diffusion.join([X, Y])
    expected = [unit_by_loops(X), unit_by_loops(Y)]
    np.testing.assert_allclose(joined.units, expected, rtol=1e-3)
    assert expected[0] > 5 * expected[1]


def test_an_item_with_many_copies_does_not_lower_the_unit(rng):
    X = rng.random((80, 4))
    many = np.concatenate([X, np.repeat(-X[:1], 70, axis=0)])
    np.testing.assert_allclose(diffusion.join([many]).units[0], unit_by_loops(X), rtol=1e-3)


@pytest.mark.parametrize("n", [3, 12, 13])
def test_units_of_fewer_items_go_to_the_last(n, rng):
    X = rng.standard_normal((n, 4))
    np.testing.assert_allclose(diffusion.join([X]).units[0], unit_by_loops(X), rtol=1e-4)


def test_inner_products_are_weighted_means_of_cosines(parts, rng):
    joined = diffusion.join(parts)
    queries = rng.standard_normal((4, 9)), rng.standard_normal((4, 5))
    weights = 1 / np.array(joined.units)
    cosines = np.array([unit_rows(Q) @ unit_rows(X).T for Q, X in zip(queries, parts, strict=True)])
    expected = np.tensordot(weights / weights.sum(), cosines, 1)
    np.testing.assert_allclose(joined(queries) @ joined.vectors.T, expected, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(joined.vectors, axis=1), 1, rtol=1e-6)
    assert joined.vectors.dtype == joined(queries).dtype == np.float32
    assert joined.vectors.shape == (150, 14)


@given(st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=2), st.integers(1, 60))
def test_scale_and_repetition_of_a_descriptor_do_not_matter(scales, seed):
    rng = np.random.default_rng(seed)
    X, Y = rng.standard_normal((40, 6)), rng.random((40, 4))
    joined = diffusion.join([X, Y])
    scaled = diffusion.join([scales[0] * X, scales[1] * Y])
    np.testing.assert_allclose(scaled.units, joined.units, rtol=1e-3)
    np.testing.assert_allclose(scaled.vectors, joined.vectors, atol=1e-3)
    # Two copies of one descriptor are worth as much as one.
    twice = diffusion.join([X, X]).vectors
    np.testing.assert_allclose(twice @ twice.T, unit_rows(X) @ unit_rows(X).T, atol=1e-5)


def test_a_squeezed_descriptor_has_its_say(rng):
    """The classes are crossings of two kinds, and each descriptor knows one of them."""
    kinds = np.arange(240) % 4, np.arange(240) // 4 % 3
    shapes = np.eye(4)[kinds[0]] + 0.25 * rng.standard_normal((240, 4))
    colours = 6 + np.eye(3)[kinds[1]] + 0.25 * rng.standard_normal((240, 3))
    labels = 3 * kinds[0] + kinds[1]

    def precision(vectors):
        ids = np.argsort(-vectors @ vectors.T, axis=1)[:, 1:]
        hits = diffusion.metrics.hits_from_labels(ids, labels, labels)
        return np.nanmean(diffusion.metrics.average_precision(*hits))

    plain = precision(np.hstack([unit_rows(shapes), unit_rows(colours)]))
    joined = precision(diffusion.join([shapes, colours]).vectors)
    assert joined > plain + 0.2
    assert plain > precision(unit_rows(shapes)) - 0.02


def test_queries_in_another_process_need_the_units_only(parts):
    joined = diffusion.join(parts)
    queries = [part[:5] + 0.1 for part in parts]
    elsewhere = diffusion.join(queries, units=joined.units)
    assert np.array_equal(elsewhere.vectors, joined(queries))
    assert elsewhere.units == joined.units
    # One query in, one row out.
    one = joined([part[0] for part in queries])
    assert np.array_equal(one, joined(queries)[0])


def test_other_types_and_missing_descriptors(parts):
    torch = pytest.importorskip("torch")
    joined = diffusion.join(parts)
    tensors = diffusion.join([torch.tensor(part, requires_grad=True) for part in parts])
    assert np.array_equal(tensors.vectors, joined.vectors)
    assert np.array_equal(joined([p[:2].tolist() for p in parts]), joined([p[:2] for p in parts]))
    assert joined([np.empty((0, 9)), np.empty((0, 5))]).shape == (0, 14)
    missing = joined([parts[0][:1], np.zeros((1, 5))])
    cosines = missing @ joined.vectors.T
    order = np.argsort(-cosines[0])
    assert np.array_equal(order, np.argsort(-(unit_rows(parts[0]) @ unit_rows(parts[0])[0])))


def test_a_sample_of_a_large_collection_is_enough(monkeypatch, parts):
    whole = diffusion.join(parts).units
    monkeypatch.setattr(joining, "_SAMPLE", 60)
    sample = diffusion.join(parts).units
    assert sample != whole
    np.testing.assert_allclose(sample, whole, rtol=0.15)
    assert sample == diffusion.join(parts).units


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((2, 5, 3)), "X: expected a list of arrays, one for each descriptor, got ndarray"),
        ([], "X: expected a list of arrays, one for each descriptor, got list of length 0"),
        ([np.eye(3), np.eye(4)], r"X: expected equal numbers of rows, got 3 in X\[0\] and 4 in X"),
        ([np.eye(3), [[1.0, np.nan]] * 3], r"X\[1\]: expected finite values, row 0"),
        ([np.eye(3), np.arange(3)], r"X\[1\]: expected shape \(n, d\)"),
        ([np.eye(5)[:, :2] - 0.1, np.ones((5, 3))], r"X\[1\]: expected items whose similarities"),
        ([np.ones((1, 2))], r"X\[0\]: expected items whose similarities differ"),
        ([np.ones((2, 2))], r"X\[0\]: expected items whose similarities differ"),
    ],
)  # fmt: skip
def test_wrong_descriptors(given, message):
    with pytest.raises(diffusion.DiffusionError, match=message):
        diffusion.join(given)


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ((0.1,), "units: expected one for each descriptor, got 1 and 2 in X"),
        ((0.1, 0.0), r"units\[1\]: expected a number in \(0"),
        ((0.1, "b"), r"units\[1\]: expected a number"),
        (0.1, "units: expected a sequence of 2 numbers, got 0.1"),
    ],
)
def test_wrong_units(units, message, parts):
    with pytest.raises(diffusion.DiffusionError, match=message):
        diffusion.join(parts, units=units)


def test_wrong_queries(parts):
    joined = diffusion.join(parts)
    with pytest.raises(diffusion.DiffusionError, match=r"units: .* got 2 and 1 in Q"):
        joined([parts[0]])
    with pytest.raises(diffusion.DiffusionError, match=r"dimensions \(9, 5\).* got \(5, 9\)"):
        joined([parts[1], parts[0]])
    with pytest.raises(diffusion.DiffusionError, match=r"rows, got 150 in Q\[0\] and 3 in Q\[1\]"):
        joined([parts[0], parts[1][:3]])
    for wrong in (parts[0], None):
        with pytest.raises(diffusion.DiffusionError, match="Q: expected a list of arrays"):
            joined(wrong)
