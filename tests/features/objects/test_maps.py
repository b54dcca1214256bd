"""Saliency maps of one image, on activations worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusion import DiffusionError
from features.objects import maps

# Two channels on 2 x 2 positions: the first responds in one of four, the second in all.
A = np.array([[[4.0, 0.0], [0.0, 0.0]], [[1.0, 1.0], [1.0, 2.0]]], np.float32)


def test_channel_weights_by_hand():
    share = np.array([0.25, 1.0])
    expected = np.log((share + 0.01).sum() / (share + 0.01))
    np.testing.assert_allclose(maps.channel_weights(A, epsilon=0.01), expected, rtol=1e-6)
    # A channel that never responds weighs most, and its zeros show nowhere.
    dead = np.concatenate([A, np.zeros((1, 2, 2), np.float32)])
    assert np.argmax(maps.channel_weights(dead)) == 2


def test_feature_saliency_by_hand():
    b = np.log((1.25 + 2e-6) / (np.array([0.25, 1.0]) + 1e-6))
    F = b[0] * A[0] + b[1] * A[1]
    np.testing.assert_allclose(
        maps.feature_saliency(A), np.sqrt(F / np.sqrt((F**2).sum())), rtol=1e-5
    )


def test_crow_saliency_by_hand():
    S = np.array([[5.0, 1.0], [1.0, 2.0]])
    np.testing.assert_allclose(maps.crow_saliency(A), np.sqrt(S / np.sqrt(31)), rtol=1e-6)


def test_class_activation_by_hand():
    head = np.array([[1.0, -1.0], [0.0, 1.0], [-1.0, 0.0]])
    # Means (1, 1.25): class scores -0.25, 1.25, -1.
    np.testing.assert_array_equal(maps.class_activation(A, head), A[1])
    np.testing.assert_array_equal(maps.class_activation(A, head, 0), [[3, 0], [0, 0]])
    signed = np.array([[[-2.0, 1.0]], [[0.0, 0.0]]])
    np.testing.assert_array_equal(maps.class_activation(signed, head, 2), [[2, 0]])


@pytest.mark.parametrize("saliency", [maps.feature_saliency, maps.crow_saliency])
def test_tensors_zeros_and_single_positions(saliency):
    np.testing.assert_array_equal(saliency(torch.from_numpy(A)), saliency(A))
    assert saliency(A).dtype == np.float32
    assert not saliency(np.zeros((3, 2, 2))).any()
    assert saliency(np.array([[[3.0]], [[0.0]]])).shape == (1, 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: maps.feature_saliency(A[0]), "activations: expected shape"),
        (lambda: maps.feature_saliency(np.zeros((2, 0, 3))), "none of them 0"),
        (lambda: maps.feature_saliency(-A), "ReLU"),
        (lambda: maps.crow_saliency(np.where(A > 3, np.nan, A)), "finite"),
        (lambda: maps.crow_saliency("photo.jpg"), "expected numbers"),
        (lambda: maps.channel_weights(A, epsilon=0), "epsilon"),
        (lambda: maps.class_activation(A, np.ones((3, 5))), "head: expected shape"),
        (lambda: maps.class_activation(A, np.ones((3, 2)), 3), "label"),
        (lambda: maps.localisation_precision(-A[0], [[0, 0, 1, 1]], 1, 0), "saliency"),
        (lambda: maps.localisation_precision(A[0], [0, 0, 1, 1], 1, 0), "boxes"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(DiffusionError, match=message):
        call()


def test_precision_by_hand():
    # Cells of 32 pixels, the first from -16 to 16: a box from 0 to 32 covers half of two of them.
    S = np.array([[1.0, 3.0, 4.0]])
    assert maps.localisation_precision(S, [[0, -16, 32, 16]], 32, -16) == pytest.approx(2 / 8)
    twice = [[0, -16, 32, 16], [0, -16, 32, 16]]
    assert maps.localisation_precision(S, twice, 32, -16) == pytest.approx(2 / 8)
    assert maps.localisation_precision(S, [[-99, -99, 999, 999]], 32, -16) == 1
    assert maps.localisation_precision(S, [[400, 0, 500, 9]], 32, -16) == 0
    assert np.isnan(maps.localisation_precision(0 * S, twice, 32, -16))


@given(seed=st.integers(0, 2**32 - 1))
def test_coverage_is_the_share_of_fine_samples_inside(seed):
    rng = np.random.default_rng(seed)
    # Corners on tenths of cells, so that sampling tenths is exact.
    first, second = rng.integers(-5, 60, (2, 3, 2))
    boxes = np.concatenate([np.minimum(first, second), np.maximum(first, second)], axis=1)
    fine = np.zeros((50, 40), bool)
    for left, top, right, bottom in np.clip(boxes, 0, None):
        fine[top:bottom, left:right] = True
    expected = fine.reshape(5, 10, 4, 10).mean(axis=(1, 3))
    np.testing.assert_allclose(
        maps.coverage(boxes * 2.0 + 7, (5, 4), 20.0, 7.0), expected, atol=1e-9
    )
