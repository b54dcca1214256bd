"""Photos are indexed without naming a network: the default one, from a hub on this machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import features
from features import cli
from features.cli.arguments import DEFAULT_BACKBONE
from features.networks.weights import write_file
from tests.features.cli.default_network import OPTIONS, journey
from tests.support import hub
from tests.support.photos import write_photos

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder with photos, as the working directory."""
    write_photos(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """What `default_network.py` prints, of a hub whose network is small and of random weights."""
    pytest.importorskip("transformers")
    home = tmp_path_factory.mktemp("session")
    hub.write_resnet(home / "models" / DEFAULT_BACKBONE.removeprefix("hf:"))
    write_photos(home / "photos")
    shutil.copy(home / "photos" / "03.png", home / "photo.jpg")
    environment = {
        name: value
        for name, value in os.environ.items()
        if "proxy" not in name.lower() and not name.startswith("HF_")
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.features.cli.default_network", home / "models"],
        cwd=home,
        env={**environment, "PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) | {"page": (home / "out.html").read_text(encoding="utf-8")}


def test_the_journey_is_short():
    assert len(journey()) <= 10
    assert journey()[-1] == ["diffusion", "serve", "photos.index", "--photos"]


@pytest.mark.slow
def test_without_a_connection_one_line_says_what_to_pass(session):
    status, out, err = session["steps"]["before"]
    assert (status, out) == (2, "")
    said = err.splitlines()
    assert len(said) == 2
    assert said[1].startswith(f"features: error: name: expected {DEFAULT_BACKBONE} on this machine")
    assert "(--backbone NAME --weights FILE)" in said[1]
    assert session["left"] == ["models", "photo.jpg", "photos"]


@pytest.mark.slow
def test_the_default_network_is_named_and_downloaded_once(session):
    status, out, err = session["steps"]["first"]
    assert status == 0
    assert out.startswith("photos.index: 20 photos; Graph")
    said = [line for line in err.splitlines() if line and "|" not in line and "[00:" not in line]
    assert len(said) == 1, said
    assert said[0].startswith(f"features: no network is named: {DEFAULT_BACKBONE} describes")
    files = [line for line in session["downloaded"] if line.startswith("GET /microsoft/")]
    assert [file.rpartition("/")[2] for file in files] == [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]


@pytest.mark.slow
def test_what_is_downloaded_is_used_without_a_connection(session):
    for step, out in (
        ("search", "photo.jpg\t1\t"),
        ("update", "photos/: 19 photos: 0 new, 0 altered, 1 gone, 19 unchanged\nphotos.index: 19"),
        ("extract", "out: 19 descriptors of dimension 16"),
        ("resume", "again: 19 photos; Graph"),
    ):
        status, printed, err = session["steps"][step]
        assert status == 0, err
        assert printed.startswith(out)
        named = "no network is named" in err
        assert named == (step in ("extract", "resume"))
    assert len(session["steps"]["search"][1].splitlines()) == 20
    assert "03.png" in session["page"]
    assert "data:image/jpeg;base64," in session["page"]


@pytest.mark.slow
def test_a_model_that_the_hub_has_not_is_named(session):
    status, _, err = session["steps"]["other"]
    assert status == 2
    assert "'no/model' is not a backbone of transformers" in err


@pytest.mark.parametrize("verb", ["index", "extract"])
def test_the_help_names_the_default_network(verb, capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main([verb, "--help"])
    assert f"By default {DEFAULT_BACKBONE}" in " ".join(capsys.readouterr().out.split())


def test_without_transformers_the_line_says_what_to_install(home, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert cli.main(["index", "photos", "index", "-q"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[1] == "features: error: name: expected transformers to be installed " + (
        "(pip install transformers)"
    )


def test_an_index_of_another_network_is_not_replaced(home, capsys):
    write_file("w.safetensors", features.backbone("alexnet", head=False).state_dict())
    network = ["--backbone", "alexnet", "--weights", "w.safetensors"]
    assert cli.main(["index", "photos", "index", *network, *OPTIONS]) == 0
    shutil.rmtree("index.descriptors")
    capsys.readouterr()
    assert cli.main(["index", "photos", "index", "-q"]) == 2
    assert "backbone: expected the name of a network" in capsys.readouterr().err
    assert cli.main(["search", "index", "photos/00.png", "-q"]) == 0
