"""Pages from templates: the skeleton, escaping, images, and files that appear whole."""

from __future__ import annotations

import base64
from io import BytesIO

import numpy as np
import pytest
from jinja2 import UndefinedError
from PIL import Image

from diffusion import DiffusionError
from features.pages import rendering
from tests.support.pages import Page, pixels_of
from tests.support.photos import pattern


def test_page_reads_in_light_and_dark_and_needs_nothing_else(tmp_path):
    rendering.write(tmp_path / "p.html", "features.pages", "page.html")
    assert [entry.name for entry in tmp_path.iterdir()] == ["p.html"]
    page = Page((tmp_path / "p.html").read_text(encoding="utf-8"))
    assert page.attributes("html") == [{"lang": "en"}]
    assert "viewport" in {attributes.get("name") for attributes in page.attributes("meta")}
    assert "prefers-color-scheme: dark" in page.style
    assert not {tag for tag, _ in page.elements} & {"script", "link", "iframe"}


def test_what_a_template_misses_is_an_error_and_no_file(tmp_path):
    with pytest.raises(UndefinedError, match="title"):
        rendering.write(tmp_path / "p.html", "features.objects", "objects.html", paragraphs=[])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (4, 7, 3)])
def test_addresses_hold_the_pixels(rng, shape):
    pixels = rng.integers(0, 256, shape, np.uint8)
    for part in (pixels, pixels[:, ::-1]):
        np.testing.assert_array_equal(pixels_of(rendering.data_address(part)), part)


def test_addresses_of_photos_are_close_to_the_pixels():
    photo = pattern(40, 60, seed=2)
    kind, _, data = rendering.photo_address(photo).partition(",")
    assert kind == "data:image/jpeg;base64"
    with Image.open(BytesIO(base64.b64decode(data, validate=True))) as image:
        assert image.format == "JPEG"
        error = np.abs(np.array(image).astype(int) - photo)
    assert error.mean() < 8


def test_a_page_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(DiffusionError, match=r"page\.html: cannot be written"):
        rendering.write(tmp_path / "absent" / "page.html", "features.pages", "page.html")
