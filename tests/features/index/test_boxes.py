"""Queries that are a part of a photo: their descriptors, and searches with them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import features
from diffusion import DiffusionError, Reranker
from diffusion.index_state import open_state
from features import cli
from features.description.recipe import describer_of
from features.images.reading import read_image
from features.index.build import build_index
from features.index.page import write_search_page
from features.index.photos import describe_queries
from features.networks.frame import FramedTrunk
from features.objects.locate import Locator, Mapper
from tests.support.discoveries import discover_in, write_photos
from tests.support.pages import Page, pixels_of
from tests.support.photos import pattern, png

pytestmark = pytest.mark.usefixtures("one_thread")

# Left, top, right, bottom of the object in the query.
BOX = (60, 30, 150, 110)
SHORT = {"affinity": "cosine", "alpha": 0.5, "query_k": 1, "k": 3}


def scene(ground, thing, place):
    """Return a photo (160, 220) of a ground, with a thing pasted at a place (left, top)."""
    image = pattern(160, 220, seed=ground)
    left, top = place
    image[top : top + 80, left : left + 90] = pattern(80, 90, seed=thing)
    return image


@pytest.fixture(scope="module")
def home(weights, tmp_path_factory):
    """A folder with photos and an index of them, and a query that shows an object of one photo."""
    home = tmp_path_factory.mktemp("boxes")
    (home / "photos").mkdir()
    # The ground of the query, and the object of the query, which fills a photo.
    pictures = {"ground": scene(1, 2, (5, 70)), "object": pattern(80, 90, seed=3)}
    pictures |= {f"other{n}": pattern(150, 150 + 10 * n, seed=20 + n) for n in range(6)}
    for name, pixels in pictures.items():
        (home / "photos" / f"{name}.png").write_bytes(png(pixels))
    (home / "query.png").write_bytes(png(scene(1, 3, BOX[:2])))
    network = features.NetworkSettings("alexnet", weights, pooling="mac")
    described = features.extract_folder(
        home / "photos",
        home / "described",
        network,
        images=features.ImageSettings(size=240),
        run=features.RunSettings(progress=False, workers=1),
    )
    build_index(described, home / "index", Reranker(**SHORT))
    return home


@pytest.fixture(scope="module")
def describer(home):
    return describer_of(features.open_descriptors(home / "described").manifest["recipe"], None, "")


def test_a_box_is_described_as_a_file_of_its_pixels(home, describer, tmp_path):
    pixels = scene(1, 3, BOX[:2])
    left, top, right, bottom = BOX
    (tmp_path / "cut.png").write_bytes(png(pixels[top:bottom, left:right]))
    expected = describer.describe_file(tmp_path / "cut.png")
    # As large as the index has photos, so that nothing is interpolated.
    found = describer.describe_file(home / "query.png", BOX)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    inside = (left + 0.5, top + 0.01, right - 0.5, np.float32(bottom - 0.5))
    np.testing.assert_array_equal(describer.describe_file(home / "query.png", inside), found)
    assert found @ describer.describe_file(home / "query.png") < 0.999
    content = (home / "query.png").read_bytes()
    np.testing.assert_array_equal(describer.describe_file(content, BOX), found)
    state = open_state(home / "index")
    both = describe_queries(state, [content, content], boxes=[None, BOX])
    np.testing.assert_array_equal(both, [describer.describe_file(content), found])


def test_a_box_is_resized_by_the_factor_of_its_photo(home, describer, tmp_path):
    left, top, right, bottom = 10, 10, 210, 150
    part = (top / 160, left / 220, bottom / 160, right / 220)
    half = read_image(home / "query.png", (70, 100), part)
    (tmp_path / "half.png").write_bytes(png(half))
    recipe = features.open_descriptors(home / "described").manifest["recipe"]
    recipe = {**recipe, "images": {**recipe["images"], "size": 110}}
    found = describer_of(recipe, None, "").describe_file(
        home / "query.png", (left, top, right, bottom)
    )
    expected = describer.describe_file(tmp_path / "half.png")
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_box_of_the_whole_photo_is_the_photo(home, describer):
    whole = describer.describe_file(home / "query.png")
    found = describer.describe_file(home / "query.png", (-3, 0, 1e9, 160))
    np.testing.assert_array_equal(found, whole)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_are_in_pixels_of_the_upright_photo(home, describer, orientation):
    pixels = scene(1, 3, BOX[:2])
    # What is stored, so that the orientation turns it into `pixels`: the standard's eight cases.
    stored = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.transpose(1, 0, 2),
        6: pixels.transpose(1, 0, 2)[::-1],
        7: pixels.transpose(1, 0, 2)[::-1, ::-1],
        8: pixels.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    turned = png(np.ascontiguousarray(stored), exif=orientation)
    expected = describer.describe_file(home / "query.png", BOX)
    np.testing.assert_array_equal(describer.describe_file(turned, BOX), expected)


# --- object discoveries ---------------------------------------------------------------------------


@pytest.fixture
def locator(home):
    """A locator whose discovery has learned nothing: boxes do not depend on it."""
    recipe = features.open_descriptors(home / "described").manifest["recipe"]
    return Locator(Mapper(describer_of(recipe, None, "")), features.ObjectDiscovery(), "mac")


@pytest.mark.parametrize(
    "box", [BOX, (0, 0, 9, 160), (102, 81, 103, 82), (219, 159, 900, 900), (0, 0, 220, 160)]
)
def test_a_box_of_an_object_is_the_mac_of_its_cells(home, locator, weights, box):
    trunk = features.backbone("alexnet", weights, head=False)
    height, width = 160, 220
    x = torch.from_numpy(read_image(home / "query.png", (height, width))).permute(2, 0, 1)[None]
    with torch.no_grad():
        A = FramedTrunk(trunk)(trunk.normalize(x / 255))[0].numpy()
    # The centres of the cells, of 16 pixels, spread evenly over the image.
    cx, cy = (
        (np.arange(n) + 0.5 - n / 2) * 16 + side / 2
        for n, side in ((A.shape[2], width), (A.shape[1], height))
    )
    left, top, right, bottom = np.clip(box, 0, (220, 160) * 2) * ([width / 220, height / 160] * 2)
    columns = np.flatnonzero((cx >= left) & (cx < right))
    rows = np.flatnonzero((cy >= top) & (cy < bottom))
    columns = columns if len(columns) else [np.abs(cx - (left + right) / 2).argmin()]
    rows = rows if len(rows) else [np.abs(cy - (top + bottom) / 2).argmin()]
    expected = A[:, rows][:, :, columns].max(axis=(1, 2))
    expected /= np.linalg.norm(expected)
    found = locator.describe_file(home / "query.png", box)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_box_of_an_object_is_whitened_as_the_collection(home, locator):
    plain = locator.describe_file(home / "query.png", BOX)
    white = features.learn_pca(np.random.default_rng(0).random((20, len(plain))), 5)
    locator.mapper.describer.whitening = white
    found = locator.describe_file(home / "query.png", BOX)
    np.testing.assert_array_equal(found, white.apply(plain[None])[0])


@pytest.mark.slow
def test_an_index_of_discovered_objects_is_searched_for_a_box(weights, tmp_path):
    write_photos(tmp_path / "photos")
    objects = discover_in(tmp_path / "photos", tmp_path / "out", weights, pictures=0)
    build_index(objects.descriptors, tmp_path / "index", Reranker(**SHORT))
    query, box = tmp_path / "photos" / "00.png", (25, 20, 80, 75)
    found = describe_queries(open_state(tmp_path / "index"), [query], boxes=[box])
    np.testing.assert_array_equal(found[0], objects.locator().describe_file(query, box))
    # The pattern of the first three photos.
    near = np.argsort(-objects.descriptors.vectors @ found[0], kind="stable")[:2]
    assert {objects.files[row][-6:] for row in near} <= {"00.png", "01.png", "02.png"} | {
        f"{n:02}.png" for n in (9, 10, 11)
    }


# --- searches -------------------------------------------------------------------------------------


def search(home, capsys, *options):
    call = ["search", str(home / "index"), str(home / "query.png"), "-k", "3", "-q", *options]
    status, printed = cli.main(call), capsys.readouterr()
    return status, [line.split("\t")[3] for line in printed.out.splitlines()], printed.err


def test_a_search_for_a_box_finds_the_photo_of_the_object(home, capsys, tmp_path):
    assert search(home, capsys)[1][0] == "ground.png"
    page = tmp_path / "page.html"
    status, names, said = search(home, capsys, "--box", *map(str, BOX), "--page", str(page))
    assert (status, names[0], said) == (0, "object.png", "")
    data, pictures = Page(page.read_text(encoding="utf-8")).stored()
    after = data["queries"][0]["answers"][data["own"]]["after"]
    assert [data["items"][item] for item in after][:3] == names
    # The query is darker outside the box, and has a line around it.
    shown, plain = pixels_of(pictures[0]).astype(int), scene(1, 3, BOX[:2]).astype(int)
    left, top, right, bottom = BOX
    inside = np.s_[top + 4 : bottom - 4, left + 4 : right - 4]
    assert np.abs(shown[inside] - plain[inside]).mean() < 8
    outside = np.s_[:, : left - 6]
    assert np.abs(shown[outside] - plain[outside] // 2).mean() < 8
    line = shown[top:bottom, left - 2 : left].mean(axis=(0, 1))
    assert line[:2].min() > line[2] + 40  # yellow


@pytest.mark.parametrize("box", [(0, 0, 220, 160), (100, 50, 100.5, 50.5), (219, 159, 300, 300)])
def test_boxes_at_the_border_and_tiny_ones_are_marked(home, tmp_path, box):
    state, query = open_state(home / "index"), str(home / "query.png")
    ranker = Reranker.from_state(state)
    page = tmp_path / "p.html"
    write_search_page(
        page, ranker, [query], describe_queries(state, [query], boxes=[box]), str,
        lambda name: home / "photos" / name, 2, [box],
    )  # fmt: skip
    shown = pixels_of(Page(page.read_text(encoding="utf-8")).stored()[1][0]).astype(int)
    assert shown.shape == (160, 220, 3)
    yellow = (shown[..., 0] > 180) & (shown[..., 1] > 140) & (shown[..., 2] < 130)
    x, y = min(int(box[0]), 218), min(int(box[1]), 158)
    assert yellow[max(y - 3, 0) : y + 4, max(x - 3, 0) : x + 4].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--box", "0", "0", "9", "9"] * 2, "--box: expected one box in one PHOTO, got 2 and 1 ph"),
        (["query.png", "--box", "0", "0", "9", "9"], "expected one box in one PHOTO, got 1 and 2"),
        (["--box", "5", "0", "5", "9"], "box: expected finite left < right and top < bottom, got"),
        (["--box", "5", "0", "nan", "9"], "box: expected finite left < right"),
        (["--box", "5", "0", "inf", "9"], "box: expected finite left < right"),
        (["--box", "-9", "0", "-1", "9"], "which is 220 pixels wide and 160 high, got left, top"),
        (["--box", "220", "0", "400", "9"], "box: expected a part of the photo, which is 220 pix"),
    ],
)
def test_bad_boxes_are_one_line(home, capsys, options, message):
    call = ["search", str(home / "index"), str(home / "query.png"), *options, "-q"]
    assert cli.main(call) == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    assert message in printed.err


def test_boxes_are_one_for_each_file(home):
    with pytest.raises(DiffusionError, match="boxes: expected one, or None, for each of 1 files"):
        describe_queries(open_state(home / "index"), [home / "query.png"], boxes=[BOX, None])
