"""Trunks against forward passes written out with torch's functions, and their files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from diffusion import DiffusionError
from features import RetrievalNetwork
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
from features.networks.weights import load_into
from tests.support.networks import disturbed

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = ("resnet18", "mobilenet_v2")


def on_meta(name, head=True):
    with torch.device("meta"):
        return backbone(name, head=head)


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
    images = torch.empty(1, 3, least, least, device="meta")
    assert all(0 not in m.shape for m in network.maps(images, list(network.stages)).values())
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
