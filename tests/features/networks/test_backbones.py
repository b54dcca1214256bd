"""Trunks against forward passes written out with torch's functions, and their files."""

from __future__ import annotations

import json
import pickle
import struct

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from bench.data.collections import data_folder
from diffusion import DiffusionError
from features import RetrievalNetwork
from features.networks import safetensors
from features.networks.backbones import (
    BACKBONES,
    IMAGENET_MEAN,
    VGG16,
    AlexNet,
    MobileNetV2,
    ResNet,
    Sides,
    backbone,
)
from features.networks.fusing import fused
from features.networks.weights import load_into, read_file

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = ("resnet18", "mobilenet_v2")


def on_meta(name, head=True):
    with torch.device("meta"):
        return backbone(name, head=head)


def disturbed(network, seed=0):
    """Give a network statistics and weights under which no batch norm is near the identity."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in network.state_dict().items():
        if name.endswith("running_mean"):
            value.copy_(torch.randn(value.shape, generator=generator) / 10)
        elif value.ndim == 1:
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    return network.eval()


# --- structure -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parameters", "entries"),
    # torchvision documents the numbers of parameters; entries of a state dict count the buffers too
    [
        ("alexnet", 61_100_840, 16),
        ("vgg16", 138_357_544, 32),
        ("resnet18", 11_689_512, 122),
        ("resnet50", 25_557_032, 320),
        ("resnet101", 44_549_160, 626),
        ("mobilenet_v2", 3_504_872, 314),
    ],
)
def test_size_is_the_documented_one(name, parameters, entries):
    network = on_meta(name)
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert len(network.state_dict()) == entries


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("alexnet", {"features.10.weight": (256, 256, 3, 3), "classifier.6.bias": (1000,)}),
        ("vgg16", {"features.28.weight": (512, 512, 3, 3), "classifier.0.weight": (4096, 25088)}),
        (
            "resnet18",
            {"layer2.0.downsample.0.weight": (128, 64, 1, 1), "layer4.1.bn2.running_var": (512,)},
        ),
        (
            "resnet101",
            {"layer3.22.conv3.weight": (1024, 256, 1, 1), "layer1.0.downsample.1.weight": (256,)},
        ),
        (
            "mobilenet_v2",
            {"features.1.conv.0.0.weight": (32, 1, 3, 3), "features.17.conv.2.weight": (320, 960)},
        ),
    ],
)
def test_parameters_have_the_names_of_torchvision(name, shapes):
    state = on_meta(name).state_dict()
    for key, shape in shapes.items():
        assert tuple(state[key].shape)[: len(shape)] == shape


@pytest.mark.parametrize("name", BACKBONES)
def test_stages_have_the_channels_and_strides_that_they_say(name):
    network = on_meta(name, head=False)
    side = 32 * 9 + network.sides.offset
    maps = network.maps(torch.empty(1, 3, side, 2 * side - 1, device="meta"), list(network.stages))
    assert list(maps) == list(network.stages)
    for stage, (channels, stride) in network.stages.items():
        assert maps[stage].shape[:2] == (1, channels)
        # AlexNet's poolings have no border: up to two cells are missing at the edges.
        assert abs(maps[stage].shape[2] - side / stride) <= 2
        assert abs(maps[stage].shape[3] - (2 * side - 1) / stride) <= 2
    assert maps[network.last].shape[1] == network.channels
    assert network.stages[network.last] == (network.channels, network.stride)
    assert network.codes == ()


@pytest.mark.parametrize("name", BACKBONES)
def test_smallest_image_gives_a_map_and_a_smaller_one_an_error(name):
    network = on_meta(name, head=False)
    least = network.sides.minimum
    for stage in network.stages:
        assert 0 not in network(torch.empty(1, 3, least, least, device="meta"), stage).shape
    with pytest.raises(DiffusionError, match=f"^images: .*{least} pixels"):
        network(torch.empty(1, 3, least - 1, least, device="meta"))


# --- forward passes, written out -----------------------------------------------------------------


def normalised(x, w, name):
    mean, var = w[f"{name}.running_mean"], w[f"{name}.running_var"]
    scale = w[f"{name}.weight"] / (var + 1e-5).sqrt()
    return (x - mean[:, None, None]) * scale[:, None, None] + w[f"{name}.bias"][:, None, None]


def resnet_by_hand(w, x, depths, bottleneck):
    x = functional.relu(
        normalised(functional.conv2d(x, w["conv1.weight"], stride=2, padding=3), w, "bn1")
    )
    x = functional.max_pool2d(x, 3, 2, 1)
    for layer, depth in enumerate(depths, 1):
        for block in range(depth):
            at, stride = f"layer{layer}.{block}", 2 if layer > 1 and block == 0 else 1
            strides = (1, stride, 1) if bottleneck else (stride, 1)
            y = x
            for i, s in enumerate(strides, 1):
                kernel = w[f"{at}.conv{i}.weight"]
                y = functional.conv2d(y, kernel, stride=s, padding=kernel.shape[2] // 2)
                y = normalised(y, w, f"{at}.bn{i}")
                y = functional.relu(y) if i < len(strides) else y
            if f"{at}.downsample.0.weight" in w:
                x = functional.conv2d(x, w[f"{at}.downsample.0.weight"], stride=stride)
                x = normalised(x, w, f"{at}.downsample.1")
            x = functional.relu(x + y)
    return x, x.mean(dim=(2, 3)) @ w["fc.weight"].T + w["fc.bias"]


@pytest.mark.parametrize(
    ("name", "depths", "bottleneck"),
    [("resnet18", (2, 2, 2, 2), False), ("resnet50", (3, 4, 6, 3), True)],
)
def test_resnet_equals_its_equations(name, depths, bottleneck):
    network = disturbed(backbone(name, classes=10, seed=1))
    x = torch.rand(1, 3, 64, 70)
    with torch.no_grad():
        maps, outputs = resnet_by_hand(network.state_dict(), x, depths, bottleneck)
        for got, expected in ((network(x), maps), (network.classify(x), outputs)):
            largest = expected.abs().max()
            torch.testing.assert_close(got / largest, expected / largest, rtol=0, atol=1e-5)


def mobilenet_by_hand(w, x):
    def convolve(x, at, stride=1, relu=True):
        kernel = w[f"{at}.0.weight"]
        groups = x.shape[1] if kernel.shape[1] == 1 and kernel.shape[0] == x.shape[1] else 1
        x = functional.conv2d(x, kernel, stride=stride, padding=kernel.shape[2] // 2, groups=groups)
        return normalised(x, w, f"{at}.1").clamp(0, 6)

    x = convolve(x, "features.0", 2)
    strides = [1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1]
    for block, stride in enumerate(strides, 1):
        at, y = f"features.{block}.conv", x
        depth = 0 if block == 1 else 1
        if depth:
            y = convolve(y, f"{at}.0")
        y = convolve(y, f"{at}.{depth}", stride)
        y = functional.conv2d(y, w[f"{at}.{depth + 1}.weight"])
        y = normalised(y, w, f"{at}.{depth + 2}")
        x = x + y if stride == 1 and x.shape == y.shape else y
    x = convolve(x, "features.18")
    return x, x.mean(dim=(2, 3)) @ w["classifier.1.weight"].T + w["classifier.1.bias"]


def test_mobilenet_equals_its_equations():
    network = disturbed(backbone("mobilenet_v2", classes=7, seed=2))
    x = torch.rand(2, 3, 65, 97) * 2 - 1
    with torch.no_grad():
        maps, outputs = mobilenet_by_hand(network.state_dict(), x)
        for got, expected in ((network(x), maps), (network.classify(x), outputs)):
            largest = expected.abs().max()
            torch.testing.assert_close(got / largest, expected / largest, rtol=0, atol=1e-5)


def test_alexnet_and_its_codes_equal_their_equations():
    network = backbone("alexnet", classes=5, seed=3)
    w, x = network.state_dict(), torch.rand(1, 3, 224, 200)
    with torch.no_grad():
        y = x
        for number, (stride, padding, pool) in {
            0: (4, 2, True),
            3: (1, 2, True),
            6: (1, 1, False),
            8: (1, 1, False),
            10: (1, 1, False),
        }.items():
            at = f"features.{number}"
            y = functional.relu(
                functional.conv2d(y, w[f"{at}.weight"], w[f"{at}.bias"], stride, padding)
            )
            if number == 10:
                torch.testing.assert_close(network(x), y)
            y = functional.max_pool2d(y, 3, 2) if pool or number == 10 else y
        torch.testing.assert_close(network(x, "pool5"), y)
        y = functional.adaptive_avg_pool2d(y, 6).flatten(1)
        for number, layer in ((1, "fc6"), (4, "fc7"), (6, "fc8")):
            y = functional.linear(
                y, w[f"classifier.{number}.weight"], w[f"classifier.{number}.bias"]
            )
            y = y if layer == "fc8" else functional.relu(y)
            torch.testing.assert_close(network.head(layer)(network(x)), y)
        torch.testing.assert_close(network.classify(x), y)


def test_vgg_equals_its_equations():
    network = backbone("vgg16", head=False, seed=4)
    w, x = network.state_dict(), torch.rand(1, 3, 48, 40)
    with torch.no_grad():
        y, number = x, 0
        for block, count in enumerate((2, 2, 3, 3, 3), 1):
            for convolution in range(1, count + 1):
                at = f"features.{number}"
                y = functional.relu(
                    functional.conv2d(y, w[f"{at}.weight"], w[f"{at}.bias"], padding=1)
                )
                torch.testing.assert_close(network(x, f"conv{block}_{convolution}"), y)
                number += 2
            y = functional.max_pool2d(y, 2)
            torch.testing.assert_close(network(x, f"pool{block}"), y)
            number += 1
        torch.testing.assert_close(network(x), network(x, "conv5_3"))


@pytest.mark.parametrize("name", BACKBONES)
def test_folding_batch_normalisation_changes_nothing_but_rounding(name):
    network = RetrievalNetwork(disturbed(backbone(name, head=False, seed=6)))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    once = fused(network)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in once.modules())
    x = torch.rand(1, 3, 65, 97)
    with torch.no_grad():
        torch.testing.assert_close(once(x), network(x), rtol=1e-4, atol=1e-5)
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key])


def test_networks_equal_those_of_torchvision():
    torchvision = pytest.importorskip("torchvision")
    for name in SMALL:
        theirs = disturbed(torchvision.models.get_model(name, weights=None))
        ours = backbone(name)
        load_into(ours, theirs.state_dict(), "theirs")
        x = torch.rand(1, 3, 225, 193)
        with torch.no_grad():
            torch.testing.assert_close(ours.classify(x), theirs(x))


# --- what a network knows of its images ----------------------------------------------------------


def test_normalise_bytes_and_floats():
    network = on_meta("resnet18", head=False)
    x = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1).expand(2, 3, 4, 4)
    expected = (np.array([0, 0.2, 1]) - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    for images in (x, x.double() / 255):
        got = network.normalize(images)
        np.testing.assert_allclose(got[1, :, 2, 3].numpy(), expected, rtol=1e-5)
    assert network.normalize(x).dtype == torch.float32


@given(
    st.integers(1, 64), st.integers(0, 40), st.integers(0, 63), st.floats(1, 5000, allow_nan=False)
)
def test_nearest_side_is_the_nearest(step, least, offset, length):
    offset %= step
    sides = Sides(least * step + offset, step, offset)
    side = sides.nearest(length)
    assert side >= sides.minimum
    assert (side - offset) % step == 0
    others = [least * step + offset + i * step for i in range(-(-5000 // step) + 2)]
    assert abs(side - length) == pytest.approx(min(abs(o - length) for o in others))


def test_mobilenet_takes_sides_of_32k_plus_1():
    sides = MobileNetV2(None).sides
    assert [sides.nearest(x) for x in (1, 224, 240, 241, 242, 257, 513)] == [
        33, 225, 225, 257, 257, 257, 513,
    ]  # fmt: skip


def test_mean_and_std_may_be_given():
    network = backbone("mobilenet_v2", head=False, mean=IMAGENET_MEAN, std=(1, 1, 1))
    assert network.mean == IMAGENET_MEAN
    assert network.std == (1.0, 1.0, 1.0)
    assert MobileNetV2.mean == (0.5, 0.5, 0.5)


def test_random_weights_depend_on_the_seed_alone():
    state = torch.get_rng_state()
    first, again, other = (backbone("resnet18", head=False, seed=s) for s in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.conv1.weight, again.conv1.weight)
    assert not torch.equal(first.conv1.weight, other.conv1.weight)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnet34"}, "^name: .*'resnet50'.*got 'resnet34'"),
        ({"name": 5}, "^name:"),
        ({"name": "hf:"}, "^name:"),
        ({"name": "resnet18", "classes": 0}, "^classes:"),
        ({"name": "resnet18", "seed": -1}, "^seed:"),
        ({"name": "resnet18", "mean": (0.5, 0.5)}, "^mean:"),
        ({"name": "resnet18", "std": (0.5, 0.5, 0)}, "^std:"),
        ({"name": "resnet18", "weights": "absent.safetensors"}, "absent.safetensors: cannot"),
        ({"name": "resnet18", "weights": "absent.pth"}, "absent.pth: cannot"),
        ({"name": "resnet18", "weights": 7}, "^weights:"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(DiffusionError, match=message):
        backbone(**arguments)


def test_bad_images_and_stages_are_named():
    network = ResNet("resnet18", None).eval()
    for images in (
        torch.zeros(3, 64, 64),
        torch.zeros(1, 1, 64, 64),
        torch.zeros(1, 3, 64, 64).byte(),
    ):
        with pytest.raises(DiffusionError, match=r"^images:"):
            network(images)
    with pytest.raises(DiffusionError, match=r"^stage: .*'layer4'"):
        network(torch.zeros(1, 3, 64, 64), "layer5")
    with pytest.raises(DiffusionError, match="without its head"):
        network.classify(torch.zeros(1, 3, 64, 64))
    with pytest.raises(DiffusionError, match=r"^layer: .*'fc7'"):
        AlexNet(2).head("fc9")
    assert VGG16(None).codes == ()


# --- state dicts on disk -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small():
    return disturbed(backbone("resnet18", classes=3, seed=5))


@pytest.mark.parametrize(
    "kind", ["weights.safetensors", "weights.pth", "training.pth", "half.safetensors"]
)
def test_a_file_gives_the_network_back(small, kind, tmp_path):
    state = dict(small.state_dict())
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
        safetensors.write(tmp_path / kind, state)
    network = backbone("resnet18", tmp_path / kind)
    assert not network.training
    assert network.fc.out_features == 3
    for name, value in network.state_dict().items():
        assert value.dtype == small.state_dict()[name].dtype
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(value, state[name].to(value.dtype), rtol=0, atol=0)
    trunk = backbone("resnet18", tmp_path / kind, head=False)
    assert set(trunk.state_dict()) == {k for k in small.state_dict() if not k.startswith("fc.")}
    with pytest.raises(DiffusionError, match=r"of another shape: fc\.weight"):
        backbone("resnet18", tmp_path / kind, classes=4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("layer3.0.bn1.weight"), r"1 missing: layer3\.0\.bn1\.weight"),
        (lambda s: s.update(extra=torch.zeros(1)), "1 unknown: extra"),
        (lambda s: s.update({"fc.weight": torch.zeros(3, 5)}), r"\(3, 5\) for \(3, 512\)"),
        (lambda s: s["conv1.weight"].view(-1)[7].fill_(torch.nan), "finite values, conv1"),
    ],
)
def test_weights_load_strictly_or_not_at_all(small, change, message, tmp_path):
    state = {name: value.clone() for name, value in small.state_dict().items()}
    change(state)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(DiffusionError, match=f"^{tmp_path}/w.pth: .*{message}"):
        backbone("resnet18", tmp_path / "w.pth")


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


def test_a_truncated_checkpoint_is_refused(small, tmp_path):
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
    (tmp_path / "x").write_bytes(packed(header, data))
    tensors, metadata = safetensors.read(tmp_path / "x")
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
    safetensors.write(tmp_path / "x", tensors, {"k": "v"})
    safetensors.write(tmp_path / "y", dict(reversed(tensors.items())), {"k": "v"})
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()
    read, metadata = safetensors.read(tmp_path / "x")
    assert metadata == {"k": "v"}
    assert set(read) == set(tensors)
    for name, value in tensors.items():
        assert read[name].dtype == value.dtype
        assert torch.equal(read[name], value)


def test_safetensors_agree_with_the_package(tmp_path):
    torch_files = pytest.importorskip("safetensors.torch")
    tensors = {"a": torch.randn(3, 4), "b": torch.arange(5)}
    torch_files.save_file(tensors, tmp_path / "theirs")
    safetensors.write(tmp_path / "ours", tensors)
    for read in (
        safetensors.read(tmp_path / "theirs")[0],
        torch_files.load_file(tmp_path / "ours"),
    ):
        assert all(torch.equal(read[name], value) for name, value in tensors.items())


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
        packed(b'{"a":%s,"a":%s}' % ((json.dumps(ONE["a"]).encode(),) * 2), b"12345678"),
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
    ],
)
def test_safetensors_refuse_what_departs_from_the_format(content, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(DiffusionError, match=r"x\.safetensors: expected a safetensors file"):
        read_file(tmp_path / "x.safetensors")


@given(st.binary(max_size=60), st.integers(0, 200))
def test_safetensors_never_fail_otherwise(tmp_path, noise, at):
    whole = packed({"a": {"dtype": "I8", "shape": [4], "data_offsets": [0, 4]}}, b"1234")
    broken = whole[:at] + noise + whole[at + len(noise) :]
    (tmp_path / "x").write_bytes(broken)
    try:
        tensors, _ = safetensors.read(tmp_path / "x")
    except DiffusionError:
        return
    assert sum(t.numel() * t.element_size() for t in tensors.values()) <= len(broken)


def test_what_cannot_be_stored_is_named(tmp_path):
    with pytest.raises(DiffusionError, match=r"'a' of torch\.complex64"):
        safetensors.write(tmp_path / "x", {"a": torch.zeros(1, dtype=torch.complex64)})
    with pytest.raises(DiffusionError, match="cannot be written"):
        safetensors.write(tmp_path / "absent" / "x", {})


def test_the_weights_of_mobilenet_load_strictly():
    path = data_folder() / "weights" / "mobilenet_v2.safetensors"
    if not path.exists():
        pytest.skip("MobileNetV2's weights are not in DIFFUSION_DATA")
    network = backbone("mobilenet_v2", path)
    assert network.classifier[1].out_features == 1000
    state, _ = read_file(path)
    assert set(state) == set(network.state_dict())
    assert torch.equal(network.classifier[1].bias, state["classifier.1.bias"].float())
