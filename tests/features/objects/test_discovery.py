"""Object discovery on activation maps, against loops and dense solves."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import diffusion
from diffusion import DiffusionError
from features.objects import maps
from features.objects.discovery import ObjectDiscovery
from features.objects.egm import EGM
from features.objects.regions import ImageRegions, find_regions
from features.settings import DiscoverySettings
from tests.support.activations import recurring_blobs
from tests.support.oracles import dense_diffusion, dense_graph

# The paper states no exponent of the graph; the cube is that of diffusion elsewhere.
PAPER = {"beta": 3.0}
SHARP = {"map_beta": 5.0, "contrast": (10, 30)}


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
def small():
    """Return a few images with few channels, and what was learned from them."""
    A = recurring_blobs(n_images=12, n_objects=3)[0][:, :24]
    return A, ObjectDiscovery(
        DiscoverySettings(dimension=6, k=4, neighbors=3, contrast=(2, 5))
    ).fit(iter(A))


def precision(saliencies, boxes):
    return np.array(
        [maps.localisation_precision(S, b, 1, 0) for S, b in zip(saliencies, boxes, strict=True)]
    )


# --- what it is for -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def regions(collection):
    return [find_regions(A, ObjectDiscovery().feature_egm) for A in collection[0]]


@pytest.mark.parametrize(("settings", "bar"), [(PAPER, 0.40), ({}, 0.45), (SHARP, 0.60)])
def test_what_recurs_is_salient(collection, regions, settings, bar):
    A, boxes = collection
    feature = precision(map(maps.feature_saliency, A), boxes)
    assert feature.mean() < 0.10
    discovery = ObjectDiscovery(DiscoverySettings(dimension=64, **settings)).fit_regions(regions)
    objects = precision((discovery.saliency(a, i) for i, a in enumerate(A)), boxes)
    assert objects.mean() >= bar
    assert (objects > feature).mean() >= 0.95


def test_new_images_need_no_refitting(collection, regions):
    A, boxes = (part[64:] for part in collection)
    discovery = ObjectDiscovery(DiscoverySettings(dimension=64)).fit_regions(regions[:64])
    saliencies = [discovery.saliency(a) for a in A]
    assert precision(saliencies, boxes).mean() >= 0.60
    # The first region of most is on the object.
    hits = 0
    for S, ((left, top, right, bottom),) in zip(saliencies, boxes, strict=True):
        x, y = discovery.regions(S).mixture.means[0]
        hits += left < x < right and top < y < bottom
    assert hits >= 0.8 * len(A)


def test_contrast_takes_back_what_is_everywhere(collection):
    """A patch in the same place of every image recurs most, and is no object."""
    A = collection[0][:40].copy()
    pattern = np.random.default_rng(5).random(A.shape[1]) * (np.arange(A.shape[1]) % 5 == 0)
    A[:, :, 1:4, 1:4] = np.maximum(A[:, :, 1:4, 1:4], pattern[:, None, None].astype(np.float32))
    share = []
    for contrast in (None, (10, 30)):
        discovery = ObjectDiscovery(
            DiscoverySettings(dimension=64, map_beta=5.0, contrast=contrast)
        ).fit(A)
        S = np.array([discovery.saliency(a, i) for i, a in enumerate(A)])
        share.append((S[:, :5, :5].sum(axis=(1, 2)) / S.sum(axis=(1, 2))).mean())
    assert share[1] < 0.6 * share[0]


# --- that it is what it says ----------------------------------------------------------------------


def test_regions_are_those_of_feature_saliency(collection):
    A = collection[0][3]
    egm = EGM(exponent=4.0, threshold=0.4)
    found = find_regions(torch.from_numpy(A), egm)
    F = maps.feature_saliency(A)
    expected = egm.regions(F)
    np.testing.assert_array_equal(found.cells, expected.cells())
    np.testing.assert_array_equal(found.weights, expected.weights)
    for (top, left, h, w), f, v in zip(found.cells, found.saliency, found.vectors, strict=True):
        inside = np.s_[top : top + h, left : left + w]
        assert f == pytest.approx(F[inside].mean(), rel=1e-5)
        np.testing.assert_array_equal(v, A[:, *inside].max(axis=(1, 2)))


def reference_lists(queries, images, discovery, k):
    """Similarities and ids of the k best regions of other images, by sorting them all."""
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
    np.testing.assert_allclose(discovery.centrality_, g / g.mean(), rtol=1e-4)
    # No edge joins two regions of an image.
    rows, columns = discovery.graph_.W.nonzero()
    assert len(rows)
    assert (discovery.images_[rows] != discovery.images_[columns]).all()


@pytest.mark.parametrize("image", [None, 4])
def test_object_saliency_equals_loops(small, image):
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
        ((s, order),) = reference_lists(u, [image], discovery, 5)
        s = s - s[2:5].mean()
        for similarity, j in zip(s[:3], order[:3], strict=True):
            term = max(similarity, 0) ** 3 * discovery.saliency_[j] ** 3 * discovery.centrality_[j]
            expected[y, x] += F[y, x] ** 2 * term
    S = discovery.saliency(torch.from_numpy(a), image)
    assert S.dtype == np.float32
    np.testing.assert_allclose(S, expected, rtol=2e-3, atol=1e-6 * expected.max())


def test_own_regions_say_nothing():
    """Alone of its kind, a blob is salient only to itself."""
    A, _ = recurring_blobs(n_images=20, n_objects=20, n_clutter=0)
    discovery = ObjectDiscovery(DiscoverySettings(dimension=32, contrast=None)).fit(A)
    own, others = discovery.saliency(A[0]), discovery.saliency(A[0], 0)
    assert others.max() < 0.3 * own.max()


@pytest.mark.parametrize("centrality", ["degree", "none"])
def test_other_centralities(small, centrality):
    A, katz = small
    discovery = ObjectDiscovery(DiscoverySettings(dimension=6, k=4, centrality=centrality)).fit(A)
    np.testing.assert_array_equal(discovery.vectors_, katz.vectors_)
    degree = diffusion.degree(discovery.graph_)
    expected = degree / degree.mean() if centrality == "degree" else np.ones(len(degree))
    np.testing.assert_allclose(discovery.centrality_, expected, rtol=1e-5)


def test_katz_is_nearly_the_root_of_the_degree(regions):
    discovery = ObjectDiscovery(DiscoverySettings(dimension=64, **PAPER)).fit_regions(regions)
    root = np.sqrt(diffusion.degree(discovery.graph_))
    assert np.corrcoef(discovery.centrality_, root)[0, 1] > 0.98


def test_images_without_anything_salient_and_of_other_sizes(small):
    A, _ = small
    mixed = [A[0], np.zeros_like(A[0]), *A[1:5, :, :9, :13], A[5, :, :1, :1], *A[6:]]
    discovery = ObjectDiscovery(DiscoverySettings(dimension=6, k=4)).fit(mixed)
    assert discovery.n_images_ == len(mixed)
    assert discovery.starts_[1] == discovery.starts_[2]
    for i, a in enumerate(mixed):
        S = discovery.saliency(a, i)
        assert S.shape == a.shape[1:]
        assert np.isfinite(S).all()
    assert not discovery.saliency(mixed[1], 1).any()
    assert len(discovery.regions(discovery.saliency(mixed[1]))) == 0


def test_fewer_regions_than_neighbours(small):
    A, _ = small
    discovery = ObjectDiscovery(DiscoverySettings(k=50, neighbors=40, contrast=(50, 60))).fit(A[:3])
    assert np.isfinite(discovery.saliency(A[0], 0)).all()


# --- saved and loaded -----------------------------------------------------------------------------


def test_saved_and_loaded_it_answers_alike(small, tmp_path):
    A, discovery = small
    discovery.save(tmp_path / "objects")
    loaded = ObjectDiscovery.load(tmp_path / "objects", verify=True)
    assert loaded.settings == discovery.settings
    np.testing.assert_array_equal(loaded.saliency(A[2], 2), discovery.saliency(A[2], 2))
    loaded.save(tmp_path / "objects")


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
        {"contrast": (3, 3)},
        {"contrast": 5},
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


def test_bad_input_is_named(small):
    A, discovery = small
    with pytest.raises(DiffusionError, match="not fitted"):
        ObjectDiscovery().saliency(A[0])
    with pytest.raises(DiffusionError, match="expected 24 channels"):
        discovery.saliency(A[0, :9])
    with pytest.raises(DiffusionError, match="image: expected one of"):
        discovery.saliency(A[0], 12)
    with pytest.raises(DiffusionError, match="ReLU"):
        discovery.saliency(-A[0])
    with pytest.raises(DiffusionError, match="two images"):
        ObjectDiscovery().fit([A[0], 0 * A[1]])
    with pytest.raises(DiffusionError, match="two images"):
        ObjectDiscovery().fit([])
    with pytest.raises(DiffusionError, match=r"map 1: .*channels"):
        ObjectDiscovery().fit([A[0], A[1, :5]])
    with pytest.raises(DiffusionError, match=r"map 2: .*finite"):
        ObjectDiscovery().fit([A[0], A[1], A[2] * np.nan])
    empty = ImageRegions(np.empty((0, 4), int), np.empty(0), np.empty(0), np.empty((0, 3)))
    with pytest.raises(DiffusionError, match="two images"):
        ObjectDiscovery().fit_regions([empty, empty])
