"""Photos in which objects recur, and what is discovered in them."""

from __future__ import annotations

import shutil

import pytest

import features
from features.description import sweep
from tests.support.discoveries import discover_in, write_photos


@pytest.fixture(scope="module")
def undisturbed(weights, one_thread, tmp_path_factory):
    """A folder with `photos`, and `out`, what is discovered in them; to be read or copied."""
    folder = tmp_path_factory.mktemp("undisturbed")
    write_photos(folder / "photos")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "SHARD_IMAGES", 4)
        discover_in(folder / "photos", folder / "out", weights)
    return folder


@pytest.fixture
def again(undisturbed, weights, tmp_path, monkeypatch):
    """Discover in the very photos of `undisturbed`, into a folder beside it, which is returned.

    Where the photos are and when they were written is stored, so that it is to the same bytes.
    """
    monkeypatch.setattr(sweep, "SHARD_IMAGES", 4)

    def again(name="", **settings):
        out = undisturbed / f"{tmp_path.name}{name}"
        discover_in(undisturbed / "photos", out, weights, **settings)
        return out

    return again


@pytest.fixture
def photos(undisturbed, tmp_path):
    """A copy of the photos."""
    return shutil.copytree(undisturbed / "photos", tmp_path / "photos")


@pytest.fixture
def discovered(undisturbed, photos, tmp_path):
    """A copy of what is discovered in the photos, where `discover` writes."""
    return features.open_objects(shutil.copytree(undisturbed / "out", tmp_path / "out"))


@pytest.fixture
def discover(photos, weights, tmp_path, monkeypatch):
    """Discover in the photos, with settings that are not as in `undisturbed`."""
    monkeypatch.setattr(sweep, "SHARD_IMAGES", 4)

    def discover(out="out", **settings):
        return discover_in(photos, tmp_path / out, weights, **settings)

    return discover
