"""Photos of an index for the service: uploads against files, thumbnails, and what is refused."""

from __future__ import annotations

import builtins
import contextlib
import io
import os
import shutil
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFile

import diffusion
from diffusion import DiffusionError
from diffusion.index_state import open_state
from diffusion.serve import photos as lookup
from features import cli
from features.images.reading import UnreadableImageError
from features.index import serving
from features.index.photos import describe_queries
from features.index.serving import UPLOAD_PIXELS, open_photos
from tests.features.index.test_index import NETWORK, SHORT, as_earlier_version
from tests.support.photos import CHINA, pattern, png, with_exif, write_photos

pytestmark = pytest.mark.usefixtures("one_thread")

GPS = b"52 degrees north"


@pytest.fixture(scope="module")
def made(weights, tmp_path_factory):
    """A folder with photos, and an index of them."""
    made = tmp_path_factory.mktemp("made")
    write_photos(made / "photos")
    (made / "photos" / "turned.jpg").write_bytes(turned())
    (made / "photos" / "thin.png").write_bytes(png(pattern(2, 3000, seed=30)))
    shutil.copy(weights, made / "w.safetensors")
    index(made)
    return made


def index(home, *options):
    """Run `features index` in a folder."""
    before = Path.cwd()
    os.chdir(home)
    try:
        assert cli.main(["index", "photos", "index", *(options or [*NETWORK, *SHORT]), "-q"]) == 0
    finally:
        os.chdir(before)


@pytest.fixture
def home(made, tmp_path):
    """A copy of it that a test may change."""
    home = tmp_path / "home"
    shutil.copytree(made, home, copy_function=shutil.copy2)
    index(home, *NETWORK, *SHORT)  # which names the photos and the weights that are here
    return home


@pytest.fixture(scope="module")
def photos(made):
    return open_photos(made / "index")


def turned():
    """A large JPEG file on its side, with the place where it was taken."""
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = GPS.decode()
    exif.get_ifd(0x8825)[1] = "N"
    file = io.BytesIO()
    with Image.open(CHINA) as china:
        china.resize((900, 600)).save(file, "JPEG", exif=exif, comment=GPS)
    return file.getvalue()


def encoded(mode, kind, **options):
    file = io.BytesIO()
    image = Image.fromarray(pattern(70, 90, seed=7)).convert(mode)
    if "A" in mode:
        image.putalpha(Image.fromarray(pattern(70, 90, seed=8)[:, :, 0]))
    image.save(file, kind, **options)
    return file.getvalue()


def shades(mode, kind):
    file = io.BytesIO()
    values = pattern(70, 90, seed=9)[:, :, 0].astype(np.uint16) * 257
    Image.fromarray(values if mode == "I;16" else values.astype(np.float32)).save(file, kind)
    return file.getvalue()


UPLOADS = {
    **{f"turned{n}.jpg": with_exif(CHINA.read_bytes(), n) for n in range(1, 9)},
    "alpha.png": encoded("RGBA", "PNG"),
    "grey.png": encoded("L", "PNG"),
    "grey-alpha.png": encoded("LA", "PNG"),
    "deep.png": shades("I;16", "PNG"),
    "palette.png": encoded("P", "PNG"),
    "palette-alpha.png": encoded("P", "PNG", transparency=0),
    "bits.png": encoded("1", "PNG"),
    "cmyk.jpg": encoded("CMYK", "JPEG"),
    "cmyk.tif": encoded("CMYK", "TIFF", compression="tiff_lzw"),
    "real.tif": shades("F", "TIFF"),
    "progressive.jpg": encoded("RGB", "JPEG", progressive=True),
    "moving.gif": encoded("P", "GIF", save_all=True, append_images=[Image.new("P", (90, 70))]),
    "web.webp": encoded("RGBA", "WEBP"),
    "map.bmp": encoded("RGB", "BMP"),
    "misnamed.png": CHINA.read_bytes(),
}


@pytest.mark.parametrize("name", UPLOADS)
def test_an_upload_is_described_as_its_file(made, photos, tmp_path, name):
    (tmp_path / name).write_bytes(UPLOADS[name])
    expected = describe_queries(open_state(made / "index"), [tmp_path / name])
    np.testing.assert_array_equal(photos.describe([UPLOADS[name]]), expected)


def test_uploads_together_and_at_once_are_described_as_alone(photos):
    uploads = [UPLOADS[name] for name in ("turned6.jpg", "cmyk.jpg", "turned1.jpg", "grey.png")]
    alone = np.concatenate([photos.describe([upload]) for upload in uploads])
    np.testing.assert_array_equal(photos.describe(uploads), alone)
    with ThreadPoolExecutor(4) as pool:
        each = list(pool.map(photos.describe, [[upload] for upload in uploads * 2]))
    np.testing.assert_array_equal(np.concatenate(each), np.tile(alone, (2, 1)))


def test_an_upload_is_not_written(photos, monkeypatch):
    content, large = turned(), encoded("RGB", "BMP") + bytes(3 << 20)
    photos.describe([content])  # what is imported when it is first used has been

    def refuse(*arguments, **_):
        raise AssertionError(f"opens {arguments}")

    monkeypatch.setattr(builtins, "open", refuse)
    monkeypatch.setattr(io, "open", refuse)
    monkeypatch.setattr(os, "open", refuse)
    assert photos.describe([content, large]).shape == (2, 256)


def archive():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as opened:
        opened.writestr("photo.png", png(pattern(8, 8, 0)))
    return file.getvalue()


BAD = {
    "empty": (b"", "not an image"),
    "text": (b"photo.jpg", "not an image"),
    "page": (b"<html><img src=x onerror=alert(1)></html>", "not an image"),
    "drawing": (b'<svg xmlns="http://www.w3.org/2000/svg"><script/></svg>', "not an image"),
    "archive": (archive(), "not an image"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
    "document": (b"%PDF-1.7\n", "not an image"),
    "begun": (b"\xff\xd8\xff\xe0", ""),
    "cut jpeg": (CHINA.read_bytes()[:20_000], "truncated"),
    "cut png": (png(pattern(70, 90, 1))[:2000], ""),
    "bomb": (png(np.zeros((1, 1, 3), np.uint8), size=(40_000, 40_000)), "too many pixels"),
    "beyond": (png(np.zeros((1, 1, 3), np.uint8), size=(8193, 8192)), "too many pixels"),
    "false size": (png(np.zeros((1, 1, 3), np.uint8), size=(64, 64)), ""),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_photo_is_refused(photos, kind):
    content, said = BAD[kind]
    with pytest.raises(DiffusionError, match=rf"^photo: .*{said}") as raised:
        photos.describe([UPLOADS["grey.png"], content])
    assert isinstance(raised.value, UnreadableImageError)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 200


def test_a_bomb_is_refused_before_it_is_decoded(photos, monkeypatch):
    content = io.BytesIO()
    Image.new("1", (8192, 8193)).save(content, "PNG")
    assert len(content.getvalue()) < 100_000
    assert UPLOAD_PIXELS < 8192 * 8193
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda *_: 1 / 0)
    with pytest.raises(DiffusionError, match=r"too many pixels \(8192 x 8193, more than 67108864"):
        photos.describe([content.getvalue()])


@pytest.mark.parametrize("file", ["/etc/hostname", Path("/etc/hostname"), None, 3])
def test_an_upload_is_content_and_never_a_path(photos, file):
    with pytest.raises(DiffusionError, match="files: expected the contents of photos, bytes"):
        photos.describe([file])


@given(
    content=st.sampled_from([UPLOADS["web.webp"], UPLOADS["palette.png"], UPLOADS["cmyk.jpg"]]),
    changes=st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), max_size=4),
    length=st.integers(0, 8000),
)
def test_a_damaged_upload_is_described_or_refused(photos, content, changes, length):
    damaged = bytearray(content[:length])
    for place, value in changes:
        if place < len(damaged):
            damaged[place] = value
    with contextlib.suppress(UnreadableImageError):
        vector = photos.describe([bytes(damaged)])
        assert vector.shape == (1, 256)
        assert np.isfinite(vector).all()


# --- thumbnails -----------------------------------------------------------------------------------


def decoded(jpeg):
    with Image.open(io.BytesIO(jpeg)) as image:
        assert image.format == "JPEG"
        return np.array(image), image


def test_a_thumbnail_is_upright_small_and_says_nothing_else(made, photos):
    assert GPS in (made / "photos" / "turned.jpg").read_bytes()
    jpeg = photos.picture("turned.jpg")
    pixels, image = decoded(jpeg)
    assert pixels.shape == (448, 299, 3)
    assert GPS not in jpeg
    assert not image.getexif()
    assert set(image.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
    with Image.open(CHINA) as china:
        expected = np.array(china.resize((448, 299)).transpose(Image.Transpose.ROTATE_270), int)
    assert np.abs(pixels - expected).mean() < 6


def test_a_small_photo_keeps_its_size(photos):
    pixels, _ = decoded(photos.picture("b/04.png"))
    assert np.abs(pixels - pattern(64, 96, seed=4).astype(int)).mean() < 4
    assert decoded(photos.picture("thin.png"))[0].shape == (1, 448, 3)


HOSTILE = [
    "../w.safetensors", "/etc/passwd", "../../etc/passwd", "a/../00.png", "./00.png", "00.png/",
    "00.png\0", "", "a", ".", "..", "b", "C:\\00.png", "file:///etc/passwd", "%30%30.png", "\ud800",
    "00.png\n", "é.png", "x" * 100_000, None, 0, -1, 2**70, 1.5, True, b"00.png", ["00.png"], {},
]  # fmt: skip


@pytest.mark.parametrize("id", HOSTILE)
def test_only_photos_of_the_collection_are_shown(photos, id):
    assert photos.picture("00.png") is not None
    assert photos.picture(id) is None
    assert isinstance(photos.name(id), str)


@given(st.text() | st.integers() | st.none() | st.floats() | st.binary())
def test_no_other_id_shows_a_photo(photos, id):
    assert photos.picture(id) is None


def test_names_are_shown_in_one_line(photos):
    assert photos.name("b/04.png") == "b/04.png"
    assert photos.name("a\nb\u202e\udcff.png") == r"a\nb\u202e\udcff.png"


def test_files_that_are_gone_damaged_or_no_files_show_nothing(home):
    photos, folder = open_photos(home / "index"), home / "photos"
    assert photos.picture("00.png") is not None
    (folder / "00.png").unlink()
    assert photos.picture("00.png") is None
    (folder / "03.png").write_bytes(b"no image")
    assert photos.picture("03.png") is None
    (folder / "06.png").unlink()
    (folder / "06.png").mkdir()
    assert photos.picture("06.png") is None
    (folder / "09.png").unlink()
    os.mkfifo(folder / "09.png")
    assert photos.picture("09.png") is None
    shutil.rmtree(folder)
    assert photos.picture("b/04.png") is None
    assert photos.describe([UPLOADS["grey.png"]]).shape == (1, 256)


def test_a_link_that_leaves_the_folder_shows_what_was_indexed_alone(home, tmp_path):
    folder, secret = home / "photos", tmp_path / "secret.png"
    secret.write_bytes(png(pattern(50, 50, seed=99)))
    (folder / "linked.png").symlink_to(home / "elsewhere.png")
    (home / "elsewhere.png").write_bytes(png(pattern(60, 60, seed=98)))
    (folder / "inside.png").symlink_to("b/04.png")
    index(home)
    photos = open_photos(home / "index")
    assert decoded(photos.picture("linked.png"))[0].shape == (60, 60, 3)
    assert photos.picture("inside.png") == photos.picture("b/04.png")
    # Links that are there since, to a file and to a folder.
    for name in ("linked.png", "00.png"):
        (folder / name).unlink()
        (folder / name).symlink_to(secret)
        assert photos.picture(name) is None
    (tmp_path / "b").mkdir()
    for photo in (folder / "b").iterdir():
        (tmp_path / "b" / photo.name).write_bytes(secret.read_bytes())
    shutil.rmtree(folder / "b")
    (folder / "b").symlink_to(tmp_path / "b")
    assert photos.picture("b/04.png") is None


def test_thumbnails_are_kept_and_bounded(home, monkeypatch):
    made = []
    thumbnail = serving._thumbnail
    monkeypatch.setattr(serving, "_thumbnail", lambda path: made.append(path) or thumbnail(path))
    names = ["00.png", "03.png", "06.png"]
    photos = open_photos(home / "index")
    sizes = [len(photos.picture(name)) for name in names]
    assert [photos.picture(name) for name in names] == [photos.picture(name) for name in names]
    assert len(made) == 3
    # There is room for two: that which was used last stays.
    monkeypatch.setattr(serving, "_CACHE_BYTES", sum(sizes) - 1)
    photos = open_photos(home / "index")
    made.clear()
    for name in ["00.png", "03.png", "00.png", "06.png", "00.png", "03.png"]:
        photos.picture(name)
    assert [path.name for path in made] == ["00.png", "03.png", "06.png", "03.png"]
    # A photo that was altered is shown as it is now.
    before = photos.picture("00.png")
    (home / "photos" / "00.png").write_bytes(png(pattern(64, 96, seed=77)))
    assert photos.picture("00.png") != before


# --- what changes while it is served --------------------------------------------------------------


def test_an_index_that_is_updated_is_taken_up(home, monkeypatch):
    loaded = []
    describer_for = serving.describer_for
    monkeypatch.setattr(
        serving, "describer_for", lambda *a, **b: loaded.append(1) or describer_for(*a, **b)
    )
    photos = open_photos(home / "index")
    before = photos.describe([UPLOADS["grey.png"]])
    (home / "photos" / "new.png").write_bytes(png(pattern(64, 96, seed=50)))
    (home / "photos" / "00.png").unlink()
    (home / "photos" / "03.png").rename(home / "photos" / "moved.png")
    assert photos.picture("new.png") is None
    index(home)
    assert decoded(photos.picture("new.png"))[0].shape == (64, 96, 3)
    assert photos.picture("moved.png") is not None
    assert photos.picture("03.png") is None
    np.testing.assert_array_equal(photos.describe([UPLOADS["grey.png"]]), before)
    assert len(loaded) == 1
    # An index of other descriptors: uploads are described as its photos are.
    index(home, *NETWORK, *SHORT, "--pooling", "mac")
    after = photos.describe([UPLOADS["grey.png"]])
    assert np.abs(after - before).max() > 0.01
    np.testing.assert_array_equal(
        after, open_photos(home / "index").describe([UPLOADS["grey.png"]])
    )
    # One that cannot be opened leaves what was.
    manifest = home / "index" / "manifest.json"
    manifest.write_text("{}")
    assert photos.picture("new.png") is not None
    np.testing.assert_array_equal(photos.describe([UPLOADS["grey.png"]]), after)
    manifest.unlink()
    assert photos.picture("new.png") is not None


def test_indexes_of_earlier_versions_have_row_numbers_for_ids(home):
    names = diffusion.load(home / "index").ids_.tolist()
    photos = open_photos(home / "index", home / "photos")
    expected = [photos.picture(name) for name in names]
    as_earlier_version(home / "index")
    assert [photos.picture(row) for row in range(len(names))] == expected
    assert [photos.name(row) for row in range(len(names))] == names
    assert [photos.picture(id) for id in (-1, len(names), "00.png", None)] == [None] * 4
    assert photos.name(-1) == "-1"


# --- opening --------------------------------------------------------------------------------------


def test_what_cannot_be_served_is_said(home, tmp_path):
    np.save(tmp_path / "v.npy", np.random.default_rng(0).random((9, 4)))
    diffusion.Reranker(k=2).fit(np.eye(4)).save(tmp_path / "vectors")
    with pytest.raises(DiffusionError, match="vectors: expected an index of photos"):
        open_photos(tmp_path / "vectors")
    with pytest.raises(DiffusionError, match="absent: "):
        open_photos(tmp_path / "absent")
    with pytest.raises(DiffusionError, match=r"--photos: expected the folder .* got '.*nowhere'"):
        open_photos(home / "index", tmp_path / "nowhere")
    (tmp_path / "other").mkdir()
    with pytest.raises(DiffusionError, match=r"not where they were, .*other\); name their folder"):
        open_photos(home / "index", tmp_path / "other")
    (home / "photos").rename(tmp_path / "moved")
    with pytest.raises(DiffusionError, match=r"not where they were.*\(--photos FOLDER\)"):
        open_photos(home / "index")
    assert open_photos(home / "index", tmp_path / "moved").picture("00.png") is not None


def test_weights_that_moved_or_changed(home, tmp_path):
    (home / "w.safetensors").rename(tmp_path / "w.safetensors")
    with pytest.raises(DiffusionError, match=r"no longer here; give their path \(--weights FILE\)"):
        open_photos(home / "index")
    photos = open_photos(home / "index", weights=tmp_path / "w.safetensors")
    assert photos.describe([UPLOADS["grey.png"]]).shape == (1, 256)
    content = bytearray((tmp_path / "w.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(DiffusionError, match="these are others"):
        open_photos(home / "index", weights=tmp_path / "w.safetensors")


@pytest.mark.slow
def test_torch_takes_no_more_threads_than_it_may(home):
    code = (
        "import sys, torch\n"
        "from features.description.recipe import Describer\n"
        "from features.index.serving import open_photos\n"
        "raw = Describer.raw\n"
        "Describer.raw = lambda *given: print(torch.get_num_threads()) or raw(*given)\n"
        "content = open(sys.argv[2], 'rb').read()\n"
        "open_photos(sys.argv[1]).describe([content])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, home / "index", CHINA],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.split() == ["1"]


class Entry:
    """An entry point: its name, and what it provides."""

    def __init__(self, name, provided):
        self.name, self.provided = name, provided

    def load(self):
        return self.provided()


def test_what_is_installed_is_found(made):
    photos = lookup.open_photos(made / "index")
    assert photos.picture("00.png") is not None
    with pytest.raises(DiffusionError, match="--photos: expected the folder"):
        lookup.open_photos(made / "index", made / "absent")


def test_a_provider_that_is_missing_or_not_complete_is_named(made, monkeypatch):
    found = []
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: found)
    with pytest.raises(DiffusionError, match=r"nothing is installed.*diffusion-rerank\[features"):
        lookup.open_photos(made / "index")

    def no_torch():
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    found.append(Entry("features", no_torch))
    with pytest.raises(DiffusionError, match=r"torch is not installed.*diffusion-rerank\[features"):
        lookup.open_photos(made / "index")
    found.append(Entry("another", lambda: lambda index, folder, *, weights: (index, folder)))
    assert lookup.open_photos("index", "folder") == ("index", "folder")
