"""Sizes of the timed problems, and the graphs, observations and systems that the solvers share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

import diffusion
from diffusion import IVF
from diffusion.affinity import PowerAffinity
from diffusion.graph import Graph

from ..data.collections import manifold

ALPHA, K = 0.99, 50
DIMENSION = 64  # of the vectors whose graphs the single solvers run on


@dataclass(frozen=True)
class Sizes:
    """How large the problems are; the defaults are those of the printed tables.

    Attributes
    ----------
    cold : tuple of str
        Solvers of the new processes whose first answers are timed.
    nodes, dimension, queries : int
        Of the collection for graph construction, contextual affinity and conjugate gradient.
    lists : tuple of int
        Nodes, dimension and scenes of the collections whose neighbour lists are approximated.
    warm : int
        Side of the cubic lattice on which the kernels are compiled.
    lattices, context_lattices : tuple of int
        Sides of the cubic lattices for memory and loading, and for the growth of the contextual
        affinity: 22 gives 10,648 nodes, 100 gives 1,000,000.
    context_nodes : tuple of int
        Nodes of the manifolds for the growth of the contextual affinity.
    copied, multiplied : int
        Values copied, and rows of the square matrix multiplied, to measure the machine.
    columns : tuple of int
        Nodes, size of a column, and columns timed by the loop to compare with.
    spectral, spectral_long : tuple of int
        Nodes and rank.
    limit : float
        Seconds that the long spectral comparison gives `eigsh`.
    local_nodes : tuple of int
    local_queries, exact_queries : int
        Queries timed with the local solver, and those compared with exact answers.
    whole_nodes : tuple of int
    whole_queries : int
        Items and queries of the whole calls.
    crossing_nodes, crossing_counts : tuple of int
        Nodes and numbers of observations for the choice of the solver.
    """

    cold: tuple[str, ...] = ("auto", "cg")
    nodes: int = 100_000
    dimension: int = 128
    queries: int = 64
    lists: tuple[int, int, int] = (100_000, 128, 2000)
    warm: int = 30
    lattices: tuple[int, ...] = (22, 100)
    context_lattices: tuple[int, ...] = (22, 46, 100)
    context_nodes: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    copied: int = 1 << 26
    multiplied: int = 4096
    columns: tuple[int, int, int] = (20_000, 1000, 120)
    spectral: tuple[int, int] = (20_000, 200)
    spectral_long: tuple[int, int] = (100_000, 1000)
    limit: float = 600.0
    local_nodes: tuple[int, ...] = (10_000, 1_000_000)
    local_queries: int = 60
    exact_queries: int = 10
    whole_nodes: tuple[int, ...] = (10_000, 1_000_000)
    whole_queries: int = 30
    crossing_nodes: tuple[int, ...] = (500, 1000, 2000, 10_000, 100_000)
    crossing_counts: tuple[int, ...] = (1, 16, 64)


def cells(n: int) -> int:
    """Return the number of cells of an inverted file of n items."""
    return max(64, 2 * int(n**0.5))


@lru_cache(maxsize=2)
def manifold_lists(n: int, nlist: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Return the neighbour lists of the points of a manifold, by an inverted file.

    Those of the last two calls are kept.
    """
    method = IVF(nlist=nlist, nprobe=12)
    scores, ids = diffusion.nearest_neighbors(manifold(n, DIMENSION), K, method=method)
    return scores, ids


def graph_of(scores: NDArray[np.float32], ids: NDArray[np.int32]) -> Graph:
    """Return the graph of neighbour lists with the cosine affinity."""
    return diffusion.Reranker(k=K, affinity="cosine").fit_neighbors(scores, ids).graph_


def observed_graph(n: int, queries: int) -> tuple[Graph, sparse.csr_array]:
    """Return the graph of a manifold, and observations of ten nodes each."""
    scores, ids = manifold_lists(n, cells(n))
    chosen = np.random.default_rng(1).choice(n, queries, replace=False)
    return graph_of(scores, ids), observations(scores[chosen, :10], ids[chosen, :10], n)


def observations(scores: NDArray[np.float32], ids: NDArray[np.integer], n: int) -> sparse.csr_array:
    """Return observations (m, n) from the first-stage scores and ids (m, k) of m queries."""
    rows = np.repeat(np.arange(len(ids)), ids.shape[1])
    weights = PowerAffinity(3.0).weights(scores).ravel().astype(np.float64)
    return sparse.csr_array((weights, (rows, ids.ravel())), shape=(len(ids), n))


def system(W: sparse.csr_array) -> sparse.csr_array:
    """Return I - α W, float32."""
    identity = sparse.eye_array(W.shape[0], dtype=np.float32, format="csr")
    return sparse.csr_array(identity - np.float32(ALPHA) * W)


def internal_adjacency(graph: Graph) -> sparse.csr_array:
    """Return W in the graph's internal node order, which is the faster one for scipy too."""
    return graph.matrix.csr()
