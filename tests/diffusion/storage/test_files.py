from __future__ import annotations

import ast
import hashlib
import io
import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from diffusion import DiffusionError
from diffusion.storage import files, fingerprint, read_array, replacing, sha256_of


def test_sha256_of_a_file(tmp_path):
    (tmp_path / "a").write_bytes(b"abc" * 10**6)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(b"abc" * 10**6).hexdigest()
    with pytest.raises(DiffusionError, match="nothing: cannot be read"):
        sha256_of(tmp_path / "nothing")
    with pytest.raises(DiffusionError, match="cannot be read"):
        sha256_of(tmp_path)


def test_the_fingerprint_of_a_json_value_is_that_of_its_text():
    value = {"b": [1, None, True], "a": "é", "c": 0.1}
    text = json.dumps(value, sort_keys=True)
    assert fingerprint(value) == hashlib.sha256(text.encode()).hexdigest()
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": np.int64(2), "a": 1})
    with pytest.raises(TypeError, match="no JSON value"):
        fingerprint([object()])


def test_the_fingerprint_depends_on_all_of_an_array():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    other = array.copy()
    other[1, 2] = np.nextafter(other[1, 2], 9)
    seen = {
        fingerprint([a])
        for a in (array, other, array.T, array.reshape(3, 2), array.view(np.int32), array[:0])
    }
    assert len(seen) == 6
    assert fingerprint([np.asfortranarray(array)]) == fingerprint([array.copy()])


def test_read_array_refuses_what_is_no_plain_array(tmp_path):
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "archive.npy", a=np.ones(3))
    (tmp_path / "archive.npy.npz").rename(tmp_path / "archive.npy")
    (tmp_path / "text.npy").write_text("text")
    (tmp_path / "empty.npy").touch()
    for name in ("objects", "archive", "text", "empty"):
        with pytest.raises(DiffusionError, match=rf"{name}\.npy: expected a \.npy file") as caught:
            read_array(tmp_path / f"{name}.npy")
        # numpy's advice is to load it all the same.
        assert "allow_pickle" not in str(caught.value)


def test_what_a_killed_writer_left_goes_with_the_next_write_of_the_same_file(tmp_path):
    code = """
import os, signal, sys
from diffusion.storage import replacing
with replacing(sys.argv[1]) as file:
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    target, other = tmp_path / "found.npz", tmp_path / "other.npz"
    for file in (target, other):
        subprocess.run([sys.executable, "-c", code, file], check=False)
    (tmp_path / ".found.npz.notours.tmp").touch()
    (tmp_path / ".found.npz.01234567.tmp").mkdir()
    left = {path for path in tmp_path.iterdir() if path.is_file()}
    assert len(left) == 3
    with replacing(target) as file:
        file.write(b"whole")
        # Another writer of the same file, at work at the same time, keeps its own.
        with replacing(target) as second:
            second.write(b"first")
    assert target.read_bytes() == b"whole"
    kept = {path.name[:11] for path in tmp_path.iterdir()}
    assert kept == {"found.npz", ".found.npz.", ".other.npz."}
    assert len(list(tmp_path.iterdir())) == 4


def test_a_temporary_file_that_was_taken_for_abandoned_is_created_again(tmp_path, monkeypatch):
    create, created = files.create, []

    def disturbed(path):
        created.append(create(path))
        if len(created) == 1:
            path.unlink()
        return created[-1]

    monkeypatch.setattr(files, "create", disturbed)
    with replacing(tmp_path / "a") as file:
        file.write(b"whole")
    assert (tmp_path / "a").read_bytes() == b"whole"
    assert len(created) == 2


@given(
    arrays(
        st.sampled_from(["u1", "<i4", ">i8", "<f2", "<f8", "?", "<U3", "S5", "<c8", "<M8[s]"]),
        array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
    ),
    st.booleans(),
    st.sampled_from([(1, 0), (2, 0)]),
)
def test_headers_are_read_as_numpy_reads_them(array, fortran, version):
    array = np.asarray(array, order="F" if fortran else "C")
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, version=version)
    stream.seek(0)
    found = files.array_header(stream, "biufcSUM")
    content = np.frombuffer(stream.read(), found.dtype)
    content = content.reshape(found.shape, order="F" if found.fortran else "C")
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    assert content.tobytes() == array.tobytes()  # NaN and NaT too


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 1, 3)])
def test_headers_of_numbers_are_read_without_the_parser_of_python(shape, tmp_path, monkeypatch):
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    np.save(tmp_path / "array.npy", array)
    # In Python 3.11 it fails now and then where threads parse at the same time.
    monkeypatch.setattr(ast, "parse", None)
    found = read_array(tmp_path / "array.npy")
    assert isinstance(found, np.memmap)
    assert np.array_equal(found, array)


@pytest.mark.parametrize(
    "text",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (5), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (05,), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (5 6,), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-5,), }",
        "{'descr': '<f4', 'fortran_order': 0, 'shape': (5,), }",
        "{'descr': '<f3', 'fortran_order': False, 'shape': (5,), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (5,), }" + " " * 20_000,
    ],
)
def test_other_headers_are_refused(text, tmp_path):
    head = text.encode() + b"\n"
    content = b"\x93NUMPY\x02\x00" + len(head).to_bytes(4, "little") + head + bytes(20)
    with pytest.raises(ValueError, match=r"not a \.npy file of numbers"):
        files.array_header(io.BytesIO(content))
    (tmp_path / "array.npy").write_bytes(content)
    with pytest.raises(DiffusionError, match=r"array\.npy: expected a \.npy file"):
        read_array(tmp_path / "array.npy")
