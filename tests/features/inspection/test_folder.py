"""An inspection of a folder: against its parts, a known filter, interruptions, the page."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
import torch

import features
from diffusion import DiffusionError, storage
from features.description import sweep
from features.images.reading import read_image
from features.inspection import folder as folders
from features.inspection import page
from features.inspection.folder import most_selective, selectivities
from features.networks.weights import write_file
from features.settings import ImageSettings, NetworkSettings, RunSettings
from tests.support.folders import contents
from tests.support.pages import Page, pixels_of
from tests.support.photos import pattern, png

pytestmark = pytest.mark.usefixtures("one_thread")

# The channel of conv1 whose filter is known, and the photos and places that show its pattern.
CHANNEL = 5
# On the grid of its cells, which begin at -2 + 4 i.
PLACES = {3: (38, 26, 1.0), 0: (10, 50, 0.6), 7: (22, 6, 0.4)}
# Height and width of photos; the second is made smaller by the size of 72.
SIZES = ((72, 70), (144, 140))
N = 9


def stripes():
    """Return a filter (11, 11) of vertical stripes, whose mean is 0."""
    return np.tile([-1.0, 1.0, -1.0, 1.0, -1.0, 0.0, 1.0, -1.0, 1.0, -1.0, 1.0], (11, 1))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with weights of AlexNet with a known filter, photos, and what was inspected."""
    home = tmp_path_factory.mktemp("home")
    state = features.backbone("alexnet", head=False).state_dict()
    state["features.0.weight"][CHANNEL] = torch.from_numpy(stripes()).float() / 30
    state["features.0.bias"][CHANNEL] = -0.5
    write_file(home / "w.safetensors", state)
    for number in range(N):
        height, width = SIZES[number % 4 == 3]
        image = (pattern(height, width, seed=number) // 8 + 96).astype(np.uint8)
        if number in PLACES:
            top, left, strength = PLACES[number]
            scale = height // 72
            patch = 128 + 127 * strength * stripes().repeat(scale, 0).repeat(scale, 1)
            image[scale * top :, scale * left :][: 11 * scale, : 11 * scale] = patch[..., None]
        path = home / "photos" / ("", "b")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(image))
    (home / "photos" / "text.jpg").write_bytes(b"no image")
    (home / "photos" / "cut.png").write_bytes(png(pattern(72, 70, seed=1))[:-400])
    inspect(home, "out")
    return home


def inspect(home, out, photos="photos", size=72, batch_size=3, **options):
    options = {"layer": "conv1", "channels": [CHANNEL, 0], "count": 3, **options}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "SHARD_IMAGES", 4)
        return features.inspect_folder(
            home / photos,
            home / out,
            NetworkSettings("alexnet", home / "w.safetensors"),
            images=ImageSettings(size=size),
            run=RunSettings(batch_size=batch_size, workers=1),
            **options,
        )


def file_of(number):
    return f"{'b/' if number % 2 else ''}{number}.png"


# --- what comes out -------------------------------------------------------------------------------


def test_a_filter_finds_its_pattern(home):
    content = json.loads((home / "out" / "inspection.json").read_text())
    assert content["layer"] == "conv1"
    assert content["receptive_field"] == {"size": [11, 11], "stride": [4, 4], "offset": [-2, -2]}
    channel = content["channels"][0]
    assert channel["channel"] == CHANNEL
    assert [photo["file"] for photo in channel["photos"]] == [file_of(n) for n in PLACES]
    values = [photo["value"] for photo in channel["photos"]]
    assert values == sorted(values, reverse=True)
    for photo, (number, (top, left, _)) in zip(channel["photos"], PLACES.items(), strict=True):
        # In pixels of the photo, be it larger than what the network was given.
        scale = SIZES[number % 4 == 3][0] / 72
        middle = np.array(photo["box"]).reshape(2, 2).mean(axis=0) / scale
        assert np.abs(middle - (left + 5.5, top + 5.5)).max() <= 3
    drops = np.array(channel["occlusion"]["drops"])
    about = channel["occlusion"]
    assert about["score"] == pytest.approx(values[0], rel=1e-4)
    top, left, _ = PLACES[3]
    row, column = np.unravel_index(drops.argmax(), drops.shape)
    middle = about["stride"] * (np.array([row, column]) + 0.5)
    assert np.abs(middle - (top + 5.5, left + 5.5)).max() <= 6


def test_it_is_its_parts(home, monkeypatch):
    monkeypatch.setattr(folders, "SHOWN", 2)
    found = inspect(home, "parts", channels=None, layer="pool1", count=4)
    trunk = features.backbone("alexnet", home / "w.safetensors", head=False)
    files = sorted(map(file_of, range(N)))
    images = [read_image(home / "photos" / file, SIZES[0]) for file in files]
    top = features.top_activations(trunk, images, "pool1", count=4)
    assert found.field == features.receptive_field(trunk, "pool1")
    assert len(found.channels) == folders.SHOWN
    with torch.no_grad():
        ready = trunk.normalize(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2))
        maps = trunk(ready, "pool1").numpy()
    largest, means = maps.max(axis=(0, 2, 3)), np.abs(maps).mean(axis=(0, 2, 3))
    strong = set(np.flatnonzero(largest >= np.median(largest)).tolist())
    every = top.values.mean(axis=1) / np.where(means > 0, means, 1)
    expected = sorted(strong, key=lambda channel: -every[channel])[: folders.SHOWN]
    assert [entry["channel"] for entry in found.channels] == expected
    for entry in found.channels:
        channel = entry["channel"]
        assert entry["selectivity"] == pytest.approx(every[channel], rel=1e-4)
        strongest = [files[number] for number in top.images[channel]]
        assert [photo["file"] for photo in entry["photos"]] == strongest
        np.testing.assert_allclose(
            [photo["value"] for photo in entry["photos"]], top.values[channel], rtol=1e-4
        )
        boxes = top.boxes[channel].astype(float)
        boxes[[file in (file_of(3), file_of(7)) for file in strongest]] *= 2
        np.testing.assert_allclose([photo["box"] for photo in entry["photos"]], boxes)
        covered = features.occlusion(trunk, images[top.images[channel, 0]], channel, "pool1")
        np.testing.assert_allclose(
            entry["occlusion"]["drops"], covered.drops, atol=1e-4 * covered.score
        )
        assert entry["occlusion"]["image"] == list(covered.image)


def test_what_cannot_be_read_is_skipped_and_listed(home):
    manifest = storage.read_manifest(home / "out", folders.FORMAT)
    assert [entry["file"] for entry in manifest["skipped"]] == ["cut.png", "text.jpg"]
    assert (manifest["images"], manifest["channels"]) == (N, 64)
    assert sorted(entry.name for entry in (home / "out").iterdir()) == [
        "inspection.json", "manifest.json", "page.html",
    ]  # fmt: skip


def test_selectivity_by_hand():
    values = np.array([[4, 2], [0, 0], [-1, -2], [0.5, 0.5], [1, 1]], np.float32)
    s = selectivities(values, np.array([0.5, 0.0, 1.0, 0.01, 0.25]))
    assert s.tolist() == [6, 0, 0, 50, 4]
    # The last but one is not selective but weak: below the median, which the third is.
    assert most_selective(np.array([4, 3, 2, 1, 0.5]), np.array([1, 3, 2, 9, 9]), 2) == [1, 2]
    assert most_selective(np.ones(3), np.array([2.0, 2.0, 3.0]), 12) == [2, 0, 1]


# --- interruptions --------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [1, 4])
def test_what_was_interrupted_resumes_to_the_same(home, tmp_path, monkeypatch, after):
    """It ends after so many files, of the mark, two shards, two channels, list, page, manifest."""
    out, left, replace = home / f"again{after}", [after], os.replace

    def dying(source, target):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        replace(source, target)

    seen = []
    covering = folders.occlusion
    monkeypatch.setattr(folders, "occlusion", lambda *a: seen.append(a[2]) or covering(*a))
    monkeypatch.setattr(os, "replace", dying)
    with pytest.raises(KeyboardInterrupt):
        inspect(home, out.name)
    monkeypatch.setattr(os, "replace", replace)
    before = len(seen)
    assert not (out / "manifest.json").exists() or "key" not in (out / "manifest.json").read_text()
    inspect(home, out.name)
    assert contents(out) == contents(home / "out")
    # What was finished is not computed again.
    assert len(seen) - before == 2 - max(0, min(2, after - 3))


def test_a_finished_inspection_is_not_repeated(home, monkeypatch):
    shutil.copytree(home / "out", home / "idle")
    before = contents(home / "idle")
    with monkeypatch.context() as patch:
        patch.setattr(folders, "maps_of", lambda *_: 1 / 0)
        again = inspect(home, "idle")
        assert contents(home / "idle") == before
        assert [entry["channel"] for entry in again.channels] == [CHANNEL, 0]
        with pytest.raises(ZeroDivisionError):
            inspect(home, "idle", layer="pool1")
    # A page that was altered is written again.
    (home / "idle" / "page.html").write_text("altered")
    inspect(home, "idle")
    assert contents(home / "idle") == before


# --- the page -------------------------------------------------------------------------------------


def test_the_page(home):
    written = Page((home / "out" / "page.html").read_text("utf-8"))
    assert "What excites conv1 of alexnet" in written.texts
    assert f"Channel {CHANNEL}" in written.texts
    assert len(written.attributes("section")) == 2
    assert len(written.attributes("svg")) == 2 * 3
    images = written.attributes("img")
    assert len(images) == 2 * 3
    # The crop shows the pattern, which no other photo has.
    crop = pixels_of(images[0]["src"])
    assert crop.shape == (11, 11, 3)
    assert np.ptp(crop) > 200
    hrefs = [a["href"] for _, a in written.elements if "href" in a]
    assert all(href.startswith(("data:image/", "#photo")) for href in hrefs)
    assert not {tag for tag, _ in written.elements} & {"script", "link", "iframe"}
    photo, active, drops = written.attributes("image")[:3]
    # The cell that is active most is where the pattern is.
    alpha = pixels_of(active["href"])[..., 3]
    row, column = np.unravel_index(alpha.argmax(), alpha.shape)
    top, left, _ = PLACES[3]
    assert abs(float(active["y"]) + 4 * (row + 0.5) - (top + 5.5)) <= 3
    assert abs(float(active["x"]) + 4 * (column + 0.5) - (left + 5.5)) <= 3
    assert float(active["width"]) == 4 * alpha.shape[1]
    shown = pixels_of(drops["href"])
    assert shown[..., 3].max() == round(255 * 0.85)
    assert float(photo["width"]) == float(photo["height"]) - 2 == 70


def test_colours_by_hand():
    light = page._light(np.array([[4, 2], [-1, 0]], np.float32))
    assert light[..., 3].tolist() == [[217, 108], [0, 0]]
    signed = page._signed(np.array([[1, -2]], np.float32))
    assert signed.tolist() == [[[*page._WEAKER, 108], [*page._STRONGER, 217]]]
    assert not page._signed(np.zeros((2, 2), np.float32))[..., 3].any()


def test_maps_of_many_cells_are_reduced_to_maxima(monkeypatch):
    monkeypatch.setattr(page, "_MAP", 2)
    reduced, side = page._reduced(np.array([[1, 2, 3], [4, 0, 0], [-3, -2, -1]], np.float32))
    assert (reduced.tolist(), side) == ([[4, 3], [-2, -1]], 2)


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": "conv9"}, "layer: expected one of 'conv1'"),
        ({"channels": [64]}, "channels: expected different numbers from 0 to 63"),
        ({"count": 0}, "count: expected"),
        ({"out": "photos"}, "photos: expected an inspection or an empty directory"),
        ({"photos": "absent"}, "absent: expected a folder of images"),
    ],
)
def test_bad_arguments(home, options, message):
    with pytest.raises(DiffusionError, match=message):
        inspect(home, **{"out": "bad", **options})
    assert not (home / "bad").exists()


@pytest.mark.parametrize(
    ("network", "images", "message"),
    [
        ({"pooling": "gem"}, {}, "pooling: expected None"),
        ({}, {"scales": (1.0, 0.5)}, "scales: expected the default"),
        ({}, {"regions": "grid"}, "regions: expected the default"),
    ],
)
def test_settings_that_an_inspection_has_not(home, network, images, message):
    with pytest.raises(DiffusionError, match=message):
        features.inspect_folder(
            home / "photos",
            home / "bad",
            NetworkSettings("alexnet", home / "w.safetensors", **network),
            images=ImageSettings(**images),
        )


def test_a_folder_without_a_photo_that_can_be_read(home):
    (home / "broken").mkdir()
    (home / "broken" / "cut.png").write_bytes((home / "photos" / "cut.png").read_bytes())
    with pytest.raises(DiffusionError, match="expected an image that can be read; none of 1 can"):
        inspect(home, "none", photos="broken")
