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


def evidence(scores, ids, n):
    """Return 1 / (1 + z)² of an item's neighbours among all items, 0 for the others."""
    found = np.zeros(n)
    listed = ids >= 0
    if listed.any():
        row = scores[listed].astype(np.float64)
        distinct = np.unique(row)[::-1][:12]
        below, unit = distinct[0] - row, distinct[0] - distinct[-1]
        z = np.divide(below, unit, out=np.zeros_like(row), where=below > 0)
        found[ids[listed]] = 1 / ((1 + z) * (1 + z))
    return found


def observation(J, scores, ids, query_k):
    """Return y (n,) of the contextual affinity: the largest ((J + t) / 2)², of J above 0."""
    S = np.where(J > 0, (J + evidence(scores, ids, len(J))) / 2, 0)
    y = np.zeros(len(J))
    best = np.argsort(-S, kind="stable")[:query_k]
    y[best] = S[best] ** 2
    return y


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
