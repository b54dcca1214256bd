from __future__ import annotations

import numpy as np
import pytest

import diffusion
from diffusion.affinity import make_affinity


def test_cosine_power_by_hand():
    affinity = make_affinity("cosine", "cosine", 3.0)
    scores = np.array([[1.0, 0.5, -0.5, -np.inf]], np.float32)
    affinity.fit(scores)
    np.testing.assert_allclose(affinity.weights(scores), [[1, 0.125, 0, 0]], rtol=1e-6)
    assert scores[0, 2] == -0.5  # the input is left alone


def test_inner_products_are_scaled_by_the_largest():
    affinity = make_affinity("cosine", "inner_product", 2.0)
    scores = np.array([[4e18, 1e18], [2e18, -np.inf]], np.float32)
    affinity.fit(scores)
    np.testing.assert_allclose(affinity.weights(scores), [[1, 1 / 16], [0.25, 0]], rtol=1e-6)


def test_observations_stay_in_the_range_of_float32():
    affinity = make_affinity("cosine", "cosine", 3.0)
    usual = affinity.observation(np.array([[0.5, 0.25, -np.inf]], np.float32))
    np.testing.assert_allclose(usual, [[0.125, 1 / 64, 0]])
    extreme = affinity.observation(np.array([[3e38, 1.5e38], [2e-30, 1e-30]], np.float32))
    np.testing.assert_allclose(extreme, [[1e18, 1e18 / 8], [1e-18, 1e-18 / 8]], rtol=1e-5)
    assert not affinity.observation(np.array([[-1.0, -np.inf]], np.float32)).any()
    gaussian = make_affinity("gaussian", "euclidean", 2.0)
    far = gaussian.observation(np.array([[-9000.0, -9001.0]], np.float32))
    np.testing.assert_allclose(far, [[1e-18, 1e-18 / np.e]], rtol=1e-6)


def test_gaussian_by_hand():
    affinity = make_affinity("gaussian", "euclidean", 3.0)
    scores = -np.array([[1.0, 4.0], [4.0, 9.0], [np.inf, np.inf]], np.float32)
    affinity.fit(scores)
    assert affinity.scale == 4.0
    expected = np.exp(-1.5 * np.array([[0.25, 1], [1, 2.25], [np.inf, np.inf]]))
    np.testing.assert_allclose(affinity.weights(scores), expected, rtol=1e-6)


def test_gaussian_scale_leaves_duplicates_out():
    affinity = make_affinity("gaussian", "euclidean", 3.0)
    affinity.fit(-np.array([[0, 0, 0, 4.0], [0, 0, 0, 4.0]], np.float32))
    assert affinity.scale == 4.0


def test_gaussian_of_tiny_distances():
    affinity = make_affinity("gaussian", "euclidean", 3.0)
    scores = -np.array([[1e-40, 4e-40], [4e-40, 0]], np.float32)
    affinity.fit(scores)
    assert np.isfinite(affinity.weights(scores)).all()


def test_gaussian_of_nothing_but_duplicates():
    affinity = make_affinity("gaussian", "euclidean", 3.0)
    affinity.fit(np.zeros((3, 2), np.float32))
    assert (affinity.weights(np.zeros(2, np.float32)) == 1).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("magic", "cosine", 3.0),
            "affinity: expected one of 'context', 'cosine', 'gaussian' or a Context, got 'magic'",
        ),
        (("cosine", "euclidean", 3.0), "expected affinity='context' or 'gaussian'"),
        (("gaussian", "cosine", 3.0), "expected affinity='context' or 'cosine'"),
        (("cosine", "cosine", 0.0), "gamma: expected a number in"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(diffusion.DiffusionError, match=message):
        make_affinity(*arguments)
