"""Occlusion maps: against covering by hand, and of a filter whose pattern is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import features
from diffusion import DiffusionError
from tests.support.detectors import SIDE, Detector, noise, paste
from tests.support.networks import Tiny, disturbed
from tests.support.photos import pattern

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return disturbed(Tiny())


@torch.no_grad()
def largest(network, image, channel, layer=None):
    ready = network.normalize(torch.from_numpy(image).permute(2, 0, 1)[None])
    return float(network(ready, layer)[0, channel].max())


@pytest.mark.parametrize(("size", "stride"), [(None, None), (9, 4), (8, 8), (10, 3)])
def test_it_is_covering_by_hand(network, size, stride):
    image = pattern(34, 50, seed=3)
    found = features.occlusion(network, image, 5, size=size, stride=stride, fill=(10, 200, 30))
    assert (found.size, found.stride) == (size or 6, stride or 3)
    assert found.drops.shape == (-(-34 // found.stride), -(-50 // found.stride))
    whole = largest(network, image, 5)
    assert found.score == pytest.approx(whole, rel=1e-5)
    seen = np.zeros((34, 50), bool)
    for row, column in np.ndindex(found.drops.shape):
        left, top, right, bottom = found.box(row, column)
        # The square is around the middle of its place, and clipped.
        for low, high, place, end in ((left, right, column, 50), (top, bottom, row, 34)):
            start = place * found.stride - (found.size - found.stride) // 2
            assert (low, high) == (max(start, 0), min(start + found.size, end))
        covered = image.copy()
        covered[top:bottom, left:right] = (10, 200, 30)
        seen[top:bottom, left:right] = True
        expected = whole - largest(network, covered, 5)
        assert found.drops[row, column] == pytest.approx(expected, abs=1e-5 * abs(whole))
    assert seen.all()


def test_without_a_colour_it_is_the_mean_colour(network):
    image, mean = pattern(34, 50, seed=3), np.multiply(network.mean, 255)
    plain = features.occlusion(network, image, 5)
    assert plain.drops.any()
    given = features.occlusion(network, torch.from_numpy(image), 5, fill=mean)
    np.testing.assert_allclose(given.drops, plain.drops, atol=1e-5)
    grey = features.occlusion(network, image, 5, fill=100)
    three = features.occlusion(network, image, 5, fill=[100, 100, 100])
    np.testing.assert_array_equal(grey.drops, three.drops)


@pytest.mark.parametrize("layer", ["conv1", "pool1"])
def test_a_pattern_matters_and_nothing_else_does(layer):
    network, image = Detector(), noise(36, 44, seed=0)
    paste(image, 0, 12, 21)
    found = features.occlusion(network, image, 0, layer, size=SIDE, stride=3)
    assert found.score > 30
    # Covered, nothing is left of it.
    assert found.drops.max() == pytest.approx(found.score)
    covering = np.argwhere(found.drops > 0.99 * found.score).tolist()
    left, top = np.mean([found.box(*place)[:2] for place in covering], axis=0)
    assert abs(left - 21) <= 1
    assert abs(top - 12) <= 1
    for place in np.ndindex(found.drops.shape):
        left, top, right, bottom = found.box(*place)
        if right <= 21 or left >= 21 + SIDE or bottom <= 12 or top >= 12 + SIDE:
            assert found.drops[place] == pytest.approx(0, abs=1e-4)
    assert (found.drops >= -1e-4).all()
    # The other channel does not respond, and cannot respond less.
    assert not features.occlusion(network, image, 1, layer, size=SIDE).drops.any()


def test_any_score():
    network, image = Detector(), noise(40, 40, seed=0)
    paste(image, 0, 2, 3)
    paste(image, 0, 25, 27)
    whole = features.occlusion(network, image, 0, size=SIDE)
    # With one of two covered, the maximum stays and the sum is halved.
    assert np.abs(whole.drops).max() < 0.2 * whole.score
    total = features.occlusion(network, image, lambda maps: maps[:, 0].sum(dim=(1, 2)), size=SIDE)
    assert total.drops.max() == pytest.approx(total.score / 2, rel=0.2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image": np.zeros((40, 40))}, "image: expected shape"),
        ({"image": np.zeros((4, 4, 3), np.uint8)}, "images: expected sides of at least 16"),
        ({"score": 40}, "channels: expected different numbers from 0 to 31"),
        ({"score": "x"}, "channels: expected"),
        ({"score": lambda maps: maps}, "score: expected a callable that returns a Tensor of one"),
        ({"layer": "x"}, "layer: expected one of"),
        ({"size": 0}, "size: expected"),
        ({"size": 4, "stride": 5}, "stride: expected at most the size 4"),
        ({"stride": 0}, "stride: expected"),
        ({"fill": 256}, "fill: expected a number"),
        ({"fill": (1, 2)}, "fill: expected a number or three"),
        ({"fill": "grey"}, "fill: expected a number"),
    ],
)
def test_bad_arguments(network, options, message):
    options = {"image": pattern(40, 40, seed=0), "score": 0, **options}
    with pytest.raises(DiffusionError, match=message):
        features.occlusion(network, **options)
