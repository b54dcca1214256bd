from __future__ import annotations

import numpy as np
import pytest

import diffusion
from bench.data import collections as datasets


def test_grocery_is_skipped_where_it_is_absent(monkeypatch, tmp_path):
    monkeypatch.setenv("DIFFUSION_DATA", str(tmp_path))
    assert datasets.grocery(packages_only=True) is None
    assert datasets.grocery_by_kind(coarse=True) is None


def test_kinds_are_the_directories_above_the_products():
    fine = datasets.grocery(packages_only=False)
    if fine is None:
        pytest.skip("grocery descriptors are not in DIFFUSION_DATA")
    for coarse, n_kinds in ((False, 43), (True, 3)):
        kinds = datasets.grocery_by_kind(coarse)
        assert np.array_equal(kinds.gallery, fine.gallery)
        pairs = set(zip(fine.gallery_labels.tolist(), kinds.gallery_labels.tolist(), strict=True))
        # Each product is of one kind.
        assert len(pairs) == len({product for product, _ in pairs}) == 81
        assert len({kind for _, kind in pairs}) == n_kinds
        assert kinds.name == f"grocery, {n_kinds} kinds"
    packages = datasets.grocery(packages_only=True)
    of_kind = kinds.gallery_labels[np.isin(fine.gallery_labels, packages.gallery_labels)]
    assert len(set(of_kind)) == 1


def test_parity_of_digits():
    whole, halves = datasets.digits(), datasets.digits_by_parity()
    assert np.array_equal(halves.queries, whole.queries)
    assert set(whole.gallery_labels[halves.gallery_labels == 1]) == {1, 3, 5, 7, 9}
    assert set(whole.query_labels[halves.query_labels == 0]) == {0, 2, 4, 6, 8}


def test_measurements_of_cells_are_standardised():
    cells = datasets.breast_cancer()
    X = np.concatenate([cells.gallery, cells.queries])
    assert X.shape == (569, 30)
    np.testing.assert_allclose(X.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(X.std(axis=0), 1, atol=1e-5)
    labels = np.concatenate([cells.gallery_labels, cells.query_labels])
    assert np.bincount(labels).tolist() == [212, 357]


def test_manifold_is_connected_and_repeatable():
    X = datasets.manifold(3000, 32)
    np.testing.assert_allclose(np.linalg.norm(X, axis=1), 1, rtol=1e-5)
    assert (datasets.manifold(3000, 32) == X).all()
    sizes = diffusion.Reranker(k=50).fit(X).graph_.component_sizes
    assert sizes[0] >= 0.99 * len(X)


def test_descriptors_are_unit_vectors_of_objects():
    X = datasets.descriptors(3000, 32, 50)
    np.testing.assert_allclose(np.linalg.norm(X, axis=1), 1, rtol=1e-5)
    assert (datasets.descriptors(3000, 32, 50) == X).all()
    nearest = diffusion.nearest_neighbors(X, 10)[0].mean()
    rng = np.random.default_rng(0)
    spectrum = np.linalg.norm(X, axis=0) / len(X) ** 0.5
    noise = spectrum * rng.standard_normal(X.shape)
    assert nearest > diffusion.nearest_neighbors(noise, 10)[0].mean() + 0.1


def test_lattice_lists_are_reciprocal_and_sorted():
    scores, ids = datasets.lattice_lists(8, 50)
    assert ids.shape == (512, 50)
    assert (np.diff(scores, axis=1) <= 0).all()
    assert all(len(set(row)) == 50 for row in ids)
    graph = diffusion.Reranker(k=50, affinity="cosine").fit_neighbors(scores, ids).graph_
    assert graph.n_edges == 512 * 50 // 2
    assert graph.n_components == 1
