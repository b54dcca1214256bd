"""What is written of groups: JSON, and the rows of a page."""

from __future__ import annotations

import json

import numpy as np
import pytest

from features.objects import group_page
from features.objects.group_page import group_rows, groups_json
from features.objects.groups import Groups
from features.pages import rendering
from tests.support.pages import Page, pixels_of
from tests.support.photos import png

FILES = ["a.png", "deep/b & c.png", "d.png"]
BOXES = np.array([[0, 0, 20, 30], [10, 10, 40, 20], [0, 5, 5, 10.256], [90, 60, 95, 70]])
IMAGES = np.array([0, 1, 1, 2])
GROUPS = Groups(np.array([0, 0, -1, 0]), np.array([0.5, 0.75, 0, 0.25], np.float32))


@pytest.fixture
def photos(tmp_path):
    """Photos of 60 rows and 90 columns, each of one colour but for a red part."""
    for number, name in enumerate(FILES):
        pixels = np.full((60, 90, 3), 80 * (number + 1), np.uint8)
        pixels[10:20, 10:40] = (255, 0, 0)
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(png(pixels))
    return tmp_path


def test_json_by_hand():
    content = groups_json(GROUPS, FILES, BOXES.astype(np.float32), IMAGES)
    assert json.loads(json.dumps(content)) == [
        {
            "number": 0,
            "photos": 3,
            "members": [
                {"file": "deep/b & c.png", "box": [10, 10, 40, 20], "likeness": 0.75},
                {"file": "a.png", "box": [0, 0, 20, 30], "likeness": 0.5},
                {"file": "d.png", "box": [90, 60, 95, 70], "likeness": 0.25},
            ],
        }
    ]


def test_no_groups_are_an_empty_list():
    none = Groups(np.full(4, -1), np.zeros(4, np.float32))
    assert groups_json(none, FILES, BOXES, IMAGES) == []


def test_photos_count_once():
    groups = Groups(np.array([-1, 0, 0, 0]), np.array([0, 0.5, 0.4, 0.3], np.float32))
    (content,) = groups_json(groups, FILES, BOXES, IMAGES)
    assert (content["photos"], len(content["members"])) == (2, 3)
    # Rounded to hundredths of a pixel.
    assert content["members"][1]["box"] == [0, 5, 5, 10.26]


def rows_of(photos, content, **options):
    return list(group_rows(content, lambda name: str(photos / name), **options))


def test_rows_show_the_boxes(photos):
    content = groups_json(GROUPS, FILES, BOXES, IMAGES)
    (row,) = rows_of(photos, content, link_of=lambda name: f"../{name}")
    assert row["caption"] == "3 photos"
    assert [crop["name"] for crop in row["crops"]] == ["deep/b & c.png", "a.png", "d.png"]
    assert [crop["link"] for crop in row["crops"]] == [f"../{c['name']}" for c in row["crops"]]
    red, grey, border = (pixels_of(crop["address"]).astype(int) for crop in row["crops"])
    assert red.shape == (10, 30, 3)
    assert np.abs(red[2:-2, 2:-2] - [255, 0, 0]).max() < 60
    assert grey.shape == (30, 20, 3)
    assert border.shape == (1, 1, 3)  # a box outside the photo shows its nearest pixel


def test_a_crop_is_made_smaller(tmp_path):
    (tmp_path / "a.png").write_bytes(png(np.zeros((300, 500, 3), np.uint8)))
    content = [{"photos": 2, "members": [{"file": "a.png", "box": [0, 0, 480, 240]}]}]
    (row,) = rows_of(tmp_path, content)
    assert pixels_of(row["crops"][0]["address"]).shape == (48, 96, 3)
    assert row["crops"][0]["link"] is None


def test_rows_and_crops_are_limited(photos, monkeypatch):
    monkeypatch.setattr(group_page, "MOST_GROUPS", 2)
    monkeypatch.setattr(group_page, "MOST_CROPS", 2)
    rows = rows_of(photos, groups_json(GROUPS, FILES, BOXES, IMAGES) * 3)
    assert [len(row["crops"]) for row in rows] == [2, 2]


def test_a_photo_is_shown_once_and_unreadable_ones_are_left_out(photos):
    (photos / "a.png").write_bytes(b"no image")
    (photos / "d.png").unlink()
    members = [{"file": name, "box": [0, 0, 9, 9]} for name in ("a.png", *FILES[1:], FILES[1])]
    (row,) = rows_of(photos, [{"photos": 3, "members": members}])
    assert [crop["name"] for crop in row["crops"]] == [FILES[1]]


def test_template(photos, tmp_path):
    content = groups_json(GROUPS, FILES, BOXES, IMAGES)
    rows = group_rows(content, lambda name: str(photos / name), lambda name: f"photos/{name}")
    path = tmp_path / "page.html"
    rendering.write(path, "features.objects", "groups.html", groups=rows)
    page = Page(path.read_text(encoding="utf-8"))
    assert "3 photos" in page.texts
    names = ["deep/b & c.png", "a.png", "d.png"]
    assert [image["alt"] for image in page.attributes("img")] == names
    assert [link["href"] for link in page.attributes("a")] == [f"photos/{name}" for name in names]


def test_template_without_groups(tmp_path):
    path = tmp_path / "page.html"
    rendering.write(path, "features.objects", "groups.html", groups=iter([]))
    assert not Page(path.read_text(encoding="utf-8")).elements
