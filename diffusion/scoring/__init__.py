"""Scores and ranked lists: fusion of scores, ranking, matching of regions, centrality of nodes."""

from .centrality import Centrality, degree, katz
from .fusion import SCORES, Diffusion, Fusion, Score, make_score
from .ranking import rank

__all__ = [
    "SCORES",
    "Centrality",
    "Diffusion",
    "Fusion",
    "Score",
    "degree",
    "katz",
    "make_score",
    "rank",
]
