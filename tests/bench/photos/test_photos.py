"""The parts of `python -m bench features` on few photos; they need the data."""

from __future__ import annotations

import pytest

from bench.data.collections import data_folder
from bench.photos import benchmark
from bench.photos.classification import ICONIC, classification
from bench.photos.extraction import overhead

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def weights():
    file = data_folder() / "weights" / "mobilenet_v2.safetensors"
    if not file.exists() or not (data_folder() / "grocery").exists():
        pytest.skip("grocery and MobileNetV2's weights are not in DIFFUSION_DATA")
    return file


def test_most_product_pictures_are_recognised(weights):
    table = classification(weights, data_folder() / "grocery" / "iconic")
    assert {row[0] for row in table.rows} == set(ICONIC)
    hits = sum(row[1] == row[2] for row in table.rows)
    assert hits >= 10
    assert table.notes == [f"{hits} of {len(ICONIC)} predictions are right."]


def test_extraction_is_timed_beside_bare_loops(weights):
    folder = data_folder() / "grocery" / "test" / "Packages"
    table = overhead(weights, folder, sizes=(65,), images=3, rounds=1)
    ((size, *speeds, plain, folded),) = table.rows
    assert size == 65
    assert "3 photos" in table.title
    assert min(speeds[:2]) > 0
    assert plain.endswith(" %")
    assert folded.endswith(" %")


def test_without_data_it_says_so(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("DIFFUSION_DATA", str(tmp_path))
    assert benchmark.run() == []
    assert "skipped" in capsys.readouterr().out
