"""The neighbour graph: its construction and order, and a description of it in numbers."""

from .diagnosis import Diagnosis, diagnose
from .graph import Graph

__all__ = ["Diagnosis", "Graph", "diagnose"]
