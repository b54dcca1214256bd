"""How deep a solver has to go for a ranking of which a filter leaves few items."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..graph import Graph
from ..kernels import ranking as kernels
from ..kernels.matrix import SparseRows

# Ranks beyond those that a filter leaves on average, and the factor of a second attempt.
_MARGIN, _MORE = 1.25, 4


def depth_for(k: int, allowed: NDArray[np.uint8], n: int) -> int:
    """Return how many of n items have to be ranked for k that a filter allows, on average.

    `allowed` is as `rank` takes it.
    """
    count = int(np.count_nonzero(allowed[:n])) if len(allowed) else n
    return k if count in (0, n) else max(k, min(n, int(_MARGIN * k * n / count)))


def too_shallow(
    x: SparseRows,
    fused: SparseRows,
    y: SparseRows,
    allowed: NDArray[np.uint8],
    graph: Graph,
    out_scores: NDArray[np.float32],
    depth: int,
) -> tuple[NDArray[np.int64], int]:
    """Return which filtered rankings need a deeper solution, and how deep.

    A solution to a depth is accurate for that many items. It suffices if the last item of a
    filtered list has such a place among all items, and if the list is full or has all allowed items
    of the components that the observation is in.

    Parameters
    ----------
    x : SparseRows
        Diffused scores of m queries.
    fused : SparseRows
        The scores that items are ranked by.
    y : SparseRows
        Observations.
    allowed : ndarray, shape (n + u,), uint8
    graph : Graph
    out_scores : ndarray, shape (m, k), float32
        Scores of the filtered lists.
    depth : int
        That of the solution.
    """
    m, k = out_scores.shape
    graph.contents.check()
    components = graph.components
    counts = np.bincount(components[allowed[: graph.n_nodes] != 0], minlength=graph.n_components)
    filled = np.count_nonzero(out_scores > 0, axis=1)
    ends = np.take_along_axis(out_scores, np.maximum(filled - 1, 0)[:, None], axis=1)[:, 0]
    last = np.where(filled > 0, ends, np.float32(np.inf))
    reached, places = np.empty(m, np.int64), np.empty(m, np.int64)
    kernels.depth_of_filtered(x, fused, allowed, last, reached, places)
    indptr, ids, _ = y.packed()
    started = np.repeat(np.arange(m), np.diff(indptr)) * graph.n_components + components[ids]
    row, component = np.divmod(np.unique(started), graph.n_components)
    reachable = np.bincount(row, counts[component], minlength=m)
    wanted = min(k, int(np.count_nonzero(allowed)))
    shallow = (places > depth) | ((filled < wanted) & (reached < reachable))
    rows = np.flatnonzero(shallow)
    deeper = max(_MORE * depth, int(_MARGIN * places[rows].max(initial=0)))
    return rows, min(graph.n_nodes, deeper)
