from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from diffusion import DiffusionError
from diffusion.storage import fingerprint, read_array, sha256_of


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
