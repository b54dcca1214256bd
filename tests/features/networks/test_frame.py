"""Frames of maps in images, and maps cut out of mirrored surroundings."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from diffusion import DiffusionError
from features import backbone
from features.networks import parts
from features.networks.frame import Frame, FramedTrunk, mirrored


def test_frame_there_and_back():
    frame = Frame(32, -15.5, -8.0)
    boxes = np.array([[1.0, 2, 3, 4]])
    assert frame.to_pixels(boxes).tolist() == [[16.5, 56, 80.5, 120]]
    np.testing.assert_allclose(frame.to_cells(frame.to_pixels(boxes)), boxes)


@pytest.mark.parametrize(("length", "pad"), [(5, 3), (5, 4), (2, 7), (1, 2)])
def test_mirroring_goes_on_as_long_as_it_takes(length, pad):
    expected = np.pad(np.arange(length), pad, mode="reflect" if length > 1 else "edge")
    assert mirrored(length, pad).tolist() == expected.tolist()


def test_maps_are_those_of_the_surrounded_image():
    network = nn.Conv2d(3, 4, 3, stride=2, padding=1)
    images = torch.rand(2, 3, 9, 13)
    with torch.no_grad():
        whole = network(
            torch.from_numpy(np.pad(images, ((0, 0), (0, 0), (4, 4), (4, 4)), "reflect"))
        )
        cut = FramedTrunk(network, 2, margin=2)(images)
        plain = FramedTrunk(network, 2, margin=0)(images)
        torch.testing.assert_close(cut, whole[:, :, 2:-2, 2:-2])
        torch.testing.assert_close(plain, network(images))
        assert cut.shape == plain.shape
        # Away from the border nothing has changed.
        torch.testing.assert_close(cut[:, :, 1:-1, 1:-1], plain[:, :, 1:-1, 1:-1])


@pytest.mark.parametrize(
    ("name", "side", "cells", "first", "stride"),
    [
        ("mobilenet_v2", 513, 17, 0.0, 32),
        ("resnet18", 512, 16, 0.0, 32),
        ("vgg16", 512, 32, 7.5, 16),
    ],
)
def test_cells_lie_where_the_network_looks(name, side, cells, first, stride):
    """Cells are `stride` apart, the first centred on pixel `first`, by the kernels' arithmetic."""
    with torch.device("meta"):  # no weight is needed
        trunk = backbone(name, head=False)
    frame = FramedTrunk(trunk).frame((side, side), (cells, cells))
    centre = frame.to_pixels(np.array([[0.5, 0.5, 1.5, 1.5]]))[0]
    # Pixel i covers [i, i + 1).
    np.testing.assert_allclose(
        centre - 0.5, [first, first, first + stride, first + stride], atol=0.01
    )


def test_border_artefacts_go(rng):
    """On an image of one colour every cell is alike, which zero padding spoils."""
    network = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1))
    images = torch.full((1, 3, 33, 33), 0.7)
    with torch.no_grad():
        framed, plain = FramedTrunk(network, 4)(images), network(images)
    torch.testing.assert_close(framed, framed[:, :, :1, :1].expand_as(framed))
    assert (plain[:, :, 0] - plain[:, :, 4]).abs().max() > 1e-3


def test_maps_of_two_stages_are_cut_alike(rng):
    """A map of half the stride has the pixels of the mirrored border cut off like the last one."""
    network = backbone("mobilenet_v2", seed=3, head=False).eval()
    images = torch.rand(2, 3, 65, 97)
    framed = FramedTrunk(network, margin=2)
    with torch.inference_mode():
        maps = framed.maps(images, [network.fine, network.last])
        whole = network.maps(
            torch.from_numpy(np.pad(images, ((0, 0), (0, 0), (64, 64), (64, 64)), "reflect")),
            [network.fine, network.last],
        )
        torch.testing.assert_close(maps[network.fine], whole[network.fine][:, :, 4:-4, 4:-4])
        torch.testing.assert_close(maps[network.last], framed(images))
        seen = framed.activations(images)[1]
    assert seen.maps.shape == (1280, 3, 4)
    assert seen.fine is not None
    assert seen.fine.shape == (576, 5, 7)
    assert seen.frame == Frame(32, -15.5, -15.5)
    assert seen.fine_frame == Frame(16, -7.5, -7.5)
    np.testing.assert_allclose(seen.fine, maps[network.fine][1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "fine"),
    [("resnet18", "layer3"), ("vgg16", "conv4_3"), ("alexnet", "conv2")],
)
def test_the_fine_stage_is_the_last_of_half_the_stride(name, fine):
    with torch.device("meta"):
        network = backbone(name, head=False)
    assert network.fine == fine
    assert 2 * network.stages[fine].stride == network.stride


def test_parts_of_a_batch_give_the_rows_of_the_batch(monkeypatch):
    monkeypatch.setattr(parts, "PART_PIXELS", 3 * 9 * 5)
    network, sizes = nn.Conv2d(3, 4, 3), []

    def call(images):
        sizes.append(len(images))
        return network(images), images.sum(dim=(1, 2, 3))

    images = torch.rand(7, 3, 9, 5)
    with torch.no_grad():
        maps, sums = parts.in_parts(call, images)
        torch.testing.assert_close(maps, network(images))
    torch.testing.assert_close(sums, images.sum(dim=(1, 2, 3)))
    assert sizes == [3, 3, 1]


def test_bad_input_is_named():
    with pytest.raises(DiffusionError, match="expected a Backbone"):
        FramedTrunk(nn.Identity(), 1).maps(torch.rand(1, 3, 9, 9), ["a"])
    with pytest.raises(DiffusionError, match="stride"):
        FramedTrunk(nn.Identity())
    with pytest.raises(DiffusionError, match="margin"):
        FramedTrunk(nn.Identity(), 1, margin=-1)
    with pytest.raises(DiffusionError, match="is the stride"):
        FramedTrunk(nn.Conv2d(3, 1, 9, 9), 1)(torch.rand(1, 3, 20, 20))
