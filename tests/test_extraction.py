"""A folder of photos into descriptors: against one image at a time, kills, damage."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import diffusion
import features
from diffusion import DiffusionError
from diffusion import cli as diffusion_cli
from features import cli, folder, loading, safetensors, sweep
from features.collection import open_descriptors
from features.images import UnreadableImageError
from features.loading import Item, plan
from features.recipe import describer_of

from .photos import CHINA, pattern, png, with_exif

# A walk that stays near where it starts: an image finds itself first.
SHORT = ["--affinity", "cosine", "--alpha", "0.5", "--query-k", "1", "-k", "5", "-q"]
NETWORK = ["--backbone", "alexnet", "--weights", "w.safetensors", "--size", "90"]
SIZES = ((64, 96), (96, 64), (80, 80), (70, 66))
# The longer side at most 90, none below AlexNet's least, 63.
FITTED = ((63, 90), (90, 63), (80, 80), (70, 66))


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Keep torch to one thread: on a busy machine small maps wait long for the others."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of random weights of a trunk."""
    path = tmp_path_factory.mktemp("weights") / "alexnet.safetensors"
    safetensors.write(path, features.backbone("alexnet", head=False).state_dict())
    return path


def write_photos(folder):
    for number in range(20):
        path = folder / ("", "b", "a/c")[number % 3] / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(pattern(*SIZES[number % 4], seed=number)))


@pytest.fixture
def photos(tmp_path):
    """Twenty images of four sizes in three folders."""
    pytest.importorskip("PIL.Image", reason="Pillow is not installed: pip install .[images]")
    write_photos(tmp_path / "photos")
    return tmp_path / "photos"


@pytest.fixture
def extract(photos, weights, tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "SHARD_IMAGES", 4)

    def extract(out="out", **settings):
        settings = {"size": 90, "batch_size": 3, "workers": 2, **settings}
        return features.extract_folder(
            photos, tmp_path / out, backbone="alexnet", weights=weights, **settings
        )

    return extract


def contents(path):
    """Return the bytes of every file in a folder, by name."""
    return {
        file.relative_to(path).as_posix(): file.read_bytes()
        for file in sorted(Path(path).rglob("*"))
        if file.is_file()
    }


# --- the plan ------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=40),
    st.integers(1, 7),
)
def test_batches_hold_every_image_once_by_size(sizes, batch_size):
    items = [Item(f"{n}", 1, 1, 600 * h, 900 * w) for n, (h, w) in enumerate(sizes)]
    batches = plan(items, batch_size)
    numbers = [number for batch in batches for number in batch.numbers]
    assert sorted(numbers) == list(range(len(items)))
    for batch in batches:
        assert {(items[n].height, items[n].width) for n in batch.numbers} == {
            (batch.height, batch.width)
        }
        assert 1 <= len(batch.numbers) <= batch_size
        assert len(batch.numbers) == 1 or len(batch.numbers) * batch.height * batch.width <= 1 << 22
        assert list(batch.numbers) == sorted(batch.numbers)
    pixels = [batch.height * batch.width for batch in batches]
    assert pixels == sorted(pixels, reverse=True)


# --- what comes out ------------------------------------------------------------------------------


def one_by_one(photos, weights, files, pooling="gem", scales=(1.0,), mean=None, std=None):
    """Describe files by the parts of the library, an image at a time."""
    from features.images import read_image

    network = features.RetrievalNetwork(features.backbone("alexnet", weights, head=False), pooling)
    mean, std = (
        torch.tensor(v).view(3, 1, 1)
        for v in (mean or [0.485, 0.456, 0.406], std or [0.229, 0.224, 0.225])
    )
    rows = []
    for file in files:
        image = read_image(photos / file, FITTED[int(Path(file).stem) % 4])
        x = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
        with torch.no_grad():
            rows.append(network.describe((x - mean) / std, scales)[0].numpy())
    return np.array(rows)


@pytest.mark.parametrize(
    ("settings", "scales"), [({}, (1.0,)), ({"pooling": "mac", "scales": (1.0, 0.5)}, (1.0, 0.5))]
)
def test_rows_are_those_of_the_images_described_alone(extract, photos, weights, settings, scales):
    out = extract(**settings)
    assert out.files == sorted(out.files)
    assert out.files[0] == "00.png"
    assert len(out.files) == 20
    assert out.vectors.dtype == np.float32
    expected = one_by_one(photos, weights, out.files, settings.get("pooling", "gem"), scales)
    np.testing.assert_allclose(out.vectors, expected, atol=2e-5)
    np.testing.assert_allclose(np.linalg.norm(out.vectors, axis=1), 1, rtol=1e-5)
    assert out.manifest["skipped"] == []
    assert out.regional is None


def test_images_of_another_mean(extract, photos, weights):
    statistics = {"mean": (0.5, 0.4, 0.3), "std": (0.5, 0.3, 0.2)}
    out = extract(**statistics)
    expected = one_by_one(photos, weights, out.files, **statistics)
    np.testing.assert_allclose(out.vectors, expected, atol=2e-5)
    # A query is described in the same way, and as before there were these settings.
    recipe = out.manifest["recipe"]
    query = describer_of(recipe, None, "out").describe_file(photos / out.files[7])
    np.testing.assert_allclose(query, expected[7], atol=2e-5)
    early = {name: value for name, value in recipe.items() if name not in statistics}
    query = describer_of(early, None, "out").describe_file(photos / out.files[7])
    expected = one_by_one(photos, weights, out.files[7:8])
    np.testing.assert_allclose(query, expected[0], atol=2e-5)
    with pytest.raises(DiffusionError, match="out: altered"):
        describer_of({**recipe, "std": [1, 1, 0]}, None, "out")


def test_workers_do_not_change_a_bit(extract, tmp_path):
    extract("one", workers=1)
    extract("four", workers=4)
    assert contents(tmp_path / "one") == contents(tmp_path / "four")
    assert set(contents(tmp_path / "one")) == {"descriptors.npy", "files.txt", "manifest.json"}


def test_square_images(extract):
    squashed = extract("square", square=True, size=70)
    assert squashed.manifest["recipe"]["square"]
    assert not np.allclose(squashed.vectors, extract("aspect", size=70).vectors, atol=1e-3)


def test_regions_stand_with_their_images(extract, photos, weights):
    out = extract(regions="grid")
    assert out.regional is not None
    counts = np.bincount(out.region_images, minlength=20)
    assert (counts == 10).all()
    assert (np.diff(out.region_images) >= 0).all()
    assert out.region_boxes.shape == (len(out.regional), 4)
    first = np.searchsorted(out.region_images, np.arange(20))
    np.testing.assert_array_equal(out.region_boxes[first], np.tile([0, 0, 1, 1], (20, 1)))
    # The whole image as a region is its MAC.
    expected = one_by_one(photos, weights, out.files, "mac")
    np.testing.assert_allclose(out.regional[first], expected, atol=2e-5)
    assert out.manifest["regions"] == len(out.regional)


def test_whitening_is_applied_and_kept(extract, tmp_path):
    plain = extract("plain", regions="rmac")
    whitening = features.learn_pca(plain.vectors, 5)
    whitening.save(tmp_path / "w.npz")
    out = extract("white", regions="rmac", whitening=tmp_path / "w.npz")
    np.testing.assert_array_equal(out.vectors, whitening.apply(plain.vectors))
    np.testing.assert_array_equal(out.regional, whitening.apply(plain.regional))
    np.testing.assert_array_equal(out.whitening().projection, whitening.projection)
    assert plain.whitening() is None
    other = features.learn_pca(plain.vectors[:, :100], 5)
    with pytest.raises(DiffusionError, match="dimension 256"):
        extract("other", whitening=other)
    assert not (tmp_path / "other").exists()


def test_damaged_images_are_named_skipped_and_counted(extract, photos, tmp_path):
    undisturbed = extract("before")
    (photos / "b" / "cut.jpg").write_bytes(CHINA.read_bytes()[:30_000])
    (photos / "cut.png").write_bytes(png(pattern(60, 90, 0))[:-60])
    (photos / "text.jpg").write_bytes(b"no image")
    (photos / "bomb.png").write_bytes(png(pattern(5, 5, 0), size=(50_000, 50_000)))
    (photos / "two\nlines.png").write_bytes(png(pattern(60, 90, 0)))
    (photos / "gone.png").symlink_to(tmp_path / "nowhere.png")
    out = extract("after")
    skipped = {entry["file"]: entry["reason"] for entry in out.manifest["skipped"]}
    assert set(skipped) == {
        "b/cut.jpg", "cut.png", "text.jpg", "bomb.png", "two\nlines.png", "gone.png",
    }  # fmt: skip
    assert "no JPEG or PNG" in skipped["text.jpg"]
    assert "too many" in skipped["bomb.png"]
    assert "line break" in skipped["two\nlines.png"]
    assert "No such file" in skipped["gone.png"]
    assert all("photos" not in reason for reason in skipped.values())
    assert out.files == undisturbed.files
    np.testing.assert_allclose(out.vectors, undisturbed.vectors, atol=2e-5)


def test_where_no_image_can_be_read(extract, photos, tmp_path):
    for file in list(photos.rglob("*.png")):
        file.write_bytes(b"no image")
    with pytest.raises(DiffusionError, match=r"none of 20 can, 00\.png: no JPEG"):
        extract()
    for file in list(photos.rglob("*.png")):
        file.write_bytes(png(pattern(60, 90, 0))[:-60])
    with pytest.raises(DiffusionError, match=r"none of 20 can, 00\.png"):
        extract()
    assert not (tmp_path / "out" / "manifest.json").exists()


# --- interruptions -------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [0, 1, 3, 4, 5, 7, 8, 9])
def test_interrupted_at_any_write_it_goes_on_to_the_same_bytes(
    extract, tmp_path, monkeypatch, step
):
    extract("undisturbed", regions="rmac")
    replace, writes = os.replace, []

    def stopped(source, target):
        if len(writes) == step:
            raise KeyboardInterrupt
        writes.append(target)
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stopped)
        with pytest.raises(KeyboardInterrupt):
            extract("out", regions="rmac")
    assert not (tmp_path / "out" / "manifest.json").exists()
    with pytest.raises(DiffusionError, match="interrupted"):
        open_descriptors(tmp_path / "out")
    described = []
    raw = features.recipe.Describer.raw
    monkeypatch.setattr(
        features.recipe.Describer, "raw", lambda s, x: described.append(len(x)) or raw(s, x)
    )
    extract("out", regions="rmac")
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")
    # Four shards of five images come before what is put together of them.
    assert sum(described) == 20 - 5 * min(step, 4)


def test_killed_it_goes_on_to_the_same_bytes(extract, photos, weights, tmp_path):
    extract("undisturbed")
    out = tmp_path / "killed"
    call = (
        "import sys, torch, features\n"
        "from features import sweep\n"
        "torch.set_num_threads(1)\n"
        "sweep.SHARD_IMAGES = 4\n"
        "features.extract_folder(sys.argv[1], sys.argv[2], backbone='alexnet', "
        "weights=sys.argv[3], size=90, batch_size=3, workers=2)\n"
    )
    arguments = [sys.executable, "-c", call, str(photos), str(out), str(weights)]
    process = subprocess.Popen(arguments)
    while process.poll() is None and not list(out.glob("partial/*.npz")):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (out / "partial").exists() or (out / "manifest.json").exists()
    subprocess.run(arguments, check=True)
    assert contents(out) == contents(tmp_path / "undisturbed")


def test_a_complete_extraction_is_not_repeated(extract, tmp_path, monkeypatch):
    extract()
    before = contents(tmp_path / "out")

    def never(*_):
        raise AssertionError("described again")

    monkeypatch.setattr(features.recipe.Describer, "raw", never)
    extract()
    assert contents(tmp_path / "out") == before


def test_what_changed_is_described_again(extract, photos, tmp_path):
    extract(regions="rmac")
    (photos / "00.png").write_bytes(png(pattern(60, 90, seed=99)))
    (photos / "b" / "01.png").unlink()
    out = extract()
    assert len(out.files) == 19
    assert set(contents(tmp_path / "out")) == {"descriptors.npy", "files.txt", "manifest.json"}
    again = extract("fresh")
    np.testing.assert_array_equal(out.vectors, again.vectors)
    other = extract(pooling="mac")
    assert not np.allclose(other.vectors, out.vectors)


def test_a_damaged_shard_is_described_again(extract, tmp_path, monkeypatch):
    extract("undisturbed")
    with monkeypatch.context() as patch:
        patch.setattr(folder, "_assemble", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            extract()
    shards = sorted((tmp_path / "out" / "partial").glob("*.npz"))
    shards[0].write_bytes(shards[0].read_bytes()[:500])
    shards[1].write_bytes(b"")
    np.savez(shards[2], descriptors=np.zeros((1, 3)))
    (tmp_path / "out" / "partial" / ".0123.npz.89abcdef.tmp").touch()
    extract()
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")


def test_a_full_disk_is_an_error_that_leaves_the_old_extraction(extract, tmp_path, monkeypatch):
    extract()
    before = contents(tmp_path / "out")

    def full(descriptor, offset, size):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(DiffusionError, match=r"out: cannot be written \(No space left"):
            extract(pooling="mac")
    assert before.items() <= contents(tmp_path / "out").items()
    open_descriptors(tmp_path / "out", verify=True)
    extract(pooling="mac")
    extract("undisturbed", pooling="mac")
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")


@pytest.mark.parametrize("complete", [True, False])
def test_an_image_that_was_out_of_reach_is_tried_again(extract, tmp_path, monkeypatch, complete):
    extract("undisturbed")
    read = loading.read_image

    def failing(path, size):
        if path.endswith("04.png"):
            raise UnreadableImageError(f"{path}: Input/output error")
        return read(path, size)

    with monkeypatch.context() as patch:
        patch.setattr(loading, "read_image", failing)
        if complete:
            (entry,) = extract().manifest["skipped"]
            assert entry == {"file": "b/04.png", "reason": "Input/output error"}
            assert len(extract().files) == 19
        else:
            patch.setattr(folder, "_assemble", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                extract()
    extract()
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")


def test_two_extractions_do_not_share_a_folder(extract, tmp_path):
    from diffusion.storage import lock_directory, unlock

    lock = lock_directory(tmp_path / "out")
    with pytest.raises(DiffusionError, match="another extraction"):
        extract()
    unlock(lock)
    extract()


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 0}, "^size:"),
        ({"batch_size": 0}, "^batch_size:"),
        ({"workers": 0}, "^workers:"),
        ({"scales": ()}, "^scales:"),
        ({"pooling": "max"}, "^pooling:"),
        ({"regions": "all"}, "^regions:"),
        ({"mean": (0.5, 0.5)}, "^mean:"),
        ({"std": (0, 1, 1)}, "^std:"),
        ({"device": "cuda:99"}, "^device:"),
        ({"device": "nothing"}, "^device:"),
        ({"whitening": "absent.npz"}, "^absent.npz: cannot"),
    ],
)
def test_bad_settings_are_named_and_leave_nothing(extract, tmp_path, settings, message):
    with pytest.raises(DiffusionError, match=message):
        extract(**settings)
    assert not (tmp_path / "out").exists()


def test_networks_that_are_not_said_or_not_trained(photos, tmp_path, weights):
    for arguments, message in (
        ({}, "^backbone: expected"),
        ({"backbone": "resnet18"}, "^weights: expected"),
        ({"weights": weights}, "name the backbone"),
    ):
        with pytest.raises(DiffusionError, match=message):
            features.extract_folder(photos, tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_other_files_are_never_touched(extract, tmp_path):
    for name in ("notes.txt", "manifest.json"):
        out = tmp_path / name.split(".")[0]
        out.mkdir()
        (out / name).write_text("{}")
        with pytest.raises(DiffusionError, match=f"found '{name}'"):
            extract(out.name)
        assert contents(out) == {name: b"{}"}
    (tmp_path / "file").touch()
    with pytest.raises(DiffusionError, match="this is a file"):
        extract("file")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda out: (out / "descriptors.npy").unlink(), r"descriptors\.npy: cannot"),
        (lambda out: (out / "descriptors.npy").write_bytes(b""), r"descriptors\.npy: altered"),
        (lambda out: (out / "manifest.json").write_text("{"), "not valid JSON"),
        (lambda out: (out / "manifest.json").write_text("{}"), "foreign"),
        (lambda out: (out / "manifest.json").unlink(), "expected descriptors"),
        (lambda out: shutil.rmtree(out), "expected descriptors"),
    ],
)
def test_damaged_descriptors_are_refused(extract, tmp_path, damage, message):
    extract()
    damage(tmp_path / "out")
    with pytest.raises(DiffusionError, match=message):
        open_descriptors(tmp_path / "out")


def test_every_entry_of_a_manifest_is_checked(extract, tmp_path):
    extract(regions="rmac")
    path = tmp_path / "out" / "manifest.json"
    whole = json.loads(path.read_text())
    for change in (
        {"version": 2},
        {"files": []},
        {"files": {}},
        {"files": {"../x": {"bytes": 1, "sha256": ""}}},
        {"files": {**whole["files"], "descriptors.npy": 5}},
        {"recipe": None},
    ):
        path.write_text(json.dumps({**whole, **change}))
        with pytest.raises(DiffusionError, match=r"manifest\.json: "):
            open_descriptors(tmp_path / "out")


def test_verifying_compares_checksums(extract, tmp_path):
    extract()
    path = tmp_path / "out" / "descriptors.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    open_descriptors(tmp_path / "out")
    with pytest.raises(DiffusionError, match=r"descriptors\.npy: altered"):
        open_descriptors(tmp_path / "out", verify=True)


# --- the commands --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def home(weights, tmp_path_factory):
    """A folder with photos, descriptors, plain and whitened, and an index."""
    pytest.importorskip("PIL.Image", reason="Pillow is not installed: pip install .[images]")
    home = tmp_path_factory.mktemp("home")
    write_photos(home / "photos")
    (home / "photos" / "text.jpg").write_bytes(b"no image")
    shutil.copy(weights, home / "w.safetensors")
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
