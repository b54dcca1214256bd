"""Archives that claim more than they hold, and runs that padding would inflate."""

from __future__ import annotations

import io
import os
import tracemalloc
import zipfile

import numpy as np
import pytest

from diffusion import DiffusionError
from diffusion.storage import Shards, read_archive, runs

MEGABYTE = 1 << 20


def header(dtype, shape):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": dtype, "fortran_order": False, "shape": shape}
    )
    return file.getvalue()


def write_bomb(path, names, megabytes=150, *, promised=None):
    """Write members of zeros, which take a thousandth of their size."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            values = megabytes * MEGABYTE // 8
            with archive.open(f"{name}.npy", "w") as member:
                member.write(header("<f8", promised or (values, 1)))
                for _ in range(megabytes):
                    member.write(bytes(MEGABYTE))


@pytest.fixture
def little_memory():
    """Fail if more than 100 MiB are allocated at a time."""
    tracemalloc.start()
    yield
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100 * MEGABYTE


@pytest.mark.slow
@pytest.mark.parametrize("promised", [None, (1, 1)], ids=["said", "not said"])
def test_a_bomb_is_refused_before_it_is_inflated(tmp_path, little_memory, promised):
    write_bomb(tmp_path / "a.npz", ["scores", "ids"], promised=promised)
    assert os.path.getsize(tmp_path / "a.npz") < MEGABYTE
    with pytest.raises(DiffusionError, match=r"a\.npz: expected arrays 'scores' and 'ids'"):
        runs.read_results(tmp_path / "a.npz")
    whole = Shards(tmp_path)
    write_bomb(whole.file("0" * 64), ["meta", "a"], promised=promised)
    assert whole.read("0" * 64) is None


def test_a_header_that_promises_more_than_there_is(tmp_path, little_memory):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for name in ("scores", "ids"):
            archive.writestr(f"{name}.npy", header("<f4", (10**9, 10**3)) + bytes(100))
    with pytest.raises(DiffusionError, match="expected 4000000000000 bytes"):
        runs.read_results(tmp_path / "a.npz")


def test_members_that_share_their_bytes_are_not_read_often(tmp_path, little_memory):
    # Many entries of the directory that lead to one member: a bomb without compression.
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("a.npy", header("<f8", (MEGABYTE, 1)) + bytes(8 * MEGABYTE))
        one = archive.filelist[0]
        for number in range(20_000):
            again = zipfile.ZipInfo(f"{number}.npy")
            for name in ("file_size", "compress_size", "CRC", "header_offset"):
                setattr(again, name, getattr(one, name))
            archive.filelist.append(again)
        archive._didModify = True
    with pytest.raises((ValueError, zipfile.BadZipFile)):
        read_archive(content)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_whole_archives_are_read(tmp_path, rng, save):
    scores = rng.standard_normal((50, 30)).astype(np.float32)
    ids = np.asfortranarray(rng.integers(0, 100, (50, 30)))
    save(tmp_path / "a.npz", scores=scores, ids=ids, more=np.array(["text"]))
    read = runs.read_results(tmp_path / "a.npz")
    assert (read[0] == scores).all()
    assert (read[1] == ids).all()
    read[0][:] = 0  # as an array of one's own


def test_mostly_padded_lists_may_be_compressed(tmp_path):
    ids = np.full((5000, 1000), -1)
    ids[:, 0] = np.arange(5000)
    np.savez_compressed(tmp_path / "a.npz", scores=ids.astype(np.float32), ids=ids)
    assert (runs.read_results(tmp_path / "a.npz")[1] == ids).all()


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data.replace(b"NUMPY", b"numpy"),
        lambda data: data[:-10],
        lambda data: data[: len(data) // 2],
        lambda data: data[:200] + bytes([data[200] ^ 1]) + data[201:],
        lambda data: b"PK",
    ],
    ids=["magic", "end", "half", "bit", "nothing"],
)
def test_damaged_archives_are_one_clear_error(tmp_path, damage):
    file = tmp_path / "a.npz"
    np.savez(file, scores=np.ones((9, 9), np.float32), ids=np.ones((9, 9), np.int64))
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(DiffusionError, match=r"a\.npz: expected arrays"):
        runs.read_results(file)


def test_archives_of_other_compressions_and_objects_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_LZMA) as archive:
        for name in ("scores", "ids"):
            archive.writestr(f"{name}.npy", header("<f4", (1, 1)) + bytes(4))
    with pytest.raises(DiffusionError, match="no compression"):
        runs.read_results(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", scores=np.array([[{}]], object), ids=np.ones((1, 1), int))
    with pytest.raises(DiffusionError, match=r"not a \.npy file of numbers"):
        runs.read_results(tmp_path / "b.npz")


def test_a_run_with_one_long_query_is_refused_by_name(tmp_path, little_memory):
    lines = [f"{query} Q0 {query} 1 0.5 x\n" for query in range(5000)]
    lines += [f"41 Q0 {item} {item + 2} 0.1 x\n" for item in range(20_000)]
    (tmp_path / "a.run").write_text("".join(lines))
    with pytest.raises(DiffusionError, match="query 41: expected a list about as long"):
        runs.read_results(tmp_path / "a.run")


def test_runs_of_uneven_lists_are_read(tmp_path):
    lines = [f"{query} Q0 {query} 1 0.5 x\n" for query in range(50)]
    lines += [f"41 Q0 {item} {item + 2} 0.1 x\n" for item in range(1000)]
    (tmp_path / "a.run").write_text("".join(lines))
    assert runs.read_results(tmp_path / "a.run")[1].shape == (50, 1001)
