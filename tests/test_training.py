"""Training on folders of photos: what is learned, repeated, resumed and refused."""

from __future__ import annotations

import contextlib
import json
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import torch

import features
from diffusion import DiffusionError
from features import cli, safetensors
from features.curve import draw
from features.recipe import load_network
from features.training import train_folder

from .photos import pattern, png

CLASSES, EACH = 4, 6


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Keep torch to one thread: on a busy machine small maps wait long for the others."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def write_classes(folder, seed):
    """Write photos of a few patterns, each time under other noise and light."""
    rng = np.random.default_rng(seed)
    for label in range(CLASSES):
        for number in range(EACH):
            pixels = 0.5 * pattern(72, 80, seed=label) + rng.uniform(0, 120, (72, 80, 1))
            path = folder / f"class{label}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(pixels.clip(0, 255).astype(np.uint8)))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Photos to learn from, others to judge by, and random weights."""
    pytest.importorskip("PIL.Image", reason="Pillow is not installed: pip install .[images]")
    home = tmp_path_factory.mktemp("training")
    write_classes(home / "fit", seed=0)
    write_classes(home / "judge", seed=1)
    (home / "fit" / "class0" / "broken.jpg").write_bytes(b"no image")
    trunk = features.backbone("alexnet", head=False, seed=1)
    safetensors.write(home / "w.safetensors", trunk.state_dict())
    return home


@pytest.fixture
def train(home, tmp_path):
    def train(out="out", **settings):
        arguments = {"validation": home / "judge", "epochs": 2, "size": 64, "batch_size": 10}
        given = {"backbone": "alexnet", "weights": home / "w.safetensors", "workers": 2}
        return train_folder(home / "fit", tmp_path / out, **{**arguments, **given, **settings})

    return train


def state_of(path):
    return safetensors.read(path)[0]


@pytest.mark.parametrize(
    "settings",
    [
        {"loss": "softmax", "learning_rate": 1e-3},
        {"loss": "contrastive", "learning_rate": 3e-4},
        {"loss": "triplet", "learning_rate": 3e-4, "margin": 0.3},
    ],
)
def test_learning_lowers_the_loss_and_raises_the_map(train, settings):
    trained = train(epochs=5, **settings)
    assert [entry["epoch"] for entry in trained.history] == list(range(6))
    assert trained.history[0]["loss"] is None
    losses = [entry["loss"] for entry in trained.history[1:]]
    assert losses[-1] < losses[0]
    assert trained.history[-1]["map"] > trained.history[0]["map"] + 5


def test_first_epoch_judges_the_untrained_network(train, home, tmp_path):
    trained = train()
    out = features.extract_folder(
        home / "judge",
        tmp_path / "plain",
        backbone="alexnet",
        weights=home / "w.safetensors",
        size=64,
    )
    labels = [file.split("/")[0] for file in out.files]
    expected = 100 * features.evaluation.leave_one_out(out.vectors, labels).mean()
    assert trained.history[0]["map"] == pytest.approx(expected, abs=1e-3)


def test_what_was_trained_describes(train, home, tmp_path):
    trained = train(loss="softmax")
    out = features.extract_folder(home / "judge", tmp_path / "d", weights=trained.path, size=64)
    labels = [file.split("/")[0] for file in out.files]
    got = 100 * features.evaluation.leave_one_out(out.vectors, labels).mean()
    assert got == pytest.approx(trained.history[-1]["map"], abs=1e-3)
    network = load_network(weights=trained.path)
    assert network.backbone.name == "alexnet"
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


@pytest.mark.parametrize("loss", ["softmax", "contrastive"])
def test_interrupted_it_goes_on_to_the_same_network(train, tmp_path, monkeypatch, loss):
    whole = train("whole", loss=loss, epochs=3)
    from features import training

    epoch = training._Training._epoch

    def stopped(self, number):
        if number == 2:
            raise KeyboardInterrupt
        return epoch(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(training._Training, "_epoch", stopped)
        with pytest.raises(KeyboardInterrupt):
            train("cut", loss=loss, epochs=3)
    assert (tmp_path / "cut" / "checkpoint.safetensors").exists()
    assert not (tmp_path / "cut" / "network.safetensors").exists()
    shown = json.loads((tmp_path / "cut" / "history.json").read_text())
    assert shown["history"] == whole.history[:3]
    seen = []
    monkeypatch.setattr(training._Training, "_epoch", lambda s, n: seen.append(n) or epoch(s, n))
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
    with pytest.raises(DiffusionError, match="expected this training or none"):
        train("cut", loss=loss, epochs=4)


def test_batch_normalisation_keeps_its_statistics(train, tmp_path):
    trunk = features.backbone("mobilenet_v2", head=False, seed=2)
    safetensors.write(tmp_path / "m.safetensors", trunk.state_dict())
    trained = train(
        backbone="mobilenet_v2",
        weights=tmp_path / "m.safetensors",
        loss="softmax",
        epochs=1,
        validation=None,
        size=33,
    )
    after = state_of(trained.path)
    moved = 0
    for name, value in trunk.state_dict().items():
        if "running" in name or "num_batches" in name:
            assert torch.equal(after[f"backbone.{name}"], value)
        else:
            moved += not torch.equal(after[f"backbone.{name}"], value)
    assert moved > 100
    assert trained.history[-1]["map"] is None


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
    trained = train_folder(
        flat,
        tmp_path / "out",
        backbone="alexnet",
        weights=home / "w.safetensors",
        manifold=True,
        neighbors=5,
        epochs=1,
        size=64,
    )
    assert np.isfinite(trained.history[-1]["loss"])
    with pytest.raises(DiffusionError, match=r"^folder: expected a folder for each class"):
        train_folder(
            flat, tmp_path / "no", backbone="alexnet", weights=home / "w.safetensors", size=64
        )


def test_the_curve_shows_every_epoch(train, tmp_path):
    trained = train(loss="softmax")
    picture = (tmp_path / "out" / "curve.svg").read_text()
    titles = [
        title.text for title in ElementTree.fromstring(picture).iter() if "title" in title.tag
    ]
    for entry in trained.history:
        if entry["loss"] is not None:
            assert f"epoch {entry['epoch']}: loss {entry['loss']:.4g}" in titles
        assert f"epoch {entry['epoch']}: mAP, % {entry['map']:.4g}" in titles


def test_points_of_a_curve_by_hand():
    picture = draw("a < b", [None, 2.0, 1.0, 0.0], [10.0, None, 10.0, 30.0])
    root = ElementTree.fromstring(picture)
    lines = [e.get("points") for e in root.iter() if e.tag.endswith("polyline")]
    points = [[tuple(map(float, p.split(","))) for p in line.split()] for line in lines]
    # Losses from 0 to 2.1 on a frame from (60, 310) to (580, 40).
    across = [60 + 520 * epoch / 3 for epoch in range(4)]
    expected = [(across[e], 310 - 270 * v / 2.1) for e, v in ((1, 2.0), (2, 1.0), (3, 0.0))]
    np.testing.assert_allclose(points[0], expected, atol=0.06)
    expected = [(across[e], 310 - 270 * (v - 9) / 22) for e, v in ((0, 10), (2, 10), (3, 30))]
    np.testing.assert_allclose(points[1], expected, atol=0.06)
    assert "a &lt; b" in picture
    for flat in ([None, 1.0], [None, 0.0], [None]):
        assert "nan" not in draw("", flat, [None] * len(flat))


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
    with pytest.raises(DiffusionError, match=r"^learning_rate: the loss of epoch \d is"):
        train(loss="softmax", learning_rate=1e30, epochs=3)


def test_other_files_are_never_touched(train, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(DiffusionError, match="found 'notes.txt'"):
        train()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["notes.txt"]


def test_the_command(home, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(home)
    out = str(tmp_path / "out")
    network = ["--backbone", "alexnet", "--weights", "w.safetensors"]
    call = ["train", "fit", out, *network, "--validation", "judge", "--loss", "triplet"]
    with contextlib.redirect_stderr(None):
        assert cli.main([*call, "--size", "64", "--epochs", "1", "-q"]) == 0
    printed = capsys.readouterr().out
    assert re.fullmatch(
        rf"{out}/network\.safetensors: loss 0\.\d+ after 1 epochs, mAP \d+\.\d -> \d+\.\d\n",
        printed,
    )
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "curve.svg", "history.json", "network.safetensors",
    ]  # fmt: skip
    assert cli.main(["train", "absent", out, *network]) == 2
    assert "absent: expected a folder" in capsys.readouterr().err
