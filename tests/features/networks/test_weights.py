"""State dicts on disk: what is read, what is written, what is refused."""

from __future__ import annotations

import json
import pickle
import struct

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench.data.collections import data_folder
from diffusion import DiffusionError
from features.networks import backbones
from features.networks.backbones import backbone
from features.networks.weights import load_into, read_file, write_file
from tests.support.networks import Tiny, disturbed

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", autouse=True)
def tiny():
    """A trunk that `backbone` knows by name, with a classifier of three outputs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(backbones._MAKERS, "tiny", Tiny)
        yield disturbed(backbone("tiny", classes=3, seed=5))


@pytest.mark.parametrize(
    "kind", ["weights.safetensors", "weights.pth", "training.pth", "half.safetensors"]
)
def test_a_file_gives_the_network_back(tiny, kind, tmp_path):
    state = dict(tiny.state_dict())
    if kind == "training.pth":
        wrapped = {f"module.{name}": value for name, value in state.items()}
        torch.save({"epoch": 3, "state_dict": wrapped}, tmp_path / kind)
    elif kind == "weights.pth":
        # As files from before BatchNorm counted batches.
        state = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
        torch.save(state, tmp_path / kind)
    else:
        half = kind.startswith("half")
        state = {k: v.half() if half and v.is_floating_point() else v for k, v in state.items()}
        write_file(tmp_path / kind, state)
    network = backbone("tiny", tmp_path / kind)
    assert not network.training
    assert network.fc.out_features == 3
    for name, value in network.state_dict().items():
        assert value.dtype == tiny.state_dict()[name].dtype
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(value, state[name].to(value.dtype), rtol=0, atol=0)
    trunk = backbone("tiny", tmp_path / kind, head=False)
    assert set(trunk.state_dict()) == {k for k in tiny.state_dict() if not k.startswith("fc.")}
    with pytest.raises(DiffusionError, match=r"of another shape: fc\.weight"):
        backbone("tiny", tmp_path / kind, classes=4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("norm.weight"), r"1 missing: norm\.weight"),
        (lambda s: s.update(extra=torch.zeros(1)), "1 unknown: extra"),
        (lambda s: s.update({"fc.weight": torch.zeros(3, 5)}), r"\(3, 5\) for \(3, 32\)"),
        (lambda s: s["conv1.weight"].view(-1)[7].fill_(torch.nan), "finite values, conv1"),
    ],
)
def test_weights_load_strictly_or_not_at_all(tiny, change, message, tmp_path):
    state = {name: value.clone() for name, value in tiny.state_dict().items()}
    change(state)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(DiffusionError, match=f"^{tmp_path}/w.pth: .*{message}"):
        backbone("tiny", tmp_path / "w.pth")


def test_a_pickle_that_would_run_something_is_refused(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (open, (str(tmp_path / "written"), "w"))

    for content in (Harmful(), {"state_dict": {"conv1.weight": Harmful()}}):
        torch.save(content, tmp_path / "harm.pth")
        (tmp_path / "plain.pth").write_bytes(pickle.dumps(content, protocol=2))
        for name in ("harm.pth", "plain.pth"):
            with pytest.raises(DiffusionError, match=f"{name}: expected a torch checkpoint"):
                read_file(tmp_path / name)
    assert not (tmp_path / "written").exists()


@pytest.mark.parametrize("content", [b"", b"x" * 100, [1, 2], {"a": 1}, {"state_dict": [1]}])
def test_what_is_no_state_dict_is_refused(content, tmp_path):
    path = tmp_path / "w.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(DiffusionError, match=r"w\.pth: expected"):
        read_file(path)


@pytest.mark.filterwarnings("ignore:.*(beta|prototype)")
@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.eye(3).to_sparse(),
        lambda: torch.eye(3).to_sparse_csr(),
        lambda: torch.eye(3).to("meta"),
        lambda: torch.eye(3, dtype=torch.complex64),
    ],
)
def test_tensors_that_are_not_dense_numbers_are_refused(make, tmp_path):
    torch.save({"conv1.weight": make()}, tmp_path / "w.pth")
    with pytest.raises(DiffusionError, match=r"w\.pth: .*dense tensors of numbers"):
        read_file(tmp_path / "w.pth")


def test_a_repeated_value_gets_memory_of_its_own():
    with torch.device("meta"):
        network = torch.nn.Linear(4, 3, bias=False)
    load_into(network, {"weight": torch.ones(1).expand(3, 4)}, "made")
    with torch.no_grad():
        network.weight[0, 0] = 2
    assert network.weight.sum() == 13


def test_a_truncated_checkpoint_is_refused(tiny, tmp_path):
    path = tmp_path / "w.pth"
    torch.save({"a": torch.arange(1000)}, path)
    whole = path.read_bytes()
    for length in (10, len(whole) // 2, len(whole) - 5):
        path.write_bytes(whole[:length])
        with pytest.raises(DiffusionError, match=r"w\.pth: (expected|cannot)"):
            read_file(path)


# --- safetensors ---------------------------------------------------------------------------------


def packed(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


ONE = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}


def test_safetensors_written_by_hand(tmp_path):
    header = {
        "__metadata__": {"format": "pt"},
        "b": {"dtype": "I64", "shape": [], "data_offsets": [12, 20]},
        "a": {"dtype": "F16", "shape": [3, 2], "data_offsets": [0, 12]},
        "none": {"dtype": "U8", "shape": [0, 4], "data_offsets": [12, 12]},
    }
    data = np.arange(6, dtype="<f2").tobytes() + np.int64(-5).tobytes()
    (tmp_path / "x.safetensors").write_bytes(packed(header, data))
    tensors, metadata = read_file(tmp_path / "x.safetensors")
    assert metadata == {"format": "pt"}
    assert tensors["a"].tolist() == [[0, 1], [2, 3], [4, 5]]
    assert tensors["a"].dtype == torch.float16
    assert tensors["b"].item() == -5
    assert tensors["none"].shape == (0, 4)


def test_safetensors_round_trip_and_equal_bytes(tmp_path):
    dtypes = [torch.float32, torch.bfloat16, torch.float64, torch.int8, torch.bool, torch.int64]
    tensors = {f"t{i}": torch.randn(i, 3).mul(9).to(d) for i, d in enumerate(dtypes)}
    tensors["scalar"] = torch.tensor(2.5)
    tensors["turned"] = torch.arange(6.0).view(2, 3).T
    write_file(tmp_path / "x.safetensors", tensors, {"k": "v"})
    write_file(tmp_path / "y.safetensors", dict(reversed(tensors.items())), {"k": "v"})
    assert (tmp_path / "x.safetensors").read_bytes() == (tmp_path / "y.safetensors").read_bytes()
    read, metadata = read_file(tmp_path / "x.safetensors")
    assert metadata == {"k": "v"}
    assert set(read) == set(tensors)
    for name, value in tensors.items():
        assert read[name].dtype == value.dtype
        assert torch.equal(read[name], value)


def test_safetensors_agree_with_the_package(tmp_path):
    tensors = {"a": torch.randn(3, 4), "b": torch.arange(5), "c": torch.randn(2).half()}
    ours, theirs = tmp_path / "ours.safetensors", tmp_path / "theirs.safetensors"
    safetensors.torch.save_file(tensors, theirs, {"k": "v"})
    write_file(ours, tensors, {"k": "v"})
    assert ours.read_bytes() == theirs.read_bytes()
    for read in (read_file(theirs)[0], safetensors.torch.load_file(ours)):
        assert all(torch.equal(read[name], value) for name, value in tensors.items())


def test_what_was_read_stays_when_the_file_changes(tmp_path):
    path = tmp_path / "x.safetensors"
    write_file(path, {"a": torch.ones(5000)})
    tensors, _ = read_file(path)
    with open(path, "r+b") as file:
        file.seek(-20_000, 2)
        file.write(bytes(20_000))
    assert (tensors["a"] == 1).all()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 7,
        struct.pack("<Q", 1 << 62) + b"{}",
        packed(b"{", b"12345678"),
        packed(b"\xff\xfe", b""),
        packed([1]),
        packed({"a": 5}),
        packed({"__metadata__": {"k": 1}}),
        packed(ONE, b"1234567"),
        packed(ONE, b"123456789"),
        packed({"a": {**ONE["a"], "dtype": "C64"}}, b"12345678"),
        packed({"a": {**ONE["a"], "shape": [3]}}, b"12345678"),
        packed({"a": {**ONE["a"], "shape": [-1, -2]}}, b"12345678"),
        packed({"a": {**ONE["a"], "shape": [2.0]}}, b"12345678"),
        packed({"a": {**ONE["a"], "shape": [True, 2]}}, b"12345678"),
        packed({"a": {**ONE["a"], "data_offsets": [8, 0]}}, b"12345678"),
        packed({"a": {**ONE["a"], "data_offsets": [4, 12]}}, b"123456789012"),
        packed({"a": {**ONE["a"], "data_offsets": [0]}}, b"12345678"),
        packed({"a": ONE["a"], "b": ONE["a"]}, b"12345678"),
        packed({"a": {"dtype": "F32", "shape": [0, 10**30], "data_offsets": [0, 0]}}),
        packed({"a": {"dtype": "F32", "shape": [0, 2**63], "data_offsets": [0, 0]}}),
    ],
)
def test_safetensors_refuse_what_departs_from_the_format(content, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(DiffusionError, match=r"x\.safetensors: expected a safetensors file"):
        read_file(tmp_path / "x.safetensors")


@pytest.mark.parametrize(("dtype", "shape"), [("F8_E5M2", [8]), ("U16", [4])])
def test_safetensors_of_other_numbers_are_refused(dtype, shape, tmp_path):
    entry = {"dtype": dtype, "shape": shape, "data_offsets": [0, 8]}
    (tmp_path / "x.safetensors").write_bytes(packed({"a": entry}, b"12345678"))
    with pytest.raises(DiffusionError, match=r"x\.safetensors: .*dense tensors of numbers"):
        read_file(tmp_path / "x.safetensors")


@given(st.binary(max_size=60), st.integers(0, 200))
def test_safetensors_never_fail_otherwise(tmp_path, noise, at):
    whole = packed({"a": {"dtype": "I8", "shape": [4], "data_offsets": [0, 4]}}, b"1234")
    broken = whole[:at] + noise + whole[at + len(noise) :]
    (tmp_path / "x.safetensors").write_bytes(broken)
    try:
        tensors, _ = read_file(tmp_path / "x.safetensors")
    except DiffusionError:
        return
    assert sum(t.numel() * t.element_size() for t in tensors.values()) <= len(broken)


def test_what_cannot_be_stored_is_named(tmp_path):
    with pytest.raises(DiffusionError, match=r"'a' of torch\.complex64"):
        write_file(tmp_path / "x.safetensors", {"a": torch.zeros(1, dtype=torch.complex64)})
    whole = torch.ones(4)
    with pytest.raises(DiffusionError, match=r"^state: .*share memory"):
        write_file(tmp_path / "x.safetensors", {"a": whole, "b": whole})
    with pytest.raises(DiffusionError, match=r"^meta:"):
        write_file(tmp_path / "x.safetensors", {"a": whole}, {"k": "v", "l": "w"})
    with pytest.raises(DiffusionError, match="cannot be written"):
        write_file(tmp_path / "absent" / "x", {})
    assert not list(tmp_path.iterdir())


def test_the_weights_of_mobilenet_load_strictly():
    path = data_folder() / "weights" / "mobilenet_v2.safetensors"
    if not path.exists():
        pytest.skip("MobileNetV2's weights are not in DIFFUSION_DATA")
    network = backbone("mobilenet_v2", path)
    assert network.classifier[1].out_features == 1000
    state, _ = read_file(path)
    assert set(state) == set(network.state_dict())
    assert torch.equal(network.classifier[1].bias, state["classifier.1.bias"].float())
