"""The parts of `python -m bench pretext` that measure: retrieval, and what is drawn."""

from __future__ import annotations

import numpy as np
import pytest

from bench.pretext import benchmark
from bench.pretext.judging import judge_histograms, precision_of
from tests.support.photos import png

pytestmark = pytest.mark.usefixtures("one_thread")


def test_separate_classes_are_found_and_random_ones_are_not(rng):
    files = [f"{number % 5}/{number}.png" for number in range(60)]
    centres = np.eye(5, 16)[np.arange(60) % 5]
    X = (centres + 0.05 * rng.standard_normal((60, 16))).astype(np.float32)
    found = precision_of(X, files)
    assert found.cosine == 100
    assert found.diffused > 95
    found = precision_of(rng.standard_normal((60, 16)).astype(np.float32), files)
    assert 10 < found.cosine < 40
    assert 10 < found.diffused < 40


def test_histograms_tell_colours(tmp_path, rng):
    for label, colour in enumerate(((200, 20, 20), (20, 200, 20), (20, 20, 200))):
        (tmp_path / str(label)).mkdir()
        for number in range(4):
            pixels = np.clip(colour + rng.integers(-10, 10, (16, 16, 3)), 0, 255)
            (tmp_path / str(label) / f"{number}.png").write_bytes(png(pixels.astype(np.uint8)))
    assert judge_histograms(tmp_path, 16).cosine == 100


def test_without_photos_of_groceries_it_says_so(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("DIFFUSION_DATA", str(tmp_path))
    assert benchmark.run(long=True) == []
    assert "skipped" in capsys.readouterr().out


def test_no_drawn_object_is_learned_from_and_judged_by(monkeypatch, tmp_path):
    for name, value in (("_CLIPS", 2), ("_OBJECTS", 2), ("_PICTURES", 3)):
        monkeypatch.setattr(benchmark, name, value)
    given = []
    monkeypatch.setattr(benchmark, "compare", lambda *arguments: given.extend(arguments))
    benchmark.drawn(tmp_path)
    _, lesson, _, weights = given
    assert weights is None
    assert [len(list(clip.iterdir())) for clip in sorted(lesson.clips.iterdir())] == [4, 4]
    assert [len(list(one.iterdir())) for one in sorted(lesson.judged.iterdir())] == [3, 3]
    assert lesson.judged not in (lesson.clips, lesson.photos)
