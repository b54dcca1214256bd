"""Katz centrality of nodes beside the degree and beside a dense solve."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

import diffusion
from diffusion.graph import Graph

from ..table import Table
from .activations import Discovered

# Nodes of the dense solve that Katz centrality is compared with.
DENSE = 2000


def centrality(collections: Sequence[Discovered]) -> Table:
    """Compare Katz centrality with the degree and with a dense solve."""
    table = Table(
        "**Centrality of nodes**",
        (
            "graph",
            "nodes",
            "edges",
            "correlation of Katz with √degree",
            "residual of Katz",
            f"of {DENSE} nodes, largest difference from a dense solve",
        ),
        notes=[
            "Residual: ||1 - L g|| / ||1||. The difference is relative to the largest value; it is "
            "computed on the subgraph of nodes drawn at random."
        ],
    )
    for found in collections:
        for kind, discovery in (("paper's regions", found.paper), ("dense nodes", found.katz)):
            graph = discovery.graph_
            katz = diffusion.katz(graph, alpha=discovery.settings.alpha)
            root = np.sqrt(diffusion.degree(graph))
            table.rows.append(
                [
                    f"{found.seen.name}, {kind}",
                    graph.n_nodes,
                    graph.n_edges,
                    float(np.corrcoef(katz.values, root)[0, 1]),
                    float(katz.report.residual.max()),
                    difference(graph, discovery.settings.alpha, DENSE),
                ]
            )
    return table


def difference(graph: Graph, alpha: float, most: int) -> float:
    """Return the largest relative difference from a dense solve on at most `most` nodes."""
    n = graph.n_nodes
    nodes = np.random.default_rng(0).permutation(n)[:most]
    W = graph.W[nodes][:, nodes].toarray().astype(np.float64)
    L = (np.eye(len(nodes)) - alpha * W) / (1 - alpha)
    exact = np.linalg.solve(L, np.ones(len(nodes)))
    ours = diffusion.katz(graph, alpha=alpha, nodes=nodes).values
    return float(np.abs(ours - exact).max() / exact.max())
