"""Training on folders of photos: what is learned, repeated, resumed and refused."""

from __future__ import annotations

import contextlib
import json
import os
import re

import numpy as np
import pytest
import torch

import features
from diffusion import DiffusionError
from features import cli
from features.description.recipe import load_network
from features.networks import backbones
from features.networks.backbones.base import Backbone, Sides, Stage
from features.networks.weights import read_file, write_file
from features.settings import ImageSettings, NetworkSettings, RunSettings, TrainingSettings
from features.training.folder import train_folder
from tests.features.training.test_curve import points
from tests.support.folders import contents
from tests.support.photos import pattern, png
from tests.support.settings import take

CLASSES, EACH = 4, 6


class Tiny(Backbone):
    """Two convolutions: what a training does to a network does not need more."""

    name = "tiny"
    last = "conv2"
    sides = Sides(16)
    input_size = 48

    def __init__(self, classes=None):
        super().__init__()
        self.stages = {"conv1": Stage(16, 4), "conv2": Stage(32, 8)}
        self.conv1 = torch.nn.Conv2d(3, 16, 5, stride=4, padding=2)
        self.conv2 = torch.nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.norm = torch.nn.BatchNorm2d(32)

    def _steps(self):
        relu = torch.nn.ReLU()
        yield "conv1", torch.nn.Sequential(self.conv1, relu)
        yield "conv2", torch.nn.Sequential(self.conv2, self.norm, relu)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True, scope="module")
def tiny():
    """Make the trunk known."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(backbones._MAKERS, "tiny", Tiny)
        yield


def write_classes(folder, seed):
    """Write photos of unrelated patterns, of which a class has its colour, under any light."""
    rng = np.random.default_rng(seed)
    for label in range(CLASSES):
        for number in range(EACH):
            colour = np.where(np.arange(3) < label, 0.4, 1.0)
            texture = pattern(72, 80, seed=1000 * (seed + 1) + 10 * label + number)
            pixels = rng.uniform(0.2, 1) * colour * texture
            path = folder / f"class{label}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(pixels.astype(np.uint8)))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Photos to learn from, others to judge by, and random weights."""
    home = tmp_path_factory.mktemp("training")
    write_classes(home / "fit", seed=0)
    write_classes(home / "judge", seed=1)
    (home / "fit" / "class0" / "broken.jpg").write_bytes(b"no image")
    trunk = features.backbone("tiny", seed=1)
    write_file(home / "w.safetensors", trunk.state_dict())
    return home


@pytest.fixture
def train(home, tmp_path):
    def train(out="out", **settings):
        arguments = {"validation": home / "judge", "epochs": 2, "batch_size": 10}
        given = {"backbone": "tiny", "weights": home / "w.safetensors", "workers": 2}
        settings = {**arguments, **given, **settings}
        return train_folder(
            home / "fit",
            tmp_path / out,
            take(NetworkSettings, settings),
            training=take(TrainingSettings, settings),
            run=take(RunSettings, settings),
            **settings,
        )

    return train


def state_of(path):
    return read_file(path)[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"loss": "softmax", "learning_rate": 1e-3},
        {"loss": "contrastive"},
        {"loss": "triplet", "margin": 0.3},
    ],
)
def test_learning_lowers_the_loss_and_raises_the_map(train, settings):
    trained = train(epochs=8, **settings)
    assert [entry["epoch"] for entry in trained.history] == list(range(9))
    assert trained.history[0]["loss"] is None
    losses = [entry["loss"] for entry in trained.history[1:]]
    assert losses[-1] < losses[0]
    assert trained.history[-1]["map"] > trained.history[0]["map"] + 3


def test_first_epoch_judges_the_untrained_network(train, home, tmp_path):
    trained = train()
    out = features.extract_folder(
        home / "judge",
        tmp_path / "plain",
        NetworkSettings("tiny", home / "w.safetensors"),
        images=ImageSettings(size=48),
    )
    labels = [file.split("/")[0] for file in out.files]
    expected = 100 * features.training.evaluation.leave_one_out(out.vectors, labels).mean()
    assert trained.history[0]["map"] == pytest.approx(expected, abs=1e-3)


def test_what_was_trained_describes(train, home, tmp_path):
    trained = train(loss="softmax")
    network = NetworkSettings(weights=trained.path)
    images = ImageSettings(size=48)
    out = features.extract_folder(home / "judge", tmp_path / "d", network, images=images)
    labels = [file.split("/")[0] for file in out.files]
    got = 100 * features.training.evaluation.leave_one_out(out.vectors, labels).mean()
    assert got == pytest.approx(trained.history[-1]["map"], abs=1e-3)
    network = load_network(network)
    assert network.backbone.name == "tiny"
    assert network.pool.p.item() != 3.0
    for name, value in trained.network.state_dict().items():
        assert torch.equal(network.state_dict()[name], value)
    # And is learned from again.
    again = train("more", backbone=None, weights=trained.path, epochs=1)
    assert again.history[0]["map"] == pytest.approx(got, abs=1e-3)


def test_seed_photos_and_settings_determine_the_network(train):
    state = torch.get_rng_state()
    first = state_of(train("a", loss="softmax").path)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    again = state_of(train("b", loss="softmax", workers=3).path)
    other = state_of(train("c", loss="softmax", seed=1).path)
    assert all(torch.equal(again[name], value) for name, value in first.items())
    assert not all(torch.equal(other[name], value) for name, value in first.items())


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["softmax", "contrastive"])
def test_interrupted_it_goes_on_to_the_same_network(train, tmp_path, monkeypatch, loss):
    whole = train("whole", loss=loss, epochs=3)
    from features.training.trainer import Trainer

    epoch = Trainer._epoch

    def stopped(self, number):
        if number == 2:
            raise KeyboardInterrupt
        return epoch(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_epoch", stopped)
        with pytest.raises(KeyboardInterrupt):
            train("cut", loss=loss, epochs=3)
    assert (tmp_path / "cut" / "checkpoint.safetensors").exists()
    assert not (tmp_path / "cut" / "network.safetensors").exists()
    shown = json.loads((tmp_path / "cut" / "history.json").read_text())
    assert shown["history"] == whole.history[:3]
    seen = []
    monkeypatch.setattr(Trainer, "_epoch", lambda s, n: seen.append(n) or epoch(s, n))
    resumed = train("cut", loss=loss, epochs=3)
    assert seen == [2]
    assert resumed.path.read_bytes() == whole.path.read_bytes()
    assert resumed.history == whole.history
    # Complete, it is not repeated.
    again = train("cut", loss=loss, epochs=3)
    assert seen == [2]
    assert again.history == whole.history
    for name, value in again.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[name])
    with pytest.raises(DiffusionError, match="expected this training, this one is of other"):
        train("cut", loss=loss, epochs=4)


@pytest.mark.slow
def test_interrupted_at_any_write_it_goes_on_to_the_same_bytes(train, tmp_path, monkeypatch):
    settings = {"loss": "softmax", "epochs": 1, "validation": None}
    replace, writes, last = os.replace, [], [1000]

    def stopping(source, target):
        if len(writes) == last[0]:
            raise KeyboardInterrupt
        writes.append(target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", stopping)
    train("whole", **settings)
    expected = contents(tmp_path / "whole")
    assert set(expected) == {"curve.svg", "history.json", "manifest.json", "network.safetensors"}
    # The claim on the folder, the state, history and curve of an epoch, and what remains.
    total = len(writes)
    assert total >= 8
    for step in range(total):
        writes.clear()
        last[0] = step
        with pytest.raises(KeyboardInterrupt):
            train(f"cut{step}", **settings)
        last[0] = 1000
        train(f"cut{step}", **settings)
        assert contents(tmp_path / f"cut{step}") == expected


def test_batch_normalisation_keeps_its_statistics(train, home):
    before = state_of(home / "w.safetensors")
    after = state_of(train(loss="softmax", epochs=1, validation=None).path)
    for name, value in before.items():
        kept = "running" in name or "num_batches" in name
        assert torch.equal(after[f"backbone.{name}"], value) == kept, name


def test_the_mean_of_the_images_is_kept_with_the_network(train):
    trained = train(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7), epochs=1)
    plain = train("plain", epochs=1)
    assert trained.history != plain.history
    loaded = load_network(NetworkSettings(weights=trained.path)).backbone
    assert (loaded.mean, loaded.std) == ((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))


def test_without_validation_there_is_no_map(train):
    trained = train(loss="softmax", epochs=1, validation=None)
    assert [entry["map"] for entry in trained.history] == [None, None]


def test_pairs_take_the_place_of_classes(train, home, tmp_path):
    lines = [f"class{c}/0.png\tclass{c}/{n}.png" for c in range(CLASSES) for n in (1, 2)]
    (tmp_path / "pairs.txt").write_text("\n".join(lines))
    trained = train(pairs=tmp_path / "pairs.txt", epochs=3, learning_rate=3e-4)
    assert trained.history[-1]["loss"] < trained.history[1]["loss"]
    # The broken photo is none that a pair can name.
    (tmp_path / "pairs.txt").write_text("class0/broken.jpg\tclass0/1.png\n")
    with pytest.raises(DiffusionError, match=r"line 1: 'class0/broken\.jpg'"):
        train("other", pairs=tmp_path / "pairs.txt")


def test_the_manifold_takes_the_place_of_labels(train, home, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, path in enumerate(sorted((home / "fit").rglob("*.png"))):
        (flat / f"{number}.png").symlink_to(path)
    network = NetworkSettings("tiny", home / "w.safetensors")
    trained = train_folder(
        flat,
        tmp_path / "out",
        network,
        training=TrainingSettings(neighbors=5, epochs=1, size=48),
        manifold=True,
    )
    assert np.isfinite(trained.history[-1]["loss"])
    with pytest.raises(DiffusionError, match=r"^folder: expected a folder for each class"):
        train_folder(flat, tmp_path / "no", network)


def test_the_curve_shows_every_epoch(train, tmp_path):
    trained = train(loss="softmax")
    curves = points(tmp_path / "out" / "curve.svg")
    assert [entry["loss"] is None for entry in trained.history] == [True, False, False]
    assert {name: len(curve) for name, curve in curves.items()} == {"loss": 2, "mAP, %": 3}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "arcface"}, "^loss:"),
        ({"loss": "softmax", "manifold": True}, "^loss: 'softmax' needs classes"),
        ({"manifold": True, "pairs": "p.txt"}, "^pairs, manifold:"),
        ({"epochs": 0}, "^epochs:"),
        ({"size": 0}, "^size:"),
        ({"batch_size": 1}, "^batch_size:"),
        ({"learning_rate": 0}, "^learning_rate:"),
        ({"margin": -1.0}, "^margin:"),
        ({"negatives": 0}, "^negatives:"),
        ({"anchors": 0}, "^anchors:"),
        ({"neighbors": 0}, "^neighbors:"),
        ({"seed": -1}, "^seed:"),
        ({"workers": 0}, "^workers:"),
        ({"device": "nothing"}, "^device:"),
        ({"mean": (1, 2)}, "^mean:"),
        ({"validation": "absent"}, "absent: expected a folder"),
        ({"pooling": "median"}, "^pooling:"),
        ({"backbone": "alexnet", "pooling": "fc7"}, "missing"),
        ({"backbone": None, "weights": None}, "^backbone:"),
    ],
)
def test_bad_settings_are_named_and_leave_nothing(train, tmp_path, settings, message):
    with pytest.raises(DiffusionError, match=message):
        train(**settings)
    assert not (tmp_path / "out").exists()


def test_a_loss_that_runs_away_is_an_error(train):
    with pytest.raises(DiffusionError, match=r"^learning_rate: the .* is \w+ after \d epochs"):
        train(loss="softmax", learning_rate=1e30, epochs=3)


def test_other_files_are_never_touched(train, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(DiffusionError, match=r"found 'notes\.txt'"):
        train()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["notes.txt"]


def test_the_command(home, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(home)
    out = str(tmp_path / "out")
    network = ["--backbone", "tiny", "--weights", "w.safetensors"]
    call = ["train", "fit", out, *network, "--validation", "judge", "--loss", "triplet"]
    with contextlib.redirect_stderr(None):
        assert cli.main([*call, "--epochs", "1", "-q"]) == 0
    printed = capsys.readouterr().out
    assert re.fullmatch(
        rf"{out}/network\.safetensors: loss 0\.\d+ after 1 epochs, mAP \d+\.\d -> \d+\.\d\n",
        printed,
    )
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "curve.svg", "history.json", "manifest.json", "network.safetensors",
    ]  # fmt: skip
    assert cli.main(["train", "absent", out, *network]) == 2
    assert "absent: expected a folder" in capsys.readouterr().err
