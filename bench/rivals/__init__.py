"""Other people's re-ranking, written from their papers: baselines, each at its published settings.

A module a method. Each has `rank(gallery, queries)`, from L2-normalised vectors (n, d) and (nq, d)
to the ids (nq, n) of the full ranking, and `QUERIES_IN_GRAPH`, whether a query's ranking depends on
the other queries that are asked with it. None is meant for more than the benchmark's collections:
those with queries in the graph hold several (nq + n)² matrices.
"""

from . import cas, gnn, rdp, superglobal

__all__ = ["cas", "gnn", "rdp", "superglobal"]
