"""Neighbour search: the methods, and the index that lists each item's nearest neighbours."""

from .index import (
    HNSW,
    IVF,
    METHODS,
    Exact,
    Method,
    NeighborIndex,
    NNDescent,
    make_method,
    nearest_neighbors,
)

__all__ = [
    "HNSW",
    "IVF",
    "METHODS",
    "Exact",
    "Method",
    "NNDescent",
    "NeighborIndex",
    "make_method",
    "nearest_neighbors",
]
