"""Nodes of single photos."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffusion import DiffusionError
from features.networks.frame import Frame, ImageActivations
from features.objects import maps
from features.objects.egm import EGM
from features.objects.nodes import find_nodes
from features.objects.patches import CellWhitening, cells_in, patch_maxima
from features.settings import DiscoverySettings, EGMSettings
from tests.support.activations import recurring_blobs


@pytest.fixture(scope="module")
def A():  # noqa: N802
    return recurring_blobs(n_images=2)[0][1]


@pytest.mark.parametrize("patch", [1, 3, 5])
def test_dense_nodes_are_every_second_strong_cell(A, patch):
    nodes = find_nodes(torch.from_numpy(A), DiscoverySettings(patch=patch))
    F = maps.feature_saliency(A)
    expected = [
        (y, x)
        for y in range(0, F.shape[0], 2)
        for x in range(0, F.shape[1], 2)
        if F[y, x] >= 0.4 * F.max()
    ]
    assert len(nodes.cells) == len(expected) > 3
    reach = patch // 2
    for (y, x), cell, f, v in zip(
        expected, nodes.cells, nodes.saliency, nodes.vectors, strict=True
    ):
        top, left = max(0, y - reach), max(0, x - reach)
        bottom, right = min(F.shape[0], y + reach + 1), min(F.shape[1], x + reach + 1)
        assert cell.tolist() == [top, left, bottom - top, right - left]
        assert f == F[y, x]
        np.testing.assert_array_equal(v, A[:, top:bottom, left:right].max(axis=(1, 2)))
    assert nodes.cells.dtype == np.int64
    assert nodes.vectors.dtype == nodes.saliency.dtype == np.float32
    assert nodes.fine.shape == (0, 0)


def test_what_lies_between_the_grid_is_one_node():
    A = np.zeros((5, 6, 7), np.float32)
    A[:, 3, 5] = 1
    nodes = find_nodes(A, DiscoverySettings(patch=1))
    assert nodes.cells.tolist() == [[3, 5, 1, 1]]
    assert nodes.vectors.tolist() == [[1] * 5]


@pytest.mark.parametrize("kind", ["dense", "regions"])
def test_nothing_salient_gives_no_node(kind):
    nodes = find_nodes(np.zeros((5, 4, 3)), DiscoverySettings(nodes=kind))
    assert nodes.cells.shape == (0, 4)
    assert nodes.saliency.shape == (0,)
    assert nodes.vectors.shape == (0, 5)


def test_regions_are_those_of_feature_saliency(A):
    egm = EGMSettings(exponent=4.0, threshold=0.3)
    found = find_nodes(A, DiscoverySettings(nodes="regions", feature_egm=egm))
    F = maps.feature_saliency(A)
    np.testing.assert_array_equal(found.cells, EGM(exponent=4.0, threshold=0.3).regions(F).cells())
    for (top, left, h, w), f, v in zip(found.cells, found.saliency, found.vectors, strict=True):
        inside = np.s_[top : top + h, left : left + w]
        assert f == pytest.approx(F[inside].mean(), rel=1e-5)
        np.testing.assert_array_equal(v, A[:, *inside].max(axis=(1, 2)))


def test_the_sample_of_fine_cells_is_fixed_by_the_shape(A, rng):
    frames = Frame(32, -16, -16), Frame(16, -16, -16)
    fine = rng.standard_normal((6, 5, 8)).astype(np.float32)  # negative values are allowed
    settings = DiscoverySettings()
    sample = find_nodes(ImageActivations(A, frames[0], fine, frames[1]), settings).fine
    assert sample.shape == (12, 6)
    cells = {tuple(cell) for cell in fine.reshape(6, -1).T}
    assert len({tuple(row) for row in sample} & cells) == 12
    twice = find_nodes(ImageActivations(A, frames[0], 2 * fine, frames[1]), settings).fine
    np.testing.assert_array_equal(twice, 2 * sample)
    few = find_nodes(ImageActivations(A, frames[0], fine[:, :2, :3], frames[1]), settings).fine
    assert len(few) == 6
    without = find_nodes(ImageActivations(A, frames[0]), settings)
    assert without.fine.shape == (0, 0)


def test_bad_activations_are_named(A):
    frame = Frame(32, -16, -16)
    fine = np.full((3, 4, 4), np.nan, np.float32)
    for bad in (A[0], -A, ImageActivations(-A, frame), ImageActivations(A, frame, fine, frame)):
        with pytest.raises(DiffusionError, match=r"^activations: "):
            find_nodes(bad, DiscoverySettings())


@pytest.mark.parametrize("patch", [1, 3, 7])
def test_patch_maxima_equal_loops(rng, patch):
    A = rng.random((3, 4, 6)).astype(np.float32)
    reach = patch // 2
    found = patch_maxima(A, patch)
    for y, x in np.ndindex(4, 6):
        window = A[:, max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
        np.testing.assert_array_equal(found[:, y, x], window.max(axis=(1, 2)))


def test_cells_are_whitened_as_vectors_are(A):
    from features.description.whitening import learn_pca

    whitening = learn_pca(A.reshape(len(A), -1).T).reduced(9)
    expected = whitening.apply(A.reshape(len(A), -1).T).reshape(*A.shape[1:], 9)
    np.testing.assert_allclose(CellWhitening(whitening).grid(A), expected, atol=1e-4)


def test_cells_in_boxes_have_their_centres_in_them():
    boxes = np.array(
        [[0.6, 1.4, 2.6, 3.4], [-5, -5, 0.2, 0.2], [3, 2, 99, 99], [2.1, 1.1, 2.2, 1.2]]
    )
    expected = [[1, 1, 2, 2], [0, 0, 1, 1], [2, 3, 2, 1], [1, 2, 1, 1]]
    assert cells_in(boxes, (4, 4)).tolist() == expected
