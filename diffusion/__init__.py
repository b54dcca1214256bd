"""Graph diffusion and spectral re-ranking of nearest-neighbour search.

>>> import numpy as np, diffusion
>>> X = np.random.default_rng(0).standard_normal((100, 8))
>>> ranker = diffusion.Reranker(k=10).fit(X)
>>> scores, ids = ranker.search(X[:3] + 0.01, k=5)
>>> ids.shape
(3, 5)
"""

from ._version import __version__
from .errors import ConvergenceWarning, DiffusionError
from .graph import Graph
from .neighbors import HNSW, IVF, Exact, NNDescent, nearest_neighbors
from .rerank import Reranker, load
from .solvers import CG, Report, Solution
from .transfer import RegularizedLaplacian

__all__ = [
    "CG",
    "HNSW",
    "IVF",
    "ConvergenceWarning",
    "DiffusionError",
    "Exact",
    "Graph",
    "NNDescent",
    "RegularizedLaplacian",
    "Report",
    "Reranker",
    "Solution",
    "__version__",
    "load",
    "nearest_neighbors",
]
