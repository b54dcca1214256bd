from __future__ import annotations

import os

import numpy as np
import pytest

from diffusion.storage import Shards

NAME, OTHER = "0" * 64, "f" * 64


@pytest.fixture
def shards(tmp_path):
    shards = Shards(tmp_path / "partial")
    shards.write(NAME, {"a": np.arange(3), "b": np.ones((2, 2))}, failed={"7": "no image"})
    return shards


def test_round_trip(shards):
    shard = shards.read(NAME)
    assert shard.meta == {"failed": {"7": "no image"}}
    assert list(shard.arrays) == ["a", "b"]
    assert shard.arrays["a"].tolist() == [0, 1, 2]
    assert shards.has(NAME)
    assert not shards.has(OTHER)
    assert shards.read(OTHER) is None
    shards.write(OTHER, {})
    assert shards.read(OTHER) == ({}, {})


def test_rows_are_read_without_the_others(shards):
    rng = np.random.default_rng(0)
    arrays = {
        "a": rng.integers(-9, 9, 7),
        "b": np.asfortranarray(rng.random((7, 3, 2), np.float32)),
        "empty": np.empty((0, 0), np.float32),
    }
    shards.write(OTHER, arrays, note="x" * 100)
    rows = shards.rows(OTHER)
    for start, stop in ((0, 7), (2, 5), (6, 7), (3, 3)):
        found = rows.read({"a": slice(start, stop), "b": slice(start, stop), "empty": slice(0, 0)})
        assert list(found) == ["a", "b", "empty"]
        for name, array in arrays.items():
            expected = array[start:stop]
            assert found[name].dtype == expected.dtype
            np.testing.assert_array_equal(found[name], expected)
    with pytest.raises(ValueError, match="expected a fingerprint"):
        shards.rows("short")


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-30],
        lambda data: data[: len(data) // 2],
        lambda data: data.replace(b"NUMPY", b"numpy"),
        lambda data: b"no archive",
    ],
)
def test_a_damaged_shard_counts_as_none(shards, damage):
    file = shards.file(NAME)
    file.write_bytes(damage(file.read_bytes()))
    assert shards.read(NAME) is None
    assert not shards.has(NAME)


def test_an_archive_without_meta_counts_as_none(shards):
    np.savez(shards.file(NAME), a=np.ones(3))
    assert shards.read(NAME) is None
    np.savez(shards.file(NAME), meta=np.frombuffer(b"[]", np.uint8))
    assert shards.read(NAME) is None


def test_names_are_fingerprints(shards):
    for name in ("../../secret", "short", NAME + "x"):
        with pytest.raises(ValueError, match="expected a fingerprint"):
            shards.read(name)


def test_discard_deletes_shards_alone(shards):
    (shards.path / f".{OTHER}.npz.0123abcd.tmp").touch()
    (shards.path / OTHER).mkdir()
    (shards.path / OTHER / "manifest.json").touch()
    (shards.path / "thesis.txt").write_text("precious")
    shards.discard()
    assert os.listdir(shards.path) == ["thesis.txt"]
    (shards.path / "thesis.txt").unlink()
    shards.discard()
    assert not shards.path.exists()
    shards.discard()


def test_an_interrupted_write_leaves_no_shard(shards, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        shards.write(OTHER, {"a": np.ones(3)})
    assert os.listdir(shards.path) == [f"{NAME}.npz"]
