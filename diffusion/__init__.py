"""Graph diffusion and spectral re-ranking of nearest-neighbour search.

Importing this package is cheap: each module is loaded when one of its names is first used.

>>> import numpy as np, diffusion
>>> X = np.random.default_rng(0).standard_normal((100, 8))
>>> ranker = diffusion.Reranker(k=10).fit(X)
>>> scores, ids = ranker.search(X[:3] + 0.01, k=5)
>>> ids.shape
(3, 5)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__
from .errors import ConvergenceWarning, DiffusionError

if TYPE_CHECKING:
    from . import metrics, plot
    from .affinity import Context
    from .baselines import expansion, reciprocal
    from .baselines.r_match import r_match
    from .compilation import warm_up
    from .explanation import Explanation
    from .graph import Graph
    from .joining import Joined, join
    from .neighbors import HNSW, IVF, Exact, NNDescent, nearest_neighbors
    from .regional import RegionalReranker
    from .reranker import Reranker, load
    from .scoring import Fusion, degree, katz
    from .scoring.regions import generalized_max_pooling
    from .solvers import (
        CG,
        Chebyshev,
        Columns,
        Hybrid,
        Local,
        Report,
        Solution,
        Spectral,
        Truncated,
    )
    from .transfer import CustomTransfer, HeatKernel, RegularizedLaplacian, TruncatedRandomWalk
    from .tuning import Tuning

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
    "Explanation",
    "Fusion",
    "Graph",
    "HeatKernel",
    "Hybrid",
    "Joined",
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
    "Tuning",
    "__version__",
    "degree",
    "expansion",
    "generalized_max_pooling",
    "join",
    "katz",
    "load",
    "metrics",
    "nearest_neighbors",
    "plot",
    "r_match",
    "reciprocal",
    "warm_up",
]

# The module that each name is imported from when it is first used.
_HOMES = {
    "CG": "solvers",
    "HNSW": "neighbors",
    "IVF": "neighbors",
    "Chebyshev": "solvers",
    "Columns": "solvers",
    "Context": "affinity",
    "CustomTransfer": "transfer",
    "Exact": "neighbors",
    "Explanation": "explanation",
    "Fusion": "scoring.fusion",
    "Graph": "graph",
    "HeatKernel": "transfer",
    "Hybrid": "solvers",
    "Joined": "joining",
    "Local": "solvers",
    "NNDescent": "neighbors",
    "RegionalReranker": "regional",
    "RegularizedLaplacian": "transfer",
    "Report": "solvers",
    "Reranker": "reranker",
    "Solution": "solvers",
    "Spectral": "solvers",
    "Truncated": "solvers",
    "TruncatedRandomWalk": "transfer",
    "Tuning": "tuning",
    "degree": "scoring.centrality",
    "generalized_max_pooling": "scoring.regions",
    "join": "joining",
    "katz": "scoring.centrality",
    "load": "reranker",
    "nearest_neighbors": "neighbors",
    "r_match": "baselines.r_match",
    "warm_up": "compilation",
}
# Modules that are attributes of the package without an import of their own.
_MODULES = {
    "affinity": "affinity",
    "expansion": "baselines.expansion",
    "graph": "graph",
    "metrics": "metrics",
    "neighbors": "neighbors",
    "plot": "plot",
    "reciprocal": "baselines.reciprocal",
    "solvers": "solvers",
    "storage": "storage",
    "transfer": "transfer",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value: Any = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    elif name in _MODULES:
        value = import_module(f".{_MODULES[name]}", __name__)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
