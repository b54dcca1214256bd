"""Graph diffusion and spectral re-ranking of nearest-neighbour search.

>>> import numpy as np, diffusion
>>> X = np.random.default_rng(0).standard_normal((100, 8))
>>> ranker = diffusion.Reranker(k=10).fit(X)
>>> scores, ids = ranker.search(X[:3] + 0.01, k=5)
>>> ids.shape
(3, 5)
"""

from ._version import __version__
from .affinity import Context
from .errors import ConvergenceWarning, DiffusionError
from .graph import Graph
from .neighbors import HNSW, IVF, Exact, NNDescent, nearest_neighbors
from .regional import RegionalReranker
from .reranker import Reranker, load
from .scoring import Fusion, degree, katz
from .scoring.regions import generalized_max_pooling, r_match
from .solvers import CG, Chebyshev, Columns, Hybrid, Local, Report, Solution, Spectral, Truncated
from .transfer import CustomTransfer, HeatKernel, RegularizedLaplacian, TruncatedRandomWalk

__all__ = [
    "CG",
    "HNSW",
    "IVF",
    "Chebyshev",
    "Columns",
    "Context",
    "ConvergenceWarning",
    "CustomTransfer",
    "DiffusionError",
    "Exact",
    "Fusion",
    "Graph",
    "HeatKernel",
    "Hybrid",
    "Local",
    "NNDescent",
    "RegionalReranker",
    "RegularizedLaplacian",
    "Report",
    "Reranker",
    "Solution",
    "Spectral",
    "Truncated",
    "TruncatedRandomWalk",
    "__version__",
    "degree",
    "generalized_max_pooling",
    "katz",
    "load",
    "nearest_neighbors",
    "r_match",
]
