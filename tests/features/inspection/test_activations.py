"""The strongest images of each channel: against all activations, and where a pattern is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import features
from diffusion import DiffusionError
from features.inspection.activations import Ranking
from tests.support.detectors import SIDE, Detector, noise, paste
from tests.support.networks import Tiny, disturbed
from tests.support.photos import pattern

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return disturbed(Tiny())


@pytest.fixture(scope="module")
def images():
    """Images of three sizes, in runs of one to four."""
    sizes = [(40, 56)] * 4 + [(56, 40)] + [(40, 56)] * 2 + [(33, 48)] * 4
    return [pattern(*size, seed=seed) for seed, size in enumerate(sizes)]


@torch.no_grad()
def by_hand(network, images, layer):
    """Return the map (c, h, w) of each image, one at a time."""
    maps = []
    for image in images:
        ready = network.normalize(torch.from_numpy(image).permute(2, 0, 1)[None])
        maps.append(network(ready, layer)[0].numpy())
    return maps


@pytest.mark.parametrize("layer", ["conv1", None])
@pytest.mark.parametrize("count", [1, 4, 50])
def test_it_is_the_largest_of_all_activations(network, images, layer, count):
    found = features.top_activations(network, iter(images), layer, count=count)
    maps = by_hand(network, images, layer)
    field = features.receptive_field(network, layer)
    k = min(count, len(images))
    assert found.channels.tolist() == list(range(len(maps[0])))
    assert found.images.shape == found.values.shape == (len(maps[0]), k)
    largest = np.array([m.max(axis=(1, 2)) for m in maps]).T
    np.testing.assert_allclose(found.values, -np.sort(-largest, axis=1)[:, :k], rtol=1e-5)
    for channel in found.channels:
        assert len(set(found.images[channel].tolist())) == k
        for number, value, (row, column), box in zip(
            found.images[channel], found.values[channel], found.cells[channel],
            found.boxes[channel], strict=True,
        ):  # fmt: skip
            np.testing.assert_allclose(maps[number][channel, row, column], value, rtol=1e-5)
            np.testing.assert_allclose(largest[channel, number], value, rtol=1e-5)
            height, width = images[number].shape[:2]
            left, top, right, bottom = field.box(row, column)
            assert box.tolist() == [
                max(left, 0),
                max(top, 0),
                min(right, width),
                min(bottom, height),
            ]


def test_some_channels_and_a_tensor(network, images):
    whole = features.top_activations(network, images[:4], count=2)
    some = features.top_activations(
        network, torch.from_numpy(np.stack(images[:4])), channels=[7, 2], count=2
    )
    assert some.channels.tolist() == [7, 2]
    for name in ("images", "cells", "boxes"):
        np.testing.assert_array_equal(getattr(some, name), getattr(whole, name)[[7, 2]])


def test_a_filter_finds_its_pattern():
    photos = [noise(60, 70, seed) for seed in range(8)]
    places = {1: (20, 30, 1.0), 4: (0, 0, 0.9), 6: (51, 61, 0.8)}
    for number, (top, left, strength) in places.items():
        paste(photos[number], 0, top, left, strength)
    paste(photos[2], 1, 5, 6)
    network = features.RetrievalNetwork(Detector())
    found = features.top_activations(network, photos, "conv1", count=3)
    assert found.images[0].tolist() == [1, 4, 6]
    for box, (top, left, _) in zip(found.boxes[0].tolist(), places.values(), strict=True):
        assert box == [left, top, left + SIDE, top + SIDE]
    assert found.images[1, 0] == 2
    assert found.boxes[1, 0].tolist() == [6, 5, 6 + SIDE, 5 + SIDE]
    # Nowhere else is there anything; of equal ones the first comes first.
    assert found.values[1].tolist()[1:] == [0, 0]
    assert found.images[1].tolist()[1:] == [0, 1]
    # The pooled cell sees the pattern, too.
    left, top, right, bottom = features.top_activations(network, photos).boxes[0, 0]
    assert left <= 30 < 30 + SIDE <= right
    assert top <= 20 < 20 + SIDE <= bottom


def test_the_order_of_batches_does_not_matter(rng):
    values = rng.integers(0, 4, (30, 5)).astype(np.float32)  # many of them equal
    cells = rng.integers(0, 9, (30, 5, 2))
    rankings = []
    for order in (np.arange(30), rng.permutation(30)):
        ranking = Ranking(5, 7)
        for part in np.array_split(order, 6):
            ranking.add(part.tolist(), values[part], cells[part])
        rankings.append(ranking)
    expected = np.argsort(-values.T, axis=1, kind="stable")[:, :7]
    for ranking in rankings:
        np.testing.assert_array_equal(ranking.numbers, expected)
        for channel in range(5):
            np.testing.assert_array_equal(ranking.cells[channel], cells[expected[channel], channel])


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        ([], {}, "images: expected at least one"),
        (3, {}, "images: expected images"),
        ([np.zeros((40, 40), np.uint8)], {}, r"images\[0\]: expected shape"),
        ([np.zeros((40, 40, 3))], {}, r"images\[0\]: expected shape .* float64"),
        ([np.zeros((8, 40, 3), np.uint8)], {}, "images: expected sides of at least 16"),
        ([], {"count": 0}, "count: expected an integer of at least 1"),
        ([], {"layer": "conv9"}, "layer: expected one of 'conv1', 'conv2'"),
        ([], {"channels": [32]}, "channels: expected different numbers from 0 to 31"),
        ([], {"channels": [1, 1]}, "channels: expected different numbers"),
        ([], {"channels": []}, "channels: expected a sequence of integers"),
        ([], {"channels": 3}, "channels: expected a sequence of integers"),
        ([], {"channels": [0.5]}, "channels: expected a sequence of integers"),
    ],
)
def test_bad_arguments(network, images, options, message):
    with pytest.raises(DiffusionError, match=message):
        features.top_activations(network, images, **options)


def test_activations_that_are_no_numbers():
    network = Tiny().eval()
    nn.init.constant_(network.conv1.bias, float("nan"))
    with pytest.raises(DiffusionError, match="conv2 of tiny has activations that are not"):
        features.top_activations(network, [pattern(40, 40, seed=0)])
