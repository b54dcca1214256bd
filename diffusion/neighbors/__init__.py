"""Neighbour search: the search methods, and the index that finds nearest neighbours with them."""

from .index import NeighborIndex, nearest_neighbors, tidy_lists
from .methods import HNSW, IVF, METHODS, Exact, Method, NNDescent, check_metric, make_method

__all__ = [
    "HNSW",
    "IVF",
    "METHODS",
    "Exact",
    "Method",
    "NNDescent",
    "NeighborIndex",
    "check_metric",
    "make_method",
    "nearest_neighbors",
    "tidy_lists",
]
