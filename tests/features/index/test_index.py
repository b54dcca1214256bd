"""An index of photos whose folder changes: against one that is built of the folder as it is."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import diffusion
import features
from diffusion import DiffusionError
from diffusion.index_state import open_state, save_state
from diffusion.storage.strings import pack_strings
from features import cli
from features.description.recipe import Describer
from features.index import photos as of_photos
from features.index import places
from features.index.build import build_index
from features.index.photos import outdated, photo_path
from features.index.results import PhotoResults, write_file
from tests.support.folders import contents
from tests.support.photos import pattern, png, write_photos
from tests.support.processes import run_killed

pytestmark = pytest.mark.usefixtures("one_thread")

SHORT = ["--affinity", "cosine", "--alpha", "0.5", "--query-k", "3", "-k", "5", "-q"]
NETWORK = ["--backbone", "alexnet", "--weights", "w.safetensors", "--size", "90"]


@pytest.fixture(scope="module")
def made(weights, tmp_path_factory):
    """A folder with photos, and an index of them."""
    made = tmp_path_factory.mktemp("made")
    write_photos(made / "photos")
    shutil.copy(weights, made / "w.safetensors")
    before = Path.cwd()
    os.chdir(made)
    try:
        assert cli.main(["index", "photos", "index", *NETWORK, *SHORT]) == 0
    finally:
        os.chdir(before)
    return made


@pytest.fixture
def home(made, tmp_path, monkeypatch):
    """A copy of it, as the working directory."""
    home = tmp_path / "home"
    shutil.copytree(made, home, copy_function=shutil.copy2)
    monkeypatch.chdir(home)
    return home


@pytest.fixture
def seen(monkeypatch):
    """The number of photos in each batch that the network was given."""
    seen = []
    raw = Describer.raw
    monkeypatch.setattr(Describer, "raw", lambda self, x: seen.append(len(x)) or raw(self, x))
    return seen


def change(folder):
    """Add two photos, alter one, rename one and delete two."""
    for number in (50, 51):
        (folder / "b" / f"{number}.png").write_bytes(png(pattern(64, 96, seed=number)))
    (folder / "03.png").write_bytes(png(pattern(80, 80, seed=52)))
    (folder / "06.png").rename(folder / "moved.png")
    (folder / "00.png").unlink()
    (folder / "b" / "01.png").unlink()


def searched(index, capsys, *options):
    """Return the names and scores that searches with all photos find."""
    capsys.readouterr()
    queries = sorted(str(path) for path in Path("photos").rglob("*.png"))
    assert cli.main(["search", index, *queries, "-k", "8", "-q", *options]) == 0
    printed = capsys.readouterr()
    lines = [line.split("\t") for line in printed.out.splitlines()]
    return [line[3] for line in lines], [float(line[2]) for line in lines], printed.err


def same_answers(one, other, capsys):
    """Compare what two indexes answer; equal scores may be in any order."""
    (names, scores, said), (expected, others, _) = (
        searched(index, capsys) for index in (one, other)
    )
    np.testing.assert_allclose(scores, others, rtol=1e-3, atol=1e-5)
    assert np.mean([a == b for a, b in zip(names, expected, strict=True)]) > 0.97
    assert said == ""


def test_only_what_changed_is_described_and_the_index_is_updated(home, capsys, seen, monkeypatch):
    change(home / "photos")
    with monkeypatch.context() as patch:
        patch.setattr(diffusion.Reranker, "fit", lambda *_, **__: 1 / 0)
        assert cli.main(["index", "photos", "index", "-q"]) == 0
    assert sum(seen) == 3
    said = capsys.readouterr().out.splitlines()
    assert said[0] == ("photos: 20 photos: 2 new, 1 altered, 2 gone, 1 renamed, 16 unchanged")
    assert said[1].startswith("index: 20 photos (4 added, 4 removed); Graph")
    assert cli.main(["index", "photos", "fresh", *NETWORK, *SHORT]) == 0
    same_answers("index", "fresh", capsys)
    names, *_ = searched("index", capsys)
    assert {"moved.png", "b/50.png"} <= set(names)
    assert not {"00.png", "06.png", "b/01.png"} & set(names)
    # Once more nothing is done.
    before = contents(home / "index")
    seen.clear()
    assert cli.main(["index", "photos", "index", "-q"]) == 0
    assert "(0 added, 0 removed)" in capsys.readouterr().out
    assert (seen, contents(home / "index")) == ([], before)


def test_what_an_interrupted_save_left_is_deleted_by_the_next_call(home, capsys):
    assert cli.main(["index", "photos", "index", "-q"]) == 0
    left = home / "index" / "arrays-0123abcd"
    left.mkdir()
    np.save(left / "graph_order.npy", np.arange(3))
    assert cli.main(["index", "photos", "index", "-q"]) == 0
    assert "(0 added, 0 removed)" in capsys.readouterr().out
    assert not left.exists()


def test_photos_that_are_touched_are_noted(home, capsys, seen):
    os.utime(home / "photos" / "03.png")
    assert searched("index", capsys)[2].startswith(
        f"features: index is older than {home / 'photos'}: 0 new, 1 altered, 0 gone; update it: "
    )
    seen.clear()
    assert cli.main(["index", "photos", "index", "-q"]) == 0
    assert seen == []
    assert searched("index", capsys)[2] == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--alpha", "0.9"], "made with other settings (alpha)"),
        ([*NETWORK[:4], "--size", "80", *SHORT], "made with other settings (size)"),
        ([*NETWORK, "--pooling", "mac", *SHORT], "made with other settings (pooling)"),
        ([*NETWORK, *SHORT, "--affinity", "context"], "made with other settings (affinity)"),
        ("many", "9 of 26 photos are new or altered"),
        ("few", "7 of 20 photos are gone or altered"),
        ("earlier", "an earlier version of this library wrote it"),
        ("forged", "damaged before (image_digests: shape (19, 32))"),
        ("damaged", "the earlier index cannot be taken over ("),
    ],
)
def test_an_index_that_cannot_be_updated_is_built_anew(home, capsys, options, said):
    photos = home / "photos"
    if options == "many":
        for number in range(8):
            (photos / f"new{number}.png").write_bytes(png(pattern(64, 96, 60 + number)))
        for name in ("00.png", "b/01.png"):
            (photos / name).unlink()
        (photos / "03.png").write_bytes(png(pattern(80, 80, seed=52)))
    elif options == "few":
        for photo in sorted(photos.rglob("*.png"))[:7]:
            photo.unlink()
    elif options == "earlier":
        as_earlier_version(home / "index")
    elif options == "forged":
        state = open_state("index")
        arrays = {n: np.array(a) for n, a in state.arrays.items() if n.startswith("image_")}
        arrays["image_digests"] = arrays["image_digests"][1:]
        plain = diffusion.Reranker.from_state(state).state()
        save_state("index", plain.with_part("images", state.parts["images"], arrays))
    elif options == "damaged":
        file = next((home / "index").rglob("graph_indices.npy"), None) or next(
            (home / "index").rglob("*.npy")
        )
        file.write_bytes(file.read_bytes()[:-1] + b"\x7f")
    given = options if isinstance(options, list) else []
    assert cli.main(["index", "photos", "index", *given, "-q"]) == 0
    assert f"photos (built anew: {said}" in capsys.readouterr().out
    settings = given if given else SHORT
    if "--backbone" not in settings:
        settings = [*NETWORK, *SHORT, *settings]
    assert cli.main(["index", "photos", "fresh", *settings, "-q"]) == 0
    same_answers("index", "fresh", capsys)


def as_earlier_version(path):
    """Write an index as earlier versions did: ids are row numbers, and names are apart."""
    state = open_state(path)
    ranker = diffusion.Reranker.from_state(state)
    descriptors = features.open_descriptors(f"{path}.descriptors")
    plain = diffusion.Reranker(**ranker.get_params()).fit(descriptors.vectors)
    names, ends = pack_strings(descriptors.files)
    content = {"recipe": descriptors.manifest["recipe"]}
    arrays = {"image_names": names, "image_name_ends": ends}
    save_state(path, plain.state().with_part("images", content, arrays))


def test_indexes_of_earlier_versions_are_searched(home, capsys):
    expected = searched("index", capsys)
    shutil.copytree("index", "early")
    shutil.copytree("index.descriptors", "early.descriptors")
    as_earlier_version(home / "early")
    assert diffusion.load("early").ids_.dtype == np.int64
    assert searched("early", capsys) == expected
    (home / "photos" / "00.png").unlink()
    state = open_state("early")
    assert outdated(state) is None
    assert outdated(state, "photos") is None
    assert photo_path(state, "03.png", "photos") == Path("photos/03.png")
    with pytest.raises(DiffusionError, match="no folder is known"):
        photo_path(state, "03.png")


# Killed while it writes a shard, the descriptors, or the index.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("after", "ending"), [(0, ".npz"), (0, "manifest.json"), (1, "manifest.json")]
)
def test_a_killed_update_leaves_the_index_as_it_was(home, capsys, after, ending):
    answers = searched("index", capsys)[:2]
    before = diffusion.load("index").ids_.tolist()
    change(home / "photos")
    call = "from features import cli\nsys.exit(cli.main(sys.argv[3:]))\n"
    run_killed(call, after, ending, *INDEX)
    assert diffusion.load("index", verify=True).ids_.tolist() == before
    assert cli.main(list(INDEX)) == 0
    assert cli.main(["index", "photos", "fresh", *NETWORK, *SHORT]) == 0
    same_answers("index", "fresh", capsys)
    assert answers != searched("index", capsys)[:2]


INDEX = ("index", "photos", "index", "-q")


# --- where the photos are -------------------------------------------------------------------------


def test_photos_are_found_where_they_are_moved_to(home, tmp_path):
    assert cli.main(list(INDEX)) == 0  # here, and not where it was copied from
    state = open_state("index")
    assert photo_path(open_state(home / "index"), "b/04.png") == home / "photos" / "b" / "04.png"
    # Both are moved together, and another index is moved alone.
    (home / "deep").mkdir()
    shutil.copytree("index", "deep/index")
    assert photo_path(open_state("deep/index"), "03.png") == home / "photos" / "03.png"
    os.rename(home, tmp_path / "elsewhere")
    moved = open_state(tmp_path / "elsewhere" / "index")
    assert photo_path(moved, "03.png") == tmp_path / "elsewhere" / "photos" / "03.png"
    os.rename(tmp_path / "elsewhere", home)
    os.rename(home / "photos", home / "others")
    with pytest.raises(DiffusionError, match=r"03\.png: the photo is not where it was .*--photos"):
        photo_path(state, "03.png")
    assert photo_path(state, "03.png", "others") == Path("others/03.png")


@pytest.mark.parametrize("name", ["../w.safetensors", "/etc/hostname", "", "b/../../x", "a\0b"])
def test_a_name_leads_nowhere_else(home, name):
    with pytest.raises(DiffusionError, match="expected the name of a photo inside its folder"):
        photo_path(open_state("index"), name)


# --- an index that is older than its folder -------------------------------------------------------


def test_a_search_says_that_the_index_is_older(home, capsys):
    (home / "photos" / "text.jpg").write_bytes(b"no image")
    assert cli.main(list(INDEX)) == 0
    # What could not be read is not new.
    assert searched("index", capsys)[2] == ""
    change(home / "photos")
    names, _, said = searched("index", capsys)
    assert said == (
        f"features: index is older than {home / 'photos'}: 3 new, 1 altered, 3 gone; update it: "
        f"features index {home / 'photos'} index\n"
    )
    assert "00.png" in names
    os.rename("photos", "others")
    query = ["search", "index", "others/03.png", "-k", "3", "-q"]
    assert cli.main(query) == 0
    assert capsys.readouterr().err == ""
    assert cli.main([*query, "--photos", "others"]) == 0
    assert "others: 3 new, 1 altered, 3 gone" in capsys.readouterr().err
    # The command that it names works, with a moved folder too.
    assert cli.main(["index", "others", "index", "-q"]) == 0
    capsys.readouterr()
    assert cli.main(query) == 0
    assert capsys.readouterr().err == ""


def test_comparing_takes_no_longer_than_it_may(home):
    change(home / "photos")
    known = {"03.png": (1, 1), "00.png": (1, 1)}
    found = places.compare("photos", known, {"moved.png"}, seconds=60)
    assert found == ("photos", 18, 1, 1, True)
    assert str(found) == "18 new, 1 altered, 1 gone"
    found = places.compare("photos", known, set(), seconds=-1)
    assert found == ("photos", 0, 0, 0, False)
    assert places.Outdated("photos", 3, 0, 0, whole=False).__str__() == (
        "at least 3 new, 0 altered, 0 gone"
    )


@pytest.mark.parametrize("fault", ["folder", "stats", "skipped", "unreadable"])
def test_a_comparison_that_fails_does_not_end_a_search(home, capsys, monkeypatch, fault):
    (home / "photos" / "00.png").unlink()
    state = open_state("index")
    content = dict(state.parts["images"])
    arrays = {n: np.array(a) for n, a in state.arrays.items() if n.startswith("image_")}
    if fault == "folder":
        content["photos"] = 3
    elif fault == "skipped":
        content["skipped"] = None
    elif fault == "stats":
        arrays["image_stats"] = arrays["image_stats"][:-1]
    else:

        def failing(_):
            raise DiffusionError("photos: cannot be read")

        monkeypatch.setattr(places, "each_image", failing)
    ranker = diffusion.Reranker.from_state(state)
    save_state("index", ranker.state().with_part("images", content, arrays))
    assert searched("index", capsys)[2] == ""


# --- files of results -----------------------------------------------------------------------------

RESULTS = PhotoResults(
    ["q 1.png", "q%2.png"],
    np.array([[2.5, 1.25, -np.inf], [0.125, -1.0, -2.0]], np.float32),
    np.array([["a b.png", "\u00e9.png", None], ["x\ny.png", "\udcff.png", "z.png"]], object),
)


def test_results_are_written_as_json(tmp_path):
    write_file(tmp_path / "r.json", RESULTS)
    assert json.loads((tmp_path / "r.json").read_text()) == [
        {
            "query": "q 1.png",
            "results": [
                {"rank": 1, "name": "a b.png", "score": 2.5},
                {"rank": 2, "name": "\u00e9.png", "score": 1.25},
            ],
        },
        {
            "query": "q%2.png",
            "results": [
                {"rank": 1, "name": "x\ny.png", "score": 0.125},
                {"rank": 2, "name": "\udcff.png", "score": -1.0},
                {"rank": 3, "name": "z.png", "score": -2.0},
            ],
        },
    ]


def test_results_are_written_as_arrays(tmp_path):
    write_file(tmp_path / "r.npz", RESULTS)
    with np.load(tmp_path / "r.npz") as found:
        assert found["queries"].tolist() == RESULTS.queries
        assert found["names"].tolist() == [
            ["a b.png", "\u00e9.png", ""],
            ["x\ny.png", "\udcff.png", "z.png"],
        ]
        np.testing.assert_array_equal(found["scores"], RESULTS.scores)
    nothing = PhotoResults(["q"], np.empty((1, 0), np.float32), np.empty((1, 0), object))
    write_file(tmp_path / "n.npz", nothing)
    assert np.load(tmp_path / "n.npz")["names"].shape == (1, 0)


def test_ranks_of_the_first_stage_are_in_json(tmp_path):
    first = np.array([["\u00e9.png", "c.png"], ["z.png", None]], object)
    write_file(tmp_path / "r.JSON", RESULTS._replace(first=first))
    found = json.loads((tmp_path / "r.JSON").read_text())
    assert [[r["first_rank"] for r in q["results"]] for q in found] == [[None, 1], [None, None, 1]]


@pytest.mark.parametrize("suffix", ["trec", "run", "txt"])
def test_results_are_written_as_a_run(tmp_path, suffix):
    write_file(tmp_path / f"r.{suffix}", RESULTS)
    assert (tmp_path / f"r.{suffix}").read_text().splitlines() == [
        "q%201.png Q0 a%20b.png 1 2.5 diffusion-rerank",
        "q%201.png Q0 \u00e9.png 2 1.25 diffusion-rerank",
        "q%252.png Q0 x%0Ay.png 1 0.125 diffusion-rerank",
        "q%252.png Q0 %FF.png 2 -1 diffusion-rerank",
        "q%252.png Q0 z.png 3 -2 diffusion-rerank",
    ]


def test_names_are_in_every_file_that_a_search_writes(home, capsys):
    query = ["search", "index", "photos/b/04.png", "-k", "3", "-q"]
    assert cli.main(query) == 0
    names = [line.split("\t")[3] for line in capsys.readouterr().out.splitlines()]
    for file in ("r.json", "r.npz", "r.run"):
        assert cli.main([*query, "-o", file]) == 0
    (found,) = json.loads(Path("r.json").read_text())
    assert [result["name"] for result in found["results"]] == names
    X = features.open_descriptors("index.descriptors")
    order = np.argsort(-X.vectors @ X.vectors[X.files.index("b/04.png")], kind="stable")
    ranks = [order.tolist().index(X.files.index(name)) + 1 for name in names]
    assert [result["first_rank"] for result in found["results"]] == ranks
    assert np.load("r.npz")["names"].tolist() == [names]
    assert [line.split()[2] for line in Path("r.run").read_text().splitlines()] == names


@pytest.mark.parametrize("file", ["r", "r.csv", "r.JSN", "r.json.gz"])
def test_another_suffix_is_refused_before_any_work(home, capsys, monkeypatch, file):
    monkeypatch.setattr(of_photos, "describe_queries", lambda *_, **__: 1 / 0)
    assert cli.main(["search", "index", "photos/03.png", "-o", file]) == 2
    said = capsys.readouterr().err
    assert f"-o {file!r}: expected a name that ends in .json, in .npz, or in .trec, .run or" in said
    assert not Path(file).exists()


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["index", "photos", "index", "--size", "80"], "--size: expected --backbone or --weights"),
        (["index", "photos", "index", "--whitening", "w"], "--whitening: expected --backbone or"),
        (["extract", "photos", "index.descriptors", "--regions", "rmac"], "--regions: expected"),
        (["discover", "photos", "o", "--beta", "2"], "--beta: expected --backbone or --weights"),
        (["index", "absent", "index"], "absent: expected a folder of images"),
    ],
)
def test_bad_updates_are_one_line(home, capsys, arguments, message):
    before = contents(home)
    assert cli.main([*arguments, "-q"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert message in said.err
    assert said.err.count("\n") == 1
    assert contents(home) == before


def test_a_network_that_is_gone_is_named(home, capsys):
    assert cli.main(["index", "photos", "other", *NETWORK, *SHORT]) == 0
    Path("w.safetensors").unlink()
    capsys.readouterr()
    assert cli.main(["index", "photos", "other", "-q"]) == 2
    assert "w.safetensors: the weights that made the descriptors are no longer" in (
        capsys.readouterr().err
    )


def test_weights_that_were_moved_are_found_where_they_are_now(home, capsys):
    assert cli.main(["index", "photos", "other", *NETWORK, *SHORT]) == 0
    os.rename("w.safetensors", "moved.safetensors")
    call = [*NETWORK, *SHORT]
    call[call.index("w.safetensors")] = "moved.safetensors"
    assert cli.main(["index", "photos", "other", *call]) == 0
    assert "20 unchanged" in capsys.readouterr().out
    assert cli.main(["search", "other", "photos/03.png", "-q"]) == 0
    assert cli.main(["index", "photos", "other", "-q"]) == 0


def test_an_index_is_built_of_descriptors_without_a_record_of_photos(home):
    stored = features.open_descriptors("index.descriptors")
    ranker = diffusion.Reranker(k=5, alpha=0.5)
    built = build_index(stored, home / "other", ranker)
    assert (built.anew, str(built)) == (None, "")
    again = build_index(stored, home / "other", diffusion.Reranker(k=5, alpha=0.5))
    assert (again.added, again.removed, again.anew) == (0, 0, "")
