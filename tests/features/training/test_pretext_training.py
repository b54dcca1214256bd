"""Training on pretexts through `train_folder` and the command."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest
import torch

from diffusion import DiffusionError
from features import cli
from features.datasets.clips import pan, write_clip
from features.networks import backbones
from features.settings import PRETEXTS, NetworkSettings, RunSettings, TrainingSettings
from features.training.folder import train_folder
from features.training.trainer import Trainer
from tests.features.training.test_folder import Tiny
from tests.support.photos import pattern, png
from tests.support.settings import take

pytestmark = pytest.mark.usefixtures("one_thread")

CLIPS = 6


@pytest.fixture(autouse=True, scope="module")
def tiny():
    """Make the trunk known."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(backbones._MAKERS, "tiny", Tiny)
        yield


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Views that move over smooth patterns: photos for puzzles, and clips."""
    home = tmp_path_factory.mktemp("clips")
    for number in range(CLIPS):
        rng = np.random.default_rng(number)
        write_clip(home / f"clip{number}", pan(pattern(90, 110, seed=number), rng, 3, 64))
    return home


@pytest.fixture
def train(clips, tmp_path):
    def train(pretext, out="out", folder=None, **settings):
        given = {"backbone": "tiny", "epochs": 2, "size": 60, "batch_size": 8, "workers": 1}
        settings = {**given, "learning_rate": 1e-3, **settings}
        return train_folder(
            clips if folder is None else folder,
            tmp_path / out,
            take(NetworkSettings, settings),
            training=take(TrainingSettings, settings),
            run=take(RunSettings, settings),
            pretext=pretext,
            **settings,
        )

    return train


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pretext", "chance", "epochs"),
    # A head that knows nothing has the loss of the uniform distribution.
    [("jigsaw", np.log(72), 3), ("context", np.log(8), 3), ("tracks", np.log(4), 5)],
)
def test_training_lowers_the_loss(train, pretext, chance, epochs):
    trained = train(pretext, epochs=epochs)
    losses = [entry["loss"] for entry in trained.history[1:]]
    assert losses[-1] < losses[0] < 1.2 * chance
    assert trained.network.pool.p.item() == 3


@pytest.mark.slow
@pytest.mark.parametrize("pretext", PRETEXTS)
def test_interrupted_it_goes_on_to_the_same_network(train, tmp_path, monkeypatch, pretext):
    state = torch.get_rng_state()
    whole = train(pretext, "whole")
    assert torch.equal(torch.get_rng_state(), state)
    epoch = Trainer._epoch

    def stopped(self, number):
        if number == 1:
            raise KeyboardInterrupt
        return epoch(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_epoch", stopped)
        with pytest.raises(KeyboardInterrupt):
            train(pretext, "cut")
    seen = []
    monkeypatch.setattr(Trainer, "_epoch", lambda s, n: seen.append(n) or epoch(s, n))
    resumed = train(pretext, "cut", workers=2)
    assert seen == [1]
    assert resumed.path.read_bytes() == whole.path.read_bytes()
    assert resumed.history == whole.history
    settings = json.loads((tmp_path / "cut" / "history.json").read_text())["settings"]
    assert settings["pretext"] == pretext
    other = next(name for name in PRETEXTS if name != pretext)
    with pytest.raises(DiffusionError, match="expected this training, this one is of other"):
        train(other, "cut")


def test_statistics_are_those_of_the_photos_unless_weights_are_given(train, tmp_path):
    trained = train("jigsaw", "random", epochs=1)
    norm = trained.network.backbone.norm
    # The last layer gives ReLU what is centred and scaled by the statistics of the photos.
    assert not torch.equal(norm.running_mean, torch.zeros(32))
    again = train("tracks", "more", epochs=1, backbone=None, weights=trained.path)
    assert torch.equal(again.network.backbone.norm.running_mean, norm.running_mean)
    assert torch.equal(again.network.backbone.norm.running_var, norm.running_var)


@pytest.mark.parametrize(
    ("pretext", "settings", "message"),
    [
        ("rotation", {}, "^pretext: expected one of"),
        ("jigsaw", {"manifold": True}, "^pretext: expected neither pairs"),
        ("context", {"pairs": "p.txt"}, "^pretext: expected neither pairs"),
        ("tracks", {"loss": "triplet"}, "^loss, margin:"),
        ("tracks", {"margin": 0.5}, "^loss, margin:"),
        (
            "jigsaw",
            {"size": 40},
            r"^size: expected at least 57 for 3 x 3 tiles of 16 pixels, got 40",
        ),
    ],
)
def test_bad_settings_are_named_and_leave_nothing(train, tmp_path, pretext, settings, message):
    with pytest.raises(DiffusionError, match=message):
        train(pretext, **settings)
    assert not (tmp_path / "out").exists()


def test_photos_that_are_no_clips_have_no_tracks(train, tmp_path):
    photos = tmp_path / "photos"
    for number in range(4):
        path = photos / f"{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(np.full((48, 48, 3), 40 * number, np.uint8)))
    with pytest.raises(DiffusionError, match=r"can be followed, found 0 of 2$"):
        train("tracks", folder=photos)
    (photos / "0" / "4.png").write_bytes(png(np.zeros((48, 50, 3), np.uint8)))
    with pytest.raises(DiffusionError, match=r"^0: expected frames of one size"):
        train("tracks", folder=photos)
    with pytest.raises(DiffusionError, match=r"^folder: tracks need clips"):
        train("tracks", folder=photos / "1")


def test_the_command(clips, tmp_path, capsys):
    call = ["train", str(clips), str(tmp_path / "out"), "--backbone", "tiny", "--size", "60"]
    with contextlib.redirect_stderr(None):
        assert cli.main([*call, "--pretext", "context", "--epochs", "1", "-q"]) == 0
    assert "after 1 epochs" in capsys.readouterr().out
    assert (tmp_path / "out" / "network.safetensors").exists()
