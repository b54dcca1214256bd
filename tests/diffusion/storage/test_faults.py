"""What the storage writes, on a disk that fails at each of its operations in turn."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from diffusion import DiffusionError, storage
from diffusion.storage.rows import CHECKPOINT, RowsCheckpoint, discard
from tests.support.disk import CRASHES, DELETING, READING, Crash, Disk, operations

FORMAT = storage.Format("test", 1, "a test")
X = np.arange(40, dtype=np.float32).reshape(20, 2)


def save(path, version):
    storage.save(path / "saved", FORMAT, {"n": version}, {"a": np.full(3, version), "b": X})


def read_saved(path):
    stored = storage.load(path / "saved", FORMAT, verify=True)
    return stored.manifest["n"], stored.arrays["a"].tolist()


def create(path, version):
    with storage.claimed(path / "saved", FORMAT), storage.writing(path / "saved", FORMAT) as new:
        new.create("a", np.int64, (3,))[:] = version
        new.commit({"n": version})


def write_shard(path, version):
    try:
        storage.Shards(path / "saved").write("a" * 64, {"x": X}, n=version)
    except OSError as error:
        raise DiffusionError(str(error)) from None


def read_shard(path):
    shard = storage.Shards(path / "saved").read("a" * 64)
    assert shard is not None
    assert (shard.arrays["x"] == X).all()
    return shard.meta["n"]


def faults(run, path):
    """Yield every fault of what a call does over an old state; `path` has the old state again."""
    run(path, 1)
    old = path.with_name("old")
    shutil.copytree(path, old)
    with Disk(path)() as disk:
        run(path, 2)
    for kind, operation in operations(disk.log):
        shutil.rmtree(path)
        shutil.copytree(old, path)
        yield kind, operation


def leftovers(path):
    folders = [entry for entry in (path / "saved").iterdir() if entry.name.startswith("arrays-")]
    return [*path.rglob("*.tmp"), *folders[1:]]


@pytest.mark.parametrize(
    ("run", "read"), [(save, read_saved), (create, read_saved), (write_shard, read_shard)]
)
def test_a_fault_at_any_operation_leaves_the_old_state_or_the_new_one(run, read, tmp_path):
    path = tmp_path / "home"
    path.mkdir()
    states, count = [], 0
    for version in (1, 2):
        run(path, version)
        states.append(read(path))
    for kind, operation in faults(run, path):
        error = None
        disk = Disk(path, kind, operation.number)
        try:
            with disk():
                run(path, 2)
        except (Crash, DiffusionError) as raised:
            error = raised
        assert isinstance(error, Crash) == (kind in CRASHES)
        about = f"{kind} at {operation}: {error!r}"
        assert read(path) in states[error is None :], about
        if error is not None and kind not in CRASHES:
            assert str(path) in str(error) or run is write_shard, about
        if kind not in CRASHES and operation.what not in DELETING | READING:
            assert not leftovers(path), about
        with Disk(path)():
            run(path, 2)
        assert read(path) == states[1], about
        assert not leftovers(path) or run is write_shard, about
        count += 1
    assert count > 50


def test_a_fault_at_any_operation_leaves_a_checkpoint_to_resume_or_to_delete(tmp_path):
    def run(path, version):
        kept = RowsCheckpoint(path / "kept", [X], f"{version}", {"scores": (np.float32, 2)})
        kept.arrays["scores"][kept.rows :] = X[kept.rows :]
        kept.done(len(X))
        kept.close()
        if version == 2:
            discard(path / "kept")

    path = tmp_path / "home"
    path.mkdir()
    for kind, operation in faults(run, path):
        error: BaseException | None = None
        try:
            with Disk(path, kind, operation.number)():
                run(path, 2)
        except (Crash, DiffusionError) as raised:
            error = raised
        assert error is None or isinstance(error, Crash) or str(path) in str(error)
        # Whatever was left, the next call takes it up.
        with Disk(path)():
            run(path, 2)
        assert list(path.iterdir()) == [], f"{kind} at {operation}"


def test_interrupted_after_the_commit_the_old_arrays_go_when_the_directory_is_next_claimed(
    tmp_path,
):
    save(tmp_path, 1)
    with Disk(tmp_path)() as disk:
        save(tmp_path, 2)
    (committed,) = [one for one in disk.log if one.what == "replace"]
    save(tmp_path, 1)
    with pytest.raises(Crash), Disk(tmp_path, "crash after", committed.number)():
        save(tmp_path, 2)
    assert read_saved(tmp_path)[0] == 2
    assert len(leftovers(tmp_path)) == 1
    with storage.claimed(tmp_path / "saved", FORMAT):
        assert not leftovers(tmp_path)
    assert read_saved(tmp_path)[0] == 2


def test_a_checkpoint_whose_files_cannot_be_deleted_stays_one(tmp_path):
    RowsCheckpoint(tmp_path / "kept", [X], "", {"scores": (np.float32, 2)}).close()
    with Disk(tmp_path)() as disk:
        discard(tmp_path / "kept")
    (deleted,) = [one for one in disk.log if one.path.name == "scores.npy"]
    RowsCheckpoint(tmp_path / "kept", [X], "", {"scores": (np.float32, 2)}).close()
    with Disk(tmp_path, "EACCES", deleted.number)():
        discard(tmp_path / "kept")
    storage.check_target(tmp_path / "kept", CHECKPOINT)
    discard(tmp_path / "kept")
    assert not (tmp_path / "kept").exists()
