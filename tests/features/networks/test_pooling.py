"""Poolings on maps worked by hand, their regions, and networks made of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from diffusion import DiffusionError
from features import MULTI_SCALE, RetrievalNetwork, backbone
from features.networks.pooling import (
    MAC,
    POOLINGS,
    RMAC,
    CroW,
    GeM,
    NeuralCodes,
    SPoC,
    grid_regions,
    make_pooling,
    region_maxima,
    rmac_regions,
)

pytestmark = pytest.mark.usefixtures("one_thread")

# One image, two channels, 2 x 3 cells.
MAPS = torch.tensor([[[[1.0, 2, 0], [0, 3, 0]], [[0.0, 0, 4], [0, 0, 0]]]], dtype=torch.float64)


def test_mac_and_spoc_by_hand():
    assert MAC()(MAPS).tolist() == [[3, 4]]
    torch.testing.assert_close(SPoC()(MAPS), torch.tensor([[1.0, 4 / 6]], dtype=torch.float64))


def test_crow_by_hand():
    # Sums over channels: [[1, 2, 4], [0, 3, 0]], of norm sqrt(30); shares 3/6 and 1/6.
    norm = math.sqrt(30)
    places = [math.sqrt(v / norm) for v in (1, 2, 4, 3)]
    first = 1 * places[0] + 2 * places[1] + 3 * places[3]
    second = 4 * places[2]
    expected = [first * math.log((4 / 6) / (3 / 6)), second * math.log((4 / 6) / (1 / 6))]
    np.testing.assert_allclose(CroW()(MAPS)[0].numpy(), expected, rtol=1e-12)


def test_crow_of_nothing_is_nothing_and_its_gradient_finite():
    maps = torch.zeros(2, 3, 4, 4)
    maps[1, 0, 2, 2] = 1.0
    maps[1, 2, 0, 0] = -1.0
    maps.requires_grad_()
    pooled = CroW()(maps)
    assert torch.equal(pooled[0], torch.zeros(3))
    pooled.sum().backward()
    assert torch.isfinite(maps.grad).all()


@pytest.mark.parametrize("p", [0.5, 1.0, 3.0, 7.5])
def test_gem_by_hand(p):
    means = [(1 + 2**p + 3**p + 3 * 1e-6**p) / 6, (4**p + 5 * 1e-6**p) / 6]
    pooled = GeM(p).double()(MAPS)
    np.testing.assert_allclose(pooled[0].numpy(), np.array(means) ** (1 / p), rtol=1e-7)


def test_gem_lies_between_spoc_and_mac():
    maps = torch.rand(3, 5, 4, 6, dtype=torch.float64) + 0.1
    torch.testing.assert_close(GeM(1.0).double()(maps), SPoC()(maps))
    torch.testing.assert_close(GeM(400.0).double()(maps), MAC()(maps), rtol=0.01, atol=0)


def test_gem_of_one_exponent_a_channel():
    pool = GeM(3.0, channels=2, learned=True).double()
    with torch.no_grad():
        pool.p[1] = 2.0
    expected = [GeM(3.0).double()(MAPS)[0, 0].item(), GeM(2.0).double()(MAPS)[0, 1].item()]
    np.testing.assert_allclose(pool(MAPS)[0].detach().numpy(), expected, rtol=1e-12)
    pool(MAPS).sum().backward()
    assert (pool.p.grad != 0).all()
    assert not GeM().p.requires_grad


def test_gems_exponent_has_the_gradient_of_its_equation():
    maps = torch.rand(2, 3, 3, 4, dtype=torch.float64) + 0.1
    pool = GeM(3.0, learned=True).double()
    assert torch.autograd.gradcheck(
        lambda p, x: torch.func.functional_call(pool, {"p": p}, (x,)),
        [pool.p.detach().clone().requires_grad_(), maps.requires_grad_()],
    )


def test_rmac_by_hand():
    # One scale on 2 x 3 cells: the whole, and two 2 x 2 squares from columns 0 and 1.
    parts = [MAPS, MAPS[..., :2], MAPS[..., 1:]]
    expected = sum(functional.normalize(part.amax(dim=(2, 3))) for part in parts)
    torch.testing.assert_close(RMAC(levels=1)(MAPS), expected)


def test_regions_of_rmac_worked_by_hand():
    # 4 x 6: squares of 4, two of which, 2 apart, overlap by half; three, 1 apart, by 3/4.
    assert rmac_regions(4, 6, levels=1).tolist() == [[0, 0, 4, 6], [0, 0, 4, 4], [0, 2, 4, 4]]
    # At scale 2 squares of 8/3, cut to 2: two rows, three columns.
    assert rmac_regions(4, 6, levels=2).tolist()[3:] == [
        [0, 0, 2, 2], [0, 2, 2, 2], [0, 4, 2, 2], [2, 0, 2, 2], [2, 2, 2, 2], [2, 4, 2, 2],
    ]  # fmt: skip
    # 5 x 15: five squares of 5, 2.5 apart, overlap by 0.5; four, 3.33 apart, by 0.33, nearer 0.4.
    assert [left for _, left, high, _ in rmac_regions(5, 15, levels=1).tolist()[1:]] == [
        0,
        3,
        6,
        10,
    ]


@pytest.mark.parametrize(
    ("height", "width", "count"),
    # A map of 3 : 4 has the 21 regions of the papers, a square one 1 + 1 + 4 + 9.
    [(24, 32, 21), (32, 24, 21), (20, 20, 15), (1, 1, 2), (2, 2, 15)],
)
def test_number_of_regions(height, width, count):
    assert len(rmac_regions(height, width)) == count


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 5))
def test_regions_of_rmac_are_squares_that_cover_the_map(height, width, levels):
    regions = rmac_regions(height, width, levels=levels)
    assert regions.dtype == np.int64
    assert regions[0].tolist() == [0, 0, height, width]
    assert (regions[1:, 2] == regions[1:, 3]).all()
    assert (regions[:, :2] >= 0).all()
    assert (regions[:, :2] + regions[:, 2:] <= [height, width]).all()
    assert set(regions[1:, 2]) == {
        s for s in (2 * min(height, width) // (level + 1) for level in range(1, levels + 1)) if s
    }
    if max(height, width) <= 4 * min(height, width):
        covered = np.zeros((height, width), bool)
        side = min(height, width)
        for top, left, high, wide in regions[1:]:
            if high == side:
                covered[top : top + high, left : left + wide] = True
        assert covered.all()
    turned = rmac_regions(width, height, levels=levels)
    assert {tuple(r) for r in turned[:, [1, 0, 3, 2]]} == {tuple(r) for r in regions}


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 9))
def test_grid_divides_the_map(height, width, cells):
    regions = grid_regions(height, width, cells=cells)
    covered = np.zeros((height, width), int)
    for top, left, high, wide in regions[1:]:
        covered[top : top + high, left : left + wide] += 1
    assert (covered == 1).all()
    assert len(regions) == 1 + min(cells, height) * min(cells, width)


def test_maxima_of_regions_by_hand():
    regions = np.array([[0, 0, 2, 3], [0, 0, 1, 2], [1, 1, 1, 2]])
    assert region_maxima(MAPS, regions)[0].tolist() == [[3, 4], [2, 0], [3, 0]]


@pytest.mark.parametrize(
    "regions",
    [
        [[0, 0, 3, 3]],
        [[-1, 0, 1, 1]],
        [[0, 0, 0, 1]],
        [[0, 3, 1, 1]],
        [[0, 0, 1]],
        np.empty((0, 4)),
    ],
)
def test_regions_outside_the_map_are_refused(regions):
    with pytest.raises(DiffusionError, match=r"^regions: .*2 x 3"):
        region_maxima(MAPS, np.array(regions))


def test_neural_codes_are_a_layers_activations():
    head = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.ReLU()).double()
    pool = NeuralCodes(head)
    expected = (MAPS.flatten(1) @ head[1].weight.T + head[1].bias).clamp(min=0)
    torch.testing.assert_close(pool(MAPS), expected)
    assert list(pool.parameters()) == []


@pytest.mark.parametrize("name", POOLINGS)
def test_every_pooling_pools_images_alone_and_keeps_their_number(name):
    maps = torch.rand(3, 4, 5, 7)
    pool = make_pooling(name, backbone("resnet18", head=False))
    pooled = pool(maps)
    assert pooled.shape == (3, 4)
    torch.testing.assert_close(pooled[1:2], pool(maps[1:2]))
    # Position does not matter but for the regions and CroW's weights, which turn with the map.
    if name != "rmac":
        torch.testing.assert_close(pool(maps.flip(3)), pooled)
    for bad in (maps[0], maps.int(), maps[:, :, :0]):
        with pytest.raises(DiffusionError, match=r"^maps:"):
            pool(bad)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: GeM(0), "p"),
        (lambda: GeM(3, channels=0), "channels"),
        (lambda: GeM(3, epsilon=-1), "epsilon"),
        (lambda: RMAC(0), "levels"),
        (lambda: rmac_regions(0, 3), "height"),
        (lambda: grid_regions(3, 3, cells=0), "cells"),
        (lambda: make_pooling("fc7", backbone("resnet18", head=False)), "pooling"),
    ],
)
def test_bad_parameters_are_named(make, name):
    with pytest.raises(DiffusionError, match=f"^{name}:"):
        make()


# --- networks ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trunk():
    return backbone("resnet18", classes=5)


def test_network_normalises_pools_and_whitens(trunk):
    x = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        pooled = trunk(x).amax(dim=(2, 3))
        pooled = pooled / pooled.norm(dim=1, keepdim=True)
        torch.testing.assert_close(RetrievalNetwork(trunk, "mac")(x), pooled)
        whiten = nn.Linear(512, 7)
        network = RetrievalNetwork(trunk, MAC(), whiten)
        expected = pooled @ whiten.weight.T + whiten.bias
        torch.testing.assert_close(network(x), expected / expected.norm(dim=1, keepdim=True))
        assert network.dimension == 7


@pytest.mark.parametrize(
    ("pooling", "dimension"),
    [("gem", 512), ("fc", 5), (nn.Sequential(nn.Flatten(), nn.LazyLinear(3)), 3)],
)
def test_dimension_of_a_network(trunk, pooling, dimension):
    network = RetrievalNetwork(trunk, pooling)
    assert network.dimension == dimension
    names = list(network.state_dict())
    assert len([name for name in names if name.endswith("fc.weight")]) == 1


def test_neural_codes_of_alexnet():
    network = RetrievalNetwork(backbone("alexnet", classes=2), "fc6")
    assert network.dimension == 4096
    assert network(torch.rand(1, 3, 70, 64)).shape == (1, 4096)


def test_several_scales_by_hand(trunk):
    x = torch.rand(1, 3, 96, 65)
    sizes = [(96, 65), (68, 46), (48, 33)]
    resized = [functional.interpolate(x, size, mode="bilinear") for size in sizes]
    with torch.no_grad():
        for network, p in (
            (RetrievalNetwork(trunk, "mac"), 1.0),
            (RetrievalNetwork(trunk, GeM(2.5)), 2.5),
            (RetrievalNetwork(trunk, GeM(2.5), nn.Linear(512, 4)), 1.0),
        ):
            mean = sum(network(image) ** p for image in resized) / 3
            expected = functional.normalize(mean ** (1 / p))
            torch.testing.assert_close(network.describe(x, MULTI_SCALE), expected)
            torch.testing.assert_close(network.describe(x), network(x))


def test_sides_of_a_scale_are_those_that_the_trunk_takes():
    network = RetrievalNetwork(backbone("mobilenet_v2", head=False))
    assert network.rescale(torch.rand(1, 3, 257, 225), 0.5).shape == (1, 3, 129, 97)


def test_regions_of_a_network_by_hand(trunk):
    network = RetrievalNetwork(trunk, "gem")
    x = torch.rand(2, 3, 128, 192)  # maps of 4 x 6
    with torch.no_grad():
        y, boxes = network.describe_regions(x, "grid")
        maps = trunk(x)
        assert y.shape == (2, 10, 512)
        torch.testing.assert_close(boxes[0], torch.tensor([0.0, 0, 1, 1]))
        torch.testing.assert_close(boxes[2], torch.tensor([0, 2 / 6, 1 / 4, 4 / 6]))
        part = maps[:, :, 0:1, 2:4].amax(dim=(2, 3))
        torch.testing.assert_close(y[:, 2], functional.normalize(part))
        # At half the size maps are 2 x 3: the box, rows 0 to 0.5 and columns 1 to 2.
        half = trunk(network.rescale(x, 0.5))
        assert half.shape[2:] == (2, 3)
        both = functional.normalize(part) + functional.normalize(
            half[:, :, :1, 1:2].amax(dim=(2, 3))
        )
        y, again = network.describe_regions(x, "grid", (1.0, 0.5))
        torch.testing.assert_close(y[:, 2], functional.normalize(both))
        torch.testing.assert_close(again, boxes)
    with pytest.raises(DiffusionError, match=r"^regions: .*'rmac'"):
        network.describe_regions(x, "none")


@pytest.mark.parametrize("scales", [(), "1", (0.5, 0), (9,), (math.nan,), 1.0])
def test_bad_scales_are_refused(trunk, scales):
    with pytest.raises(DiffusionError, match=r"^scales:"):
        RetrievalNetwork(trunk).describe(torch.rand(1, 3, 64, 64), scales)
