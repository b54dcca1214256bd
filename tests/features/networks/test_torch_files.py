"""Files of torch: what torch writes is read as torch reads it, and what is forged does no harm."""

from __future__ import annotations

import collections
import contextlib
import os
import re
import subprocess
import sys
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusion import DiffusionError
from features.networks.weights import read_file

FORMATS = {"archive": True, "stream": False}


def save(content, path, kind="archive", **options):
    torch.save(content, path, _use_new_zipfile_serialization=FORMATS[kind], **options)
    return path


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("protocol", [2, 4])
def test_what_torch_writes_is_read(tmp_path, kind, protocol):
    whole = torch.arange(24.0).view(4, 6)
    state = collections.OrderedDict(
        whole=whole,
        row=whole[2],
        column=whole[:, 3],
        turned=whole.T,
        scalar=torch.tensor(2.5, dtype=torch.float64),
        none=torch.zeros(0, 7),
        parameter=torch.nn.Parameter(torch.ones(2, 3)),
        half=torch.randn(5).half(),
        brain=torch.randn(5).bfloat16(),
        truth=torch.tensor([True, False]),
        bytes=torch.arange(5, dtype=torch.uint8),
        counter=torch.tensor(7),
    )
    rng = np.random.default_rng(0)
    learned = {"m": rng.standard_normal((4, 1)), "P": rng.standard_normal((4, 4)).T}
    meta = {
        "Lw": {"set": {"ss": learned, "ms": learned}},
        "mean": [0.1, 0.2, 0.3],
        "count": np.float32(0.5),
        "list": ["a", 1, None, (True, {"k"})],
        "tensor": torch.arange(3),
    }
    save({"state_dict": state, "meta": meta}, tmp_path / "w.pth", kind, pickle_protocol=protocol)
    found, about = read_file(tmp_path / "w.pth")
    assert list(found) == list(state)
    for name, value in state.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value)
    assert about["count"] == 0.5
    assert about["list"] == meta["list"]
    assert about["tensor"].tolist() == [0, 1, 2]
    for name, value in learned.items():
        np.testing.assert_array_equal(about["Lw"]["set"]["ms"][name], value)


@pytest.mark.parametrize("kind", FORMATS)
def test_arrays_of_numpy_1_are_read(tmp_path, kind):
    path = save({"state_dict": {}, "meta": {"m": np.arange(3.0)}}, tmp_path / "w.pth", kind)
    old = (b"numpy._core.multiarray", b"numpy.core.multiarray")
    if kind == "stream":
        path.write_bytes(path.read_bytes().replace(*old))
    else:
        changed(path, lambda pickled: pickled.replace(*old))
    assert read_file(path)[1]["m"].tolist() == [0, 1, 2]


# --- forged files ---------------------------------------------------------------------------------


def changed(path, change, compression=zipfile.ZIP_STORED):
    """Write an archive again with another pickle."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in parts.items():
            archive.writestr(name, change(content) if name.endswith("data.pkl") else content)


class Call:
    """An object whose pickle calls a function, and perhaps sets the state of what it returns."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


def array(kind, shape=(1,), values=b"A" * 8):
    state = (1, shape, kind, False, values)
    return Call(np.empty(0).__reduce__()[0], (np.ndarray, (0,), b"b"), state)


def dtype(name="f8", *, fields=None, size=-1):
    names = None if fields is None else tuple(fields)
    return Call(np.dtype, (name, False, True), (3, "<", None, names, fields, size, size, 63))


def test_attributes_of_a_dictionary_are_left_out(tmp_path):
    state = Call(collections.OrderedDict, ([["a", torch.ones(1)]],), {"items": 5})
    assert list(read_file(save(state, tmp_path / "w.pth"))[0]) == ["a"]


# Without a state, which torch would refuse to set of it.
OBJECT = Call(np.dtype, ("O8", False, True))
ARRAYS = {
    # A float64 that claims to hold an object: numpy takes eight bytes of the file for a pointer.
    "fields": lambda: array(dtype(fields={"a": (OBJECT, 0)}, size=8)),
    "objects": lambda: array(OBJECT),
    "record": lambda: array(dtype("V8", fields={"a": (OBJECT, 0)}, size=8)),
    "negative": lambda: array(np.dtype("f8"), (-1,)),
    "large": lambda: array(np.dtype("f8"), (1 << 40,)),
    "overflowing": lambda: array(np.dtype("f8"), (1 << 62, 4)),
    "long": lambda: array(np.dtype("f8"), (1 << 33,), 1 << 36),
    "scalar": lambda: Call(np.float64(0).__reduce__()[0], (OBJECT, b"A" * 8)),
}


def tensor(offset=0, size=(4,), stride=(1,)):
    storage = torch.storage.TypedStorage(
        wrap_storage=torch.arange(4.0).untyped_storage(), dtype=torch.float32, _internal=True
    )
    rest = (False, collections.OrderedDict())
    return Call(torch._utils._rebuild_tensor_v2, (storage, offset, size, stride, *rest))


CALLS = {
    "memory": lambda: Call(torch.FloatTensor, (1 << 40,)),
    "bytes": lambda: Call(bytearray, (1 << 40,)),
    "code": lambda: Call(eval, ("print('run')",)),
    "beyond": lambda: tensor(size=(1 << 28,)),
    "after": lambda: tensor(offset=1 << 40),
    "strided": lambda: tensor(size=(2,), stride=(1 << 61,)),
    "repeated": lambda: tensor(size=(1 << 28,), stride=(0,)),
    "negative": lambda: tensor(size=(-1,)),
    "before": lambda: tensor(size=(2,), stride=(-1 << 40,)),
    "empty": lambda: tensor(size=(0, 1 << 61, 1 << 61), stride=(1, 1, 1)),
    "ragged": lambda: tensor(size=(2, 2)),
}


def overlapping(path):
    """Write an archive whose directory says of each part that all the file is in it."""
    raw = bytearray(path.read_bytes())
    length = len(raw).to_bytes(4, "little")
    at = raw.find(b"PK\1\2")
    while at >= 0:
        raw[at + 20 : at + 28] = length * 2
        at = raw.find(b"PK\1\2", at + 4)
    path.write_bytes(raw)


@pytest.fixture(scope="module")
def forged(tmp_path_factory):
    """A folder of files, none of which may be read."""
    folder = tmp_path_factory.mktemp("forged")
    for kind in FORMATS:
        for name, make in ARRAYS.items():
            learned = {"set": {part: {"m": make(), "P": make()} for part in ("ss", "ms")}}
            meta = {"architecture": "resnet18", "pooling": "mac", "Lw": learned}
            save({"meta": meta, "state_dict": {}}, folder / f"array-{name}-{kind}.pth", kind)
        for name, make in CALLS.items():
            save({"fc.bias": make()}, folder / f"call-{name}-{kind}.pth", kind)
    # 200 numbers that claim to be 2^28.
    claim = (b"K\xc8", b"J\0\0\0\x10")
    path = save({"a": torch.arange(200.0)}, folder / "storage-stream.pth", "stream")
    path.write_bytes(path.read_bytes().replace(*claim))
    path = save({"a": torch.arange(200.0)}, folder / "storage-archive.pth")
    changed(path, lambda pickled: pickled.replace(*claim))
    path = save({"a": torch.zeros(1 << 24)}, folder / "bomb.pth")
    changed(path, lambda pickled: pickled, zipfile.ZIP_DEFLATED)
    overlapping(save({"a": torch.zeros(1 << 10)}, folder / "overlapping.pth"))
    with zipfile.ZipFile(save({}, folder / "script.pth"), "a") as archive:
        archive.writestr("script/constants.pkl", b"")
    with zipfile.ZipFile(folder / "other.pth", "w") as archive:
        archive.writestr("x", b"")
    with tarfile.open(folder / "tar.pth", "w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    return folder


READ = """
import resource, sys
from features import load_retrieval
from features.networks import weights
from diffusion import DiffusionError
from pathlib import Path

resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))
for path in sorted(Path(sys.argv[1]).iterdir()):
    for read in (weights.read_file, load_retrieval):
        try:
            read(path)
        except DiffusionError as error:
            print(error)
        else:
            print(f"{path}: was read")
"""


@pytest.mark.slow
def test_forged_files_are_refused_without_a_crash_or_a_bomb(forged):
    done = subprocess.run(
        [sys.executable, "-c", READ, str(forged)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2 * len(list(forged.iterdir())) == 2 * (2 * 19 + 7)
    for line in lines:
        assert re.match(rf"{forged}/[\w-]+\.pth: expected a torch checkpoint of dense", line), line
        # What torch and numpy advise is to trust the file.
        assert not re.search("weights_only|allow_pickle|safe_globals", line)


@pytest.mark.parametrize("kind", FORMATS)
@given(at=st.floats(0, 1), noise=st.binary(min_size=1, max_size=6), insert=st.booleans())
def test_no_damage_raises_anything_else(tmp_path, kind, at, noise, insert):
    path = tmp_path / "w.pth"
    if not path.exists():
        meta = {"m": np.ones((2, 2)), "n": np.float32(1), "text": "text"}
        save({"meta": meta, "state_dict": {"a": torch.arange(6.0).view(2, 3)}}, path, kind)
    whole = path.read_bytes()
    place = int(at * len(whole))
    damaged = tmp_path / "damaged.pth"
    damaged.write_bytes(whole[:place] + noise + whole[place + (not insert) * len(noise) :])
    with contextlib.suppress(DiffusionError):
        read_file(damaged)


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "w.pth")
    os.mkfifo(tmp_path / "w.safetensors")
    for name in ("w.pth", "w.safetensors"):
        with pytest.raises(DiffusionError, match="pipe or device"):
            read_file(tmp_path / name)
    with pytest.raises(DiffusionError, match="cannot be read"):
        read_file(tmp_path / "absent.pth")
