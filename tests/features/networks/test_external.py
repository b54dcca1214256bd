"""Trunks of torchvision and transformers: through stand-ins, and the real ones where installed."""

from __future__ import annotations

import importlib
import json
import re
import sys
import types
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from diffusion import DiffusionError
from features.networks.backbones import IMAGENET_MEAN, backbone, external
from features.networks.weights import load_into
from tests.support.hub import write_resnet
from tests.support.networks import disturbed


class Row(nn.Module):
    """A network with its trunk in `features`."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 6, 3, 2, 1))
        self.classifier = nn.Linear(6, 2)


class Children(nn.Module):
    """A network with its trunk among its children."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 4, 4)
        self.layer1 = nn.Conv2d(4, 8, 2, 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, 2)


class Vectors(nn.Module):
    """A network without maps."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Flatten()


@pytest.fixture
def torchvision(monkeypatch):
    kinds = {"row": Row, "children": Children, "vectors": Vectors}

    def get_model(name, weights=None):
        if name not in kinds:
            raise ValueError(f"Unknown model {name}")
        return kinds[name]()

    models = types.ModuleType("torchvision.models")
    models.get_model = get_model
    package = types.ModuleType("torchvision")
    package.models = models
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setitem(sys.modules, "torchvision.models", models)


def test_a_trunk_in_features(torchvision, tmp_path):
    network = backbone("torchvision:row", seed=1)
    assert network.name == "torchvision:row"
    assert (network.channels, network.stride, network.codes) == (6, 4, ())
    assert network.stages == {"0": (4, 2), "1": (4, 2), "2": (6, 4)}
    assert network.mean == IMAGENET_MEAN
    x = torch.rand(2, 3, 32, 40)
    inside = network.run
    torch.testing.assert_close(network(x), inside[2](inside[1](inside[0](x))))
    torch.testing.assert_close(network(x, "0"), inside[0](x))
    again = backbone("torchvision:row", seed=1)
    assert torch.equal(again.run[0].weight, inside[0].weight)

    other = Row()
    torch.save(other.state_dict(), tmp_path / "w.pth")
    loaded = backbone("torchvision:row", tmp_path / "w.pth")
    torch.testing.assert_close(loaded(x), other.features(x))


def test_a_trunk_among_the_children(torchvision):
    network = backbone("torchvision:children", mean=(0, 0, 0))
    assert network.stages == {"stem": (4, 4), "layer1": (8, 8)}
    assert network(torch.rand(1, 3, 64, 32)).shape == (1, 8, 8, 4)
    assert network.mean == (0, 0, 0)


@pytest.mark.parametrize("name", ["vectors", "unknown"])
def test_what_has_no_maps_is_refused(torchvision, name):
    with pytest.raises(DiffusionError, match=rf"^name: .*{name}"):
        backbone(f"torchvision:{name}")


@pytest.mark.parametrize(("name", "package"), [("torchvision:a", "torchvision"), ("hf:a", "trans")])
def test_what_is_not_installed_is_named(monkeypatch, name, package):
    for module in ("torchvision", "torchvision.models", "transformers"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DiffusionError, match=f"^name: expected {package}.*installed"):
        backbone(name)


class Stages(nn.Module):
    """What transformers' AutoBackbone gives: maps of the stages asked for."""

    def __init__(self, wanted=()):
        super().__init__()
        self.wanted = wanted
        self.layers = nn.ModuleDict(
            OrderedDict(stem=nn.Conv2d(3, 4, 2, 2), stage1=nn.Conv2d(4, 5, 2, 2))
        )

    def forward(self, pixel_values):
        maps, found = pixel_values, []
        for name, layer in self.layers.items():
            maps = layer(maps)
            if name in self.wanted:
                found.append(maps)
        return types.SimpleNamespace(feature_maps=tuple(found))

    @classmethod
    def from_pretrained(cls, name, out_features, local_files_only, output_loading_info):
        assert name in ("folder", "bare", "headless")
        assert not local_files_only
        assert output_loading_info
        missing = {"stages.0.weight"} if name == "headless" else set()
        return cls(out_features), {"missing_keys": missing, "unexpected_keys": {"classifier.bias"}}


def test_a_backbone_of_transformers(monkeypatch):
    class AutoConfig:
        @staticmethod
        def from_pretrained(name, local_files_only, trust_remote_code):
            assert not trust_remote_code
            if name == "absent" or local_files_only:
                raise OSError(f"{name} is not a local folder")
            return types.SimpleNamespace(stage_names=["stem", "stage1"])

    class AutoBackbone:
        @staticmethod
        def from_config(config):
            assert config.stage_names == ["stem", "stage1"]
            return Stages()

    class AutoImageProcessor:
        @staticmethod
        def from_pretrained(name, local_files_only, trust_remote_code):
            assert not trust_remote_code
            if name == "bare":
                raise OSError("no preprocessor_config.json")
            return types.SimpleNamespace(image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6])

    package = types.ModuleType("transformers")
    package.AutoConfig, package.AutoBackbone = AutoConfig, AutoBackbone
    package.AutoImageProcessor = AutoImageProcessor
    monkeypatch.setitem(sys.modules, "transformers", package)
    monkeypatch.setattr(external, "_is_to_download", lambda name: True)
    network = backbone("hf:folder")
    assert network.stages == {"stage1": (5, 4)}
    assert network.mean == (0.1, 0.2, 0.3)
    assert network(torch.rand(1, 3, 32, 64)).shape == (1, 5, 8, 16)
    assert backbone("hf:bare").mean == IMAGENET_MEAN
    with pytest.raises(DiffusionError, match=r"^name: 'absent' .*not a local folder"):
        backbone("hf:absent")
    with pytest.raises(DiffusionError, match=r"^name: 'headless' .*no weights of stages.0.weight"):
        backbone("hf:headless")
    with pytest.raises(DiffusionError, match=r"^weights:"):
        backbone("hf:folder", "w.pth")
    with pytest.raises(DiffusionError, match=r"^name: expected hf:folder on this .*--allow-down"):
        backbone("hf:folder", allow_download=False)


@pytest.fixture
def transformers(monkeypatch):
    """The library itself, which must not ask for anything on the network."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # read when it is first imported
    return importlib.import_module("transformers")


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("name", "layer", "sizes", "depths"),
    [
        ("resnet18", "basic", [64, 128, 256, 512], [2, 2, 2, 2]),
        ("resnet50", "bottleneck", [256, 512, 1024, 2048], [3, 4, 6, 3]),
    ],
)
def test_resnets_equal_those_of_transformers(transformers, name, layer, sizes, depths):
    config = transformers.ResNetConfig(hidden_sizes=sizes, depths=depths, layer_type=layer)
    theirs = disturbed(transformers.ResNetModel(config))
    names = (
        (r"^embedder\.embedder\.convolution", "conv1"),
        (r"^embedder\.embedder\.normalization", "bn1"),
        (r"^encoder\.stages\.(\d)\.layers\.", lambda found: f"layer{int(found[1]) + 1}."),
        (r"layer\.(\d)\.convolution", lambda found: f"conv{int(found[1]) + 1}"),
        (r"layer\.(\d)\.normalization", lambda found: f"bn{int(found[1]) + 1}"),
        (r"shortcut\.convolution", "downsample.0"),
        (r"shortcut\.normalization", "downsample.1"),
    )
    state = {}
    for key, value in theirs.state_dict().items():
        for old, new in names:
            key = re.sub(old, new, key)
        state[key] = value
    ours = backbone(name, head=False)
    load_into(ours, state, "theirs")
    x = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        got, expected = ours(x), theirs(x).last_hidden_state
    torch.testing.assert_close(got / expected.max(), expected / expected.max(), rtol=0, atol=1e-5)


def test_a_small_model_of_transformers_itself(transformers, tmp_path):
    config = transformers.ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16],
        depths=[1, 1],
        layer_type="basic",
        out_features=["stage2"],
    )
    model = transformers.ResNetBackbone(config).eval()
    model.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps(
            {
                "image_processor_type": "ConvNextImageProcessor",
                "image_mean": [0.1, 0.2, 0.3],
                "image_std": [0.4, 0.5, 0.6],
            }
        )
    )
    network = backbone(f"hf:{tmp_path}")
    x = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(network(x), model(x).feature_maps[-1])
    assert list(network.stages) == ["stage1", "stage2"]
    assert network.stages["stage2"] == (16, 8)


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
def test_what_is_here_asks_for_nothing(transformers, tmp_path, monkeypatch, weights):
    """Not even the hub's client, which tells the hub of itself and asks what it may tell."""
    write_resnet(tmp_path / "models--some--model" / "snapshots" / "0")
    if weights != "model.safetensors":
        written = tmp_path / "models--some--model" / "snapshots" / "0" / "model.safetensors"
        torch.save(load_file(written), written.with_name(weights))
        written.unlink()
    (tmp_path / "models--some--model" / "refs").mkdir()
    (tmp_path / "models--some--model" / "refs" / "main").write_text("0")
    hub = importlib.import_module("huggingface_hub")
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub.constants, "AGENT_HARNESSES_PATH", str(tmp_path / "a"), raising=False)
    client = importlib.import_module("huggingface_hub.utils._detect_agent")
    monkeypatch.setattr(client, "_registry", None)
    asked = []
    monkeypatch.setattr("socket.getaddrinfo", lambda *where, **_: asked.append(where) or [])
    for allow in (False, True):
        assert backbone("hf:some/model", allow_download=allow).channels == 16
    assert backbone(f"hf:{tmp_path / 'models--some--model' / 'snapshots' / '0'}").channels == 16
    assert asked == []
    assert not hub.constants.HF_HUB_OFFLINE


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "vgg11"])
def test_networks_of_torchvision_itself(name):
    models = pytest.importorskip("torchvision.models")
    network = backbone(f"torchvision:{name}", seed=2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        theirs = models.get_model(name, weights=None).eval()
    x = torch.rand(1, 3, 96, 64)
    with torch.no_grad():
        if hasattr(theirs, "features"):
            torch.testing.assert_close(network(x), theirs.features(x))
        else:
            pooled = network(x).mean(dim=(2, 3))
            torch.testing.assert_close(theirs.fc(pooled), theirs(x))
