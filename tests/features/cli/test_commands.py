"""The commands on a folder of photos: described, whitened, indexed and searched."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

import diffusion
import features
from diffusion.cli import main as diffusion_main
from features import cli
from features.networks.backbones import external
from features.networks.weights import write_file
from tests.support.pages import Page
from tests.support.photos import CHINA, with_exif, write_photos

SKIPPED = "features: skipped text.jpg: not an image of a format that is read\n"

pytestmark = pytest.mark.usefixtures("one_thread")

# A walk that stays near where it starts: an image finds itself first.
SHORT = ["--affinity", "cosine", "--alpha", "0.5", "--query-k", "1", "-k", "5", "-q"]
NETWORK = ["--backbone", "alexnet", "--weights", "w.safetensors", "--size", "90"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with photos, descriptors, plain and whitened, and an index."""
    home = tmp_path_factory.mktemp("home")
    write_photos(home / "photos")
    (home / "photos" / "text.jpg").write_bytes(b"no image")
    trunk = features.backbone("alexnet", head=False)
    write_file(home / "w.safetensors", trunk.state_dict())
    with contextlib.chdir(home), contextlib.redirect_stdout(io.StringIO()) as printed:
        with contextlib.redirect_stderr(io.StringIO()) as told:
            assert cli.main(["extract", "photos", "out", *NETWORK, "-q"]) == 0
        assert told.getvalue() == SKIPPED
        assert cli.main(["whiten", "out", "w.npz", "--supervised", "--dimension", "16"]) == 0
        white = ["--whitening", "w.npz", "-q"]
        with contextlib.redirect_stderr(io.StringIO()):
            assert cli.main(["extract", "photos", "white", *NETWORK, *white]) == 0
        assert cli.main(["index", "white", "index", *SHORT]) == 0
    lines = printed.getvalue().splitlines()
    assert lines[0] == "out: 20 descriptors of dimension 256; 1 images skipped"
    assert lines[1] == "w.npz: 256 -> 16 dimensions"
    assert lines[3].startswith("index: 20 photos; Graph")
    return home


@pytest.fixture
def index(home, monkeypatch):
    """The folder with the index, as the working directory."""
    monkeypatch.chdir(home)
    return home


def test_images_find_themselves_by_name(index, capsys):
    queries = ["photos/b/04.png", "photos/a/c/11.png"]
    assert cli.main(["search", "index", *queries, "-k", "3", "-q"]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines] == [queries[0]] * 3 + [queries[1]] * 3
    assert [line[1] for line in lines] == ["1", "2", "3"] * 2
    assert lines[0][3] == "b/04.png"
    assert lines[3][3] == "a/c/11.png"
    # The same as the library's, of the descriptors that the extraction wrote.
    ranker = diffusion.load("index", verify=True)
    assert ranker.n_items_ == 20
    out = features.open_descriptors("out")
    X, files = out.vectors, out.files
    white = features.load_whitening("w.npz").apply(X[files.index("b/04.png")][None])
    scores, ids = ranker.search(white[0], 3)
    assert ids.tolist() == [line[3] for line in lines[:3]]
    np.testing.assert_allclose([float(line[2]) for line in lines[:3]], scores, rtol=1e-3)
    assert cli.main(["search", "index", *queries, "-o", "r.npz", "-q"]) == 0
    with np.load("r.npz") as found:
        assert found["names"][:, :3].tolist() == [
            [line[3] for line in lines[i : i + 3]] for i in (0, 3)
        ]
        assert found["names"].shape == found["scores"].shape == (2, 100)


def test_the_page_of_a_search(index, capsys):
    search = ["search", "index", "photos/b/04.png", "-k", "5", "-q", "--page", "page.html"]
    assert cli.main([*search, "--photos", "photos"]) == 0
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 5
    assert printed.err == ""
    page = Page(Path("page.html").read_text(encoding="utf-8"))
    results = [line.split("\t")[3] for line in printed.out.splitlines()]
    data, pictures = page.stored()
    (query,) = data["queries"]
    assert query["name"] == "photos/b/04.png"
    assert [data["items"][item] for item in query["answers"][data["own"]]["after"]] == results
    assert all(pictures)
    shutil.copytree("photos", "fewer")
    Path("fewer", results[1]).unlink()
    assert cli.main([*search, "--photos", "fewer"]) == 0
    assert f"1 photo cannot be read, such as {results[1]}" in capsys.readouterr().err
    assert cli.main([*search, "--photos", "fewer/absent"]) == 2
    assert "--photos: expected the folder" in capsys.readouterr().err
    assert cli.main(search) == 0  # the index knows where they are
    assert capsys.readouterr().err == ""
    assert cli.main([*search[:-1], "absent/page.html", "--photos", "photos"]) == 2
    assert "--page 'absent/page.html': expected a file in a directory" in capsys.readouterr().err


def test_a_name_that_the_output_cannot_show_does_not_end_the_list(index):
    shutil.copy("photos/00.png", "\u00e9.png")
    arguments = ["search", "index", "\u00e9.png", "-k", "2", "-q"]
    with io.TextIOWrapper(io.BytesIO(), "ascii") as out, contextlib.redirect_stdout(out):
        assert cli.main(arguments) == 0
        lines = out.buffer.getvalue().splitlines()
    assert [line.split(b"\t")[:2] for line in lines] == [[b"?.png", b"1"], [b"?.png", b"2"]]


def test_a_rotated_query_is_turned_upright(index, capsys):
    Path("photos/china.jpg").write_bytes(CHINA.read_bytes())
    assert cli.main(["extract", "photos", "more", *NETWORK, "-q"]) == 0
    Path("photos/china.jpg").unlink()
    assert cli.main(["index", "more", "index2", *SHORT]) == 0
    Path("q.jpg").write_bytes(with_exif(CHINA.read_bytes(), 1))
    capsys.readouterr()
    assert cli.main(["search", "index2", "q.jpg", "-k", "1", "-q"]) == 0
    assert capsys.readouterr().out.endswith("china.jpg\n")


def test_weights_that_moved_or_changed(index, capsys):
    search = ["search", "index", "photos/00.png", "-k", "1", "-q"]
    os.rename("w.safetensors", "moved.safetensors")
    try:
        assert cli.main(search) == 2
        assert "--weights" in capsys.readouterr().err
        assert cli.main([*search, "--weights", "moved.safetensors"]) == 0
        assert capsys.readouterr().out.endswith("00.png\n")
        content = bytearray(Path("moved.safetensors").read_bytes())
        content[-1] ^= 1
        Path("other.safetensors").write_bytes(content)
        assert cli.main([*search, "--weights", "other.safetensors"]) == 2
        assert "these are others" in capsys.readouterr().err
    finally:
        os.rename("moved.safetensors", "w.safetensors")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "index", "absent.jpg"], "absent.jpg: No such file"),
        (["search", "index", "photos/text.jpg"], "text.jpg: not an image"),
        (["search", "index", "photos/00.png", "-o", "absent/r.npz"], "a directory that exists"),
        (["search", "vectors", "photos/00.png"], "index of photos"),
        (["search", "photos", "photos/00.png"], "expected an index"),
        (["index", "photos", "photos", *NETWORK], "photos: expected an index or an empty"),
        (["index", "out", "other", "--weights", "w.safetensors"], "holds descriptors already"),
    ],
)
def test_bad_searches_are_one_line(index, capsys, arguments, message):
    np.save("v.npy", np.random.default_rng(0).random((9, 4)))
    assert diffusion_main(["build", "v.npy", "vectors", "-k", "2", "-q"]) == 0
    capsys.readouterr()
    assert cli.main([*arguments, *["-q"]]) == 2
    assert not Path("other").exists()
    assert not Path("other.descriptors").exists()
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err
    assert printed.err.count("\n") == 1


def test_photos_are_indexed_in_one_step_and_not_described_again(index, capsys, monkeypatch):
    call = ["index", "photos", "direct", *NETWORK, "--whitening", "w.npz", *SHORT]
    assert cli.main(call) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("direct: 20 photos; Graph")
    assert printed.err == SKIPPED
    assert features.open_descriptors("direct.descriptors").vectors.shape == (20, 16)
    search = ["search", "index", "photos/b/04.png", "-k", "5", "-q"]
    assert cli.main(search) == 0
    expected = capsys.readouterr().out
    assert cli.main(["search", "direct", *search[2:]]) == 0
    assert capsys.readouterr().out == expected
    # With other settings of the graph, the descriptors stay.
    monkeypatch.setattr(features.description.recipe.Describer, "raw", lambda *_: 1 / 0)
    assert cli.main([*call, "--alpha", "0.9"]) == 0
    assert cli.main([*call, "--descriptors", "white", "--alpha", "0.8"]) == 0
    assert diffusion.load("direct").alpha == 0.8


def test_what_is_passed_over_is_said_and_recorded(index, tmp_path, capsys):
    write_photos(tmp_path / "photos")
    for name in ("film.mov", "phone.heic", "notes"):
        (tmp_path / "photos" / name).touch()
    (tmp_path / "photos" / "round").symlink_to(tmp_path / "photos")
    call = ["extract", str(tmp_path / "photos"), str(tmp_path / "out"), *NETWORK, "-q"]
    told = ".mov, 1 without an extension, 1 .heic (no decoder: pip install pillow-heif);"
    for more in (0, 1):  # the second time nothing is left to do
        (tmp_path / "photos" / f"{more}.mov").touch()
        assert cli.main(call) == 0
        said = capsys.readouterr().err
        assert said.startswith(f"features: skipped {4 + more} files: ")
        assert told in said
        assert said.endswith("; 1 linked folder, not followed: round\n")
        assert said.count("\n") == 1
    recorded = features.open_descriptors(tmp_path / "out").manifest["passed_over"]
    assert recorded == {
        "files": {".mov": 2, ".heic": 1, "": 1},
        "linked_folders": ["round"],
    }


class Hub(torch.nn.Conv2d):
    """A library `transformers` whose only model would be downloaded; `asked` counts how often."""

    asked = 0

    @classmethod
    def from_pretrained(cls, name, *, local_files_only, trust_remote_code=False, **options):
        assert not trust_remote_code
        if local_files_only:
            raise OSError("We couldn't connect to the hub")
        cls.asked += 1
        made = cls.from_config(None)
        return (made, {"missing_keys": set()}) if "output_loading_info" in options else made

    @classmethod
    def from_config(cls, config):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return cls(3, 8, 5, stride=4)

    stage_names = ("stem", "stage1")

    def forward(self, pixel_values):
        return types.SimpleNamespace(feature_maps=(super().forward(pixel_values).relu(),))


def test_nothing_is_downloaded_at_the_word_of_an_index(index, tmp_path, monkeypatch, capsys):
    library = types.ModuleType("transformers")
    library.AutoConfig = library.AutoBackbone = library.AutoImageProcessor = Hub
    monkeypatch.setitem(sys.modules, "transformers", library)
    monkeypatch.setattr(external, "_is_to_download", lambda name: True)
    hub = ["--backbone", "hf:someone/model", "--size", "90"]
    made, found = str(tmp_path / "index"), str(tmp_path / "objects")
    # Who names the network asks for it.
    assert cli.main(["index", "photos", made, *hub, *SHORT]) == 0
    assert cli.main(["discover", "photos", found, *hub, "-q", "--pictures", "1"]) == 0
    for verb, place in (("search", made), ("locate", found)):
        Hub.asked = 0
        capsys.readouterr()
        assert cli.main([verb, place, "photos/00.png"]) == 2
        said = capsys.readouterr()
        assert Hub.asked == 0
        assert (said.out, said.err.count("\n")) == ("", 1)
        assert "expected hf:someone/model on this machine" in said.err
        assert "--allow-download" in said.err
        assert cli.main([verb, place, "photos/00.png", "--allow-download"]) == 0
        assert Hub.asked
    # A file of weights that names such a network is no more trusted.
    content = {"backbone": "hf:someone/model", "pooling": "gem", "whiten": None, "exponents": 0}
    content |= {"mean": [0, 0, 0], "std": [1, 1, 1]}
    write_file(tmp_path / "n.safetensors", {}, {"features": json.dumps(content)})
    Hub.asked = 0
    weights = ["--weights", str(tmp_path / "n.safetensors")]
    assert cli.main(["extract", "photos", str(tmp_path / "out"), *weights]) == 2
    assert "expected hf:someone/model on this machine" in capsys.readouterr().err
    assert Hub.asked == 0


def test_no_name_of_a_file_is_obeyed_by_the_terminal(index, tmp_path, monkeypatch, capsys):
    write_photos(tmp_path / "photos")
    for name in ("\x1b[31mred.jpg", "\x9b2J.jpg", "two\nlines.jpg", "\u202egpj.exe.jpg", "a.\x07b"):
        (tmp_path / "photos" / name).write_bytes(b"no image")
    shutil.copy(tmp_path / "photos" / "00.png", tmp_path / "photos" / "\x1b]0;00\x07.png")
    (tmp_path / "photos" / "\x1b[2J").symlink_to(tmp_path)
    shutil.copy("w.safetensors", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["index", "photos", "index", *NETWORK, *SHORT]) == 0
    queries = ["photos/\x1b]0;00\x07.png", "-k", "2", "-q"]
    assert cli.main(["search", "index", *queries]) == 0
    assert cli.main(["search", "index", "\x1b[31m\nabsent.jpg", "-q"]) == 2
    assert cli.main(["search", "\x1b[31mabsent", *queries]) == 2
    printed = capsys.readouterr()
    for line in (printed.out + printed.err).split("\n"):
        assert line.replace("\t", "").isprintable(), repr(line)
    lines = printed.out.splitlines()[1:]
    assert {line.split("\t")[3] for line in lines} == {"00.png", r"\x1b]0;00\x07.png"}
    assert r"skipped \x1b[31mred.jpg: not an image" in printed.err
    assert r"lines.jpg: its name holds a line break" in printed.err
    assert r"1 .\x07b; 1 linked folder, not followed: \x1b[2J" in printed.err
    assert cli.main(["discover", "photos", "objects", *NETWORK, "-q", "--pictures", "30"]) == 0
    page = Path("objects", "page.html").read_text()
    assert "\x1b" not in page


def test_demo_takes_its_folder(tmp_path, monkeypatch):
    from features.demo import digits

    seen = []
    monkeypatch.setattr(digits, "run", lambda folder, progress: seen.append((folder, progress)))
    assert cli.main(["demo", "--folder", "elsewhere", "-q"]) == 0
    assert cli.main(["demo"]) == 0
    assert seen == [("elsewhere", False), ("demo", True)]


def blocked(library, code):
    """Run code in a process that cannot import a library; return its status and what it says."""
    block = f"import sys; sys.modules[{library!r}] = None\n"
    done = subprocess.run(
        [sys.executable, "-c", block + code], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("library", ["torch", "PIL"])
def test_a_missing_library_is_one_line_that_names_the_extra(index, library):
    call = ["extract", "photos", "missing", *NETWORK, "-q"]
    code = f"from features.cli import main; sys.exit(main({call!r}))"
    status, out, said = blocked(library, code)
    assert (status, out, said.count("\n")) == (2, "", 1)
    assert "pip install 'diffusion-rerank[features]'" in said
    assert not Path("missing").exists()


def test_without_torch_there_are_help_and_settings_but_no_networks(index):
    code = "from features.cli import main\nmain(['discover', '--help'])"
    status, out, said = blocked("torch", code)
    assert (status, said) == (0, "")
    assert "--object-egm" in out
    status, out, said = blocked("torch", "import features; features.NetworkSettings('alexnet')")
    assert (status, said) == (0, "")
    status, out, said = blocked("torch", "import features; features.backbone")
    assert status == 1
    assert "ModuleNotFoundError: torch is not installed; features needs it: pip install" in said


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


@pytest.mark.parametrize("given", [None, "ACTIVE"])
def test_waiting_threads_leave_the_processor_unless_told_otherwise(monkeypatch, given):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_WAIT_POLICY", given)
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert os.environ["OMP_WAIT_POLICY"] == (given or "PASSIVE")


def test_the_command_does_not_load_torch_before_it_says_how_threads_wait():
    code = "import sys; from features import cli; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
