"""Graphs, observations and transfer functions that tests of diffusion share."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from diffusion.change import Change
from diffusion.graph.graph import Graph
from diffusion.transfer import CustomTransfer, HeatKernel, RegularizedLaplacian, TruncatedRandomWalk

ALPHAS = st.sampled_from([0.0, 0.5, 0.9, 0.99, 0.999])

TRANSFERS = [
    RegularizedLaplacian(0.99),
    HeatKernel(5.0),
    TruncatedRandomWalk(0.9, 5),
    TruncatedRandomWalk(0.9, 6),
    CustomTransfer(lambda u: np.cos(3 * u)),
]


def random_observations(graph, m, seed=0, *, signed=False):
    """Rows in which a third of the nodes are observed."""
    rng = np.random.default_rng(seed)
    y = rng.random((m, graph.n_nodes)) * (rng.random((m, graph.n_nodes)) < 0.3)
    return y * rng.choice([-1, 1], y.shape) if signed else y


def lists_of(A):
    """Neighbour lists of the graph whose adjacency is A."""
    k = int((A > 0).sum(axis=1).max())
    ids = np.argsort(-A, axis=1, kind="stable")[:, :k].astype(np.int32)
    weights = np.take_along_axis(A, ids, axis=1).astype(np.float32)
    ids[weights == 0] = -1
    return ids, weights


def symmetric_graph(A):
    """The graph whose adjacency is A."""
    return Graph.from_neighbors(*lists_of(A))


def scattered(starts, stops, *data, seed=0):
    """The same rows in another order and with gaps between them, which hold wrong values."""
    rng = np.random.default_rng(seed)
    counts, gaps = stops - starts, rng.integers(0, 4, len(starts) + 1)
    order = rng.permutation(len(starts))
    begin = np.empty(len(starts), np.int64)
    begin[order] = np.cumsum(counts[order]) - counts[order] + np.cumsum(gaps[:-1])
    total = int(counts.sum() + gaps.sum())
    moved = [np.full((total, *array.shape[1:]), _wrong(array.dtype), array.dtype) for array in data]
    for row in range(len(starts)):
        place = slice(begin[row], begin[row] + counts[row])
        for array, out in zip(data, moved, strict=True):
            out[place] = array[starts[row] : stops[row]]
    return begin, begin + counts, *moved


def _wrong(dtype):
    return np.nan if dtype.kind == "f" else np.iinfo(dtype).max


def with_gaps(graph, seed=0):
    """The same graph, its rows scattered."""
    names = ("starts", "stops", "indices", "weights")
    return replace(graph, **dict(zip(names, scattered(*graph.matrix, seed=seed), strict=True)))


def ring(n):
    step = np.eye(n)[:, np.r_[1:n, 0]]
    return step + step.T


def star(n, weights=1.0):
    """Node 0 joined to all others."""
    A = np.zeros((n, n))
    A[0, 1:] = A[1:, 0] = weights
    return A


def complete(n):
    return np.ones((n, n)) - np.eye(n)


def copies(A, count):
    return np.kron(np.eye(count), A)


def random_block(n, seed, k=8):
    """A connected random geometric graph, dense."""
    x = np.random.default_rng(seed).random((n, 2))
    distance = np.linalg.norm(x[:, None] - x[None], axis=2)
    near = np.argsort(distance, axis=1)[:, 1 : k + 1]
    A = np.zeros((n, n))
    np.put_along_axis(A, near, 1.0, axis=1)
    return np.maximum(np.maximum(A, A.T) * np.exp(-distance), ring(n) * 0.5)


def mixed_adjacency():
    """Two large components, a small one and an isolated node, the ids of all shuffled."""
    n = 90 + 70 + 5 + 1
    A = np.zeros((n, n))
    A[:90, :90] = random_block(90, 3)
    A[90:160, 90:160] = random_block(70, 4)
    A[160:165, 160:165] = star(5)
    names = np.random.default_rng(0).permutation(n)
    return A[np.ix_(names, names)]


def mixed_graph():
    return symmetric_graph(mixed_adjacency())


def chain_and_isolated():
    """Two nodes joined, W = [[0, 1], [1, 0]], and a third by itself."""
    ids = np.array([[1], [0], [-1]], np.int32)
    return Graph.from_neighbors(ids, np.array([[1], [1], [0]], np.float32))


def touched_rows(before, after, change):
    """The nodes of `after` whose rows of W are not those of `before`, renumbered."""
    kept = np.flatnonzero(change.source >= 0)
    expected = np.zeros((change.after, change.after))
    source = change.source[kept]
    expected[np.ix_(kept, kept)] = before.W.toarray()[np.ix_(source, source)]
    lost = np.zeros(change.after, bool)  # whose neighbours were removed
    lost[kept] = before.W.toarray()[np.ix_(source, change.removed)].any(axis=1)
    return lost | (after.W.toarray() != expected).any(axis=1) | (change.source < 0)


def updates(A, seed=0, count=9):
    """Graphs with one change each: (before, after, change, touched).

    `count` of the nodes of the adjacency A are removed, or were added.
    """
    n = len(A)
    removal = Change.removal(n, np.random.default_rng(seed).choice(n, count, replace=False))
    part, whole = symmetric_graph(A[np.ix_(removal.source, removal.source)]), symmetric_graph(A)
    names = np.concatenate([removal.source, removal.removed])
    renamed, addition = symmetric_graph(A[np.ix_(names, names)]), Change.addition(n - count, count)
    for before, after, change in ((whole, part, removal), (part, renamed, addition)):
        yield before, after, change, touched_rows(before, after, change)
