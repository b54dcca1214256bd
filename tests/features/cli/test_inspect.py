"""The command `features inspect`."""

from __future__ import annotations

import json

import numpy as np
import pytest

import features
from features import cli
from tests.support.photos import pattern, png

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def home(tmp_path, weights, monkeypatch):
    """A working directory with three photos and a file that is none."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for number in range(3):
        (tmp_path / "photos" / f"{number}.png").write_bytes(png(pattern(70, 66, seed=number)))
    (tmp_path / "photos" / "text.jpg").write_bytes(b"no image")
    return ["inspect", "photos", "out", "--backbone", "alexnet", "--weights", str(weights), "-q"]


def test_the_command_is_the_call(home, weights, tmp_path, capsys):
    options = ["--layer", "conv1", "--channels", "3", "--count", "2", "--size", "66"]
    assert cli.main([*home, *options]) == 0
    printed = capsys.readouterr()
    assert printed.out == (
        "out: 1 of 64 channels of conv1 on 3 photos, receptive field 11 x 11 pixels; "
        "1 images skipped; see out/page.html\n"
    )
    assert printed.err == "features: skipped text.jpg: not an image of a format that is read\n"
    found = features.inspect_folder(
        "photos",
        "called",
        features.NetworkSettings("alexnet", weights),
        layer="conv1",
        channels=np.array([3]),
        count=2,
        images=features.ImageSettings(size=66),
    )
    written = json.loads((tmp_path / "out" / "inspection.json").read_text())
    assert written["channels"] == found.channels
    assert [len(entry["photos"]) for entry in found.channels] == [2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--layer", "conv9"], "layer: expected one of 'conv1'"),
        (["--channels", "256"], "channels: expected different numbers from 0 to 255"),
        (["--count", "0"], "count: expected an integer of at least 1"),
    ],
)
def test_bad_options_are_one_line(home, capsys, options, message):
    assert cli.main([*home, *options]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert (printed.out, printed.err.count("\n")) == ("", 1)


def test_a_network_has_to_be_named(home, capsys):
    assert cli.main(["inspect", "photos", "out"]) == 2
    assert "backbone: expected the name of a network" in capsys.readouterr().err
