"""Receptive fields: against the pixels that change a cell, and against published sizes."""

from __future__ import annotations

import types

import pytest
import torch
from torch import nn
from torch.nn import functional

import features
from diffusion import DiffusionError
from features.inspection.receptive_field import ReceptiveField
from features.networks.backbones import external
from features.networks.backbones.base import Backbone, Sides, Stage
from features.networks.fusing import fused
from tests.support.hub import write_resnet

pytestmark = pytest.mark.usefixtures("one_thread")


class Chain(Backbone):
    """A trunk of one module."""

    name, last, sides = "chain", "all", Sides(1)

    def __init__(self, module, stride=1):
        super().__init__()
        self.module, self.stages = module, {"all": Stage(4, stride)}

    def _steps(self):
        yield "all", self.module


def positive(network):
    """Make weights positive and biases 0, so that a black image has the activations 0.

    A lighter pixel then changes exactly the cells that depend on it: nothing cancels, and it wins
    every maximum.
    """
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.fill_(1 / parameter[0].numel())
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()
            if getattr(module, "bias", None) is not None:
                module.bias.data.zero_()
    return network.eval()


@torch.no_grad()
def depends(network, stage, pixels, shape, cell):
    """Return whether a cell depends on each of some pixels (row, column) of an image."""
    images = torch.zeros(len(pixels), 3, *shape)
    for image, (row, column) in zip(images, pixels, strict=True):
        image[:, row, column] = 1
    maps = network.maps(images, [stage])[stage]
    return maps[:, :, cell[0], cell[1]].ne(0).any(dim=1).tolist()


def check(network, stage, thin):
    """Compare the edges of a field with the pixels that matter, along both axes."""
    network = positive(network)
    field = features.receptive_field(network, stage)
    assert field.stride == (network.stages[stage].stride,) * 2
    for axis in (0, 1):
        stride = field.stride[axis]
        cell = [0, 0]
        cell[axis] = -(-(2 - field.offset[axis]) // stride)
        left, top, right, bottom = field.box(*cell)
        first, last = ((top, bottom - 1), (left, right - 1))[axis]
        assert first > 0
        shape, across = [thin, thin], (left, top)[axis] // 2 + (right, bottom)[axis] // 2
        shape[axis] = max(thin, last + 2)
        places = [first - 1, first, (first + last) // 2, last, last + 1]
        pixels = [(p, across) if axis == 0 else (across, p) for p in places]
        assert depends(network, stage, pixels, shape, cell) == [False, True, True, True, False]


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("alexnet", ["conv1", "pool1", "conv2", "conv5", "pool5"]),
        ("resnet18", ["pool1", "layer1", "layer3"]),
        ("resnet50", ["layer1"]),
        ("mobilenet_v2", ["block0", "block1", "block3", "block13"]),
    ],
)
def test_the_edges_are_the_pixels_that_matter(name, stages):
    network = features.backbone(name, head=False)
    for stage in stages:
        check(network, stage, 65)


@pytest.mark.parametrize(
    ("name", "stage", "size", "stride"),
    [
        ("alexnet", "pool5", 195, 32),
        ("vgg16", "pool5", 212, 32),
        ("resnet50", None, 427, 32),
    ],
)
def test_published_sizes(name, stage, size, stride):
    field = features.receptive_field(features.backbone(name, head=False), stage)
    assert (field.size, field.stride) == ((size, size), (stride, stride))


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.Conv2d(3, 4, (3, 5), padding=(1, 0)), ((3, 5), (1, 1), (-1, 0))),
        (nn.Conv2d(3, 4, 3, dilation=(1, 3), stride=(2, 1)), ((3, 7), (2, 1), (0, 0))),
        (nn.Conv2d(3, 4, 4, padding="same"), ((4, 4), (1, 1), (-1, -1))),
        (nn.Conv2d(3, 4, 4, padding="valid"), ((4, 4), (1, 1), (0, 0))),
        (nn.Sequential(nn.ZeroPad2d((2, 0, 1, 3)), nn.Conv2d(3, 4, 2)), ((2, 2), (1, 1), (-1, -2))),
        (nn.Sequential(nn.AvgPool2d(3, 2, 1), nn.MaxPool2d(2)), ((5, 5), (4, 4), (-1, -1))),
        (nn.MaxPool2d(2, stride=1, dilation=3), ((4, 4), (1, 1), (0, 0))),
    ],
)
def test_layers_by_hand(module, expected):
    assert features.receptive_field(Chain(module)) == ReceptiveField(*expected)


class Branches(nn.Module):
    """A narrow and a wide branch, joined in one of several ways."""

    def __init__(self, join, stride=1):
        super().__init__()
        self.narrow, self.wide = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 7, stride, 3)
        self.join = join

    def forward(self, x):
        one, two = functional.relu(self.narrow(x)), self.wide(x)
        if self.join == "cat":
            return torch.cat([one, two], 1)
        return one + two if self.join == "add" else one.mul(two)


@pytest.mark.parametrize("join", ["cat", "add", "mul"])
def test_branches_see_the_box_around_both(join):
    field = features.receptive_field(Chain(Branches(join)))
    assert field == ReceptiveField((7, 7), (1, 1), (-3, -3))


class Unknown(nn.Module):
    """A layer that no rule is known of, with windows of 3 x 3 and stride 2."""

    def __init__(self):
        super().__init__()
        self.inside = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.relu = nn.ReLU()

    def forward(self, x):
        return -self.relu(self.inside(x))


class Several(nn.Module):
    """A backbone in the manner of transformers, which returns all maps at once."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 4, 7, 2, 3), nn.BatchNorm2d(4), nn.MaxPool2d(3, 2, 1)
        )
        self.block = nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, (3, 5), 2, (1, 2)))

    def forward(self, pixel_values):
        one = self.stem(pixel_values)
        return types.SimpleNamespace(feature_maps=(one, self.block(one)))


def test_networks_without_a_rule_are_measured():
    field = features.receptive_field(Chain(Unknown(), 2))
    assert field == ReceptiveField((3, 3), (2, 2), (-1, -1))
    network = external._Hub("hf:x", Several(), {"one": Stage(4, 4), "two": Stage(4, 8)}).eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert features.receptive_field(network, "one") == ReceptiveField((11, 11), (4, 4), (-5, -5))
    assert features.receptive_field(network) == ReceptiveField((19, 27), (8, 8), (-9, -13))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.slow
def test_a_network_of_transformers_is_measured(tmp_path):
    pytest.importorskip("transformers")
    write_resnet(tmp_path)
    network = features.backbone(f"hf:{tmp_path}")
    # 7 + 2 pixels for the stem, 2 x 2 cells of 4 pixels and 1 x 2 of 4 and of 8 for the blocks.
    sizes = [features.receptive_field(network, stage).size[0] for stage in network.stages]
    assert sizes == [7 + 4 + 16, 7 + 4 + 16 + 8 + 16]
    assert features.receptive_field(network).offset == (-25, -25)


class Global(nn.Module):
    def forward(self, x):
        return x * functional.adaptive_avg_pool2d(x, 1)


def test_units_that_see_the_whole_image_have_no_field():
    with pytest.raises(DiffusionError, match="sees the whole image"):
        features.receptive_field(Chain(Global()))


def test_a_fused_network_has_the_same_field():
    network = features.RetrievalNetwork(features.backbone("resnet18", head=False))
    assert features.receptive_field(fused(network)) == features.receptive_field(network)


def test_boxes():
    field = ReceptiveField((5, 7), (2, 3), (-1, -2))
    assert field.box(0, 0) == (-2, -1, 5, 4)
    assert field.box(3, 2) == (4, 5, 11, 10)
    boxes = field.boxes([[0, 0], [3, 2]], (8, 9))
    assert boxes.tolist() == [[0, 0, 5, 4], [4, 5, 9, 8]]


@pytest.mark.parametrize(
    ("network", "layer", "message"),
    [
        (Chain(nn.ReLU()), "none", "layer: expected one of 'all', got 'none'"),
        (nn.ReLU(), None, "network: expected a Backbone or a RetrievalNetwork, got ReLU"),
    ],
)
def test_bad_arguments(network, layer, message):
    with pytest.raises(DiffusionError, match=message):
        features.receptive_field(network, layer)
