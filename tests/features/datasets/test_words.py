"""Visual words: what describes a place, the words, and the maps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffusion import DiffusionError
from features.datasets import words
from features.datasets.words import VisualWords
from tests.support.photos import pattern


def image(seed, height=64, width=96):
    return torch.from_numpy(pattern(height, width, seed)).permute(2, 0, 1) / 255


@pytest.fixture(scope="module")
def images():
    return torch.stack([image(seed) for seed in range(4)])


def test_a_place_is_described_by_its_window(images):
    places, energy = words._describe(images)
    assert places.shape == (4, 15, 4, 6)
    # The window of place (1, 2) at each scale is 32 pixels wide and begins 8 before 16 and 32.
    r, g, b = images[3].numpy().astype(float)
    opponent = np.stack([(r + g + b) / 3, (r - g) / 2, (r + g) / 4 - b / 2])
    window = opponent[:, 8:40, 24:56]
    expected = [window.std(axis=(1, 2)), window.mean(axis=(1, 2))]
    np.testing.assert_allclose(places[3, 9:, 1, 2], np.concatenate(expected), atol=1e-5)
    kernels = words._derivatives()[:, 0].numpy().astype(float)
    total = 0.0
    for number, scale in enumerate((1, 2, 4)):
        small = opponent.reshape(3, 64 // scale, scale, 96 // scale, scale).mean(axis=(2, 4))
        padded = np.pad(small, ((0, 0), (3, 3), (3, 3)))
        side = 32 // scale
        strengths = np.zeros(3)
        for y in range(8 // scale, 8 // scale + side):
            for x in range(24 // scale, 24 // scale + side):
                around = padded[:, y : y + 7, x : x + 7]
                strengths += np.abs(np.einsum("cyx,kyx->ck", around, kernels)).sum(axis=1)
        strengths /= side**2
        total += strengths.sum()
        found = places[3, 3 * number : 3 * number + 3, 1, 2].double().numpy()
        np.testing.assert_allclose(found**2, strengths, rtol=1e-3, atol=1e-6)
    assert float(energy[3, 0, 1, 2]) == pytest.approx(total, rel=1e-4)


def test_what_is_turned_by_a_quarter_is_described_alike(images):
    places, energy = words._describe(images)
    turned, its = words._describe(images.rot90(1, (2, 3)))
    torch.testing.assert_close(turned, places.rot90(1, (2, 3)), atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(its, energy.rot90(1, (2, 3)), atol=1e-5, rtol=1e-3)


def test_maps_are_thresholded_cosines_times_energy(images):
    trunk = VisualWords(images, 20, seed=3)
    maps = trunk(images)
    assert maps.shape == (4, 20, 4, 6)
    places, energy = (part.double().numpy() for part in words._describe(images))
    P, mean, W = (getattr(trunk, n).double().numpy() for n in ("projection", "mean", "words"))
    u = (places[2, :, 3, 1] - mean) @ P
    expected = np.maximum(W @ u / np.linalg.norm(u) - 0.7, 0) * energy[2, 0, 3, 1]
    np.testing.assert_allclose(maps[2, :, 3, 1], expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(W, axis=1), 1, rtol=1e-5)
    torch.testing.assert_close(VisualWords(images, 20, seed=3)(images), maps)
    assert not torch.equal(VisualWords(images, 20, seed=4).words, trunk.words)


def test_smooth_surfaces_stay_dark():
    flat = torch.full((1, 3, 96, 96), 0.3)
    flat[0, :, :48, :48] = torch.rand(3, 48, 48, generator=torch.Generator().manual_seed(0))
    maps = VisualWords(flat, 36)(flat).sum(dim=1)[0]
    # Away from the border of the image, where the zeros around it are seen.
    assert maps[4, 4] < 0.01 * maps[:2, :2].min()


def test_centres_are_where_the_points_are():
    rng = np.random.default_rng(0)
    axes = torch.eye(3, dtype=torch.float64).repeat_interleave(40, dim=0)
    points = axes + 0.05 * torch.from_numpy(rng.standard_normal((120, 3)))
    points = torch.nn.functional.normalize(points)
    # Of ten seeds some draw a first centre from each of the three clusters.
    best = min(
        float((1 - (points @ words._k_means(points, 3, seed).T).amax(dim=1)).sum())
        for seed in range(10)
    )
    means = torch.nn.functional.normalize(points.reshape(3, 40, 3).sum(dim=1))
    assert best == pytest.approx(float((1 - (points @ means.T).amax(dim=1)).sum()), rel=1e-6)


def test_fewer_places_than_words_are_as_many_words():
    trunk = VisualWords(image(1)[None], 1000)
    assert len(trunk.words) == 13  # the stronger half of 4 x 6, and the one between


@pytest.mark.parametrize(
    ("images", "settings", "message"),
    [
        (torch.zeros(1, 1, 64, 64), {}, r"^images: expected shape \(n, 3"),
        (torch.zeros(1, 3, 31, 64), {}, r"^images: .*at least 32"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), {}, "^images: expected floats"),
        (torch.zeros(1, 3, 64, 64), {"words": 0}, "^words:"),
        (torch.zeros(1, 3, 64, 64), {"seed": -1}, "^seed:"),
    ],
)
def test_bad_input_is_named(images, settings, message):
    with pytest.raises(DiffusionError, match=message):
        VisualWords(images, **settings)
