from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from scipy import sparse

import diffusion
from bench.rivals import c_crf, cas, cheb_gr, gnn, lpmt, rdp, superglobal
from bench.rivals.common import nearest
from diffusion.baselines import expansion


@pytest.fixture
def data(vectors):
    """Return gallery and queries: unit vectors of three clusters, with duplicates."""
    vectors = expansion.normalize(np.concatenate([vectors[::3], vectors[[0, 3]]]))
    return vectors[6:], vectors[:6]


def assert_ranked_by(scores, ids):
    """Assert that each row of ids is a permutation by descending score, up to rounding."""
    assert (np.sort(ids, axis=1) == np.arange(scores.shape[1])).all()
    ranked = np.take_along_axis(scores, ids, axis=1)
    assert (np.diff(ranked, axis=1) <= 1e-6 * np.abs(scores).max()).all()
    assert np.ptp(scores) > 0


def together(data, dtype=np.float32):
    """Return similarities with the last bits of the rivals', which decide between duplicates."""
    vectors = np.concatenate([data[1], data[0]]).astype(dtype)
    return (vectors @ vectors.T).astype(float), len(data[1])


def in_order(similarity):
    """Return the items by descending similarity, each first in its own list."""
    n = len(similarity)
    return [sorted(range(n), key=lambda j: (j != i, -similarity[i, j], j)) for i in range(n)]


def test_neighbour_lists_by_hand():
    similarity = np.array([[1.0, 1.0, 0.5], [1.0, 1.0, 1.0], [0.5, 1.0, 0.0]])
    assert nearest(similarity, 2).tolist() == [[0, 1], [1, 0], [2, 1]]
    assert nearest(similarity, 9).tolist() == [[0, 1, 2], [1, 0, 2], [2, 1, 0]]


def test_gnn_equals_loops(data):
    s, nq = together(data)
    order = in_order(s)
    n = len(s)
    H = np.array([[float(j in order[i][:10]) for j in range(n)] for i in range(n)])
    for _ in range(2):
        H = H + H.T
        H = np.array([sum(s[i, j] ** 2 * H[j] for j in order[i][:4]) for i in range(n)])
        H = np.array([h / np.linalg.norm(h) for h in H])
    assert_ranked_by(H[:nq] @ H[nq:].T, gnn.rank(*data, k1=10, k2=4))


def test_rdp_converges_to_the_solution_on_the_tensor_product_graph(data):
    gallery, queries = data[0][::2], data[1]
    s, nq = together((gallery, queries))
    n, order = len(s), in_order(s)
    d = (2 - 2 * s) / (2 - 2 * s).max()
    W = np.zeros((n, n))
    for i in range(n):
        for j in order[i][:5]:
            W[i, j] = np.exp(-(d[i, j] ** 2) / 0.5**2)
    W = (W + W.T) / 2
    S = W / np.sqrt(np.outer(W.sum(axis=1), W.sum(axis=1)))
    alpha = 1 / 1.3
    A = np.linalg.solve(np.eye(n * n) - alpha * np.kron(S, S), np.eye(n).ravel())
    scores = A.reshape(n, n)[:nq, nq:]
    assert_ranked_by(scores, rdp.rank(gallery, queries, k=5, iterations=200))


def test_superglobal_equals_loops(data):
    gallery, queries = (part.astype(float) for part in data)
    ids = superglobal.rank(*data, M=12, K=3)
    for q, row in zip(queries, ids, strict=True):
        plain = sorted(range(len(gallery)), key=lambda j: (-(gallery[j] @ q), j))
        assert row[12:].tolist() == plain[12:]
        refined = {}
        for i in plain[:12]:
            others = sorted(
                (j for j in plain[:12] if j != i), key=lambda j: -gallery[i] @ gallery[j]
            )
            weights = {i: 1.0} | {j: 0.15 * gallery[i] @ gallery[j] for j in others[:3]}
            total = sum(weights.values())
            refined[i] = sum(w * gallery[j] for j, w in weights.items()) / total
        best = sorted(refined, key=lambda i: -(refined[i] @ q))[:4]
        second = np.max([refined[i] for i in best], axis=0)
        scores = np.array([refined[i] @ q + refined[i] @ second for i in row[:12]])
        assert (np.diff(scores) <= 1e-6).all()


def distribution(rows):
    return rows / rows.sum(axis=1, keepdims=True)


def cas_by_loops(s, k1, k2, k3, k4, k5, links):
    """Return 1 - d of cluster-aware similarity diffusion, by sets, loops and Floyd-Warshall."""
    n, order = len(s), in_order(s)
    d = np.maximum(2 - 2 * s, 0)
    d = d / d.max(axis=1, keepdims=True)
    w = np.exp(-d / 0.3**2)

    def mutual(k):
        return [{j for j in order[i][:k] if i in order[j][:k]} for i in range(n)]

    confident, members, half = mutual(k1), mutual(k2 + 1), mutual(k2 // 2 + 1)
    candidates = []
    for own in members:
        kept = (half[g] for g in own if len(half[g] & own) > 2 / 3 * len(half[g]))
        candidates.append(own.union(*kept))
    W = np.zeros((n, n))
    for i in range(n):
        for j in order[i][1:k1]:
            W[i, j] = w[i, j] * (2 if j in confident[i] else 1)
    W = (W + W.T) / 2
    S = W / np.sqrt(np.outer(W.sum(axis=1), W.sum(axis=1)))
    F = W
    for _ in range(10):
        F = (F @ S + S @ F) / (2 * 1.23) + np.eye(n) * 0.23 / 1.23
    P = np.zeros((n, n))
    for i in range(n):
        P[i, order[i][1:k3]] = w[i, order[i][1:k3]]
    T = np.linalg.matrix_power(distribution(P), 2)
    V = np.zeros((n, n))
    for i in range(n):
        sure, unsure = sorted(confident[i]), sorted(candidates[i] - confident[i])
        everything = sorted(candidates[i])
        V[i, everything] = F[i, everything]
        if len(sure) > 1 and len(unsure) > 1:
            anchor = T[sure, sure].mean()
            t = np.zeros(n)
            t[sure] = anchor
            t[unsure] = np.minimum(T[np.ix_(unsure, sure)].mean(axis=1), anchor)
            f, t = F[i, everything], t[everything]
            level = anchor**2 * f.mean() - anchor * (f * t).mean()
            V[i, everything] = (f * anchor * t + level) / anchor**2
    V = distribution(V)
    V = np.array(
        [V[order[i][:k4]].mean(axis=0) + 2 * V[sorted(confident[i])].mean(axis=0) for i in range(n)]
    )
    V = distribution(V) @ distribution(V)
    for i in range(n):
        V[i, np.argsort(-V[i], kind="stable")[k5:]] = 0
    V = distribution(distribution(V) @ distribution(V))
    paths = np.full((n, n), 50.0)
    np.fill_diagonal(paths, 0)
    for i in range(n):
        for j in order[i][:links]:
            m = (V[i] + V[j]) / 2
            js = sum(v[v > 0] @ np.log2(v[v > 0] / m[v > 0]) for v in (V[i], V[j])) / 2
            paths[i, j] = paths[j, i] = js
    for k in range(n):
        paths = np.minimum(paths, paths[:, k, None] + paths[k])
    return 1 - 0.7 * paths - 0.3 * d


# The last one leaves clusters without a path between them, and single confident items.
@pytest.mark.parametrize(
    "settings",
    [(4, 8, 9, 3, 6, 5), (6, 15, 12, 4, 20, 12), (3, 4, 5, 2, 40, 3), (2, 2, 4, 1, 3, 2)],
)
def test_cas_equals_loops(data, settings):
    s, nq = together(data, np.float64)
    names = ("k1", "k2", "k3", "k4", "k5", "links")
    ids = cas.rank(*data, **dict(zip(names, settings, strict=True)))
    assert_ranked_by(cas_by_loops(s, *settings)[:nq, nq:], ids)


def test_cheb_gr_equals_loops(data):
    X = np.concatenate([data[1], data[0]]).astype(float)
    n, nq = len(X), len(data[1])
    sizes = set()
    for _ in range(2):
        d = np.array([[np.linalg.norm(x - y) for y in X] for x in X])
        S = np.zeros((n, n))
        for i in range(n):
            near = [j for j in range(n) if j == i or d[i, j] <= d[i].mean() - 1.2 * d[i].std()]
            sizes.add(len(near))
            S[i, near] = np.exp((1 - d[i, near] ** 2 / 2) / 0.1)
        L = S / np.sqrt(np.outer(S.sum(axis=1), S.sum(axis=0)))
        X = L @ X
        X /= np.linalg.norm(X, axis=1)[:, None]
    assert len(sizes) > 5
    assert_ranked_by(X[:nq] @ X[nq:].T, cheb_gr.rank(*data, lambda_=1.2, beta=0.1))


def test_c_crf_minimises_its_energy(data):
    gallery = data[0][2:].astype(float)
    s = np.maximum(gallery @ gallery.T, 0)
    scores, ids = c_crf.denoised(data[0][2:], 7, 0.4)
    assert (np.diff(scores, axis=1) <= 0).all()
    changed = 0
    for i, (row, found) in enumerate(zip(scores, ids, strict=True)):
        clique = in_order(s)[i][:7]
        assert set(found) == set(clique) - {i}
        p = np.array([s[j, clique] / s[j, clique].sum() for j in clique])
        h = np.array([[((np.sqrt(a) - np.sqrt(b)) ** 2).sum() / 2 for b in p] for a in p])
        w = np.exp(-h / h.mean())
        start = s[i, clique]

        def energy(t, w=w, start=start):
            pairs = 0.5 * 0.4 * (w * (t[:, None] - t) ** 2).sum()
            return ((t - start) ** 2).sum() + pairs

        # Not known from the lists is the value of the item itself, which has its own minimum.
        rest = np.array([row[found.tolist().index(j)] for j in clique[1:]])
        own = (start[0] + 0.4 * w[0, 1:] @ rest) / (1 + 0.4 * w[0, 1:].sum())
        best = np.concatenate([[own], rest])
        rng = np.random.default_rng(i)
        for _ in range(5):
            assert energy(best) < energy(best + 1e-3 * rng.standard_normal(7))
        changed += found.tolist() != clique[1:]
    assert changed > 0


def test_c_crf_of_unchanged_lists_is_diffusion(data):
    gallery, queries = data[0][2:], data[1]
    ids = c_crf.rank(gallery, queries, beta=0.0, clique=9, k=8)
    plain = diffusion.Reranker(affinity="cosine", k=8, alpha=0.99).fit(gallery)
    assert np.mean(ids == plain.search(queries, len(gallery))[1]) > 0.95
    assert (ids != c_crf.rank(gallery, queries, beta=1.0, clique=20, k=8)).any()


def lpmt_by_loops(s, k, k1, k2, links):
    """Return similarities and the weights of the graphs, by dense matrices."""
    n, order = len(s), in_order(s)
    d = np.array([(2 - 2 * row) / (2 - 2 * row).max() for row in s])
    graphs = []
    for size in (round(k / 2), k, 2 * k):
        W = np.zeros((n, n))
        for i in range(n):
            W[i, order[i][:size]] = np.exp(-d[i, order[i][:size]] / 0.09)
        W = (W + W.T) / 2
        graphs.append(W / np.sqrt(np.outer(W.sum(axis=1), W.sum(axis=1))))
    alpha, F = 1 / 1.23, np.eye(n)
    b = np.full(3, 1 / 3)
    for _ in range(3):
        S = sum(weight * graph for weight, graph in zip(b, graphs, strict=True))
        for _ in range(10):
            F = alpha / 2 * (F @ S + S @ F) + (1 - alpha) * np.eye(n)
        H = np.array([
            (np.trace(F.T @ (np.eye(n) - S) @ F) + np.trace(F @ (np.eye(n) - S) @ F.T)) / 2
            + 0.23 * np.linalg.norm(F - np.eye(n)) ** 2
            for S in graphs
        ])  # fmt: skip
        b = lpmt.simplex(-H / H.mean())
    near = in_order(F)
    V = np.zeros((n, n))
    for i in range(n):
        for j in near[i][:k1]:
            V[i, j] = F[i, j] * (i in near[j][:k1])
        V[i] /= V[i].sum()
    V = np.array([V[near[i][:k2]].mean(axis=0) for i in range(n)])
    paths = np.full((n, n), 50.0)
    np.fill_diagonal(paths, 0)
    for i in range(n):
        for j in order[i][:links]:
            paths[i, j] = paths[j, i] = (abs(V[i] - V[j]).sum() / 2) ** 2
    for m in range(n):
        paths = np.minimum(paths, paths[:, m, None] + paths[m])
    return 1 - 0.7 * paths - 0.3 * d, b


@pytest.mark.parametrize("settings", [(6, 12, 3, 9), (4, 5, 2, 5)])
def test_lpmt_equals_loops(data, settings):
    s, nq = together(data, np.float64)
    scores, b = lpmt_by_loops(s, *settings)
    ids = lpmt.rank(*data, **dict(zip(("k", "k1", "k2", "links"), settings, strict=True)))
    assert_ranked_by(scores[:nq, nq:], ids)
    np.testing.assert_allclose(b.sum(), 1)


def test_collaborative_diffusion_prefers_the_smoother_graph(rng):
    def graph(blocks, noise):
        W = np.kron(np.eye(blocks), np.ones((5, 5))) + noise * rng.random((5 * blocks,) * 2)
        W = W + W.T
        return sparse.csr_array(W / np.sqrt(np.outer(W.sum(axis=1), W.sum(axis=1))))

    # Two graphs that agree, and one of random weights.
    F, b = lpmt.collaborative([graph(4, 0.0), graph(4, 0.05), graph(4, 5.0)], 0.8)
    assert b[0] > b[2]
    assert b[1] > b[2]
    np.testing.assert_allclose(F, F.T)


def test_projection_to_the_simplex():
    np.testing.assert_allclose(lpmt.simplex(np.array([0.2, 0.3, 0.5])), [0.2, 0.3, 0.5])
    np.testing.assert_allclose(lpmt.simplex(np.array([2.0, 0.0, -5.0])), [1, 0, 0])
    rng = np.random.default_rng(0)
    for values in rng.standard_normal((20, 4)):
        point = lpmt.simplex(values)
        np.testing.assert_allclose(point.sum(), 1)
        assert point.min() >= 0
        others = rng.dirichlet(np.full(4, 0.5), 300)
        assert np.linalg.norm(point - values) <= np.linalg.norm(others - values, axis=1).min()


@pytest.mark.parametrize("rival", [c_crf, cas, cheb_gr, gnn, lpmt, rdp, superglobal])
def test_other_queries_matter_where_it_says_so(rival, data):
    gallery, queries = data
    # Three clusters have no items as near as the default cut of Cheb-GR.
    rank = partial(rival.rank, lambda_=1.0) if rival is cheb_gr else rival.rank
    alone = np.concatenate([rank(gallery, query[None]) for query in queries])
    assert (rank(gallery, queries) != alone).any() == rival.QUERIES_IN_GRAPH
