"""Made clips: what moves in them, and by how much."""

from __future__ import annotations

import numpy as np
import pytest

from diffusion import DiffusionError
from features.datasets.clips import make_object_clip, moving_object, pan, write_clip
from features.images.reading import find_images


def ramp(height, width):
    """A photo whose red is the row and whose green is the column."""
    down, across = np.mgrid[:height, :width]
    return np.stack([down, across, np.zeros_like(down)], axis=2).astype(np.uint8)


def test_a_view_moves_evenly_over_the_photo():
    for seed in range(5):
        frames = pan(ramp(200, 250), np.random.default_rng(seed), frames=5, side=48)
        assert frames.shape == (5, 48, 48, 3)
        centres = frames[:, 23:25, 23:25, :2].mean(axis=(1, 2))
        steps = np.diff(centres, axis=0)
        assert np.linalg.norm(steps, axis=1).min() > 3
        np.testing.assert_allclose(steps, np.broadcast_to(steps.mean(axis=0), (4, 2)), atol=1.5)


def test_an_object_moves_over_a_still_background():
    sprite = np.ones((64, 64, 4), np.float32)
    frames = moving_object(sprite, np.zeros((64, 64, 3)), np.random.default_rng(3), frames=4)
    white = frames[..., 0] == 255
    middles = np.array([np.argwhere(one).mean(axis=0) for one in white])
    assert np.abs(middles[-1] - middles[0]).sum() > 2
    # Nothing but the object is light, and it is a square.
    for one in white:
        rows, columns = (np.flatnonzero(one.any(axis=axis)) for axis in (1, 0))
        assert one.sum() == len(rows) * len(columns)
        assert len(rows) == len(columns)


def test_clips_depend_on_the_seed_alone(tmp_path):
    first, again, other = (make_object_clip(np.random.default_rng(s), 3, 32) for s in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()
    write_clip(tmp_path / "a", first)
    assert find_images(tmp_path / "a") == ["000.jpg", "001.jpg", "002.jpg"]


def test_a_clip_has_two_frames_or_more():
    with pytest.raises(DiffusionError, match=r"^frames:"):
        pan(ramp(20, 20), np.random.default_rng(0), frames=1)
