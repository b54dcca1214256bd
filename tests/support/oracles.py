"""Slow reference implementations in float64 that share no code with the library."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st


def similarity(Q, X, metric):
    Q, X = np.asarray(Q, float), np.asarray(X, float)
    if metric == "euclidean":
        return -((Q[:, None] - X[None]) ** 2).sum(-1)
    if metric == "cosine":
        Q = Q / np.maximum(np.linalg.norm(Q, axis=1, keepdims=True), 1e-300)
        X = X / np.maximum(np.linalg.norm(X, axis=1, keepdims=True), 1e-300)
    return Q @ X.T


def dense_graph(ids, weights):
    """Return A and W of neighbour lists, by loops: A_ij = min(w_i(j), w_j(i))."""
    n = len(ids)
    directed = np.zeros((n, n))
    for i in range(n):
        for j, w in zip(ids[i], weights[i], strict=True):
            if j >= 0 and j != i:
                directed[i, j] = w
    A = np.minimum(directed, directed.T)
    degree = A.sum(axis=1)
    scale = np.where(degree > 0, 1 / np.sqrt(np.where(degree > 0, degree, 1)), 0)
    return A, scale[:, None] * A * scale[None]


def dense_diffusion(W, y, alpha):
    """Return (1 - α) (I - α W)^-1 y for each row of y."""
    W = np.asarray(W, float)
    return (1 - alpha) * np.linalg.solve(np.eye(len(W)) - alpha * W, np.atleast_2d(y).T).T


def dense_function(W, transfer, y):
    """h(W) y for each row of y, by a full decomposition."""
    values, U = np.linalg.eigh(np.asarray(W, float))
    return (np.atleast_2d(y) @ U * transfer(np.clip(values, -1, 1))) @ U.T


def relative_error(x, expected):
    """The largest ||x - expected|| / ||expected|| of rows whose expected norm is not 0."""
    norm = np.linalg.norm(expected, axis=1)
    return (np.linalg.norm(x - expected, axis=1)[norm > 0] / norm[norm > 0]).max(initial=0)


def breadth_first_components(A):
    """Return the component label of each node, by breadth-first search."""
    label = [-1] * len(A)
    count = 0
    for start in range(len(A)):
        if label[start] < 0:
            queue = [start]
            label[start] = count
            while queue:
                for j in np.flatnonzero(A[queue.pop()]):
                    if label[j] < 0:
                        label[j] = count
                        queue.append(j)
            count += 1
    return label


def local_scale(scores, ids):
    """The twelfth highest score of one list, or the lowest of fewer; 0 for none."""
    real = sorted((s for s, j in zip(scores, ids, strict=True) if j >= 0), reverse=True)
    return np.float32(([0, *real] if len(real) < 12 else real[:12])[-1])


def scaled_score(score, scale, factor):
    """Return s - f r in single precision."""
    return np.float32(np.float64(score) - float(np.float32(factor)) * np.float64(scale))


def by_scaled_scores(scores, ids, scales, factor):
    """One list in descending order of s_j - f r_j: (scaled scores in single precision, order).

    `scales` holds r. Equal scores keep their order; what is after the last entry stays there.
    """
    scaled = scaled_score(scores, np.append(scales, 0)[ids], factor)
    scaled = np.where(ids >= 0, scaled, np.float32(-np.inf))
    order = np.argsort(-scaled, kind="stable")
    return scaled[order], order


def scaled_lists(scores, ids, factor):
    """Lists (n, k) by scaled scores: these scores, ids, and the local scales (n,)."""
    scales = np.array([local_scale(*row) for row in zip(scores, ids, strict=True)], np.float32)
    rows = [by_scaled_scores(s, j, scales, factor) for s, j in zip(scores, ids, strict=True)]
    ordered = [j[order] for j, (_, order) in zip(ids, rows, strict=True)]
    return np.array([scaled for scaled, _ in rows]), np.array(ordered), scales


def first_stage_evidence(scores, scaled):
    """e of the candidates of one query: 1 / (1 + z)², less the least of them.

    z is how far the scaled scores are below the highest of them, in units of the difference of the
    highest and the twelfth highest distinct score, or the lowest of fewer.
    """
    distinct = sorted({float(s) for s in scores}, reverse=True)
    unit = distinct[0] - distinct[:12][-1]
    z = (np.max(scaled) - np.asarray(scaled)) / unit if unit > 0 else np.zeros(len(scores))
    e = (1 + z) ** -2
    return e - e.min()


@st.composite
def neighbor_lists(draw, max_n=24, max_k=8):
    """Draw lists without self or repetition, with isolated nodes, components and ties."""
    n = draw(st.integers(1, max_n))
    k = draw(st.integers(1, max_k))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    groups = rng.integers(0, draw(st.integers(1, 4)), size=n)
    symmetric = rng.choice([0.25, 0.5, 1.0], (n, n)) * rng.random((n, n)) ** rng.integers(0, 2)
    symmetric = np.maximum(symmetric, symmetric.T)
    ids = np.full((n, k), -1, np.int32)
    weights = np.zeros((n, k), np.float32)
    for i in range(n):
        others = np.flatnonzero((groups == groups[i]) & (np.arange(n) != i))
        chosen = rng.permutation(others)[: rng.integers(0, k + 1)]
        ids[i, : len(chosen)] = chosen
        weights[i, : len(chosen)] = symmetric[i, chosen]
    return ids, weights
