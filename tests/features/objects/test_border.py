"""The border prior, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from diffusion import DiffusionError
from features.objects.border import border_prior


def test_object_within_a_ring_of_background():
    V = np.zeros((3, 3, 2), np.float32)
    V[..., 0] = 1
    V[1, 1] = 0, 1
    prior = border_prior(V)
    # A cell of the ring resembles the eight of the ring, all on the border: con = 8 / sqrt(8).
    ring = np.exp(-8 / (2 * 0.49))
    expected = np.full((3, 3), ring)
    expected[1, 1] = 1
    np.testing.assert_allclose(prior, expected, rtol=1e-5)
    assert prior.dtype == np.float32


def test_similarity_counts_squared_and_opposites_do_not():
    c = np.cos(1.0)
    V = np.tile(np.float32([1, 0]), (3, 3, 1))
    V[1, 1] = c, np.sin(1.0)
    # The centre: a = c^2 with each of eight border cells, 1 with itself.
    con = 8 * c**2 / np.sqrt(1 + 8 * c**2)
    assert border_prior(V)[1, 1] == pytest.approx(np.exp(-(con**2) / 0.98), rel=1e-5)
    V[1, 1] = -1, 0
    assert border_prior(V)[1, 1] == 1


def test_prior_is_that_of_a_loop():
    rng = np.random.default_rng(0)
    V = rng.standard_normal((4, 6, 3))
    V /= np.linalg.norm(V, axis=-1, keepdims=True)
    expected = np.empty((4, 6))
    for p in np.ndindex(4, 6):
        on, total = 0.0, 0.0
        for q in np.ndindex(4, 6):
            a = max(float(V[p] @ V[q]), 0) ** 2
            total += a
            on += a if q[0] in (0, 3) or q[1] in (0, 5) else 0
        expected[p] = np.exp(-((on / np.sqrt(total)) ** 2) / (2 * 0.7**2))
    np.testing.assert_allclose(border_prior(V), expected, rtol=1e-4)


def test_ground_that_reaches_the_border_is_suppressed_everywhere():
    V = np.tile(np.float32([1, 0]), (9, 9, 1))
    V[3:6, 3:6] = 0, 1
    prior = border_prior(V)
    assert (prior[3:6, 3:6] == 1).all()
    assert prior[2, 2] < 0.01


def test_prior_is_positive():
    prior = border_prior(np.ones((3, 200, 1)))
    assert (prior > 0).all()
    assert (prior <= 1).all()


def test_cell_of_zeros_is_connected_to_nothing():
    assert (border_prior(np.zeros((3, 4, 2))) == 1).all()


@pytest.mark.parametrize("shape", [(2, 5), (5, 2), (1, 1)])
def test_maps_without_an_inside(shape):
    prior = border_prior(np.ones((*shape, 2)))
    assert prior.shape == shape
    assert prior.dtype == np.float32
    assert (prior == 1).all()


@pytest.mark.parametrize(
    "bad", [np.ones((3, 3)), np.ones((3, 3, 0)), np.full((3, 3, 1), np.inf), [[["a"]]]]
)
def test_bad_vectors(bad):
    with pytest.raises(DiffusionError, match=r"^vectors: expected"):
        border_prior(bad)
