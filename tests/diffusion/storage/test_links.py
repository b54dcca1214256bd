"""What is written goes where it should: not through a link that someone has planted."""

from __future__ import annotations

import errno
import os
import secrets
import stat

import numpy as np
import pytest

import diffusion
from diffusion import DiffusionError, storage
from diffusion.index_state import INDEX
from diffusion.storage import Shards, rows
from diffusion.storage.files import create_array, replacing, save_array

TOKEN = "0123abcd"


@pytest.fixture
def precious(tmp_path):
    file = tmp_path / "precious"
    file.write_text("precious")
    yield file
    assert file.read_text() == "precious"
    assert not file.is_symlink()


@pytest.fixture
def guessed(monkeypatch):
    """Let the random part of every temporary name be known beforehand."""
    monkeypatch.setattr(secrets, "token_hex", lambda n: TOKEN)


def test_a_planted_temporary_file_is_not_followed(tmp_path, precious, guessed):
    aside = tmp_path / f".a.{TOKEN}.tmp"
    aside.symlink_to(precious)
    with pytest.raises(FileExistsError), replacing(tmp_path / "a") as file:
        file.write(b"new")
    assert aside.is_symlink()
    assert not (tmp_path / "a").exists()
    # Nor one that leads nowhere yet.
    aside.unlink()
    aside.symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError), replacing(tmp_path / "a") as file:
        file.write(b"new")
    assert not (tmp_path / "nowhere").exists()


def test_names_of_temporary_files_differ(tmp_path):
    names = set()
    for _ in range(20):
        with replacing(tmp_path / "a") as file:
            file.write(b"new")
            names |= {entry.name for entry in tmp_path.iterdir()} - {"a"}
    assert len(names) == 20


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_files_have_the_permissions_of_ordinary_ones(tmp_path, umask):
    before = os.umask(umask)
    try:
        with replacing(tmp_path / "a") as file:
            file.write(b"new")
        save_array(tmp_path / "b", np.ones(3))
        create_array(tmp_path / "c", np.float32, (3,))
        (tmp_path / "ordinary").touch()
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(entry.stat().st_mode) for entry in tmp_path.iterdir()}
    assert modes == {0o666 & ~umask}


def test_arrays_are_created_exclusively(tmp_path, precious):
    (tmp_path / "a.npy").symlink_to(precious)
    for write in (
        lambda file: save_array(file, np.ones(3)),
        lambda file: create_array(file, np.float32, (3,)),
    ):
        with pytest.raises(FileExistsError):
            write(tmp_path / "a.npy")


def test_a_link_that_the_user_names_is_followed(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    with replacing(tmp_path / "link", "w") as file:
        file.write("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_a_link_in_a_directory_of_our_own_is_replaced(tmp_path, precious):
    (tmp_path / "link").symlink_to(precious)
    with replacing(tmp_path / "link", "w", follow=False) as file:
        file.write("new")
    assert not (tmp_path / "link").is_symlink()


def test_a_linked_manifest_is_refused(tmp_path, precious, vectors):
    index = tmp_path / "index"
    index.mkdir()
    (index / "manifest.json").symlink_to(precious)
    with pytest.raises(DiffusionError, match=r"found 'manifest\.json'"):
        diffusion.Reranker(k=3).fit(vectors).save(index)


def test_links_under_the_names_of_companions_are_removed(tmp_path, precious):
    form = storage.Format("a test", 1, "a test", frozenset({"page.html", "partial"}))
    out = tmp_path / "out"
    out.mkdir()
    with storage.claimed(out, form):
        (out / "page.html").touch()  # so that the unfinished work is kept
    (out / "page.html").unlink()
    (tmp_path / "folder").mkdir()
    (out / "page.html").symlink_to(precious)
    (out / "partial").symlink_to(tmp_path / "folder")
    with storage.claimed(out, form):
        with replacing(out / "page.html") as file:
            file.write(b"page")
        Shards(out / "partial").write("0" * 64, {"a": np.ones(3)})
    assert os.listdir(tmp_path / "folder") == []


def test_shards_are_not_written_through_links(tmp_path, precious):
    name = "0" * 64
    shards = Shards(tmp_path / "partial")
    shards.path.mkdir()
    shards.file(name).symlink_to(precious)
    assert shards.read(name) is None
    shards.write(name, {"a": np.ones(3)})
    assert not shards.file(name).is_symlink()
    assert shards.has(name)
    (tmp_path / "linked").symlink_to(shards.path)
    with pytest.raises(FileExistsError):
        Shards(tmp_path / "linked").write(name, {"a": np.ones(3)})


def test_a_checkpoint_is_not_resumed_through_a_link(tmp_path):
    X = np.ones((4, 2), np.float32)
    path = tmp_path / "checkpoint"
    kept = rows.ListsCheckpoint(path, X, "settings", 3)
    kept.done(4)
    kept.close()
    (path / "ids.npy").rename(tmp_path / "victim.npy")
    before = (tmp_path / "victim.npy").read_bytes()
    (path / "ids.npy").symlink_to(tmp_path / "victim.npy")
    again = rows.ListsCheckpoint(path, X, "settings", 3)
    assert again.rows == 0
    again.ids[:] = 7
    again.done(4)
    again.close()
    assert (tmp_path / "victim.npy").read_bytes() == before
    assert not (path / "ids.npy").is_symlink()


def test_a_full_disk_is_named_as_such(tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError("144000 requested and 120800 written")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match=r"No space left on device.*a\.npy") as error:
        save_array(tmp_path / "a.npy", np.ones(3))
    assert error.value.errno == errno.ENOSPC
    with pytest.raises(DiffusionError, match=r"index: cannot be written \(No space left"):
        storage.save(tmp_path / "index", INDEX, {}, {"graph_indptr": np.ones(3)})
    assert not (tmp_path / "index").exists()

    def full_too(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full_too)
    with pytest.raises(OSError, match=r"No space left on device.*b\.npy"):
        create_array(tmp_path / "b.npy", np.float32, (3,))
