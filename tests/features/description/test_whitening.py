"""Whitening: what it must make of covariances, and files."""

from __future__ import annotations

import io
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import features.description.whitening
from diffusion import DiffusionError
from diffusion.baselines import expansion
from features import Whitening, learn_pca, learn_supervised, load_whitening
from features.description.whitening import Moments, pairs_of


@pytest.fixture
def X(rng):  # noqa: N802
    """Unit vectors of uneven variance around a mean."""
    return expansion.normalize(rng.standard_normal((300, 6)) * [5, 3, 2, 1, 1, 0.5] + 1)


def raw(whitening, X):
    """Apply a whitening without the normalisation."""
    return (X - whitening.mean) @ whitening.projection.T


def covariance(Y):
    return Y.T @ Y / len(Y)


def test_pca_makes_the_covariance_the_identity(X):
    whitening = learn_pca(X, shrinkage=0)
    Y = raw(whitening, X.astype(np.float64))
    np.testing.assert_allclose(Y.mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(covariance(Y), np.eye(6), atol=1e-7)
    # The first direction is the one of most variance.
    lengths = np.linalg.norm(whitening.projection, axis=1)
    assert (np.diff(lengths) > 0).all()
    variances = np.linalg.eigvalsh(np.cov(X.T.astype(np.float64), bias=True))[::-1]
    np.testing.assert_allclose(lengths, variances**-0.5, rtol=1e-6)


def test_pca_with_shrinkage_by_hand(X):
    variances = np.linalg.eigvalsh(np.cov(X.T.astype(np.float64), bias=True))[::-1]
    whitening = learn_pca(X, 2, shrinkage=0.3)
    expected = (0.7 * variances[:2] + 0.3 * variances.mean()) ** -0.5
    np.testing.assert_allclose(np.linalg.norm(whitening.projection, axis=1), expected, rtol=1e-6)
    # All of it: a rotation and one scale.
    whole = learn_pca(X, shrinkage=1).projection
    np.testing.assert_allclose(whole @ whole.T, np.eye(6) / variances.mean(), rtol=1e-6, atol=1e-6)


def test_default_shrinkage_is_ledoit_and_wolfs_and_vanishes_with_samples(rng):
    from sklearn.covariance import LedoitWolf

    few = expansion.normalize(rng.standard_normal((40, 30))).astype(np.float64)
    estimate = LedoitWolf().fit(few)
    Y = raw(learn_pca(few), few)
    variances = np.linalg.eigvalsh(estimate.covariance_)[::-1]
    directions = np.linalg.eigvalsh(np.cov(few.T, bias=True))[::-1]
    np.testing.assert_allclose(np.diag(covariance(Y)), directions / variances, rtol=1e-6)

    many = expansion.normalize(rng.standard_normal((20_000, 4)) * [4, 2, 1, 1])
    a, b = (learn_pca(many, shrinkage=s).projection for s in (None, 0))
    np.testing.assert_allclose(a, b, rtol=0.01)


@pytest.mark.parametrize("shrinkage", [None, 0.0, 0.3])
def test_moments_give_the_pca_of_all_descriptors(rng, monkeypatch, shrinkage):
    monkeypatch.setattr(features.description.whitening, "_ROWS", 16)
    X = rng.standard_normal((150, 7)) @ rng.standard_normal((7, 7)) + 3
    X[40] = 0  # stays 0
    moments = Moments(7)
    for start, stop in [(0, 1), (1, 30), (30, 100), (100, 150)]:
        moments.add(X[start:stop])
    assert moments.count == 150
    for dimension in (None, 4):
        expected = learn_pca(X, dimension, shrinkage=shrinkage)
        found = moments.pca(dimension, shrinkage=shrinkage)
        np.testing.assert_allclose(found.mean, expected.mean, atol=1e-9)
        np.testing.assert_allclose(found.projection, expected.projection, rtol=1e-5, atol=1e-6)
    unit = X / np.maximum(np.linalg.norm(X, axis=1, keepdims=True), 1e-30)
    covariance = moments.pca(shrinkage=0.0)
    white = (unit - covariance.mean) @ covariance.projection.T
    np.testing.assert_allclose(np.cov(white.T, bias=True), np.eye(7), atol=1e-5)


def test_moments_of_too_few_or_equal_descriptors(X):
    moments = Moments(X.shape[1])
    moments.add(X[:1])
    with pytest.raises(DiffusionError, match="at least 2"):
        moments.pca()
    moments.add(X[:1])
    with pytest.raises(DiffusionError, match="all are equal"):
        moments.pca()
    with pytest.raises(DiffusionError, match="dimension"):
        moments.add(X[:, 1:])


def test_supervised_makes_differences_white_and_sorts_by_variance(rng):
    labels = np.repeat(np.arange(60), 5)
    centres = rng.standard_normal((60, 6)) * [1, 2, 1, 3, 1, 1]
    noise = rng.standard_normal((300, 6)) @ rng.standard_normal((6, 6))
    X = expansion.normalize(4 + centres[labels] + noise / 2)
    pairs = pairs_of(labels)
    whitening = learn_supervised(X, pairs, shrinkage=0)
    Y = raw(whitening, X.astype(np.float64))
    difference = Y[pairs[:, 0]] - Y[pairs[:, 1]]
    np.testing.assert_allclose(covariance(difference), np.eye(6), atol=1e-8)
    spread = covariance(Y)
    np.testing.assert_allclose(spread, np.diag(np.diag(spread)), atol=1e-7)
    assert (np.diff(np.diag(spread)) < 0).all()
    np.testing.assert_allclose(whitening.mean, X[pairs[:, 0]].mean(axis=0), rtol=1e-5)


def test_supervised_in_blocks_is_that_of_all_at_once(rng, monkeypatch):
    X = expansion.normalize(rng.standard_normal((50, 4)) + 1)
    pairs = pairs_of(rng.integers(5, size=50))
    whole = [learn_supervised(X, pairs), learn_pca(X)]
    monkeypatch.setattr(features.description.whitening, "_ROWS", 7)
    for expected, found in zip(whole, (learn_supervised(X, pairs), learn_pca(X)), strict=True):
        np.testing.assert_allclose(found.projection, expected.projection, rtol=1e-8)
        np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-12)


def test_supervised_shrinkage_is_ledoit_and_wolfs_of_the_differences(rng):
    from sklearn.covariance import ledoit_wolf_shrinkage

    X = expansion.normalize(rng.standard_normal((30, 12))).astype(np.float64)
    pairs = pairs_of(np.arange(30) % 10)
    differences = X[pairs[:, 0]] - X[pairs[:, 1]]
    share = ledoit_wolf_shrinkage(differences, assume_centered=True)
    assert 0.1 < share < 0.9
    np.testing.assert_allclose(
        learn_supervised(X, pairs).projection,
        learn_supervised(X, pairs, shrinkage=share).projection,
        rtol=1e-5,
    )


def test_supervised_finds_what_pairs_have_in_common(rng):
    # Identity is in the first six coordinates; the others, larger, differ within a pair.
    labels = np.repeat(np.arange(40), 4)
    X = np.hstack([rng.standard_normal((40, 6))[labels], 3 * rng.standard_normal((160, 4))])
    X = expansion.normalize(np.hstack([X, np.full((160, 1), 60.0)]))

    def hits(Y):
        similarity = Y @ Y.T
        np.fill_diagonal(similarity, -2)
        return np.mean(labels[similarity.argmax(axis=1)] == labels)

    supervised = learn_supervised(X, pairs_of(labels), 6).apply(X)
    assert hits(X) < 0.2
    assert hits(supervised) > 0.9
    assert hits(learn_pca(X, 4).apply(X)) < 0.2


def test_apply_normalises_before_and_after(X):
    whitening = learn_pca(X)
    Y = whitening.apply(X)
    assert Y.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(Y, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(whitening.apply(X * 7.0), Y, atol=1e-5)
    expected = raw(whitening, X.astype(np.float64))
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(Y, expected, atol=1e-5)


def test_reduction_keeps_the_first_directions(X):
    whitening = learn_pca(X)
    np.testing.assert_array_equal(learn_pca(X, 3).projection, whitening.projection[:3])
    np.testing.assert_array_equal(whitening.reduced(3).projection, whitening.projection[:3])
    pairs = pairs_of(np.arange(300) % 50)
    np.testing.assert_array_equal(
        learn_supervised(X, pairs, 2).projection, learn_supervised(X, pairs).projection[:2]
    )
    with pytest.raises(DiffusionError, match=r"^dimension:"):
        whitening.reduced(7)


def test_fewer_descriptors_than_dimensions(rng):
    X = rng.standard_normal((5, 20))
    assert learn_pca(X).dimension == 4
    with pytest.raises(DiffusionError, match=r"^dimension: expected at most 4"):
        learn_pca(X, 5)
    pairs = [[0, 1], [2, 3]]
    assert learn_supervised(X, pairs).dimension == 20
    with pytest.raises(DiffusionError, match=r"^pairs: .* 20 directions"):
        learn_supervised(X, pairs, shrinkage=0)


@given(st.lists(st.integers(0, 4), min_size=2, max_size=12), st.integers(1, 9))
def test_pairs_of_labels(labels, most):
    expected = {(i, j) for j in range(len(labels)) for i in range(j) if labels[i] == labels[j]}
    if not expected:
        with pytest.raises(DiffusionError, match=r"^labels:"):
            pairs_of(labels)
        return
    assert {tuple(pair) for pair in pairs_of(labels).tolist()} == expected
    some = pairs_of(labels, most=most)
    assert len(some) == min(most, len(expected))
    assert {tuple(pair) for pair in some.tolist()} <= expected
    np.testing.assert_array_equal(some, pairs_of(labels, most=most))


def test_pairs_of_one_large_label_are_not_all_written_out():
    labels = np.concatenate([[7, 7], np.zeros(300_000, int), [9]])  # 45,000 million pairs
    pairs = pairs_of(labels, most=1000)
    assert len(np.unique(pairs, axis=0)) == 1000
    assert (pairs[:, 0] >= 2).all()
    assert (pairs[:, 0] < pairs[:, 1]).all()
    assert pairs[:, 1].max() < 300_002
    # Uniform: the mean of the larger of two is two thirds of the way.
    assert abs(pairs[:, 1].mean() / 300_000 - 2 / 3) < 0.03


def test_file_gives_the_whitening_back(X, tmp_path):
    whitening = learn_pca(X, 4)
    whitening.save(tmp_path / "w.npz")
    again = load_whitening(tmp_path / "w.npz")
    np.testing.assert_array_equal(again.mean, whitening.mean)
    np.testing.assert_array_equal(again.projection, whitening.projection)
    whitening.save(tmp_path / "v.npz")
    assert (tmp_path / "v.npz").read_bytes() == (tmp_path / "w.npz").read_bytes()


def array_file():
    """Return the bytes of an .npy."""
    with io.BytesIO() as file:
        np.save(file, np.zeros(3))
        return file.getvalue()


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(b"no archive"),
        lambda path: np.savez(path, mean=np.zeros(3)),
        lambda path: np.savez(path, mean=np.zeros(3), projection=np.zeros((2, 4))),
        lambda path: np.savez(path, mean=np.zeros(3), projection=np.full((2, 3), np.nan)),
        lambda path: np.savez(path, mean=np.array(["a"]), projection=np.zeros((2, 1))),
        lambda path: path.write_bytes(array_file()),
    ],
)
def test_what_is_no_whitening_is_refused(write, tmp_path):
    write(tmp_path / "w.npz")
    with pytest.raises(DiffusionError, match=r"w\.npz: expected a whitening"):
        load_whitening(tmp_path / "w.npz")


def test_whatever_byte_is_damaged_it_is_one_error(tmp_path):
    path = tmp_path / "w.npz"
    Whitening(np.arange(3.0), np.eye(3)[:2]).save(path)
    whole = path.read_bytes()
    refused = 0
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            load_whitening(path)
        except DiffusionError:
            refused += 1
    assert refused > len(whole) // 2


def test_a_bomb_is_refused_before_it_is_inflated(tmp_path):
    # 200 MB of zeros in 200 kB.
    np.savez_compressed(tmp_path / "w.npz", mean=np.zeros(5000), projection=np.zeros((5000, 5000)))
    tracemalloc.start()
    with pytest.raises(DiffusionError, match="would take 200000128 bytes of memory"):
        load_whitening(tmp_path / "w.npz")
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


def test_missing_files_are_named(X, tmp_path):
    with pytest.raises(DiffusionError, match="cannot be read"):
        load_whitening(tmp_path / "absent.npz")
    with pytest.raises(DiffusionError, match="cannot be written"):
        learn_pca(X).save(tmp_path / "absent" / "w.npz")


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda X: learn_pca(X[:1]), "X"),
        (lambda X: learn_pca(np.ones((4, 3))), "X"),
        (lambda X: learn_pca(X, 0), "dimension"),
        (lambda X: learn_pca(X, shrinkage=1.5), "shrinkage"),
        (lambda X: learn_supervised(X, [[0, 0]]), "pairs"),
        (lambda X: learn_supervised(X, [[0, 300]]), "pairs"),
        (lambda X: learn_supervised(X, [0, 1]), "pairs"),
        (lambda X: learn_supervised(X, np.empty((0, 2), int)), "pairs"),
        (lambda X: learn_supervised(X, [[0, 1]], 7), "dimension"),
        (lambda X: learn_pca(X).apply(X[:, :4]), "X"),
        (lambda X: Whitening(np.zeros(2), np.zeros((2, 3))), "whitening"),
        (lambda X: pairs_of([[1, 1]]), "labels"),
    ],
)
def test_bad_arguments_are_named(X, call, name):
    with pytest.raises(DiffusionError, match=f"^{name}:"):
        call(X)
