"""Object discovery on activation maps, against loops, dense solves and values by hand."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch

import diffusion
from diffusion import DiffusionError
from features.networks.frame import Frame, ImageActivations
from features.objects import collection as learning
from features.objects import lookup, maps
from features.objects.border import border_prior
from features.objects.boxes import clipped
from features.objects.discovery import ObjectDiscovery
from features.objects.nodes import ImageNodes, find_nodes
from features.objects.walk import resampled, walk
from features.settings import DiscoverySettings
from tests.support.activations import recurring_blobs
from tests.support.oracles import dense_diffusion, dense_graph

PAPER = {
    "nodes": "regions",
    "centrality": "katz",
    "beta": 3.0,
    "feature_exponent": 2.0,
    "region_exponent": 3.0,
}
COARSE, FINE = Frame(32.0, -16.0, -16.0), Frame(16.0, -16.0, -16.0)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Keep torch to one thread: on a busy machine small maps wait long for the others."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def collection():
    return recurring_blobs()


@pytest.fixture(scope="module")
def nodes(collection):
    return [find_nodes(A, DiscoverySettings()) for A in collection[0]]


@pytest.fixture(scope="module")
def small():
    """Return a few images with few channels, and what was learned from them."""
    A = recurring_blobs(n_images=12, n_objects=3)[0][:, :24]
    settings = DiscoverySettings(dimension=6, k=4, neighbors=3, centrality="katz")
    return A, ObjectDiscovery(settings).fit(iter(A))


@pytest.fixture(scope="module")
def framed():
    """Return images with a fine map, here the coarse one at twice the resolution, and all that."""
    A = recurring_blobs(n_images=12, n_objects=3)[0][:, :24, :9, :11]
    fine = [a[:16].repeat(2, axis=1).repeat(2, axis=2) for a in A]
    images = [ImageActivations(a, COARSE, b, FINE) for a, b in zip(A, fine, strict=True)]
    return images, ObjectDiscovery(DiscoverySettings(dimension=6, k=4)).fit(images)


def precision(saliencies, boxes):
    return np.array(
        [maps.localisation_precision(S, b, 1, 0) for S, b in zip(saliencies, boxes, strict=True)]
    )


# --- what it is for -------------------------------------------------------------------------------


@pytest.mark.parametrize(("settings", "bar"), [(PAPER, 0.40), ({}, 0.85)])
def test_what_recurs_is_salient(collection, nodes, settings, bar):
    A, boxes = collection
    feature = precision(map(maps.feature_saliency, A), boxes)
    assert feature.mean() < 0.10
    discovery = ObjectDiscovery(DiscoverySettings(dimension=64, **settings))
    discovery = discovery.fit(A) if settings else discovery.fit_nodes(nodes)
    peaks, whole = zip(*(discovery.maps(a, i) for i, a in enumerate(A)), strict=True)
    assert precision(peaks, boxes).mean() >= bar
    for objects in (peaks, whole):
        assert (precision(objects, boxes) > feature).mean() >= 0.95


def test_new_images_need_no_refitting(collection, nodes):
    A, boxes = (part[64:] for part in collection)
    discovery = ObjectDiscovery(DiscoverySettings(dimension=64)).fit_nodes(nodes[:64])
    peaks = [discovery.peaks(a) for a in A]
    assert precision(peaks, boxes).mean() >= 0.85
    # The first region of most is on the object.
    hits = 0
    for S, ((left, top, right, bottom),) in zip(peaks, boxes, strict=True):
        x, y = discovery.regions(S).mixture.means[0]
        hits += left < x < right and top < y < bottom
    assert hits >= 0.8 * len(A)


# --- that it is what it says ----------------------------------------------------------------------


def by_hand(**settings):
    """Return a discovery of two images with one node each, and descriptors of two values."""
    arrays = {
        "vectors": np.array([[1, 0], [0.6, 0.8]], np.float32),
        "cells": np.array([[0, 0, 1, 1], [0, 0, 1, 1]]),
        "saliency": np.array([0.5, 0.8], np.float32),
        "centrality": np.array([1.5, 0.5], np.float32),
        "starts": np.array([0, 1, 2]),
        "mean": np.zeros(2),
        "projection": np.eye(2),
    }
    return ObjectDiscovery.from_state(asdict(DiscoverySettings(patch=1, **settings)), arrays)


def test_peaks_by_hand():
    """Two positions with one channel each: F̂² is 1 / √2 at both, and u is (1, 0) and (0, 1)."""
    A = np.array([[[1, 0]], [[0, 1]]], np.float32)
    recurring = np.array([1 * 0.5 * 1.5 + 0.6**3 * 0.8 * 0.5, 0.8**3 * 0.8 * 0.5])
    expected = 2**-0.25 * recurring
    np.testing.assert_allclose(by_hand().peaks(A)[0], expected, rtol=1e-5)
    # Without the nodes of the first image, and with other exponents.
    S = by_hand(feature_exponent=2, region_exponent=3, map_beta=1).peaks(A, 0)
    expected = 2**-0.5 * np.array([0.6, 0.8]) * 0.8**3 * 0.5
    np.testing.assert_allclose(S[0], expected, rtol=1e-5)


def reference_lists(queries, images, discovery, k):
    """Similarities and ids of the k best nodes of other images, by sorting them all."""
    for u, image in zip(queries, images, strict=True):
        s = discovery.vectors_ @ u
        order = [j for j in np.argsort(-s, kind="stable") if discovery.images_[j] != image]
        yield s[order[:k]], order[:k]


def test_graph_and_katz_equal_a_dense_solve(small):
    _, discovery = small
    r = len(discovery.vectors_)
    ids, weights = np.full((r, 4), -1), np.zeros((r, 4))
    lists = reference_lists(discovery.vectors_, discovery.images_, discovery, 4)
    for row, (s, order) in enumerate(lists):
        ids[row, : len(order)], weights[row, : len(order)] = order, np.maximum(s, 0) ** 8
    _, W = dense_graph(ids, weights)
    np.testing.assert_allclose(discovery.graph_.W.toarray(), W, atol=1e-5)
    g = dense_diffusion(W, np.ones(r), 0.99)[0]
    np.testing.assert_allclose(discovery.centrality_, g / g.mean(), rtol=1e-3)
    # No edge joins two nodes of an image.
    rows, columns = discovery.graph_.W.nonzero()
    assert len(rows)
    assert (discovery.images_[rows] != discovery.images_[columns]).all()


@pytest.mark.parametrize("image", [None, 4])
def test_peaks_equal_loops(small, image):
    A, discovery = small
    a = A[4]
    F = maps.feature_saliency(a)
    padded = np.pad(a, ((0, 0), (1, 1), (1, 1)))
    expected = np.zeros_like(F)
    for y, x in np.ndindex(F.shape):
        if F[y, x] < 0.4 * F.max():
            continue
        patch = padded[:, y : y + 3, x : x + 3].max(axis=(1, 2))
        u = discovery.whitening_.apply(patch[None])
        ((s, order),) = reference_lists(u, [image], discovery, 3)
        for similarity, j in zip(s, order, strict=True):
            term = max(similarity, 0) ** 3 * discovery.saliency_[j] * discovery.centrality_[j]
            expected[y, x] += F[y, x] * term
    S = discovery.peaks(torch.from_numpy(a), image)
    assert S.dtype == np.float32
    np.testing.assert_allclose(S, expected, rtol=2e-3, atol=1e-6 * expected.max())


@pytest.mark.parametrize("border", [True, False])
def test_saliency_extends_peaks_over_the_fine_map(framed, border):
    images, discovery = framed
    settings, image = DiscoverySettings(border=border), images[3]
    if not border:
        discovery = ObjectDiscovery.from_state(asdict(settings), discovery.state()[1])
    S = discovery.peaks(image, 3)
    h, w = image.maps.shape[1:]
    if border:
        padded = np.pad(image.maps, ((0, 0), (1, 1), (1, 1)))
        patches = [padded[:, y : y + 3, x : x + 3].max(axis=(1, 2)) for y, x in np.ndindex(h, w)]
        prior = border_prior(discovery.whitening_.apply(patches).reshape(h, w, -1))
        assert prior.min() < 0.9
        S = S * prior
    S = resampled(S, COARSE, FINE, (2 * h, 2 * w))
    cells = discovery.fine_whitening_.apply(image.fine.reshape(16, -1).T)
    expected = clipped(walk(S, cells.reshape(2 * h, 2 * w, -1), restart=0.02))
    found = discovery.saliency(image, 3)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * expected.max())
    peaks, whole = discovery.maps(image, 3)
    np.testing.assert_array_equal(whole, found)
    np.testing.assert_allclose(discovery.saliency(image, 3, peaks=peaks), found, rtol=1e-5)
    assert discovery.frame_of(image) == FINE


def test_saliency_without_a_fine_map_is_on_coarse_cells(framed):
    images, discovery = framed
    coarse = ImageActivations(images[0].maps, COARSE)
    expected = discovery.saliency(coarse, 0)
    assert expected.shape == images[0].maps.shape[1:]
    assert expected.max() > 0
    np.testing.assert_array_equal(discovery.saliency(torch.from_numpy(coarse.maps), 0), expected)
    assert discovery.frame_of(coarse) == COARSE
    assert discovery.frame_of(coarse.maps) == Frame(1, 0, 0)
    nowhere = ImageActivations(images[0].maps, COARSE, images[0].fine)  # of unknown position
    np.testing.assert_array_equal(discovery.saliency(nowhere, 0), expected)
    # A collection without fine maps has no use for those of an image.
    plain = ObjectDiscovery(DiscoverySettings(dimension=6)).fit(image.maps for image in images)
    assert plain.fine_whitening_ is None
    assert plain.saliency(images[0]).shape == expected.shape
    assert plain.frame_of(images[0]) == COARSE


def test_boxes_are_described_by_the_coarse_cells_in_them(framed):
    images, discovery = framed
    image = images[2]
    # Fine cells 4 to 8 across and 2 to 8 down are coarse cells 2 to 4 and 1 to 4.
    found = discovery.describe_boxes(image, [[4, 2, 8, 8], [0, 0, 0.5, 0.5]])
    expected = discovery.whitening_.apply(
        [image.maps[:, 1:4, 2:4].max(axis=(1, 2)), image.maps[:, 0, 0]]
    )
    np.testing.assert_allclose(found, expected, atol=1e-4)
    on_cells = discovery.describe_boxes(image.maps, [[2, 1, 4, 4]])
    np.testing.assert_allclose(on_cells, expected[:1], atol=1e-4)
    boxes = discovery.boxes(discovery.saliency(image, 2))
    assert len(boxes)
    vectors = discovery.describe_boxes(image, boxes.boxes)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    assert discovery.describe_boxes(image, np.empty((0, 4))).shape == (0, 6)


def test_own_nodes_say_nothing():
    """Alone of its kind, a blob is salient only to itself."""
    A, _ = recurring_blobs(n_images=20, n_objects=20, n_clutter=0)
    discovery = ObjectDiscovery(DiscoverySettings(dimension=32, map_beta=8)).fit(A)
    own, others = discovery.peaks(A[0]), discovery.peaks(A[0], 0)
    assert others.max() < 0.3 * own.max()


@pytest.mark.parametrize("centrality", ["degree", "none"])
def test_other_centralities(small, centrality):
    A, katz = small
    discovery = ObjectDiscovery(DiscoverySettings(dimension=6, k=4, centrality=centrality)).fit(A)
    np.testing.assert_array_equal(discovery.vectors_, katz.vectors_)
    degree = diffusion.degree(discovery.graph_)
    expected = degree / degree.mean() if centrality == "degree" else np.ones(len(degree))
    np.testing.assert_allclose(discovery.centrality_, expected, rtol=1e-5)


@pytest.mark.slow
def test_many_nodes_are_looked_up_in_cells(small, monkeypatch, tmp_path):
    A, exact = small
    monkeypatch.setattr(lookup, "_EXACT", 40)
    discovery = ObjectDiscovery(exact.settings).fit(A)
    discovery.save(tmp_path / "objects")
    loaded = ObjectDiscovery.load(tmp_path / "objects")
    assert any(name.startswith("lookup_") for name in loaded.state()[1])
    for i, a in enumerate(A):
        S = discovery.peaks(a, i)
        np.testing.assert_allclose(S, exact.peaks(a, i), rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(loaded.peaks(a, i), S)


def test_nodes_are_read_twice_and_kept_nowhere(nodes, monkeypatch):
    class Stored:
        """Nodes that are not in memory."""

        read = 0

        def __len__(self):
            return len(nodes)

        def __iter__(self):
            self.read += 1
            yield from nodes

        def __contains__(self, _):
            raise AssertionError

    stored = Stored()
    found = learning.learn_collection(stored, 16)
    assert stored.read == 2
    whole = np.concatenate([image.vectors for image in nodes])
    whitening = diffusion_pca(whole)
    np.testing.assert_allclose(found.vectors, whitening.apply(whole), atol=1e-3)


def diffusion_pca(X):
    from features.description.whitening import learn_pca

    return learn_pca(X).reduced(16)


def test_images_without_anything_salient_and_of_other_sizes(small):
    A, _ = small
    mixed = [A[0], np.zeros_like(A[0]), *A[1:5, :, :9, :13], A[5, :, :1, :1], *A[6:]]
    discovery = ObjectDiscovery(DiscoverySettings(dimension=6, k=4)).fit(mixed)
    assert discovery.n_images_ == len(mixed)
    assert discovery.starts_[1] == discovery.starts_[2]
    for i, a in enumerate(mixed):
        for S in discovery.maps(a, i):
            assert S.shape == a.shape[1:]
            assert np.isfinite(S).all()
    assert not discovery.saliency(mixed[1], 1).any()
    assert len(discovery.regions(discovery.peaks(mixed[1]))) == 0


def test_fewer_nodes_than_neighbours(small):
    A, _ = small
    discovery = ObjectDiscovery(DiscoverySettings(k=500, neighbors=400)).fit(A[:3])
    assert np.isfinite(discovery.peaks(A[0], 0)).all()


# --- saved and loaded -----------------------------------------------------------------------------


def test_saved_and_loaded_it_answers_alike(framed, tmp_path):
    images, discovery = framed
    discovery.save(tmp_path / "objects")
    loaded = ObjectDiscovery.load(tmp_path / "objects", verify=True)
    assert loaded.settings == discovery.settings
    for one, other in zip(loaded.maps(images[2], 2), discovery.maps(images[2], 2), strict=True):
        np.testing.assert_array_equal(one, other)
    loaded.save(tmp_path / "objects")
    again = ObjectDiscovery.from_state(*loaded.state())
    np.testing.assert_array_equal(again.saliency(images[2]), discovery.saliency(images[2]))


def test_an_earlier_version_is_refused(small, tmp_path):
    small[1].save(tmp_path / "objects")
    path = tmp_path / "objects" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 1}))
    with pytest.raises(DiffusionError, match="of version 1, this library reads version 2"):
        ObjectDiscovery.load(tmp_path / "objects")


def test_a_state_of_something_else_is_refused(framed):
    settings, arrays = framed[1].state()
    for bad in (
        (settings | {"contrast": None}, arrays),
        (settings, {name: a for name, a in arrays.items() if name != "starts"}),
        (settings, {name: a for name, a in arrays.items() if name != "fine_projection"}),
        (settings, arrays | {"projection": arrays["projection"][1:]}),
        (settings, arrays | {"centrality": arrays["centrality"][1:]}),
        (settings, arrays | {"saliency": arrays["saliency"] * np.nan}),
    ):
        with pytest.raises(DiffusionError):
            ObjectDiscovery.from_state(*bad)


def test_damage_and_other_kinds_are_refused(small, tmp_path):
    _, discovery = small
    with pytest.raises(DiffusionError, match="expected a saved object discovery"):
        ObjectDiscovery.load(tmp_path / "nothing")
    diffusion.Reranker(k=3).fit(discovery.vectors_).save(tmp_path / "index")
    with pytest.raises(DiffusionError, match="expected format 'diffusion-rerank object discovery'"):
        ObjectDiscovery.load(tmp_path / "index")
    discovery.save(tmp_path / "objects")
    manifest = json.loads((tmp_path / "objects" / "manifest.json").read_text())
    file = tmp_path / "objects" / manifest["arrays"]["vectors"]["file"]
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(DiffusionError, match="truncated"):
        ObjectDiscovery.load(tmp_path / "objects")


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"dimension": 0},
        {"k": 0},
        {"beta": 0.0},
        {"alpha": 1.0},
        {"centrality": "pagerank"},
        {"neighbors": 0},
        {"map_beta": -1.0},
        {"nodes": "all"},
        {"restart": 0.0},
        {"border": None},
        {"feature_exponent": -1.0},
        {"feature_threshold": 1.0},
        {"region_exponent": np.nan},
        {"patch": 2},
        {"feature_egm": 4.0},
        {"object_egm": None},
    ],
)
def test_bad_settings_are_named(settings):
    with pytest.raises(DiffusionError, match=next(iter(settings))):
        ObjectDiscovery(DiscoverySettings(**settings))


def test_bad_input_is_named(small, framed):
    A, discovery = small
    for call in ("peaks", "saliency", "maps"):
        with pytest.raises(DiffusionError, match="not fitted"):
            getattr(ObjectDiscovery(), call)(A[0])
        with pytest.raises(DiffusionError, match="expected 24 channels"):
            getattr(discovery, call)(A[0, :9])
        with pytest.raises(DiffusionError, match="image: expected one of"):
            getattr(discovery, call)(A[0], 12)
        with pytest.raises(DiffusionError, match="ReLU"):
            getattr(discovery, call)(-A[0])
    with pytest.raises(DiffusionError, match="peaks: expected the shape of the map"):
        discovery.saliency(A[0], peaks=np.ones((3, 3)))
    with pytest.raises(DiffusionError, match="peaks: expected finite values"):
        discovery.saliency(A[0], peaks=-np.ones(A[0].shape[1:]))
    with pytest.raises(DiffusionError, match="boxes: expected"):
        discovery.describe_boxes(A[0], [1, 2, 3, 4])
    images, fitted = framed
    fine = ImageActivations(images[0].maps, COARSE, images[0].fine[:5], FINE)
    with pytest.raises(DiffusionError, match="16 channels of the fine map"):
        fitted.saliency(fine)


def test_bad_collections_are_named(small, framed):
    A, _ = small
    with pytest.raises(DiffusionError, match="two images"):
        ObjectDiscovery().fit([A[0], 0 * A[1]])
    with pytest.raises(DiffusionError, match="two images"):
        ObjectDiscovery().fit([])
    with pytest.raises(DiffusionError, match=r"map 1: .*channels"):
        ObjectDiscovery().fit([A[0], A[1, :5]])
    with pytest.raises(DiffusionError, match=r"map 1: .*fine"):
        ObjectDiscovery().fit([framed[0][0], framed[0][1].maps])
    with pytest.raises(DiffusionError, match=r"map 2: .*finite"):
        ObjectDiscovery().fit([A[0], A[1], A[2] * np.nan])
    with pytest.raises(DiffusionError, match="all are equal"):
        ObjectDiscovery().fit([A[0, :, :1, :1], A[0, :, :1, :1]])
    empty = np.empty((0, 3), np.float32)
    nothing = ImageNodes(np.empty((0, 4), int), np.empty(0, np.float32), empty, empty[:, :0])
    with pytest.raises(DiffusionError, match="two images"):
        ObjectDiscovery().fit_nodes([nothing, nothing])
