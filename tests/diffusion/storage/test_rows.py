from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from diffusion import DiffusionError
from diffusion.storage.manifest import read_manifest, write_manifest
from diffusion.storage.rows import CHECKPOINT, ListsCheckpoint, RowsCheckpoint, discard

X = np.ones((10, 3), np.float32)


def lists(path, vectors=X):
    return ListsCheckpoint(path, vectors, "settings", 4)


@pytest.fixture
def part(tmp_path):
    """A finished checkpoint whose object is gone; scores are 7."""
    kept = lists(tmp_path / "part")
    kept.scores[:] = 7
    kept.done(10)
    return tmp_path / "part"


def edit(part, **changes):
    state = read_manifest(part, CHECKPOINT)
    write_manifest(part, CHECKPOINT, {k: state[k] for k in ("fingerprint", "rows")} | changes, {})


@pytest.mark.parametrize(
    ("name", "value"), [("ids", 10), ("ids", -2), ("ids", 2**31 - 1), ("scores", np.nan)]
)
def test_values_that_no_run_writes_are_computed_again(part, name, value):
    """The loops that follow the ids would leave their arrays."""
    array = np.load(part / f"{name}.npy", mmap_mode="r+")
    array[7, 2] = value
    array.flush()
    assert lists(part).rows == 0


def test_padding_is_kept(part):
    for name, value in {"ids": -1, "scores": -np.inf}.items():
        array = np.load(part / f"{name}.npy", mmap_mode="r+")
        array[7, 2] = value
        array.flush()
    assert lists(part).rows == 10


def in_thread(function):
    """Call in another thread; return what it returned or raised."""
    got = []

    def call():
        try:
            got.append(function())
        except Exception as error:
            got.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    return got[0]


def test_goes_on(part):
    kept = lists(part)
    assert kept.rows == 10
    assert (kept.scores == 7).all()
    assert "format" in json.loads((part / "manifest.json").read_text())


@pytest.mark.parametrize("names", [["scores.npy", "ids.npy"], ["manifest.json"], ["thesis.txt"]])
@pytest.mark.parametrize("content", ["precious", "{}", "[]", "[" * 10**5])
def test_refuses_and_keeps_what_is_no_checkpoint(tmp_path, names, content):
    for name in [*names, ".manifest.json.0123abcd.tmp"]:
        (tmp_path / name).write_text(content)
    with pytest.raises(DiffusionError, match=r"checkpoint: .* or an empty directory, found '"):
        lists(tmp_path)
    discard(tmp_path)
    assert {entry.read_text() for entry in tmp_path.iterdir()} == {content}
    assert len(os.listdir(tmp_path)) == len(names) + 1


def test_refuses_what_is_no_directory(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DiffusionError, match=r"checkpoint: .* expected a directory"):
        lists(tmp_path / "file")
    discard(tmp_path / "file")
    discard(tmp_path / "nothing")
    assert os.listdir(tmp_path) == ["file"]
    with pytest.raises(DiffusionError, match="checkpoint: expected a str or a path"):
        lists(3)


@pytest.mark.parametrize("leftover", [[], [".manifest.json.0123abcd.tmp"]])
def test_takes_a_directory_that_an_early_kill_left(tmp_path, leftover):
    for name in leftover:
        (tmp_path / name).write_text("")
    kept = lists(tmp_path)
    assert kept.rows == 0
    assert sorted(os.listdir(tmp_path)) == ["ids.npy", "manifest.json", "scores.npy"]


def test_a_kill_while_the_arrays_are_created_leaves_a_checkpoint(tmp_path):
    code = """if True:
        import os, numpy as np
        from diffusion.storage.rows import ListsCheckpoint
        ListsCheckpoint._create = lambda *arguments: os._exit(7)
        ListsCheckpoint("part", np.ones((10, 3), np.float32), "settings", 4)
    """
    killed = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.getcwd()},
        check=False,
    )
    assert killed.returncode == 7
    assert os.listdir(tmp_path / "part") == ["manifest.json"]
    assert lists(tmp_path / "part").rows == 0


def damage(name):
    def cut(part):
        os.truncate(part / name, (part / name).stat().st_size - 1)

    def lengthen(part):
        (part / name).write_bytes((part / name).read_bytes() + b"x")

    def empty(part):
        (part / name).write_bytes(b"")

    def other_type(part):
        np.save(part / name, np.ones((10, 4), np.uint32))

    def other_shape(part):
        np.save(part / name, np.load(part / name).reshape(4, 10))

    def gone(part):
        (part / name).unlink()

    return [cut, lengthen, empty, other_type, other_shape, gone]


@pytest.mark.parametrize(
    "change",
    [
        *damage("scores.npy"),
        *damage("ids.npy"),
        *(
            lambda part, rows=rows: edit(part, rows=rows)
            for rows in (-1, 11, 5.0, True, "5", None, [])
        ),
        lambda part: os.truncate(part / "manifest.json", 50),
    ],
)
def test_starts_afresh_after_damage(part, change):
    change(part)
    kept = lists(part)
    assert kept.rows == 0
    assert not kept.scores.any()
    assert (kept.scores.shape, kept.ids.dtype) == ((10, 4), np.int32)


def test_starting_afresh_leaves_mapped_arrays_alone(part):
    scores = np.asarray(lists(part).scores)
    lists(part, X + 1).scores[:] = 3
    assert (scores == 7).all()


def test_one_at_a_time(part):
    kept = lists(part)
    error = in_thread(lambda: lists(part))
    assert isinstance(error, DiffusionError)
    assert f"{part} is in use" in str(error)
    in_thread(lambda: discard(part))
    assert len(os.listdir(part)) == 3
    kept.close()
    assert in_thread(lambda: lists(part).rows) == 10
    # This thread's own earlier one, alive in a traceback, say, gives way.
    first = lists(part)
    second = lists(part)
    assert second.rows == first.rows == 10
    assert isinstance(in_thread(lambda: lists(part)), DiffusionError)
    del second
    assert in_thread(lambda: lists(part).rows) == 10


def test_one_process_at_a_time(part):
    kept = lists(part)
    code = f"""if True:
        import numpy as np
        from diffusion.storage.rows import ListsCheckpoint
        ListsCheckpoint({str(part)!r}, np.ones((10, 3), np.float32), "settings", 4)
    """
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "is in use by another process" in other.stderr
    kept.close()
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_refused_directory_is_not_locked(tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(DiffusionError) as caught:
        lists(tmp_path)
    (tmp_path / "manifest.json").unlink()
    assert in_thread(lambda: lists(tmp_path).rows) == 0
    assert caught  # and its traceback with the refused object


def test_discard(part):
    kept = lists(part)
    discard(part)  # while it is alive and mapped
    assert (kept.scores == 7).all()
    assert not part.exists()
    lists(part)
    (part / "thesis.txt").write_text("precious")
    discard(part)
    assert os.listdir(part) == ["thesis.txt"]
    discard(part)
    assert os.listdir(part) == ["thesis.txt"]
    (part / "empty").mkdir()
    discard(part / "empty")  # not known to be a checkpoint's
    assert (part / "empty").exists()


def test_a_full_disk_is_an_error_and_gets_its_space_back(tmp_path, monkeypatch):
    def full(descriptor, offset, size):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    layout = {"scores": (np.float32, 4), "residuals": (np.float64, 1)}
    with pytest.raises(DiffusionError, match=r"checkpoint: .*part: cannot be written \(No space"):
        RowsCheckpoint(tmp_path / "part", (X,), "settings", layout)
    assert os.listdir(tmp_path) == []

    def unsupported(descriptor, offset, size):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "posix_fallocate", unsupported)
    assert RowsCheckpoint(tmp_path / "part", (X,), "settings", layout).rows == 0
