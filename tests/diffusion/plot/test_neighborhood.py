"""The graph around a query: where its nodes are, which edges there are, and their colours."""

from __future__ import annotations

import numpy as np
import pytest

from diffusion import DiffusionError, Reranker, plot

from .conftest import artist, texts


def dense_embedding(A):
    """Return the second and third eigenvector of the normalised Laplacian, of all of them."""
    D = np.diag(A.sum(axis=1) ** -0.5)
    values, vectors = np.linalg.eigh(np.eye(len(A)) - D @ A @ D)
    assert values[0] == pytest.approx(0, abs=1e-9)
    return values[1:4], vectors[:, 1:3]


def up_to_sign(one, other):
    for column, own in zip(one.T, other.T, strict=True):
        sign = np.sign(column @ own)
        np.testing.assert_allclose(column, sign * own, atol=1e-7)


def test_the_layout_is_the_dense_eigendecomposition(rng):
    A = rng.random((40, 40)) * (rng.random((40, 40)) < 0.2)
    A = np.maximum(A, A.T) + np.diag(np.ones(39), 1) + np.diag(np.ones(39), -1)
    values, expected = dense_embedding(A)
    assert np.diff(values).min() > 1e-6
    layout = plot.spectral_layout(A)
    up_to_sign(layout, expected)
    # The sign: the entry of largest magnitude is positive.
    assert (layout.max(axis=0) == np.abs(layout).max(axis=0)).all()


def test_the_layout_of_a_ring_is_a_circle():
    n = 12
    A = np.roll(np.eye(n), 1, axis=0) + np.roll(np.eye(n), -1, axis=0)
    layout = plot.spectral_layout(A)
    np.testing.assert_allclose(np.linalg.norm(layout, axis=1), np.sqrt(2 / n), atol=1e-9)
    step = np.linalg.norm(layout - np.roll(layout, 1, axis=0), axis=1)
    np.testing.assert_allclose(step, 2 * np.sqrt(2 / n) * np.sin(np.pi / n), atol=1e-9)


def test_the_layout_of_few_nodes():
    assert plot.spectral_layout([[0.0]]).tolist() == [[0, 0]]
    pair = plot.spectral_layout([[0, 2.0], [2.0, 0]])
    np.testing.assert_allclose(np.abs(pair), [[0.5**0.5, 0], [0.5**0.5, 0]])
    assert pair[0, 0] == -pair[1, 0]


@pytest.mark.parametrize(
    ("A", "message"),
    [
        (np.zeros((2, 3)), "square"),
        (np.zeros((0, 0)), "square"),
        ([[0, 1], [2, 0]], "symmetric"),
        ([[0, -1], [-1, 0]], "symmetric"),
        ([[0, np.nan], [np.nan, 0]], "symmetric"),
        (np.eye(2), "connected"),
    ],
)
def test_a_layout_of_what_is_no_connected_graph_is_refused(A, message):
    with pytest.raises(DiffusionError, match=f"A: .*{message}"):
        plot.spectral_layout(A)


def test_nodes_edges_and_colours_are_those_of_the_ranking(plane, ax):
    plot.plot_neighborhood(plane, item=7, n_nodes=40, ax=ax)
    nodes = artist(ax, "nodes")
    scores, ids = plane.search(plane.fitted().vectors_of(np.array([7]))[0], k=40)
    np.testing.assert_allclose(nodes.get_array(), scores, rtol=1e-6)
    W = plane.graph_.W.toarray()[np.ix_(ids, ids)].astype(float)
    up_to_sign(nodes.get_offsets(), dense_embedding(W)[1])

    edges = artist(ax, "edges")
    i, j = np.nonzero(np.triu(W, 1))
    ends = np.array(edges.get_segments())
    np.testing.assert_allclose(ends, nodes.get_offsets()[np.stack([i, j], axis=1)])
    widths = np.array(edges.get_linewidths())
    assert (np.diff(widths[np.argsort(W[i, j])]) >= 0).all()
    assert "The graph around the query: 40 of 120 nodes" in texts(ax)


def test_the_query_is_the_mean_of_what_it_is_observed_at(ax):
    # With this affinity, y is the cube of the cosine of the best three.
    X = np.random.default_rng(3).random((30, 4))
    ranker = Reranker(affinity="cosine", k=6, query_k=3, gamma=3.0).fit(X)
    q = X[4] + 0.05
    plot.plot_neighborhood(ranker, q, n_nodes=30, ax=ax)
    cosine = X @ q / np.linalg.norm(X, axis=1) / np.linalg.norm(q)
    best = np.argsort(-cosine)[:3]
    _, ids = ranker.search(q, k=30)
    places = [ids.tolist().index(i) for i in best]
    offsets = np.asarray(artist(ax, "nodes").get_offsets())
    expected = np.average(offsets[places], axis=0, weights=cosine[best] ** 3)
    star = artist(ax, "query")
    np.testing.assert_allclose(np.ravel(star.get_data()), expected, rtol=1e-5, atol=1e-7)
    marked = np.flatnonzero(np.array(artist(ax, "nodes").get_linewidths()) > 1)
    assert sorted(marked) == sorted(places)


def test_components_do_not_overlap(plane, ax):
    # Hits on both arcs, which no edge connects.
    plot.plot_neighborhood(plane, hits=([-0.1, -0.2, -0.3, -0.4], [0, 1, 110, 111]), ax=ax)
    nodes = artist(ax, "nodes")
    segments = np.array(artist(ax, "edges").get_segments())
    offsets = np.asarray(nodes.get_offsets())
    place = {tuple(p): i for i, p in enumerate(offsets.tolist())}
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ends = np.array([[place[tuple(p)] for p in s] for s in segments.tolist()])
    joined = coo_array((np.ones(len(ends)), ends.T), shape=(len(offsets),) * 2)
    count, labels = connected_components(joined, directed=False)
    assert count >= 2
    boxes = [
        (offsets[labels == c].min(axis=0), offsets[labels == c].max(axis=0)) for c in range(count)
    ]
    for a in range(count):
        for b in range(a):
            apart = (boxes[a][0] > boxes[b][1]) | (boxes[b][0] > boxes[a][1])
            assert apart.any()


def test_labels_are_ids_and_no_formulas(ax):
    X = np.random.default_rng(3).random((30, 4))
    ranker = Reranker(k=6).fit(X, ids=[f"$x_{{{i}" for i in range(30)])
    plot.plot_neighborhood(ranker, X[2], n_labels=3, ax=ax)
    expected = ranker.search(X[2], k=3)[1].tolist()
    assert set(expected) <= texts(ax)
    ax.figure.savefig("/dev/null", format="png")


def test_hits_that_are_unknown_are_left_out(plane, ax):
    hits = np.array([-0.1, -0.2, -0.3]), np.array([5, 1000, 6])
    plot.plot_neighborhood(plane, hits=hits, n_nodes=10, ax=ax)
    assert 2 <= len(artist(ax, "nodes").get_offsets()) <= 12
    with pytest.raises(DiffusionError, match="q: expected a query with neighbours"):
        plot.plot_neighborhood(plane, hits=(np.array([-0.1]), np.array([1000])))


def test_many_observed_items_do_not_exceed_the_limit(ax, monkeypatch):
    monkeypatch.setattr("diffusion.plot.neighborhood._MOST", 20)
    X = np.random.default_rng(0).random((60, 3))
    ranker = Reranker(affinity="cosine", k=5, query_k=50).fit(X)
    plot.plot_neighborhood(ranker, X[0], n_nodes=5, ax=ax)
    assert len(artist(ax, "nodes").get_offsets()) == 20
    cosine = X @ X[0] / np.linalg.norm(X, axis=1) / np.linalg.norm(X[0])
    scores, ids = ranker.search(X[0], k=60)
    drawn = {round(float(value), 4) for value in artist(ax, "nodes").get_array()[:5]}
    assert drawn == {round(float(value), 4) for value in scores[:5]}
    # The observed items that are drawn besides are those with the largest y.
    rest = [i for i in np.argsort(-cosine)[:50] if i not in ids[:5]][:15]
    assert np.sum(np.array(artist(ax, "nodes").get_linewidths()) > 1) == len(
        set(rest) | set(ids[:5].tolist()) & set(np.argsort(-cosine)[:50].tolist())
    )
