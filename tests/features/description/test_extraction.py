"""A folder of photos into descriptors: against one image at a time, kills, damage."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import features
from diffusion import DiffusionError, storage
from diffusion.storage.lock import lock_directory, unlock
from features.description import extraction as folder
from features.description import scan, sweep
from features.description.descriptors import FORMAT, open_descriptors
from features.description.recipe import describer_of
from features.images import batches as loading
from features.images.batches import Item, plan
from features.images.reading import UnreadableImageError
from features.settings import ImageSettings, NetworkSettings, RunSettings
from tests.support.folders import contents
from tests.support.photos import CHINA, pattern, png, write_photos
from tests.support.processes import run_killed, run_whole
from tests.support.settings import take

pytestmark = pytest.mark.usefixtures("one_thread")

# The files of an extraction without regions.
PLAIN = {
    "manifest.json",
    "arrays/descriptors.npy",
    *(f"arrays/file{name}.npy" for name in ("s", "_ends", "_stats", "_shapes", "_digests")),
}
# The longer side at most 90, none below AlexNet's least, 63.
FITTED = ((63, 90), (90, 63), (80, 80), (70, 66))


@pytest.fixture
def photos(tmp_path):
    """Twenty images of four sizes in three folders."""
    write_photos(tmp_path / "photos")
    return tmp_path / "photos"


@pytest.fixture
def extract(photos, weights, tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "SHARD_IMAGES", 4)

    def extract(out="out", **settings):
        settings = {"size": 90, "batch_size": 3, "workers": 2, **settings}
        return features.extract_folder(
            photos,
            tmp_path / out,
            take(NetworkSettings, {"backbone": "alexnet", "weights": weights, **settings}),
            images=take(ImageSettings, settings),
            run=take(RunSettings, settings),
            whitening=settings.get("whitening"),
        )

    return extract


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
    from features.images.reading import read_image

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
    # A query is described in the same way, and as before there were groups and these settings.
    recipe = out.manifest["recipe"]
    query = describer_of(recipe, None, "out").describe_file(photos / out.files[7])
    np.testing.assert_allclose(query, expected[7], atol=2e-5)
    flat = {**recipe["network"], **recipe["images"], "weights_sha256": recipe["weights_sha256"]}
    early = {name: value for name, value in flat.items() if name not in statistics}
    query = describer_of(early, None, "out").describe_file(photos / out.files[7])
    expected = one_by_one(photos, weights, out.files[7:8])
    np.testing.assert_allclose(query, expected[0], atol=2e-5)
    with pytest.raises(DiffusionError, match="out: altered"):
        describer_of({**recipe, "network": {"std": [1, 1, 0]}}, None, "out")


def test_workers_do_not_change_a_bit(extract, tmp_path):
    extract("one", workers=1)
    extract("four", workers=4)
    assert contents(tmp_path / "one") == contents(tmp_path / "four")
    assert set(contents(tmp_path / "one")) == PLAIN


def test_square_images(extract):
    squashed = extract("square", square=True, size=70)
    assert squashed.manifest["recipe"]["images"]["square"]
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
    assert "not an image" in skipped["text.jpg"]
    assert "too many" in skipped["bomb.png"]
    assert "line break" in skipped["two\nlines.png"]
    assert "No such file" in skipped["gone.png"]
    assert all("photos" not in reason for reason in skipped.values())
    assert out.files == undisturbed.files
    np.testing.assert_allclose(out.vectors, undisturbed.vectors, atol=2e-5)


def test_where_no_image_can_be_read(extract, photos, tmp_path):
    for file in list(photos.rglob("*.png")):
        file.write_bytes(b"no image")
    with pytest.raises(DiffusionError, match=r"none of 20 can, 00\.png: not an image"):
        extract()
    for file in list(photos.rglob("*.png")):
        file.write_bytes(png(pattern(60, 90, 0))[:-60])
    with pytest.raises(DiffusionError, match=r"none of 20 can, 00\.png"):
        extract()
    with pytest.raises(DiffusionError, match="not finished"):
        open_descriptors(tmp_path / "out")


# --- folders that change -------------------------------------------------------------------------


def same_but_for_last_bits(one, other):
    """Compare two extractions; the last bits of a descriptor depend on its batch."""
    one, other = (open_descriptors(path, verify=True) for path in (one, other))
    assert one.files == other.files
    assert one.sources.equals(other.sources)
    assert {**one.manifest, "arrays": 0, "checksum": 0} == {
        **other.manifest, "arrays": 0, "checksum": 0
    }  # fmt: skip
    for name, array in other.arrays.items():
        np.testing.assert_allclose(one.arrays[name], array, atol=2e-5)


@pytest.fixture
def seen(monkeypatch):
    """The number of images in each batch that the network was given."""
    seen = []
    raw = features.description.recipe.Describer.raw

    def counting(self, images):
        seen.append(len(images))
        return raw(self, images)

    monkeypatch.setattr(features.description.recipe.Describer, "raw", counting)
    return seen


def change(photos):
    """Change a folder of `write_photos` in every way; only three photos are to be described."""
    (photos / "new.png").write_bytes(png(pattern(64, 96, seed=50)))
    (photos / "b" / "04.png").write_bytes(png(pattern(64, 96, seed=51)))
    # Of the same size in bytes, and with its time restored.
    before = (photos / "03.png").stat()
    (photos / "03.png").write_bytes(png(pattern(6, 6, seed=52)).ljust(before.st_size, b"."))
    os.utime(photos / "03.png", ns=(before.st_atime_ns, before.st_mtime_ns))
    (photos / "00.png").unlink()
    os.utime(photos / "06.png")
    (photos / "09.png").rename(photos / "b" / "moved.png")
    shutil.copy(photos / "12.png", photos / "copy.png")
    # Two that change places.
    (photos / "15.png").rename(photos / "aside")
    (photos / "18.png").rename(photos / "15.png")
    (photos / "aside").rename(photos / "18.png")


@pytest.mark.parametrize("settings", [{}, {"regions": "rmac", "whitening": True}])
def test_what_has_not_changed_is_not_described_again(extract, photos, tmp_path, seen, settings):
    if "whitening" in settings:
        settings["whitening"] = features.learn_pca(extract("plain").vectors, 5)
    extract(**settings)
    change(photos)
    seen.clear()
    out = extract(**settings)
    assert sum(seen) == 3
    assert str(out.changes) == "21 photos: 1 new, 2 altered, 1 gone, 4 renamed, 14 unchanged"
    extract("fresh", **settings)
    same_but_for_last_bits(tmp_path / "out", tmp_path / "fresh")
    seen.clear()
    before = contents(tmp_path / "out")
    out = extract(**settings)
    assert str(out.changes) == "21 photos: 0 new, 0 altered, 0 gone, 21 unchanged"
    assert (seen, contents(tmp_path / "out")) == ([], before)


def test_files_that_are_known_are_not_read(extract, photos, monkeypatch):
    extract()
    (photos / "new.png").write_bytes(png(pattern(64, 97, seed=50)))
    opened = []
    read_size, sha256_of = scan.read_size, scan.sha256_of
    monkeypatch.setattr(scan, "read_size", lambda path: opened.append(path) or read_size(path))
    monkeypatch.setattr(scan, "sha256_of", lambda path: opened.append(path) or sha256_of(path))
    extract()
    assert opened == [str(photos / "new.png")]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"pooling": "mac"}, "made with other settings (pooling)"),
        ({"size": 80, "regions": "rmac"}, "made with other settings (size, regions)"),
        ({"whitening": True}, "made with other settings (whitening)"),
    ],
)
def test_with_other_settings_all_are_described_anew(extract, seen, settings, said):
    X = extract().vectors
    if "whitening" in settings:
        settings["whitening"] = features.learn_pca(X, 5)
    seen.clear()
    out = extract(**settings)
    assert sum(seen) == 20
    assert str(out.changes) == f"20 photos, all described anew: {said}"


def test_another_size_of_batches_changes_nothing(extract, seen):
    extract()
    seen.clear()
    extract(batch_size=7)
    assert seen == []


@pytest.mark.parametrize("damage", ["altered", "truncated", "earlier version"])
def test_damaged_descriptors_are_not_taken_over(extract, photos, tmp_path, seen, damage):
    extract()
    path = array(tmp_path / "out")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    if damage == "earlier version":
        stored = storage.load(tmp_path / "out", FORMAT)
        arrays = {name: a for name, a in stored.arrays.items() if not name.startswith("file_d")}
        arrays = {name: a for name, a in arrays.items() if name[5:] not in ("stats", "shapes")}
        storage.save(tmp_path / "out", FORMAT, stored.manifest, arrays)
    else:
        path.write_bytes(content[:-1] if damage == "truncated" else content)
    (photos / "00.png").unlink()
    seen.clear()
    out = extract()
    assert sum(seen) == 19
    assert damage.split()[0] in out.changes.anew
    extract("fresh")
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_a_photo_altered_while_it_is_described_is_described_again(
    extract, photos, tmp_path, monkeypatch, seen
):
    read = loading.read_image

    def altering(path, size):
        image = read(path, size)
        if path.endswith("03.png"):
            Path(path).write_bytes(png(pattern(70, 66, seed=60)))
        return image

    with monkeypatch.context() as patch:
        patch.setattr(loading, "read_image", altering)
        out = extract()
    row = out.files.index("03.png")
    assert not out.sources.digests[row].any()
    assert np.count_nonzero(out.sources.digests.any(axis=1)) == 19
    seen.clear()
    assert str(extract().changes) == "20 photos: 0 new, 1 altered, 0 gone, 19 unchanged"
    assert sum(seen) == 1
    extract("fresh")
    same_but_for_last_bits(tmp_path / "out", tmp_path / "fresh")


@pytest.mark.parametrize("step", range(4))
def test_an_update_that_is_interrupted_goes_on_to_the_same_bytes(
    extract, photos, tmp_path, monkeypatch, seen, step
):
    extract(regions="rmac")
    shutil.copytree(tmp_path / "out", tmp_path / "undisturbed")
    for number in range(8):
        (photos / f"new{number}.png").write_bytes(png(pattern(70, 66, seed=70 + number)))
    (photos / "00.png").unlink()
    extract("undisturbed", regions="rmac")
    before = open_descriptors(tmp_path / "out").files
    replace, writes = os.replace, []

    def stopped(source, target):
        if len(writes) == step:
            raise KeyboardInterrupt
        writes.append(target)
        replace(source, target)

    # Two shards, the manifest; then it is complete.
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stopped)
        if step < 3:
            with pytest.raises(KeyboardInterrupt):
                extract(regions="rmac")
            assert open_descriptors(tmp_path / "out", verify=True).files == before
        else:
            extract(regions="rmac")
    seen.clear()
    extract(regions="rmac")
    assert sum(seen) == (8, 2, 0, 0)[step]
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")


def test_where_the_photos_are_is_kept(extract, photos, tmp_path):
    out = extract()
    assert str(photos) in out.photos()
    os.rename(tmp_path, tmp_path.with_name("both"))
    moved = open_descriptors(tmp_path.with_name("both") / "out")
    assert str(tmp_path.with_name("both") / "photos") == moved.photos()[0]
    os.rename(tmp_path.with_name("both"), tmp_path)
    (tmp_path / "deeper").mkdir()
    os.rename(tmp_path / "out", tmp_path / "deeper" / "out")
    assert str(photos) in open_descriptors(tmp_path / "deeper" / "out").photos()
    # The folder itself is moved.
    os.rename(tmp_path / "deeper" / "out", tmp_path / "out")
    os.rename(photos, tmp_path / "renamed")
    os.symlink(tmp_path / "renamed", photos)
    again = features.extract_folder(
        tmp_path / "renamed",
        tmp_path / "out",
        NetworkSettings("alexnet", out.manifest["recipe"]["network"]["weights"]),
        images=ImageSettings(size=90),
    )
    assert again.photos() == [str(tmp_path / "renamed")]


# --- interruptions -------------------------------------------------------------------------------


# The claim on the folder, four shards and the manifest are written by a replacement each.
@pytest.mark.parametrize("step", range(6))
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
    assert len(writes) == step
    with pytest.raises(DiffusionError, match="not finished" if step else "found no manifest"):
        open_descriptors(tmp_path / "out")
    described = []
    raw = features.description.recipe.Describer.raw
    monkeypatch.setattr(
        features.description.recipe.Describer,
        "raw",
        lambda s, x: described.append(len(x)) or raw(s, x),
    )
    extract("out", regions="rmac")
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")
    # A shard has five images.
    assert sum(described) == 20 - 5 * max(step - 1, 0)


@pytest.mark.slow
def test_killed_it_goes_on_to_the_same_bytes(extract, photos, weights, tmp_path):
    extract("undisturbed")
    out = tmp_path / "killed"
    call = (
        "import torch\n"
        "from features import *\n"
        "from features.description import sweep\n"
        "torch.set_num_threads(1)\n"
        "sweep.SHARD_IMAGES = 4\n"
        "extract_folder(*sys.argv[3:5], NetworkSettings('alexnet', sys.argv[5]), "
        "images=ImageSettings(size=90), run=RunSettings(batch_size=3, workers=2))\n"
    )
    run_killed(call, 2, ".npz", photos, out, weights)
    assert len(list(out.glob("partial/*.npz"))) == 2
    with pytest.raises(DiffusionError, match="not finished"):
        open_descriptors(out)
    run_whole(call, photos, out, weights)
    assert contents(out) == contents(tmp_path / "undisturbed")


def test_a_complete_extraction_is_not_repeated(extract, tmp_path, monkeypatch):
    extract()
    before = contents(tmp_path / "out")

    def never(*_):
        raise AssertionError("described again")

    monkeypatch.setattr(features.description.recipe.Describer, "raw", never)
    extract()
    assert contents(tmp_path / "out") == before


def test_what_changed_is_described_again(extract, photos, tmp_path):
    extract(regions="rmac")
    (photos / "00.png").write_bytes(png(pattern(60, 90, seed=99)))
    (photos / "b" / "01.png").unlink()
    out = extract()
    assert len(out.files) == 19
    assert set(contents(tmp_path / "out")) == PLAIN
    again = extract("fresh")
    np.testing.assert_array_equal(out.vectors, again.vectors)
    other = extract(pooling="mac")
    assert not np.allclose(other.vectors, out.vectors)


def test_a_damaged_shard_is_described_again(extract, tmp_path, monkeypatch):
    extract("undisturbed")
    with monkeypatch.context() as patch:
        patch.setattr(folder._Extraction, "_assemble", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            extract()
    shards = sorted((tmp_path / "out" / "partial").glob("*.npz"))
    shards[0].write_bytes(shards[0].read_bytes()[:500])
    shards[1].write_bytes(b"")
    np.savez(shards[2], descriptors=np.zeros((1, 3)))
    (tmp_path / "out" / "partial" / f".{shards[0].name}.89abcdef.tmp").touch()
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
            patch.setattr(folder._Extraction, "_assemble", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                extract()
    if complete:
        assert str(extract().changes) == "20 photos: 1 new, 0 altered, 0 gone, 19 unchanged"
        same_but_for_last_bits(tmp_path / "out", tmp_path / "undisturbed")
    else:
        extract()
        assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")


def test_two_extractions_do_not_share_a_folder(extract, tmp_path):

    lock = lock_directory(tmp_path / "out")
    with pytest.raises(DiffusionError, match="another process or thread is writing"):
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
            features.extract_folder(photos, tmp_path / "out", NetworkSettings(**arguments))
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
    # Files and folders that have but the names of ours.
    for name in ("partial/thesis.txt", "page.html", "arrays-01234567/x", "descriptors.npy"):
        out = tmp_path / f"other {name[:5]}"
        (out / name).parent.mkdir(parents=True)
        (out / name).write_text("mine")
        with pytest.raises(DiffusionError, match=f"found '{name.split('/')[0]}'"):
            extract(out.name)
        assert [file.read_text() for file in out.rglob("*") if file.is_file()] == ["mine"]
        assert (out / name).exists()
    (tmp_path / "manifest" / "manifest.json").write_text("no JSON")
    with pytest.raises(DiffusionError, match=r"found 'manifest\.json'"):
        extract("manifest")


def array(out, name="descriptors"):
    """Return the file of an array of a folder."""
    (file,) = out.glob(f"arrays-*/{name}.npy")
    return file


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda out: array(out).unlink(), r"descriptors\.npy: cannot"),
        (lambda out: array(out).write_bytes(b""), r"descriptors\.npy: truncated or altered"),
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


def test_what_the_manifest_and_the_arrays_say_is_checked(extract, tmp_path):
    extract(regions="rmac")
    stored = storage.load(tmp_path / "out", FORMAT)
    manifest, arrays = stored.manifest, stored.arrays
    for content, changed in (
        ({"recipe": None}, {}),
        ({}, {"descriptors": arrays["descriptors"].astype(np.float64)}),
        ({}, {"descriptors": arrays["descriptors"][1:]}),
        ({}, {"file_ends": arrays["file_ends"][:-1]}),
        ({}, {"regions": arrays["regions"][1:]}),
        ({}, {"regions": arrays["regions"][:, 1:]}),
        ({}, {"region_boxes": arrays["region_boxes"][:, 1:]}),
        ({}, {"region_images": arrays["region_images"] + 1}),
    ):
        kept = {name: np.array(array) for name, array in {**arrays, **changed}.items()}
        storage.save(tmp_path / "changed", FORMAT, {**manifest, **content}, kept)
        with pytest.raises(DiffusionError, match=r"manifest\.json: altered"):
            open_descriptors(tmp_path / "changed")
    storage.save(tmp_path / "changed", FORMAT, manifest, {"descriptors": arrays["descriptors"]})
    with pytest.raises(DiffusionError, match=r"manifest\.json: altered"):
        open_descriptors(tmp_path / "changed")


def test_descriptors_of_version_1_are_refused_and_kept(extract, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    np.save(out / "descriptors.npy", np.zeros((1, 2), np.float32))
    (out / "manifest.json").write_text(json.dumps({"format": FORMAT.name, "version": 1}))
    before = contents(out)
    for attempt in (lambda: open_descriptors(out), extract):
        with pytest.raises(DiffusionError, match=r"version 1, .*; extract the images again"):
            attempt()
    assert contents(out) == before


def test_verifying_compares_checksums(extract, tmp_path):
    extract()
    path = array(tmp_path / "out")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    open_descriptors(tmp_path / "out")
    with pytest.raises(DiffusionError, match=r"descriptors\.npy: altered"):
        open_descriptors(tmp_path / "out", verify=True)
