"""Reading image files: pixels known beforehand, orientations, damage."""

from __future__ import annotations

import importlib
import os
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import features.images
from bench.data.collections import data_folder
from diffusion import DiffusionError
from features import backbone
from features.images import reading as images
from features.images.reading import (
    UnreadableImageError,
    find_images,
    list_folder,
    quiet,
    read_image,
    read_size,
)
from features.images.sizes import fitted_size
from features.networks.backbones import Sides
from tests.support.photos import CHINA, FLOWER, pattern, png, with_exif

# What a viewer shows of rows stored under an orientation, per EXIF: where the first row and the
# first column of the file belong.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],  # top, right
    3: lambda a: a[::-1, ::-1],  # bottom, right
    4: lambda a: a[::-1],  # bottom, left
    5: lambda a: a.swapaxes(0, 1),  # left, top
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],  # right, top
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],  # right, bottom
    8: lambda a: a.swapaxes(0, 1)[::-1],  # left, bottom
}


@pytest.fixture
def write(tmp_path):
    def write(content, name="a.png"):
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return write


def test_pixels_come_out_as_they_went_in(write):
    pixels = pattern(17, 31, seed=0)
    path = write(png(pixels))
    assert read_size(path) == (17, 31)
    image = read_image(path)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, pixels)


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_orientation_is_undone(write, orientation):
    pixels = pattern(17, 31, seed=1)
    path = write(png(pixels, exif=orientation))
    expected = UPRIGHT[orientation](pixels)
    assert read_size(path) == expected.shape[:2]
    np.testing.assert_array_equal(read_image(path), expected)
    # A JPEG, resized on the way.
    plain = read_image(CHINA, (107, 160)).astype(int)
    path = write(with_exif(CHINA.read_bytes(), orientation), "a.JPG")
    expected = UPRIGHT[orientation](plain)
    assert read_size(path) == ((427, 640) if orientation < 5 else (640, 427))
    got = read_image(path, expected.shape[:2])
    assert np.abs(got - expected).max() <= 1


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_there_is_not_is_none(write, orientation):
    pixels = pattern(5, 8, seed=1)
    np.testing.assert_array_equal(read_image(write(png(pixels, exif=orientation))), pixels)


def test_damaged_exif_loses_no_image(write):
    content = with_exif(CHINA.read_bytes(), 6).replace(b"II*\0", b"II*\xff", 1)
    assert read_size(write(content, "a.jpg")) == (427, 640)


def test_odd_exif_is_read_without_a_warning(write):
    entry = b"\x12\x01\x03\x00\x01\x00\x00\x00"
    content = with_exif(CHINA.read_bytes(), 6)
    assert entry in content
    # Two orientations, says the entry: of which Pillow warns, and takes the first.
    path = write(content.replace(entry, entry[:4] + b"\x02\x00\x00\x00"), "a.jpg")
    with quiet():
        assert read_size(path) == (640, 427)


def test_threads_are_quiet_until_the_last_one_is_done():
    before = list(warnings.filters)
    inside, leave = threading.Event(), threading.Event()

    def stay():
        with quiet():
            inside.set()
            leave.wait(60)

    thread = threading.Thread(target=stay)
    with quiet():
        thread.start()
        assert inside.wait(60)
    quietened = list(warnings.filters)
    leave.set()
    thread.join()
    assert quietened[1:] == before
    assert warnings.filters == before


def test_content_is_read_as_its_file_is(write):
    content = with_exif(CHINA.read_bytes(), 6)
    path = write(content, "a.jpg")
    assert read_size(content) == read_size(path) == (640, 427)
    np.testing.assert_array_equal(read_image(content, (90, 60)), read_image(path, (90, 60)))
    # Without a name, the formats that are known by their content.
    with pytest.raises(UnreadableImageError, match=r"^photo: not an image .*JPEG, PNG, WEBP"):
        read_size(str(path).encode())


def test_grey_palette_sixteen_bits_and_transparency(write):
    grey = pattern(6, 7, seed=2)[..., 0]
    three = np.repeat(grey[..., None], 3, axis=2)
    np.testing.assert_array_equal(read_image(write(png(grey, "L"))), three)
    deep = grey.astype(np.uint16) * 256 + 77
    np.testing.assert_array_equal(read_image(write(png(deep, "L"))), three)

    colours = np.random.default_rng(0).integers(0, 256, (4, 3), dtype=np.uint8)
    indices = np.arange(20, dtype=np.uint8).reshape(4, 5) % 4
    path = write(png(indices, "P", palette=colours.tobytes()))
    np.testing.assert_array_equal(read_image(path), colours[indices])
    path = write(png(indices, "P", palette=colours.tobytes(), alpha=bytes([255, 0, 255, 255])))
    shown = np.where((indices == 1)[..., None], 255, colours[indices])
    np.testing.assert_array_equal(read_image(path), shown)

    pixels = pattern(6, 7, seed=3)
    for opacity, expected in ((255, pixels), (0, np.full_like(pixels, 255))):
        layered = np.dstack([pixels, np.full((6, 7), opacity, np.uint8)])
        np.testing.assert_array_equal(read_image(write(png(layered, "RGBA"))), expected)


def test_resizing_averages_and_keeps_the_range(write):
    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[:, 48:] = 200
    image = read_image(write(png(pixels)), (16, 24))
    assert image.shape == (16, 24, 3)
    assert (image[:, :10] == 0).all()
    assert (image[:, 14:] == 200).all()
    fine = np.indices((64, 64)).sum(axis=0) % 2 * 255
    image = read_image(write(png(fine.astype(np.uint8), "L")), (8, 8))
    assert np.abs(image[2:-2, 2:-2].astype(int) - 127).max() <= 3


def test_a_large_jpeg_decoded_small_is_the_same_picture():
    whole = read_image(FLOWER).astype(float)
    cut = whole[: 427 // 8 * 8, : 640 // 8 * 8]
    blocks = cut.reshape(53, 8, 80, 8, 3).mean(axis=(1, 3))
    small = read_image(FLOWER, (53, 80)).astype(float)
    assert np.abs(blocks - small).mean() < 6


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.jpg", b"", "not an image"),
        ("text.png", b"this is no image at all", "not an image"),
        ("gif.png", b"GIF89a\x01\x00\x01\x00\x00\x00\x00;", ""),
        ("cut.jpg", CHINA.read_bytes()[:50_000], "truncated"),
        ("cut.png", png(pattern(50, 50, 0))[:3000], ""),
        ("head.jpg", CHINA.read_bytes()[:300], ""),
        ("bomb.png", png(pattern(5, 5, 0), size=(60_000, 60_000)), "too many"),
        ("wide.png", png(pattern(1, 1, 0), size=(1, 2**31 - 1)), "too many"),
    ],
)
def test_damage_and_bombs_are_one_error_that_names_the_file(write, name, content, reason):
    path = write(content, name)
    with quiet(), pytest.raises(UnreadableImageError, match=f"^{path}: .*{reason}"):
        read_image(path, (9, 9))


def test_a_pipe_is_refused_unopened(tmp_path):
    path = tmp_path / "a.jpg"
    os.mkfifo(path)
    # So that whoever opens it would read what is no image, rather than wait.
    pipe = os.open(path, os.O_RDWR)
    os.write(pipe, b"no image" * 100)
    try:
        with pytest.raises(UnreadableImageError, match=f"^{path}: not a regular file"):
            read_size(path)
    finally:
        os.close(pipe)


def test_a_file_longer_than_any_image_is_refused(tmp_path):
    """Its pixels could be read, and its digest would take hours."""
    path = tmp_path / "padded.png"
    path.write_bytes(png(pattern(4, 5, seed=0)))
    os.truncate(path, 1 << 40)  # takes no space
    for read in (read_image, read_size):
        with pytest.raises(UnreadableImageError, match=r"padded\.png: too many bytes"):
            read(path)


@pytest.mark.parametrize(("limit", "most"), [(1000, 1), (4000, 4)])
def test_large_images_are_decoded_one_at_a_time(write, monkeypatch, limit, most):
    monkeypatch.setattr(images, "_LARGE_PIXELS", limit)
    path = write(png(pattern(50, 60, seed=0)))
    convert, inside, seen = images._as_rgb, [], []
    together = threading.Barrier(most)

    def watched(*arguments):
        inside.append(None)
        together.wait(60)
        seen.append(len(inside))
        inside.pop()
        return convert(*arguments)

    monkeypatch.setattr(images, "_as_rgb", watched)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: read_image(path, (9, 9)), range(8)))
    assert len(seen) == 8
    assert max(seen) <= most


def test_without_pillow_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(DiffusionError, match=r"^images: .* needs Pillow \(pip install"):
        importlib.reload(features.images)


def test_absent_files_and_folders_are_named(tmp_path):
    with pytest.raises(UnreadableImageError, match=r"absent\.jpg: No such file"):
        read_size(tmp_path / "absent.jpg")
    with pytest.raises(UnreadableImageError, match="directory"):
        read_size(tmp_path)


@given(st.integers(0, 4000), st.binary(min_size=1, max_size=30))
def test_no_damage_raises_anything_else(tmp_path, at, noise):
    whole = png(pattern(40, 40, seed=0))
    (tmp_path / "a.png").write_bytes(whole[:at] + noise + whole[at + len(noise) :])
    try:
        with quiet():
            assert read_image(tmp_path / "a.png", (10, 12)).shape == (10, 12, 3)
    except UnreadableImageError:
        pass


def test_images_of_a_folder_are_found_and_sorted(tmp_path):
    for name in ("b/x.JPG", "b/a.png", "a.jpeg", "c.txt", ".hidden.jpg", ".git/y.jpg", "z/.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert find_images(tmp_path) == ["a.jpeg", "b/a.png", "b/x.JPG"]
    with pytest.raises(DiffusionError, match="found none"):
        find_images(tmp_path / "z")
    with pytest.raises(DiffusionError, match="expected a folder"):
        find_images(tmp_path / "c.txt")


def test_other_files_and_linked_folders_are_counted(tmp_path):
    (tmp_path / "inside").mkdir()
    for name in ("a.TIFF", "b.webp", "c.gif", "d.bmp", "e.mpo", "inside/f.jp2"):
        (tmp_path / name).touch()
    for name in ("1.HEIC", "2.heic", "3.mov", "inside/README", "x.eps", ".hidden.mov", "a.pdf"):
        (tmp_path / name).touch()
    # In circles, and out of the folder.
    (tmp_path / "inside" / "round").symlink_to(tmp_path)
    (tmp_path / "root").symlink_to("/")
    listing = list_folder(tmp_path)
    assert listing.images == ["a.TIFF", "b.webp", "c.gif", "d.bmp", "e.mpo", "inside/f.jp2"]
    assert listing.others == {".heic": 2, ".mov": 1, "": 1, ".eps": 1, ".pdf": 1}
    assert listing.links == ["inside/round", "root"]
    told = listing.passed_over()
    assert told == (
        "6 files: 2 .heic (no decoder: pip install pillow-heif), 1 without an extension, 1 .eps, "
        "1 .mov, 1 .pdf; 2 linked folders, not followed: inside/round, root"
    )
    (tmp_path / "inside" / "empty").mkdir()
    (tmp_path / "inside" / "empty" / "a").symlink_to(tmp_path)
    with pytest.raises(DiffusionError, match=r"found none \(1 linked folder, not followed: a\)"):
        find_images(tmp_path / "inside" / "empty")


def test_a_decoder_that_is_installed_is_used(tmp_path, monkeypatch):
    (tmp_path / "a.heic").touch()
    monkeypatch.setitem(Image.OPEN, "HEIF", (None, None))
    monkeypatch.setitem(Image.EXTENSION, ".heic", "HEIF")
    assert find_images(tmp_path) == ["a.heic"]


@pytest.mark.parametrize("name", ["a.webp", "a.gif", "a.tif", "a.bmp", "a.jp2", "a.jpg", "a"])
def test_other_formats_are_read_whatever_the_name_says(tmp_path, name):
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:20], pixels[20:, 30:] = (250, 10, 10), (20, 20, 240)
    kind = {"a.jpg": "WEBP", "a": "TIFF"}.get(name)
    first, second = Image.fromarray(pixels), Image.fromarray(255 - pixels)
    more = {"save_all": True, "append_images": [second]} if name in ("a.gif", "a.tif", "a") else {}
    lossless = {"lossless": True} if name in ("a.webp", "a.jpg") else {}
    first.save(tmp_path / name, kind, **more, **lossless)
    assert read_size(tmp_path / name) == (40, 60)
    # The first of the images in the file.
    assert np.abs(read_image(tmp_path / name).astype(int) - pixels).max() <= 10
    assert read_image(tmp_path / name, (8, 12)).shape == (8, 12, 3)


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("suffix", ["tif", "webp"])
def test_orientation_of_other_formats_is_undone_once(tmp_path, orientation, suffix):
    pixels, exif = pattern(16, 32, seed=1), Image.Exif()
    exif[0x0112] = orientation
    lossless = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(pixels).save(tmp_path / f"a.{suffix}", exif=exif, **lossless)
    expected = UPRIGHT[orientation](pixels)
    assert read_size(tmp_path / f"a.{suffix}") == expected.shape[:2]
    np.testing.assert_array_equal(read_image(tmp_path / f"a.{suffix}"), expected)


@pytest.mark.parametrize("mode", ["F", "LAB", "CMYK", "La", "RGBa", "1", "I", "YCbCr"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    ramp = np.linspace(0, 255, 64).astype(np.uint8).reshape(1, 64).repeat(8, 0)
    grey = Image.fromarray(ramp)
    if mode == "LAB":
        image = Image.merge("LAB", [grey, *(Image.new("L", grey.size, 128) for _ in "AB")])
    elif mode == "F":
        image = Image.fromarray(ramp.astype(np.float32) * 37 - 1000)
    elif mode == "I":
        image = Image.fromarray(ramp.astype(np.int32) * 256)
    elif mode in ("La", "RGBa"):
        image = grey.convert("RGB").convert({"La": "LA", "RGBa": "RGBA"}[mode]).convert(mode)
    else:
        image = grey.convert("RGB").convert(mode)
    if mode in ("La", "RGBa", "YCbCr"):  # for which there is no file
        shown = np.asarray(images._as_rgb(image))
    else:
        image.save(tmp_path / "a.tif")
        shown = read_image(tmp_path / "a.tif")
    assert shown.shape == (8, 64, 3)
    if mode == "1":
        assert set(shown.ravel().tolist()) == {0, 255}
    else:
        assert (np.diff(shown[0, :, 0].astype(int)) >= -1).all()
        assert np.abs(shown[0, [0, -1]].astype(int) - [[0] * 3, [255] * 3]).max() <= 2


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(33, 1100))
def test_fitted_size_keeps_the_aspect_ratio(height, width, longest):
    fitted = fitted_size((height, width), longest, Sides(1))
    assert max(fitted) == min(max(height, width), longest)
    factor = max(fitted) / max(height, width)
    for side, original in zip(fitted, (height, width), strict=True):
        assert abs(side - original * factor) <= 0.5 or side == 1
    assert fitted_size((height, width), 100, Sides(33, 32, 1), square=True) == (97, 97)
    assert all(side % 32 == 1 for side in fitted_size((height, width), longest, Sides(33, 32, 1)))


@pytest.mark.parametrize(("photo", "label"), [(CHINA, 698), (FLOWER, 599)])
def test_mobilenet_knows_the_bundled_photos(photo, label):
    """ImageNet's 698 is a palace; 599, a honeycomb, is what a dahlia's petals look like."""
    import torch

    path = data_folder() / "weights" / "mobilenet_v2.safetensors"
    if not path.exists():
        pytest.skip("MobileNetV2's weights are not in DIFFUSION_DATA")
    network = backbone("mobilenet_v2", path)
    image = torch.from_numpy(read_image(photo, (network.input_size,) * 2))
    with torch.no_grad():
        outputs = network.classify(network.normalize(image.permute(2, 0, 1)[None]))
    chances = outputs.softmax(dim=1)[0]
    assert chances.argmax() == label
    assert chances[label] > 0.3
