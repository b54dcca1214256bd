"""Scores before and after diffusion: which, where, and by which distance."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse.csgraph import shortest_path

from diffusion import Reranker, plot
from diffusion.plot.scores import distances_from

from .conftest import arcs, artist, texts


@pytest.fixture
def axes():
    from matplotlib.figure import Figure

    return Figure().subplots(1, 2)


def test_distances_are_those_of_all_shortest_paths(plane, clusters):
    for ranker, sources in ((plane, [3]), (plane, [3, 100]), (clusters, [0, 1, 2])):
        paths = shortest_path(ranker.graph_.W != 0, unweighted=True, directed=False)
        expected = paths[sources].min(axis=0)
        expected[np.isinf(expected)] = -1
        found = distances_from(ranker.graph_, np.array(sources))
        np.testing.assert_array_equal(found, expected)


def test_a_map_has_the_scores_where_the_items_are(plane, axes):
    X, q = arcs(), np.array([-1.0, 0.1])
    before, after = plot.plot_scores(plane, q, axes=axes)
    scores, ids = plane.search(q, k=120)
    positive = scores > 0
    first = -((X - q) ** 2).sum(axis=1)
    for ax, expected in (
        (before, {i: first[i] for i in range(120)}),
        (after, dict(zip(ids[positive].tolist(), scores[positive].tolist(), strict=True))),
    ):
        drawn = artist(ax, "scores")
        offsets = np.asarray(drawn.get_offsets())
        distance = np.abs(offsets[:, None] - X[None]).max(axis=2)
        assert distance.min(axis=1).max() < 1e-5
        items = distance.argmin(axis=1).tolist()
        assert sorted(items) == sorted(expected)
        np.testing.assert_allclose(drawn.get_array(), [expected[i] for i in items], rtol=1e-4)
        assert len(artist(ax, "without score").get_offsets()) == 120 - len(items)
        np.testing.assert_allclose(np.ravel(artist(ax, "query").get_data()), q)
    # Diffusion stays on the arc of the query, apart from what the first stage lists.
    assert (~positive).any()
    assert "negative squared distance" in texts(before.figure)


def test_an_item_as_query_is_marked_at_its_place(plane, axes):
    before, _ = plot.plot_scores(plane, item=33, axes=axes)
    np.testing.assert_allclose(np.ravel(artist(before, "query").get_data()), arcs()[33], atol=1e-5)


def test_given_positions_are_taken_and_the_query_has_none(clusters, axes):
    positions = np.random.default_rng(0).random((150, 2))
    _, after = plot.plot_scores(clusters, np.ones(6), positions=positions, axes=axes)
    scores, names = clusters.search(np.ones(6), k=150)
    rows = [int(name.split()[1]) for name in names[scores > 0]]
    offsets = np.asarray(artist(after, "scores").get_offsets())
    assert {tuple(p) for p in offsets} == {tuple(p) for p in positions[rows]}
    assert not after.findobj(lambda a: a.get_gid() == "query")


def test_by_distance_points_and_medians_are_right(clusters, axes):
    q = np.ones(6)
    before, after = plot.plot_scores(clusters, q, axes=axes)
    assert before.get_ylabel() == "cosine similarity"
    assert after.get_xlabel() == "distance from the query's neighbours (edges)"
    vectors = clusters.fitted().vectors_of(np.arange(150))
    cosine = vectors @ q / np.linalg.norm(q) / np.linalg.norm(vectors, axis=1)
    seen = np.argsort(-cosine)[:10]  # query_k
    paths = shortest_path(clusters.graph_.W != 0, unweighted=True, directed=False)
    hops = paths[seen].min(axis=0)
    scores, names = clusters.search(q, k=150)
    x = np.full(150, np.nan)
    x[[int(name.split()[1]) for name in names]] = np.where(scores > 0, scores, np.nan)
    for ax, values in ((before, cosine), (after, x)):
        kept = np.isfinite(values) & np.isfinite(hops)
        points = np.asarray(artist(ax, "scores").get_offsets())
        np.testing.assert_allclose(np.round(points[:, 0]), hops[kept])
        np.testing.assert_allclose(points[:, 1], values[kept], rtol=1e-4, atol=1e-6)
        steps, medians = artist(ax, "medians").get_data()
        expected = [np.median(values[kept & (hops == s)]) for s in steps]
        np.testing.assert_allclose(medians, expected, rtol=1e-4)


def test_only_the_best_items_are_drawn(clusters, axes):
    _, after = plot.plot_scores(clusters, np.ones(6), n_items=20, axes=axes)
    assert len(artist(after, "scores").get_offsets()) <= 20


def test_hits_and_copies_are_points_of_their_first_item(axes):
    X = np.repeat(arcs(60), 2, axis=0)
    ranker = Reranker(metric="euclidean", granularity="instance").fit(X)
    hits = np.array([-0.1, -0.2, -0.4]), np.array([0, 3, 8])
    before, after = plot.plot_scores(ranker, hits=hits, axes=axes)
    assert len(artist(before, "scores").get_offsets()) == 3
    found = np.asarray(artist(after, "scores").get_offsets())
    assert len({tuple(p) for p in found.tolist()}) == len(found) <= 60
