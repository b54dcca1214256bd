"""A folder of photos into object discovery: against its parts, kills, damage, new photos."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import torch

import diffusion
import features
from diffusion import DiffusionError, storage
from features import cli
from features.description import sweep
from features.description.descriptors import FORMAT
from features.images.batches import Batch
from features.images.reading import read_image
from features.networks.frame import FramedTrunk
from features.objects.descriptors import sum_of_regions, weighted_mac
from features.objects.discovery import ObjectDiscovery
from features.objects.groups import find_groups
from features.objects.locate import Mapper
from features.objects.nodes import find_nodes
from features.settings import DiscoverySettings, ImageSettings, NetworkSettings
from tests.features.demo.test_demo import Page
from tests.support.discoveries import FITTED, SETTINGS, SIZES, N, photo, write_photos
from tests.support.folders import contents
from tests.support.photos import png
from tests.support.processes import run_killed, run_whole

NETWORK = ["--backbone", "alexnet", "--weights", "w.safetensors", "--size", "120"]
SKIPPED = "features: skipped text.jpg: not an image of a format that is read\n"

pytestmark = pytest.mark.usefixtures("one_thread")


# --- what comes out -------------------------------------------------------------------------------


def maps_of(photos, weights, files):
    """Return the activations of files, one at a time, by the parts of the library."""
    trunk = features.backbone("alexnet", weights, head=False)
    framed = FramedTrunk(trunk)
    maps = []
    for file in files:
        image = torch.from_numpy(read_image(photos / file, FITTED[int(Path(file).stem) % 3]))
        with torch.no_grad():
            maps += framed.activations(trunk.normalize(image.permute(2, 0, 1)[None] / 255))
    return maps


def in_pixels(cells, stride, shape, file):
    """Turn boxes in cells, spread evenly over the image, into pixels of the photo."""
    (height, width), (down, across) = (s[int(Path(file).stem) % 3] for s in (FITTED, SIZES))
    x = (np.asarray(cells)[:, ::2] - shape[1] / 2) * stride / width + 0.5
    y = (np.asarray(cells)[:, 1::2] - shape[0] / 2) * stride / height + 0.5
    return np.stack([x[:, 0] * across, y[:, 0] * down, x[:, 1] * across, y[:, 1] * down], axis=1)


def test_it_is_its_parts_one_after_the_other(discovered, photos, weights):
    out = discovered
    assert out.files == sorted(out.files)
    assert len(out.files) == N
    A = maps_of(photos, weights, out.files)
    expected = ObjectDiscovery(DiscoverySettings(**SETTINGS)).fit(A)
    learned = out.discovery()
    np.testing.assert_array_equal(learned.cells_, expected.cells_)
    np.testing.assert_array_equal(learned.starts_, expected.starts_)
    np.testing.assert_allclose(learned.centrality_, expected.centrality_, rtol=1e-3)
    vectors = []
    for row, (a, file) in enumerate(zip(A, out.files, strict=True)):
        peaks, S = expected.maps(a, row)
        np.testing.assert_allclose(out.map(row), S, rtol=1e-2, atol=1e-3 * S.max())
        # The cells of the fine map of this network are 8 pixels wide, half of those of the last.
        assert all(side > 1.7 * last for side, last in zip(S.shape, peaks.shape, strict=True))
        (extent,) = in_pixels([[0, 0, *S.shape[::-1]]], 8, S.shape, file)
        np.testing.assert_allclose(out.map_extents[row], extent)
        found = learned.boxes(out.map(row))
        down, across = SIZES[int(Path(file).stem) % 3]
        boxes = in_pixels(found.boxes, 8, S.shape, file)
        boxes[:, ::2] = boxes[:, ::2].clip(0, across)
        boxes[:, 1::2] = boxes[:, 1::2].clip(0, down)
        np.testing.assert_allclose(out.boxes_of(row), boxes, atol=1e-3)
        np.testing.assert_allclose(out.box_weights[out.box_images == row], found.weights, 1e-5)
        vector = sum_of_regions(a.maps, expected.regions(peaks), weights="weighted")
        np.testing.assert_allclose(out.descriptors.vectors[row], vector, atol=1e-3)
        vectors.append(expected.describe_boxes(a, found.boxes))
        nodes, same = out.nodes()(row), find_nodes(a, learned.settings)
        for name in ("cells", "saliency", "vectors", "fine"):
            np.testing.assert_allclose(getattr(nodes, name), getattr(same, name), 1e-3, 1e-3)
    assert len(out.boxes) >= N
    assert (out.boxes[:, :2] < out.boxes[:, 2:]).all()
    groups = find_groups(np.concatenate(vectors), out.box_images)
    np.testing.assert_array_equal(out.box_groups, groups.labels)
    np.testing.assert_allclose(out.box_likeness, groups.likeness, atol=1e-2)


def test_groups_are_listed_by_their_photos(discovered, tmp_path):
    out = discovered
    groups = out.groups()
    assert len(groups) == out.box_groups.max() + 1 == out.descriptors.manifest["groups"] > 0
    sizes = [len(group.photos) for group in groups]
    assert sizes == sorted(sizes, reverse=True)
    assert min(sizes) >= 2
    for number, group in enumerate(groups):
        assert set(group.boxes) == set(np.flatnonzero(out.box_groups == number))
        assert (np.diff(out.box_likeness[group.boxes]) <= 0).all()
        assert set(group.photos) == set(out.box_images[group.boxes])
    stored = json.loads((tmp_path / "out" / "groups.json").read_text())
    assert len(stored) == len(groups)
    for entry, group in zip(stored, groups, strict=True):
        assert entry["photos"] == len(group.photos)
        for member, box in zip(entry["members"], group.boxes, strict=True):
            assert member["file"] == out.files[out.box_images[box]]
            np.testing.assert_allclose(member["box"], out.boxes[box], atol=0.01)
    nothing = replace(out, box_groups=np.full(len(out.boxes), -1))
    assert nothing.groups() == []


def test_it_finds_what_recurs(discovered):
    """Boxes hold the patterns that recur better than chance: most centres of the first do."""
    hits = 0
    for row in range(N):
        left, top, right, bottom = discovered.boxes_of(row)[0]
        hits += 25 < (left + right) / 2 < 80 and 20 < (top + bottom) / 2 < 75
    assert hits >= 0.6 * N


@pytest.mark.parametrize("kind", ["egm", "egm-delta", "mac"])
def test_other_descriptors(discover, photos, weights, kind):
    out = discover(descriptor=kind)
    assert out.descriptors.manifest["objects"]["descriptor"] == kind
    (a,) = maps_of(photos, weights, out.files[3:4])
    learned = out.discovery()
    peaks = learned.peaks(a, 3)
    expected = (
        weighted_mac(a.maps, peaks)
        if kind == "mac"
        else sum_of_regions(a.maps, learned.regions(peaks), uniform="d" in kind)
    )
    np.testing.assert_allclose(out.descriptors.vectors[3], expected, atol=1e-4)


def test_whitening_is_applied_to_descriptors_and_queries(discover, discovered, photos):
    plain = discovered.descriptors.vectors
    whitening = features.learn_pca(plain, 5)
    out = discover("white", whitening=whitening)
    expected = whitening.apply(plain)
    np.testing.assert_array_equal(out.descriptors.vectors, expected)
    described = out.locator().describe_file(photos / "00.png")
    assert described.shape == (5,)
    content = (photos / "00.png").read_bytes()
    np.testing.assert_array_equal(out.locator().describe_file(content), described)
    np.testing.assert_array_equal(out.descriptors.whitening().projection, whitening.projection)


def test_workers_do_not_change_a_bit(again, undisturbed):
    two = contents(undisturbed / "out")
    assert contents(again("one", workers=1)) == two == contents(again("four", workers=4))
    names = {name.removeprefix("arrays/") for name in two}
    assert names == {
        "manifest.json", "page.html", "groups.json",
        "descriptors.npy", "files.npy", "file_ends.npy", "maps.npy",
        "map_shapes.npy", "map_extents.npy", "boxes.npy", "box_images.npy", "box_weights.npy",
        "box_groups.npy", "box_likeness.npy",
        "discovery_cells.npy", "discovery_centrality.npy", "discovery_mean.npy",
        "discovery_projection.npy", "discovery_saliency.npy", "discovery_starts.npy",
        "discovery_vectors.npy", "discovery_fine_mean.npy", "discovery_fine_projection.npy",
        "file_stats.npy", "file_shapes.npy", "file_digests.npy",
        "found_vectors.npy", "found_fine.npy", "found_fine_counts.npy",
    }  # fmt: skip


def test_damaged_photos_are_named_skipped_and_counted(discover, discovered, photos):
    (photos / "text.jpg").write_bytes(b"no image")
    (photos / "cut.png").write_bytes(png(photo(0))[:-60])
    out = discover("after")
    skipped = {entry["file"]: entry["reason"] for entry in out.descriptors.manifest["skipped"]}
    assert set(skipped) == {"text.jpg", "cut.png"}
    assert "not an image" in skipped["text.jpg"]
    assert out.files == discovered.files
    # The one that is cut leaves its batch with fewer images, which moves the last bits.
    np.testing.assert_allclose(out.maps, discovered.maps, rtol=1e-2, atol=1e-4 * out.maps.max())


def test_page_shows_photos_with_their_regions(discover, photos, tmp_path):
    (photos / "a&<b>.png").write_bytes(png(photo(0)))
    discover()
    page = Page((tmp_path / "out" / "page.html").read_text(encoding="utf-8"))
    assert [row["class"] for row in page.attributes("section")] == ["groups", "row", "row"]
    assert len(page.attributes("svg")) == 10
    assert "00.png" in page.texts
    links = [link["href"] for link in page.attributes("a")]
    assert links
    for link in links:
        assert (tmp_path / "out" / unquote(link)).resolve().is_relative_to(photos)
        assert (tmp_path / "out" / unquote(link)).is_file()
    (photos / "00.png").unlink()
    discover()
    page = Page((tmp_path / "out" / "page.html").read_text(encoding="utf-8"))
    assert "02.png" in page.texts
    discover(pictures=99)
    page = Page((tmp_path / "out" / "page.html").read_text(encoding="utf-8"))
    assert len(page.attributes("section")) == N + 1
    assert "a&<b>.png" in page.texts


# --- new photos -----------------------------------------------------------------------------------


def test_new_photos_need_no_refitting(discovered, weights, tmp_path, monkeypatch):
    new = tmp_path / "new.png"
    new.write_bytes(png(photo(19)))
    before = contents(tmp_path / "out")
    monkeypatch.setattr(ObjectDiscovery, "fit_nodes", lambda *_: 1 / 0)
    locator = features.open_objects(tmp_path / "out", verify=True).locator()
    located = locator.locate(new)
    learned = discovered.discovery()
    (a,) = maps_of(tmp_path, weights, [new.rename(tmp_path / "19.png").name])
    S = learned.saliency(a)
    np.testing.assert_allclose(located.saliency, S, rtol=1e-2, atol=1e-3 * S.max())
    boxes = in_pixels(learned.boxes(located.saliency).boxes, 8, S.shape, "19.png")
    height, width = photo(19).shape[:2]
    np.testing.assert_allclose(located.boxes, boxes.clip(0, [width, height] * 2), atol=0.1)
    assert located.weights.sum() == pytest.approx(1, abs=1e-5)
    assert contents(tmp_path / "out") == before


def test_photos_of_the_collection_are_recognised_by_their_content(discovered, photos, tmp_path):
    locator, row = discovered.locator(), discovered.files.index("b/05.png")
    copied = shutil.copy(photos / "b" / "05.png", tmp_path / "other name.png")
    for source in (copied, Path(copied).read_bytes()):
        located = locator.locate(source)
        S = discovered.map(row)
        np.testing.assert_allclose(located.saliency, S, rtol=1e-2, atol=1e-3 * S.max())
        np.testing.assert_allclose(located.boxes, discovered.boxes_of(row), atol=0.1)
        vector = locator.describe_file(source)
        np.testing.assert_allclose(vector, discovered.descriptors.vectors[row], atol=1e-3)


def test_a_photo_that_lies_on_its_side_is_seen_upright(discovered, tmp_path):
    locator = discovered.locator()
    image = photo(18)
    (tmp_path / "upright.png").write_bytes(png(image))
    # Orientation 6 asks to be turned clockwise by a quarter.
    (tmp_path / "lying.png").write_bytes(png(np.rot90(image), exif=6))
    upright, lying = (locator.locate(tmp_path / f"{n}.png") for n in ("upright", "lying"))
    np.testing.assert_allclose(lying.extent, upright.extent)
    assert lying.boxes.shape == upright.boxes.shape
    np.testing.assert_allclose(lying.boxes, upright.boxes, atol=1)


def test_a_photo_of_one_colour_shows_nothing_false(discovered, tmp_path):
    locator = discovered.locator()
    (tmp_path / "grey.png").write_bytes(png(np.full((100, 120, 3), 90, np.uint8)))
    located = locator.locate(tmp_path / "grey.png")
    assert np.isfinite(located.saliency).all()
    assert np.isfinite(located.descriptor).all()


# --- interruptions --------------------------------------------------------------------------------


# Written by a replacement each: the claim on the folder, three shards of nodes, what was learned,
# three shards of objects, the groups, the page, and the manifest.
@pytest.mark.slow
@pytest.mark.parametrize("step", [0, 1, 3, 4, 5, 7, 8, 9, 10])
def test_interrupted_at_any_write_it_goes_on_to_the_same_bytes(
    again, undisturbed, tmp_path, monkeypatch, step
):
    rename, writes = os.replace, []

    def stopped(source, target):
        if len(writes) == step:
            raise KeyboardInterrupt
        writes.append(target)
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stopped)
        with pytest.raises(KeyboardInterrupt):
            again()
    assert len(writes) == step
    with pytest.raises(DiffusionError, match="not finished" if step else "found no manifest"):
        features.open_objects(undisturbed / tmp_path.name)
    seen = []
    activations = Mapper.activations
    monkeypatch.setattr(
        Mapper, "activations", lambda self, x: seen.append(len(x)) or activations(self, x)
    )
    assert contents(again()) == contents(undisturbed / "out")
    # Every photo is seen twice, two of them for the page; what was written is not seen again.
    shards = [Path(name) for name in writes if str(name).endswith(".npz")]
    assert sum(seen) <= 2 * N + 2 - 3 * len(shards)


# The fifteen photos make three shards of nodes and then three of objects.
@pytest.mark.slow
@pytest.mark.parametrize("shards", [1, 4])
def test_killed_it_goes_on_to_the_same_bytes(undisturbed, weights, tmp_path, shards):
    photos, out = undisturbed / "photos", undisturbed / tmp_path.name
    call = (
        "import torch\n"
        "from features import *\n"
        "from features.description import sweep\n"
        "torch.set_num_threads(1)\n"
        "sweep.SHARD_IMAGES = 4\n"
        "discover_folder(*sys.argv[3:5], NetworkSettings('alexnet', sys.argv[5]), "
        "images=ImageSettings(size=120), run=RunSettings(batch_size=3, workers=2), pictures=2, "
        f"discovery=DiscoverySettings(**{SETTINGS!r}))\n"
    )
    run_killed(call, shards, ".npz", photos, out, weights)
    assert len(list(out.glob("partial/*.npz"))) == shards
    with pytest.raises(DiffusionError, match="not finished"):
        features.open_objects(out)
    run_whole(call, photos, out, weights)
    assert contents(out) == contents(undisturbed / "out")


def test_shards_of_another_number_of_threads_are_not_mixed_in(
    again, undisturbed, tmp_path, monkeypatch
):
    write = sweep.Sweep._write
    left = [2]

    def stopping(self, *arguments):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        write(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "get_num_threads", lambda: 7)
        patch.setattr(sweep.Sweep, "_write", stopping)
        with pytest.raises(KeyboardInterrupt):
            again()
    finished = set((undisturbed / tmp_path.name / "partial").glob("*.npz"))
    assert len(finished) == 2
    left[0] = 1
    with monkeypatch.context() as patch:
        patch.setattr(sweep.Sweep, "_write", stopping)
        with pytest.raises(KeyboardInterrupt):
            again()
    assert len(set((undisturbed / tmp_path.name / "partial").glob("*.npz")) - finished) == 1
    assert contents(again()) == contents(undisturbed / "out")


def test_a_complete_discovery_is_not_repeated(discover, tmp_path, monkeypatch):
    discover()
    before = contents(tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(Mapper, "activations", lambda *_: 1 / 0)
        discover()
    assert contents(tmp_path / "out") == before


def test_a_photo_altered_meanwhile_is_named(discover, photos, tmp_path, monkeypatch):
    fit = ObjectDiscovery.fit_nodes

    def altering(self, nodes):
        (photos / "b" / "03.png").write_bytes(b"no image")
        return fit(self, nodes)

    with monkeypatch.context() as patch:
        patch.setattr(ObjectDiscovery, "fit_nodes", altering)
        with pytest.raises(DiffusionError, match=r"^b/03\.png: altered during"):
            discover()
    with pytest.raises(DiffusionError, match="not finished"):
        features.open_objects(tmp_path / "out")
    out = discover()
    assert len(out.files) == N - 1
    discover("fresh")
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 0}, "^size:"),
        ({"scales": (1.0, 0.5)}, "^scales:"),
        ({"regions": "rmac"}, "^regions:"),
        ({"descriptor": "gem"}, "^descriptor:"),
        ({"discovery": {"k": 3}}, "^discovery:"),
        ({"pictures": -1}, "^pictures:"),
        ({"batch_size": 0}, "^batch_size:"),
        ({"workers": 0}, "^workers:"),
        ({"whitening": "absent.npz"}, "^absent.npz: cannot"),
    ],
)
def test_bad_settings_are_named_and_leave_nothing(discover, tmp_path, settings, message):
    with pytest.raises(DiffusionError, match=message):
        discover(**settings)
    assert not (tmp_path / "out").exists()


def test_extractions_and_discoveries_do_not_overwrite_each_other(
    discover, discovered, photos, weights, tmp_path
):
    network, images = NetworkSettings("alexnet", weights), ImageSettings(size=90)
    features.extract_folder(photos, tmp_path / "extracted", network, images=images)
    with pytest.raises(DiffusionError, match="expected an object discovery or an empty"):
        discover("extracted")
    with pytest.raises(DiffusionError, match="these are descriptors alone"):
        features.open_objects(tmp_path / "extracted")
    before = contents(tmp_path / "out")
    with pytest.raises(DiffusionError, match="expected descriptors or an empty"):
        features.extract_folder(photos, tmp_path / "out", network, images=images)
    assert contents(tmp_path / "out") == before


def test_where_nothing_can_be_read_or_nothing_recurs(discover, photos, tmp_path):
    for file in sorted(photos.rglob("*.png"))[1:]:
        file.unlink()
    with pytest.raises(DiffusionError, match="at least two images"):
        discover()
    (photos / "00.png").write_bytes(b"no image")
    with pytest.raises(DiffusionError, match="none of 1 can"):
        discover()
    (photos / "00.png").write_bytes(png(photo(0))[:-60])
    with pytest.raises(DiffusionError, match="none of 1 can"):
        discover()
    with pytest.raises(DiffusionError, match="not finished"):
        features.open_objects(tmp_path / "out")


@pytest.mark.usefixtures("discovered")
def test_damage_is_refused(tmp_path):
    out = tmp_path / "out"
    (file,) = out.glob("arrays-*/maps.npy")
    whole = file.read_bytes()
    for content in (b"", whole[:-4]):
        file.write_bytes(content)
        with pytest.raises(DiffusionError, match=r"maps\.npy: truncated or altered"):
            features.open_objects(out)
    file.write_bytes(whole)
    stored = storage.load(out, FORMAT)
    manifest, arrays = stored.manifest, stored.arrays
    for content, changed in (
        ({"objects": 3}, {}),
        ({"objects": {}}, {}),
        ({}, {"boxes": arrays["boxes"].reshape(-1, 2)}),
        ({}, {"maps": arrays["maps"][1:]}),
        ({}, {"map_shapes": arrays["map_shapes"][1:]}),
        ({}, {"map_extents": arrays["map_extents"].astype(np.float32)}),
        ({}, {"box_images": arrays["box_images"][1:]}),
        ({}, {"box_weights": arrays["box_weights"][1:]}),
        ({}, {"map_shapes": -arrays["map_shapes"]}),
        ({}, {"map_shapes": arrays["map_shapes"] + [[1, 0]]}),
        ({}, {"box_images": arrays["box_images"] + N}),
        ({}, {"boxes": arrays["boxes"] * np.float32(np.nan)}),
        ({}, {"box_groups": arrays["box_groups"] - 2}),
        ({}, {"box_likeness": arrays["box_likeness"] + 2}),
        ({}, {"found_fine_counts": arrays["found_fine_counts"] + 1}),
    ):
        kept = {name: np.array(array) for name, array in {**arrays, **changed}.items()}
        storage.save(tmp_path / "changed", FORMAT, {**manifest, **content}, kept)
        with pytest.raises(DiffusionError, match=r"manifest\.json: altered"):
            features.open_objects(tmp_path / "changed")
    turned = arrays["discovery_starts"].copy()
    turned[1] = np.iinfo(np.int64).max
    for changed in (
        {"discovery_starts": arrays["discovery_starts"][1:]},
        {"discovery_starts": turned},
        {"discovery_saliency": arrays["discovery_saliency"] * np.float32(np.nan)},
        {"discovery_vectors": arrays["discovery_vectors"][:, 1:]},
        {"discovery_mean": None},
    ):
        kept = {n: np.array(a) for n, a in {**arrays, **changed}.items() if a is not None}
        storage.save(tmp_path / "changed", FORMAT, manifest, kept)
        with pytest.raises(DiffusionError, match="altered, expected a saved object discovery"):
            features.open_objects(tmp_path / "changed").locator()
    for row in (-1, N):
        with pytest.raises(DiffusionError, match=r"^row:"):
            features.open_objects(out).map(row)


# --- the commands ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def home(weights, tmp_path_factory):
    """A folder with photos, what was discovered in them, and an index."""
    home = tmp_path_factory.mktemp("home")
    write_photos(home / "photos")
    (home / "photos" / "text.jpg").write_bytes(b"no image")
    shutil.copy(weights, home / "w.safetensors")
    printed, told = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(home),
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(told),
    ):
        assert cli.main(["discover", "photos", "out", *NETWORK, "--pictures", "1", "-q"]) == 0
        settings = ["--affinity", "cosine", "--alpha", "0.5", "--query-k", "1", "-k", "5", "-q"]
        assert cli.main(["index", "out", "index", *settings]) == 0
    assert told.getvalue() == SKIPPED
    line = printed.getvalue().splitlines()[0]
    assert re.fullmatch(
        r"out: 15 maps, \d+ boxes, \d+ groups of boxes, descriptors of dimension 256; 1 images "
        r"skipped; see out/page\.html",
        line,
    )
    return home


@pytest.fixture
def there(home, monkeypatch):
    monkeypatch.chdir(home)
    return home


def test_an_index_is_built_of_it_and_searched_by_photo(there, capsys):
    assert diffusion.load("index", verify=True).n_items_ == N
    search = ["search", "index", "photos/b/05.png", "-k", "1", "-q"]
    assert cli.main(search) == 0
    assert capsys.readouterr().out.endswith("b/05.png\n")
    # Its queries need what was learned, and no other.
    shutil.copytree("out", "kept")
    stored = storage.load("out", FORMAT)
    stored.manifest["objects"]["digest"] = "0" * 64
    storage.save("out", FORMAT, stored.manifest, stored.arrays)
    try:
        assert cli.main(search) == 2
        assert "build the index again" in capsys.readouterr().err
        # As where the index was copied to another machine.
        os.rename("out", "elsewhere")
        assert cli.main(search) == 2
        said = capsys.readouterr().err
        assert "out: the object discovery that the index was built from is no longer here" in said
        assert said.count("\n") == 1
    finally:
        shutil.rmtree("elsewhere")
        shutil.move("kept", "out")


def test_a_page_that_cannot_be_written_is_one_line(there, monkeypatch, capsys):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert cli.main(["locate", "out", "photos/00.png", "--page", "p.html"]) == 2
    said = capsys.readouterr().err
    assert said == "features: error: p.html: cannot be written (No space left on device)\n"


def test_the_time_of_both_passes_is_said(there, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "_FORECAST_SECONDS", 0.0)
    call = ["discover", "photos", str(tmp_path / "o"), *NETWORK, "--pictures", "0"]
    assert cli.main([*call, "--batch-size", "2"]) == 0
    told = re.split("[\r\n]+", capsys.readouterr().err)
    for name, which in (("nodes", "each of 2 passes"), ("objects", "pass 2 of 2")):
        lines = [line for line in told if line.startswith(f"{name}: about ")]
        assert len(lines) in (1, 2)  # said again if the first batch took long
        words = rf"{name}: about (a second|\d+ \w+s) for {which}, 15 images"
        assert all(re.fullmatch(words, line) for line in lines)


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        # Batches of 4, 10, 10 and 6 pixels. The first one is too short to be counted, the second
        # one is not, and the third is not said again.
        ([100, 101, 106, 113, 200], ["", "about 15 seconds", "", ""]),
        # The first one is long enough, and right.
        ([100, 104, 115, 125, 200], ["about 30 seconds", "", "", ""]),
        # The first one was slow to start.
        ([100, 140, 141, 142, 200], ["about 5 minutes", "", "about 3 seconds", ""]),
        ([100, 100.1, 100.2, 100.3, 100.4], ["", "", "", ""]),
        # After the last batch there is nothing to say.
        ([100, 100, 100, 100, 9999], ["", "", "", ""]),
    ],
)
def test_the_forecast_is_by_pixels_once_there_is_enough_work(monkeypatch, times, expected):
    batches = [Batch(2, 2, (0,)), Batch(1, 5, (1, 2)), Batch(1, 10, (3,)), Batch(1, 6, (4,))]
    for place, which in (((1, 2), "each of 2 passes"), ((2, 2), "pass 2 of 2"), ((1, 1), "")):
        monkeypatch.setattr(sweep.time, "monotonic", iter(times).__next__)
        forecast = sweep._Forecast(batches, place)
        said = [forecast.after_batch() for _ in batches]
        monkeypatch.undo()
        wanted = [e and which and f"{e} for {which}, 5 images" for e in expected]
        assert said == wanted


def test_locating_prints_boxes_and_writes_maps_and_a_page(there, capsys):
    photos = ["photos/00.png", "photos/b/05.png"]
    assert cli.main(["locate", "out", *photos, "--page", "p.html", "--maps", "m.npz"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["file"] for line in lines] == photos
    locator = features.open_objects("out").locator()
    with np.load("m.npz") as maps:
        for number, line in enumerate(lines):
            located = locator.locate(photos[number])
            np.testing.assert_allclose(line["boxes"], located.boxes, atol=0.051)
            np.testing.assert_allclose(line["map"]["extent"], located.extent, atol=0.051)
            np.testing.assert_array_equal(maps[f"map{number}"], located.saliency)
            assert line["map"]["shape"] == list(located.saliency.shape)
    assert len(Page(Path("p.html").read_text()).attributes("section")) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["discover", "photos", "o", "--backbone", "vgg16"], "weights: expected"),
        (["discover", "absent", "o", *NETWORK], "absent: expected a folder"),
        (["discover", "photos", "o", *NETWORK, "--descriptor", "x"], "descriptor: expected"),
        (["discover", "photos", "o", *NETWORK, "--patch", "2"], "patch: expected an odd"),
        (["discover", "photos", "o", *NETWORK, "--object-egm", "t=1"], "a NAME of exponent, "),
        (["discover", "photos", "o", *NETWORK, "--object-egm", "sigma=x"], "sigma: no number"),
        (["locate", "photos", "photos/00.png"], "expected descriptors"),
        (["locate", "out", "photos/text.jpg"], "not an image"),
        (["locate", "out", "photos/00.png", "--maps", "m"], "ends in .npz"),
        (["locate", "out", "photos/00.png", "--maps", "absent/m.npz"], "--maps 'absent/m.npz'"),
        (["locate", "out", "photos/00.png", "--page", "absent/p.html"], "--page 'absent/p.html'"),
        (["locate", "out", "photos/00.png", "--page", "photos"], "--page 'photos': expected a fi"),
        (["locate", "out", "moved.png", "--page", "p"], "moved.png: No such file or directory"),
        (["locate", "out", "photos/00.png", "--weights", "absent"], "absent: cannot be read"),
        (["locate", "out"], "required"),
    ],
)
def test_bad_commands_are_one_line(there, capsys, arguments, message):
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
