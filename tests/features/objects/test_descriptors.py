"""Descriptors of salient regions, worked by hand and against a plain loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffusion import DiffusionError
from features.networks.pooling import rmac_regions
from features.objects.descriptors import sum_of_regions, weighted_mac
from features.objects.egm import EGM, Regions

# Two channels on a row of four positions; regions on the first two and on the last.
A = np.array([[[3.0, 0, 0, 0]], [[4.0, 2, 9, 1]]], np.float32)
REGIONS = Regions(np.array([[0, 0, 2, 1], [3, 0, 4, 1]], float), np.array([0.75, 0.25]))
NOTHING = Regions(np.empty((0, 4)), np.empty(0))


def unit(*values):
    return np.array(values) / np.linalg.norm(values)


def test_sums_by_hand():
    # MACs (3, 4) and (0, 1), normalised (0.6, 0.8) and (0, 1).
    np.testing.assert_allclose(sum_of_regions(A, REGIONS), unit(0.6, 1.8), rtol=1e-6)
    np.testing.assert_allclose(
        sum_of_regions(torch.from_numpy(A), REGIONS, weights="weighted"),
        unit(0.45, 0.85),
        rtol=1e-6,
    )


def test_weighted_mac_by_hand():
    S = [[0.5, 0, 0.1, 2]]
    np.testing.assert_allclose(weighted_mac(A, S), unit(1.5, 2.0), rtol=1e-6)


def test_without_saliency_it_is_mac():
    np.testing.assert_allclose(sum_of_regions(A, NOTHING), unit(3, 9), rtol=1e-6)
    np.testing.assert_allclose(weighted_mac(A, np.zeros((1, 4))), unit(3, 9), rtol=1e-6)
    assert not sum_of_regions(0 * A, REGIONS).any()
    assert not weighted_mac(0 * A, np.ones((1, 4))).any()


@pytest.mark.parametrize("weights", ["plain", "weighted"])
def test_uniform_sampling_equals_a_loop(weights, rng):
    maps = rng.random((5, 9, 11)).astype(np.float32)
    regions = EGM(exponent=3.0, threshold=0.4).regions(rng.random((9, 11)))
    total = np.zeros(5)
    for (top, left, height, width), pi in zip(regions.cells(), regions.weights, strict=True):
        part = maps[:, top : top + height, left : left + width]
        for t, g, h, w in rmac_regions(height, width, levels=2):
            mac = part[:, t : t + h, g : g + w].max(axis=(1, 2))
            total += mac / np.linalg.norm(mac) * (pi if weights == "weighted" else 1)
    np.testing.assert_allclose(
        sum_of_regions(maps, regions, weights=weights, uniform=True), unit(*total), rtol=1e-5
    )


def test_bad_input_is_named():
    with pytest.raises(DiffusionError, match="saliency"):
        weighted_mac(A, [[1.0]])
    with pytest.raises(DiffusionError, match="weights"):
        sum_of_regions(A, REGIONS, weights="some")
    with pytest.raises(DiffusionError, match="activations"):
        sum_of_regions(A[0], REGIONS)
