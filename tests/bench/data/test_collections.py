from __future__ import annotations

import numpy as np

import diffusion
from bench.data import collections as datasets


def test_grocery_is_skipped_where_it_is_absent(monkeypatch, tmp_path):
    monkeypatch.setenv("DIFFUSION_DATA", str(tmp_path))
    assert datasets.grocery(packages_only=True) is None


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
