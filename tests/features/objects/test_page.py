"""Pictures of saliency maps: the page, and what is drawn where."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from features.networks.frame import Frame, ImageActivations
from features.objects import page as pictures
from features.objects.discovery import ObjectDiscovery
from features.objects.egm import Regions
from features.objects.maps import feature_saliency
from features.pages.rendering import photo_address
from features.settings import DiscoverySettings
from tests.support.activations import recurring_blobs
from tests.support.pages import Page, pixels_of
from tests.support.photos import pattern


@pytest.fixture
def picture():
    """A picture with maps of 2 x 3 cells of 32 pixels, and of 4 x 6 cells of 16 pixels."""
    saliency = np.array([[0, 1, 0], [0.5, 0, 0.25]], np.float32)
    fine = np.repeat(np.repeat(saliency, 2, axis=0), 2, axis=1)
    return pictures.Picture(
        "a <b> & c",
        pattern(60, 90, seed=1),
        Frame(32, -3, -2),
        saliency,
        saliency[::-1],
        Frame(16, -3, -2),
        fine,
        Regions(np.array([[2.0, 0, 4, 2], [0.0, 2, 3, 4]]), np.array([0.75, 0.25])),
        np.array([[10, 20, 30, 50]]),
    )


@pytest.fixture
def page(picture, tmp_path):
    path = tmp_path / "page.html"
    pictures.write_page(path, "Title & more", ["x < y", pictures.LEGEND], [picture, picture])
    assert [entry.name for entry in tmp_path.iterdir()] == ["page.html"]
    return Page(path.read_text(encoding="utf-8"))


# --- the page -------------------------------------------------------------------------------------


def test_page_has_five_panels_a_picture(page):
    assert len(page.attributes("section")) == 2
    assert len(page.attributes("figure")) == len(page.attributes("svg")) == 10
    labels = [svg["aria-label"] for svg in page.attributes("svg")]
    assert labels[0] == "a <b> & c: the image"
    assert all(labels)
    maps = {"feature saliency", "peaks of objects", "object saliency"}
    assert maps | {"2 objects"} <= set(page.texts)


def test_text_on_the_page_is_escaped(page):
    assert {"Title & more", "x < y", "a <b> & c"} <= set(page.texts)
    assert not page.attributes("b")


def test_page_needs_nothing_from_elsewhere(page):
    assert not {tag for tag, _ in page.elements} & {"script", "link", "iframe", "object", "embed"}
    hrefs = [attributes["href"] for _, attributes in page.elements if "href" in attributes]
    assert all(href.startswith(("data:image/png;base64,", "#photo")) for href in hrefs)
    # What is used is there, once.
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert {href[1:] for href in hrefs if href.startswith("#")} == set(ids)
    assert len(ids) == len(set(ids)) == 2
    assert "url(" not in page.style
    assert "@import" not in page.style


def test_page_reads_on_a_phone_and_in_the_dark(page):
    assert "viewport" in {attributes.get("name") for attributes in page.attributes("meta")}
    assert "prefers-color-scheme: dark" in page.style
    assert "@media (max-width" in page.style


def test_page_appears_whole_or_not_at_all(picture, tmp_path):
    def broken():
        yield picture
        raise KeyboardInterrupt

    path = tmp_path / "page.html"
    with pytest.raises(KeyboardInterrupt):
        pictures.write_page(path, "t", [], broken())
    assert not list(tmp_path.iterdir())
    path.write_text("before")
    with pytest.raises(KeyboardInterrupt):
        pictures.write_page(path, "t", [], broken())
    assert path.read_text() == "before"


# --- what is drawn --------------------------------------------------------------------------------


def numbers(attributes, names):
    return [float(attributes[name]) for name in names]


def test_boxes_lie_where_the_cells_lie(page):
    first = page.attributes("rect")[: len(page.attributes("rect")) // 2]
    drawn = [(rect["class"], *numbers(rect, ("x", "y", "width", "height"))) for rect in first]
    assert drawn == [
        ("truth", 10, 20, 20, 30),
        ("region", -3, 30, 48, 32),
        ("region", 29, -2, 32, 32),
    ]
    # The heavier, the brighter.
    light, heavy = (float(rect["opacity"]) for rect in first[1:])
    assert light < heavy == 1


def test_heat_covers_the_cells_and_rises_with_saliency(page, picture):
    _, heat, peaks, objects = page.attributes("image")[:4]
    for drawn in (heat, peaks, objects):
        assert numbers(drawn, ("x", "y", "width", "height")) == [-3, -2, 96, 64]
    assert pixels_of(objects["href"]).shape == (4, 6, 3)
    np.testing.assert_array_equal(pixels_of(peaks["href"]), pixels_of(heat["href"])[::-1])
    colours = pixels_of(heat["href"]).astype(int).sum(axis=2)
    assert colours.shape == (2, 3)
    order = np.argsort(picture.features.ravel(), kind="stable")
    assert (np.diff(colours.ravel()[order]) >= 0).all()
    assert colours.argmax() == 1
    assert len(np.unique(colours)) == 4


def test_photos_keep_their_place_and_are_shown_small(page, picture, tmp_path):
    photo = page.attributes("image")[0]
    assert numbers(photo, ("width", "height")) == [90, 60]
    np.testing.assert_array_equal(pixels_of(photo["href"]), picture.image)
    # Each photo is held once, and its four other panels refer to it or hold a map.
    hrefs = [attributes["href"] for _, attributes in page.elements if "href" in attributes]
    assert len(hrefs) == 2 * 5
    large = np.repeat(np.repeat(picture.image, 10, axis=0), 10, axis=1)
    pictures.write_page(tmp_path / "p.html", "t", [], [replace(picture, image=large)])
    shown = Page((tmp_path / "p.html").read_text(encoding="utf-8")).attributes("image")[0]
    assert numbers(shown, ("width", "height")) == [900, 600]
    small = pixels_of(shown["href"])
    assert max(small.shape) == pictures._SIDE
    assert small.shape[0] / small.shape[1] == pytest.approx(2 / 3, abs=0.01)
    np.testing.assert_allclose(small.mean(axis=(0, 1)), large.mean(axis=(0, 1)), atol=1)


def test_nothing_salient_is_nothing_drawn(picture, tmp_path):
    nothing = Regions(np.empty((0, 4)), np.empty(0))
    zero = np.zeros((2, 3), np.float32)
    empty = replace(picture, features=zero, peaks=zero, objects=zero, boxes=nothing, truth=None)
    pictures.write_page(tmp_path / "p.html", "t", [], [empty])
    page = Page((tmp_path / "p.html").read_text())
    assert not page.attributes("rect")
    assert page.texts.count("0 objects") == 1


def test_a_picture_is_made_of_an_image_and_its_activations():
    A, boxes = recurring_blobs(n_images=12, n_objects=3)
    A = [ImageActivations(a[:24], Frame(1, 0, 0)) for a in A]
    discovery = ObjectDiscovery(DiscoverySettings(dimension=6, k=4)).fit(A)
    made = pictures.make_picture("x", pattern(17, 17, 0), A[2], discovery, 2, boxes[2])
    peaks, objects = discovery.maps(A[2], 2)
    np.testing.assert_array_equal(made.peaks, peaks)
    np.testing.assert_array_equal(made.objects, objects)
    np.testing.assert_array_equal(made.features, feature_saliency(A[2].maps))
    np.testing.assert_array_equal(made.boxes.boxes, discovery.boxes(objects).boxes)
    assert made.frame == made.object_frame == Frame(1, 0, 0)


def test_groups_come_before_the_pictures_with_links(picture, tmp_path):
    address = photo_address(picture.image)
    crops = [
        {"name": "a&b.png", "address": address, "link": "../photos/a%26b.png"},
        {"name": "c.png", "address": address, "link": None},
    ]
    groups = [{"caption": "2 photos", "crops": crops}]
    pictures.write_page(tmp_path / "p.html", "t", [], [picture], iter(groups))
    page = Page((tmp_path / "p.html").read_text())
    assert [section["class"] for section in page.attributes("section")] == ["groups", "row"]
    assert "2 photos" in page.texts
    assert [link["href"] for link in page.attributes("a")] == ["../photos/a%26b.png"]
    assert [img["alt"] for img in page.attributes("img")] == ["a&b.png", "c.png"]
