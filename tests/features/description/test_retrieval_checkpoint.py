"""Checkpoints in the layout of cnnimageretrieval-pytorch, made here from its description."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from diffusion import DiffusionError
from features import backbone, load_retrieval

pytestmark = pytest.mark.usefixtures("one_thread")


class Pool(nn.Module):
    def __init__(self, p):
        super().__init__()
        self.p = nn.Parameter(torch.tensor(p))

    def forward(self, maps):
        means = maps.clamp(min=1e-6).pow(self.p.view(1, -1, 1, 1)).mean(dim=(2, 3))
        return means.pow(1 / self.p)


class Theirs(nn.Module):
    """The layout: trunk as a row of children, pooling, whitening."""

    def __init__(self, architecture, pooling, whitening):
        super().__init__()
        trunk = backbone(architecture, head=False)
        row = list(trunk.features.children())[:-1] if hasattr(trunk, "features") else [
            trunk.conv1, trunk.bn1, nn.ReLU(), trunk.maxpool,
            trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4,
        ]  # fmt: skip
        self.features = nn.Sequential(*row)
        if pooling == "gem":
            self.pool = Pool([2.7])
        elif pooling == "gemmp":
            self.pool = Pool(torch.linspace(1, 4, trunk.channels).tolist())
        else:
            self.pool = nn.AdaptiveMaxPool2d(1)
        self.whiten = nn.Linear(trunk.channels, 16) if whitening else None
        self.meta = {
            "architecture": architecture,
            "local_whitening": False,
            "pooling": pooling,
            "regional": False,
            "whitening": whitening,
            "mean": [0.4, 0.5, 0.6],
            "std": [0.2, 0.3, 0.4],
            "outputdim": 16 if whitening else trunk.channels,
        }

    def forward(self, x):
        y = self.pool(self.features(x)).flatten(1)
        y = y / (y.norm(dim=1, keepdim=True) + 1e-6)
        if self.whiten is not None:
            y = self.whiten(y)
            y = y / (y.norm(dim=1, keepdim=True) + 1e-6)
        return y


@pytest.mark.parametrize(
    ("architecture", "pooling", "whitening"),
    [
        ("resnet18", "gem", True),
        ("resnet50", "gem", False),
        ("resnet18", "gemmp", True),
        ("alexnet", "mac", True),
        ("vgg16", "gem", False),
    ],
)
def test_network_equals_theirs(architecture, pooling, whitening, tmp_path):
    theirs = Theirs(architecture, pooling, whitening).eval()
    rng = np.random.default_rng(0)
    learned = {"m": rng.standard_normal((16, 1)), "P": rng.standard_normal((16, 16))}
    theirs.meta["Lw"] = {"retrieval-SfM-120k": {"ss": learned, "ms": learned}}
    torch.save({"meta": theirs.meta, "state_dict": theirs.state_dict()}, tmp_path / "net.pth")
    network, whitenings = load_retrieval(tmp_path / "net.pth")
    x = torch.rand(2, 3, 80, 64)
    with torch.no_grad():
        torch.testing.assert_close(network(x), theirs(x), rtol=1e-4, atol=1e-5)
    assert network.dimension == theirs.meta["outputdim"]
    assert (network.backbone.mean, network.backbone.std) == ((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
    assert not network.training
    assert set(whitenings) == {"retrieval-SfM-120k/ss", "retrieval-SfM-120k/ms"}
    y = rng.standard_normal((3, 16)).astype(np.float32)
    y /= np.linalg.norm(y, axis=1, keepdims=True)
    expected = (y - learned["m"].T) @ learned["P"].T
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    got = whitenings["retrieval-SfM-120k/ms"].apply(y)
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_rmac_is_known_too(tmp_path):
    theirs = Theirs("resnet18", "rmac", False)
    torch.save({"meta": theirs.meta, "state_dict": theirs.state_dict()}, tmp_path / "net.pth")
    network, whitenings = load_retrieval(tmp_path / "net.pth")
    assert type(network.pool).__name__ == "RMAC"
    assert whitenings == {}


@pytest.fixture(scope="module")
def theirs():
    return Theirs("resnet18", "gem", True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("meta"), "whose meta names"),
        (lambda c: c["meta"].update(architecture="densenet121"), "densenet121"),
        (lambda c: c["meta"].update(pooling="netvlad"), "netvlad"),
        (lambda c: c["meta"].update(regional=True), "without regional"),
        (lambda c: c["meta"].update(local_whitening=True), "without local_whitening"),
        (lambda c: c["meta"].update(mean=[1]), "meta: mean"),
        (lambda c: c["meta"].update(whitening=False), "unknown: whiten"),
        (lambda c: c["meta"].update(Lw={"a": {"ss": 1}}), "meta: Lw"),
        (lambda c: c["state_dict"].pop("pool.p"), "missing: pool.p"),
        (lambda c: c["state_dict"].update({"features.9.w": torch.zeros(1)}), "unknown: features.9"),
    ],
)
def test_what_does_not_fit_is_refused(theirs, change, message, tmp_path):
    content = {"meta": dict(theirs.meta), "state_dict": dict(theirs.state_dict())}
    change(content)
    torch.save(content, tmp_path / "net.pth")
    with pytest.raises(DiffusionError, match=rf"net\.pth: .*{message}"):
        load_retrieval(tmp_path / "net.pth")
