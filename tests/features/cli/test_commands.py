"""The commands on a folder of photos: described, whitened, indexed and searched."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import diffusion
import features
from diffusion import cli as diffusion_cli
from features import cli
from features.networks.weights import write_file
from tests.support.photos import CHINA, with_exif, write_photos

pytestmark = pytest.mark.usefixtures("one_thread")

# A walk that stays near where it starts: an image finds itself first.
SHORT = ["--affinity", "cosine", "--alpha", "0.5", "--query-k", "1", "-k", "5", "-q"]
NETWORK = ["--backbone", "alexnet", "--weights", "w.safetensors", "--size", "90"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with photos, descriptors, plain and whitened, and an index."""
    pytest.importorskip("PIL.Image", reason="Pillow is not installed: pip install .[images]")
    home = tmp_path_factory.mktemp("home")
    write_photos(home / "photos")
    (home / "photos" / "text.jpg").write_bytes(b"no image")
    trunk = features.backbone("alexnet", head=False)
    write_file(home / "w.safetensors", trunk.state_dict())
    with contextlib.chdir(home), contextlib.redirect_stdout(io.StringIO()) as printed:
        with contextlib.redirect_stderr(io.StringIO()) as told:
            assert cli.main(["extract", "photos", "out", *NETWORK, "-q"]) == 0
        assert told.getvalue() == "features: skipped text.jpg: no JPEG or PNG image\n"
        assert cli.main(["whiten", "out", "w.npz", "--supervised", "--dimension", "16"]) == 0
        white = ["--whitening", "w.npz", "-q"]
        with contextlib.redirect_stderr(io.StringIO()):
            assert cli.main(["extract", "photos", "white", *NETWORK, *white]) == 0
        assert diffusion_cli.main(["build", "white", "index", *SHORT]) == 0
    lines = printed.getvalue().splitlines()
    assert lines[0] == "out: 20 descriptors of dimension 256; 1 images skipped"
    assert lines[1] == "w.npz: 256 -> 16 dimensions"
    return home


@pytest.fixture
def index(home, monkeypatch):
    """The folder with the index, as the working directory."""
    monkeypatch.chdir(home)
    return home


def test_images_find_themselves_by_name(index, capsys):
    queries = ["photos/b/04.png", "photos/a/c/11.png"]
    assert diffusion_cli.main(["search", "index", "--image", *queries, "-k", "3", "-q"]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines] == [queries[0]] * 3 + [queries[1]] * 3
    assert [line[1] for line in lines] == ["1", "2", "3"] * 2
    assert lines[0][3] == "b/04.png"
    assert lines[3][3] == "a/c/11.png"
    # The same as the library's, of the descriptors that the extraction wrote.
    ranker = diffusion.load("index", verify=True)
    assert ranker.n_items_ == 20
    X, files = np.load("out/descriptors.npy"), Path("out/files.txt").read_text().split()
    white = features.load_whitening("w.npz").apply(X[files.index("b/04.png")][None])
    scores, ids = ranker.search(white[0], 3)
    assert [files[i] for i in ids] == [line[3] for line in lines[:3]]
    np.testing.assert_allclose([float(line[2]) for line in lines[:3]], scores, rtol=1e-3)
    assert diffusion_cli.main(["search", "index", "--image", *queries, "-o", "r.npz", "-q"]) == 0
    assert np.load("r.npz")["ids"].shape == (2, 100)


def test_a_name_that_the_output_cannot_show_does_not_end_the_list(index):
    shutil.copy("photos/00.png", "\u00e9.png")
    arguments = ["search", "index", "--image", "\u00e9.png", "-k", "2", "-q"]
    with io.TextIOWrapper(io.BytesIO(), "ascii") as out, contextlib.redirect_stdout(out):
        assert diffusion_cli.main(arguments) == 0
        lines = out.buffer.getvalue().splitlines()
    assert [line.split(b"\t")[:2] for line in lines] == [[b"?.png", b"1"], [b"?.png", b"2"]]


def test_a_rotated_query_is_turned_upright(index, capsys):
    Path("photos/china.jpg").write_bytes(CHINA.read_bytes())
    assert cli.main(["extract", "photos", "more", *NETWORK, "-q"]) == 0
    Path("photos/china.jpg").unlink()
    assert diffusion_cli.main(["build", "more", "index2", *SHORT]) == 0
    Path("q.jpg").write_bytes(with_exif(CHINA.read_bytes(), 1))
    capsys.readouterr()
    assert diffusion_cli.main(["search", "index2", "--image", "q.jpg", "-k", "1", "-q"]) == 0
    assert capsys.readouterr().out.endswith("china.jpg\n")


def test_weights_that_moved_or_changed(index, capsys):
    search = ["search", "index", "--image", "photos/00.png", "-k", "1", "-q"]
    os.rename("w.safetensors", "moved.safetensors")
    try:
        assert diffusion_cli.main(search) == 2
        assert "--weights" in capsys.readouterr().err
        assert diffusion_cli.main([*search, "--weights", "moved.safetensors"]) == 0
        assert capsys.readouterr().out.endswith("00.png\n")
        content = bytearray(Path("moved.safetensors").read_bytes())
        content[-1] ^= 1
        Path("other.safetensors").write_bytes(content)
        assert diffusion_cli.main([*search, "--weights", "other.safetensors"]) == 2
        assert "these are others" in capsys.readouterr().err
    finally:
        os.rename("moved.safetensors", "w.safetensors")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "index", "--image", "absent.jpg"], "absent.jpg: No such file"),
        (["search", "index", "--image", "photos/text.jpg"], "text.jpg: no JPEG or PNG"),
        (["search", "index", "q.npy", "--image", "photos/00.png"], "expected one of them"),
        (["search", "vectors", "--image", "photos/00.png"], "index of images"),
        (["build", "photos", "other"], "photos: expected descriptors"),
    ],
)
def test_bad_searches_are_one_line(index, capsys, arguments, message):
    np.save("v.npy", np.random.default_rng(0).random((9, 4)))
    assert diffusion_cli.main(["build", "v.npy", "vectors", "-k", "2", "-q"]) == 0
    capsys.readouterr()
    assert diffusion_cli.main([*arguments, *["-q"]]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["extract", "absent", "o", "--backbone", "vgg16"], "weights: expected"),
        (["extract", "absent", "o", "--weights", "w.safetensors"], "absent: expected a folder"),
        (["extract", "photos", "o", "--backbone", "vgg11", "--weights", "w.safetensors"], "name"),
        (["whiten", "photos", "x.npz"], "expected descriptors"),
        (["whiten", "out", "x"], "ends in .npz"),
        (["whiten", "white", "x.npz"], "not whitened yet"),
        (["whiten", "out", "x.npz", "--dimension", "21"], "dimension: expected at most 19"),
        (["paint"], "invalid choice"),
    ],
)
def test_bad_commands_are_one_line(index, capsys, arguments, message):
    try:
        status = cli.main(arguments)
    except SystemExit as error:
        status = error.code
    assert status == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.startswith("features: error: ")
    assert printed.err.count("\n") == 1
    assert not Path("o").exists()
    assert not Path("x.npz").exists()
