from __future__ import annotations

import numpy as np
import pytest

from bench.data import several


def test_orientations_of_a_slope():
    slope = np.arange(8.0) + np.zeros((8, 8))
    histograms = several.orientations(np.array([slope, slope.T, -3 * slope])).reshape(3, 16, 8)
    # 0 is to the left, 2 upwards, 4 to the right and 6 downwards; four pixels in a cell.
    for histogram, direction, strength in zip(histograms, (4, 6, 0), (4, 4, 12), strict=True):
        np.testing.assert_allclose(histogram[:, direction], strength)
        np.testing.assert_allclose(histogram.sum(axis=1), strength)
    image = np.zeros((8, 8))
    image[6, 1] = 1
    assert several.orientations(image[None]).reshape(4, 4, 8)[:2].sum() == 0
    assert several.orientations(image[None]).reshape(4, 4, 8)[3, 0].sum() > 0


def test_colours_of_two_halves(tmp_path):
    image = pytest.importorskip("PIL.Image")
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, :16] = 255, 0, 0
    image.fromarray(pixels).save(tmp_path / "photo.png")
    histogram = several.colours_of(str(tmp_path / "photo.png"))
    # A quarter is of hue 0, full saturation and value; the rest is black.
    assert histogram.nonzero()[0].tolist() == [0, 15]
    np.testing.assert_allclose(histogram[[0, 15]] ** 2, [48 * 64, 16 * 64])


def test_without_photos_there_are_the_digits(monkeypatch, tmp_path):
    monkeypatch.setenv("DIFFUSION_DATA", str(tmp_path))
    (digits,) = several.several()
    assert list(digits.descriptors) == ["pixels", "orientations"]
    assert np.array_equal(digits.descriptors["pixels"][0], digits.collection.gallery)
    assert digits.descriptors["orientations"][1].shape == (297, 128)
