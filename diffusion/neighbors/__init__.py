"""Neighbour search: the search methods, and the index that finds nearest neighbours with them."""

from .index import NeighborIndex, SearchIndex, tidy_lists
from .lists import nearest_neighbors
from .methods import HNSW, IVF, METHODS, Auto, Exact, Method, NNDescent, check_metric, make_method

__all__ = [
    "HNSW",
    "IVF",
    "METHODS",
    "Auto",
    "Exact",
    "Method",
    "NNDescent",
    "NeighborIndex",
    "SearchIndex",
    "check_metric",
    "make_method",
    "nearest_neighbors",
    "tidy_lists",
]
